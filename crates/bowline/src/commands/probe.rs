//! `bowline probe`: one connection or one look-up, for `bowline check` to run in a pod, on a node or outside. Hidden.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

/// Flags of `bowline probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    #[command(subcommand)]
    what: What,
    /// How long to wait, in milliseconds
    #[arg(long, global = true, default_value_t = 1500)]
    timeout_ms: u64,
}

#[derive(Debug, Subcommand)]
enum What {
    /// An HTTP request over TCP: prints the page
    Tcp {
        /// Address and port
        to: SocketAddr,
    },
    /// A datagram: prints the answer
    Udp {
        /// Address and port
        to: SocketAddr,
    },
    /// A look-up by the resolver of the place: prints the addresses
    Name {
        /// The name
        name: String,
    },
}

/// Exit status: refused, as opposed to unanswered (1).
const REFUSED: u8 = 4;

/// Runs the command.
pub(crate) fn run(args: &ProbeArgs) -> ExitCode {
    let limit = Duration::from_millis(args.timeout_ms);
    let outcome = match &args.what {
        What::Tcp { to } => tcp(*to, limit),
        What::Udp { to } => udp(*to, limit),
        What::Name { name } => look_up(name),
    };
    match outcome {
        Ok(answer) => {
            let _ = writeln!(io::stdout(), "{}", answer.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(if error.kind() == io::ErrorKind::ConnectionRefused { REFUSED } else { 1 })
        }
    }
}

fn tcp(to: SocketAddr, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(page))
}

fn udp(to: SocketAddr, limit: Duration) -> io::Result<String> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(to)?;
    socket.send(b"bowline")?;
    let mut buffer = [0_u8; 2048];
    let got = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..got).unwrap_or_default()).into_owned())
}

fn look_up(name: &str) -> io::Result<String> {
    let found: Vec<String> = (name, 0).to_socket_addrs()?.map(|a| a.ip().to_string()).collect();
    Ok(found.join("\n"))
}

//! The built-in server that stands in for a container whose program the machine lacks.
//!
//! On TCP: HTTP/1.1 on any path, with a plain text reply that says who answers and whom it sees; lines that are not HTTP
//! come back as they are. On UDP: the same facts, then the payload. Each request is one line on standard output.
//!
//! Invariant: the client's address in a reply is the one of the socket, never one that the client claims.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The hidden command's name.
pub(crate) const COMMAND: &str = "lab-echo";

/// Longest line and body that are read.
const MOST_BYTES: u64 = 1 << 20;

/// A port that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// HTTP or lines.
    Tcp(u16),
    /// Datagrams.
    Udp(u16),
}

/// Who answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Identity {
    /// Pod or host.
    pub(crate) name: String,
    /// The pod's namespace, empty for a host.
    pub(crate) namespace: String,
    /// The pod's node, empty for a host outside.
    pub(crate) node: String,
}

/// Reads `tcp/80,udp/53`.
pub(crate) fn parse_ports(text: &str) -> Result<Vec<Port>> {
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(|item| match item.split_once('/') {
            Some(("tcp", port)) => Ok(Port::Tcp(port.parse().with_context(|| format!("port {item:?}"))?)),
            Some(("udp", port)) => Ok(Port::Udp(port.parse().with_context(|| format!("port {item:?}"))?)),
            _ => bail!("{item:?} is not a port: write tcp/80 or udp/53"),
        })
        .collect()
}

/// Serves until the process ends. Calls `ready` when all sockets are open.
pub(crate) async fn serve(identity: Identity, ports: &[Port], udp_addresses: &[IpAddr], ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let identity = Arc::new(identity);
    for port in ports {
        match *port {
            Port::Tcp(port) => {
                let listener = listen(port).with_context(|| format!("listen on tcp/{port}"))?;
                tokio::spawn(accept(listener, Arc::clone(&identity)));
            }
            Port::Udp(port) => {
                for socket in bind(port, udp_addresses).with_context(|| format!("listen on udp/{port}"))? {
                    tokio::spawn(answer_datagrams(socket, Arc::clone(&identity)));
                }
            }
        }
    }
    ready()?;
    std::future::pending().await
}

/// A socket address without the form that IPv4 takes on a socket for both families.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A listener for both families, or for IPv4 where there is no IPv6.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    let socket = open(socket2::Type::STREAM, None, port)?;
    socket.listen(1024)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// Datagram sockets: one for everything, or one for each address, so that replies leave from the address asked.
pub(crate) fn bind(port: u16, addresses: &[IpAddr]) -> Result<Vec<UdpSocket>> {
    let places: Vec<Option<IpAddr>> = if addresses.is_empty() { vec![None] } else { addresses.iter().copied().map(Some).collect() };
    places.into_iter().map(|place| Ok(UdpSocket::from_std(open(socket2::Type::DGRAM, place, port)?.into())?)).collect()
}

fn open(kind: socket2::Type, address: Option<IpAddr>, port: u16) -> Result<socket2::Socket> {
    let attempt = |address: IpAddr| -> std::io::Result<socket2::Socket> {
        let at = SocketAddr::new(address, port);
        let socket = socket2::Socket::new(socket2::Domain::for_address(at), kind, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.is_unspecified())?;
        }
        if kind == socket2::Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        Ok(socket)
    };
    let both = match address {
        Some(address) => return Ok(attempt(address)?),
        None => attempt(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    Ok(both.or_else(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => attempt(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        _ => Err(error),
    })?)
}

fn log(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // A log that nobody reads any more must not stop the server.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

async fn accept(listener: TcpListener, identity: Arc<Identity>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let identity = Arc::clone(&identity);
                tokio::spawn(async move {
                    // A client that goes away in the middle is no event.
                    let _ = converse(stream, plain(client), &identity).await;
                });
            }
            // Out of descriptors, for one: give others time to go.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, identity: &Identity) -> Result<()> {
    stream.set_nodelay(true)?;
    let server = plain(stream.local_addr()?);
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        if (&mut read).take(MOST_BYTES).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let Some(request) = http_request(&line) else {
            log(format_args!("{client} tcp/{} line of {} bytes", server.port(), line.len()));
            write.write_all(&line).await?;
            continue;
        };
        let headers = read_headers(&mut read).await?;
        if headers.expects_continue {
            write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut body = (&mut read).take(headers.body_bytes.min(MOST_BYTES));
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        let close = headers.close || headers.body_bytes > MOST_BYTES || request.ends_with("HTTP/1.0");
        log(format_args!("{client} \"{request}\" 200"));
        write.write_all(&http_reply(identity, client, server, &request, close)).await?;
        if close {
            return Ok(());
        }
    }
}

/// The request line, if this is one.
fn http_request(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let mut words = text.split(' ');
    let method = words.next()?;
    let _target = words.next()?;
    let version = words.next()?;
    let good = !method.is_empty()
        && method.bytes().all(|byte| byte.is_ascii_uppercase())
        && version.starts_with("HTTP/1.")
        && words.next().is_none();
    good.then(|| text.to_owned())
}

#[derive(Default)]
struct Headers {
    body_bytes: u64,
    close: bool,
    expects_continue: bool,
}

async fn read_headers(read: &mut (impl AsyncBufReadExt + Unpin)) -> Result<Headers> {
    let mut headers = Headers::default();
    loop {
        let mut line = String::new();
        if read.take(MOST_BYTES).read_line(&mut line).await? == 0 || line.trim_end().is_empty() {
            return Ok(headers);
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => headers.body_bytes = value.parse().context("Content-Length")?,
            "connection" => headers.close = value.eq_ignore_ascii_case("close"),
            "expect" => headers.expects_continue = value.eq_ignore_ascii_case("100-continue"),
            _ => {}
        }
    }
}

fn http_reply(identity: &Identity, client: SocketAddr, server: SocketAddr, request: &str, close: bool) -> Vec<u8> {
    let Identity { name, namespace, node } = identity;
    let body = format!("pod: {name}\nnamespace: {namespace}\nnode: {node}\nclient: {client}\nserver: {server}\nrequest: {request}\n");
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: bowline-echo\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.len()
    );
    let sent_body = if request.starts_with("HEAD ") { "" } else { &body };
    format!("{head}{sent_body}").into_bytes()
}

async fn answer_datagrams(socket: UdpSocket, identity: Arc<Identity>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // Errors here are those of earlier datagrams (unreachable clients); the socket lives on.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let client = plain(from);
        log(format_args!("{client} udp {length} bytes"));
        let mut reply = format!("pod {} client {client}\n", identity.name).into_bytes();
        reply.extend_from_slice(buffer.get(..length).unwrap_or_default());
        let _ = socket.send_to(&reply, from).await;
    }
}

/// The hidden command: `lab-echo PORTS`, identity from the environment of a pod, readiness on standard input.
pub(crate) fn run(ports: &str) -> Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let identity =
        Identity { name: variable("BOWLINE_LAB_POD"), namespace: variable("BOWLINE_LAB_NAMESPACE"), node: variable("BOWLINE_LAB_NODE") };
    let ports = parse_ports(ports)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(identity, &ports, &[], || {
        let _ = crate::enter::notify(crate::enter::LISTENING);
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn ports_are_read() {
        assert_eq!(parse_ports("tcp/80,udp/53").unwrap(), [Port::Tcp(80), Port::Udp(53)]);
        for bad in ["80", "sctp/1", "tcp/x", "tcp/70000"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_http_is_taken_for_http() {
        assert!(http_request(b"GET / HTTP/1.1\r\n").is_some());
        for line in [&b"hello\n"[..], b"GET /\n", b"get / HTTP/1.1\n", b"GET / HTTP/1.1 x\n", b"\xff\n"] {
            assert!(http_request(line).is_none());
        }
    }

    async fn pair() -> (TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = Identity { name: "web".into(), namespace: "shop".into(), node: "n1".into() };
        tokio::spawn(accept(listener, Arc::new(identity)));
        let stream = TcpStream::connect(address).await.unwrap();
        let local = stream.local_addr().unwrap();
        (stream, local)
    }

    #[tokio::test]
    async fn a_connection_carries_requests_and_lines() {
        let (stream, local) = pair().await;
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"ping\n").await.unwrap();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), "ping");
        for _ in 0..2 {
            write.write_all(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
            let mut seen = Vec::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                let last = line.starts_with("request:");
                seen.push(line);
                if last {
                    break;
                }
            }
            assert_eq!(seen[0], "HTTP/1.1 200 OK");
            assert!(seen.contains(&"pod: web".to_owned()));
            assert!(seen.contains(&format!("client: {local}")));
            assert_eq!(seen.last().unwrap(), "request: POST /x HTTP/1.1");
        }
    }

    #[tokio::test]
    async fn a_datagram_comes_back_with_its_sender() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        tokio::spawn(answer_datagrams(socket, Arc::new(Identity { name: "web".into(), ..Identity::default() })));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"hi", server).await.unwrap();
        let mut buffer = [0; 100];
        let (length, _) = client.recv_from(&mut buffer).await.unwrap();
        let expected = format!("pod web client {}\nhi", client.local_addr().unwrap());
        assert_eq!(&buffer[..length], expected.as_bytes());
    }
}

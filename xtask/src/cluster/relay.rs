//! From this machine's loopback to the API server in n1's network.
//!
//! The socket is opened out here and handed over as standard input; the process that accepts on it is one of the
//! lab's, in n1's network namespace. So the machine needs no link to the lab, and the relay ends with it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cluster::component;
use crate::cluster::lab::Lab;
use crate::cluster::place::Place;

/// A listening socket on this machine's loopback, and the URL of a server behind it.
pub(crate) fn door() -> Result<(OwnedFd, String)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
    let url = format!("https://{}", listener.local_addr()?);
    Ok((OwnedFd::from(listener), url))
}

/// The copy of this program that runs as the relay: nodes see the file system as it was when they were made.
pub(crate) fn copy_program(place: &Place) -> Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    fs::copy(&own, place.relay()).with_context(|| format!("copy {} to {}", own.display(), place.relay().display())).map(|_| ())
}

/// Starts the relay in a node.
pub(crate) fn start(lab: &Lab, place: &Place, node: &str, listener: OwnedFd, port: u16) -> Result<()> {
    let log = fs::File::create(place.log("relay"))?;
    let program = place.relay().display().to_string();
    let mut command = lab.on_node(node, &["setsid", "--fork", &program, "cluster", "relay", &port.to_string()]);
    command.stdin(Stdio::from(listener)).stdout(log.try_clone()?).stderr(log);
    let status = command.status().context("start the relay")?;
    if !status.success() {
        bail!("the relay to the API server could not be started: {status}\n{}", component::last_lines(&place.log("relay"), 5));
    }
    Ok(())
}

/// Accepts on standard input and passes bytes to `port` of this network namespace's loopback, for ever.
pub(crate) fn run(port: u16) -> Result<bool> {
    let listener = TcpListener::from(rustix::io::dup(io::stdin()).context("standard input")?);
    loop {
        let near = match listener.accept() {
            Ok((near, _)) => near,
            // The connection was gone before it was accepted, or descriptors are short for now.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(error).context("standard input is no listening socket");
            }
            Err(_) => continue,
        };
        std::thread::spawn(move || {
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|far| both_ways(near, far));
        });
    }
}

/// Copies both ways until both ends have closed. One direction may end long before the other.
fn both_ways(near: TcpStream, far: TcpStream) -> io::Result<()> {
    let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
    let back = std::thread::spawn(move || one_way(far_too, near_too));
    one_way(near, far);
    let _ = back.join();
    Ok(())
}

fn one_way(mut from: TcpStream, mut to: TcpStream) {
    let ended = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
    if ended.is_err() {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn one_end_may_close_before_the_other_answers() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (door, server) = (listen(), listen());
        let mut client = TcpStream::connect(door.local_addr().unwrap()).unwrap();
        let near = door.accept().unwrap().0;
        let far = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let relay = std::thread::spawn(move || both_ways(near, far));
        let mut served = server.accept().unwrap().0;

        client.write_all(b"ask").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        served.read_to_string(&mut heard).unwrap();
        served.write_all(b"answer").unwrap();
        drop(served);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((heard.as_str(), answer.as_str()), ("ask", "answer"));
        relay.join().unwrap().unwrap();
    }
}

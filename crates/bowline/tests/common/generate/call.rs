//! Asks who serves, each time from a new socket, and whom the socket says that it speaks to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::NAME;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Calls so often, by `tcp` or `udp`.
pub(super) fn run(protocol: &str, count: usize, target: SocketAddr) -> Result<()> {
    let (mut by, mut peers) = (BTreeMap::<String, u64>::new(), BTreeSet::new());
    for number in 1..=count {
        let (name, peer) = match protocol {
            "tcp" => by_tcp(target),
            "udp" => by_udp(target),
            other => bail!("no such protocol: {other}"),
        }
        .with_context(|| format!("call {number} of {target} by {protocol}"))?;
        *by.entry(name).or_default() += 1;
        peers.insert(peer.to_string());
    }
    super::say(&json!({ "by": by, "peers": peers }).to_string())
}

fn by_tcp(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[NAME])?;
    let mut name = String::new();
    let peer = stream.peer_addr()?;
    stream.read_to_string(&mut name)?;
    Ok((name, peer))
}

fn by_udp(target: SocketAddr) -> Result<(String, SocketAddr)> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target)?;
    socket.send(b"call 1")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).context("no answer")?;
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    Ok((text.split(' ').next().unwrap_or_default().to_owned(), socket.peer_addr()?))
}

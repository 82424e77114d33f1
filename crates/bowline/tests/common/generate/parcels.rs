//! Datagrams of any size from one socket that is never connected, and whether they come back whole.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line is `TAG BYTES`; its answer who answered, from which address, and whether with all of it; or nothing, where nobody did.
pub(super) fn run(target: SocketAddr) -> Result<()> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).context("a socket")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; 1 << 16];
    let mut number = 0_u64;
    super::converse(|line| {
        let (tag, bytes) = line.split_once(' ').context("a tag and a size")?;
        number += 1;
        let mut rest = format!("{number} ");
        let fill = bytes.parse::<usize>()?.saturating_sub(tag.len() + 1 + rest.len());
        rest.push_str(&"x".repeat(fill));
        socket.send_to(format!("{tag} {rest}").as_bytes(), target).with_context(|| target.to_string())?;
        loop {
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(json!(null)),
                Err(error) => return Err(error.into()),
            };
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            let (name, answer) = text.split_once(' ').context("not an answer")?;
            // One to an earlier datagram came late.
            if answer.starts_with(&format!("{number} ")) {
                return Ok(json!({"by": name, "from": from.to_string(), "whole": answer == rest}));
            }
        }
    })
}

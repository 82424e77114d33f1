//! Datagrams from one socket that is never connected: who answered, and from which address the answers seem to come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends so many, each after the answer to the one before.
pub(super) fn run(tag: &str, count: usize, target: SocketAddr) -> Result<()> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).context("a socket")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut by, mut from) = (BTreeMap::<String, u64>::new(), BTreeSet::new());
    let mut buffer = [0; 512];
    for number in 1..=count {
        socket.send_to(format!("{tag} {number}").as_bytes(), target).with_context(|| target.to_string())?;
        let (length, sender) = socket.recv_from(&mut buffer).with_context(|| format!("no answer to datagram {number}"))?;
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        *by.entry(text.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        from.insert(sender.to_string());
    }
    super::say(&json!({ "by": by, "from": from }).to_string())
}

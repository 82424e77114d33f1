//! A connection that stays, and whom its socket says that it speaks to.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::json;

pub(super) fn run(target: SocketAddr) -> Result<()> {
    let stream = super::stream::connect(target)?;
    super::converse(|_| Ok(json!(stream.peer_addr()?.to_string())))?;
    super::say(&json!(stream.peer_addr()?.to_string()).to_string())
}

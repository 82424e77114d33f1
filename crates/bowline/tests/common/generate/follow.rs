//! A connection on which only the server talks; what comes, and when the last of it came.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{MESSAGE_BYTES, PUSH};

struct Seen {
    messages: u64,
    last: Instant,
    ended: Option<String>,
}

pub(super) fn run(target: SocketAddr) -> Result<()> {
    let mut stream = super::stream::connect(target)?;
    stream.write_all(&[PUSH])?;
    let mut message = [0; MESSAGE_BYTES];
    stream.read_exact(&mut message)?;
    let port = stream.local_addr()?.port();
    let seen = Arc::new(Mutex::new(Seen { messages: 1, last: Instant::now(), ended: None }));
    let shared = seen.clone();
    std::thread::spawn(move || {
        loop {
            let got = stream.read_exact(&mut message);
            let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
            match got {
                Ok(()) => (seen.messages, seen.last) = (seen.messages + 1, Instant::now()),
                Err(error) => {
                    seen.ended = Some(error.to_string());
                    return;
                }
            }
        }
    });
    let report = || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "messages": seen.messages, "ended": seen.ended, "port": port,
            "sinceMs": u64::try_from(seen.last.elapsed().as_millis()).unwrap_or(u64::MAX),
        })
    };
    super::converse(|_| Ok(report()))?;
    super::say(&report().to_string())
}

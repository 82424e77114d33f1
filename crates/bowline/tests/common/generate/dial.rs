//! Short TCP connections one after the other, each with a request, ended in order and by a reset in turn.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ECHO, MESSAGE_BYTES};

/// Time between two connections.
const PAUSE: Duration = Duration::from_millis(2);

/// No answer within this is a failure, unless somebody allows more.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Seen {
    opened: u64,
    failed: u64,
    first_failure: Option<String>,
    last: Option<Instant>,
}

pub(super) fn run(targets: &[SocketAddr]) -> Result<()> {
    let (all, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
    let mut threads = Vec::new();
    for target in targets.iter().copied() {
        // A server that has just been started may not listen yet.
        drop(super::stream::connect(target)?);
        let (seen, stop) = (all.clone(), stop.clone());
        threads.push(std::thread::spawn(move || {
            let mut number = 0_u128;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let outcome = once(target, number);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(()) => (seen.opened, seen.last) = (seen.opened + 1, Some(Instant::now())),
                    Err(error) => {
                        seen.failed += 1;
                        seen.first_failure.get_or_insert_with(|| format!("{target}: {error:#}"));
                    }
                }
                drop(seen);
                std::thread::sleep(PAUSE);
            }
        }));
    }
    let report = || -> Value {
        let seen = all.lock().unwrap_or_else(PoisonError::into_inner);
        let since = seen.last.map(|last| u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX));
        json!({"opened": seen.opened, "failed": seen.failed, "firstFailure": seen.first_failure, "sinceMs": since})
    };
    super::converse(|_| Ok(report()))?;
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    super::say(&report().to_string())
}

fn once(target: SocketAddr, number: u128) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[ECHO])?;
    let (sent, mut answer) = (number.to_be_bytes(), [0; MESSAGE_BYTES]);
    stream.write_all(&sent).context("request")?;
    stream.read_exact(&mut answer).context("answer")?;
    ensure!(answer == sent, "another answer than the request");
    if number.is_multiple_of(2) {
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context("linger")?;
    }
    Ok(())
}

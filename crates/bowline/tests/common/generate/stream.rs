//! Long-lived TCP connections with a request on each every 50 ms, or as often as is said; none is ever made anew, so that the first break is seen.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{ECHO, MESSAGE_BYTES};

/// Time between two requests on a connection where nothing else is said.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// No answer within this is a break: a lost packet is long repeated by then.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    slowest_ms: AtomicU64,
    broken: Mutex<Vec<String>>,
    stop: AtomicBool,
}

impl Seen {
    fn report(&self) -> Value {
        json!({
            "requests": self.requests.load(Ordering::Relaxed),
            "slowestMs": self.slowest_ms.load(Ordering::Relaxed),
            "broken": *self.broken.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

pub(super) fn run(connections: usize, pause: Duration, targets: &[SocketAddr]) -> Result<()> {
    let seen = Arc::new(Seen::default());
    let mut threads = Vec::new();
    for target in targets.iter().cycle().take(connections).copied() {
        let stream = connect(target)?;
        let seen = seen.clone();
        threads.push(std::thread::spawn(move || {
            if let Err(error) = talk(stream, pause, &seen) {
                seen.broken.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{target}: {error:#}"));
            }
        }));
    }
    super::converse(|_| Ok(seen.report()))?;
    seen.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    super::say(&seen.report().to_string())
}

/// A server that has just been started may not listen yet.
pub(super) fn connect(target: SocketAddr) -> Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&target, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => return Err(error).with_context(|| format!("connect to {target}")),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn talk(mut stream: TcpStream, pause: Duration, seen: &Seen) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[ECHO])?;
    let mut number = 0_u128;
    while !seen.stop.load(Ordering::Relaxed) {
        number += 1;
        let (sent, mut answer) = (number.to_be_bytes(), [0; MESSAGE_BYTES]);
        let before = Instant::now();
        stream.write_all(&sent).context("request")?;
        stream.read_exact(&mut answer).context("answer")?;
        anyhow::ensure!(answer == sent, "another answer than the request");
        let took = u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX);
        seen.slowest_ms.fetch_max(took, Ordering::Relaxed);
        seen.requests.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(pause);
    }
    Ok(())
}

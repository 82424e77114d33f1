//! The DNS server's end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bowline_model::intent::dns::DnsFeed;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::chain::Known;
use crate::index::DnsIndex;

/// Longest message: 10,000 services and 150,000 pods take a tenth of it.
const MAX_LINE_BYTES: u64 = 512 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Follows the agent for ever: connects, takes what it tells, connects again when it is gone.
pub async fn follow(path: &Path, known: watch::Sender<Known>) {
    let mut pause = FIRST_PAUSE;
    let mut reported = false;
    loop {
        let begun = tokio::time::Instant::now();
        let end = follow_once(path, &known).await;
        if begun.elapsed() > LONGEST_PAUSE {
            (pause, reported) = (FIRST_PAUSE, false);
        }
        if !std::mem::replace(&mut reported, true) {
            let state = if known.borrow().index.is_some() { "answering what was known last" } else { "nothing is known yet" };
            tracing::warn!(socket = %path.display(), error = %end, state, "the agent is not there");
        }
        let jitter = pause.mul_f64(rand::random_range(0.5..1.0));
        tokio::time::sleep(jitter).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Follows one connection to its end, and says why it ended.
async fn follow_once(path: &Path, known: &watch::Sender<Known>) -> io::Error {
    match read_messages(path, known).await {
        Ok(()) => io::ErrorKind::UnexpectedEof.into(),
        Err(error) => error,
    }
}

async fn read_messages(path: &Path, known: &watch::Sender<Known>) -> io::Result<()> {
    let stream = UnixStream::connect(path).await?;
    let mut reader = BufReader::new(stream);
    let mut index: Option<DnsIndex> = None;
    let mut revision = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(bad("a message that does not end"));
        }
        let message: DnsFeed = serde_json::from_slice(&line)?;
        let followed = match (&message, &mut index) {
            (DnsFeed::Snapshot(_), _) => index.insert(DnsIndex::default()),
            (DnsFeed::Change(change), Some(index)) if change.revision == revision + 1 => index,
            (DnsFeed::Change(_), _) => return Err(bad("a change that does not follow")),
        };
        // After a reconnection the agent mostly tells what is known already; comparing all of it is for then only.
        let is_snapshot = matches!(message, DnsFeed::Snapshot(_));
        revision = followed.apply(message);
        publish(known, followed, is_snapshot);
        // A long snapshot's room is not kept for the short changes after it.
        if line.capacity() > 1 << 20 {
            line = Vec::new();
        }
    }
}

fn publish(known: &watch::Sender<Known>, index: &DnsIndex, compare: bool) {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let now = u32::try_from(since_epoch).unwrap_or(u32::MAX);
    known.send_if_modified(|known| {
        let same = compare && known.index.as_deref() == Some(index);
        if !same {
            // Serials grow, also when the clock goes back or two changes fall into one second.
            let serial = now.max(known.serial.saturating_add(1));
            *known = Known { index: Some(Arc::new(index.clone())), serial };
        }
        !same
    });
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

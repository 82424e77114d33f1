//! The events of one watch, a line each.
//!
//! Invariant: an event is whole or it is not there: what a broken connection leaves of a line is dropped. Reference: "Efficient detection
//! of changes" of the Kubernetes API concepts; RFC 9112 section 7.1 for how little of a body says that it is complete.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::WatchEvent;

use super::line::causes;
use super::time::timeout;
use super::trouble::Trouble;
use super::watched::{Watchable, Watched};

/// Servers send bookmarks about once a minute; from one that is silent for longer than two of them the watch is taken up anew.
///
/// A dead connection is found long before, by pings or keepalives. This is for what stands between and answers those itself.
pub(super) const SILENCE: Duration = Duration::from_secs(150);

/// Longer than any object that the store takes, by ten times.
const LONGEST_LINE_BYTES: usize = 16 << 20;

/// The events still to come of a body.
pub(super) struct Events<T> {
    body: Body,
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no end of a line.
    searched: usize,
    kind: std::marker::PhantomData<T>,
}

impl<T: Watchable> Events<T> {
    /// The events of a body.
    pub(super) fn new(body: Body) -> Self {
        Events { body, buffer: BytesMut::new(), searched: 0, kind: std::marker::PhantomData }
    }

    /// The next event; none when the server has ended the watch. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<WatchEvent<Watched<T>>>, Trouble> {
        loop {
            if let Some(line) = self.line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|error| Trouble::Unreadable(error.to_string()));
            }
            if self.buffer.len() > LONGEST_LINE_BYTES {
                return Err(Trouble::Unreadable(format!("an event is longer than {LONGEST_LINE_BYTES} bytes")));
            }
            match timeout(SILENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Ok(Some(Err(error))) => return Err(Trouble::Broken(causes(&error))),
                Ok(None) => return Ok(None),
                Err(_) => return Err(Trouble::Broken(format!("silent for {} s", SILENCE.as_secs()))),
            }
        }
    }

    /// The next whole line, without its end.
    fn line(&mut self) -> Option<Bytes> {
        let fresh = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(end) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end).freeze();
        self.buffer.advance(1);
        self.searched = 0;
        Some(line)
    }
}

//! A socket whose other side can be made slow, or gone without a word: open, acknowledged by its kernel, and never read or written again.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::lock;

/// Bytes that go at once where it is slow.
const DROP_BYTES: usize = 512;

/// What all sockets are told.
#[derive(Default)]
pub(super) struct Wire {
    /// Milliseconds before each drop of bytes.
    slow_ms: AtomicU64,
    /// Connections made so far.
    made: AtomicU64,
    /// Of each peer, the connections older than this stand still.
    stalled: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Wire {
    pub(super) fn slow(&self, pause: Duration) {
        self.slow_ms.store(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The connections that a peer has now stand still for ever; those that it makes later do not.
    pub(super) fn stall(&self, peer: IpAddr) {
        lock(&self.stalled).insert(peer, self.made.load(Ordering::Relaxed));
    }
}

/// A connection that can be made to stand still.
pub(super) struct Tap {
    stream: TcpStream,
    peer: IpAddr,
    number: u64,
    wire: std::sync::Arc<Wire>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Tap {
    pub(super) fn new(stream: TcpStream, peer: IpAddr, wire: std::sync::Arc<Wire>) -> Tap {
        let _ = stream.set_nodelay(true);
        let number = wire.made.fetch_add(1, Ordering::Relaxed);
        Tap { stream, peer, number, wire, pause: None }
    }

    fn is_stalled(&self) -> bool {
        lock(&self.wire.stalled).get(&self.peer).is_some_and(|before| self.number < *before)
    }

    /// Waits where it is slow.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let ms = self.wire.slow_ms.load(Ordering::Relaxed);
        if self.pause.is_none() && ms == 0 {
            return Poll::Ready(false);
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
        std::task::ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(true)
    }
}

impl AsyncRead for Tap {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_stalled() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        // What arrives in the moment of the stall is not seen either.
        if self.is_stalled() {
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_stalled() {
            return Poll::Pending;
        }
        let slow = std::task::ready!(self.poll_pause(cx));
        let bytes = if slow { bytes.get(..DROP_BYTES).unwrap_or(bytes) } else { bytes };
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_stalled() { Poll::Pending } else { Pin::new(&mut self.stream).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_stalled() { Poll::Pending } else { Pin::new(&mut self.stream).poll_shutdown(cx) }
    }
}

//! How much may be sent before the peer has taken it.
//!
//! The clients that Kubernetes has written for SPDY know no flow control: they neither announce a window nor give one
//! back. So a window is without bound until the peer has announced one. Reference: SPDY draft 3.1, section 2.6.8.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The window of a new stream and of the connection, where nothing else is announced.
pub(crate) const DEFAULT_BYTES: i64 = 64 << 10;

/// The room for one stream, or for all.
#[derive(Default)]
pub(crate) struct Window {
    /// None: without bound. Below zero when the peer has made it smaller than what is on the way.
    left: Mutex<Option<i64>>,
    changed: Notify,
}

impl Window {
    /// A window of `bytes`, or without bound.
    pub(crate) fn new(bytes: Option<i64>) -> Self {
        Self { left: Mutex::new(bytes), changed: Notify::new() }
    }

    /// Takes room for at most `wanted` bytes, which must be more than none; waits until there is any.
    pub(crate) async fn take(&self, wanted: usize) -> usize {
        loop {
            // Listening begins before looking, so that no change is missed in between.
            let changed = self.changed.notified();
            if let Some(taken) = self.try_take(wanted) {
                return taken;
            }
            changed.await;
        }
    }

    fn try_take(&self, wanted: usize) -> Option<usize> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(room) = left.as_mut() else { return Some(wanted) };
        let taken = usize::try_from(*room).ok()?.min(wanted);
        *room -= i64::try_from(taken).ok()?;
        (taken > 0).then_some(taken)
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give(&self, bytes: usize) {
        self.change(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The peer has changed it by so much. Not where it is without bound.
    pub(crate) fn change(&self, delta: i64) {
        if let Some(room) = self.left.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *room = room.saturating_add(delta);
        }
        self.changed.notify_waiters();
    }

    /// From now on it has a bound.
    pub(crate) fn bound(&self, bytes: i64) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn room_is_taken_and_given_back() {
        let window = Window::new(None);
        assert_eq!(window.take(1 << 30).await, 1 << 30, "nothing was announced");
        let window = Window::new(Some(10));
        assert_eq!(window.take(4).await, 4);
        assert_eq!(window.take(100).await, 6);
        assert!(window.take(1).now_or_never().is_none());
        window.change(-5);
        window.change(5);
        assert!(window.take(1).now_or_never().is_none());
        let ((), taken) = tokio::join!(async { window.change(3) }, window.take(8));
        assert_eq!(taken, 3);
        window.give(2);
        assert_eq!(window.take(8).await, 2);
    }
}

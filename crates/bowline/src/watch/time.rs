//! The clock of the watches: tokio's, and in tests one that jumps to the next event instead of waiting for it.
//!
//! Invariant: the line, the lists and the followers look at no other clock, so that an hour of trouble can be tried in a moment.

#[cfg(not(test))]
pub(super) use tokio::time::{Instant, sleep, sleep_until, timeout};

#[cfg(test)]
pub(super) use simulated::{Instant, run, sleep, sleep_until, timeout};

#[cfg(test)]
mod simulated {
    //! Time of this thread's runtime: it stands still while anything can run, and jumps when all wait.

    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::{Poll, Waker};
    use std::time::Duration;

    #[derive(Default)]
    struct Clock {
        now: Duration,
        number: u64,
        waiting: BTreeMap<(Duration, u64), Waker>,
    }

    thread_local! {
        static CLOCK: RefCell<Clock> = RefCell::default();
    }

    /// A moment since the thread began.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub(in crate::watch) struct Instant(Duration);

    impl Instant {
        pub(in crate::watch) fn now() -> Instant {
            Instant(CLOCK.with_borrow(|clock| clock.now))
        }

        pub(in crate::watch) fn elapsed(self) -> Duration {
            Instant::now() - self
        }
    }

    impl std::ops::Add<Duration> for Instant {
        type Output = Instant;

        fn add(self, after: Duration) -> Instant {
            Instant(self.0 + after)
        }
    }

    impl std::ops::Sub for Instant {
        type Output = Duration;

        fn sub(self, earlier: Instant) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    /// A place among those who wait; left when the future is dropped.
    struct Waiting((Duration, u64));

    impl Drop for Waiting {
        fn drop(&mut self) {
            // What a waker does when it is dropped, it does outside of the borrow.
            let _waker = CLOCK.with_borrow_mut(|clock| clock.waiting.remove(&self.0));
        }
    }

    pub(in crate::watch) async fn sleep_until(moment: Instant) {
        let key = CLOCK.with_borrow_mut(|clock| {
            clock.number += 1;
            (moment.0, clock.number)
        });
        let waiting = Waiting(key);
        poll_fn(|cx| {
            if Instant::now() >= moment {
                return Poll::Ready(());
            }
            let _former = CLOCK.with_borrow_mut(|clock| clock.waiting.insert(waiting.0, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    pub(in crate::watch) async fn sleep(duration: Duration) {
        sleep_until(Instant::now() + duration).await;
    }

    pub(in crate::watch) async fn timeout<F: IntoFuture>(duration: Duration, future: F) -> Result<F::Output, ()> {
        let (mut future, mut end) = (pin!(future.into_future()), pin!(sleep(duration)));
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Ok(value)),
            Poll::Pending => end.as_mut().poll(cx).map(Err),
        })
        .await
    }

    /// When nothing can run: the next moment that anyone waits for.
    fn jump() {
        let next = CLOCK.with_borrow_mut(|clock| {
            let ((moment, _), waker) = clock.waiting.pop_first()?;
            clock.now = clock.now.max(moment);
            Some(waker)
        });
        if let Some(waker) = next {
            waker.wake();
        }
    }

    /// Runs a test on a clock of its own.
    pub(in crate::watch) fn run<T>(test: impl Future<Output = T>) -> T {
        drop(CLOCK.replace(Clock::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(jump).build().expect("a runtime");
        runtime.block_on(test)
    }
}

//! The loop that every controller shares: events become keys, keys are reconciled one after the other.
//!
//! Invariant: a key whose reconciliation failed is tried again, later each time; a key that is due once more because of time
//! alone waits for exactly that time. Nothing is polled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::store::{Event, EventKind, GroupResource, Store, Watch};

/// Namespace and name of what is to be reconciled; what they mean is the controller's matter.
pub(super) type Key = (String, String);

/// Keys that wait.
pub(super) type Keys = BTreeSet<Key>;

/// When to look at a key again without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Not at all.
    Done,
    /// After this time.
    After(Duration),
}

/// One kind of reconciliation.
pub(super) trait Controller: Send + 'static {
    /// Its name in logs.
    fn name(&self) -> &'static str;

    /// What it watches.
    fn watches(&self) -> Vec<GroupResource>;

    /// The keys that an event concerns.
    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys);

    /// Makes the cluster equal to what the objects say.
    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError>;
}

const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Keys handled before other tasks of this thread get their turn.
const BATCH: usize = 32;

struct Loop<C> {
    controller: C,
    store: Store,
    watches: Vec<(GroupResource, Watch)>,
    keys: Keys,
    due: BTreeSet<(Instant, Key)>,
    failures: BTreeMap<Key, u32>,
}

/// Runs a controller until it is told to stop.
pub(super) async fn run<C: Controller>(controller: C, store: Store, stop: CancellationToken) {
    let mut revisions = store.revisions();
    let mut state = Loop { controller, store, watches: Vec::new(), keys: Keys::new(), due: BTreeSet::new(), failures: BTreeMap::new() };
    for gr in state.controller.watches() {
        state.open(gr);
    }
    loop {
        revisions.mark_unchanged();
        state.read_events();
        state.read_clock();
        for _ in 0..BATCH {
            let Some(key) = state.keys.pop_first() else { break };
            state.handle(key);
        }
        if !state.keys.is_empty() {
            tokio::task::yield_now().await;
            if stop.is_cancelled() {
                return;
            }
            continue;
        }
        let due = state.due.first().map(|(at, _)| *at);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revisions.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

impl<C: Controller> Loop<C> {
    fn open(&mut self, gr: GroupResource) {
        match self.store.watch(&gr, None, None) {
            Ok(watch) => self.watches.push((gr, watch)),
            Err(error) => tracing::error!(controller = self.controller.name(), resource = %gr, %error, "watch not opened"),
        }
    }

    fn read_events(&mut self) {
        let mut lost = Vec::new();
        for (index, (gr, watch)) in self.watches.iter_mut().enumerate() {
            while let Some(event) = watch.next_ready() {
                match event.kind {
                    EventKind::Added | EventKind::Modified | EventKind::Deleted => {
                        self.controller.concern(gr, &event, &mut self.keys);
                    }
                    EventKind::Bookmark => {}
                    EventKind::Error => {
                        lost.push(index);
                        break;
                    }
                }
            }
        }
        // Fallen behind the history: everything is looked at anew.
        for index in lost.into_iter().rev() {
            let (gr, _) = self.watches.remove(index);
            self.open(gr);
        }
    }

    fn read_clock(&mut self) {
        let now = Instant::now();
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.due.pop_first() {
                self.keys.insert(key);
            }
        }
    }

    fn handle(&mut self, key: Key) {
        let name = self.controller.name();
        match self.controller.reconcile(&key) {
            Ok(next) => {
                self.failures.remove(&key);
                if let Next::After(wait) = next {
                    self.due.insert((Instant::now() + wait, key));
                }
            }
            // The object or its namespace is going away: there is nothing left to do.
            Err(ApiError::NotFound { .. } | ApiError::Forbidden { .. }) => {
                self.failures.remove(&key);
            }
            Err(error) => {
                let count = self.failures.entry(key.clone()).or_insert(0);
                let wait = FIRST_RETRY.saturating_mul(1 << (*count).min(16)).min(LAST_RETRY);
                *count += 1;
                tracing::warn!(controller = name, namespace = key.0, name = key.1, %error, "reconciliation failed");
                self.due.insert((Instant::now() + wait, key));
            }
        }
    }
}

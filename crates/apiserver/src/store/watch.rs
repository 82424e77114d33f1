//! Watches: the history of writes, followed by a cursor.
//!
//! Invariant: a watcher sees each change once and in order, or is told that it came too late; it never holds up a writer.
//! Reference: "Efficient detection of changes" in the Kubernetes API concepts.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{GroupResource, Store};
use crate::error::ApiError;
use crate::object;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is new, or was there when the watch began.
    Added,
    /// It has changed.
    Modified,
    /// It is gone; the event holds its last state.
    Deleted,
    /// Nothing: the watch is complete up to this revision. Sent once, after the objects that were there at the start.
    Bookmark,
    /// The watch has fallen behind the history and ended; the object is a `Status` with code 410.
    Error,
}

impl EventKind {
    /// The `type` of a watch event.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }
}

/// One step of a watch.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The object after it.
    pub object: Arc<Value>,
    /// The object before it, where there was one: with it a selector can tell what came into view or left it.
    pub previous: Option<Arc<Value>>,
    /// Revision of the change.
    pub revision: u64,
}

/// One entry of the history.
pub(super) struct Record {
    pub(super) revision: u64,
    pub(super) gr: GroupResource,
    pub(super) kind: EventKind,
    pub(super) object: Arc<Value>,
    pub(super) previous: Option<Arc<Value>>,
}

/// A running watch.
pub struct Watch {
    store: Store,
    gr: GroupResource,
    ns: Option<String>,
    initial: VecDeque<Arc<Value>>,
    bookmark_due: bool,
    /// Everything up to this revision has been seen.
    cursor: u64,
    ready: VecDeque<Event>,
    revisions: tokio::sync::watch::Receiver<u64>,
}

/// Records copied out of the history at once, so that the lock is held for a moment only.
const BATCH: usize = 256;

impl Store {
    /// Follows the objects of a namespace, or of all with `None`. With `since`, changes after that revision; without,
    /// first the objects that are there as `Added`, then a `Bookmark`, then changes.
    ///
    /// # Errors
    /// [`ApiError::Expired`] when the history does not reach back to `since`, or `since` is of the future (another life
    /// of this server).
    pub fn watch(&self, gr: &GroupResource, ns: Option<&str>, since: Option<u64>) -> Result<Watch, ApiError> {
        let revisions = self.revisions();
        let state = self.read();
        let cursor = match since {
            Some(since) => {
                state.check_reach(since)?;
                since
            }
            None => state.revision,
        };
        let initial = if since.is_none() { state.matching(gr, ns).cloned().collect() } else { VecDeque::new() };
        drop(state);
        Ok(Watch {
            store: self.clone(),
            gr: gr.clone(),
            ns: ns.map(str::to_owned),
            initial,
            bookmark_due: since.is_none(),
            cursor,
            ready: VecDeque::new(),
            revisions,
        })
    }
}

impl super::State {
    fn check_reach(&self, since: u64) -> Result<(), ApiError> {
        let oldest = self.history.front().map_or(self.revision, |record| record.revision.saturating_sub(1));
        if since < oldest || since > self.revision {
            let message = format!("too old resource version: {since} ({oldest})");
            return Err(ApiError::Expired { message });
        }
        Ok(())
    }

    /// Records after a revision, a batch of them.
    fn after(&self, cursor: u64) -> impl Iterator<Item = &Arc<Record>> {
        let first = self.history.front().map_or(0, |record| record.revision);
        let skip = usize::try_from((cursor + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        self.history.iter().skip(skip).take(BATCH)
    }
}

impl Watch {
    /// The revision up to which everything has been handed out (once nothing is left to hand out at once).
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.cursor
    }

    /// The next event; waits for one. After an `Error` the same is returned again. Safe to cancel.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.next_ready() {
                return event;
            }
            // The store that the watch holds keeps the sender alive, so this cannot fail.
            let _ = self.revisions.changed().await;
        }
    }

    /// The next event if there is one by now.
    pub fn next_ready(&mut self) -> Option<Event> {
        if let Some(object) = self.initial.pop_front() {
            let revision = object::resource_version(&object).unwrap_or(self.cursor);
            return Some(Event { kind: EventKind::Added, object, previous: None, revision });
        }
        if std::mem::take(&mut self.bookmark_due) {
            return Some(self.bookmark());
        }
        if self.ready.is_empty()
            && let Err(error) = self.read_history()
        {
            let object = Arc::new(error.to_status());
            return Some(Event { kind: EventKind::Error, object, previous: None, revision: self.cursor });
        }
        self.ready.pop_front()
    }

    fn bookmark(&self) -> Event {
        let object = Arc::new(json!({"metadata": {"resourceVersion": self.cursor.to_string()}}));
        Event { kind: EventKind::Bookmark, object, previous: None, revision: self.cursor }
    }

    fn read_history(&mut self) -> Result<(), ApiError> {
        self.revisions.mark_unchanged();
        let state = self.store.read();
        while self.ready.is_empty() && self.cursor < state.revision {
            state.check_reach(self.cursor)?;
            for record in state.after(self.cursor) {
                self.cursor = record.revision;
                let namespace = object::namespace(&record.object);
                if record.gr == self.gr && self.ns.as_deref().is_none_or(|wanted| wanted == namespace) {
                    self.ready.push_back(Event {
                        kind: record.kind,
                        object: Arc::clone(&record.object),
                        previous: record.previous.clone(),
                        revision: record.revision,
                    });
                }
            }
        }
        Ok(())
    }
}

//! Makes the kernel equal to what is wanted, through a [`Driver`]; holds no clock and does no I/O of its own.
//!
//! Invariants: the shadow of the kernel is what is wanted, less the keys that are marked dirty, plus the keys that wait for removal, so it
//! costs no second copy. Nothing that is right already is written. Nothing is removed before [`Reconciler::allow_removal`]. A key that
//! fails stays dirty and is tried again with exponential backoff, while the others go on.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Debug;

use bowline_model::Delta;
use thiserror::Error;

/// Wait before the second attempt at a key that failed.
const BACKOFF_FIRST_MS: u64 = 100;
/// Longest wait between two attempts.
const BACKOFF_MAX_MS: u64 = 30_000;
/// How often one sync reads back and writes again because writing disturbed other objects (a link made anew takes its routes along).
const MAX_ROUNDS: u32 = 4;

/// Why a driver could not read back.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The kernel's objects could not be read back.
    #[error("{driver}: cannot read back what is in the kernel: {source}")]
    Read {
        /// Which driver.
        driver: &'static str,
        /// Whether it may succeed later by itself.
        retryable: bool,
        /// What went wrong.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ApplyError {
    /// Whether the same call may succeed later by itself.
    pub fn may_retry(&self) -> bool {
        match self {
            ApplyError::Read { retryable, .. } => *retryable,
        }
    }
}

/// A key that could not be set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure<K> {
    /// The key.
    pub key: K,
    /// Why, in words.
    pub error: String,
    /// Whether it may succeed later by itself.
    pub retryable: bool,
}

/// What became of a delta. Keys that are not named here are as the delta wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<K> {
    /// What could not be done.
    pub failed: Vec<Failure<K>>,
    /// Objects outside the delta may have changed along with it: read back and set again what went.
    pub disturbed: bool,
}

impl<K> Default for Report<K> {
    fn default() -> Self {
        Report { failed: Vec::new(), disturbed: false }
    }
}

/// What reads back and writes one kind of kernel objects.
pub trait Driver {
    /// What identifies an object. Its order is the order of making; removal goes the other way round.
    type Key: Ord + Clone + Debug;
    /// What an object must be.
    type Value: Eq + Clone;
    /// What was read back of an object; need not be a whole value.
    type Seen;

    /// Reads back the objects that bear our mark, and of those without marks the ones that are wanted. Others' are never among them.
    ///
    /// # Errors
    /// If the kernel does not answer.
    fn read_owned(&mut self, wanted: &BTreeMap<Self::Key, Self::Value>) -> Result<BTreeMap<Self::Key, Self::Seen>, ApplyError>;

    /// Whether what was read back is what is wanted.
    fn same(seen: &Self::Seen, want: &Self::Value) -> bool;

    /// Sets and removes. Setting what is there already and removing what is not there are no failures.
    fn apply(&mut self, delta: &Delta<Self::Key, Self::Value>) -> Report<Self::Key>;
}

/// How a sync learns what is in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Reads back: at the start, after a foreign change, on a slow timer.
    Full,
    /// Believes the shadow. The first sync, and one after a failure, read back nevertheless.
    Shadow,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReport<K> {
    /// Number of objects written.
    pub written: usize,
    /// Number of objects removed.
    pub removed: usize,
    /// Whether the kernel was read back.
    pub read_back: bool,
    /// Number of objects that somebody else had changed, taken away or added under our mark since the kernel was last known.
    pub foreign: usize,
    /// What failed in this sync.
    pub failed: Vec<Failure<K>>,
    /// Why the kernel could not be read back; nothing was written then.
    pub read_error: Option<String>,
}

impl<K> Default for SyncReport<K> {
    fn default() -> Self {
        SyncReport { written: 0, removed: 0, read_back: false, foreign: 0, failed: Vec::new(), read_error: None }
    }
}

impl<K> SyncReport<K> {
    /// Whether all that was tried was done.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.read_error.is_none()
    }
}

/// When a failed key is due again.
#[derive(Debug, Clone, Copy)]
struct Backoff {
    failures: u32,
    due_ms: u64,
}

impl Backoff {
    fn after(previous: Option<Backoff>, now_ms: u64) -> Backoff {
        let failures = previous.map_or(0, |b| b.failures).saturating_add(1);
        let wait = BACKOFF_FIRST_MS.saturating_mul(1_u64.checked_shl(failures - 1).unwrap_or(u64::MAX)).min(BACKOFF_MAX_MS);
        Backoff { failures, due_ms: now_ms.saturating_add(wait) }
    }
}

/// Holds what is wanted of one driver's objects and brings it about.
#[derive(Debug)]
pub struct Reconciler<D: Driver> {
    driver: D,
    wanted: BTreeMap<D::Key, D::Value>,
    /// Wanted, and not known to be in the kernel so.
    dirty: BTreeSet<D::Key>,
    /// Ours, in the kernel as far as is known, and not wanted.
    leftover: BTreeSet<D::Key>,
    backoff: BTreeMap<D::Key, Backoff>,
    /// Why the keys in `backoff` failed, when they last did.
    errors: BTreeMap<D::Key, String>,
    removal_allowed: bool,
    /// The shadow cannot be believed: nothing was read back yet, or something failed since.
    doubtful: bool,
    /// When reading back may be tried again after it failed.
    unreadable: Option<Backoff>,
}

impl<D: Driver> Reconciler<D> {
    /// Wants nothing yet and knows nothing of the kernel.
    pub fn new(driver: D) -> Self {
        Reconciler {
            driver,
            wanted: BTreeMap::new(),
            dirty: BTreeSet::new(),
            leftover: BTreeSet::new(),
            backoff: BTreeMap::new(),
            errors: BTreeMap::new(),
            removal_allowed: false,
            doubtful: true,
            unreadable: None,
        }
    }

    /// The driver, for what it offers beside.
    pub fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// What is wanted.
    pub fn wanted(&self) -> &BTreeMap<D::Key, D::Value> {
        &self.wanted
    }

    /// Keys that are wanted and not known to be so in the kernel.
    pub fn dirty(&self) -> &BTreeSet<D::Key> {
        &self.dirty
    }

    /// What failed when it was last tried, with the reason, and waits to be tried again.
    pub fn failing(&self) -> impl Iterator<Item = (&D::Key, &str)> {
        self.errors.iter().filter(|(key, _)| self.backoff.contains_key(*key)).map(|(key, error)| (key, error.as_str()))
    }

    /// Changes what is wanted. Nothing is written before the next sync.
    pub fn want(&mut self, delta: Delta<D::Key, D::Value>) {
        for key in delta.remove {
            if self.wanted.remove(&key).is_some() {
                self.dirty.remove(&key);
                self.backoff.remove(&key);
                self.leftover.insert(key);
            }
        }
        for (key, value) in delta.set {
            if self.wanted.get(&key) == Some(&value) {
                continue;
            }
            // A key that comes back before it was removed may differ from what is in the kernel, so it is dirty in any case.
            self.leftover.remove(&key);
            self.backoff.remove(&key);
            self.dirty.insert(key.clone());
            self.wanted.insert(key, value);
        }
    }

    /// From now on what is ours and not wanted is removed. To be called once every input has been listed, and never before.
    pub fn allow_removal(&mut self) {
        self.removal_allowed = true;
    }

    /// When something that failed is due again, if anything failed.
    pub fn next_retry_ms(&self) -> Option<u64> {
        self.backoff.values().chain(&self.unreadable).map(|b| b.due_ms).min()
    }

    /// Brings the kernel to what is wanted. `now_ms` is any clock that only goes forward.
    pub fn sync(&mut self, how: SyncMode, now_ms: u64) -> SyncReport<D::Key> {
        let mut report = SyncReport::default();
        let retry_due = self.next_retry_ms().is_some_and(|due| due <= now_ms);
        let mut read = how == SyncMode::Full || (self.doubtful && (self.backoff.is_empty() || retry_due));
        for _ in 0..MAX_ROUNDS {
            if read {
                match self.read_back() {
                    Ok(foreign) => report.foreign += foreign,
                    Err(error) => {
                        tracing::warn!(%error, "cannot read back");
                        report.read_error = Some(error.to_string());
                        self.doubtful = true;
                        self.unreadable = Some(Backoff::after(self.unreadable, now_ms));
                        break;
                    }
                }
                report.read_back = true;
            }
            if !self.write(now_ms, &mut report) {
                break;
            }
            read = true;
        }
        report
    }

    /// Learns from the kernel which keys are dirty and which are left over; says how many of them were not, as far as was known.
    fn read_back(&mut self) -> Result<usize, ApplyError> {
        let seen = self.driver.read_owned(&self.wanted)?;
        let dirty: BTreeSet<D::Key> = self
            .wanted
            .iter()
            .filter(|(key, value)| !seen.get(*key).is_some_and(|found| D::same(found, value)))
            .map(|(key, _)| key.clone())
            .collect();
        let leftover: BTreeSet<D::Key> = seen.into_keys().filter(|key| !self.wanted.contains_key(key)).collect();
        let foreign = dirty.difference(&self.dirty).count() + leftover.difference(&self.leftover).count();
        let foreign = if self.doubtful { 0 } else { foreign };
        (self.dirty, self.leftover) = (dirty, leftover);
        let (dirty, leftover) = (&self.dirty, &self.leftover);
        self.backoff.retain(|key, _| dirty.contains(key) || leftover.contains(key));
        self.doubtful = false;
        self.unreadable = None;
        Ok(foreign)
    }

    /// Writes what is due; says whether more was disturbed than was written.
    fn write(&mut self, now_ms: u64, report: &mut SyncReport<D::Key>) -> bool {
        let due = |key: &D::Key| self.backoff.get(key).is_none_or(|b| b.due_ms <= now_ms);
        let mut delta = Delta::default();
        for key in self.dirty.iter().filter(|key| due(key)) {
            if let Some(value) = self.wanted.get(key) {
                delta.set.insert(key.clone(), value.clone());
            }
        }
        if self.removal_allowed {
            delta.remove = self.leftover.iter().filter(|key| due(key)).cloned().collect();
        }
        if delta.is_empty() {
            return false;
        }
        let outcome = self.driver.apply(&delta);
        let failed: BTreeSet<&D::Key> = outcome.failed.iter().map(|f| &f.key).collect();
        for key in delta.set.keys().filter(|key| !failed.contains(key)) {
            self.dirty.remove(key);
            self.backoff.remove(key);
            report.written += 1;
        }
        for key in delta.remove.iter().filter(|key| !failed.contains(key)) {
            self.leftover.remove(key);
            self.backoff.remove(key);
            report.removed += 1;
        }
        for failure in &outcome.failed {
            let backoff = Backoff::after(self.backoff.get(&failure.key).copied(), now_ms);
            tracing::debug!(key = ?failure.key, error = %failure.error, due_ms = backoff.due_ms, "not applied");
            self.backoff.insert(failure.key.clone(), backoff);
            self.errors.insert(failure.key.clone(), failure.error.clone());
        }
        let backoff = &self.backoff;
        self.errors.retain(|key, _| backoff.contains_key(key));
        self.doubtful |= !outcome.failed.is_empty() || outcome.disturbed;
        report.failed.extend(outcome.failed);
        outcome.disturbed
    }
}

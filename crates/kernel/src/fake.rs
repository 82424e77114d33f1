//! A kernel in memory: a [`Driver`] for tests, with others' objects in it, faults, and a death in the middle of a change.
//!
//! Clones are handles of the same kernel, so that a second reconciler can be started over what a killed one left.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_model::Delta;

use crate::reconcile::{ApplyError, Driver, Failure, Report};

/// A handle of a kernel in memory.
#[derive(Debug)]
pub struct FakeKernel<K, V> {
    inner: Arc<Mutex<Inner<K, V>>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    ours: BTreeMap<K, V>,
    foreign: BTreeMap<K, V>,
    faults: BTreeMap<K, u32>,
    read_faults: u32,
    steps_to_live: Option<u64>,
    writes: u64,
    reads: u64,
}

impl<K, V> Clone for FakeKernel<K, V> {
    fn clone(&self) -> Self {
        FakeKernel { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Ord + Clone + Debug, V: Eq + Clone> Default for FakeKernel<K, V> {
    fn default() -> Self {
        FakeKernel::new()
    }
}

impl<K: Ord + Clone + Debug, V: Eq + Clone> FakeKernel<K, V> {
    /// An empty one.
    pub fn new() -> Self {
        let inner = Inner {
            ours: BTreeMap::new(),
            foreign: BTreeMap::new(),
            faults: BTreeMap::new(),
            read_faults: 0,
            steps_to_live: None,
            writes: 0,
            reads: 0,
        };
        FakeKernel { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is ours in it.
    pub fn objects(&self) -> BTreeMap<K, V> {
        self.lock().ours.clone()
    }

    /// What is others' in it.
    pub fn foreign(&self) -> BTreeMap<K, V> {
        self.lock().foreign.clone()
    }

    /// Somebody else makes an object; setting the same key fails from now on.
    pub fn put_foreign(&self, key: K, value: V) {
        let mut inner = self.lock();
        inner.ours.remove(&key);
        inner.foreign.insert(key, value);
    }

    /// Somebody else takes their object away.
    pub fn remove_foreign(&self, key: &K) {
        self.lock().foreign.remove(key);
    }

    /// Somebody changes an object of ours behind our back, or removes it.
    pub fn tamper(&self, key: K, value: Option<V>) {
        let mut inner = self.lock();
        match value {
            Some(value) if inner.ours.contains_key(&key) => {
                inner.ours.insert(key, value);
            }
            Some(_) => {}
            None => {
                inner.ours.remove(&key);
            }
        }
    }

    /// Somebody removes all that is ours.
    pub fn flush(&self) {
        self.lock().ours.clear();
    }

    /// The next `times` changes of a key fail.
    pub fn fail(&self, key: K, times: u32) {
        self.lock().faults.insert(key, times);
    }

    /// The next `times` readings fail.
    pub fn fail_reads(&self, times: u32) {
        self.lock().read_faults = times;
    }

    /// After so many more changes nothing is changed any more, as if whoever changes it had been killed, until [`FakeKernel::revive`].
    pub fn die_after(&self, steps: u64) {
        self.lock().steps_to_live = Some(steps);
    }

    /// Takes [`FakeKernel::die_after`] back.
    pub fn revive(&self) {
        self.lock().steps_to_live = None;
    }

    /// Number of changes so far.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Number of readings so far.
    pub fn reads(&self) -> u64 {
        self.lock().reads
    }
}

impl<K: Ord + Clone + Debug, V: Eq + Clone> Inner<K, V> {
    /// Whether the one who changes things is still alive for another step.
    fn step(&mut self) -> bool {
        match &mut self.steps_to_live {
            None => true,
            Some(0) => false,
            Some(steps) => {
                *steps -= 1;
                true
            }
        }
    }

    fn change(&mut self, key: &K, value: Option<&V>) -> Result<(), Failure<K>> {
        let failure = |error: &str, retryable| Failure { key: key.clone(), error: error.to_owned(), retryable };
        if let Some(times) = self.faults.get_mut(key).filter(|times| **times > 0) {
            *times -= 1;
            return Err(failure("injected fault", true));
        }
        if value.is_some() && self.foreign.contains_key(key) {
            return Err(failure("there already and not ours", false));
        }
        if self.step() {
            self.writes += 1;
            match value {
                Some(value) => self.ours.insert(key.clone(), value.clone()),
                None => self.ours.remove(key),
            };
        }
        Ok(())
    }
}

impl<K: Ord + Clone + Debug, V: Eq + Clone> Driver for FakeKernel<K, V> {
    type Key = K;
    type Value = V;
    type Seen = V;

    fn read_owned(&mut self, _wanted: &BTreeMap<K, V>) -> Result<BTreeMap<K, V>, ApplyError> {
        let mut inner = self.lock();
        inner.reads += 1;
        if inner.read_faults > 0 {
            inner.read_faults -= 1;
            return Err(ApplyError::Read { driver: "fake", retryable: true, source: "injected fault".into() });
        }
        Ok(inner.ours.clone())
    }

    fn same(seen: &V, want: &V) -> bool {
        seen == want
    }

    fn apply(&mut self, delta: &Delta<K, V>) -> Report<K> {
        let mut inner = self.lock();
        let sets = delta.set.iter().map(|(key, value)| (key, Some(value)));
        let removals = delta.remove.iter().rev().map(|key| (key, None));
        let failed = sets.chain(removals).filter_map(|(key, value)| inner.change(key, value).err()).collect();
        Report { failed, disturbed: false }
    }
}

#[cfg(test)]
mod tests;

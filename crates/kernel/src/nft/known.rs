//! What is known to be in the kernel: what decides whether an object is made, changed or left.
//!
//! Invariant: only a hint. It is read again whenever the kernel disagrees, so a wrong one costs a round and breaks nothing. Of elements it
//! keeps no more than a hash, since the data is not needed to replace them; of intervals the end, since the kernel wants it on removal.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use bowline_dataplane::objects::nft::{NftKey, NftObject, SetSpec};

use super::decode::SeenBase;
use super::plan::{Changes, Work};
use super::rebuild::Rebuild;
use super::shape;

/// The counters, sets and chains of our table.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) counters: BTreeSet<Arc<str>>,
    pub(super) sets: BTreeMap<Arc<str>, KnownSet>,
    pub(super) chains: BTreeMap<Arc<str>, SeenBase>,
    /// Random in each process, so that nobody can choose keys that collide.
    pub(super) hasher: RandomState,
}

/// A set in the kernel.
#[derive(Debug)]
pub(super) struct KnownSet {
    /// Its shape, if it is one that we could have made.
    pub(super) spec: Option<SetSpec>,
    /// Its elements.
    pub(super) elements: KnownElements,
}

/// Which elements a set has.
#[derive(Debug)]
pub(super) enum KnownElements {
    /// Hashes of the keys.
    Points(HashSet<u64>),
    /// Ends of the intervals by their starts.
    Intervals(BTreeMap<Arc<[u8]>, Arc<[u8]>>),
}

/// An element that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Present<'a> {
    /// A single key.
    Point,
    /// An interval with its last value.
    Interval(&'a Arc<[u8]>),
}

impl KnownElements {
    /// No elements yet.
    pub(super) fn of(spec: Option<&SetSpec>) -> Self {
        if spec.is_some_and(|spec| spec.interval) {
            KnownElements::Intervals(BTreeMap::new())
        } else {
            KnownElements::Points(HashSet::new())
        }
    }

    /// Adds one; an interval without an end is a single value.
    pub(super) fn insert(&mut self, hasher: &RandomState, key: &Arc<[u8]>, end: Option<&Arc<[u8]>>) {
        match self {
            KnownElements::Points(keys) => {
                keys.insert(hasher.hash_one(key));
            }
            KnownElements::Intervals(ends) => {
                ends.insert(key.clone(), end.unwrap_or(key).clone());
            }
        }
    }

    fn remove(&mut self, hasher: &RandomState, key: &[u8]) {
        match self {
            KnownElements::Points(keys) => {
                keys.remove(&hasher.hash_one(key));
            }
            KnownElements::Intervals(ends) => {
                ends.remove(key);
            }
        }
    }
}

impl Known {
    /// The shape of a set that is there.
    pub(super) fn spec(&self, set: &str) -> Option<&SetSpec> {
        self.sets.get(set)?.spec.as_ref()
    }

    /// Whether an element is there.
    pub(super) fn element(&self, set: &str, key: &[u8]) -> Option<Present<'_>> {
        match &self.sets.get(set)?.elements {
            KnownElements::Points(keys) => keys.contains(&self.hasher.hash_one(key)).then_some(Present::Point),
            KnownElements::Intervals(ends) => ends.get(key).map(Present::Interval),
        }
    }

    /// Takes note of a transaction that came into force.
    pub(super) fn commit(&mut self, work: &Work<'_>, changes: &Changes<'_>, rebuild: &Rebuild<'_>) {
        for key in &work.remove {
            match key {
                NftKey::Counter(name) => drop(self.counters.remove(name)),
                NftKey::Set(name) => drop(self.sets.remove(name)),
                NftKey::Chain(name) => drop(self.chains.remove(name)),
                NftKey::Element { set, key } => {
                    if let Some(known) = self.sets.get_mut(set) {
                        known.elements.remove(&self.hasher, key);
                    }
                }
            }
        }
        for (key, object) in &work.set {
            match (key, object) {
                (NftKey::Counter(name), NftObject::Counter) => drop(self.counters.insert(name.clone())),
                (NftKey::Set(name), NftObject::Set(spec)) => {
                    if changes.remade_sets.contains_key(name) || !self.sets.contains_key(name) {
                        let elements = KnownElements::of(Some(spec));
                        self.sets.insert(name.clone(), KnownSet { spec: Some(spec.clone()), elements });
                    }
                }
                (NftKey::Chain(name), NftObject::Chain(chain)) => {
                    self.chains.insert(name.clone(), chain.base.map_or(SeenBase::Regular, SeenBase::Base));
                }
                (NftKey::Element { set, key }, NftObject::Element(element)) => self.insert(set, key, element.end.as_ref()),
                (NftKey::Counter(_) | NftKey::Set(_) | NftKey::Chain(_) | NftKey::Element { .. }, _) => {}
            }
        }
        for (set, elements) in &rebuild.elements {
            for (key, element) in elements {
                self.insert(set, key, element.end.as_ref());
            }
        }
    }

    fn insert(&mut self, set: &Arc<str>, key: &Arc<[u8]>, end: Option<&Arc<[u8]>>) {
        if let Some(known) = self.sets.get_mut(set) {
            known.elements.insert(&self.hasher, key, end);
        }
    }

    /// Whether the set is there in the shape wanted.
    pub(super) fn has_set(&self, name: &str, want: &SetSpec) -> bool {
        self.spec(name).is_some_and(|seen| shape::same(seen, want))
    }
}

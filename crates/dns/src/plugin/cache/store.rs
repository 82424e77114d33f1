//! A map of bounded size that throws out at random.

use std::collections::HashMap;

use super::{Entry, Key};

/// Entries in a row, so that one may be chosen at random, and where each stands.
#[derive(Debug)]
pub(super) struct Store {
    capacity: usize,
    places: HashMap<Key, usize>,
    row: Vec<(Key, Entry)>,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Store {
        Store { capacity, places: HashMap::new(), row: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.row.len()
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        let place = *self.places.get(key)?;
        self.row.get_mut(place).map(|(_, entry)| entry)
    }

    /// Puts an entry in; true if another had to go for it.
    pub(super) fn insert(&mut self, key: Key, entry: Entry) -> bool {
        if let Some(old) = self.get_mut(&key) {
            *old = entry;
            return false;
        }
        let full = self.row.len() >= self.capacity;
        if full {
            let victim = rand::random_range(0..self.row.len());
            if let Some((key, _)) = self.row.get(victim) {
                let key = key.clone();
                self.remove(&key);
            }
        }
        self.places.insert(key.clone(), self.row.len());
        self.row.push((key, entry));
        full
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(place) = self.places.remove(key) else { return };
        self.row.swap_remove(place);
        if let Some((moved, _)) = self.row.get(place) {
            self.places.insert(moved.clone(), place);
        }
    }
}

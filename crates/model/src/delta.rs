//! The difference between two maps of objects: what to set, what to remove.

use std::collections::{BTreeMap, BTreeSet};

/// What turns one map of objects into another.
///
/// Invariant: no key is in both parts. Applying the same delta twice is the same as once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta<K: Ord, V> {
    /// Objects to make, or to change to the value given.
    pub set: BTreeMap<K, V>,
    /// Objects to take away.
    pub remove: BTreeSet<K>,
}

impl<K: Ord, V> Default for Delta<K, V> {
    fn default() -> Self {
        Delta { set: BTreeMap::new(), remove: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: Eq + Clone> Delta<K, V> {
    /// What turns `old` into `new`.
    pub fn between(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Self {
        let set = new.iter().filter(|(k, v)| old.get(*k) != Some(*v)).map(|(k, v)| (k.clone(), v.clone())).collect();
        let remove = old.keys().filter(|k| !new.contains_key(*k)).cloned().collect();
        Delta { set, remove }
    }

    /// Sets `key`, whatever was said of it before.
    pub fn put(&mut self, key: K, value: V) {
        self.remove.remove(&key);
        self.set.insert(key, value);
    }

    /// Removes `key`, whatever was said of it before.
    pub fn drop_key(&mut self, key: K) {
        self.set.remove(&key);
        self.remove.insert(key);
    }

    /// Adds a later delta: where both speak of a key, the later one counts.
    pub fn then(&mut self, later: Delta<K, V>) {
        for key in later.remove {
            self.drop_key(key);
        }
        for (key, value) in later.set {
            self.put(key, value);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Number of keys spoken of.
    pub fn len(&self) -> usize {
        self.set.len() + self.remove.len()
    }

    /// Applies the delta to a map.
    pub fn apply_to(&self, map: &mut BTreeMap<K, V>) {
        for key in &self.remove {
            map.remove(key);
        }
        for (key, value) in &self.set {
            map.insert(key.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(u8, u8)]) -> BTreeMap<u8, u8> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn between_turns_old_into_new() {
        let (old, new) = (map(&[(1, 1), (2, 2), (3, 3)]), map(&[(2, 2), (3, 4), (5, 5)]));
        let delta = Delta::between(&old, &new);
        assert_eq!(delta.set, map(&[(3, 4), (5, 5)]));
        assert_eq!(delta.remove, BTreeSet::from([1]));
        let mut got = old;
        delta.apply_to(&mut got);
        assert_eq!(got, new);
    }

    #[test]
    fn the_later_word_counts() {
        let mut first = Delta::between(&map(&[(1, 1)]), &map(&[(2, 2)]));
        first.then(Delta::between(&map(&[(2, 2)]), &map(&[(1, 9)])));
        assert_eq!(first.set, map(&[(1, 9)]));
        assert_eq!(first.remove, BTreeSet::from([2]));
    }
}

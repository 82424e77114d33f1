//! The rules of policies that pods of this node are under, counted by pod, so that a change costs what it touches and not what there is.
//!
//! Invariant: rules are held exactly while a pod is under them and their policy has them; the sets that they name are counted with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_model::intent::policy::Direction;
use imbl::OrdMap;

use super::rules::Side;
use super::sets::{SetKey, Sets};

/// Rules of one kind of policy, told by names of type `K`.
#[derive(Debug)]
pub(crate) struct Held<K: Ord, R> {
    /// How many lists of pods' policies have the side in them.
    uses: BTreeMap<(K, Direction), usize>,
    /// The sets that held rules name.
    sets: BTreeMap<(K, Direction), Arc<BTreeSet<SetKey>>>,
    /// Sides whose use or whose policy has changed since the last turn.
    touched: BTreeSet<(K, Direction)>,
    /// The rules. Those that stay the same stay the same objects.
    pub(crate) rules: OrdMap<(K, Direction), Arc<R>>,
}

impl<K: Ord + Clone, R> Default for Held<K, R> {
    fn default() -> Self {
        Held { uses: BTreeMap::new(), sets: BTreeMap::new(), touched: BTreeSet::new(), rules: OrdMap::new() }
    }
}

impl<K: Ord + Clone, R: PartialEq> Held<K, R> {
    /// Both sides of a policy may be others.
    pub(crate) fn touch(&mut self, name: &K) {
        self.touched.extend(Direction::BOTH.map(|direction| (name.clone(), direction)));
    }

    /// A pod's policies of a direction were those, and are these.
    pub(crate) fn pass<'k>(&mut self, direction: Direction, old: impl Iterator<Item = &'k K>, new: impl Iterator<Item = &'k K>)
    where
        K: 'k,
    {
        for name in new {
            let key = (name.clone(), direction);
            *self.uses.entry(key.clone()).or_default() += 1;
            self.touched.insert(key);
        }
        for name in old {
            let key = (name.clone(), direction);
            if let Some(count) = self.uses.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.uses.remove(&key);
                }
            }
            self.touched.insert(key);
        }
    }

    /// Takes up what was touched, as policies say it now; gives whether any rules are others.
    pub(crate) fn settle<'s>(&mut self, sets: &mut Sets, side_of: impl Fn(&K, Direction) -> Option<&'s Side<R>>) -> bool
    where
        R: 's,
    {
        let mut changed = false;
        for key in std::mem::take(&mut self.touched) {
            let side = side_of(&key.0, key.1).filter(|_| self.uses.contains_key(&key));
            let old_sets = match side {
                Some(side) => {
                    if self.rules.get(&key).is_none_or(|old| **old != *side.rules) {
                        self.rules.insert(key.clone(), Arc::clone(&side.rules));
                        changed = true;
                    }
                    side.sets.iter().for_each(|set| sets.want(set));
                    self.sets.insert(key, Arc::clone(&side.sets))
                }
                None => {
                    changed |= self.rules.remove(&key).is_some();
                    self.sets.remove(&key)
                }
            };
            old_sets.iter().flat_map(|old| old.iter()).for_each(|set| sets.release(set));
        }
        changed
    }
}

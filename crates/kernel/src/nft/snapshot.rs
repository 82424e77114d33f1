//! What is in force, turned into objects again, so that a packet can be judged by it.
//!
//! Invariant: nothing is guessed. A rule is known by the fingerprint that it bears; a chain with one that is not known is not among the
//! objects, and a base chain of which that is so is named.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bowline_dataplane::objects::nft::{ChainSpec, NftKey, NftObject, Rule};

use super::decode::SeenBase;
use super::driver::{NftDriver, NftSeen};
use super::error::NftError;
use super::expr::rule_fingerprint;

/// The table as it was read back.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Its objects, as far as they are known.
    pub objects: BTreeMap<NftKey, NftObject>,
    /// Chains at hooks that hold something which is not ours.
    pub strange: Vec<Arc<str>>,
}

impl NftDriver {
    /// Reads back the table; `wanted` is where its rules are known from.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn snapshot(&mut self, wanted: &BTreeMap<NftKey, NftObject>) -> Result<Snapshot, NftError> {
        let mut known: HashMap<u64, &Rule> = HashMap::new();
        for object in wanted.values() {
            if let NftObject::Chain(chain) = object {
                known.extend(chain.rules.iter().filter_map(|rule| Some((rule_fingerprint(rule)?, rule))));
            }
        }
        let mut snapshot = Snapshot::default();
        for (key, seen) in self.read_all(wanted)? {
            match (&key, object(seen, &known)) {
                (_, Some(object)) => drop(snapshot.objects.insert(key, object)),
                (NftKey::Chain(name), None) => snapshot.strange.push(name.clone()),
                (NftKey::Counter(_) | NftKey::Set(_) | NftKey::Element { .. }, None) => {}
            }
        }
        let regular = |name: &Arc<str>| match wanted.get(&NftKey::Chain(name.clone())) {
            Some(NftObject::Chain(chain)) => chain.base.is_none(),
            Some(NftObject::Counter | NftObject::Set(_) | NftObject::Element(_)) | None => false,
        };
        snapshot.strange.retain(|name| !regular(name));
        Ok(snapshot)
    }
}

fn object(seen: NftSeen, known: &HashMap<u64, &Rule>) -> Option<NftObject> {
    match seen {
        NftSeen::Counter => Some(NftObject::Counter),
        NftSeen::Set(spec) => spec.map(NftObject::Set),
        NftSeen::Element { spec, .. } => Some(NftObject::Element(spec)),
        NftSeen::Chain { base, rules } => {
            let base = match base {
                SeenBase::Regular => None,
                SeenBase::Base(base) => Some(base),
                SeenBase::Other => return None,
            };
            let rule = |fingerprint: Option<u64>| fingerprint.and_then(|print| known.get(&print)).map(|rule| (*rule).clone());
            let rules = rules.into_iter().map(rule).collect::<Option<Vec<Rule>>>()?;
            Some(NftObject::Chain(ChainSpec { base, rules }))
        }
    }
}

//! A set whose shape changes must be removed and made anew, which the kernel allows only once no rule looks into it.
//!
//! So that this too happens within one transaction, the rules that look into the set and the elements that stay are read from the kernel
//! and sent again as they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_dataplane::objects::nft::{NftKey, NftObject, SetSpec};

use super::decode::SeenRule;
use super::error::NftError;
use super::known::Known;
use super::plan::{Changes, Work};
use super::read::{self, SeenElement};
use super::socket::NftSocket;

/// What stands outside the changes and must be sent again along with them.
#[derive(Debug, Default)]
pub(super) struct Rebuild<'a> {
    /// Chains with their rules, and the key of a set for the sake of which they are sent again.
    pub(super) chains: BTreeMap<Arc<str>, (&'a NftKey, Vec<SeenRule>)>,
    /// Elements by the name of their set.
    pub(super) elements: BTreeMap<Arc<str>, Vec<SeenElement>>,
    /// Some elements do not fit the new shape and are gone.
    pub(super) lost: bool,
}

/// Reads what must be sent again.
pub(super) fn read<'a>(socket: &mut NftSocket, known: &Known, work: &Work<'a>, changes: &Changes<'a>) -> Result<Rebuild<'a>, NftError> {
    let mut rebuild = Rebuild::default();
    if changes.remade_sets.is_empty() {
        return Ok(rebuild);
    }
    let mut by_chain: BTreeMap<Arc<str>, Vec<SeenRule>> = BTreeMap::new();
    for rule in read::rules(socket, None)? {
        by_chain.entry(rule.chain.clone()).or_default().push(rule);
    }
    for (chain, rules) in by_chain {
        if work.names(&NftKey::Chain(chain.clone())) {
            continue;
        }
        if let Some(cause) = rules.iter().find_map(|rule| rule.uses(&changes.remade_sets)) {
            rebuild.chains.insert(chain, (*cause, rules));
        }
    }
    for (set, key) in &changes.remade_sets {
        let (Some(old), Some(NftObject::Set(new))) = (known.spec(set), work.set.get(*key)) else {
            rebuild.lost = true;
            continue;
        };
        let mut elements = read::elements(socket, set, old)?;
        elements.retain(|(key, _)| !work.names(&NftKey::Element { set: set.clone(), key: key.clone() }));
        if fits(old, new) {
            rebuild.elements.insert(set.clone(), elements);
        } else {
            rebuild.lost |= !elements.is_empty();
        }
    }
    Ok(rebuild)
}

/// Whether the elements of one set can be those of the other.
fn fits(old: &SetSpec, new: &SetSpec) -> bool {
    old.key == new.key && old.data == new.data && old.interval == new.interval && new.dynamic_timeout_ms.is_none()
}

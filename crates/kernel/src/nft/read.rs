//! Reading our table back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bowline_dataplane::objects::nft::{ElementSpec, SetSpec, TABLE};

use super::decode::{self, SeenBase, SeenRule};
use super::error::NftError;
use super::known::{Known, KnownElements, KnownSet};
use super::socket::NftSocket;
use super::uapi::{self, msg};

/// An element by its key.
pub(super) type SeenElement = (Arc<[u8]>, ElementSpec);

/// The table's flags, if there is one.
pub(super) fn table(socket: &mut NftSocket) -> Result<Option<u32>, NftError> {
    let tables = socket.dump("list tables", msg::GETTABLE, |w| w.text(uapi::NFTA_TABLE_NAME, TABLE), decode::table)?;
    Ok(tables.first().copied())
}

/// The counters of the table with the packets that they have counted. A kernel that has none knows no such objects.
pub(super) fn counters(socket: &mut NftSocket) -> Result<BTreeMap<Arc<str>, u64>, NftError> {
    let filter = |w: &mut super::wire::Writer| {
        w.text(uapi::NFTA_OBJ_TABLE, TABLE);
        w.be32(uapi::NFTA_OBJ_TYPE, uapi::NFT_OBJECT_COUNTER);
    };
    let counters = socket.dump("list counters", msg::GETOBJ, filter, decode::counter)?;
    Ok(counters.into_iter().collect())
}

/// The sets; without a shape those that we cannot have made.
pub(super) fn sets(socket: &mut NftSocket) -> Result<BTreeMap<Arc<str>, Option<SetSpec>>, NftError> {
    let sets = socket.dump("list sets", msg::GETSET, |w| w.text(uapi::NFTA_SET_TABLE, TABLE), decode::set)?;
    Ok(sets.into_iter().collect())
}

/// The chains.
pub(super) fn chains(socket: &mut NftSocket) -> Result<BTreeMap<Arc<str>, SeenBase>, NftError> {
    let chains = socket.dump("list chains", msg::GETCHAIN, |w| w.text(uapi::NFTA_CHAIN_TABLE, TABLE), decode::chain)?;
    Ok(chains.into_iter().collect())
}

/// The rules in order, of one chain or of all.
pub(super) fn rules(socket: &mut NftSocket, chain: Option<&str>) -> Result<Vec<SeenRule>, NftError> {
    let filter = |w: &mut super::wire::Writer| {
        w.text(uapi::NFTA_RULE_TABLE, TABLE);
        if let Some(chain) = chain {
            w.text(uapi::NFTA_RULE_CHAIN, chain);
        }
    };
    socket.dump("list rules", msg::GETRULE, filter, decode::rule)
}

/// The elements of a set; none of a dynamic one.
pub(super) fn elements(socket: &mut NftSocket, set: &str, spec: &SetSpec) -> Result<Vec<SeenElement>, NftError> {
    if !decode::readable(spec) {
        return Ok(Vec::new());
    }
    let filter = |w: &mut super::wire::Writer| {
        w.text(uapi::NFTA_SET_ELEM_LIST_TABLE, TABLE);
        w.text(uapi::NFTA_SET_ELEM_LIST_SET, set);
    };
    let raw = socket.dump("list elements", msg::GETSETELEM, filter, |message| Some(decode::elements(message)))?;
    Ok(decode::join(spec, raw.into_iter().flatten().collect()))
}

/// What is in the kernel, as far as changes need it. Elements are read but for the sets that are in `old` with the same shape and not among
/// `doubted`: those are taken over.
pub(super) fn known(socket: &mut NftSocket, mut old: Known, doubted: &HashSet<Arc<str>>) -> Result<Known, NftError> {
    let counters = counters(socket)?.into_keys().collect();
    let mut known = Known { counters, chains: chains(socket)?, ..Known::default() };
    for (name, spec) in sets(socket)? {
        let kept = old.sets.remove(&name).filter(|set| set.spec == spec && !doubted.contains(&name));
        if let Some(kept) = kept {
            known.sets.insert(name, kept);
            continue;
        }
        let mut elements = KnownElements::of(spec.as_ref());
        if let Some(spec) = &spec {
            for (key, element) in self::elements(socket, &name, spec)? {
                elements.insert(&old.hasher, &key, element.end.as_ref());
            }
        }
        known.sets.insert(name, KnownSet { spec, elements });
    }
    known.hasher = old.hasher;
    Ok(known)
}

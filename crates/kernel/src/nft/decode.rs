//! What the kernel's dumps say of our table.
//!
//! Invariant: nothing of another table is taken for ours; what cannot be understood is returned as such, never left out.
//! Reference: Linux uapi `nf_tables.h`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_dataplane::objects::nft::{BaseChain, ChainKind, ElementData, ElementSpec, Hook, SetSpec, TABLE, Verdict};

use super::encode::predecessor;
use super::expr::{EncodedRule, UDATA_COMMENT, UDATA_FINGERPRINT};
use super::shape;
use super::uapi;
use super::wire::FAMILY_HEADER_BYTES;
use crate::wire::{Attrs, Received};

/// Flags of our table.
pub(super) fn table(message: &Received<'_>) -> Option<u32> {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    (attrs.text(uapi::NFTA_TABLE_NAME)? == TABLE).then(|| attrs.be32(uapi::NFTA_TABLE_FLAGS).unwrap_or(0))
}

/// Name and shape of a set; no shape if it is not one that we could have made.
pub(super) fn set(message: &Received<'_>) -> Option<(Arc<str>, Option<SetSpec>)> {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    if attrs.text(uapi::NFTA_SET_TABLE)? != TABLE {
        return None;
    }
    Some((attrs.text(uapi::NFTA_SET_NAME)?.into(), set_spec(attrs)))
}

fn set_spec(attrs: Attrs<'_>) -> Option<SetSpec> {
    let flags = attrs.be32(uapi::NFTA_SET_FLAGS).unwrap_or(0);
    let (key, data) = shape::of_userdata(attrs.get(uapi::NFTA_SET_USERDATA)?)?;
    let dynamic = flags & uapi::NFT_SET_EVAL != 0;
    let spec = SetSpec {
        key,
        data,
        interval: flags & uapi::NFT_SET_INTERVAL != 0,
        dynamic_timeout_ms: dynamic.then(|| be64(attrs, uapi::NFTA_SET_TIMEOUT).unwrap_or(0)),
        size: attrs.nested(uapi::NFTA_SET_DESC).be32(uapi::NFTA_SET_DESC_SIZE),
    };
    let as_sent = shape::flags(&spec) == flags && attrs.be32(uapi::NFTA_SET_KEY_LEN) == Some(shape::wire_bytes(&spec.key));
    as_sent.then_some(spec)
}

/// Name of a counter, and the packets that it has counted.
pub(super) fn counter(message: &Received<'_>) -> Option<(Arc<str>, u64)> {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    if attrs.text(uapi::NFTA_OBJ_TABLE)? != TABLE || attrs.be32(uapi::NFTA_OBJ_TYPE)? != uapi::NFT_OBJECT_COUNTER {
        return None;
    }
    let packets = be64(attrs.nested(uapi::NFTA_OBJ_DATA), uapi::NFTA_COUNTER_PACKETS)?;
    Some((attrs.text(uapi::NFTA_OBJ_NAME)?.into(), packets))
}

/// Name and hook of a chain.
pub(super) fn chain(message: &Received<'_>) -> Option<(Arc<str>, SeenBase)> {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    if attrs.text(uapi::NFTA_CHAIN_TABLE)? != TABLE {
        return None;
    }
    let name = attrs.text(uapi::NFTA_CHAIN_NAME)?.into();
    if attrs.get(uapi::NFTA_CHAIN_HOOK).is_none() {
        return Some((name, SeenBase::Regular));
    }
    // The first byte of `nfgenmsg` is the table's family.
    let arp = message.payload.first() == Some(&uapi::NFPROTO_ARP);
    Some((name, base_chain(attrs, arp).map_or(SeenBase::Other, SeenBase::Base)))
}

/// Where a chain of the kernel hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenBase {
    /// Nowhere: it is called by others.
    Regular,
    /// As we could have made it.
    Base(BaseChain),
    /// In a way that is not ours.
    Other,
}

impl SeenBase {
    /// Whether this is what is wanted.
    pub fn is(&self, want: Option<&BaseChain>) -> bool {
        match (self, want) {
            (SeenBase::Regular, None) => true,
            (SeenBase::Base(seen), Some(want)) => seen == want,
            (SeenBase::Regular | SeenBase::Base(_) | SeenBase::Other, _) => false,
        }
    }
}

fn base_chain(attrs: Attrs<'_>, arp: bool) -> Option<BaseChain> {
    let hook = attrs.nested(uapi::NFTA_CHAIN_HOOK);
    Some(BaseChain {
        kind: match attrs.text(uapi::NFTA_CHAIN_TYPE)?.as_str() {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            "route" => ChainKind::Route,
            _ => return None,
        },
        hook: match hook.be32(uapi::NFTA_HOOK_HOOKNUM)? {
            0 if arp => Hook::Arp,
            _ if arp => return None,
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        },
        priority: hook.be32(uapi::NFTA_HOOK_PRIORITY)?.cast_signed(),
        accept: attrs.be32(uapi::NFTA_CHAIN_POLICY)?.cast_signed() == uapi::NF_ACCEPT,
    })
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenRule {
    /// Its chain.
    pub(super) chain: Arc<str>,
    /// As it could be sent again.
    pub(super) raw: EncodedRule,
}

impl SeenRule {
    /// The fingerprint that we gave it; none if it is not ours.
    pub(super) fn fingerprint(&self) -> Option<u64> {
        shape::tlv(&self.raw.userdata, UDATA_FINGERPRINT)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Its comment.
    pub(super) fn comment(&self) -> Option<String> {
        let bytes = shape::tlv(&self.raw.userdata, UDATA_COMMENT)?;
        Some(String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
    }

    /// What is said of the first of these sets that the rule looks into.
    pub(super) fn uses<'s, T>(&self, sets: &'s BTreeMap<Arc<str>, T>) -> Option<&'s T> {
        self.expressions().find_map(|(name, data)| {
            let set = match name.as_str() {
                "lookup" => data.text(uapi::NFTA_LOOKUP_SET),
                "dynset" => data.text(uapi::NFTA_DYNSET_SET_NAME),
                _ => None,
            };
            sets.get(set?.as_str())
        })
    }

    /// Packets and bytes of its first counter.
    pub(super) fn counter(&self) -> Option<(u64, u64)> {
        let (_, data) = self.expressions().find(|(name, _)| name == "counter")?;
        Some((be64(data, uapi::NFTA_COUNTER_PACKETS)?, be64(data, uapi::NFTA_COUNTER_BYTES)?))
    }

    fn expressions(&self) -> impl Iterator<Item = (String, Attrs<'_>)> {
        Attrs::of(&self.raw.expressions).filter_map(|(_, expression)| {
            let expression = Attrs::of(expression);
            Some((expression.text(uapi::NFTA_EXPR_NAME)?, expression.nested(uapi::NFTA_EXPR_DATA)))
        })
    }
}

/// A rule of our table.
pub(super) fn rule(message: &Received<'_>) -> Option<SeenRule> {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    if attrs.text(uapi::NFTA_RULE_TABLE)? != TABLE {
        return None;
    }
    let raw = EncodedRule {
        expressions: attrs.get(uapi::NFTA_RULE_EXPRESSIONS).unwrap_or_default().to_vec(),
        userdata: attrs.get(uapi::NFTA_RULE_USERDATA).unwrap_or_default().to_vec(),
    };
    Some(SeenRule { chain: attrs.text(uapi::NFTA_RULE_CHAIN)?.into(), raw })
}

/// An element as the kernel keeps it; of an interval, one of its two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawElement {
    key: Vec<u8>,
    /// It is the first value after an interval.
    interval_end: bool,
    data: ElementData,
}

/// The elements in a message.
pub(super) fn elements(message: &Received<'_>) -> Vec<RawElement> {
    let attrs = message.attrs(FAMILY_HEADER_BYTES);
    attrs.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS).filter_map(|(_, entry)| element(Attrs::of(entry))).collect()
}

fn element(attrs: Attrs<'_>) -> Option<RawElement> {
    let data = match attrs.get(uapi::NFTA_SET_ELEM_DATA) {
        None => ElementData::Nothing,
        Some(data) => element_data(Attrs::of(data))?,
    };
    Some(RawElement {
        key: attrs.nested(uapi::NFTA_SET_ELEM_KEY).get(uapi::NFTA_DATA_VALUE)?.to_vec(),
        interval_end: attrs.be32(uapi::NFTA_SET_ELEM_FLAGS).unwrap_or(0) & uapi::NFT_SET_ELEM_INTERVAL_END != 0,
        data,
    })
}

fn element_data(attrs: Attrs<'_>) -> Option<ElementData> {
    if let Some(value) = attrs.get(uapi::NFTA_DATA_VALUE) {
        return Some(ElementData::Value(shape::pad(value).into()));
    }
    let verdict = attrs.nested(uapi::NFTA_DATA_VERDICT);
    let chain = || verdict.text(uapi::NFTA_VERDICT_CHAIN).map(Arc::<str>::from);
    Some(ElementData::Verdict(match verdict.be32(uapi::NFTA_VERDICT_CODE)?.cast_signed() {
        uapi::NF_ACCEPT => Verdict::Accept,
        uapi::NF_DROP => Verdict::Drop,
        uapi::NFT_RETURN => Verdict::Return,
        uapi::NFT_JUMP => Verdict::Jump(chain()?),
        uapi::NFT_GOTO => Verdict::Goto(chain()?),
        _ => return None,
    }))
}

/// Turns what the kernel keeps of a set into our elements: keys padded, the two ends of an interval joined.
pub(super) fn join(spec: &SetSpec, mut raw: Vec<RawElement>) -> Vec<(Arc<[u8]>, ElementSpec)> {
    if !spec.interval {
        return raw.into_iter().map(|e| (shape::pad(&e.key).into(), ElementSpec { end: None, data: e.data })).collect();
    }
    // Where an interval begins at the very value after another one, the end of the former comes first.
    raw.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
    let mut joined = Vec::with_capacity(raw.len() / 2 + 1);
    let mut open: Option<RawElement> = None;
    for element in raw {
        let (key, ends) = (element.key.clone(), element.interval_end);
        let before = if ends { open.take() } else { open.replace(element) };
        if let Some(start) = before {
            joined.push(interval(start, predecessor(&key).unwrap_or(key)));
        }
    }
    if let Some(start) = open {
        let last = vec![0xff; start.key.len()];
        joined.push(interval(start, last));
    }
    joined
}

fn interval(start: RawElement, last: Vec<u8>) -> (Arc<[u8]>, ElementSpec) {
    (shape::pad(&start.key).into(), ElementSpec { end: Some(shape::pad(&last).into()), data: start.data })
}

/// Whether a set's elements are ours to read: those of dynamic sets are the packets'.
pub(super) fn readable(spec: &SetSpec) -> bool {
    spec.dynamic_timeout_ms.is_none()
}

fn be64(attrs: Attrs<'_>, kind: u16) -> Option<u64> {
    attrs.get(kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use bowline_dataplane::objects::nft::{Field, SetData};

    use super::*;

    fn raw(key: [u8; 2], interval_end: bool) -> RawElement {
        RawElement { key: key.to_vec(), interval_end, data: ElementData::Nothing }
    }

    fn joined(raw: Vec<RawElement>) -> Vec<([u8; 2], [u8; 2])> {
        let spec = SetSpec { key: vec![Field::Port], data: SetData::Nothing, interval: true, dynamic_timeout_ms: None, size: None };
        let two = |bytes: &[u8]| *bytes.first_chunk().unwrap();
        join(&spec, raw).iter().map(|(key, spec)| (two(key), two(spec.end.as_deref().unwrap()))).collect()
    }

    #[test]
    fn ends_of_intervals_are_joined_whatever_their_order() {
        let adjacent = vec![raw([0, 9], true), raw([0, 5], false), raw([0, 3], false), raw([0, 5], true)];
        assert_eq!(joined(adjacent), [([0, 3], [0, 4]), ([0, 5], [0, 8])]);
        assert_eq!(joined(vec![raw([0, 0], false)]), [([0, 0], [255, 255])]);
        assert_eq!(joined(vec![raw([0, 0], true), raw([1, 0], false), raw([1, 1], true)]), [([1, 0], [1, 0])]);
        assert_eq!(joined(vec![raw([0, 1], false), raw([0, 7], false)]), [([0, 1], [0, 6]), ([0, 7], [255, 255])]);
    }
}

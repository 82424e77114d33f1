//! Messages that make and remove our table, sets, elements, chains and rules.
//!
//! Invariant: every message names our table, so nothing of another table can be meant.
//! Reference: Linux uapi `nf_tables.h`; intervals as the rbtree sets of the kernel keep them (start, and end + 1 with a flag).

use std::sync::Arc;

use bowline_dataplane::objects::nft::{BaseChain, ChainKind, ElementData, ElementSpec, Hook, SetData, SetSpec, TABLE};

use super::error::EncodeError;
use super::expr::{EncodedRule, value, verdict};
use super::shape;
use super::uapi::{self, msg};
use super::wire::Writer;

/// Creates the table if there is none, and wakes it if someone made it dormant. Asks for an acknowledgement.
pub(super) fn new_table(w: &mut Writer, sequence: u32) {
    w.nft(msg::NEWTABLE, uapi::NLM_F_CREATE | uapi::NLM_F_ACK, sequence, |w| {
        w.text(uapi::NFTA_TABLE_NAME, TABLE);
        w.be32(uapi::NFTA_TABLE_FLAGS, 0);
    });
}

/// Removes the table with all in it. Asks for an acknowledgement.
pub(super) fn delete_table(w: &mut Writer, sequence: u32) {
    w.nft(msg::DELTABLE, uapi::NLM_F_ACK, sequence, |w| w.text(uapi::NFTA_TABLE_NAME, TABLE));
}

/// Creates a set.
pub(super) fn new_set(w: &mut Writer, sequence: u32, name: &Arc<str>, spec: &SetSpec) -> Result<(), EncodeError> {
    check_name(name)?;
    shape::check(spec)?;
    w.nft(msg::NEWSET, uapi::NLM_F_CREATE, sequence, |w| {
        w.text(uapi::NFTA_SET_TABLE, TABLE);
        w.text(uapi::NFTA_SET_NAME, name);
        w.be32(uapi::NFTA_SET_FLAGS, shape::flags(spec));
        w.be32(uapi::NFTA_SET_KEY_TYPE, shape::type_number(&spec.key));
        w.be32(uapi::NFTA_SET_KEY_LEN, shape::wire_bytes(&spec.key));
        match &spec.data {
            SetData::Nothing => {}
            SetData::Verdict => {
                w.be32(uapi::NFTA_SET_DATA_TYPE, uapi::NFT_DATA_VERDICT);
                w.be32(uapi::NFTA_SET_DATA_LEN, 16);
            }
            SetData::Value(fields) => {
                w.be32(uapi::NFTA_SET_DATA_TYPE, shape::type_number(fields));
                w.be32(uapi::NFTA_SET_DATA_LEN, shape::wire_bytes(fields));
            }
        }
        w.be32(uapi::NFTA_SET_ID, sequence);
        if let Some(size) = shape::size(spec) {
            w.nest(uapi::NFTA_SET_DESC, |w| w.be32(uapi::NFTA_SET_DESC_SIZE, size));
        }
        if let Some(timeout_ms) = spec.dynamic_timeout_ms {
            w.be64(uapi::NFTA_SET_TIMEOUT, timeout_ms);
        }
        w.attr(uapi::NFTA_SET_USERDATA, &shape::userdata(spec));
    });
    Ok(())
}

/// Creates a counter that has counted nothing.
pub(super) fn new_counter(w: &mut Writer, sequence: u32, name: &Arc<str>) -> Result<(), EncodeError> {
    check_name(name)?;
    w.nft(msg::NEWOBJ, uapi::NLM_F_CREATE, sequence, |w| {
        counter_named(w, name);
        w.nest(uapi::NFTA_OBJ_DATA, |w| {
            w.be64(uapi::NFTA_COUNTER_BYTES, 0);
            w.be64(uapi::NFTA_COUNTER_PACKETS, 0);
        });
    });
    Ok(())
}

/// Removes a counter; no rule may count on it.
pub(super) fn delete_counter(w: &mut Writer, sequence: u32, name: &str) {
    w.nft(msg::DELOBJ, 0, sequence, |w| counter_named(w, name));
}

fn counter_named(w: &mut Writer, name: &str) {
    w.text(uapi::NFTA_OBJ_TABLE, TABLE);
    w.text(uapi::NFTA_OBJ_NAME, name);
    w.be32(uapi::NFTA_OBJ_TYPE, uapi::NFT_OBJECT_COUNTER);
}

/// Removes a set with its elements.
pub(super) fn delete_set(w: &mut Writer, sequence: u32, name: &str) {
    w.nft(msg::DELSET, 0, sequence, |w| {
        w.text(uapi::NFTA_SET_TABLE, TABLE);
        w.text(uapi::NFTA_SET_NAME, name);
    });
}

/// Creates a chain without rules, or sets the policy of a base chain that is there.
pub(super) fn new_chain(w: &mut Writer, sequence: u32, name: &Arc<str>, base: Option<&BaseChain>) -> Result<(), EncodeError> {
    check_name(name)?;
    w.nft(msg::NEWCHAIN, uapi::NLM_F_CREATE, sequence, |w| {
        w.text(uapi::NFTA_CHAIN_TABLE, TABLE);
        w.text(uapi::NFTA_CHAIN_NAME, name);
        if let Some(base) = base {
            w.nest(uapi::NFTA_CHAIN_HOOK, |w| {
                w.be32(uapi::NFTA_HOOK_HOOKNUM, hook_number(base.hook));
                w.be32(uapi::NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            });
            let policy = if base.accept { uapi::NF_ACCEPT } else { uapi::NF_DROP };
            w.be32(uapi::NFTA_CHAIN_POLICY, policy.cast_unsigned());
            w.text(uapi::NFTA_CHAIN_TYPE, kind_name(base.kind));
        }
    });
    Ok(())
}

/// Removes a chain; its rules must be gone.
pub(super) fn delete_chain(w: &mut Writer, sequence: u32, name: &str) {
    w.nft(msg::DELCHAIN, 0, sequence, |w| {
        w.text(uapi::NFTA_CHAIN_TABLE, TABLE);
        w.text(uapi::NFTA_CHAIN_NAME, name);
    });
}

/// Removes all rules of a chain.
pub(super) fn flush_chain(w: &mut Writer, sequence: u32, name: &str) {
    w.nft(msg::DELRULE, 0, sequence, |w| {
        w.text(uapi::NFTA_RULE_TABLE, TABLE);
        w.text(uapi::NFTA_RULE_CHAIN, name);
    });
}

/// Adds a rule at a chain's end.
pub(super) fn new_rule(w: &mut Writer, sequence: u32, chain: &str, rule: &EncodedRule) {
    w.nft(msg::NEWRULE, uapi::NLM_F_CREATE | uapi::NLM_F_APPEND, sequence, |w| {
        w.text(uapi::NFTA_RULE_TABLE, TABLE);
        w.text(uapi::NFTA_RULE_CHAIN, chain);
        w.attr(uapi::NFTA_RULE_EXPRESSIONS | uapi::NLA_F_NESTED, &rule.expressions);
        w.attr(uapi::NFTA_RULE_USERDATA, &rule.userdata);
    });
}

/// Adds or removes (`operation`) elements that `encode_element` wrote.
pub(super) fn elements(w: &mut Writer, operation: u16, sequence: u32, set: &str, elements: &[u8]) {
    let flags = if operation == msg::NEWSETELEM { uapi::NLM_F_CREATE } else { 0 };
    w.nft(operation, flags, sequence, |w| {
        w.text(uapi::NFTA_SET_ELEM_LIST_TABLE, TABLE);
        w.text(uapi::NFTA_SET_ELEM_LIST_SET, set);
        w.attr(uapi::NFTA_SET_ELEM_LIST_ELEMENTS | uapi::NLA_F_NESTED, elements);
    });
}

/// Writes one element to be added.
pub(super) fn add_element(w: &mut Writer, set: &Arc<str>, spec: &SetSpec, key: &[u8], element: &ElementSpec) -> Result<(), EncodeError> {
    if spec.dynamic_timeout_ms.is_some() {
        return Err(EncodeError::Dynamic { set: set.clone() });
    }
    let start = trim_key(spec, key)?;
    let end = interval_end(set, spec, key, element)?;
    match (&element.data, &spec.data) {
        (ElementData::Nothing, SetData::Nothing) => entry(w, start, false, |_| {}),
        (ElementData::Verdict(v), SetData::Verdict) => entry(w, start, false, |w| verdict(w, uapi::NFTA_SET_ELEM_DATA, v)),
        (ElementData::Value(data), SetData::Value(fields)) => {
            let expected = usize::try_from(shape::padded_bytes(fields)).unwrap_or(usize::MAX);
            let data = shape::trim(fields, data).ok_or(EncodeError::Length { what: "the element's value", bytes: data.len(), expected })?;
            entry(w, start, false, |w| value(w, uapi::NFTA_SET_ELEM_DATA, data));
        }
        (ElementData::Nothing | ElementData::Verdict(_) | ElementData::Value(_), _) => {
            return Err(EncodeError::Data { set: set.clone() });
        }
    }
    if let Some(after) = end.and_then(|end| successor(&end)) {
        entry(w, &after, true, |_| {});
    }
    Ok(())
}

/// Writes one element to be removed; of an interval, `end` is its last value.
pub(super) fn remove_element(w: &mut Writer, spec: &SetSpec, key: &[u8], end: Option<&[u8]>) -> Result<(), EncodeError> {
    let start = trim_key(spec, key)?;
    let after = end.map(|end| trim_key(spec, end)).transpose()?.and_then(successor);
    entry(w, start, false, |_| {});
    if let Some(after) = after {
        entry(w, &after, true, |_| {});
    }
    Ok(())
}

fn trim_key<'a>(spec: &SetSpec, key: &'a [u8]) -> Result<&'a [u8], EncodeError> {
    let expected = usize::try_from(shape::padded_bytes(&spec.key)).unwrap_or(usize::MAX);
    shape::trim(&spec.key, key).ok_or(EncodeError::Length { what: "the element's key", bytes: key.len(), expected })
}

/// The last value of the element's interval, trimmed; none where the set has no intervals.
fn interval_end(set: &Arc<str>, spec: &SetSpec, key: &[u8], element: &ElementSpec) -> Result<Option<Vec<u8>>, EncodeError> {
    if !spec.interval {
        return if element.end.is_none() { Ok(None) } else { Err(EncodeError::Interval { set: set.clone() }) };
    }
    let end = trim_key(spec, element.end.as_deref().unwrap_or(key))?;
    if end < trim_key(spec, key)? {
        return Err(EncodeError::Interval { set: set.clone() });
    }
    Ok(Some(end.to_vec()))
}

fn entry(w: &mut Writer, key: &[u8], interval_end: bool, data: impl FnOnce(&mut Writer)) {
    w.nest(uapi::NFTA_LIST_ELEM, |w| {
        if interval_end {
            w.be32(uapi::NFTA_SET_ELEM_FLAGS, uapi::NFT_SET_ELEM_INTERVAL_END);
        }
        value(w, uapi::NFTA_SET_ELEM_KEY, key);
        data(w);
    });
}

/// The value after this one as a big-endian number; none after the last.
pub(super) fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carried) = byte.overflowing_add(1);
        *byte = sum;
        if !carried {
            return Some(next);
        }
    }
    None
}

/// The value before this one as a big-endian number; none before the first.
pub(super) fn predecessor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut previous = bytes.to_vec();
    for byte in previous.iter_mut().rev() {
        let (difference, borrowed) = byte.overflowing_sub(1);
        *byte = difference;
        if !borrowed {
            return Some(previous);
        }
    }
    None
}

fn check_name(name: &Arc<str>) -> Result<(), EncodeError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
        return Err(EncodeError::Name { name: name.clone() });
    }
    Ok(())
}

/// `NF_INET_*` or `NF_ARP_*`, by the family of the table.
pub(super) fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting | Hook::Arp => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

/// Name of a base chain's type.
pub(super) fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
        ChainKind::Route => "route",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn neighbours_of_a_value() {
        assert_eq!(successor(&[0, 255]), Some(vec![1, 0]));
        assert_eq!(successor(&[255, 255]), None);
        assert_eq!(predecessor(&[1, 0]), Some(vec![0, 255]));
        assert_eq!(predecessor(&[0, 0]), None);
    }

    #[test]
    fn names_that_nft_could_misread_are_refused() {
        for bad in ["", "a b", "x;flush ruleset", "a\0b", &"x".repeat(256)] {
            let mut w = Writer::new();
            assert!(new_chain(&mut w, 1, &bad.into(), None).is_err(), "{bad:?}");
            assert_eq!(w.len(), 0);
        }
    }
}

//! What the kernel would refuse to load, found without a packet.

#![expect(clippy::wildcard_enum_match_arm, reason = "each question concerns a few of the many expressions")]

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Fault, Set, Table};
use crate::objects::nft::{ChainKind, ElementData, Expr, Field, Hook, Rule, SetData, Verdict};

/// `NFT_JUMP_STACK_SIZE`.
const DEPTH_MAX: usize = 16;

/// All faults of a table.
pub(super) fn all(table: &Table) -> Vec<Fault> {
    let mut faults = BTreeSet::new();
    for (name, chain) in &table.chains {
        for rule in &chain.rules {
            for what in rule_faults(table, rule) {
                faults.insert(Fault { chain: name.clone(), what });
            }
        }
        if let Some(base) = chain.base {
            let mut seen = BTreeSet::new();
            walk(table, name, base.kind, base.hook, 0, &mut seen, &mut faults);
        }
    }
    for name in table.chains.keys().chain(table.sets.keys()).chain(&table.counters).filter(|name| !is_name(name)) {
        faults.insert(Fault { chain: name.clone(), what: "cannot be a name".to_owned() });
    }
    for (name, set) in &table.sets {
        faults.extend(element_faults(table, set).into_iter().map(|what| Fault { chain: format!("(set {name})").into(), what }));
    }
    faults.into_iter().collect()
}

/// As the driver takes them, and `nft` prints them without quotation marks.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    (1..256).contains(&name.len()) && name.bytes().all(fits)
}

fn bytes(fields: &[Field]) -> usize {
    fields.iter().map(|field| field.padded_bytes() as usize).sum()
}

fn element_faults(table: &Table, set: &Set) -> Vec<String> {
    let mut faults = Vec::new();
    let key = bytes(&set.spec.key);
    let mut last: Option<&[u8]> = None;
    for (first, element) in &set.elements {
        if first.len() != key || element.end.as_ref().is_some_and(|end| end.len() != key) {
            faults.push(format!("an element's key is not of {key} bytes"));
        }
        if set.spec.interval != element.end.is_some() {
            faults.push("an interval in a set of single values, or the other way round".to_owned());
        }
        if last.is_some_and(|last| last >= &**first) {
            faults.push("intervals overlap".to_owned());
        }
        last = element.end.as_deref();
        match (&set.spec.data, &element.data) {
            (SetData::Nothing, ElementData::Nothing) => {}
            (SetData::Value(fields), ElementData::Value(value)) if value.len() == bytes(fields) => {}
            (SetData::Verdict, ElementData::Verdict(Verdict::Goto(to) | Verdict::Jump(to))) if !table.chains.contains_key(to) => {
                faults.push(format!("chain {to} is not there"));
            }
            (SetData::Verdict, ElementData::Verdict(_)) => {}
            _ => faults.push("an element's data is not what the set holds".to_owned()),
        }
    }
    faults
}

fn rule_faults(table: &Table, rule: &Rule) -> Vec<String> {
    let mut faults = Vec::new();
    if rule.comment.as_ref().is_some_and(|comment| comment.len() > 120) {
        faults.push("a comment is too long".to_owned());
    }
    let limited = rule.expressions.iter().any(|e| matches!(e, Expr::Limit { .. }));
    if limited && rule.expressions.iter().any(decides) {
        faults.push("a rule with a limit decides: what is above it would be judged otherwise".to_owned());
    }
    let mut filled = [false; 64];
    for expression in &rule.expressions {
        match expression {
            Expr::Count { counter } if !table.counters.contains(counter) => faults.push(format!("counter {counter} is not there")),
            Expr::Log { prefix, .. } if prefix.len() > 127 => faults.push("a prefix is too long".to_owned()),
            Expr::Limit { per_second: 0, .. } => faults.push("a limit lets nothing through".to_owned()),
            _ => {}
        }
        let set = set_of(expression).map(|name| table.sets.get(name).ok_or(name));
        let set = match set {
            Some(Err(name)) => {
                faults.push(format!("set {name} is not there"));
                continue;
            }
            Some(Ok(set)) => Some(set),
            None => None,
        };
        for (reg, len) in reads(expression, set) {
            let start = usize::from(reg) * 4;
            if !filled.get(start..start + len).is_some_and(|slots| slots.iter().all(|f| *f)) {
                faults.push(format!("{len} bytes from register {reg} on are read and not filled by {expression:?}"));
            }
        }
        if let Some((reg, len)) = writes(expression, set) {
            let start = usize::from(reg) * 4;
            match filled.get_mut(start..start + len.next_multiple_of(4)) {
                Some(slots) => slots.fill(true),
                None => faults.push(format!("register {reg} has no room for {len} bytes")),
            }
        }
        let wrong = match (expression, set.map(|s| &s.spec.data)) {
            (Expr::Lookup { .. }, Some(SetData::Verdict | SetData::Value(_))) => Some("a map is asked for membership only"),
            (Expr::LookupValue { .. }, Some(SetData::Nothing | SetData::Verdict)) => Some("a value is asked of what holds none"),
            (Expr::LookupVerdict { .. }, Some(SetData::Nothing | SetData::Value(_))) => Some("a verdict is asked of what holds none"),
            _ => None,
        };
        faults.extend(wrong.map(str::to_owned));
    }
    faults
}

/// Whether an expression says what becomes of the packet, or changes it.
fn decides(expression: &Expr) -> bool {
    let ends = matches!(expression, Expr::Verdict(_) | Expr::LookupVerdict { .. } | Expr::RejectReset | Expr::RejectPort);
    let translates = matches!(expression, Expr::Dnat { .. } | Expr::Snat { .. } | Expr::Masquerade { .. });
    ends || translates || matches!(expression, Expr::MetaSetMark { .. } | Expr::CtSetMark { .. } | Expr::Notrack)
}

fn set_of(expression: &Expr) -> Option<&Arc<str>> {
    match expression {
        Expr::Lookup { set, .. }
        | Expr::LookupValue { set, .. }
        | Expr::LookupVerdict { set, .. }
        | Expr::Update { set, .. }
        | Expr::Delete { set, .. } => Some(set),
        _ => None,
    }
}

/// Registers that an expression reads, with the number of bytes.
fn reads(expression: &Expr, set: Option<&Set>) -> Vec<(u8, usize)> {
    let key_bytes = set.map_or(0, Set::key_bytes);
    let value_bytes = set.map_or(0, |s| match &s.spec.data {
        SetData::Value(fields) => bytes(fields),
        SetData::Nothing | SetData::Verdict => 0,
    });
    match expression {
        Expr::MetaSetMark { from } | Expr::CtSetMark { from } => vec![(from.0, 4)],
        Expr::Cmp { from, data, .. } => vec![(from.0, data.len())],
        Expr::Range { from, low, .. } => vec![(from.0, low.len())],
        Expr::Bitwise { from, mask, .. } => vec![(from.0, mask.len())],
        Expr::Lookup { key, .. } | Expr::LookupValue { key, .. } | Expr::LookupVerdict { key, .. } => vec![(key.0, key_bytes)],
        Expr::Update { key, data, .. } | Expr::Delete { key, data, .. } => {
            std::iter::once((key.0, key_bytes)).chain(data.map(|d| (d.0, value_bytes))).collect()
        }
        Expr::Dnat { family, address, port } => {
            let address = (address.0, usize::from(family.address_bytes()));
            std::iter::once(address).chain(port.map(|p| (p.0, 2))).collect()
        }
        Expr::Snat { family, address, .. } => vec![(address.0, usize::from(family.address_bytes()))],
        _ => Vec::new(),
    }
}

/// The register that an expression fills, with the number of bytes.
fn writes(expression: &Expr, set: Option<&Set>) -> Option<(u8, usize)> {
    use crate::objects::nft::MetaKey;
    match expression {
        Expr::Meta { key: MetaKey::IifName | MetaKey::OifName, to } => Some((to.0, 16)),
        Expr::Meta { to, .. } | Expr::Ct { to, .. } | Expr::FibType { to, .. } | Expr::Random { to, .. } => Some((to.0, 4)),
        Expr::Payload { len, to, .. } => Some((to.0, *len as usize)),
        Expr::Immediate { to, data } => Some((to.0, data.len())),
        Expr::Bitwise { to, mask, .. } => Some((to.0, mask.len())),
        Expr::LookupValue { to, .. } => match set.map(|s| &s.spec.data) {
            Some(SetData::Value(fields)) => Some((to.0, bytes(fields))),
            Some(SetData::Nothing | SetData::Verdict) | None => None,
        },
        _ => None,
    }
}

/// Follows all ways from a base chain: loops and depth, and expressions that the hook or the chain's type does not have.
fn walk(
    table: &Table,
    name: &Arc<str>,
    kind: ChainKind,
    hook: Hook,
    depth: usize,
    seen: &mut BTreeSet<(Arc<str>, usize)>,
    faults: &mut BTreeSet<Fault>,
) {
    let mut fault = |what: &str| {
        faults.insert(Fault { chain: name.clone(), what: what.to_owned() });
    };
    let Some(chain) = table.chains.get(name) else { return fault("is not there") };
    if depth >= DEPTH_MAX {
        return fault("is too deep, or in a loop");
    }
    if !seen.insert((name.clone(), depth)) {
        return;
    }
    let mut next: Vec<Arc<str>> = Vec::new();
    for expression in chain.rules.iter().flat_map(|r| &r.expressions) {
        let allowed = match expression {
            Expr::Dnat { .. } => kind == ChainKind::Nat && matches!(hook, Hook::Prerouting | Hook::Output),
            Expr::Snat { .. } => kind == ChainKind::Nat && matches!(hook, Hook::Postrouting | Hook::Input),
            Expr::Masquerade { .. } => kind == ChainKind::Nat && hook == Hook::Postrouting,
            Expr::RejectReset | Expr::RejectPort => hook != Hook::Postrouting,
            _ => true,
        };
        if !allowed {
            fault(&format!("{expression:?} is not for {kind:?} at {hook:?}"));
        }
        match expression {
            Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => next.push(to.clone()),
            Expr::LookupVerdict { set, .. } => {
                let elements = table.sets.get(set).into_iter().flat_map(|s| s.elements.values());
                let targets: BTreeSet<Arc<str>> = elements
                    .filter_map(|e| match &e.data {
                        ElementData::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => Some(to.clone()),
                        ElementData::Verdict(_) | ElementData::Nothing | ElementData::Value(_) => None,
                    })
                    .collect();
                next.extend(targets);
            }
            _ => {}
        }
    }
    for to in next {
        walk(table, &to, kind, hook, depth + 1, seen, faults);
    }
}

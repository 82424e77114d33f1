//! Against this kernel, each test in a network namespace of its own.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may fail loudly, and says why it was skipped"
)]

mod arp;
mod change;
mod faults;
mod kinds;
mod load;
mod lowered;
mod packets;
mod random;
mod snapshot;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;

use bowline_dataplane::objects::nft::{
    BaseChain, ChainKind, ChainSpec, ElementData, ElementSpec, Expr, Field, Hook, KeyBuilder, NftKey, NftObject, Rule, SetData, SetSpec,
    Verdict,
};
use bowline_model::Delta;

use super::NftDriver;
use crate::netns::NetNs;
use crate::netns::testing::fresh;
use crate::reconcile::Driver;

pub(super) type Objects = BTreeMap<NftKey, NftObject>;

pub(super) fn set_key(name: &str) -> NftKey {
    NftKey::Set(name.into())
}

pub(super) fn chain_key(name: &str) -> NftKey {
    NftKey::Chain(name.into())
}

pub(super) fn element_key(set: &str, key: KeyBuilder) -> NftKey {
    NftKey::Element { set: set.into(), key: key.build() }
}

pub(super) fn set_of(key: &[Field], data: SetData) -> SetSpec {
    SetSpec { key: key.to_vec(), data, interval: false, dynamic_timeout_ms: None, size: None }
}

pub(super) fn intervals_of(field: Field) -> SetSpec {
    SetSpec { interval: true, ..set_of(&[field], SetData::Nothing) }
}

pub(super) fn point(data: ElementData) -> NftObject {
    NftObject::Element(ElementSpec { end: None, data })
}

pub(super) fn up_to(end: KeyBuilder) -> NftObject {
    NftObject::Element(ElementSpec { end: Some(end.build()), data: ElementData::Nothing })
}

pub(super) fn goto(chain: &str) -> Verdict {
    Verdict::Goto(chain.into())
}

pub(super) fn rule(expressions: Vec<Expr>) -> Rule {
    Rule { expressions, comment: None }
}

pub(super) fn commented(comment: &str, expressions: Vec<Expr>) -> Rule {
    Rule { expressions, comment: Some(comment.into()) }
}

pub(super) fn chain(rules: Vec<Rule>) -> NftObject {
    NftObject::Chain(ChainSpec { base: None, rules })
}

pub(super) fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> NftObject {
    NftObject::Chain(ChainSpec { base: Some(BaseChain { kind, hook, priority, accept: true }), rules })
}

pub(super) fn ip(text: &str) -> KeyBuilder {
    KeyBuilder::new().ip(text.parse().unwrap())
}

pub(super) fn value(key: KeyBuilder) -> ElementData {
    ElementData::Value(key.build())
}

pub(super) fn bytes(bytes: &[u8]) -> Arc<[u8]> {
    bytes.into()
}

/// Applies all and expects no failure; every generation of rules that this begins is a transaction that the driver has counted.
pub(super) fn apply(driver: &mut NftDriver, delta: &Delta<NftKey, NftObject>) {
    let others = |driver: &mut NftDriver| driver.generation().unwrap().wrapping_sub(driver.commits());
    let before = others(driver);
    let report = driver.apply(delta);
    assert_eq!(others(driver), before, "{} transactions", driver.commits());
    assert!(report.failed.is_empty(), "{} failed, first: {:?}", report.failed.len(), report.failed.first());
}

/// Turns the one into the other and expects no failure.
pub(super) fn turn(driver: &mut NftDriver, old: &Objects, new: &Objects) {
    apply(driver, &Delta::between(old, new));
}

/// What differs between the kernel, as a fresh driver reads it, and what is wanted: keys to write and keys to remove.
pub(super) fn differences(ns: &NetNs, want: &Objects) -> Vec<String> {
    let mut driver = NftDriver::open_in(ns).unwrap();
    let seen = driver.read_owned(want).unwrap();
    let mut differences = Vec::new();
    for (key, object) in want {
        match seen.get(key) {
            None => differences.push(format!("{key:?} is missing")),
            Some(found) if !NftDriver::same(found, object) => differences.push(format!("{key:?} is {found:?}, wanted {object:?}")),
            Some(_) => {}
        }
    }
    differences.extend(seen.keys().filter(|key| !want.contains_key(*key)).map(|key| format!("{key:?} is too many")));
    differences
}

pub(super) fn assert_equal(ns: &NetNs, want: &Objects) {
    let differences = differences(ns, want);
    assert!(differences.is_empty(), "{differences:#?}");
}

/// What the `nft` program says, an outside judge; none if the machine does not have it.
pub(super) fn nft(ns: &NetNs, arguments: &[&str]) -> Option<String> {
    let output = ns.run(|| Command::new("nft").args(arguments).output()).unwrap();
    match output {
        Ok(output) => {
            assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "nft is needed in CI: {error}");
            println!("skipped: no nft program: {error}");
            None
        }
    }
}

/// A namespace and a driver in it.
pub(super) fn start() -> Option<(NetNs, NftDriver)> {
    let ns = fresh()?;
    let driver = NftDriver::open_in(&ns).unwrap();
    Some((ns, driver))
}

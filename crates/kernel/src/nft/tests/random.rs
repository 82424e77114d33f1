//! Random tables: what is read back is what was applied, from whatever was there before.

use bowline_dataplane::objects::nft::Reg;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Names are few, so that later tables change what earlier ones made.
fn table() -> impl Strategy<Value = Objects> {
    let sets =
        proptest::collection::btree_map(0..3_u8, (shape(), proptest::collection::vec((any::<u8>(), any::<u8>(), 0..6_u8), 0..12)), 0..3);
    let chains =
        proptest::collection::btree_map(0..4_u8, (proptest::option::of(any::<bool>()), proptest::collection::vec(0..6_u8, 0..4)), 0..4);
    (sets, chains).prop_map(|(sets, chains)| {
        let mut objects = Objects::new();
        let targets: Vec<u8> = chains.iter().filter(|(_, (base, _))| base.is_none()).map(|(name, _)| *name).collect();
        for (name, (base_chain, rules)) in &chains {
            let rules: Vec<Rule> = rules.iter().map(|n| some_rule(*n, *name, &targets)).collect();
            let spec = base_chain.map(|accept| BaseChain { kind: ChainKind::Filter, hook: Hook::Input, priority: 3, accept });
            objects.insert(chain_key(&format!("c{name}")), NftObject::Chain(ChainSpec { base: spec, rules }));
        }
        for (name, (spec, elements)) in sets {
            let name = format!("s{name}");
            insert_elements(&mut objects, &name, &spec, &elements, &targets);
            // Rules of this chain look into the set, so that it cannot change its shape alone.
            let zeros = |register| Expr::Immediate { to: Reg(register), data: bytes(&[0; 16]) };
            let mut expressions = vec![zeros(0), zeros(4)];
            if spec.dynamic_timeout_ms.is_none() && spec.data == SetData::Nothing {
                expressions.push(Expr::Lookup { set: name.as_str().into(), key: Reg(0), invert: false });
                objects.insert(chain_key(&format!("look_{name}")), chain(vec![rule(expressions)]));
            }
            objects.insert(set_key(&name), NftObject::Set(spec));
        }
        objects
    })
}

fn shape() -> impl Strategy<Value = SetSpec> {
    let fields = prop_oneof![
        Just(vec![Field::Ipv4]),
        Just(vec![Field::Ipv6]),
        Just(vec![Field::Port]),
        Just(vec![Field::Proto]),
        Just(vec![Field::Ether]),
        Just(vec![Field::Ipv4, Field::Proto, Field::Port]),
        Just(vec![Field::Ipv6, Field::Ether]),
    ];
    let data = prop_oneof![
        3 => Just(SetData::Nothing),
        1 => Just(SetData::Verdict),
        1 => Just(SetData::Value(vec![Field::Ipv4, Field::Port])),
        1 => Just(SetData::Value(vec![Field::Port])),
    ];
    (fields, data, any::<bool>(), proptest::option::of(Just(5000_u32)), 0..8_u8).prop_map(|(key, data, interval, size, dynamic)| SetSpec {
        interval: interval && key.len() == 1,
        dynamic_timeout_ms: None,
        size,
        data: if dynamic == 0 { SetData::Nothing } else { data },
        key,
    })
}

/// A key whose first field's last byte is `last`, so that keys are in the order of their numbers and far from each other.
fn key(spec: &SetSpec, last: u8) -> Arc<[u8]> {
    let mut key = Vec::new();
    for field in &spec.key {
        let mut part = vec![0; usize::try_from(field.padded_bytes()).unwrap()];
        part[usize::try_from(field.bytes()).unwrap() - 1] = last;
        key.extend(part);
    }
    key.into()
}

fn insert_elements(objects: &mut Objects, set: &str, spec: &SetSpec, elements: &[(u8, u8, u8)], targets: &[u8]) {
    let mut free = 0_u16;
    let mut sorted: Vec<_> = elements.to_vec();
    sorted.sort_unstable();
    for (start, length, kind) in sorted {
        let data = match &spec.data {
            SetData::Nothing => ElementData::Nothing,
            SetData::Verdict => ElementData::Verdict(match targets.get(usize::from(kind)) {
                Some(name) => goto(&format!("c{name}")),
                None if kind == 5 => Verdict::Accept,
                None => Verdict::Drop,
            }),
            SetData::Value(fields) => {
                let length = fields.iter().map(|f| usize::try_from(f.padded_bytes()).unwrap()).sum();
                let mut value = vec![0_u8; length];
                value[0] = kind;
                ElementData::Value(value.into())
            }
        };
        let last = u16::from(start) + u16::from(length % 8);
        if spec.interval && (u16::from(start) < free || last > 255) {
            continue;
        }
        free = last + 1;
        let end = spec.interval.then(|| key(spec, u8::try_from(last).unwrap()));
        objects.insert(NftKey::Element { set: set.into(), key: key(spec, start) }, NftObject::Element(ElementSpec { end, data }));
    }
}

/// Calls go to chains of higher names only, so that there are no circles.
fn some_rule(kind: u8, chain: u8, targets: &[u8]) -> Rule {
    let target = targets.iter().find(|name| **name > chain);
    match (kind, target) {
        (0, _) => rule(vec![Expr::Counter]),
        (1, Some(target)) => rule(vec![Expr::Verdict(Verdict::Jump(format!("c{target}").into()))]),
        (2, Some(target)) => commented("goes", vec![Expr::Verdict(goto(&format!("c{target}")))]),
        (3, _) => rule(vec![Expr::Verdict(Verdict::Drop)]),
        (n, _) => commented(&format!("rule {n}"), vec![Expr::Random { to: Reg(0), modulus: u32::from(n) + 1 }]),
    }
}

#[test]
fn any_table_turns_into_any_other() {
    let Some((ns, driver)) = start() else { return };
    let state = std::cell::RefCell::new((driver, Objects::new()));
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(table(), any::<bool>()), |(new, restarted)| {
        let (driver, now) = &mut *state.borrow_mut();
        if restarted {
            *driver = NftDriver::open_in(&ns).unwrap();
        }
        let report = driver.apply(&Delta::between(now, &new));
        if !report.failed.is_empty() {
            // So that a shrinking run begins with a known table.
            driver.uninstall().unwrap();
        }
        let before = std::mem::replace(now, if report.failed.is_empty() { new.clone() } else { Objects::new() });
        prop_assert!(report.failed.is_empty(), "{:?}\nfrom {before:?}", report.failed);
        let differences = differences(&ns, &new);
        prop_assert!(differences.is_empty(), "{differences:#?}\nfrom {before:?}");
        Ok(())
    });
    outcome.unwrap();
}

/// Something that the kernel refuses, in a table that may be sound otherwise.
fn flaw() -> impl Strategy<Value = (NftKey, NftObject)> {
    let missing_chain = || ElementData::Verdict(goto("nowhere"));
    let missing_set = Expr::Lookup { set: "nowhere".into(), key: Reg(0), invert: false };
    let load = Expr::Immediate { to: Reg(0), data: bytes(&[0; 4]) };
    let bad_rule = rule(vec![load, missing_set]);
    let good_rule = rule(vec![Expr::Counter]);
    let element = (0..3_u8, any::<u8>(), any::<bool>()).prop_map(move |(set, last, fits)| {
        let spec = set_of(if fits { &[Field::Ipv4] } else { &[Field::Ipv6] }, SetData::Verdict);
        (NftKey::Element { set: format!("s{set}").into(), key: key(&spec, last) }, point(missing_chain()))
    });
    let chains = (0..5_u8).prop_map(move |name| (chain_key(&format!("c{name}")), chain(vec![good_rule.clone(), bad_rule.clone()])));
    let hooks = (0..5_u8).prop_map(|name| (chain_key(&format!("c{name}")), base(ChainKind::Nat, Hook::Forward, 0, vec![])));
    let sets = (0..3_u8).prop_map(|name| (set_key(&format!("s{name}")), NftObject::Set(set_of(&[Field::Ipv6; 4], SetData::Nothing))));
    prop_oneof![element, chains, hooks, sets]
}

#[test]
fn whatever_is_refused_the_rest_is_in_force_and_nothing_by_half() {
    let Some((ns, driver)) = start() else { return };
    let driver = std::cell::RefCell::new(driver);
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let flaws = proptest::collection::vec(flaw(), 1..4);
    let outcome = runner.run(&(table(), table(), flaws), |(old, new, flaws)| {
        let driver = &mut *driver.borrow_mut();
        driver.uninstall().unwrap();
        let report = driver.apply(&Delta::between(&Objects::new(), &old));
        prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
        let mut flawed = new;
        flawed.extend(flaws);
        let mut delta = Delta::between(&old, &flawed);
        let report = driver.apply(&delta);
        for failure in &report.failed {
            delta.set.remove(&failure.key);
            delta.remove.remove(&failure.key);
        }
        let mut want = old.clone();
        delta.apply_to(&mut want);
        // The elements of a set go with it, also where the set's removal was asked for and theirs was refused.
        let sets: std::collections::BTreeSet<_> = want.keys().cloned().collect();
        want.retain(|key, _| if let NftKey::Element { set, .. } = key { sets.contains(&NftKey::Set(set.clone())) } else { true });
        let differences = differences(&ns, &want);
        prop_assert!(report.disturbed || differences.is_empty(), "{differences:#?}\nfailed {:#?}\nfrom {old:#?}", report.failed);
        Ok(())
    });
    outcome.unwrap();
}

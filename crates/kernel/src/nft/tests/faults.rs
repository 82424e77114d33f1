//! What the kernel refuses is told by its key; the rest is in force, and nothing by half.

use bowline_dataplane::objects::nft::Reg;
use bowline_model::Family;

use super::change::services;
use super::*;

fn failed(driver: &mut NftDriver, delta: &Delta<NftKey, NftObject>) -> Vec<NftKey> {
    let report = driver.apply(delta);
    for failure in &report.failed {
        println!("{:?}: {} (retryable: {})", failure.key, failure.error, failure.retryable);
    }
    report.failed.into_iter().map(|failure| failure.key).collect()
}

fn add(objects: &Objects) -> Delta<NftKey, NftObject> {
    Delta { set: objects.clone(), remove: Default::default() }
}

#[test]
fn one_element_among_many_is_found() {
    let Some((ns, mut driver)) = start() else { return };
    let mut want = services(1);
    for n in 0..1200_u32 {
        let key = KeyBuilder::new().ip(std::net::Ipv4Addr::from(0x0a01_0000 + n).into());
        want.insert(element_key("svc", key), point(ElementData::Verdict(goto("n_0"))));
    }
    let bad = [element_key("svc", ip("10.1.2.3")), element_key("svc", ip("10.1.2.4"))];
    for key in &bad {
        want.insert(key.clone(), point(ElementData::Verdict(goto("nowhere"))));
    }
    assert_eq!(failed(&mut driver, &add(&want)), bad);
    for key in &bad {
        want.remove(key);
    }
    assert_equal(&ns, &want);
}

#[test]
fn a_bad_rule_leaves_its_chain_as_it_was_and_the_rest_goes_on() {
    let Some((ns, mut driver)) = start() else { return };
    let old = services(3);
    turn(&mut driver, &Objects::new(), &old);
    let mut good = Delta::default();
    good.put(chain_key("n_1"), chain(vec![commented("changed", vec![Expr::Counter])]));
    good.put(element_key("svc", ip("10.0.0.77")), point(ElementData::Verdict(Verdict::Drop)));
    good.drop_key(element_key("svc", ip("10.0.0.2")));
    let mut delta = good.clone();
    let lookup = Expr::Lookup { set: "no_such_set".into(), key: Reg(0), invert: false };
    let load = Expr::Immediate { to: Reg(0), data: bytes(&[0; 4]) };
    delta.put(chain_key("n_0"), chain(vec![rule(vec![Expr::Counter]), rule(vec![load, lookup])]));
    assert_eq!(failed(&mut driver, &delta), [chain_key("n_0")]);
    let mut want = old;
    good.apply_to(&mut want);
    assert_equal(&ns, &want);
}

#[test]
fn what_depends_on_a_failure_fails_with_it() {
    let Some((ns, mut driver)) = start() else { return };
    let mut want = services(2);
    let sound = want.clone();
    // No filter chain may translate addresses, and this one is called from one.
    let dnat = Expr::Dnat { family: Family::V4, address: Reg(0), port: None };
    want.insert(chain_key("bad"), chain(vec![rule(vec![Expr::Immediate { to: Reg(0), data: bytes(&[10, 0, 0, 1]) }, dnat])]));
    want.insert(element_key("svc", ip("10.9.9.9")), point(ElementData::Verdict(goto("bad"))));
    want.insert(set_key("no_set"), NftObject::Set(set_of(&[], SetData::Nothing)));
    want.insert(element_key("no_set", ip("10.9.9.9")), point(ElementData::Nothing));
    let failed = failed(&mut driver, &add(&want));
    assert!(failed.contains(&set_key("no_set")) && failed.contains(&element_key("no_set", ip("10.9.9.9"))), "{failed:?}");
    assert!(failed.contains(&chain_key("bad")) && failed.contains(&element_key("svc", ip("10.9.9.9"))), "{failed:?}");
    assert_eq!(failed.len(), 4, "{failed:?}");
    for key in &failed {
        want.remove(key);
    }
    assert_eq!(want, sound);
    assert_equal(&ns, &want);
}

#[test]
fn calls_in_a_circle_are_refused() {
    let Some((ns, mut driver)) = start() else { return };
    let mut want = services(1);
    let jump = |to: &str| chain(vec![rule(vec![Expr::Verdict(Verdict::Jump(to.into()))])]);
    want.insert(chain_key("a"), jump("b"));
    want.insert(chain_key("b"), jump("a"));
    want.insert(chain_key("start"), base(ChainKind::Filter, Hook::Input, 0, vec![rule(vec![Expr::Verdict(Verdict::Jump("a".into()))])]));
    let failed = failed(&mut driver, &add(&want));
    assert!(!failed.is_empty());
    for key in &failed {
        assert!(matches!(key, NftKey::Chain(name) if ["a", "b", "start"].contains(&&**name)), "{failed:?}");
        want.remove(key);
    }
    assert_equal(&ns, &want);
}

#[test]
fn what_cannot_be_encoded_is_refused_before_anything_is_sent() {
    let Some((ns, mut driver)) = start() else { return };
    let want = services(2);
    let mut delta = add(&want);
    let short = NftKey::Element { set: "svc".into(), key: bytes(&[1, 2]) };
    delta.put(short.clone(), point(ElementData::Verdict(Verdict::Drop)));
    delta.put(element_key("svc", ip("10.3.3.3")), point(ElementData::Nothing));
    delta.put(element_key("nowhere", ip("10.3.3.3")), point(ElementData::Nothing));
    delta.put(chain_key("x y"), chain(vec![]));
    delta.put(chain_key("long"), chain(vec![commented(&"c".repeat(121), vec![])]));
    delta.put(chain_key("reg"), chain(vec![rule(vec![Expr::Immediate { to: Reg(13), data: bytes(&[0; 16]) }])]));
    delta.put(chain_key("kind"), point(ElementData::Nothing));
    let failed = failed(&mut driver, &delta);
    assert_eq!(failed.len(), 7, "{failed:?}");
    assert_equal(&ns, &want);
}

#[test]
fn removing_what_is_not_there_is_no_failure() {
    let Some((ns, mut driver)) = start() else { return };
    let mut delta = Delta::default();
    for key in services(3).into_keys() {
        delta.drop_key(key);
    }
    apply(&mut driver, &delta);
    turn(&mut driver, &Objects::new(), &services(1));
    delta.remove = services(3).into_keys().filter(|key| !services(1).contains_key(key)).collect();
    apply(&mut driver, &delta);
    assert_equal(&ns, &services(1));
}

#[test]
fn a_chain_still_called_is_not_removed() {
    let Some((ns, mut driver)) = start() else { return };
    let want = services(2);
    turn(&mut driver, &Objects::new(), &want);
    let mut delta = Delta::default();
    delta.drop_key(chain_key("n_0"));
    delta.put(chain_key("other"), chain(vec![]));
    assert_eq!(failed(&mut driver, &delta), [chain_key("n_0")]);
    let mut want = want;
    want.insert(chain_key("other"), chain(vec![]));
    assert_equal(&ns, &want);
}

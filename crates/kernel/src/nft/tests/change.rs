//! Changes of what is there: the whole table is the new one afterwards, whatever depended on what.

use bowline_dataplane::objects::nft::{CmpOp, Reg};

use super::*;
use crate::reconcile::{Reconciler, SyncMode};

/// A small table in which all depends on each other: a base chain looks into a verdict map that names chains.
pub(super) fn services(count: u8) -> Objects {
    let mut objects = Objects::new();
    objects.insert(set_key("svc"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Verdict)));
    let look =
        rule(vec![Expr::Immediate { to: Reg(0), data: bytes(&[10, 0, 0, 1]) }, Expr::LookupVerdict { set: "svc".into(), key: Reg(0) }]);
    objects.insert(chain_key("pre"), base(ChainKind::Filter, Hook::Prerouting, 0, vec![look]));
    for n in 0..count {
        let name = format!("n_{n}");
        objects.insert(chain_key(&name), chain(vec![rule(vec![Expr::Counter, Expr::Verdict(Verdict::Accept)])]));
        objects.insert(element_key("svc", ip(&format!("10.0.0.{n}"))), point(ElementData::Verdict(goto(&name))));
    }
    objects
}

#[test]
fn what_is_named_goes_and_comes_with_what_names_it() {
    let Some((ns, mut driver)) = start() else { return };
    let (one, five, none) = (services(1), services(5), Objects::new());
    for (old, new) in [(&none, &five), (&five, &one), (&one, &five), (&five, &none)] {
        turn(&mut driver, old, new);
        assert_equal(&ns, new);
    }
}

#[test]
fn elements_and_chains_change_in_place() {
    let Some((ns, mut driver)) = start() else { return };
    let old = services(3);
    turn(&mut driver, &Objects::new(), &old);
    let mut new = old.clone();
    new.insert(element_key("svc", ip("10.0.0.1")), point(ElementData::Verdict(goto("n_2"))));
    new.insert(element_key("svc", ip("10.0.0.2")), point(ElementData::Verdict(Verdict::Drop)));
    new.insert(chain_key("n_0"), chain(vec![commented("a", vec![Expr::Verdict(Verdict::Drop)]), rule(vec![Expr::Counter])]));
    turn(&mut driver, &old, &new);
    assert_equal(&ns, &new);
    let mut comment_only = new.clone();
    comment_only.insert(chain_key("n_0"), chain(vec![commented("b", vec![Expr::Verdict(Verdict::Drop)]), rule(vec![Expr::Counter])]));
    assert_eq!(differences(&ns, &comment_only).len(), 1);
    turn(&mut driver, &new, &comment_only);
    assert_equal(&ns, &comment_only);
}

#[test]
fn a_set_in_use_changes_its_shape_with_all_else_unharmed() {
    let Some((ns, mut driver)) = start() else { return };
    let old = services(3);
    turn(&mut driver, &Objects::new(), &old);
    let mut new = old.clone();
    new.insert(set_key("svc"), NftObject::Set(SetSpec { size: Some(1000), ..set_of(&[Field::Ipv4], SetData::Verdict) }));
    new.insert(element_key("svc", ip("10.0.0.9")), point(ElementData::Verdict(Verdict::Accept)));
    turn(&mut driver, &old, &new);
    assert_equal(&ns, &new);
    turn(&mut driver, &new, &old);
    assert_equal(&ns, &old);
}

#[test]
fn elements_that_do_not_fit_the_new_shape_are_told_as_a_disturbance() {
    let Some((ns, mut driver)) = start() else { return };
    let mut old = services(2);
    old.insert(set_key("s"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Nothing)));
    old.insert(element_key("s", ip("10.0.0.1")), point(ElementData::Nothing));
    turn(&mut driver, &Objects::new(), &old);
    let mut delta = Delta::default();
    delta.put(set_key("s"), NftObject::Set(set_of(&[Field::Ipv6], SetData::Nothing)));
    let report = driver.apply(&delta);
    assert!(report.failed.is_empty() && report.disturbed, "{report:?}");
    let mut new = old;
    delta.apply_to(&mut new);
    new.remove(&element_key("s", ip("10.0.0.1")));
    assert_equal(&ns, &new);
}

#[test]
fn a_chain_changes_its_hook_policy_or_becomes_a_regular_one() {
    let Some((ns, mut driver)) = start() else { return };
    let accept = vec![rule(vec![Expr::Verdict(Verdict::Accept)])];
    let mut old = Objects::new();
    let closed = |priority| BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority, accept: false };
    for object in [
        base(ChainKind::Filter, Hook::Prerouting, 5, accept.clone()),
        base(ChainKind::Filter, Hook::Forward, 5, accept.clone()),
        NftObject::Chain(ChainSpec { base: Some(closed(5)), rules: accept.clone() }),
        NftObject::Chain(ChainSpec { base: Some(closed(-7)), rules: vec![] }),
        base(ChainKind::Nat, Hook::Output, -100, vec![]),
        chain(accept.clone()),
        base(ChainKind::Route, Hook::Output, -100, accept.clone()),
    ] {
        let new = Objects::from([(chain_key("c"), object)]);
        turn(&mut driver, &old, &new);
        assert_equal(&ns, &new);
        old = new;
    }
}

#[test]
fn intervals_keep_their_ends() {
    let Some((ns, mut driver)) = start() else { return };
    let mut old = Objects::new();
    for steps in [
        vec![("0.0.0.0", "255.255.255.255")],
        vec![("0.0.0.0", "0.0.0.0"), ("0.0.0.1", "0.0.0.1"), ("255.255.255.255", "255.255.255.255")],
        vec![("10.0.0.0", "10.0.0.255"), ("10.0.1.0", "10.0.1.255"), ("10.0.2.0", "10.255.255.255")],
        vec![("10.0.0.0", "10.0.1.255"), ("10.0.2.0", "10.0.2.0")],
        vec![("0.0.0.0", "9.255.255.255"), ("10.0.1.0", "255.255.255.255")],
        vec![("10.0.0.0", "10.255.255.255")],
        vec![],
    ] {
        let mut new = Objects::from([(set_key("blk"), NftObject::Set(intervals_of(Field::Ipv4)))]);
        new.extend(steps.into_iter().map(|(start, end)| (element_key("blk", ip(start)), up_to(ip(end)))));
        turn(&mut driver, &old, &new);
        assert_equal(&ns, &new);
        old = new;
    }
    let mut whole = Objects::from([(set_key("blk6"), NftObject::Set(intervals_of(Field::Ipv6)))]);
    whole.insert(element_key("blk6", ip("::")), up_to(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
    turn(&mut driver, &old, &whole);
    assert_equal(&ns, &whole);
}

#[test]
fn a_value_without_an_end_is_an_interval_of_one() {
    let Some((ns, mut driver)) = start() else { return };
    let mut want = Objects::from([(set_key("p"), NftObject::Set(intervals_of(Field::Port)))]);
    want.insert(element_key("p", KeyBuilder::new().port(80)), point(ElementData::Nothing));
    turn(&mut driver, &Objects::new(), &want);
    assert_equal(&ns, &want);
    turn(&mut driver, &want, &Objects::new());
    assert_equal(&ns, &Objects::new());
}

#[test]
fn a_restart_writes_nothing() {
    let Some((ns, driver)) = start() else { return };
    let want = super::kinds::everything();
    let mut first = Reconciler::new(driver);
    first.want(Delta { set: want.clone(), remove: Default::default() });
    first.allow_removal();
    let report = first.sync(SyncMode::Full, 0);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.written, report.removed), (want.len(), 0));
    let mut second = Reconciler::new(NftDriver::open_in(&ns).unwrap());
    second.want(Delta { set: want.clone(), remove: Default::default() });
    second.allow_removal();
    let report = second.sync(SyncMode::Full, 0);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.written, report.removed), (0, 0));
}

#[test]
fn what_someone_else_changed_is_put_right() {
    let Some((ns, driver)) = start() else { return };
    let want = services(4);
    let mut ours = Reconciler::new(driver);
    ours.want(Delta { set: want.clone(), remove: Default::default() });
    ours.allow_removal();
    assert!(ours.sync(SyncMode::Full, 0).is_clean());
    let mut other = NftDriver::open_in(&ns).unwrap();
    let mut meddling = Delta::default();
    meddling.drop_key(element_key("svc", ip("10.0.0.1")));
    meddling.put(chain_key("n_2"), chain(vec![]));
    meddling.put(chain_key("foreign"), chain(vec![]));
    apply(&mut other, &meddling);
    let report = ours.sync(SyncMode::Full, 1);
    assert_eq!((report.written, report.removed), (2, 1), "{report:?}");
    assert_equal(&ns, &want);
    other.uninstall().unwrap();
    let report = ours.sync(SyncMode::Full, 2);
    assert_eq!((report.written, report.removed), (want.len(), 0), "{report:?}");
    assert_equal(&ns, &want);
}

#[test]
fn a_driver_that_believes_wrongly_converges_on_the_kernel() {
    let Some((ns, mut driver)) = start() else { return };
    let (one, five) = (services(1), services(5));
    turn(&mut driver, &Objects::new(), &five);
    // Behind the driver's back all goes, and then comes back in other shapes.
    let mut other = NftDriver::open_in(&ns).unwrap();
    other.uninstall().unwrap();
    turn(&mut driver, &five, &Objects::new());
    assert_equal(&ns, &Objects::new());
    let drops = Objects::from([
        (set_key("svc"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Verdict))),
        (element_key("svc", ip("10.0.0.0")), point(ElementData::Verdict(Verdict::Drop))),
    ]);
    turn(&mut NftDriver::open_in(&ns).unwrap(), &Objects::new(), &drops);
    turn(&mut driver, &Objects::new(), &one);
    assert_equal(&ns, &one);
}

#[test]
fn a_table_put_to_sleep_is_woken() {
    let Some((ns, driver)) = start() else { return };
    let want = services(2);
    let mut ours = Reconciler::new(driver);
    ours.want(Delta { set: want.clone(), remove: Default::default() });
    assert!(ours.sync(SyncMode::Full, 0).is_clean());
    if nft(&ns, &["add table inet bowline { flags dormant; }"]).is_none() {
        return;
    }
    assert_eq!(differences(&ns, &want).len(), 1);
    assert!(ours.sync(SyncMode::Full, 1).is_clean());
    assert_equal(&ns, &want);
    assert!(!nft(&ns, &["list", "table", "inet", "bowline"]).unwrap().contains("dormant"));
}

#[test]
fn what_is_read_while_others_write_is_whole() {
    let Some((ns, mut driver)) = start() else { return };
    let mut want = Objects::from([(set_key("big"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Nothing)))]);
    for n in 0..1500_u32 {
        want.insert(element_key("big", KeyBuilder::new().host_u32(n)), point(ElementData::Nothing));
    }
    turn(&mut driver, &Objects::new(), &want);
    let mut other = NftDriver::open_in(&ns).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let noise = |n| chain(vec![commented(&format!("{n}"), vec![Expr::Counter])]);
            for n in 0..400 {
                apply(&mut other, &Delta { set: [(chain_key("noise"), noise(n))].into(), remove: Default::default() });
            }
        });
        let mut reads = 0;
        while !writer.is_finished() || reads == 0 {
            let seen = driver.read_owned(&want).unwrap();
            assert_eq!(seen.keys().filter(|key| matches!(key, NftKey::Element { .. })).count(), 1500);
            reads += 1;
        }
        println!("{reads} reads beside 400 writes");
    });
}

#[test]
fn uninstall_leaves_nothing_and_may_be_repeated() {
    let Some((ns, mut driver)) = start() else { return };
    driver.uninstall().unwrap();
    turn(&mut driver, &Objects::new(), &services(3));
    assert!(driver.is_installed().unwrap());
    driver.uninstall().unwrap();
    driver.uninstall().unwrap();
    assert!(!driver.is_installed().unwrap());
    assert_equal(&ns, &Objects::new());
    if let Some(text) = nft(&ns, &["list", "ruleset"]) {
        assert_eq!(text, "");
    }
    turn(&mut driver, &Objects::new(), &services(3));
    assert_equal(&ns, &services(3));
}

#[test]
fn a_foreign_table_is_left_as_it_is() {
    let Some((ns, mut driver)) = start() else { return };
    let foreign = "
        table inet bowline2 {
            set svc { type ipv4_addr; elements = { 10.0.0.1 }; }
            chain pre { type filter hook prerouting priority 0; ip saddr @svc counter drop; }
        }
        table ip bowline {
            map svc { type ipv4_addr : verdict; }
            chain n_0 { counter; }
        }";
    if nft(&ns, &[foreign]).is_none() {
        return;
    }
    let both = || (nft(&ns, &["list", "table", "inet", "bowline2"]), nft(&ns, &["list", "table", "ip", "bowline"]));
    let before = both();
    assert_equal(&ns, &Objects::new());
    turn(&mut driver, &Objects::new(), &services(3));
    assert_eq!(both(), before);
    turn(&mut driver, &services(3), &services(1));
    driver.uninstall().unwrap();
    assert_eq!(both(), before);
}

#[test]
fn rules_differ_by_each_part_of_them() {
    let compare = |op, data: &[u8]| rule(vec![Expr::Cmp { op, from: Reg(0), data: bytes(data) }]);
    let all = [
        compare(CmpOp::Eq, &[1]),
        compare(CmpOp::Ne, &[1]),
        compare(CmpOp::Eq, &[2]),
        compare(CmpOp::Eq, &[1, 0]),
        commented("x", compare(CmpOp::Eq, &[1]).expressions),
        rule(vec![]),
    ];
    let prints: std::collections::BTreeSet<_> = all.iter().map(super::super::expr::rule_fingerprint).collect();
    assert_eq!(prints.len(), all.len());
}

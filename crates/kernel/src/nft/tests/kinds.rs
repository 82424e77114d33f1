//! Every kind of set and every expression: taken by the kernel, read back as it was sent, shown by `nft`.

use bowline_dataplane::objects::nft::{CmpOp, CtKey, MetaKey, PayloadBase, Reg};
use bowline_model::{Family, MacAddr};

use super::*;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

fn every_set(objects: &mut Objects) {
    let mut add = |name: &str, spec: SetSpec| objects.insert(set_key(name), NftObject::Set(spec));
    let service = [Field::Ipv4, Field::Proto, Field::Port];
    add("svc4", set_of(&service, SetData::Verdict));
    add("svc6", set_of(&[Field::Ipv6, Field::Proto, Field::Port], SetData::Verdict));
    let endpoint = SetData::Value(vec![Field::Ipv4, Field::Port]);
    add("ep4", SetSpec { size: Some(100_000), ..set_of(&[Field::Ipv4, Field::Proto, Field::Port, Field::Index], endpoint.clone()) });
    add("src4", set_of(&[Field::IfName, Field::Ether, Field::Ipv4], SetData::Nothing));
    add("live6", set_of(&[Field::Ipv6, Field::Proto, Field::Port, Field::Ipv6, Field::Port], SetData::Nothing));
    add("peer_mark", set_of(&[Field::Ether], SetData::Value(vec![Field::Mark])));
    let lifetime = Some(10_800_000);
    let affinity = [Field::Ipv4, Field::Ipv4, Field::Proto, Field::Port];
    add("aff4", SetSpec { dynamic_timeout_ms: lifetime, size: Some(65_000), ..set_of(&affinity, endpoint) });
    add("seen", SetSpec { dynamic_timeout_ms: lifetime, ..set_of(&[Field::Ipv4], SetData::Nothing) });
    for (name, field) in [
        ("one_ipv4", Field::Ipv4),
        ("one_ipv6", Field::Ipv6),
        ("one_ether", Field::Ether),
        ("one_proto", Field::Proto),
        ("one_port", Field::Port),
        ("one_mark", Field::Mark),
        ("one_index", Field::Index),
        ("one_ifname", Field::IfName),
    ] {
        add(name, set_of(&[field], SetData::Nothing));
        add(&format!("{name}_to_port"), set_of(&[field], SetData::Value(vec![Field::Port])));
    }
    add("blk4", intervals_of(Field::Ipv4));
    add("blk6", intervals_of(Field::Ipv6));
    add("ports", intervals_of(Field::Port));
    add("port_verdicts", SetSpec { interval: true, ..set_of(&[Field::Port], SetData::Verdict) });
}

fn every_element(objects: &mut Objects) {
    let mut add = |set: &str, key: KeyBuilder, object: NftObject| objects.insert(element_key(set, key), object);
    add("svc4", ip("10.96.0.1").proto(6).port(443), point(ElementData::Verdict(goto("n_2"))));
    add("svc4", ip("10.96.0.1").proto(17).port(53), point(ElementData::Verdict(Verdict::Jump("n_2".into()))));
    add("svc4", ip("10.96.0.2").proto(17).port(53), point(ElementData::Verdict(Verdict::Drop)));
    add("svc4", ip("10.96.0.3").proto(17).port(53), point(ElementData::Verdict(Verdict::Accept)));
    add("svc6", ip("fd00::1").proto(6).port(443), point(ElementData::Verdict(Verdict::Return)));
    for index in 0..2 {
        let key = ip("10.96.0.1").proto(6).port(443).host_u32(index);
        add("ep4", key, point(value(ip("10.42.0.7").port(8443))));
    }
    add("src4", KeyBuilder::new().ifname("bwl1").mac(MAC).ip("10.42.0.7".parse().unwrap()), point(ElementData::Nothing));
    add("live6", ip("fd00::1").proto(6).port(443).ip("fd00::7".parse().unwrap()).port(8443), point(ElementData::Nothing));
    add("peer_mark", KeyBuilder::new().mac(MAC), point(value(KeyBuilder::new().host_u32(0x0003_0000))));
    let new = KeyBuilder::new;
    for (set, key) in [
        ("one_ipv4", ip("10.0.0.1")),
        ("one_ipv6", ip("fd00::1")),
        ("one_ether", new().mac(MAC)),
        ("one_proto", new().proto(132)),
        ("one_port", new().port(80)),
        ("one_mark", new().host_u32(7)),
        ("one_index", new().host_u32(9)),
        ("one_ifname", new().ifname("eth0")),
    ] {
        add(set, key.clone(), point(ElementData::Nothing));
        add(&format!("{set}_to_port"), key, point(value(new().port(8080))));
    }
    add("blk4", ip("10.0.0.0"), up_to(ip("10.255.255.255")));
    add("blk6", ip("::"), up_to(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
    add("ports", new().port(0), up_to(new().port(79)));
    add("ports", new().port(80), up_to(new().port(80)));
    add("ports", new().port(65_000), up_to(new().port(65_535)));
    let end = Some(new().port(2000).build());
    let drops = ElementSpec { end, data: ElementData::Verdict(goto("counted")) };
    add("port_verdicts", new().port(1000), NftObject::Element(drops));
}

/// A field of a key by itself: `nft` 1.0.6 aborts on a rule that loads a concatenation in one piece.
fn fixed(register: u8, data: &[u8]) -> Expr {
    Expr::Immediate { to: Reg(register), data: bytes(data) }
}

fn loads() -> Vec<Rule> {
    let mut rules = Vec::new();
    for key in [MetaKey::NfProto, MetaKey::L4Proto, MetaKey::IifName, MetaKey::OifName, MetaKey::Mark, MetaKey::IifType] {
        rules.push(rule(vec![Expr::Meta { key, to: Reg(0) }]));
    }
    for key in [CtKey::State, CtKey::Status, CtKey::Mark, CtKey::Direction] {
        rules.push(rule(vec![Expr::Ct { key, to: Reg(15) }]));
    }
    for (base, offset, len) in [(PayloadBase::Link, 6, 6), (PayloadBase::Network, 8, 16), (PayloadBase::Transport, 2, 2)] {
        rules.push(rule(vec![Expr::Payload { base, offset, len, to: Reg(4) }]));
    }
    for destination in [true, false] {
        rules.push(rule(vec![
            Expr::FibType { destination, to: Reg(1) },
            Expr::Cmp { op: CmpOp::Eq, from: Reg(1), data: bytes(&2_u32.to_ne_bytes()) },
        ]));
    }
    rules.push(rule(vec![Expr::Random { to: Reg(3), modulus: 7 }, Expr::MetaSetMark { from: Reg(3) }, Expr::CtSetMark { from: Reg(3) }]));
    rules.push(rule(vec![
        Expr::Immediate { to: Reg(0), data: bytes(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]) },
        Expr::Cmp { op: CmpOp::Ne, from: Reg(0), data: bytes(b"bwl") },
        Expr::Range { invert: false, from: Reg(0), low: bytes(&[0, 80]), high: bytes(&[0, 90]) },
        Expr::Range { invert: true, from: Reg(0), low: bytes(&[1, 0]), high: bytes(&[2, 0]) },
        Expr::Bitwise { from: Reg(0), to: Reg(5), mask: bytes(&[255, 255, 0, 0]), xor: bytes(&[0, 0, 0, 1]) },
        Expr::Counter,
    ]));
    rules
}

fn lookups() -> Vec<Rule> {
    let five_tuple = || {
        vec![
            Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: Reg(0) },
            Expr::Meta { key: MetaKey::L4Proto, to: Reg(1) },
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(2) },
        ]
    };
    let with = |more: Vec<Expr>| rule([five_tuple(), more].concat());
    vec![
        with(vec![Expr::Random { to: Reg(3), modulus: 2 }, Expr::LookupValue { set: "ep4".into(), key: Reg(0), to: Reg(8) }]),
        with(vec![Expr::Lookup { set: "one_ipv4".into(), key: Reg(0), invert: true }]),
        with(vec![Expr::Lookup { set: "ports".into(), key: Reg(2), invert: false }, Expr::Verdict(Verdict::Return)]),
        with(vec![Expr::Update { set: "seen".into(), key: Reg(0), data: None, timeout_ms: 5000 }]),
        rule(vec![
            fixed(0, &[10, 0, 0, 1]),
            fixed(1, &[10, 0, 0, 2]),
            fixed(2, &[6]),
            fixed(3, &[0, 80]),
            fixed(4, &[10, 42, 0, 1]),
            fixed(5, &[0, 80]),
            Expr::Update { set: "aff4".into(), key: Reg(0), data: Some(Reg(4)), timeout_ms: 10_800_000 },
            Expr::Delete { set: "aff4".into(), key: Reg(0), data: Some(Reg(4)) },
            // `nft` 1.0.6 aborts when a register that a map filled is a key or a value within the same rule, so this comes last.
            Expr::LookupValue { set: "aff4".into(), key: Reg(0), to: Reg(4) },
            Expr::Notrack,
        ]),
        with(vec![Expr::LookupVerdict { set: "port_verdicts".into(), key: Reg(2) }]),
    ]
}

fn every_chain(objects: &mut Objects) {
    let mut add = |name: &str, object: NftObject| objects.insert(chain_key(name), object);
    let dnat4 = Expr::Dnat { family: Family::V4, address: Reg(8), port: Some(Reg(9)) };
    let dnat6 = Expr::Dnat { family: Family::V6, address: Reg(0), port: None };
    let load4 = vec![fixed(8, &[10, 42, 0, 7]), fixed(9, &[0, 80])];
    let load6 = vec![fixed(0, &[0xfd; 16])];
    add("n_2", chain(vec![commented("two endpoints", [load4.clone(), vec![dnat4]].concat()), rule([load6.clone(), vec![dnat6]].concat())]));
    add("loads", chain(loads()));
    add("lookups", base(ChainKind::Filter, Hook::Prerouting, -310, lookups()));
    add("counted", chain(vec![commented(&"x".repeat(120), vec![Expr::Counter, Expr::Verdict(Verdict::Drop)])]));
    let jump = |chain: &str| rule(vec![Expr::Verdict(Verdict::Jump(chain.into()))]);
    add("fw", base(ChainKind::Filter, Hook::Forward, 0, vec![jump("loads"), jump("reject"), rule(vec![Expr::Verdict(Verdict::Accept)])]));
    add("in", base(ChainKind::Filter, Hook::Input, 10, vec![jump("reject"), rule(vec![Expr::Verdict(goto("counted"))])]));
    add("out", base(ChainKind::Route, Hook::Output, -150, vec![jump("loads")]));
    let services = Expr::LookupVerdict { set: "svc4".into(), key: Reg(0) };
    let key = vec![fixed(0, &[10, 96, 0, 1]), fixed(1, &[6]), fixed(2, &[0, 80]), services];
    add("nat_pre", base(ChainKind::Nat, Hook::Prerouting, -100, vec![rule(key.clone())]));
    add("nat_out", base(ChainKind::Nat, Hook::Output, -100, vec![rule(key)]));
    let snat = Expr::Snat { family: Family::V4, address: Reg(8), random_fully: true };
    let snat6 = Expr::Snat { family: Family::V6, address: Reg(0), random_fully: false };
    let post = vec![
        rule(vec![load4[0].clone(), snat]),
        rule([load6, vec![snat6]].concat()),
        rule(vec![Expr::Masquerade { random_fully: true }]),
        rule(vec![Expr::Masquerade { random_fully: false }]),
    ];
    add("post", base(ChainKind::Nat, Hook::Postrouting, 100, post));
    let tcp = vec![Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) }, Expr::Cmp { op: CmpOp::Eq, from: Reg(0), data: bytes(&[6]) }];
    add("reject", chain(vec![rule([tcp, vec![Expr::RejectReset]].concat()), rule(vec![Expr::RejectPort])]));
}

pub(super) fn everything() -> Objects {
    let mut objects = Objects::new();
    every_set(&mut objects);
    every_element(&mut objects);
    every_chain(&mut objects);
    objects
}

#[test]
fn the_kernel_takes_every_kind_and_gives_it_back() {
    let Some((ns, mut driver)) = start() else { return };
    let want = everything();
    turn(&mut driver, &Objects::new(), &want);
    assert_equal(&ns, &want);
    turn(&mut driver, &want, &Objects::new());
    assert_equal(&ns, &Objects::new());
}

#[test]
fn nft_shows_what_was_applied() {
    let Some((ns, mut driver)) = start() else { return };
    let want = everything();
    turn(&mut driver, &Objects::new(), &want);
    let Some(json) = nft(&ns, &["-j", "list", "table", "inet", "bowline"]) else { return };
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let list = json["nftables"].as_array().unwrap();
    let named = |kind: &str| list.iter().filter_map(|o| o[kind]["name"].as_str()).map(str::to_owned).collect::<Vec<_>>();
    let mut sets = [named("set"), named("map")].concat();
    sets.sort();
    let wanted: Vec<_> = want.keys().filter_map(|k| if let NftKey::Set(name) = k { Some(name.to_string()) } else { None }).collect();
    assert_eq!(sets, wanted);
    let mut chains = named("chain");
    chains.sort();
    let wanted: Vec<_> = want.keys().filter_map(|k| if let NftKey::Chain(name) = k { Some(name.to_string()) } else { None }).collect();
    assert_eq!(chains, wanted);
    let elements: usize = list.iter().flat_map(|o| [&o["set"], &o["map"]]).filter_map(|o| o["elem"].as_array()).map(Vec::len).sum();
    assert_eq!(elements, want.keys().filter(|k| matches!(k, NftKey::Element { .. })).count());
    let rules = list.iter().filter(|o| o.get("rule").is_some()).count();
    let wanted: usize = want.values().map(|o| if let NftObject::Chain(c) = o { c.rules.len() } else { 0 }).sum();
    assert_eq!(rules, wanted);
}

#[test]
fn nft_prints_keys_that_people_can_read() {
    let Some((ns, mut driver)) = start() else { return };
    turn(&mut driver, &Objects::new(), &everything());
    let Some(text) = nft(&ns, &["-nn", "list", "table", "inet", "bowline"]) else { return };
    for wanted in [
        "type ipv4_addr . inet_proto . inet_service : verdict",
        "10.96.0.1 . 6 . 443 : goto n_2",
        "10.96.0.1 . 6 . 443 . 0x00000001 : 10.42.0.7 . 8443",
        "\"bwl1\" . 02:00:00:00:00:01 . 10.42.0.7",
        "fd00::1 . 6 . 443 . fd00::7 . 8443",
        "02:00:00:00:00:01 : 0x00030000",
        "10.0.0.0/8",
        "::/0",
        "0-79",
        "1000-2000 : goto counted",
        "comment \"two endpoints\"",
        "type nat hook postrouting priority 100; policy accept;",
        "elements = { 0x00000009 }",
        "elements = { \"eth0\" : 8080 }",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
}

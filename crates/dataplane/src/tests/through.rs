//! Packets through all hooks at once, with routes that somebody else knows.

use std::collections::BTreeMap;

use bowline_model::Family;
use bowline_model::intent::Intent;

use super::notation::{CAST, address, host, name_of, parse, pod_mac};
use crate::interpret::{End, LeadsTo, Packet, Table, through};
use crate::objects::nft::{NftKey, NftObject};

const SETUP: &str = "pods a b
    closed c
    policy web b in: a,x tcp/80
    svc v1:80/tcp -> b:80
    svc v2:80/tcp -> reject";

/// Sends from one of the cast to another: where it ended up, and how.
fn send(from: &str, to: &str, port: u16, family: Family) -> (String, u16, End) {
    send_by(&crate::lower(&Intent::default(), &parse(SETUP), &host()).value.nft.set, from, to, port, family)
}

fn send_by(objects: &BTreeMap<NftKey, NftObject>, from: &str, to: &str, port: u16, family: Family) -> (String, u16, End) {
    let mut table = Table::from_objects(objects);
    let mut packet = Packet::new(address(from, family), address(to, family), 6, port);
    packet.local_addresses = ["n1", "n1ext"].map(|name| address(name, family)).into();
    match from {
        "n1" => {}
        "a" | "b" | "c" => (packet.iif, packet.ether_src) = (format!("bwl{from}"), Some(pod_mac(from))),
        "x" => (packet.iif, packet.ether_src) = ("bowline.1".into(), Some(super::notation::node(2).vtep_mac)),
        _ => packet.iif = "eth0".into(),
    }
    let name_at = |ip| CAST.iter().map(|(name, _, _)| *name).find(|name| address(name, family) == ip).unwrap_or("out");
    let outcome = through(&mut table, &mut packet, |ip| match name_at(*ip) {
        "n1" | "n1ext" => LeadsTo::Node,
        pod @ ("a" | "b" | "c") => LeadsTo::Link(format!("bwl{pod}")),
        "x" | "y" => LeadsTo::Link("bowline.1".into()),
        _ => LeadsTo::Link("eth0".into()),
    });
    (name_of(&packet.dst), packet.dst_port, outcome.end)
}

#[test]
fn services_and_policies_are_met_on_the_way() {
    for family in Family::BOTH {
        for (from, to, port, expected) in [
            ("a", "b", 80, ("b", 80, End::Accept)),
            ("a", "b", 81, ("b", 81, End::Drop)),
            ("a", "v1", 80, ("b", 80, End::Accept)),
            ("n1", "v1", 80, ("b", 80, End::Accept)),
            ("n1", "b", 81, ("b", 81, End::Accept)),
            ("n1", "c", 80, ("c", 80, End::Drop)),
            ("x", "b", 80, ("b", 80, End::Accept)),
            ("x", "b", 81, ("b", 81, End::Drop)),
            ("out", "b", 80, ("b", 80, End::Drop)),
            ("a", "v2", 80, ("v2", 80, End::Reset)),
            ("a", "n1", 22, ("n1", 22, End::Accept)),
            ("a", "out", 443, ("out", 443, End::Accept)),
            ("c", "n1", 22, ("n1", 22, End::Drop)),
        ] {
            let (to_name, to_port, end) = expected;
            assert_eq!(send(from, to, port, family), (to_name.to_owned(), to_port, end), "{from} -> {to}:{port} {family}");
        }
    }
}

/// A transaction may make a chain and lead to it; a packet that is on its way meanwhile finds it without rules.
#[test]
fn whoever_is_led_to_a_chain_that_is_still_empty_is_closed_out() {
    let mut objects = crate::lower(&Intent::default(), &parse(SETUP), &host()).value.nft.set;
    let mut emptied = 0;
    for (key, object) in &mut objects {
        let NftKey::Chain(name) = key else { continue };
        if let NftObject::Chain(spec) = object
            && ["in_", "out_", "open"].iter().any(|stem| name.starts_with(stem))
        {
            spec.rules.clear();
            emptied += 1;
        }
    }
    assert_eq!(emptied, 3, "the list of b, and those of pods that are open");
    for family in Family::BOTH {
        for (from, to) in
            [("a", "b"), ("b", "a"), ("x", "b"), ("x", "a"), ("out", "a"), ("a", "out"), ("b", "n1"), ("a", "v1"), ("n1", "v1")]
        {
            let (.., end) = send_by(&objects, from, to, 80, family);
            // What the node itself sends to its pods is asked nothing.
            let expected = if from == "n1" { End::Accept } else { End::Drop };
            assert_eq!(end, expected, "{from} -> {to} {family}");
        }
    }
}

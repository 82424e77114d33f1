//! What must hold for every world.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::intent::services::{Frontend, FrontendAddress, ServicesIntent, WhenEmpty};
use bowline_model::{Checked, Family, Protocol};
use proptest::collection::vec;
use proptest::prelude::*;

use super::policy_table::flow;
use crate::oracle::policy::{End, allowed};
use crate::oracle::service::{Answer, Client, endpoints_for, health_checks};
use crate::testing::dice::{self, Dice};
use crate::testing::notation::{changes, settings};
use crate::world::{Object, Settings};
use crate::{Change, Compiler, Judge, Kind, ObjectKey, Touched, World};

fn broad_settings() -> Settings {
    let mut settings = settings();
    settings.external_ips = vec!["203.0.113.0/24".parse().unwrap(), "192.168.0.0/24".parse().unwrap()];
    settings.load_balancer_ips = settings.external_ips.clone();
    settings.dns_pods = true;
    settings
}

/// All lines that the bytes make.
fn lines(bytes: &[u8]) -> Vec<String> {
    let mut dice = Dice::new(bytes);
    let mut lines = Vec::new();
    while !dice.is_spent() {
        lines.push(dice::line(&mut dice));
    }
    lines
}

fn fold(world: &mut World, lines: &[String]) -> Touched {
    let mut touched = Touched::default();
    for change in lines.iter().flat_map(|line| changes(line)) {
        touched.merge(world.apply(change).value);
    }
    touched
}

/// All of it but the revision.
fn without_revision(checked: Checked<Intent>) -> Checked<Intent> {
    checked.map(|intent| Intent { revision: 0, ..intent })
}

/// Fails with the part that differs.
fn assert_same(got: Checked<Intent>, wanted: Checked<Intent>, about: &str) {
    let (got, wanted) = (without_revision(got), without_revision(wanted));
    assert_eq!(got.value.pods, wanted.value.pods, "{about}");
    assert_eq!(got.value.routes, wanted.value.routes, "{about}");
    assert_eq!(got.value.services, wanted.value.services, "{about}");
    assert_eq!(got.value.policy, wanted.value.policy, "{about}");
    assert_eq!(got.value.dns, wanted.value.dns, "{about}");
    assert_eq!(got, wanted, "{about}");
}

/// What a frontend says to a client.
fn says(frontend: &Frontend, client: Client) -> Answer {
    let own = frontend.own_endpoints.as_ref().filter(|_| client.own);
    let endpoints = own.unwrap_or(&frontend.endpoints);
    let welcome = frontend.sources.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&client.ip)));
    match (endpoints.is_empty(), frontend.when_empty) {
        (false, _) if !welcome => Answer::Drop,
        (false, _) => Answer::Endpoints(endpoints.iter().copied().collect()),
        (true, WhenEmpty::Reject) => Answer::Reject,
        (true, WhenEmpty::Drop) => Answer::Drop,
    }
}

/// The frontends say what the oracle says, and there are no others.
fn agree(world: &World, services: &ServicesIntent, client: Client) -> Result<(), TestCaseError> {
    let mut compiled = BTreeMap::new();
    for frontend in services.services.values().flat_map(|service| &service.frontends) {
        let key = (frontend.address, frontend.protocol, frontend.port);
        prop_assert!(compiled.insert(key, says(frontend, client)).is_none(), "{:?} twice", key);
    }
    let vips = (0..4).flat_map(|n| [format!("10.43.0.{n}"), format!("fd43::{n}")]);
    let vips = vips.chain(["203.0.113.1", "203.0.113.2", "192.168.0.1", "8.8.8.8"].map(String::from));
    let vips = vips.map(|text| FrontendAddress::Vip(text.parse().unwrap()));
    for address in vips.chain(Family::BOTH.map(FrontendAddress::NodePort)) {
        for (protocol, port) in [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|p| [(p, 80), (p, 53), (p, 30080), (p, 81)]) {
            let got = compiled.remove(&(address, protocol, port)).unwrap_or(Answer::NotAService);
            if Family::of(&client.ip) != address.family() {
                continue;
            }
            let oracle = endpoints_for(world, "n1", client, address, protocol, port);
            prop_assert_eq!(got, oracle, "{:?} {} {} for {:?}", address, protocol, port, client);
        }
    }
    prop_assert!(compiled.is_empty(), "nobody asked for {:?}", compiled);
    Ok(())
}

/// Every address that random worlds know, and some that they do not.
fn ends(family: Family) -> Vec<IpAddr> {
    let texts: Vec<String> = match family {
        Family::V4 => (0..9).map(|n| format!("10.42.1.{n}")).chain(["192.0.2.1", "192.0.2.9", "192.168.0.1"].map(Into::into)).collect(),
        Family::V6 => (0..9).map(|n| format!("fd42:1::{n}")).chain(["2001:db8::1".into()]).collect(),
    };
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// 400 worlds of NetworkPolicies and ClusterNetworkPolicies, 2 families, 40 packets each: 32,000 verdicts.
    #[test]
    fn the_judge_agrees_with_the_oracle(objects in vec(any::<u8>(), 60..400), packets in vec(any::<[u8; 4]>(), 40)) {
        let mut world = World::new(settings());
        for namespace in ["ns na team=red", "ns nb team=blue"] {
            fold(&mut world, &[namespace.to_owned()]);
        }
        let mut dice = Dice::new(&objects);
        while !dice.is_spent() {
            let line = match dice.below(8) {
                0 | 1 => dice::policy(&mut dice),
                2 | 3 => dice::cluster_policy(&mut dice),
                4 | 5 => dice::pod(&mut dice),
                6 => dice::node(&mut dice),
                _ => dice::attach(&mut dice),
            };
            fold(&mut world, &[line]);
        }
        let intent = Compiler::full(&world).value;
        let judge = Judge::new(&intent.policy, &intent.pods);
        for family in Family::BOTH {
            let ends = ends(family);
            for [src, dst, protocol, port] in &packets {
                let at = |byte: &u8| ends[usize::from(*byte) % ends.len()];
                let src = if *src > 240 { End::OwnNode(at(src)) } else { End::Address(at(src)) };
                let dst = End::Address(at(dst));
                let protocol = [6, 6, 6, 17, 17, 132, 1, 58][usize::from(*protocol) % 8];
                let port = if protocol == 1 || protocol == 58 { None } else { Some([80, 80, 81, 53, 443][usize::from(*port) % 5]) };
                let verdict = judge.verdict(&flow(src, dst, protocol, port));
                let oracle = allowed(&world, src, dst, protocol, port);
                prop_assert_eq!(verdict.allowed, oracle, "{:?} > {:?} {} {:?}: {:?}", src, dst, protocol, port, verdict);
            }
        }
    }

    #[test]
    fn frontends_agree_with_the_oracle(objects in vec(any::<u8>(), 20..200)) {
        let mut world = World::new(broad_settings());
        let mut dice = Dice::new(&objects);
        while !dice.is_spent() {
            let line = match dice.below(6) { 0 | 1 => dice::service(&mut dice), 5 => dice::node(&mut dice), _ => dice::slice(&mut dice) };
            fold(&mut world, &[line]);
        }
        let services = Compiler::full(&world).value.services;
        for client in ["192.0.2.1", "192.0.2.200", "10.42.1.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()) {
            for own in [false, true] {
                agree(&world, &services, Client { ip: client, own })?;
            }
        }
        let told: BTreeMap<u16, (String, usize)> =
            services.health_checks.iter().map(|(port, check)| (*port, (check.service.to_string(), check.local_endpoints))).collect();
        prop_assert_eq!(told, health_checks(&world, "n1"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn following_changes_is_the_same_as_compiling_anew(bytes in vec(any::<u8>(), 40..600), batch in 1_usize..5) {
        let mut world = World::new(broad_settings());
        let mut compiler = Compiler::new();
        let lines = lines(&bytes);
        for some in lines.chunks(batch) {
            let touched = fold(&mut world, some);
            let got = compiler.turn(&world, &touched);
            assert_same(got, Compiler::full(&world), &some.join("\n"));
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_matter(bytes in vec(any::<u8>(), 40..400), seed in any::<u64>()) {
        let mut first = World::new(broad_settings());
        let lines = lines(&bytes);
        fold(&mut first, &lines);
        // What each object was last, in another order.
        let mut last: BTreeMap<(bool, String), &String> = BTreeMap::new();
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let attachment = matches!(words[0], "attach" | "detach");
            let key = match words[0] {
                "del" => format!("{} {}", words[1], words[2]),
                kind => format!("{} {}", kind_word(kind), words[1]),
            };
            last.insert((attachment, key), line);
        }
        let mut order: Vec<&String> = last.into_values().collect();
        order.sort_by_key(|line| bowline_model::net::fnv1a(format!("{seed}{line}").as_bytes()));
        let mut second = World::new(broad_settings());
        let order: Vec<String> = order.into_iter().cloned().collect();
        fold(&mut second, &order);
        assert_same(Compiler::full(&second), Compiler::full(&first), &order.join("\n"));
    }

    /// A watch that was interrupted lists everything again: nothing of the past stays, nothing new is missed.
    #[test]
    fn listing_again_repairs_everything(past in vec(any::<u8>(), 40..300), present in vec(any::<u8>(), 40..300)) {
        let mut truth = World::new(broad_settings());
        fold(&mut truth, &lines(&present));
        let mut world = World::new(broad_settings());
        let mut compiler = Compiler::new();
        let touched = fold(&mut world, &lines(&past));
        compiler.turn(&world, &touched);
        let mut touched = Touched::default();
        for kind in Kind::ALL {
            touched.merge(world.apply(Change::Replace(kind, objects(&truth, kind))).value);
        }
        let ifnames: Vec<_> = world.attached().keys().cloned().collect();
        for ifname in ifnames {
            touched.merge(world.apply(Change::Detached(ifname)).value);
        }
        for attached in truth.attached().values() {
            touched.merge(world.apply(Change::Attached(Box::new((**attached).clone()))).value);
        }
        prop_assert!(world.is_synced());
        assert_same(compiler.turn(&world, &touched), Compiler::full(&truth), "listed again");
    }
}

fn kind_word(kind: &str) -> &str {
    match kind {
        "ns" => "Namespace",
        "node" => "Node",
        "pod" => "Pod",
        "svc" => "Service",
        "slice" => "EndpointSlice",
        "policy" => "NetworkPolicy",
        "cnp" => "ClusterNetworkPolicy",
        "cidrs" => "ServiceCIDR",
        _ => "attachment",
    }
}

fn objects(world: &World, kind: Kind) -> Vec<Object> {
    match kind {
        Kind::Namespace => world.namespaces().values().cloned().map(Object::Namespace).collect(),
        Kind::Node => world.nodes().values().cloned().map(Object::Node).collect(),
        Kind::Pod => world.pods().values().cloned().map(Object::Pod).collect(),
        Kind::Service => world.services().values().cloned().map(Object::Service).collect(),
        Kind::EndpointSlice => world.slices().values().cloned().map(Object::EndpointSlice).collect(),
        Kind::NetworkPolicy => world.policies().values().cloned().map(Object::NetworkPolicy).collect(),
        Kind::ClusterNetworkPolicy => world.cluster_policies().values().cloned().map(Object::ClusterNetworkPolicy).collect(),
        Kind::ServiceCidr => world.service_cidrs().values().cloned().map(Object::ServiceCidr).collect(),
    }
}

#[test]
fn an_object_that_comes_and_goes_leaves_nothing() {
    let empty = World::new(broad_settings());
    let mut world = empty.clone();
    let mut compiler = Compiler::new();
    let text = "node n1 192.168.0.1 cidr=10.42.1.0/24\nns na team=red\npod na/p 10.42.1.1 zzz app=a\nattach na/p 10.42.1.1
        policy na/k {podSelector: {}, ingress: [{from: [{podSelector: {}}, {}], ports: [{port: http}]}]}
        svc na/s 10.43.0.1 :http:80/tcp ext=8.8.8.8\nslice na/s-4 of=s :http:80/tcp 10.42.1.1 127.0.0.1\nsvc na/t :http:80/tcp type=ExternalName name=$(x)\ncidrs more 8.8.0.0/16 nonsense
        cnp c {tier: Baseline, priority: 7, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}, {domainNames: [example.com]}]}]}";
    let touched = fold(&mut world, &text.lines().map(String::from).collect::<Vec<_>>());
    let full = compiler.turn(&world, &touched);
    let codes: Vec<u16> = full.problems.iter().map(|problem| problem.code.0).collect();
    assert_eq!(codes, [2006, 3002, 3005, 3009, 4004, 4009]);
    let mut touched = Touched::default();
    let keys = Kind::ALL.into_iter().flat_map(|kind| objects(&world, kind)).map(|object| object.key());
    for key in keys.collect::<Vec<ObjectKey>>() {
        touched.merge(world.apply(Change::Delete(key)).value);
    }
    let ifname = world.attached().keys().next().unwrap().clone();
    touched.merge(world.apply(Change::Detached(ifname)).value);
    assert_same(compiler.turn(&world, &touched), Compiler::full(&empty), "all gone");
}

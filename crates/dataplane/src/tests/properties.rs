//! What holds for every intent: a delta leads where the full form leads, and the kernel would load it.

use std::fmt::Write as _;

use bowline_model::Delta;
use bowline_model::intent::Intent;
use proptest::prelude::*;

use super::bench::full;
use super::machine::Maps;
use super::notation::{host, parse};
use crate::HostFacts;
use crate::interpret::Table;
use crate::objects::hooks::{HookKey, Side};
use crate::objects::nft::{NftKey, NftObject};

/// Statements of which a random intent has some; those of one line exclude each other.
const CHOICES: &[&[&str]] = &[
    &["pods a", "closed a"],
    &["pods b", "closed b"],
    &["pods c", "closed c"],
    &[
        "svc v1:80/tcp -> a:80 b:80",
        "svc v1:80/tcp -> a:80",
        "svc v1:80/tcp -> a:80 x:80 aff=10",
        "svc v1:80/tcp -> reject",
        "svc v1:80/tcp -> drop",
    ],
    &["svc v1:53/udp -> a:53 y:53", "svc v1:53/udp -> b:53", "svc v1:53/udp -> a:53 b:53 aff=10", "svc v1:53/udp -> x:53 aff=20"],
    &["svc v2:80/tcp -> x:80", "svc v2:80/tcp -> far:80 y:80 aff=10", "svc v2:80/tcp -> reject"],
    &["np 30080/tcp -> a:80 b:80", "np 30080/tcp -> a:80 aff=10", "np 30080/tcp -> drop"],
    &["np 30081/udp -> a:80 b:80", "np 30081/udp -> reject"],
    &["host-gw", "direct"],
    &["without n2"],
    &["without n3"],
    &["npnet"],
    &["policy p a in: b tcp/80", "policy p a in: b,x tcp/80,udp", "policy p a in: net!out *", "policy p a in:"],
    &["policy q a in: x,y tcp/1,tcp/3,tcp/5,tcp/7", "policy q a in: * named", "policy q a in: net *"],
    &["policy p b in: b tcp/80", "policy p b in: * *"],
    &["policy r b out: a named", "policy r b out: net tcp/80-90", "policy r b out: * -"],
    &["policy q c in: x,y *"],
    &["policy r c out: y *"],
    &["cnp g admin a in: pass b * | deny x,net *", "cnp g admin a in: deny b tcp/80", "cnp g admin a in: pass x,net tcp/80,udp | deny * *"],
    &["cnp h admin a in: accept * named", "cnp h baseline a in: pass x * | deny * *", "cnp h admin a in: pass b,x tcp/1,tcp/3,tcp/5,tcp/7"],
    &["cnp g baseline b out: accept net * | deny a,x,y tcp/80,udp", "cnp g baseline b out: deny * *"],
    &["cnp i admin c out: deny a * | pass * * | accept x *", "cnp i baseline c out: deny * named"],
];
const HOST_PORTS: &[&[&str]] = &[&["hostport 8080/tcp -> a:80", "hostport n1:8080/tcp -> a:80"], &["hostport 8080/tcp -> b:80"]];

/// An intent from one byte for each choice: small numbers choose, others leave out.
fn intent(bytes: &[u8]) -> Intent {
    let mut text = String::new();
    let mut pods = Vec::new();
    for (options, byte) in CHOICES.iter().chain(HOST_PORTS).zip(bytes) {
        let Some(statement) = options.get(usize::from(*byte)) else { continue };
        let mut words = statement.split_whitespace();
        let about = match words.next() {
            Some("policy") => words.nth(1),
            Some("cnp") => words.nth(2),
            Some("hostport") => statement.split("-> ").nth(1).map(|t| &t[..1]),
            Some("pods" | "closed") => {
                pods.extend(words.next());
                None
            }
            _ => None,
        };
        if about.is_none_or(|pod| pods.contains(&pod)) {
            let _ = writeln!(text, "{statement}");
        }
    }
    parse(&text)
}

fn apply(maps: &mut Maps, old: &Intent, new: &Intent) {
    let delta = crate::lower(old, new, &host()).value;
    delta.net.apply_to(&mut maps.0);
    delta.nft.apply_to(&mut maps.1);
}

/// The links with programs, followed by changes and made anew.
fn hooks(old: &Intent, new: &Intent) -> Delta<HookKey, Side> {
    crate::lower(old, new, &HostFacts { fast_path: true, ..host() }).value.hooks
}

/// The table of ARP, likewise.
fn arp(old: &Intent, new: &Intent) -> Delta<NftKey, NftObject> {
    crate::lower(old, new, &host()).value.arp
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..7, CHOICES.len() + HOST_PORTS.len())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn deltas_lead_where_the_full_form_leads(start in bytes(), changes in prop::collection::vec((0..CHOICES.len() + HOST_PORTS.len(), 0_u8..7), 1..6), other in bytes()) {
        let mut current = intent(&start);
        let mut maps = full(&current);
        let mut hooked = hooks(&Intent::default(), &current).set;
        let mut heard = arp(&Intent::default(), &current).set;
        let mut next_bytes = start;
        for (place, value) in changes {
            next_bytes[place] = value;
            let next = intent(&next_bytes);
            apply(&mut maps, &current, &next);
            hooks(&current, &next).apply_to(&mut hooked);
            arp(&current, &next).apply_to(&mut heard);
            current = next;
            prop_assert!(hooked == hooks(&Intent::default(), &current).set, "links after a small change");
            prop_assert!(heard == arp(&Intent::default(), &current).set, "ARP after a small change");
            prop_assert!(maps == full(&current), "after a small change");
        }
        let far = intent(&other);
        apply(&mut maps, &current, &far);
        prop_assert!(maps == full(&far), "after a large change");
        apply(&mut maps, &far, &Intent::default());
        prop_assert!(maps == full(&Intent::default()), "after everything has gone");
        apply(&mut maps, &Intent::default(), &far);
        prop_assert!(maps == full(&far), "from nothing again");
    }

    #[test]
    fn the_kernel_would_load_it(bytes in bytes()) {
        let objects = full(&intent(&bytes)).1;
        prop_assert_eq!(Table::from_objects(&objects).faults(), []);
        for key in objects.keys() {
            let (NftKey::Counter(name) | NftKey::Set(name) | NftKey::Chain(name) | NftKey::Element { set: name, .. }) = key;
            prop_assert!(name.len() < 200);
            if let NftKey::Element { set, .. } = key {
                prop_assert!(objects.contains_key(&NftKey::Set(set.clone())), "an element of no set: {}", set);
            }
        }
    }

    #[test]
    fn nothing_changes_where_nothing_changed(bytes in bytes()) {
        let once = intent(&bytes);
        let again = Intent { revision: once.revision + 1, ..intent(&bytes) };
        prop_assert!(crate::lower(&once, &again, &host()).value.is_empty());
    }
}

#[test]
fn long_names_fit_and_stay_apart() {
    use bowline_model::PolicyName;
    use bowline_model::intent::policy::{Direction, PolicyRules};
    use std::sync::Arc;
    let mut intent = parse("pods a");
    let policy = Arc::make_mut(&mut intent.policy);
    let names: Vec<PolicyName> =
        ["x", "y"].iter().map(|end| PolicyName::new("n".repeat(63), format!("{}{end}", "p".repeat(252)))).collect();
    for name in &names {
        policy.rules.insert((name.clone(), Direction::Ingress), Arc::new(PolicyRules { rules: Vec::new() }));
    }
    let ingress = bowline_model::intent::policy::PodSide { policies: Some(names), ..Default::default() };
    let of_pod = bowline_model::intent::policy::PodPolicy { ingress, ..Default::default() };
    policy.pods.insert("bwla".into(), Arc::new(of_pod));
    let objects = full(&intent).1;
    let long: Vec<_> = objects.keys().filter(|k| matches!(k, NftKey::Chain(name) if name.contains("ppp"))).collect();
    assert_eq!(long.len(), 2);
    assert!(long.iter().all(|k| matches!(k, NftKey::Chain(name) if name.len() < 150)));
    assert_eq!(Table::from_objects(&objects).faults(), []);
}

/// Priorities are an order and no numbers of rules: as many policies as there may be are as many calls, and the last is still asked.
#[test]
fn seventy_thousand_rules_of_tiers_are_lowered() {
    use super::bench::Bench;
    use crate::objects::nft::NftObject;
    use bowline_model::intent::policy::{Action, Direction, Peers, PodPolicy, PodSide, PortMatch, Tier, TierRule, TierRules};
    use bowline_model::{ClusterPolicyName, Family, Protocol};
    use std::sync::Arc;
    const POLICIES: u32 = 2800;
    const RULES: u32 = 25;
    let mut intent = parse("pods a b");
    let policy = Arc::make_mut(&mut intent.policy);
    let mut ingress = PodSide::default();
    for number in 0..POLICIES {
        let (tier, list) = if number % 2 == 0 { (Tier::Admin, &mut ingress.admin) } else { (Tier::Baseline, &mut ingress.baseline) };
        let name = ClusterPolicyName::from(format!("p{number}").as_str());
        list.push(name.clone());
        let rules = (0..RULES).map(|index| {
            // Each rule has a port of its own; TCP alone has too few.
            let place = number * RULES + index;
            let (protocol, port) = if place < 65_536 { (Protocol::Tcp, place) } else { (Protocol::Udp, place - 65_536) };
            let port = u16::try_from(port).unwrap();
            let action = if index % 3 == 0 { Action::Pass } else { Action::Deny };
            let ports = Some(vec![PortMatch::Range { protocol, from: port, to: port }]);
            TierRule { label: format!("ingress[{index}]").into(), action, peers: Peers::Any, ports }
        });
        policy.tiers.insert((name, Direction::Ingress), Arc::new(TierRules { tier, rules: rules.collect() }));
    }
    policy.pods.insert("bwlb".into(), Arc::new(PodPolicy { ingress, ..PodPolicy::default() }));
    let objects = full(&intent).1;
    let of_policies = objects.iter().filter_map(|(key, object)| match (key, object) {
        (NftKey::Chain(name), NftObject::Chain(chain)) if name.starts_with("cluster_in/") => Some(chain.rules.len()),
        _ => None,
    });
    assert_eq!(of_policies.sum::<usize>(), 70_000);
    let mut bench = Bench::of(&intent, Family::V4);
    // The last policy of either tier, and one that is passed on by the last of the Admin tier.
    assert_eq!(bench.send("a -> b:4415/udp"), "drop: ingress denied: p2798 ingress[1]");
    assert_eq!(bench.send("a -> b:4441/udp"), "drop: ingress denied: p2799 ingress[2]");
    assert_eq!(bench.send("a -> b:4414/udp"), "bwlb: a -> b:4414");
    assert_eq!(bench.send("a -> b:1/tcp"), "drop: ingress denied: p0 ingress[1]");
}

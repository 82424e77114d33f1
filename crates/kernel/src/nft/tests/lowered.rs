//! What intents are lowered to: this kernel takes all of it, and every step from one intent to another.

use std::net::IpAddr;

use bowline_dataplane::{DenialFacts, HostFacts, LinkFacts, lower};
use bowline_model::intent::Intent;
use bowline_model::intent::pods::{HostPort, PodIntent};
use bowline_model::intent::policy::{
    Action, Block, Direction, Peers, PodPolicy, PodSide, PolicyRule, PolicyRules, PortMatch, SetId, Tier, TierRule, TierRules,
};
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServiceIntent, WhenEmpty};
use bowline_model::{Dual, Family, MacAddr, NodeName, PolicyName, Protocol, ServiceName};

use super::*;

fn both(v4: &str, v6: &str) -> Dual<IpAddr> {
    Dual { v4: Some(v4.parse().unwrap()), v6: Some(v6.parse().unwrap()) }
}

fn node(number: u8) -> Arc<FabricNode> {
    Arc::new(FabricNode {
        name: format!("n{number}").as_str().into(),
        internal: both(&format!("10.0.0.{number}"), &format!("fd00::{number}")),
        pod_cidrs: vec![format!("10.42.{number}.0/24").parse().unwrap(), format!("fd42:0:0:{number}::/64").parse().unwrap()],
        id: u16::from(number),
        vtep_mac: MacAddr([2, 0, 0, 0, 0xff, number]),
    })
}

pub(super) fn host() -> HostFacts {
    let addresses = vec!["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    let link = LinkFacts { name: "eth0".into(), index: 2, mtu_bytes: 1500, addresses };
    let denials = DenialFacts { counted: true, logged: true };
    HostFacts { links: vec![link], default_link: Some("eth0".into()), denials, ..HostFacts::default() }
}

fn pod(number: u8) -> PodIntent {
    let host_port = HostPort { host_ip: None, host_port: 8000 + u16::from(number), container_port: 80, protocol: Protocol::Tcp };
    let narrow = HostPort { host_ip: Some("10.0.0.1".parse().unwrap()), host_port: 53, container_port: 53, protocol: Protocol::Udp };
    PodIntent {
        pod: None,
        host_ifname: format!("bwl{number}").into(),
        mac: MacAddr([2, 0, 0, 0, 1, number]),
        host_mac: MacAddr([2, 0, 0, 0, 2, number]),
        ips: both(&format!("10.42.1.{number}"), &format!("fd42:0:0:1::{number}")),
        host_ports: if number == 2 { vec![host_port, narrow] } else { vec![] },
    }
}

fn frontend(address: FrontendAddress, port: u16, endpoints: u8, affinity_secs: Option<u32>) -> Frontend {
    let endpoint = |n: u8| match address.family() {
        Family::V4 => Endpoint { ip: format!("10.42.1.{n}").parse().unwrap(), port: 8080 },
        Family::V6 => Endpoint { ip: format!("fd42:0:0:1::{n}").parse().unwrap(), port: 8080 },
    };
    let when_empty = if port.is_multiple_of(2) { WhenEmpty::Reject } else { WhenEmpty::Drop };
    let endpoints: Vec<Endpoint> = (2..2 + endpoints).map(endpoint).collect();
    // Every third one has other endpoints for the node's own, and every third lets in one network only.
    let own_endpoints = (endpoints.len() % 3 == 1).then(|| (2..5).map(endpoint).collect());
    let network = match address.family() {
        Family::V4 => "192.0.2.0/24",
        Family::V6 => "2001:db8::/32",
    };
    let networks = vec![network.parse().unwrap()];
    let sources = (endpoints.len() % 3 == 2).then_some(networks);
    Frontend { address, protocol: Protocol::Tcp, port, endpoints, own_endpoints, affinity_secs, sources, when_empty }
}

/// A service for each count of endpoints, on each kind of address of both families.
fn service(number: u8, endpoints: u8, affinity_secs: Option<u32>) -> (ServiceName, Arc<ServiceIntent>) {
    let vips = [format!("10.43.0.{number}"), format!("fd43::{number}")].map(|ip| FrontendAddress::Vip(ip.parse().unwrap()));
    let ports = Family::BOTH.map(FrontendAddress::NodePort);
    let mut frontends: Vec<_> = vips.iter().map(|vip| frontend(*vip, 80, endpoints, affinity_secs)).collect();
    frontends.extend(ports.iter().map(|port| frontend(*port, 30_000 + u16::from(number), endpoints, affinity_secs)));
    frontends.sort();
    (ServiceName::new("default", format!("s{number}")), Arc::new(ServiceIntent { frontends }))
}

fn policies(intent: &mut Intent) {
    let policy = Arc::make_mut(&mut intent.policy);
    let name = |name: &str| PolicyName::new("default", name);
    let block = Block { cidr: "0.0.0.0/0".parse().unwrap(), except: vec!["10.0.0.0/8".parse().unwrap()] };
    let block6 = Block { cidr: "fd00::/8".parse().unwrap(), except: vec!["fd42::/48".parse().unwrap()] };
    let ports = vec![
        PortMatch::All(Protocol::Sctp),
        PortMatch::Range { protocol: Protocol::Tcp, from: 80, to: 80 },
        PortMatch::Range { protocol: Protocol::Udp, from: 1000, to: 65_535 },
        PortMatch::Named(SetId("web".into())),
    ];
    let some = Peers::OneOf { sets: vec![SetId("apps".into())], blocks: vec![block, block6] };
    let tiered = |tier| {
        let rule = |action, peers: &Peers, ports: Option<&Vec<PortMatch>>| TierRule {
            label: "ingress[0] `some rule`".into(),
            action,
            peers: peers.clone(),
            ports: ports.cloned(),
        };
        let rules = vec![
            rule(Action::Pass, &some, Some(&ports)),
            rule(Action::Accept, &Peers::Any, Some(&ports)),
            rule(Action::Pass, &some, None),
            rule(Action::Deny, &Peers::Any, None),
        ];
        Arc::new(TierRules { tier, rules })
    };
    for direction in Direction::BOTH {
        policy.tiers.insert(("guard".into(), direction), tiered(Tier::Admin));
        policy.tiers.insert(("floor".into(), direction), tiered(Tier::Baseline));
    }
    let rules = vec![PolicyRule { peers: some, ports: Some(ports) }, PolicyRule { peers: Peers::Any, ports: None }];
    policy.rules.insert((name("web"), Direction::Ingress), Arc::new(PolicyRules { rules: rules.clone() }));
    policy.rules.insert((name("web"), Direction::Egress), Arc::new(PolicyRules { rules }));
    policy.rules.insert((name("deny"), Direction::Ingress), Arc::new(PolicyRules { rules: vec![] }));
    let members = ["10.42.1.2", "10.42.2.9", "fd42:0:0:2::9"].into_iter().map(|ip| ip.parse::<IpAddr>().unwrap());
    policy.sets.insert(SetId("apps".into()), Arc::new(members.collect()));
    let named = [("10.42.1.2", 8080_u16), ("fd42:0:0:1::2", 8081)]
        .into_iter()
        .map(|(ip, port)| (ip.parse::<IpAddr>().unwrap(), Protocol::Tcp, port));
    policy.named_ports.insert(SetId("web".into()), Arc::new(named.collect()));
    let side = |policies| PodSide { admin: vec!["guard".into()], policies: Some(policies), baseline: Vec::new() };
    let judged = PodPolicy { ingress: side(vec![name("deny"), name("web")]), egress: side(vec![name("web")]) };
    policy.pods.insert("bwl2".into(), Arc::new(judged));
    let baseline = PodSide { baseline: vec!["floor".into()], ..PodSide::default() };
    policy.pods.insert("bwl3".into(), Arc::new(PodPolicy { ingress: baseline, ..PodPolicy::default() }));
}

/// A node with pods 2, 3 and 4 (the last one closed), peers, policies and services; with affinity if asked for.
fn intent(affinity_secs: Option<u32>) -> Intent {
    let mut intent = Intent { revision: 1, ..Intent::default() };
    let routes = Arc::make_mut(&mut intent.routes);
    routes.local = Some(node(1));
    routes.peers = [2, 3].map(|n| (NodeName::from(format!("n{n}").as_str()), node(n))).into_iter().collect();
    routes.cluster_cidrs = vec!["10.42.0.0/16".parse().unwrap(), "fd42::/48".parse().unwrap()];
    Arc::make_mut(&mut intent.pods).pods = [2, 3, 4].map(|n| (Arc::from(format!("bwl{n}")), Arc::new(pod(n)))).into_iter().collect();
    let services = Arc::make_mut(&mut intent.services);
    services.service_cidrs = vec!["10.43.0.0/16".parse().unwrap(), "fd43::/112".parse().unwrap()];
    services.services = [0, 1, 2, 7].map(|n| service(n + 1, n, affinity_secs)).into_iter().collect();
    policies(&mut intent);
    intent
}

/// A node with these pods and nothing else.
pub(super) fn intent_of_pods(numbers: &[u8]) -> Intent {
    let mut intent = Intent { revision: 1, ..Intent::default() };
    Arc::make_mut(&mut intent.pods).pods = numbers.iter().map(|n| (Arc::from(format!("bwl{n}")), Arc::new(pod(*n)))).collect();
    intent
}

fn full(intent: &Intent) -> Objects {
    let delta = lower(&Intent::default(), intent, &host()).value.nft;
    assert!(delta.remove.is_empty());
    delta.set
}

#[test]
fn each_step_from_intent_to_intent_is_taken() {
    let Some((ns, mut driver)) = start() else { return };
    let whole = intent(Some(10_800));
    let mut host_gw = whole.clone();
    Arc::make_mut(&mut host_gw.routes).backend = BackendConf::HostGw;
    let mut fewer = intent(None);
    Arc::make_mut(&mut fewer.routes).peers.remove(&NodeName::from("n3"));
    Arc::make_mut(&mut fewer.services).services.remove(&ServiceName::new("default", "s8"));
    Arc::make_mut(&mut fewer.services).services.extend([service(3, 3, Some(60))]);
    Arc::make_mut(&mut fewer.pods).pods.remove("bwl3");
    Arc::make_mut(&mut fewer.policy).pods.remove("bwl3");
    let mut unjudged = fewer.clone();
    Arc::make_mut(&mut unjudged.policy).pods.insert("bwl2".into(), Arc::new(PodPolicy::default()));
    let mut old = Intent::default();
    for new in [whole.clone(), fewer, unjudged, whole, host_gw, intent(None), Intent::default()] {
        apply(&mut driver, &lower(&old, &new, &host()).value.nft);
        assert_equal(&ns, &full(&new));
        old = new;
    }
}

#[test]
fn nft_lists_what_was_lowered() {
    let Some((ns, mut driver)) = start() else { return };
    // Without affinity, whose rules nft 1.0.6 cannot print (it aborts on registers that maps have filled).
    turn(&mut driver, &Objects::new(), &full(&intent(None)));
    let Some(text) = nft(&ns, &["list", "ruleset"]) else { return };
    for address in ["10.43.0.3 . tcp . 80", "fd43::3 . tcp . 80", "10.42.1.2", "fd42:0:0:1::2"] {
        assert!(text.contains(address), "{address} is not in:\n{text}");
    }
}

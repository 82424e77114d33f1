//! A compact notation for intents, one statement a line:
//!
//!     pods a b                         attached and selected by no policy
//!     closed c                         attached, policy not known yet
//!     svc v1:80/tcp -> a:8080 x:8080   a service; `aff=10` seconds of affinity; `-> reject`, `-> drop`;
//!                                      `own=x:8080` for the node's own connections, `from=NAME` for one client only
//!     np 30080/tcp -> a:8080           its node port
//!     hostport 8080/tcp -> a:80        a host port; `n1:8080/tcp` on one address only
//!     policy p b in: a,x tcp/80 | * *  rules of policy p for pod b: peers (pods, `net`, `net!out`) and ports (`udp`, `tcp/80-90`, `named`)
//!     cnp p admin b in: deny a tcp/80 | pass * *   rules of cluster policy p of a tier for pod b, with an action before each
//!     host-gw, direct                  other backends than vxlan
//!     without n2                       a node that is not there
//!     npnet                            node ports on 10.0.0.0/24 only
//!
//! The cast: this node n1 and the nodes n2 and n3; pods a, b, c here, x on n2, y on n3; `out`, `far` outside; services v1, v2; `lost` is a pod address
//! that nobody holds, `nobody` the unspecified one.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::intent::pods::{HostPort, PodIntent};
use bowline_model::intent::policy::{
    Action, Block, Direction, Peers, PodPolicy, PolicyRule, PolicyRules, PortMatch, SetId, Tier, TierRule, TierRules,
};
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServiceIntent, WhenEmpty};
use bowline_model::{ClusterPolicyName, Dual, Family, MacAddr, NodeName, PolicyName, Protocol, ServiceName};
use imbl::OrdSet;
use ipnet::IpNet;

use crate::{HostFacts, LinkFacts};

/// Everyone with an address, by family.
pub(super) const CAST: &[(&str, &str, &str)] = &[
    ("n1", "10.0.0.1", "fd00::1"),
    ("n2", "10.0.0.2", "fd00::2"),
    ("n3", "10.0.0.3", "fd00::3"),
    ("n9", "10.0.0.9", "fd00::9"),
    ("a", "10.42.1.2", "fd42:0:0:1::2"),
    ("b", "10.42.1.3", "fd42:0:0:1::3"),
    ("c", "10.42.1.4", "fd42:0:0:1::4"),
    ("x", "10.42.2.2", "fd42:0:0:2::2"),
    ("y", "10.42.3.2", "fd42:0:0:3::2"),
    ("lost", "10.42.9.9", "fd42:0:0:9::9"),
    ("gw2", "10.42.2.0", "fd42:0:0:2::"),
    ("gw3", "10.42.3.0", "fd42:0:0:3::"),
    ("v1", "10.43.0.1", "fd43::1"),
    ("v2", "10.43.0.2", "fd43::2"),
    ("out", "203.0.113.9", "2001:db8:113::9"),
    ("far", "198.51.100.7", "2001:db8:51::7"),
    ("n1ext", "192.0.2.1", "2001:db8:2::1"),
    ("lo", "127.0.0.1", "::1"),
    ("nobody", "0.0.0.0", "::"),
];

pub(super) fn address(name: &str, family: Family) -> IpAddr {
    let (_, v4, v6) = CAST.iter().find(|(n, _, _)| *n == name).unwrap_or_else(|| panic!("who is {name}?"));
    match family {
        Family::V4 => v4.parse().unwrap(),
        Family::V6 => v6.parse().unwrap(),
    }
}

pub(super) fn name_of(address: &IpAddr) -> String {
    let found = CAST.iter().find(|(_, v4, v6)| [v4, v6].iter().any(|a| a.parse::<IpAddr>().unwrap() == *address));
    found.map_or_else(|| address.to_string(), |(name, _, _)| (*name).to_owned())
}

fn both(name: &str) -> Dual<IpAddr> {
    Dual { v4: Some(address(name, Family::V4)), v6: Some(address(name, Family::V6)) }
}

pub(super) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

pub(super) fn node(number: u16) -> Arc<FabricNode> {
    let name = format!("n{number}");
    Arc::new(FabricNode {
        name: name.as_str().into(),
        internal: both(&name),
        pod_cidrs: nets(&[&format!("10.42.{number}.0/24"), &format!("fd42:0:0:{number}::/64")]),
        id: number,
        vtep_mac: MacAddr([2, 0, 0, 0, 0xff, u8::try_from(number).unwrap()]),
    })
}

pub(super) fn pod_mac(name: &str) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, name.as_bytes()[0]])
}

pub(super) fn host() -> HostFacts {
    let link = |name: &str, index, addresses: &[&str]| LinkFacts { name: name.into(), index, mtu_bytes: 1500, addresses: nets(addresses) };
    let macs = |n| Dual { v4: Some(MacAddr([2, 0, 0, 0, 0xee, n])), v6: Some(MacAddr([2, 0, 0, 0, 0xee, n])) };
    HostFacts {
        links: vec![link("eth0", 2, &["10.0.0.1/24", "fd00::1/64"]), link("eth1", 3, &["192.0.2.1/24", "2001:db8:2::1/64"])],
        default_link: Some("eth0".into()),
        peer_macs: [("n2".into(), macs(2)), ("n3".into(), macs(3))].into(),
        socket_hooks: false,
        fast_path: false,
        denials: crate::DenialFacts { counted: true, logged: true },
    }
}

pub(super) fn pod(name: &str) -> PodIntent {
    PodIntent {
        pod: None,
        host_ifname: format!("bwl{name}").into(),
        mac: pod_mac(name),
        host_mac: MacAddr([2, 0, 0, 0, 2, 2]),
        ips: both(name),
        host_ports: Vec::new(),
    }
}

pub(super) fn base() -> Intent {
    let mut intent = Intent { revision: 1, ..Intent::default() };
    let routes = Arc::make_mut(&mut intent.routes);
    routes.local = Some(node(1));
    routes.peers = [2, 3].into_iter().map(|n| (NodeName::from(format!("n{n}").as_str()), node(n))).collect();
    routes.cluster_cidrs = nets(&["10.42.0.0/16", "fd42::/48"]);
    Arc::make_mut(&mut intent.services).service_cidrs = nets(&["10.43.0.0/16", "fd43::/112"]);
    intent
}

pub(super) fn parse(text: &str) -> Intent {
    let mut intent = base();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "pods" | "closed" => rest.split_whitespace().for_each(|name| attach(&mut intent, name, verb == "pods")),
            "svc" | "np" => service(&mut intent, verb, rest),
            "hostport" => host_port(&mut intent, rest),
            "policy" => policy(&mut intent, rest),
            "cnp" => cluster_policy(&mut intent, rest),
            "host-gw" => Arc::make_mut(&mut intent.routes).backend = BackendConf::HostGw,
            "direct" => Arc::make_mut(&mut intent.routes).backend = BackendConf::Vxlan { vni: 1, port: 8472, direct_routing: true },
            "without" => drop(Arc::make_mut(&mut intent.routes).peers.remove(&NodeName::from(rest))),
            "npnet" => Arc::make_mut(&mut intent.services).node_port_addresses = nets(&["10.0.0.0/24", "fd00::/64"]),
            other => panic!("no such statement: {other}"),
        }
    }
    intent
}

fn attach(intent: &mut Intent, name: &str, open: bool) {
    let pod = pod(name);
    if open {
        Arc::make_mut(&mut intent.policy).pods.insert(pod.host_ifname.clone(), Arc::default());
    }
    Arc::make_mut(&mut intent.pods).pods.insert(pod.host_ifname.clone(), Arc::new(pod));
}

/// `name:port/protocol`, the name being optional.
pub(super) fn target(text: &str) -> (&str, u16, Protocol) {
    let (place, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (name, port) = place.split_once(':').unwrap_or(("", place));
    (name, port.parse().unwrap(), protocol.parse().unwrap())
}

fn service(intent: &mut Intent, verb: &str, rest: &str) {
    let (front, ends) = rest.split_once("->").unwrap();
    let (name, port, protocol) = target(front.trim());
    let mut words: Vec<&str> = ends.split_whitespace().collect();
    let affinity_secs = words.iter().find_map(|w| w.strip_prefix("aff=")).map(|s| s.parse().unwrap());
    let own: Vec<(&str, u16, Protocol)> = words.iter().filter_map(|w| w.strip_prefix("own=")).map(target).collect();
    let client = words.iter().find_map(|w| w.strip_prefix("from="));
    words.retain(|w| !w.contains('='));
    let when_empty = if words.first() == Some(&"drop") { WhenEmpty::Drop } else { WhenEmpty::Reject };
    words.retain(|w| w.contains(':'));
    let frontends = Family::BOTH.map(|family| Frontend {
        address: if verb == "np" { FrontendAddress::NodePort(family) } else { FrontendAddress::Vip(address(name, family)) },
        protocol,
        port,
        endpoints: words.iter().map(|w| target(w)).map(|(n, port, _)| Endpoint { ip: address(n, family), port }).collect(),
        own_endpoints: (!own.is_empty()).then(|| own.iter().map(|(n, port, _)| Endpoint { ip: address(n, family), port: *port }).collect()),
        affinity_secs,
        sources: client.map(|name| vec![IpNet::from(address(name, family))]),
        when_empty,
    });
    let key = ServiceName::new("shop", format!("{verb}-{}", front.trim()));
    Arc::make_mut(&mut intent.services).services.insert(key, Arc::new(ServiceIntent { frontends: frontends.to_vec() }));
}

fn host_port(intent: &mut Intent, rest: &str) {
    let (front, pod) = rest.split_once("->").unwrap();
    let (on, port, protocol) = target(front.trim());
    let (pod, container_port, _) = target(pod.trim());
    let key: Arc<str> = format!("bwl{pod}").into();
    let pods = &mut Arc::make_mut(&mut intent.pods).pods;
    let mut changed = (**pods.get(&key).unwrap()).clone();
    let hosts = if on.is_empty() { vec![None] } else { Family::BOTH.map(|f| Some(address(on, f))).to_vec() };
    changed.host_ports.extend(hosts.into_iter().map(|host_ip| HostPort { host_ip, host_port: port, container_port, protocol }));
    pods.insert(key, Arc::new(changed));
}

fn policy(intent: &mut Intent, rest: &str) {
    let (head, rules) = rest.split_once(':').unwrap();
    let [name, pod, direction] = head.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
    let direction = if direction == "in" { Direction::Ingress } else { Direction::Egress };
    let name = PolicyName::new("shop", name);
    let policies = Arc::make_mut(&mut intent.policy);
    let rules = rules.split('|').map(str::trim).filter(|r| !r.is_empty()).map(|text| {
        let (peers, ports) = text.split_once(' ').unwrap();
        PolicyRule { peers: self::peers(policies, peers), ports: self::ports(policies, ports.trim()) }
    });
    let rules = PolicyRules { rules: rules.collect() };
    policies.rules.insert((name.clone(), direction), Arc::new(rules));
    let key: Arc<str> = format!("bwl{pod}").into();
    let mut of_pod: PodPolicy = policies.pods.get(&key).map(|p| (**p).clone()).unwrap_or_default();
    let side = if direction == Direction::Ingress { &mut of_pod.ingress } else { &mut of_pod.egress };
    let list = side.policies.get_or_insert_default();
    list.push(name);
    list.sort();
    policies.pods.insert(key, Arc::new(of_pod));
}

/// Policies of a tier are asked in the order in which they are written.
fn cluster_policy(intent: &mut Intent, rest: &str) {
    let (head, rules) = rest.split_once(':').unwrap();
    let [name, tier, pod, direction] = head.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
    let direction = if direction == "in" { Direction::Ingress } else { Direction::Egress };
    let tier = if tier == "admin" { Tier::Admin } else { Tier::Baseline };
    let name = ClusterPolicyName::from(name);
    let policies = Arc::make_mut(&mut intent.policy);
    let rules = rules.split('|').map(str::trim).enumerate().map(|(index, text)| {
        let [action, peers, ports] = text.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
        let action = match action {
            "accept" => Action::Accept,
            "deny" => Action::Deny,
            "pass" => Action::Pass,
            other => panic!("no such action: {other}"),
        };
        let label = format!("{}[{index}]", direction.word()).into();
        TierRule { label, action, peers: self::peers(policies, peers), ports: self::ports(policies, ports) }
    });
    let rules = TierRules { tier, rules: rules.collect() };
    policies.tiers.insert((name.clone(), direction), Arc::new(rules));
    let key: Arc<str> = format!("bwl{pod}").into();
    let mut of_pod: PodPolicy = policies.pods.get(&key).map(|p| (**p).clone()).unwrap_or_default();
    let side = if direction == Direction::Ingress { &mut of_pod.ingress } else { &mut of_pod.egress };
    let list = if tier == Tier::Admin { &mut side.admin } else { &mut side.baseline };
    list.push(name);
    policies.pods.insert(key, Arc::new(of_pod));
}

fn peers(policies: &mut bowline_model::intent::policy::PolicyIntent, text: &str) -> Peers {
    if text == "*" {
        return Peers::Any;
    }
    let (mut sets, mut blocks) = (Vec::new(), Vec::new());
    for word in text.split(',') {
        if let Some(rest) = word.strip_prefix("net") {
            let except = |f| rest.strip_prefix('!').map(|n| vec![IpNet::from(address(n, f))]).unwrap_or_default();
            blocks.push(Block { cidr: "203.0.113.0/24".parse().unwrap(), except: except(Family::V4) });
            blocks.push(Block { cidr: "2001:db8:113::/48".parse().unwrap(), except: except(Family::V6) });
        } else {
            let id = SetId(format!("pods-{word}").into());
            let members: OrdSet<IpAddr> = both(word).values().copied().collect();
            policies.sets.insert(id.clone(), Arc::new(members));
            sets.push(id);
        }
    }
    Peers::OneOf { sets, blocks }
}

/// `named` is port 8080/tcp of pod b.
fn ports(policies: &mut bowline_model::intent::policy::PolicyIntent, text: &str) -> Option<Vec<PortMatch>> {
    let one = |word: &str| match word.split_once('/') {
        None if word == "named" => {
            let id = SetId("port-web".into());
            let members = both("b").values().map(|ip| (*ip, Protocol::Tcp, 8080)).collect();
            policies.named_ports.insert(id.clone(), Arc::new(members));
            PortMatch::Named(id)
        }
        None => PortMatch::All(word.parse().unwrap()),
        Some((protocol, range)) => {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            PortMatch::Range { protocol: protocol.parse().unwrap(), from: from.parse().unwrap(), to: to.parse().unwrap() }
        }
    };
    (text != "*").then(|| text.split(',').filter(|w| *w != "-").map(one).collect())
}

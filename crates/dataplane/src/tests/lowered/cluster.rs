//! Random clusters, seen from node n1: three nodes, pods here and there, services, policies.
//!
//! Everything is made of lines in the notation of `bowline_compile::testing`, so that a cluster that fails can be read.

use std::net::IpAddr;

use bowline_compile::testing::dice::{Dice, cluster_policy, hints, policy};
use bowline_compile::testing::notation::changes;
use bowline_compile::{Compiler, Settings, World};
use bowline_model::intent::Intent;
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::{Dual, Family, MacAddr};
use ipnet::IpNet;

use super::super::notation::nets;
use crate::{HostFacts, LinkFacts};

/// Names of pods; a pod's place in the list is the end of its address.
const PODS: [&str; 8] = ["na/p", "na/q", "na/r", "nb/p", "nb/q", "nb/r", "nc/p", "nc/q"];
const NAMESPACES: [&str; 3] = ["na", "nb", "nc"];
const SERVICES: [&str; 4] = ["na/s", "na/t", "nb/s", "nc/s"];

/// A cluster, and what n1 makes of it.
pub(super) struct Cluster {
    pub(super) lines: Vec<String>,
    pub(super) families: Vec<Family>,
    /// Node and end of address of each pod.
    pub(super) pods: Vec<(u8, u8)>,
    pub(super) world: World,
    pub(super) intent: Intent,
    pub(super) host: HostFacts,
}

/// How packets get to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Tunnel(String),
    Direct(IpAddr),
}

/// The address of host `host` on the pod network of node `node`.
pub(super) fn pod_address(family: Family, node: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => format!("10.42.{node}.{host}"),
        Family::V6 => format!("fd42:{node}::{host:x}"),
    }
    .parse()
    .unwrap()
}

/// The end of each service's virtual address.
pub(super) fn service_address(family: Family, host: usize) -> IpAddr {
    match family {
        Family::V4 => format!("10.43.0.{host}"),
        Family::V6 => format!("fd43::{host}"),
    }
    .parse()
    .unwrap()
}

/// An address that services may claim.
pub(super) fn external_address(family: Family, host: usize) -> IpAddr {
    match family {
        Family::V4 => format!("203.0.113.{host}"),
        Family::V6 => format!("2001:db8:113::{host}"),
    }
    .parse()
    .unwrap()
}

/// Somebody outside; 1 and 9 are named by policies, 8 and 9 can be exempt from masquerading.
pub(super) fn outside(family: Family, host: usize) -> IpAddr {
    match family {
        Family::V4 => format!("192.0.2.{host}"),
        Family::V6 => format!("2001:db8::{host}"),
    }
    .parse()
    .unwrap()
}

/// The node's own address on the link that node ports may be kept from.
pub(super) fn second_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => "172.16.0.1".parse().unwrap(),
        Family::V6 => "fd16::1".parse().unwrap(),
    }
}

/// A node's own address; n3 may be behind a router.
fn node_address(family: Family, node: u8, routed: bool) -> IpAddr {
    let far = routed && node == 3;
    match (family, far) {
        (Family::V4, false) => format!("192.168.0.{node}"),
        (Family::V4, true) => format!("192.168.9.{node}"),
        (Family::V6, false) => format!("fd00::{node}"),
        (Family::V6, true) => format!("fd00:9::{node}"),
    }
    .parse()
    .unwrap()
}

pub(super) fn peer_mac(node: &str) -> MacAddr {
    MacAddr::derived(&format!("eth0 of {node}"))
}

struct Maker<'d, 'b> {
    dice: &'d mut Dice<'b>,
    families: Vec<Family>,
    routed: bool,
    pods: Vec<(u8, u8)>,
    lines: Vec<String>,
}

impl Cluster {
    /// A cluster as the dice fall.
    pub(super) fn random(dice: &mut Dice<'_>) -> Cluster {
        let families = match dice.below(6) {
            0 => vec![Family::V4],
            1 => vec![Family::V6],
            _ => Family::BOTH.to_vec(),
        };
        let routed = dice.once_in(4);
        let host = host(&families, routed);
        let settings = settings(dice);
        let mut maker = Maker { dice, families, routed, pods: Vec::new(), lines: Vec::new() };
        maker.everything();
        let Maker { lines, families, pods, .. } = maker;
        let mut world = World::new(settings);
        for change in lines.iter().flat_map(|line| changes(line)) {
            world.apply(change);
        }
        let intent = Compiler::full(&world).value;
        Cluster { lines, families, pods, world, intent, host }
    }

    /// This node.
    pub(super) fn local(&self) -> &FabricNode {
        self.intent.routes.local.as_deref().unwrap()
    }

    /// How packets of a family get to a peer, if they do.
    pub(super) fn way(&self, peer: &FabricNode, family: Family) -> Option<Way> {
        let address = *peer.internal.get(family)?;
        let direct = self.host.on_link(&address).map(|_| Way::Direct(address));
        match self.intent.routes.backend {
            BackendConf::HostGw => direct,
            BackendConf::Vxlan { direct_routing: true, .. } if direct.is_some() => direct,
            BackendConf::Vxlan { .. } => {
                let v4 = peer.internal.v4.is_some() && self.local().internal.v4.is_some();
                Some(Way::Tunnel(if v4 { "bowline.1" } else { "bowline6.1" }.to_owned()))
            }
        }
    }

    /// The cluster for a person.
    pub(super) fn show(&self) -> String {
        format!("{:?}\n{:?}\n{}", self.world.settings(), self.host, self.lines.join("\n"))
    }
}

fn settings(dice: &mut Dice<'_>) -> Settings {
    let mut settings = Settings::new("n1");
    settings.backend = match dice.below(4) {
        0 => BackendConf::HostGw,
        1 => BackendConf::Vxlan { vni: 1, port: 8472, direct_routing: true },
        _ => BackendConf::default(),
    };
    if !dice.once_in(4) {
        settings.cluster_cidrs = nets(&["10.42.0.0/16", "fd42::/16"]);
    }
    settings.service_cidrs = nets(&["10.43.0.0/16", "fd43::/112"]);
    if dice.once_in(3) {
        settings.node_port_addresses = nets(&["192.168.0.0/16", "fd00::/16"]);
    }
    if dice.once_in(3) {
        settings.no_masquerade = nets(&["192.0.2.8/29", "2001:db8::8/125"]);
    }
    settings.external_ips = nets(&["203.0.113.0/24", "2001:db8:113::/64"]);
    settings.load_balancer_ips = settings.external_ips.clone();
    settings
}

fn host(families: &[Family], routed: bool) -> HostFacts {
    let prefix = |address: IpAddr, family| IpNet::new(address, if family == Family::V4 { 24 } else { 64 }).unwrap();
    let link = |name: &str, index, address: &dyn Fn(Family) -> IpAddr| LinkFacts {
        name: name.into(),
        index,
        mtu_bytes: 1500,
        addresses: families.iter().map(|family| prefix(address(*family), *family)).collect(),
    };
    let near = if routed { ["n2"].as_slice() } else { &["n2", "n3"] };
    let macs = |name: &&str| Dual { v4: Some(peer_mac(name)), v6: Some(peer_mac(name)) };
    HostFacts {
        links: vec![link("eth0", 2, &|family| node_address(family, 1, routed)), link("eth1", 3, &second_address)],
        default_link: Some("eth0".into()),
        peer_macs: near.iter().map(|name| ((*name).into(), macs(name))).collect(),
        socket_hooks: false,
        fast_path: false,
        denials: crate::DenialFacts { counted: true, logged: true },
    }
}

impl Maker<'_, '_> {
    fn everything(&mut self) {
        for namespace in NAMESPACES {
            if !self.dice.once_in(8) {
                let team = self.dice.pick(&["red", "blue"]);
                self.lines.push(format!("ns {namespace} team={team}"));
            }
        }
        for node in 1..=3 {
            if node < 3 || !self.dice.once_in(5) {
                self.node(node);
            }
        }
        for slot in 0..PODS.len() {
            self.pod(slot);
        }
        for slot in 0..SERVICES.len() {
            if !self.dice.once_in(5) {
                self.service(slot);
                self.slices(slot);
            }
        }
        for _ in 0..self.dice.below(6) {
            let line = if self.dice.once_in(2) { narrow_policy(self.dice) } else { policy(self.dice) };
            self.lines.push(line);
        }
        if self.dice.once_in(3) {
            for _ in 0..=self.dice.below(5) {
                let line = cluster_policy(self.dice);
                self.lines.push(line);
            }
        }
    }

    fn addresses(&self, of: impl Fn(Family) -> IpAddr) -> String {
        let texts: Vec<String> = self.families.iter().map(|family| of(*family).to_string()).collect();
        texts.join(" ")
    }

    fn node(&mut self, node: u8) {
        let addresses = self.addresses(|family| node_address(family, node, self.routed));
        let mut line = format!("node n{node} {addresses}");
        for family in &self.families {
            line.push_str(&match family {
                Family::V4 => format!(" cidr=10.42.{node}.0/24"),
                Family::V6 => format!(" cidr=fd42:{node}::/64"),
            });
        }
        if node == 2 && self.families.contains(&Family::V4) && self.dice.once_in(3) {
            line.push_str(" cidr=10.42.64.0/20");
        }
        if node == 1 {
            line.push_str(self.dice.pick(&["", " zone=za", " zone=zb"]));
        }
        line.push_str(["", " pool=p", " pool=q"][usize::from(node - 1)]);
        self.lines.push(line);
    }

    fn pod(&mut self, slot: usize) {
        let (name, host) = (PODS[slot], u8::try_from(slot + 1).unwrap());
        let node = [1, 1, 1, 2, 3][self.dice.below(5)];
        let true_address = self.addresses(|family| pod_address(family, node, host));
        let mut status = true_address.clone();
        if self.dice.once_in(10) {
            // What a status says need not be true.
            let (node, host) = (1 + self.dice.below(3), 1 + self.dice.below(8));
            status = self.addresses(|family| pod_address(family, u8::try_from(node).unwrap(), u8::try_from(host).unwrap()));
        }
        let (app, tier) = (self.dice.pick(&["a", "b", "c"]), self.dice.pick(&["", "tier=front", "tier=back"]));
        let ports = self.dice.pick(&["", ":http:80/tcp", ":http:81/tcp", ":http:80/udp :dns:53/udp", ":http:80/tcp :http:81/tcp"]);
        let flag = self.dice.pick(&["", "", "", "", "", "", "+done", "+hostnet", "+sidecar", "+init"]);
        self.pods.push((node, host));
        if !self.dice.once_in(12) {
            self.lines.push(format!("pod {name} {status} @n{node} app={app} {tier} {ports} {flag} uid=1 ^{}", self.dice.below(9)));
        }
        if node == 1 && flag != "+hostnet" && !self.dice.once_in(8) {
            let uid = self.dice.pick(&["", "", "", "", "uid=1", "uid=1", "uid=1", "uid=1", "uid=1", "uid=0"]);
            self.lines.push(format!("attach {name} {true_address} {uid}"));
        }
    }

    fn service(&mut self, slot: usize) {
        let addresses = match self.dice.below(8) {
            0 => String::new(),
            1 => "None".to_owned(),
            2 => service_address(self.families[0], slot + 1).to_string(),
            _ => self.addresses(|family| service_address(family, slot + 1)),
        };
        let port = 30_080 + if self.dice.once_in(6) { 0 } else { slot };
        let ports = match self.dice.below(6) {
            0 => ":http:80/tcp".to_owned(),
            1 => format!(":http:80:{port}/tcp"),
            2 => format!(":http:80:{port}/tcp :dns:53:{port}/udp"),
            3 => format!(":http:53:{port}/udp :dns:80/tcp"),
            4 => format!(":http:80:{port}/sctp :dns:80:{port}/tcp"),
            _ => format!(":http:80:{port}/tcp :dns:81/tcp"),
        };
        let kind = self.dice.pick(&["", "type=NodePort", "type=NodePort", "type=LoadBalancer"]);
        let locality = self.dice.pick(&["", "", "internal=Local", "external=Local", "internal=Local external=Local"]);
        let outside = match self.dice.below(5) {
            0 => self.families.iter().map(|f| format!("ext={} ", external_address(*f, 1))).collect(),
            1 => {
                let ranges = ["", "ranges=192.0.2.0/29 ranges=2001:db8::/125", "ranges=10.42.0.0/16 ranges=fd42::/16"][self.dice.below(3)];
                self.families.iter().map(|f| format!("lb={} ", external_address(*f, slot + 1))).collect::<String>() + ranges
            }
            _ => String::new(),
        };
        let affinity = self.dice.pick(&["", "", "affinity=60", "affinity=20"]);
        let extra = self.dice.pick(&["", "", "", "+unready"]);
        let name = SERVICES[slot];
        self.lines.push(format!("svc {name} {addresses} {ports} {kind} {locality} {outside} {affinity} {extra} ^{}", self.dice.below(9)));
    }

    fn slices(&mut self, slot: usize) {
        let service = SERVICES[slot];
        let of = service.split_once('/').unwrap().1;
        for family in self.families.clone() {
            for number in 0..=self.dice.below(2) {
                let count = self.dice.below(4);
                let endpoints: Vec<String> = (0..count).map(|_| self.endpoint(family)).collect();
                if endpoints.is_empty() {
                    continue;
                }
                let ports =
                    self.dice.pick(&[":http:80/tcp :dns:53/udp", ":http:81/tcp :dns:81/tcp", ":http:80/sctp :dns:53/tcp", ":http:53/udp"]);
                self.lines.push(format!("slice {service}-{family}-{number} of={of} {ports} {}", endpoints.join(" ")));
            }
        }
    }

    fn endpoint(&mut self, family: Family) -> String {
        let state = self.dice.pick(&["", "", "!ready", "!draining", "!unready", "!gone"]);
        let said = 1 + self.dice.below(3);
        let (ip, node) = match self.dice.below(12) {
            0 => (outside(family, 1 + self.dice.below(9)), said),
            1 | 2 => (node_address(family, u8::try_from(said).unwrap(), self.routed), said),
            3 => (pod_address(family, 1, u8::try_from(1 + self.dice.below(PODS.len())).unwrap()), 1),
            _ => {
                let (node, host) = self.pods[self.dice.below(self.pods.len())];
                (pod_address(family, node, host), usize::from(node))
            }
        };
        let node = if self.dice.once_in(12) { said } else { node };
        let hints = if self.dice.once_in(3) { hints(self.dice) } else { "" };
        format!("{ip}@n{node}{state}{hints}")
    }
}

/// A policy for a whole namespace with what is rare elsewhere: blocks with holes at pods' addresses, and many ports.
fn narrow_policy(dice: &mut Dice<'_>) -> String {
    const BLOCKS: [&str; 8] = [
        "{cidr: 10.42.1.0/24, except: [10.42.1.2/31, 10.42.1.5/32]}",
        "{cidr: 10.42.0.0/16, except: [10.42.1.4/30, 10.42.1.6/31, 10.42.2.0/24]}",
        "{cidr: 10.42.1.0/29, except: [10.42.1.0/30]}",
        "{cidr: 0.0.0.0/0, except: [10.42.1.0/24, 192.0.2.4/30]}",
        "{cidr: 'fd42:1::/64', except: ['fd42:1::2/127', 'fd42:1::5/128']}",
        "{cidr: 'fd42::/16', except: ['fd42:1::4/126', 'fd42:2::/64']}",
        "{cidr: '::/0', except: ['fd42:1::/125', '2001:db8::4/126']}",
        "{cidr: 192.0.2.0/24, except: [192.0.2.1/32, 192.0.2.3/32, 192.0.2.5/32]}",
    ];
    const PORTS: [&str; 10] = [
        "{port: 80}",
        "{port: 53}",
        "{port: 443}",
        "{port: 30081, endPort: 30083}",
        "{port: 1000}",
        "{port: 2000, endPort: 3000}",
        "{port: 80, protocol: UDP}",
        "{port: 53, endPort: 81, protocol: UDP}",
        "{port: http}",
        "{port: 80, protocol: SCTP}",
    ];
    let (direction, peers) = [("ingress", "from"), ("egress", "to")][dice.below(2)];
    let blocks: Vec<String> = (0..=dice.below(3)).map(|_| format!("{{ipBlock: {}}}", dice.pick(&BLOCKS))).collect();
    let ports: Vec<&str> = (0..dice.below(9)).map(|_| dice.pick(&PORTS)).collect();
    let kind = if direction == "ingress" { "Ingress" } else { "Egress" };
    let (namespace, name) = (dice.pick(&NAMESPACES), dice.pick(&["m", "n"]));
    let rule = format!("{{{peers}: [{}], ports: [{}]}}", blocks.join(", "), ports.join(", "));
    format!("policy {namespace}/{name} {{podSelector: {{}}, policyTypes: [{kind}], {direction}: [{rule}]}}")
}

//! What must become of a packet, from the oracles and from what the fabric, the guard and masquerading promise.
//!
//! Invariant: nothing in here reads a lowered object. Who the nodes and attached pods are is taken from the intent, what services and
//! policies say from the oracles alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_compile::oracle::policy::{End as OracleEnd, allowed};
use bowline_compile::oracle::service::{Answer, Client, endpoints_for};
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::intent::services::{Endpoint, FrontendAddress};
use bowline_model::{Family, Protocol};
use ipnet::IpNet;

use super::super::machine::Fate;
use super::cluster::{Cluster, Way, peer_mac};
use super::traffic::{ACK, Origin, Sent};
use crate::interpret::{End, Packet};

/// What services and the guard make of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// It lies about where it comes from.
    Forged,
    /// A service has nobody to answer it.
    Refused(End),
    /// It goes to one of these, and those that affinity remembers come first.
    OneOf(BTreeSet<Endpoint>, Option<Affinity>),
    /// It is none of a service's.
    AsItIs,
}

/// What an endpoint is remembered by, and how long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Affinity {
    secs: u32,
    client: IpAddr,
    address: FrontendAddress,
    protocol: Protocol,
    port: u16,
}

/// Endpoints that clients keep, and until when.
#[derive(Debug, Default)]
pub(super) struct Memory {
    kept: BTreeMap<Affinity, (Endpoint, u64)>,
    pub(super) now_ms: u64,
}

impl Memory {
    /// The endpoint that a client must get, if there is one.
    pub(super) fn kept(&self, affinity: &Affinity, live: &BTreeSet<Endpoint>) -> Option<Endpoint> {
        self.kept.get(affinity).filter(|(endpoint, until)| *until > self.now_ms && live.contains(endpoint)).map(|(endpoint, _)| *endpoint)
    }

    /// Notes the one that it got.
    pub(super) fn keep(&mut self, affinity: Affinity, endpoint: Endpoint) {
        let until = self.now_ms + u64::from(affinity.secs) * 1000;
        self.kept.insert(affinity, (endpoint, until));
    }
}

/// What must become of a packet whose destination is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// Nothing where policy forbids it.
    pub(super) fate: Option<Fate>,
    /// The source address that it has in the end.
    pub(super) src: IpAddr,
}

fn any_contains<'a>(nets: impl IntoIterator<Item = &'a IpNet>, address: &IpAddr) -> bool {
    nets.into_iter().any(|net| net.contains(address))
}

fn protocol(packet: &Packet) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == packet.protocol)
}

impl Cluster {
    fn nodes(&self) -> impl Iterator<Item = &FabricNode> {
        self.intent.routes.peers.values().chain(&self.intent.routes.local).map(AsRef::as_ref)
    }

    fn is_pod_address(&self, address: &IpAddr) -> bool {
        any_contains(self.nodes().flat_map(|node| &node.pod_cidrs), address)
    }

    fn is_cluster_address(&self, address: &IpAddr) -> bool {
        any_contains(&self.intent.routes.cluster_cidrs, address)
    }

    fn is_node_address(&self, address: &IpAddr) -> bool {
        self.nodes().any(|node| node.internal.contains(address))
    }

    fn is_local_pod_address(&self, address: &IpAddr) -> bool {
        any_contains(&self.local().pod_cidrs, address)
    }

    /// Whether the guard must stop the packet.
    fn forged(&self, packet: &Packet) -> bool {
        let (src, mac) = (&packet.src, packet.ether_src);
        if packet.iif.is_empty() {
            return false;
        }
        if let Some(pod) = self.intent.pods.pods.get(packet.iif.as_str()) {
            return Some(pod.mac) != mac || !pod.ips.contains(src);
        }
        let somebody = self.is_pod_address(src) || self.is_cluster_address(src) || self.is_node_address(src);
        if packet.iif.starts_with("bowline") {
            let Some(peer) = self.intent.routes.peers.values().find(|peer| Some(peer.vtep_mac) == mac) else { return true };
            let its_own = any_contains(&peer.pod_cidrs, src) || peer.internal.contains(src);
            return somebody && !its_own;
        }
        let all_tunnelled = matches!(self.intent.routes.backend, BackendConf::Vxlan { direct_routing: false, .. });
        self.is_local_pod_address(src) || all_tunnelled && (self.is_pod_address(src) || self.is_cluster_address(src))
    }

    /// What services make of the packet.
    pub(super) fn choice(&self, packet: &Packet) -> Choice {
        if self.forged(packet) {
            return Choice::Forged;
        }
        let Some((address, answer)) = self.answer(packet) else {
            let unserved = any_contains(&self.intent.services.service_cidrs, &packet.dst);
            return if unserved { Choice::Refused(refusal(packet)) } else { Choice::AsItIs };
        };
        match answer {
            Answer::Endpoints(endpoints) => Choice::OneOf(endpoints, self.affinity(packet, address)),
            Answer::Drop => Choice::Refused(End::Drop),
            Answer::Reject | Answer::NotAService => Choice::Refused(refusal(packet)),
        }
    }

    fn answer(&self, packet: &Packet) -> Option<(FrontendAddress, Answer)> {
        let protocol = protocol(packet)?;
        let client = Client { ip: packet.src, own: packet.iif.is_empty() || self.intent.pods.pods.contains_key(packet.iif.as_str()) };
        let ask = |address| {
            let answer = endpoints_for(&self.world, "n1", client, address, protocol, packet.dst_port);
            (answer != Answer::NotAService).then_some((address, answer))
        };
        let allowed = &self.intent.services.node_port_addresses;
        let node_port = packet.local_addresses.contains(&packet.dst) && (allowed.is_empty() || any_contains(allowed, &packet.dst));
        let by_port = || ask(FrontendAddress::NodePort(packet.family())).filter(|_| node_port);
        ask(FrontendAddress::Vip(packet.dst)).or_else(by_port)
    }

    fn affinity(&self, packet: &Packet, address: FrontendAddress) -> Option<Affinity> {
        let (protocol, port) = (protocol(packet)?, packet.dst_port);
        let mut frontends = self.intent.services.services.values().flat_map(|service| &service.frontends);
        let same = frontends.find(|frontend| (frontend.address, frontend.protocol, frontend.port) == (address, protocol, port));
        Some(Affinity { secs: same?.affinity_secs?, client: packet.src, address, protocol, port })
    }

    /// What must become of a packet that goes to `to` after services have seen it.
    pub(super) fn expected(&self, sent: &Sent, to: Endpoint, translated: bool) -> Expected {
        let packet = &sent.packet;
        let way = self.lands(packet, &to.ip, matches!(sent.origin, Origin::Pod(_)));
        let src = if sent.origin == Origin::OwnNode { OracleEnd::OwnNode(packet.src) } else { OracleEnd::Address(packet.src) };
        let port = protocol(packet).map(|_| to.port);
        let passes = way == Fate::NoRoute || allowed(&self.world, src, OracleEnd::Address(to.ip), packet.protocol, port);
        let passes = passes && (way == Fate::NoRoute || !self.of_no_connection(sent, &to.ip));
        let src = if matches!(way, Fate::Left { .. }) { self.source(sent, &to.ip, translated) } else { packet.src };
        Expected { fate: passes.then_some(way), src }
    }

    /// Whether the packet claims to be of a connection that nobody knows, at a pod that policies select: it could be the reverse of one that
    /// they cut.
    fn of_no_connection(&self, sent: &Sent, to: &IpAddr) -> bool {
        let packet = &sent.packet;
        if sent.origin == Origin::OwnNode || packet.protocol != Protocol::Tcp.number() || packet.tcp_flags != ACK || packet.src == *to {
            return false;
        }
        let mut pods = self.intent.pods.pods.values().filter(|pod| pod.ips.contains(&packet.src) || pod.ips.contains(to));
        pods.any(|pod| self.intent.policy.pods.get(&pod.host_ifname).is_some_and(|of| !of.ingress.is_open() || !of.egress.is_open()))
    }

    /// Where a packet to an address ends; what pods have for other nodes takes the tunnel.
    pub(super) fn lands(&self, packet: &Packet, to: &IpAddr, from_pod: bool) -> Fate {
        let family = Family::of(to);
        if packet.local_addresses.contains(to) {
            return Fate::Node;
        }
        if let Some(pod) = self.intent.pods.pods.values().find(|pod| pod.ips.contains(to)) {
            return Fate::Left { link: pod.host_ifname.to_string(), gateway: None };
        }
        for peer in self.intent.routes.peers.values() {
            if let Some(cidr) = peer.pod_cidrs.iter().find(|cidr| cidr.contains(to)) {
                return self.by(peer, family, cidr.network());
            }
            if from_pod && peer.internal.contains(to) && matches!(self.way(peer, family), Some(Way::Tunnel(_))) {
                return self.through(peer, family);
            }
        }
        if self.is_cluster_address(to) {
            return Fate::NoRoute;
        }
        Fate::Left { link: "eth0".to_owned(), gateway: None }
    }

    fn by(&self, peer: &FabricNode, family: Family, tunnel_gateway: IpAddr) -> Fate {
        match self.way(peer, family) {
            Some(Way::Tunnel(link)) => Fate::Left { link, gateway: Some(tunnel_gateway) },
            Some(Way::Direct(gateway)) => Fate::Left { link: "eth0".to_owned(), gateway: Some(gateway) },
            None => Fate::NoRoute,
        }
    }

    /// To the peer itself, or through it to anyone.
    pub(super) fn through(&self, peer: &FabricNode, family: Family) -> Fate {
        let first = peer.pod_cidrs.iter().find(|cidr| Family::of_prefix(cidr) == family).unwrap();
        self.by(peer, family, first.network())
    }

    /// The source of a packet that leaves: the node's own where the answer would not find back otherwise, or must not show a pod.
    fn source(&self, sent: &Sent, to: &IpAddr, translated: bool) -> IpAddr {
        let src = sent.packet.src;
        let node = *self.local().internal.get(Family::of(to)).unwrap();
        let local = self.is_local_pod_address(&src);
        let to_own_pod = self.intent.pods.pods.values().any(|pod| pod.ips.contains(to));
        let in_cluster = self.is_cluster_address(to) || self.is_pod_address(to);
        let spared = [&self.intent.routes.no_masquerade, &self.intent.services.service_cidrs].into_iter().flatten();
        let outward = !in_cluster && !self.is_node_address(to) && !any_contains(spared, to);
        let hairpin = translated && src == *to;
        let pod_outward = local && !to_own_pod && outward;
        let handed_on = translated && !local && sent.origin != Origin::OwnNode;
        let third_node = !to_own_pod && (self.is_pod_address(&src) || self.is_node_address(&src));
        if hairpin || pod_outward || handed_on && (!in_cluster || third_node) { node } else { src }
    }

    /// The peer that replies must go back through: that which handed over a client's packet.
    pub(super) fn handed_over_by(&self, packet: &Packet) -> Option<&FabricNode> {
        if self.is_pod_address(&packet.src) || self.is_node_address(&packet.src) {
            return None;
        }
        let family = packet.family();
        let peers = self.intent.routes.peers.values().map(AsRef::as_ref);
        let mut senders = peers.filter(|peer| match self.way(peer, family) {
            Some(Way::Tunnel(device)) => packet.iif == device && packet.ether_src == Some(peer.vtep_mac),
            Some(Way::Direct(_)) => packet.iif == "eth0" && packet.ether_src == Some(peer_mac(peer.name.as_str())),
            None => false,
        });
        senders.next()
    }
}

fn refusal(packet: &Packet) -> End {
    if packet.protocol == Protocol::Tcp.number() { End::Reset } else { End::Unreachable }
}

//! Random first packets of connections, as n1 meets them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_compile::testing::dice::Dice;
use bowline_model::intent::services::{Frontend, FrontendAddress};
use bowline_model::{Family, MacAddr, NodeName};

use super::cluster::{Cluster, Way, external_address, outside, peer_mac, pod_address, second_address, service_address};
use crate::interpret::Packet;

/// Flags of TCP in the midst of a connection.
pub(super) const ACK: u8 = 0x10;

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A pod of this node, by its link.
    Pod(Arc<str>),
    /// A process of this node.
    OwnNode,
    /// What another node sends by the fabric: its pods' packets, its own, and its clients'.
    Fabric(NodeName),
    /// What comes by the machine's own link from another node itself.
    Neighbour(NodeName),
    /// What comes by the machine's own link from anyone else.
    Outside,
}

/// A packet with its story.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) origin: Origin,
    pub(super) packet: Packet,
    /// How long after the one before it, in milliseconds.
    pub(super) after_ms: u64,
}

/// A packet as the dice fall.
pub(super) fn random(cluster: &Cluster, dice: &mut Dice<'_>) -> Sent {
    let family = cluster.families[dice.below(cluster.families.len())];
    let (origin, src) = sender(cluster, family, dice);
    let (dst, protocol, port) = destination(cluster, family, dice);
    let mut packet = Packet::new(src, dst, protocol, port);
    (packet.iif, packet.ether_src) = arrival(cluster, &origin, family);
    packet.local_addresses = own_addresses(cluster);
    packet.random = u32::from_be_bytes([dice.below(256), dice.below(256), 0, 0].map(|byte| u8::try_from(byte).unwrap()));
    if packet.protocol == 6 && dice.once_in(12) {
        packet.tcp_flags = ACK;
    }
    if dice.once_in(24) {
        forge(cluster, family, &mut packet, dice);
    }
    let after_ms = [0, 0, 0, 15_000, 45_000][dice.below(5)];
    Sent { origin, packet, after_ms }
}

/// All addresses of the machine itself, those of its tunnel devices among them.
pub(super) fn own_addresses(cluster: &Cluster) -> BTreeSet<IpAddr> {
    let tunnels = !matches!(cluster.intent.routes.backend, bowline_model::intent::routes::BackendConf::HostGw);
    let gateways = cluster.local().pod_cidrs.iter().map(ipnet::IpNet::network).filter(|_| tunnels);
    let links = cluster.host.links.iter().flat_map(|link| link.addresses.iter().map(ipnet::IpNet::addr));
    gateways.chain(links).collect()
}

fn sender(cluster: &Cluster, family: Family, dice: &mut Dice<'_>) -> (Origin, IpAddr) {
    let client = outside(family, 1 + dice.below(9));
    let pods: Vec<_> = cluster.intent.pods.pods.values().collect();
    let peers: Vec<_> = cluster.intent.routes.peers.values().collect();
    match dice.below(8) {
        0..=3 if !pods.is_empty() => {
            let pod = pods[dice.below(pods.len())];
            (Origin::Pod(pod.host_ifname.clone()), *pod.ips.get(family).unwrap())
        }
        4 => (Origin::OwnNode, *cluster.local().internal.get(family).unwrap()),
        5 | 6 if !peers.is_empty() => {
            let peer = peers[dice.below(peers.len())];
            let internal = *peer.internal.get(family).unwrap();
            let number = peer.name.as_str()[1..].parse().unwrap();
            match dice.below(5) {
                0 => (Origin::Neighbour(peer.name.clone()), internal),
                1 => (Origin::Fabric(peer.name.clone()), internal),
                2 => (Origin::Fabric(peer.name.clone()), client),
                _ => (Origin::Fabric(peer.name.clone()), pod_address(family, number, u8::try_from(1 + dice.below(8)).unwrap())),
            }
        }
        _ => (Origin::Outside, client),
    }
}

fn destination(cluster: &Cluster, family: Family, dice: &mut Dice<'_>) -> (IpAddr, u8, u16) {
    let frontends = cluster.intent.services.services.values().flat_map(|service| &service.frontends);
    let frontends: Vec<&Frontend> = frontends.filter(|frontend| frontend.address.family() == family).collect();
    let own = *cluster.local().internal.get(family).unwrap();
    if !frontends.is_empty() && dice.below(5) < 2 {
        let frontend = frontends[dice.below(frontends.len())];
        let address = match frontend.address {
            FrontendAddress::Vip(address) => address,
            FrontendAddress::NodePort(_) if dice.once_in(6) => second_address(family),
            FrontendAddress::NodePort(_) => own,
        };
        return (address, frontend.protocol.number(), frontend.port);
    }
    let icmp = if family == Family::V4 { 1 } else { 58 };
    let protocol = [6, 6, 6, 17, 17, 132, icmp][dice.below(7)];
    let port = [80, 80, 81, 53, 30_080, 30_081, 443][dice.below(7)];
    let nodes = cluster.intent.routes.peers.values().chain(&cluster.intent.routes.local);
    let nodes: Vec<IpAddr> = nodes.filter_map(|node| node.internal.get(family).copied()).collect();
    let (node, host) = cluster.pods[dice.below(cluster.pods.len())];
    let address = match dice.below(12) {
        0..=4 => pod_address(family, node, host),
        5 => service_address(family, 1 + dice.below(5)),
        6 => external_address(family, 1 + dice.below(4)),
        7 => own,
        8 => nodes[dice.below(nodes.len())],
        9 => [second_address(family), pod_address(family, 1, 0), pod_address(family, 9, 9), pod_address(family, 1, 7)][dice.below(4)],
        _ => outside(family, 1 + dice.below(9)),
    };
    (address, protocol, port)
}

/// The link that a sender's packets come by, and the Ethernet address that they come from.
pub(super) fn arrival(cluster: &Cluster, origin: &Origin, family: Family) -> (String, Option<MacAddr>) {
    let router = MacAddr::derived("router");
    let eth0 = |mac| ("eth0".to_owned(), Some(mac));
    match origin {
        Origin::Pod(link) => (link.to_string(), Some(cluster.intent.pods.pods[link].mac)),
        Origin::OwnNode => (String::new(), None),
        Origin::Fabric(name) => {
            let peer = &cluster.intent.routes.peers[name];
            match cluster.way(peer, family) {
                Some(Way::Tunnel(device)) => (device, Some(peer.vtep_mac)),
                Some(Way::Direct(_)) => eth0(peer_mac(name.as_str())),
                None => eth0(router),
            }
        }
        Origin::Neighbour(name) => eth0(cluster.host.peer_macs.get(name).and_then(|macs| macs.get(family).copied()).unwrap_or(router)),
        Origin::Outside => eth0(router),
    }
}

/// Gives the packet an address that may not be the sender's.
fn forge(cluster: &Cluster, family: Family, packet: &mut Packet, dice: &mut Dice<'_>) {
    let own = *cluster.local().internal.get(family).unwrap();
    match dice.below(5) {
        _ if packet.iif.is_empty() => {}
        0 => packet.src = pod_address(family, 1, u8::try_from(1 + dice.below(8)).unwrap()),
        1 => packet.src = pod_address(family, [2, 3, 9][dice.below(3)], 1),
        // By its own link no machine takes a packet that seems to come from itself (the kernel's martians).
        2 if packet.iif != "eth0" => packet.src = own,
        3 => packet.src = outside(family, 1),
        _ => packet.ether_src = Some(MacAddr::derived("forged")),
    }
}

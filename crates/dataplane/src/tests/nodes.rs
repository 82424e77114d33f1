//! The nodes of a table: what each machine has of its own, and the links between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::{Dual, Family, MacAddr};
use ipnet::IpNet;

use super::machine::{Machine, Maps};
use crate::interpret::Packet;
use crate::interpret::sockets::{Socket, connect};
use crate::objects::sockets::{SocketKey, SocketValue};
use crate::{HostFacts, LinkFacts};

/// A node: its rules, what its socket hooks look into, and who is on it.
pub(super) struct Node {
    pub(super) machine: Machine,
    pub(super) intent: Intent,
    pub(super) local: BTreeSet<IpAddr>,
    sockets: BTreeMap<SocketKey, SocketValue>,
}

/// The Ethernet address of a node's own link.
pub(super) fn mac(node: &str) -> MacAddr {
    MacAddr::derived(&format!("eth0 of {node}"))
}

/// What a node's agent finds on its machine: `eth0` with the node's addresses, and `eth1` with those of the name with a `b` after it.
pub(super) fn host(names: &[String], node: &str, address: &dyn Fn(&str, Family) -> IpAddr) -> HostFacts {
    let link = |name: &str, index, of: &str| LinkFacts {
        name: name.into(),
        index,
        mtu_bytes: 1500,
        addresses: Family::BOTH.map(|f| IpNet::new(address(of, f), if f == Family::V4 { 24 } else { 64 }).unwrap()).to_vec(),
    };
    let peers = names.iter().filter(|name| *name != node);
    let macs = |name: &String| (name.as_str().into(), Dual { v4: Some(mac(name)), v6: Some(mac(name)) });
    HostFacts {
        links: vec![link("eth0", 2, node), link("eth1", 3, &format!("{node}b"))],
        default_link: Some("eth0".into()),
        peer_macs: peers.map(macs).collect(),
        socket_hooks: false,
        fast_path: false,
        denials: crate::DenialFacts { counted: true, logged: true },
    }
}

impl Node {
    /// A node that holds these objects.
    pub(super) fn new(intent: Intent, host: &HostFacts, objects: Maps) -> Node {
        let addresses = &host.links[0].addresses;
        let own = Dual::first_of(addresses.iter().map(IpNet::addr));
        let connected = addresses.iter().map(IpNet::trunc).collect();
        let machine = Machine::new(objects, connected, own);
        let sockets = crate::lower(&Intent::default(), &intent, host).value.sockets.set;
        let gateways = intent.routes.local.iter().flat_map(|local| local.pod_cidrs.iter().map(IpNet::network));
        let links = host.links.iter().flat_map(|link| link.addresses.iter().map(IpNet::addr));
        let local = gateways.chain(links).collect();
        Node { machine, intent, local, sockets }
    }

    /// What becomes of a packet's destination in the call that would send it, by a program of the node or of one of its pods.
    pub(super) fn at_socket(&self, packet: &Packet, on_node: bool) -> Socket {
        connect(&self.sockets, packet.dst, packet.protocol, packet.dst_port, on_node)
    }
}

/// The node that a packet comes to next, if it stays in the cluster, and the packet as it comes there.
pub(super) fn next(
    nodes: &BTreeMap<String, Node>,
    at: &str,
    (link, gateway): (&str, Option<IpAddr>),
    packet: &Packet,
) -> Option<(String, Packet)> {
    let towards = gateway.unwrap_or(packet.dst);
    let (name, _) = nodes.iter().find(|(_, node)| node.local.contains(&towards))?;
    let tunnelled = link.starts_with("bowline");
    let ether = if tunnelled { nodes[at].intent.routes.local.as_ref().unwrap().vtep_mac } else { mac(at) };
    let mut onward = Packet::new(packet.src, packet.dst, packet.protocol, packet.dst_port);
    (onward.iif, onward.ether_src) = (link.to_owned(), Some(ether));
    Some((name.clone(), onward))
}

//! What may enter from other nodes: a peer's packets carry an address of its own pods, its own, or one that belongs to no pod and no node
//! (a client whose packets it forwards). Pods' addresses come from nowhere else.
//!
//! A peer is told by its tunnel address (Ethernet source). Its subnets are in one hash set for each prefix length in use, usually one, asked
//! with the masked source. The outer source must be a node, and the link none of a pod's.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::routes::{BackendConf, FabricNode, RoutesIntent};
use bowline_model::{Family, Protocol};
use ipnet::IpNet;

use super::host_prefix;
use super::returns::PEER_MARK;
use crate::change::{Objects, set_of};
use crate::expr::Part::{Daddr, EtherSaddr, IifName, Saddr};
use crate::expr::{FABRIC_LINKS, POD_LINKS, ip_field, named, rule};
use crate::objects::nft::{ChainKind, Field, Hook, KeyBuilder, Reg, Rule};
use crate::pod::guard::Reason;

/// Before connection tracking (`NF_IP_PRI_RAW`).
const RAW_PRIORITY: i32 = -300;

/// The chain of what looks like a tunnel packet for this node, and must come from a node.
pub(crate) const GUARD_WRAPPED: &str = "guard_wrapped";

/// The chain that lets in what nodes wrap; empty where there is no tunnel.
pub(crate) const WRAPPED: &str = "wrapped_by_nodes";

/// Before what policies say of packets to the node (0).
const TUNNEL_PRIORITY: i32 = -1;

fn source_set(family: Family, prefix_len: u8) -> Arc<str> {
    format!("{}_{prefix_len}", named("peer_src", family)).into()
}

fn sources(node: &FabricNode) -> impl Iterator<Item = IpNet> {
    node.pod_cidrs.iter().copied().chain(node.internal.values().map(|a| host_prefix(*a)))
}

/// The addresses that a peer may send from through the tunnel.
pub(super) fn peer(peer: &FabricNode, objects: &mut Objects) {
    for prefix in sources(peer) {
        let key = KeyBuilder::new().mac(peer.vtep_mac).ip(prefix.network()).build();
        objects.member(source_set(Family::of_prefix(&prefix), prefix.prefix_len()), key);
    }
}

/// The chains that depend on the backend and on the prefix lengths in use, and the sets of those lengths.
pub(super) fn chains(routes: &RoutesIntent, objects: &mut Objects) {
    let lengths: BTreeSet<(Family, u8)> =
        routes.peers.values().flat_map(|p| sources(p)).map(|p| (Family::of_prefix(&p), p.prefix_len())).collect();
    for (family, len) in &lengths {
        objects.set(source_set(*family, *len), set_of(&[Field::Ether, ip_field(*family)]));
    }
    let mut fabric: Vec<Rule> = lengths.iter().map(|(family, len)| own_source(*family, *len)).collect();
    for family in Family::BOTH {
        for set in ["pod_net", "cluster_net", "node"] {
            fabric.push(rule().family(family).in_set(&named(set, family), &[Saddr(family)]).drop().saying("another node's address"));
        }
    }
    let known = rule().load(0, &[IifName, EtherSaddr]).value(&PEER_MARK.into(), Reg(0), Reg(0));
    fabric.push(known.accept());
    fabric.push(rule().drop().saying("unknown node"));
    objects.chain("guard_fabric", fabric);
    objects.chain("guard_outside", outside(routes));
    tunnel(routes, objects);
}

/// What the tunnel devices may open: packets of nodes, from the links that nodes are on. They ask nobody who sent a packet, so one that a pod
/// wraps would come out with any node's or pod's source. Asked where all is taken in that is for this node, so that no service's translation
/// leads around it.
fn tunnel(routes: &RoutesIntent, objects: &mut Objects) {
    let wrapped = match &routes.backend {
        BackendConf::Vxlan { port, .. } => vec![rule().protocol(Protocol::Udp).dport(*port).goto(GUARD_WRAPPED)],
        BackendConf::HostGw => Vec::new(),
    };
    objects.base("guard_tunnel", ChainKind::Filter, Hook::Input, TUNNEL_PRIORITY, wrapped);
    objects.chain(WRAPPED, if let BackendConf::Vxlan { port, .. } = routes.backend { wrapped_by_nodes(port) } else { Vec::new() });
    let by = |links| rule().iif(links).drop();
    let mut rules = vec![by(POD_LINKS).saying(Reason::Tunnel.says()), by(FABRIC_LINKS).saying("tunnel packet inside the tunnel")];
    for family in Family::BOTH {
        let strange = rule().family(family).not_in_set(&named("node", family), &[Saddr(family)]);
        rules.push(strange.drop().saying("tunnel packet from no node"));
    }
    objects.chain(GUARD_WRAPPED, rules);
}

fn own_source(family: Family, len: u8) -> Rule {
    let mut mask = vec![0_u8; usize::from(family.address_bytes())];
    for (byte, first_bit) in mask.iter_mut().zip((0_u32..).step_by(8)) {
        let bits = u32::from(len).saturating_sub(first_bit).min(8);
        *byte = u8::try_from(0xff00_u32 >> bits & 0xff).unwrap_or(0xff);
    }
    let source = Reg(EtherSaddr.registers());
    rule().family(family).load(0, &[EtherSaddr, Saddr(family)]).bitwise(source, &mask).in_set_at(&source_set(family, len), Reg(0)).accept()
}

/// What comes by links that are neither pods' nor the fabric's.
fn outside(routes: &RoutesIntent) -> Vec<Rule> {
    let BackendConf::Vxlan { direct_routing, .. } = &routes.backend else { return Vec::new() };
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let packets = || rule().family(family);
        if !direct_routing {
            for set in ["pod_net", "cluster_net"] {
                rules.push(packets().in_set(&named(set, family), &[Saddr(family)]).drop().saying("a pod's address from outside"));
            }
        }
    }
    rules
}

/// Packets that wrap others. Connection tracking knows what is in them, and need not know them: each flow has a source port of its own, and its
/// answers come from another. What arrives from a node is let in here, before anything else is asked; that it came by the right link is asked
/// where it is opened (`guard_tunnel`).
fn wrapped_by_nodes(port: u16) -> Vec<Rule> {
    let wrapped = |family| rule().family(family).protocol(Protocol::Udp).dport(port).in_set(&named("node", family), &[Saddr(family)]);
    Family::BOTH.into_iter().map(|family| wrapped(family).for_this_node().not_tracked().accept()).collect()
}

/// The same of what this node sends.
pub(super) fn untracked(port: u16, objects: &mut Objects) {
    let wrapped = |family| rule().family(family).protocol(Protocol::Udp).dport(port).in_set(&named("node", family), &[Daddr(family)]);
    let rules = Family::BOTH.into_iter().map(|family| wrapped(family).not_tracked().accept()).collect();
    objects.base("untracked", ChainKind::Filter, Hook::Output, RAW_PRIORITY, rules);
}

//! One peer's objects: routes to its pods, the way back through it, its neighbour and forwarding entries, its place in the sets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bowline_model::intent::routes::{FabricNode, RoutesIntent};
use bowline_model::{Family, NodeName};
use imbl::ordmap::DiffItem;
use ipnet::IpNet;

use super::{Context, RETURNS_PREFERENCE, Way, default_prefix, guard, host_prefix, tunnel_gateway};
use crate::change::{Change, Objects};
use crate::expr::named;
use crate::host::HostFacts;
use crate::objects::net::{
    NetKey, NetObject, PEER_MARK_MASK, PEER_MARK_SHIFT, RouteSpec, RuleAction, RuleSelector, TABLE_BASE, TABLE_MAIN,
};
use crate::objects::nft::KeyBuilder;
use crate::{fabric::returns, interval};

/// Lowers the peers that changed; all of them where what they depend on has changed.
pub(super) fn lower(old: &RoutesIntent, new: &RoutesIntent, host: &HostFacts, change: &mut Change) {
    let (before, after) = (Context::of(old, host), Context::of(new, host));
    let names = if before == after { touched(old, new) } else { old.peers.keys().chain(new.peers.keys()).cloned().collect() };
    for name in &names {
        for (routes, context, objects) in [(old, &before, &mut change.old), (new, &after, &mut change.new)] {
            let Some(peer) = routes.peers.get(name) else { continue };
            membership(peer, objects);
            if let Some(context) = context {
                lower_one(context, peer, objects);
            }
        }
    }
}

/// Peers that changed, and those that share an address, a subnet or a number with one of them (a machine that was registered again under
/// another name): what they have in common must not go with one of them.
fn touched(old: &RoutesIntent, new: &RoutesIntent) -> BTreeSet<NodeName> {
    let mut names = BTreeSet::new();
    let mut traits = Traits::default();
    for item in old.peers.diff(&new.peers) {
        let (name, nodes) = match item {
            DiffItem::Add(name, node) | DiffItem::Remove(name, node) => (name, [Some(node), None]),
            DiffItem::Update { old: (name, was), new: (_, is) } => (name, [Some(was), Some(is)]),
        };
        names.insert(name.clone());
        nodes.into_iter().flatten().for_each(|node| traits.add(node));
    }
    if names.is_empty() {
        return names;
    }
    let alike = new.peers.iter().filter(|(_, peer)| traits.shared_with(peer)).map(|(name, _)| name.clone());
    names.extend(alike);
    names
}

#[derive(Default)]
struct Traits {
    addresses: BTreeSet<IpAddr>,
    subnets: BTreeSet<IpNet>,
    ids: BTreeSet<u16>,
}

impl Traits {
    fn add(&mut self, node: &FabricNode) {
        self.addresses.extend(node.internal.values());
        self.subnets.extend(&node.pod_cidrs);
        self.ids.insert(node.id);
    }

    fn shared_with(&self, node: &FabricNode) -> bool {
        self.ids.contains(&node.id)
            || node.internal.values().any(|a| self.addresses.contains(a))
            || node.pod_cidrs.iter().any(|c| self.subnets.contains(c))
    }
}

/// A node's place in the sets of node addresses and pod subnets.
pub(super) fn membership(node: &FabricNode, objects: &mut Objects) {
    for (family, address) in node.internal.iter() {
        objects.member(named("node", family), KeyBuilder::new().ip(*address).build());
    }
    for cidr in &node.pod_cidrs {
        let family = Family::of_prefix(cidr);
        for i in interval::union(family, [cidr]) {
            objects.interval(named("pod_net", family), interval::key(family, i.first), interval::key(family, i.last));
        }
    }
}

fn lower_one(context: &Context<'_>, peer: &FabricNode, objects: &mut Objects) {
    for family in Family::BOTH {
        let subnets: Vec<&IpNet> = peer.pod_cidrs.iter().filter(|c| Family::of_prefix(c) == family).collect();
        let Some(first) = subnets.first() else { continue };
        let Ok(way) = context.way(peer, family) else { continue };
        for subnet in &subnets {
            let route = route(&way, tunnel_gateway(subnet), context.source(family));
            objects.net(NetKey::Route { table: TABLE_MAIN, destination: **subnet, metric: 0 }, NetObject::Route(route));
        }
        let back = route(&way, tunnel_gateway(first), None);
        match &way {
            Way::Tunnel { device, outer } => {
                for subnet in &subnets {
                    let key = NetKey::Neighbour { link: device.clone(), address: tunnel_gateway(subnet) };
                    objects.net(key, NetObject::Neighbour(peer.vtep_mac));
                }
                objects.net(NetKey::Forwarding { link: device.clone(), mac: peer.vtep_mac }, NetObject::Forwarding(*outer));
                if let Some(address) = peer.internal.get(family) {
                    let key = NetKey::Route { table: TABLE_BASE, destination: host_prefix(*address), metric: 0 };
                    objects.net(key, NetObject::Route(back.clone()));
                }
                way_back(peer, family, back, objects);
                returns::peer(device, peer.vtep_mac, peer.id, objects);
                guard::peer(peer, objects);
            }
            Way::Direct { link, .. } => {
                if let Some(mac) = context.host.peer_macs.get(&peer.name).and_then(|macs| macs.get(family)) {
                    way_back(peer, family, back, objects);
                    returns::peer(link, *mac, peer.id, objects);
                }
            }
        }
    }
}

fn route(way: &Way, tunnel_gateway: IpAddr, source: Option<IpAddr>) -> RouteSpec {
    let (link, gateway) = match way {
        Way::Tunnel { device, .. } => (device.clone(), tunnel_gateway),
        Way::Direct { link, gateway } => (link.clone(), *gateway),
    };
    RouteSpec::Unicast { link, gateway: Some(gateway), source, mtu_bytes: None }
}

/// The table of replies to what came from the peer.
fn way_back(peer: &FabricNode, family: Family, route: RouteSpec, objects: &mut Objects) {
    let id = u32::from(peer.id);
    let table = TABLE_BASE + id;
    objects.net(NetKey::Route { table, destination: default_prefix(family), metric: 0 }, NetObject::Route(route));
    let selector = RuleSelector::Mark { value: id << PEER_MARK_SHIFT, mask: PEER_MARK_MASK };
    objects.net(NetKey::Rule { family, priority: RETURNS_PREFERENCE, selector }, NetObject::Rule(RuleAction::Table(table)));
}

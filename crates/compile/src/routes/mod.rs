//! Nodes to the fabric: who is there, where, and with which pod addresses.
//!
//! Invariant: pod subnets of different nodes never overlap; the older node keeps what two claim.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::routes::{FabricNode, RoutesIntent};
use bowline_model::net::fnv1a;
use bowline_model::{Checked, Dual, MacAddr, NodeName, Problem};
use imbl::OrdMap;
use ipnet::IpNet;

use crate::codes;
use crate::world::{Age, Node, World};

/// Compiles the fabric; what is as in `old` stays the same object.
pub(crate) fn compile(world: &World, old: &RoutesIntent) -> Checked<RoutesIntent> {
    let settings = world.settings();
    let mut problems = Vec::new();
    let ids = ids(world.nodes().keys());
    let mut by_age: Vec<(Age, &NodeName, &Arc<Node>)> =
        world.nodes().iter().map(|(name, node)| (node.metadata.age(), name, node)).collect();
    by_age.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let mut held = Held::default();
    let mut nodes: BTreeMap<NodeName, FabricNode> = BTreeMap::new();
    for (_, name, node) in by_age {
        let internal = internal(name, node, &mut problems);
        let pod_cidrs = held.take(name, subnets(name, node, &mut problems), &mut problems);
        if internal.is_empty() {
            let fix = "set --node-ip of its kubelet, or wait for its cloud controller";
            let place = format!("Node {name}, status.addresses");
            problems.push(Problem::new(codes::NODE_WITHOUT_ADDRESS, "node has no InternalIP and is left out", place, fix));
        } else if pod_cidrs.is_empty() {
            let fix = "let the controller manager allocate node CIDRs, or set spec.podCIDRs";
            let place = format!("Node {name}, spec.podCIDRs");
            problems.push(Problem::new(codes::NODE_WITHOUT_SUBNET, "node has no pod subnet and is left out", place, fix));
        } else if let Some(id) = ids.get(name) {
            let vtep_mac = MacAddr::derived(&format!("vtep {name}"));
            nodes.insert(name.clone(), FabricNode { name: name.clone(), internal, pod_cidrs, id: *id, vtep_mac });
        }
    }
    let cluster_cidrs = match settings.cluster_cidrs.is_empty() {
        false => settings.cluster_cidrs.clone(),
        true => nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect::<BTreeSet<_>>().into_iter().collect(),
    };
    let keep = |old: Option<&Arc<FabricNode>>, new: FabricNode| match old {
        Some(old) if **old == new => Arc::clone(old),
        _ => Arc::new(new),
    };
    let local = nodes.remove(&settings.node_name).map(|node| keep(old.local.as_ref(), node));
    let mut peers: OrdMap<NodeName, Arc<FabricNode>> = old.peers.clone();
    for name in old.peers.keys().filter(|name| !nodes.contains_key(*name)) {
        peers.remove(name);
    }
    for (name, node) in nodes {
        if old.peers.get(&name).is_none_or(|old| **old != node) {
            peers.insert(name, Arc::new(node));
        }
    }
    let no_masquerade = settings.no_masquerade.clone();
    let value = RoutesIntent { backend: settings.backend.clone(), local, peers, cluster_cidrs, no_masquerade };
    problems.sort();
    Checked { value, problems }
}

/// A number for each node: FNV-1a of its name, and the next free one where two meet, in order of names.
fn ids<'a>(names: impl Iterator<Item = &'a NodeName>) -> BTreeMap<&'a NodeName, u16> {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeMap::new();
    for name in names {
        let start = u16::try_from(fnv1a(name.as_str().as_bytes()) % 65_535).unwrap_or_default();
        let mut order = (start..65_535).chain(0..start).map(|zero_based| zero_based + 1);
        if let Some(id) = order.find(|id| taken.insert(*id)) {
            ids.insert(name, id);
        }
    }
    ids
}

fn internal(name: &NodeName, node: &Node, problems: &mut Vec<Problem>) -> Dual<IpAddr> {
    let mut good = Vec::new();
    for (index, address) in node.status.addresses.iter().enumerate().filter(|(_, a)| &*a.kind == "InternalIP") {
        match address.address.parse::<IpAddr>() {
            Ok(ip) => good.push(ip),
            Err(_) => {
                let what = format!("node address `{}` is not an IP address", address.address.escape_debug());
                let place = format!("Node {name}, status.addresses[{index}].address");
                problems.push(Problem::new(codes::BAD_ADDRESS, what, place, "set --node-ip of its kubelet"));
            }
        }
    }
    Dual::first_of(good)
}

fn subnets(name: &NodeName, node: &Node, problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let mut good = Vec::new();
    for text in node.spec.subnets() {
        match text.parse::<IpNet>() {
            Ok(net) => good.push(net.trunc()),
            Err(_) => {
                let what = format!("pod subnet `{}` is not a network", text.escape_debug());
                let place = format!("Node {name}, spec.podCIDRs");
                problems.push(Problem::new(codes::BAD_SUBNET, what, place, "write it as 10.42.1.0/24 or fd00:42:1::/64"));
            }
        }
    }
    good
}

/// Subnets that have an owner. They are disjoint, so a new one can only meet the one that starts before it or after it.
#[derive(Default)]
struct Held {
    by_start: BTreeMap<IpAddr, (IpNet, NodeName)>,
}

impl Held {
    fn take(&mut self, name: &NodeName, wanted: Vec<IpNet>, problems: &mut Vec<Problem>) -> Vec<IpNet> {
        let mut got = Vec::new();
        for net in wanted {
            match self.meets(&net) {
                Some((_, owner)) if owner == name => {}
                Some((other, owner)) => {
                    let what = format!("pod subnet {net} overlaps {other} of the older node {owner}");
                    let place = format!("Node {name}, spec.podCIDRs");
                    let fix = "give the node another subnet: delete it and let it register again";
                    problems.push(Problem::new(codes::SUBNETS_OVERLAP, what, place, fix));
                }
                None => {
                    self.by_start.insert(net.network(), (net, name.clone()));
                    got.push(net);
                }
            }
        }
        got
    }

    fn meets(&self, net: &IpNet) -> Option<&(IpNet, NodeName)> {
        let start = net.network();
        let before = self.by_start.range(..=start).next_back().map(|(_, held)| held);
        let after = self.by_start.range(start..).next().map(|(_, held)| held);
        before.filter(|(held, _)| held.contains(net)).or(after.filter(|(held, _)| net.contains(held)))
    }
}

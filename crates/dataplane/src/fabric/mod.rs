//! The fabric: how packets travel to the other nodes and back. A file for each backend.
//!
//! A pod subnet of a peer is reached through the backend's device or link; replies to what a peer forwarded go back through that peer, told
//! by the connection's mark (`returns`); what enters by the fabric must come from where it says (`guard`). Routes to pods carry the node's
//! InternalIP as source. Addresses of the pod network that nobody holds are unreachable.
//!
//! Invariant: nothing is learnt and nothing flooded: neighbours and forwarding entries come from the intent.

mod guard;
mod hostgw;
mod peers;
mod returns;
mod vxlan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::intent::routes::{BackendConf, FabricNode, RoutesIntent};
use bowline_model::{Dual, Family, Problem};
use ipnet::IpNet;

pub(crate) use guard::{GUARD_WRAPPED, WRAPPED};

use crate::change::{Change, Objects, intervals_of, set_of};
use crate::expr::{ip_field, named};
use crate::host::{HostFacts, LinkFacts};
use crate::interval;
use crate::objects::net::{NetKey, NetObject, RouteSpec, RuleAction, RuleSelector, TABLE_BASE, TABLE_MAIN};

/// A node can only be reached by host-gw on a shared link, and it is on none.
pub const NOT_A_NEIGHBOUR: u16 = 2010;
/// Two nodes have no address family in common.
pub const NO_COMMON_FAMILY: u16 = 2011;
/// No link of the machine holds the node's own address.
pub const NO_UNDERLAY: u16 = 2012;

/// Codes of this room's problems, each with its explanation.
pub const EXPLANATIONS: &[(u16, &str)] = &[
    (
        NOT_A_NEIGHBOUR,
        "The backend host-gw routes pod subnets by the other nodes' own addresses, so every node must be on a link that this node is on too. \
         The named node is behind a router. The other nodes are routed. Choose the backend vxlan, which works over any network.",
    ),
    (
        NO_COMMON_FAMILY,
        "This node and the named one have no address of the same family (IPv4 or IPv6) that the backend could send packets to. \
         Give both an InternalIP of one family.",
    ),
    (
        NO_UNDERLAY,
        "None of the machine's links has the node's InternalIP, and there is no default route to take instead. Check the Node's addresses \
         and the machine's, or name the link with --iface.",
    ),
];

/// Metric of the routes that refuse addresses nobody holds: any other route wins.
const UNREACHABLE_METRIC: u32 = 4_278_198_272;
/// Preference of the rules that send replies back through a peer.
const RETURNS_PREFERENCE: u32 = 2010;
/// Preference of the rules that send what pods have for other nodes through the fabric.
const POD_TO_NODE_PREFERENCE: u32 = 2020;

/// How packets of one family get to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Wrapped by a device of ours, to an outer address.
    Tunnel { device: Arc<str>, outer: IpAddr },
    /// By the peer's own address on a link that both are on.
    Direct { link: Arc<str>, gateway: IpAddr },
}

/// What every peer's objects depend on.
#[derive(Debug, Clone, PartialEq)]
struct Context<'a> {
    backend: &'a BackendConf,
    local: &'a FabricNode,
    host: &'a HostFacts,
    /// Names of the tunnel devices that this node has, by outer family.
    tunnels: Dual<Arc<str>>,
}

impl<'a> Context<'a> {
    fn of(routes: &'a RoutesIntent, host: &'a HostFacts) -> Option<Self> {
        let local = routes.local.as_deref()?;
        let tunnels = match routes.backend {
            BackendConf::Vxlan { vni, .. } => vxlan::device_names(vni, routes, local),
            BackendConf::HostGw => Dual::default(),
        };
        Some(Context { backend: &routes.backend, local, host, tunnels })
    }

    fn underlay(&self, family: Family) -> Option<&'a LinkFacts> {
        self.host.underlay(self.local.internal.get(family)?)
    }

    fn way(&self, peer: &FabricNode, family: Family) -> Result<Way, Problem> {
        match self.backend {
            BackendConf::Vxlan { direct_routing, .. } => {
                let direct = direct_routing.then(|| hostgw::neighbour(self, peer, family)).flatten();
                direct.map_or_else(|| vxlan::way(self, peer), Ok)
            }
            BackendConf::HostGw => hostgw::way(self, peer, family),
        }
    }

    fn source(&self, family: Family) -> Option<IpAddr> {
        self.local.internal.get(family).copied()
    }
}

/// The address by which a peer's subnet is routed through a tunnel: the subnet's own.
fn tunnel_gateway(prefix: &IpNet) -> IpAddr {
    prefix.network()
}

/// The prefix of one address.
fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The prefix of all addresses.
fn default_prefix(family: Family) -> IpNet {
    match family {
        Family::V4 => ipnet::Ipv4Net::default().into(),
        Family::V6 => ipnet::Ipv6Net::default().into(),
    }
}

/// Lowers what differs between the fabrics of two intents.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, host: &HostFacts, change: &mut Change) {
    let (old, new) = (&*old.routes, &*new.routes);
    if first {
        frame(&mut change.new);
        returns::frame(&mut change.new);
        guard::chains(new, &mut change.new);
    }
    if old == new {
        return;
    }
    if !first {
        guard::chains(old, &mut change.old);
        guard::chains(new, &mut change.new);
    }
    node(old, host, &mut change.old);
    node(new, host, &mut change.new);
    peers::lower(old, new, host, change);
}

/// The links by which packets come from peers' pods and go to them.
pub(crate) fn links(routes: &RoutesIntent, host: &HostFacts) -> BTreeSet<Arc<str>> {
    let Some(context) = Context::of(routes, host) else { return BTreeSet::new() };
    let ways = routes.peers.values().flat_map(|peer| Family::BOTH.map(|family| context.way(peer, family)));
    let direct = ways.filter_map(|way| match way {
        Ok(Way::Direct { link, .. }) => Some(link),
        Ok(Way::Tunnel { .. }) | Err(_) => None,
    });
    direct.chain(context.tunnels.values().cloned()).collect()
}

/// The link by which packets of one family go to a peer's pods and come from them; none where there is no way to it.
pub fn link_to(routes: &RoutesIntent, host: &HostFacts, peer: &FabricNode, family: Family) -> Option<Arc<str>> {
    match Context::of(routes, host)?.way(peer, family).ok()? {
        Way::Direct { link, .. } => Some(link),
        Way::Tunnel { device, .. } => Some(device),
    }
}

/// What keeps nodes of the intent from being reached, all of it whatever has changed.
pub(crate) fn problems(routes: &RoutesIntent, host: &HostFacts) -> Vec<Problem> {
    let Some(context) = Context::of(routes, host) else { return Vec::new() };
    let mut problems = Vec::new();
    for (family, internal) in context.local.internal.iter() {
        if host.underlay(internal).is_none() {
            let what = format!("no link of this machine has the node's {family} address {internal}");
            problems.push(Problem::new(
                NO_UNDERLAY,
                what,
                place(context.local),
                "correct the Node's addresses, or name the link with --iface",
            ));
        }
    }
    for peer in routes.peers.values() {
        // One problem a peer is enough for a person; the first family tells it.
        problems.extend(families(peer).into_iter().find_map(|family| context.way(peer, family).err()));
    }
    problems
}

fn families(node: &FabricNode) -> Vec<Family> {
    Family::BOTH.into_iter().filter(|f| node.pod_cidrs.iter().any(|c| Family::of_prefix(c) == *f)).collect()
}

fn place(node: &FabricNode) -> String {
    format!("node {}", node.name)
}

/// The sets that the rules of this and other rooms ask.
fn frame(objects: &mut Objects) {
    for family in Family::BOTH {
        let ip = ip_field(family);
        objects.set(named("node", family), set_of(&[ip]));
        for networks in ["local_net", "pod_net", "cluster_net"] {
            objects.set(named(networks, family), intervals_of(ip));
        }
    }
}

/// What this node has of the fabric whatever its peers.
fn node(routes: &RoutesIntent, host: &HostFacts, objects: &mut Objects) {
    for family in Family::BOTH {
        for i in interval::union(family, &routes.cluster_cidrs) {
            objects.interval(named("cluster_net", family), interval::key(family, i.first), interval::key(family, i.last));
        }
        let local = routes.local.iter().flat_map(|l| &l.pod_cidrs);
        for i in interval::union(family, local) {
            objects.interval(named("local_net", family), interval::key(family, i.first), interval::key(family, i.last));
        }
    }
    let Some(context) = Context::of(routes, host) else { return };
    peers::membership(context.local, objects);
    for cidr in &routes.cluster_cidrs {
        let key = NetKey::Route { table: TABLE_MAIN, destination: *cidr, metric: UNREACHABLE_METRIC };
        objects.net(key, NetObject::Route(RouteSpec::Unreachable));
    }
    sysctls(routes, objects);
    for cidr in &context.local.pod_cidrs {
        let key = NetKey::Rule { family: Family::of_prefix(cidr), priority: POD_TO_NODE_PREFERENCE, selector: RuleSelector::From(*cidr) };
        objects.net(key, NetObject::Rule(RuleAction::Table(TABLE_BASE)));
    }
    if let BackendConf::Vxlan { vni, port, .. } = context.backend {
        vxlan::devices(&context, *vni, *port, objects);
        guard::untracked(*port, objects);
    }
}

/// Forwarding, and no reverse path filter of the kernel's: what comes from a pod or a peer is checked by our own sets, and a client's
/// packets that a peer forwards may have their way back by another link. `all` counts for every link, so it must not be stricter.
///
/// A connection that one end has closed is remembered for an hour, not a minute: services' translation lives as long as the other end may
/// take to answer.
fn sysctls(routes: &RoutesIntent, objects: &mut Objects) {
    sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3600", objects);
    let local = routes.local.iter().flat_map(|l| &l.pod_cidrs);
    let has = |family| local.clone().chain(&routes.cluster_cidrs).any(|c| Family::of_prefix(c) == family);
    if has(Family::V4) {
        sysctl("net/ipv4/ip_forward", "1", objects);
        sysctl("net/ipv4/conf/all/rp_filter", "0", objects);
    }
    if has(Family::V6) {
        sysctl("net/ipv6/conf/all/forwarding", "1", objects);
    }
}

/// A sysctl.
pub(crate) fn sysctl(path: &str, value: &str, objects: &mut Objects) {
    objects.net(NetKey::Sysctl(path.into()), NetObject::Sysctl(value.into()));
}

/// MTU in bytes of what pods may send to other nodes: the underlay's, less what the backend wraps around it.
pub(crate) fn mtu(routes: &RoutesIntent, host: &HostFacts) -> u32 {
    let fallback = UNKNOWN_UNDERLAY_MTU;
    let Some(context) = Context::of(routes, host) else { return fallback - vxlan::overhead(Family::V6) };
    let underlays = Family::BOTH.into_iter().filter_map(|f| Some((f, context.underlay(f)?.mtu_bytes)));
    let usable = match context.backend {
        BackendConf::Vxlan { .. } => {
            underlays.filter(|(f, _)| context.tunnels.get(*f).is_some()).map(|(f, mtu)| mtu.saturating_sub(vxlan::overhead(f))).min()
        }
        BackendConf::HostGw => underlays.map(|(_, mtu)| mtu).min(),
    };
    usable.unwrap_or(fallback - vxlan::overhead(Family::V6)).max(MINIMUM_MTU)
}

/// Taken where the underlay's MTU is not known yet.
const UNKNOWN_UNDERLAY_MTU: u32 = 1500;
/// What IPv6 asks of every link (RFC 8200 section 5).
const MINIMUM_MTU: u32 = 1280;

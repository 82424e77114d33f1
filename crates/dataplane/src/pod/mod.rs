//! A pod's place on the node: the route and neighbour entry that lead to it, and the guard at its interface.
//!
//! Invariant: a packet from a pod's link passes only with that pod's own Ethernet and IP addresses. Pods have no link-local addresses and
//! ask for no neighbours (their gateways' entries are permanent), so nothing else is needed from them.

pub mod guard;

use std::net::IpAddr;

use bowline_model::Dual;
use bowline_model::intent::Intent;
use bowline_model::intent::pods::PodIntent;
use bowline_model::intent::routes::RoutesIntent;
use imbl::ordmap::DiffItem;

use crate::change::{Change, Objects};
use crate::fabric;
use crate::host::HostFacts;
use crate::objects::net::{NetKey, NetObject, RouteSpec, TABLE_MAIN};

/// MTU in bytes for the pods' interfaces: what the fabric carries whole.
pub fn mtu(routes: &RoutesIntent, host: &HostFacts) -> u32 {
    fabric::mtu(routes, host)
}

/// Lowers what differs between the pods of two intents.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, host: &HostFacts, change: &mut Change) {
    if first {
        guard::frame(&mut change.new);
    }
    let (before, after) = (sources(old), sources(new));
    if before == after {
        for item in old.pods.pods.diff(&new.pods.pods) {
            let (was, is) = match item {
                DiffItem::Add(_, is) => (None, Some(is)),
                DiffItem::Remove(_, was) => (Some(was), None),
                DiffItem::Update { old: (_, was), new: (_, is) } => (Some(was), Some(is)),
            };
            was.into_iter().for_each(|pod| lower_one(pod, &before, host, &mut change.old));
            is.into_iter().for_each(|pod| lower_one(pod, &after, host, &mut change.new));
        }
    } else {
        old.pods.pods.values().for_each(|pod| lower_one(pod, &before, host, &mut change.old));
        new.pods.pods.values().for_each(|pod| lower_one(pod, &after, host, &mut change.new));
    }
}

/// The addresses that this node's own packets to its pods carry.
fn sources(intent: &Intent) -> Dual<IpAddr> {
    intent.routes.local.as_ref().map(|local| local.internal).unwrap_or_default()
}

fn lower_one(pod: &PodIntent, sources: &Dual<IpAddr>, host: &HostFacts, objects: &mut Objects) {
    let link = &pod.host_ifname;
    fabric::sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "0", objects);
    if pod.host_ports.iter().any(|port| port.host_ip.is_none_or(|ip| ip.is_loopback() || ip.is_unspecified())) {
        // Without the hooks, what the node sends to the host port on 127.0.0.1 is routed to the pod, and answered, by this link.
        fabric::sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), if host.socket_hooks { "0" } else { "1" }, objects);
    }
    guard::pod(pod, objects);
    for (family, ip) in pod.ips.iter() {
        let route = RouteSpec::Unicast { link: link.clone(), gateway: None, source: sources.get(family).copied(), mtu_bytes: None };
        let key = NetKey::Route { table: TABLE_MAIN, destination: (*ip).into(), metric: 0 };
        objects.net(key, NetObject::Route(route));
        objects.net(NetKey::Neighbour { link: link.clone(), address: *ip }, NetObject::Neighbour(pod.mac));
    }
}

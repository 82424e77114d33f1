//! A pod's place on the node: the route and neighbour entry that lead to it, and the guard at its interface.
//!
//! Invariant: a packet from a pod's link passes only with that pod's own Ethernet and IP addresses. Pods have no link-local addresses and
//! ask for no neighbours (their gateways' entries are permanent), so nothing else is needed from them.

use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::intent::pods::PodIntent;
use bowline_model::intent::routes::RoutesIntent;
use bowline_model::{Dual, Family};
use imbl::ordmap::DiffItem;

use crate::change::{Change, Objects, set_of};
use crate::expr::Part::{EtherSaddr, IifName, Saddr};
use crate::expr::{FABRIC_LINKS, POD_LINKS, ip_field, named, rule};
use crate::fabric;
use crate::host::HostFacts;
use crate::objects::net::{NetKey, NetObject, RouteSpec, TABLE_MAIN};
use crate::objects::nft::{ChainKind, Field, Hook, KeyBuilder, Rule};

/// Before connection tracking (`NF_IP_PRI_CONNTRACK` is -200, `NF_IP_PRI_RAW` -300), so that a forged packet leaves no trace.
const GUARD_PRIORITY: i32 = -310;

/// MTU in bytes for the pods' interfaces: what the fabric carries whole.
pub fn mtu(routes: &RoutesIntent, host: &HostFacts) -> u32 {
    fabric::mtu(routes, host)
}

/// Lowers what differs between the pods of two intents.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, _host: &HostFacts, change: &mut Change) {
    if first {
        frame(&mut change.new);
    }
    let (before, after) = (sources(old), sources(new));
    if before == after {
        for item in old.pods.pods.diff(&new.pods.pods) {
            let (was, is) = match item {
                DiffItem::Add(_, is) => (None, Some(is)),
                DiffItem::Remove(_, was) => (Some(was), None),
                DiffItem::Update { old: (_, was), new: (_, is) } => (Some(was), Some(is)),
            };
            was.into_iter().for_each(|pod| lower_one(pod, &before, &mut change.old));
            is.into_iter().for_each(|pod| lower_one(pod, &after, &mut change.new));
        }
    } else {
        old.pods.pods.values().for_each(|pod| lower_one(pod, &before, &mut change.old));
        new.pods.pods.values().for_each(|pod| lower_one(pod, &after, &mut change.new));
    }
}

/// The addresses that this node's own packets to its pods carry.
fn sources(intent: &Intent) -> Dual<IpAddr> {
    intent.routes.local.as_ref().map(|local| local.internal).unwrap_or_default()
}

fn lower_one(pod: &PodIntent, sources: &Dual<IpAddr>, objects: &mut Objects) {
    let link = &pod.host_ifname;
    fabric::sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "0", objects);
    if pod.host_ports.iter().any(|port| port.host_ip.is_none_or(|ip| ip.is_loopback() || ip.is_unspecified())) {
        // What the node sends to the host port on 127.0.0.1 is routed to the pod, and answered, by this link.
        fabric::sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1", objects);
    }
    for (family, ip) in pod.ips.iter() {
        let route = RouteSpec::Unicast { link: link.clone(), gateway: None, source: sources.get(family).copied(), mtu_bytes: None };
        let key = NetKey::Route { table: TABLE_MAIN, destination: (*ip).into(), metric: 0 };
        objects.net(key, NetObject::Route(route));
        objects.net(NetKey::Neighbour { link: link.clone(), address: *ip }, NetObject::Neighbour(pod.mac));
        objects.member(named("src", family), KeyBuilder::new().ifname(link).mac(pod.mac).ip(*ip).build());
    }
}

fn frame(objects: &mut Objects) {
    for family in Family::BOTH {
        objects.set(named("src", family), set_of(&[Field::IfName, Field::Ether, ip_field(family)]));
    }
    let mut guard = vec![
        rule().iif(POD_LINKS).goto("guard_pod"),
        rule().iif(FABRIC_LINKS).goto("guard_fabric"),
        rule().iif("lo\0").accept(),
        rule().jump(fabric::WRAPPED),
    ];
    for family in Family::BOTH {
        let ours = rule().family(family).in_set(&named("local_net", family), &[Saddr(family)]);
        guard.push(ours.drop().saying("this node's pods' address from outside"));
    }
    guard.push(rule().goto("guard_outside"));
    objects.base("guard", ChainKind::Filter, Hook::Prerouting, GUARD_PRIORITY, guard);

    let own = |family| rule().family(family).in_set(&named("src", family), &[IifName, EtherSaddr, Saddr(family)]).accept();
    let mut pod: Vec<Rule> = Family::BOTH.into_iter().map(own).collect();
    pod.push(rule().drop().saying("not the pod's own address"));
    objects.chain("guard_pod", pod);
}

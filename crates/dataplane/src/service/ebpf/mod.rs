//! Services and host ports at the socket: what connect(2) and sendto(2) of the node's and its pods' own programs are turned to.
//!
//! The rules of the packet filter stand beside it and serve what is not in these maps: what comes from outside, and what cannot be judged
//! before there is a packet, for which the rules have to see it: frontends with client affinity or a list of sources (a socket has no address
//! yet), those that drop in silence, a port at an address of the node other than loopback, and SCTP, for which the kernel has no such hooks.
//!
//! Invariant: a change costs the elements of the frontends that changed.

mod hostports;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bowline_bpf::abi;
use bowline_model::intent::Intent;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServicesIntent, WhenEmpty};
use bowline_model::net::fnv1a;
use bowline_model::{Family, Protocol};
use imbl::ordmap::DiffItem;

use crate::change::{Change, Objects};
use crate::host::HostFacts;
use crate::objects::sockets::{SocketKey, SocketValue};

/// Lowers what differs between the services of two intents, where the machine has the hooks.
pub(crate) fn lower(old: &Intent, new: &Intent, host: &HostFacts, change: &mut Change) {
    if !host.socket_hooks {
        return;
    }
    hostports::lower(&old.pods, &new.pods, change);
    let (before, after) = (Loopback::of(&old.services), Loopback::of(&new.services));
    if before != after {
        all(&old.services, before, &mut change.old);
        all(&new.services, after, &mut change.new);
        return;
    }
    if old.services.services.ptr_eq(&new.services.services) {
        return;
    }
    for item in old.services.services.diff(&new.services.services) {
        let (was, is) = match item {
            DiffItem::Add(_, is) => (None, Some(is)),
            DiffItem::Remove(_, was) => (Some(was), None),
            DiffItem::Update { old: (_, was), new: (_, is) } => (Some(was), Some(is)),
        };
        was.iter().flat_map(|service| &service.frontends).for_each(|frontend| one(frontend, before, &mut change.old));
        is.iter().flat_map(|service| &service.frontends).for_each(|frontend| one(frontend, after, &mut change.new));
    }
}

/// Whether the node's loopback addresses take NodePort traffic, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loopback {
    v4: bool,
    v6: bool,
}

impl Loopback {
    fn of(services: &ServicesIntent) -> Loopback {
        let takes = |address: IpAddr| {
            let networks = &services.node_port_addresses;
            networks.is_empty() || networks.iter().any(|network| network.contains(&address))
        };
        Loopback { v4: takes(Ipv4Addr::LOCALHOST.into()), v6: takes(Ipv6Addr::LOCALHOST.into()) }
    }

    fn get(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

fn all(services: &ServicesIntent, loopback: Loopback, objects: &mut Objects) {
    services.services.values().flat_map(|service| &service.frontends).for_each(|frontend| one(frontend, loopback, objects));
}

fn one(frontend: &Frontend, loopback: Loopback, objects: &mut Objects) {
    let family = frontend.address.family();
    let (address, kind) = match frontend.address {
        FrontendAddress::Vip(address) => (address, abi::Kind::Vip),
        FrontendAddress::NodePort(_) if !loopback.get(family) => return,
        FrontendAddress::NodePort(family) => (unspecified(family), abi::Kind::NodePort),
    };
    let endpoints = frontend.own_endpoints.as_ref().unwrap_or(&frontend.endpoints);
    let silent = endpoints.is_empty() && frontend.when_empty == WhenEmpty::Drop;
    if silent || frontend.protocol == Protocol::Sctp || frontend.affinity_secs.is_some() || frontend.sources.is_some() {
        return;
    }
    let key = abi::FrontendKey { address, port: frontend.port, protocol: frontend.protocol.number(), kind };
    led_to(key, endpoints, objects);
}

/// The unspecified address, by which a port of the node is meant.
fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The elements by which a frontend leads to its endpoints.
fn led_to(key: abi::FrontendKey, endpoints: &[Endpoint], objects: &mut Objects) {
    let generation = generation(endpoints);
    for (index, endpoint) in (0_u32..).zip(endpoints) {
        let endpoint = abi::Endpoint { address: endpoint.ip, port: endpoint.port };
        let place = abi::EndpointKey { frontend: key, generation, index };
        objects.socket(SocketKey::Endpoint(place), SocketValue::Endpoint(endpoint));
        if key.protocol == Protocol::Udp.number() {
            objects.socket(SocketKey::Live(abi::LiveKey { frontend: key, endpoint }), SocketValue::Live);
        }
    }
    let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    objects.socket(SocketKey::Frontend(key), SocketValue::Frontend(abi::Frontend { generation, endpoints: count }));
}

/// A number for a list of endpoints: the same for the same list, and for the lists of one frontend that follow each other never the same but
/// by a chance of one in four thousand million, in which case the list changes in place.
fn generation(endpoints: &[Endpoint]) -> u32 {
    let address = |endpoint: &Endpoint| abi::Endpoint { address: endpoint.ip, port: endpoint.port }.to_bytes();
    let hash = fnv1a(&endpoints.iter().flat_map(address).collect::<Vec<u8>>());
    u32::try_from((hash >> 32) ^ (hash & 0xffff_ffff)).unwrap_or(0)
}

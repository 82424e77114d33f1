//! One frontend's elements, and the shapes (chains, affinity maps) that it needs.
//!
//! A frontend is lowered once for everyone, and once more for what the node and its pods begin where that has other endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bowline_model::Family;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, WhenEmpty};
use ipnet::IpNet;

use super::{DISCARD, NOT_A_SOURCE, REFUSE};
use crate::change::{Objects, intervals_of};
use crate::expr::Part::Saddr;
use crate::expr::{ip_field, named, rule};
use crate::interval;
use crate::objects::nft::KeyBuilder;

/// Whose connections something is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// Everyone's.
    Everyone,
    /// Those that the node and its pods begin.
    Own,
}

impl Whose {
    pub(super) const BOTH: [Whose; 2] = [Whose::Everyone, Whose::Own];

    /// The name of a map or chain for these.
    pub(super) fn named(self, stem: &str, family: Family) -> Arc<str> {
        match self {
            Whose::Everyone => named(stem, family),
            Whose::Own => named(&format!("own_{stem}"), family),
        }
    }

    /// The endpoints for these, unless they are everyone's.
    fn endpoints(self, frontend: &Frontend) -> Option<&[Endpoint]> {
        match self {
            Whose::Everyone => Some(&frontend.endpoints),
            Whose::Own => frontend.own_endpoints.as_deref(),
        }
    }
}

/// The set names that elements carry, made once a turn.
pub(super) struct Names {
    of: BTreeMap<(Family, Whose), SomeNames>,
    v4: EmptyNames,
    v6: EmptyNames,
    refuse: Arc<str>,
    discard: Arc<str>,
}

struct SomeNames {
    services: Arc<str>,
    node_ports: Arc<str>,
    endpoints: Arc<str>,
    live: Arc<str>,
}

struct EmptyNames {
    services: Arc<str>,
    node_ports: Arc<str>,
}

impl Names {
    pub(super) fn new() -> Self {
        let some = |family, whose: Whose| SomeNames {
            services: whose.named("svc", family),
            node_ports: whose.named("node_port", family),
            endpoints: whose.named("ep", family),
            live: whose.named("live", family),
        };
        let empty = |family| EmptyNames { services: named("empty", family), node_ports: named("empty_node_port", family) };
        let each = Family::BOTH.into_iter().flat_map(|family| Whose::BOTH.map(|whose| (family, whose)));
        Names {
            of: each.map(|(family, whose)| ((family, whose), some(family, whose))).collect(),
            v4: empty(Family::V4),
            v6: empty(Family::V6),
            refuse: REFUSE.into(),
            discard: DISCARD.into(),
        }
    }

    fn empty(&self, family: Family) -> &EmptyNames {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// What a chain is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) family: Family,
    pub(super) node_port: bool,
    pub(super) endpoints: u32,
    pub(super) affinity_secs: Option<u32>,
    pub(super) whose: Whose,
}

impl Shape {
    /// The shape of a frontend, if it has endpoints for these.
    fn of(frontend: &Frontend, whose: Whose) -> Option<Shape> {
        let endpoints = whose.endpoints(frontend)?;
        let endpoints = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        (endpoints > 0).then_some(Shape {
            family: frontend.address.family(),
            node_port: is_node_port(frontend),
            endpoints,
            affinity_secs: frontend.affinity_secs,
            whose,
        })
    }

    /// The chain's name.
    pub(super) fn chain(&self) -> Arc<str> {
        let stem = self.whose.named(if self.node_port { "np" } else { "svc" }, self.family);
        match self.affinity_secs {
            None => format!("{stem}_{}", self.endpoints).into(),
            Some(secs) => format!("{stem}_{}_aff{secs}", self.endpoints).into(),
        }
    }
}

fn is_node_port(frontend: &Frontend) -> bool {
    matches!(frontend.address, FrontendAddress::NodePort(_))
}

/// The name of the affinity map of a timeout.
pub(super) fn affinity_map(family: Family, secs: u32) -> Arc<str> {
    format!("{}_{secs}", named("aff", family)).into()
}

/// Shapes in use, and the affinity maps that they need.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    pub(super) chains: BTreeMap<Shape, Arc<str>>,
    pub(super) affinities: BTreeSet<(Family, u32)>,
}

impl Shapes {
    fn add(&mut self, shape: Shape) -> Arc<str> {
        if let Some(secs) = shape.affinity_secs {
            self.affinities.insert((shape.family, secs));
        }
        self.chains.entry(shape).or_insert_with(|| shape.chain()).clone()
    }

    /// Those that `others` lack.
    pub(super) fn minus(mut self, others: &Shapes) -> Shapes {
        self.chains.retain(|shape, _| !others.chains.contains_key(shape));
        self.affinities.retain(|a| !others.affinities.contains(a));
        self
    }

    /// Takes out what a frontend uses.
    pub(super) fn keep_unused_by(&mut self, frontend: &Frontend) {
        for shape in Whose::BOTH.into_iter().filter_map(|whose| Shape::of(frontend, whose)) {
            self.chains.remove(&shape);
            if let Some(secs) = shape.affinity_secs {
                self.affinities.remove(&(shape.family, secs));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.affinities.is_empty()
    }
}

/// The elements of a frontend.
pub(super) fn lower(frontend: &Frontend, names: &Names, shapes: &mut Shapes, objects: &mut Objects) {
    for whose in Whose::BOTH {
        if let Some(shape) = Shape::of(frontend, whose) {
            served(frontend, shape, names, shapes, objects);
        }
    }
    if !frontend.endpoints.is_empty() {
        return;
    }
    let empty = names.empty(frontend.address.family());
    let set = if is_node_port(frontend) { &empty.node_ports } else { &empty.services };
    let chain = match frontend.when_empty {
        WhenEmpty::Reject => &names.refuse,
        WhenEmpty::Drop => &names.discard,
    };
    objects.goto(set.clone(), way_in(frontend), chain.clone());
}

/// The elements of a frontend that has endpoints.
fn served(frontend: &Frontend, shape: Shape, names: &Names, shapes: &mut Shapes, objects: &mut Objects) {
    let Some(names) = names.of.get(&(shape.family, shape.whose)) else { return };
    let set = if shape.node_port { &names.node_ports } else { &names.services };
    let mut chain = shapes.add(shape);
    if let Some(sources) = &frontend.sources {
        chain = doorkeeper(frontend, shape, sources, chain, objects);
    }
    objects.goto(set.clone(), way_in(frontend), chain);
    for (index, endpoint) in (0_u32..).zip(shape.whose.endpoints(frontend).into_iter().flatten()) {
        objects.value(names.endpoints.clone(), front_key(frontend).host_u32(index).build(), endpoint_key(endpoint).build());
        if shape.affinity_secs.is_some() {
            objects.member(names.live.clone(), front_key(frontend).ip(endpoint.ip).port(endpoint.port).build());
        }
    }
}

/// A chain of the frontend's own, which lets its sources through to the chain of its shape.
fn doorkeeper(frontend: &Frontend, shape: Shape, sources: &[IpNet], chain: Arc<str>, objects: &mut Objects) -> Arc<str> {
    let FrontendAddress::Vip(address) = frontend.address else { return chain };
    // The kernel's names have no colons.
    let address = address.to_string().replace(':', "_");
    let place = |stem: &str| -> Arc<str> { format!("{stem}/{address}/{}/{}", frontend.protocol, frontend.port).into() };
    let from = place("from");
    objects.set(from.clone(), intervals_of(ip_field(shape.family)));
    for i in interval::union(shape.family, sources) {
        objects.interval(from.clone(), interval::key(shape.family, i.first), interval::key(shape.family, i.last));
    }
    let own = place(&shape.whose.named("lb", shape.family));
    let rules = vec![rule().in_set(&from, &[Saddr(shape.family)]).goto(chain), rule().drop().saying(NOT_A_SOURCE)];
    objects.chain(own.clone(), rules);
    own
}

/// The key by which packets find the frontend.
fn way_in(frontend: &Frontend) -> Arc<[u8]> {
    match frontend.address {
        FrontendAddress::Vip(_) => front_key(frontend).build(),
        FrontendAddress::NodePort(_) => KeyBuilder::new().proto(frontend.protocol.number()).port(frontend.port).build(),
    }
}

/// The frontend's part of its endpoints' keys; a node port has the address of all zeros.
fn front_key(frontend: &Frontend) -> KeyBuilder {
    let address = match frontend.address {
        FrontendAddress::Vip(address) => address,
        FrontendAddress::NodePort(family) => no_address(family),
    };
    KeyBuilder::new().ip(address).proto(frontend.protocol.number()).port(frontend.port)
}

fn endpoint_key(endpoint: &Endpoint) -> KeyBuilder {
    KeyBuilder::new().ip(endpoint.ip).port(endpoint.port)
}

fn no_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

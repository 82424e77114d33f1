//! One frontend's elements, and the shapes (chains, affinity maps) that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bowline_model::Family;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, WhenEmpty};

use crate::change::Objects;
use crate::expr::named;
use crate::objects::nft::KeyBuilder;

/// The set names that elements carry, made once a turn.
pub(super) struct Names {
    v4: FamilyNames,
    v6: FamilyNames,
    refuse: Arc<str>,
    discard: Arc<str>,
}

struct FamilyNames {
    services: Arc<str>,
    node_ports: Arc<str>,
    endpoints: Arc<str>,
    live: Arc<str>,
    empty: Arc<str>,
    empty_node_ports: Arc<str>,
}

impl Names {
    pub(super) fn new() -> Self {
        let of = |family| FamilyNames {
            services: named("svc", family),
            node_ports: named("node_port", family),
            endpoints: named("ep", family),
            live: named("live", family),
            empty: named("empty", family),
            empty_node_ports: named("empty_node_port", family),
        };
        Names { v4: of(Family::V4), v6: of(Family::V6), refuse: "refuse".into(), discard: "discard".into() }
    }

    fn of(&self, family: Family) -> &FamilyNames {
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
}

impl Shape {
    /// The shape of a frontend that has endpoints.
    fn of(frontend: &Frontend) -> Option<Shape> {
        let endpoints = u32::try_from(frontend.endpoints.len()).unwrap_or(u32::MAX);
        (endpoints > 0).then_some(Shape {
            family: frontend.address.family(),
            node_port: matches!(frontend.address, FrontendAddress::NodePort(_)),
            endpoints,
            affinity_secs: frontend.affinity_secs,
        })
    }

    /// The chain's name.
    pub(super) fn chain(&self) -> Arc<str> {
        let stem = named(if self.node_port { "np" } else { "svc" }, self.family);
        match self.affinity_secs {
            None => format!("{stem}_{}", self.endpoints).into(),
            Some(secs) => format!("{stem}_{}_aff{secs}", self.endpoints).into(),
        }
    }
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
        let Some(shape) = Shape::of(frontend) else { return };
        self.chains.remove(&shape);
        if let Some(secs) = shape.affinity_secs {
            self.affinities.remove(&(shape.family, secs));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.affinities.is_empty()
    }
}

/// The elements of a frontend.
pub(super) fn lower(frontend: &Frontend, names: &Names, shapes: &mut Shapes, objects: &mut Objects) {
    let family = frontend.address.family();
    let names_of = names.of(family);
    let protocol = frontend.protocol.number();
    let address = match frontend.address {
        FrontendAddress::Vip(address) => address,
        FrontendAddress::NodePort(family) => no_address(family),
    };
    let with_address = || KeyBuilder::new().ip(address).proto(protocol).port(frontend.port);
    let (set, empty, key) = match frontend.address {
        FrontendAddress::Vip(_) => (&names_of.services, &names_of.empty, with_address().build()),
        FrontendAddress::NodePort(_) => {
            (&names_of.node_ports, &names_of.empty_node_ports, KeyBuilder::new().proto(protocol).port(frontend.port).build())
        }
    };
    let Some(shape) = Shape::of(frontend) else {
        let chain = match frontend.when_empty {
            WhenEmpty::Reject => &names.refuse,
            WhenEmpty::Drop => &names.discard,
        };
        objects.goto(empty.clone(), key, chain.clone());
        return;
    };
    objects.goto(set.clone(), key, shapes.add(shape));
    for (index, endpoint) in (0_u32..).zip(&frontend.endpoints) {
        objects.value(names_of.endpoints.clone(), with_address().host_u32(index).build(), endpoint_key(endpoint).build());
        if shape.affinity_secs.is_some() {
            objects.member(names_of.live.clone(), with_address().ip(endpoint.ip).port(endpoint.port).build());
        }
    }
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

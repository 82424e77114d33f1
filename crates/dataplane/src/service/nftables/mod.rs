//! Services in nftables: a few named maps that are updated by element, and one chain for each distinct number of endpoints.
//!
//! `svc4` leads from (address, protocol, port) to the chain for the frontend's number of endpoints, which draws an index below that
//! number and finds the endpoint in `ep4` by (address, protocol, port, index). A modulus is a constant of its rule, which is why there
//! are chains at all; there is never one for a service, but for one that limits who may use its load balancer's address. Node ports go the
//! same way with the address of all zeros. What the node and its pods begin looks first into maps of its own (`own_svc4` and so on), in which
//! are the few frontends that have other endpoints for it.
//!
//! Invariant: a change costs the elements of the frontends that changed. NAT sees the first packet of a connection only, so established
//! connections of an endpoint that has gone live on.

mod chains;
mod frontends;
mod hostports;

use bowline_model::Family;
use bowline_model::intent::Intent;
use bowline_model::intent::services::ServicesIntent;
use imbl::ordmap::DiffItem;

use crate::change::{Change, Objects};
use crate::expr::{ip_field, named, rule};
use crate::host::HostFacts;
use crate::interval;
use crate::objects::nft::Rule;
use frontends::{Names, Shapes};

/// Chain that refuses what has no endpoint.
pub(crate) const REFUSE: &str = "refuse";
/// Chain that drops what has no endpoint on this node.
pub(crate) const DISCARD: &str = "discard";
/// What the rule says that drops those whom a load balancer's address is not for.
pub(crate) const NOT_A_SOURCE: &str = "not in loadBalancerSourceRanges";

/// Lowers what differs between the services (and host ports) of two intents.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, _host: &HostFacts, change: &mut Change) {
    if first {
        chains::frame(&mut change.new);
    } else {
        settings(&old.services, &mut change.old);
    }
    settings(&new.services, &mut change.new);
    lower_frontends(&old.services, &new.services, change);
    hostports::lower(&old.pods, &new.pods, change);
}

fn lower_frontends(old: &ServicesIntent, new: &ServicesIntent, change: &mut Change) {
    if old.services.ptr_eq(&new.services) {
        return;
    }
    let names = Names::new();
    let (mut before, mut after) = (Shapes::default(), Shapes::default());
    let mut touched = std::collections::BTreeSet::new();
    for item in old.services.diff(&new.services) {
        let (name, was, is) = match item {
            DiffItem::Add(name, is) => (name, None, Some(is)),
            DiffItem::Remove(name, was) => (name, Some(was), None),
            DiffItem::Update { old: (name, was), new: (_, is) } => (name, Some(was), Some(is)),
        };
        touched.insert(name);
        for frontend in was.iter().flat_map(|s| &s.frontends) {
            frontends::lower(frontend, &names, &mut before, &mut change.old);
        }
        for frontend in is.iter().flat_map(|s| &s.frontends) {
            frontends::lower(frontend, &names, &mut after, &mut change.new);
        }
    }
    // What only a service that is as it was still uses stays: looked for among those until everything given up has been found.
    let mut given_up = before.minus(&after);
    let rest = new.services.iter().filter(|(name, _)| !touched.contains(name));
    for frontend in rest.flat_map(|(_, service)| &service.frontends) {
        if given_up.is_empty() {
            break;
        }
        given_up.keep_unused_by(frontend);
    }
    chains::shapes(&given_up, &mut change.old);
    chains::shapes(&after, &mut change.new);
}

/// What depends on settings of all services together. Its chain is always there; its elements only where something is set.
fn settings(services: &ServicesIntent, objects: &mut Objects) {
    for family in Family::BOTH {
        let networks =
            [(named("service_net", family), &services.service_cidrs), (named("node_port_net", family), &services.node_port_addresses)];
        for (set, prefixes) in networks {
            for i in interval::union(family, prefixes) {
                objects.interval(set.clone(), interval::key(family, i.first), interval::key(family, i.last));
            }
        }
    }
    let all = services.node_port_addresses.is_empty();
    objects.chain("node_ports", node_port_rules("node_port", all));
    objects.chain("own_node_ports", node_port_rules("own_node_port", all));
    let mut without = Family::BOTH.map(|family| rule().for_loopback(family).back()).to_vec();
    without.extend(node_port_rules("empty_node_port", all));
    objects.chain("node_ports_without_endpoints", without);
}

fn node_port_rules(map: &str, all_addresses: bool) -> Vec<Rule> {
    use crate::expr::Part::{Daddr, Dport, L4Proto};
    let by_family = |family| {
        let packets = rule().family(family);
        let packets = if all_addresses { packets } else { packets.in_set(&named("node_port_net", family), &[Daddr(family)]) };
        packets.verdict_of(&named(map, family), &[L4Proto, Dport])
    };
    Family::BOTH.into_iter().map(by_family).collect()
}

/// The fields of a frontend's key: address, protocol, port.
fn frontend_fields(family: Family) -> [crate::objects::nft::Field; 3] {
    use crate::objects::nft::Field;
    [ip_field(family), Field::Proto, Field::Port]
}

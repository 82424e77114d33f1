//! The chains and sets of services: those that are always there, and those of a shape.

use bowline_model::Family;

use super::frontends::{Shape, Shapes, Whose, affinity_map};
use super::{DISCARD, REFUSE, frontend_fields};
use crate::change::{Objects, intervals_of, set_of, values_by, verdicts_by};
use crate::expr::Part::{Daddr, Dport, L4Proto, NoAddress, Saddr};
use crate::expr::{CT_NEW, POD_LINKS, Part, ip_field, named, rule};
use crate::objects::net::TRANSLATED_MARK;
use crate::objects::nft::{ChainKind, Field, Hook, Reg, Rule, SetSpec};

/// Clients remembered for an affinity timeout; any more are served without being remembered.
const AFFINITY_CLIENTS: u32 = 262_144;

/// Priority of the chains that refuse what has no endpoint: before policy, so that nobody waits for a timeout.
const REFUSE_PRIORITY: i32 = -10;
/// `NF_IP_PRI_NAT_DST`.
const DNAT_PRIORITY: i32 = -100;

/// What is there whatever the services.
pub(super) fn frame(objects: &mut Objects) {
    for family in Family::BOTH {
        sets(family, objects);
    }
    let prerouting = vec![rule().iif(POD_LINKS).goto("own_services"), rule().jump("services")];
    objects.base("services_prerouting", ChainKind::Nat, Hook::Prerouting, DNAT_PRIORITY, prerouting);
    // Loopback addresses are the node's own affair: nothing that comes by a link is translated from one.
    // From ::1 not even then: the kernel takes no answer to it by a link (IPv4 does, where `route_localnet` says so).
    let loopback = [rule().for_loopback(Family::V4), rule().for_loopback(Family::V6).not_of_loopback(Family::V6)];
    let mut output = loopback.map(|packets| packets.goto("host_ports")).to_vec();
    output.push(rule().goto("own_services"));
    objects.base("services_output", ChainKind::Nat, Hook::Output, DNAT_PRIORITY, output);
    let by_address = |whose: Whose| both(|f| rule().family(f).verdict_of(&whose.named("svc", f), &[Daddr(f), L4Proto, Dport]));
    let mut services = by_address(Whose::Everyone);
    services.push(rule().for_this_node().goto("local_ports"));
    objects.chain("services", services);
    let mut own = by_address(Whose::Own);
    own.extend(by_address(Whose::Everyone));
    own.push(rule().for_this_node().goto("own_local_ports"));
    objects.chain("own_services", own);

    // A service's node port goes before a host port with its number: a pod takes no service's traffic (CVE-2019-9946).
    for whose in Whose::BOTH {
        let mut ports = both(|f| rule().for_loopback(f).back());
        if whose == Whose::Own {
            ports.push(rule().jump("own_node_ports"));
        }
        ports.push(rule().jump("node_ports"));
        ports.push(rule().goto("host_ports"));
        objects.chain(if whose == Whose::Own { "own_local_ports" } else { "local_ports" }, ports);
    }
    let mut host_ports = both(|f| host_port("host_ip_port", f, &[Daddr(f), L4Proto, Dport]));
    host_ports.extend(both(|f| host_port("host_port", f, &[L4Proto, Dport])));
    objects.chain("host_ports", host_ports);
    refusals(objects);
}

fn refusals(objects: &mut Objects) {
    let without = both(|f| rule().family(f).verdict_of(&named("empty", f), &[Daddr(f), L4Proto, Dport]));
    let unserved = both(|f| rule().family(f).in_set(&named("service_net", f), &[Daddr(f)]).goto(REFUSE));
    let transit: Vec<Rule> = without.iter().chain(&unserved).cloned().collect();
    objects.base("no_endpoints_forward", ChainKind::Filter, Hook::Forward, REFUSE_PRIORITY, transit.clone());
    objects.base("no_endpoints_output", ChainKind::Filter, Hook::Output, REFUSE_PRIORITY, transit);
    let mut input = without;
    // Only connections that begin: the port may be one that a process of the node took for a connection of its own.
    input.push(rule().state(CT_NEW).goto("node_ports_without_endpoints"));
    objects.base("no_endpoints_input", ChainKind::Filter, Hook::Input, REFUSE_PRIORITY, input);
    objects.chain(REFUSE, vec![rule().reset(), rule().unreachable()]);
    objects.chain(DISCARD, vec![rule().drop().saying("no local endpoint")]);
}

fn sets(family: Family, objects: &mut Objects) {
    let ip = ip_field(family);
    let frontend = frontend_fields(family);
    let endpoint = [ip, Field::Port];
    let local = [Field::Proto, Field::Port];
    for whose in Whose::BOTH {
        objects.set(whose.named("svc", family), verdicts_by(&frontend));
        objects.set(whose.named("node_port", family), verdicts_by(&local));
        objects.set(whose.named("ep", family), values_by(&[&frontend[..], &[Field::Index]].concat(), &endpoint));
        objects.set(whose.named("live", family), set_of(&[&frontend[..], &endpoint].concat()));
    }
    objects.set(named("empty", family), verdicts_by(&frontend));
    objects.set(named("empty_node_port", family), verdicts_by(&local));
    objects.set(named("host_ip_port", family), values_by(&frontend, &endpoint));
    objects.set(named("host_port", family), values_by(&local, &endpoint));
    objects.set(named("service_net", family), intervals_of(ip));
    objects.set(named("node_port_net", family), intervals_of(ip));
}

fn both(of: impl Fn(Family) -> Rule) -> Vec<Rule> {
    Family::BOTH.into_iter().map(of).collect()
}

fn host_port(map: &str, family: Family, key: &[Part]) -> Rule {
    rule().family(family).load(0, key).value(&named(map, family), Reg(0), Reg(0)).dnat(family, Reg(0))
}

/// The chains and affinity maps of shapes.
pub(super) fn shapes(shapes: &Shapes, objects: &mut Objects) {
    for (shape, chain) in &shapes.chains {
        let rules = match shape.affinity_secs {
            None => vec![balance(shape)],
            Some(secs) => balance_with_affinity(shape, secs),
        };
        objects.chain(chain.clone(), rules);
    }
    for (family, secs) in &shapes.affinities {
        let ip = ip_field(*family);
        let key = [ip, ip, Field::Proto, Field::Port];
        let spec = SetSpec {
            dynamic_timeout_ms: Some(u64::from(*secs) * 1000),
            size: Some(AFFINITY_CLIENTS),
            ..values_by(&key, &[ip, Field::Port])
        };
        objects.set(affinity_map(*family, *secs), spec);
    }
}

fn vip(shape: &Shape) -> Part {
    if shape.node_port { NoAddress(shape.family) } else { Daddr(shape.family) }
}

fn balance(shape: &Shape) -> Rule {
    let family = shape.family;
    let words = family.address_bytes() / 4;
    let index = Reg(words + 2);
    rule()
        .set_ct_mark_bit(TRANSLATED_MARK, Reg(0))
        .load(0, &[vip(shape), L4Proto, Dport])
        .random(index, shape.endpoints)
        .value(&shape.whose.named("ep", family), Reg(0), Reg(0))
        .dnat(family, Reg(0))
}

/// Registers of the affinity rules, with addresses of `w` words: client 0, VIP w, protocol 2w, port 2w+1, endpoint 2w+2 and its port after
/// it: 15 of 16 for IPv6. From the VIP on they are the key of `live`, and up to the port with the index after it the key of `ep`.
fn balance_with_affinity(shape: &Shape, secs: u32) -> Vec<Rule> {
    let family = shape.family;
    let words = family.address_bytes() / 4;
    let (client, service, endpoint) = (Reg(0), Reg(words), Reg(2 * words + 2));
    let map = affinity_map(family, secs);
    let timeout_ms = u64::from(secs) * 1000;
    let key = [Saddr(family), vip(shape), L4Proto, Dport];
    let remembered = rule()
        .set_ct_mark_bit(TRANSLATED_MARK, Reg(0))
        .load(0, &key)
        .value(&map, client, endpoint)
        .in_set_at(&shape.whose.named("live", family), service)
        .update(&map, client, endpoint, timeout_ms)
        .dnat(family, endpoint);
    // What was remembered, if anything, is of an endpoint that has gone; an update would only renew it.
    let drawn = rule()
        .set_ct_mark_bit(TRANSLATED_MARK, Reg(0))
        .load(0, &key)
        .random(endpoint, shape.endpoints)
        .value(&shape.whose.named("ep", family), service, endpoint)
        .delete(&map, client, endpoint)
        .update(&map, client, endpoint, timeout_ms)
        .dnat(family, endpoint);
    // The kernel breaks off a rule whose update finds no room: a client that cannot be remembered is served all the same.
    let unremembered = balance(shape).saying("no room to remember the client");
    vec![remembered, drawn, unremembered]
}

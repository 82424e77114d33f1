//! Source translation: what leaves the cluster, and what would not find its way back otherwise.
//!
//! Translated are: a pod's packets to the outside; a pod that reaches itself by a service; what a host port on a loopback address takes to a
//! pod; what comes from elsewhere by a service of ours to an endpoint outside the pod networks; and what another node or its pods send to a
//! port of this node whose endpoint is on a third one, which would answer them straight away with an address that they never asked. Nothing
//! else: pod to pod, pod to node and node to pod keep their addresses, and so does a client outside whose packets a node port takes to a pod.

use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::{Dual, Family};
use ipnet::IpNet;

use crate::change::{Change, Objects, intervals_of};
use crate::expr::Part::{Daddr, Saddr};
use crate::expr::{CT_DNAT, POD_LINKS, RuleBuilder, ip_field, named, rule};
use crate::host::HostFacts;
use crate::interval;
use crate::objects::net::TRANSLATED_MARK;
use crate::objects::nft::{ChainKind, Hook, Rule};

/// `NF_IP_PRI_NAT_SRC`.
const SNAT_PRIORITY: i32 = 100;

/// What this room depends on.
#[derive(PartialEq)]
struct Facts<'a> {
    internal: Dual<IpAddr>,
    inside: [&'a [IpNet]; 3],
}

impl<'a> Facts<'a> {
    fn of(intent: &'a Intent) -> Self {
        let internal = intent.routes.local.as_ref().map(|local| local.internal).unwrap_or_default();
        Facts { internal, inside: [&intent.routes.cluster_cidrs, &intent.routes.no_masquerade, &intent.services.service_cidrs] }
    }
}

/// Lowers what differs.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, _host: &HostFacts, change: &mut Change) {
    let (before, after) = (Facts::of(old), Facts::of(new));
    if first {
        frame(&mut change.new);
    }
    if first || before != after {
        if !first {
            facts(&before, &mut change.old);
        }
        facts(&after, &mut change.new);
    }
}

fn facts(facts: &Facts<'_>, objects: &mut Objects) {
    for family in Family::BOTH {
        for i in interval::union(family, facts.inside.into_iter().flatten()) {
            objects.interval(named("inside_net", family), interval::key(family, i.first), interval::key(family, i.last));
        }
    }
    let mut rules: Vec<Rule> = facts.internal.values().map(|address| rule().family(Family::of(address)).snat(address)).collect();
    rules.push(rule().masquerade());
    objects.chain("as_node", rules);
}

fn frame(objects: &mut Objects) {
    for family in Family::BOTH {
        objects.set(named("inside_net", family), intervals_of(ip_field(family)));
    }
    let mut rules: Vec<Rule> = Vec::new();
    rules.extend(Family::BOTH.into_iter().map(hairpin));
    rules.push(rule().of_loopback(Family::V4).oif(POD_LINKS).goto("as_node"));
    rules.extend(Family::BOTH.into_iter().map(|f| pod_to_outside(f).masquerade()));
    rules.extend(Family::BOTH.into_iter().map(|f| service_to_outside(f).masquerade()));
    rules.extend(Family::BOTH.into_iter().flat_map(|f| ["pod_net", "node"].map(|from| by_third_node(f, from).goto("as_node"))));
    objects.base("leaving", ChainKind::Nat, Hook::Postrouting, SNAT_PRIORITY, rules);
}

fn hairpin(family: Family) -> Rule {
    rule().family(family).status(CT_DNAT).in_set(&named("self", family), &[Saddr(family), Daddr(family)]).goto("as_node")
}

fn pod_to_outside(family: Family) -> RuleBuilder {
    rule()
        .family(family)
        .in_set(&named("local_net", family), &[Saddr(family)])
        .oif_not(POD_LINKS)
        .not_in_set(&named("inside_net", family), &[Daddr(family)])
        .not_in_set(&named("pod_net", family), &[Daddr(family)])
        .not_in_set(&named("node", family), &[Daddr(family)])
}

fn by_third_node(family: Family, from: &str) -> RuleBuilder {
    rule()
        .family(family)
        .ct_mark(TRANSLATED_MARK)
        .oif_not(POD_LINKS)
        .of_elsewhere()
        .not_in_set(&named("local_net", family), &[Saddr(family)])
        .in_set(&named(from, family), &[Saddr(family)])
}

/// Only where we translated the destination: what others translate (a container engine's published ports) is theirs.
fn service_to_outside(family: Family) -> RuleBuilder {
    rule()
        .family(family)
        .ct_mark(TRANSLATED_MARK)
        .of_elsewhere()
        .not_in_set(&named("local_net", family), &[Saddr(family)])
        .not_in_set(&named("cluster_net", family), &[Daddr(family)])
        .not_in_set(&named("pod_net", family), &[Daddr(family)])
}

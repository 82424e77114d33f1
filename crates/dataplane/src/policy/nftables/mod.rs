//! NetworkPolicy and ClusterNetworkPolicy in nftables.
//!
//! Two base chains look at what is forwarded, one for the pod that sends (`egress`) and one for the pod that receives (`ingress`); a packet
//! passes when both let it. Each finds what holds for the pod by a verdict map: a chain that asks the Admin tier's policies (`tiers`), then the
//! NetworkPolicies that select the pod, or else the Baseline tier's, one chain for a policy and direction, until a rule decides. What a pod
//! sends to its own node is asked in the input hook. What is denied goes to a chain of its own that tells of it (`denied`).
//!
//! Invariant: closed first. A pod without an element in the maps gets and sends nothing, whatever the path; not even what a service leads
//! from it back to itself.

mod denied;
mod lists;
mod pods;
mod rules;
mod sets;
mod taken;
mod tiers;

pub use denied::{Denial, LOG_GROUP, Reason, counted, denials};

use bowline_model::intent::Intent;
use bowline_model::intent::policy::Direction;
use bowline_model::{Family, Protocol};

use crate::change::{Change, Objects, set_of, verdicts_by};
use crate::expr::Part::{Daddr, IifName, OifName, Saddr};
use crate::expr::{CT_INVALID, CT_KNOWN, CT_NEW, POD_LINKS, ip_field, named, rule};
use crate::host::{DenialFacts, HostFacts};
use crate::objects::net::HELD_MARK;
use crate::objects::nft::{ChainKind, Field, Hook, Rule};

/// Chain of a pod that no policy selects at all.
const OPEN: &str = "open";
/// Chain of a pod that policies select for the other direction only.
const OPEN_TO_SYN: &str = "open_to_syn";
/// Chain that drops TCP which does not begin with a SYN.
const BEGINS_WITH_SYN: &str = "begins_with_syn";

/// Lowers what differs between the policies of two intents.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, host: &HostFacts, change: &mut Change) {
    if first {
        frame(host.denials, &mut change.new);
    }
    sets::lower(&old.policy, &new.policy, change);
    rules::lower(&old.policy, &new.policy, change);
    tiers::lower(&old.policy, &new.policy, host.denials, change);
    lists::lower(&old.policy, &new.policy, host.denials, change);
    pods::lower(old, new, change);
}

fn frame(denials: DenialFacts, objects: &mut Objects) {
    for family in Family::BOTH {
        let key = [Field::IfName, ip_field(family)];
        objects.set(named("pods_out", family), verdicts_by(&key));
        objects.set(named("pods_in", family), verdicts_by(&key));
        objects.set(named("ready", family), set_of(&key));
        objects.set(named("self", family), set_of(&[ip_field(family), ip_field(family)]));
    }
    sets::frame(objects);
    // Packets of connections that were judged pass; one that is no longer allowed has been taken out of the table by the agent, or is held.
    let known = || rule().state(CT_KNOWN).ct_mark_without(HELD_MARK).accept();
    // Not so a pod that is closed: its address may be one that had connections before it.
    let unready = |f| rule().iif(POD_LINKS).family(f).not_in_set(&named("ready", f), &[IifName, Saddr(f)]).goto("from_pod");
    let ready = || Family::BOTH.into_iter().map(unready).chain([known()]);
    let judged = || rule().iif(POD_LINKS).goto("from_pod");
    objects.base("egress", ChainKind::Filter, Hook::Forward, 0, ready().chain([judged()]).collect());
    // The links of pods with host ports take loopback addresses (`pod`), for the answers to what the node sends them from one. No pod begins.
    let loopback = Denial::loopback().lower(denials, objects);
    let to_loopback = |f| rule().iif(POD_LINKS).for_loopback(f).goto(loopback.clone());
    let to_node = ready().chain(Family::BOTH.map(to_loopback)).chain([judged()]);
    objects.base("egress_to_node", ChainKind::Filter, Hook::Input, 0, to_node.collect());
    objects.base("ingress", ChainKind::Filter, Hook::Forward, 1, vec![known(), rule().oif(POD_LINKS).goto("to_pod")]);
    // The last hook knows the link that a packet leaves by even when its destination was translated on the way out of the node.
    objects.base("closed", ChainKind::Filter, Hook::Postrouting, 0, vec![rule().oif(POD_LINKS).goto("only_ready")]);

    let closed = Direction::BOTH.map(|direction| Denial::closed(direction).lower(denials, objects));
    let [closed_in, closed_out] = closed.map(|chain| rule().goto(chain));
    let list = |map, family, link, address| rule().family(family).verdict_of(&named(map, family), &[link, address]);
    let from = Family::BOTH.into_iter().map(|f| list("pods_out", f, IifName, Saddr(f)));
    // Such a packet is not translated back, so that who gets it would take it for a stranger's and reset the connection that it is of.
    let misfit = || [rule().state(CT_INVALID).protocol(Protocol::Tcp).drop().saying("TCP that does not fit its connection")];
    // No policy stands between a pod and itself.
    let to_itself = || Family::BOTH.into_iter().map(|f| rule().family(f).in_set(&named("self", f), &[Saddr(f), Daddr(f)]).accept());
    objects.chain("from_pod", misfit().into_iter().chain(to_itself()).chain(from).chain([closed_out]).collect());
    let to = Family::BOTH.into_iter().map(|f| list("pods_in", f, OifName, Daddr(f)));
    objects.chain("to_pod", misfit().into_iter().chain(to_itself()).chain(to).chain([closed_in.clone()]).collect());
    let ready = Family::BOTH.into_iter().map(|f| rule().family(f).in_set(&named("ready", f), &[OifName, Daddr(f)]).accept());
    objects.chain("only_ready", ready.chain([closed_in]).collect());

    // Where a connection was cut, the next packet of either end would begin a new one in the eyes of conntrack, perhaps the other way round.
    let no_syn: Rule = rule().state(CT_NEW).tcp_not_syn().drop().saying("TCP of no connection");
    objects.chain(BEGINS_WITH_SYN, vec![no_syn]);
    objects.chain(OPEN, vec![rule().accept()]);
    objects.chain(OPEN_TO_SYN, vec![rule().jump(BEGINS_WITH_SYN), rule().accept()]);
}

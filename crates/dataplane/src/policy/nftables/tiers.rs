//! ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2): a chain for each policy and direction that accepts, drops, or comes back, and a
//! chain for each distinct list of policies of a tier that asks them in turn.
//!
//! A rule that passes a packet on has to leave the whole list, not just its policy, and a return leaves only one chain. So it sets a bit of the
//! packet's mark on its way out, which the list looks for after such a policy and clears. The Baseline tier needs none of that: after it
//! nothing is asked, so passing on is accepting.
//!
//! Invariant: the bit counts for nothing that the list did not clear before.

use std::sync::Arc;

use bowline_model::ClusterPolicyName;
use bowline_model::intent::policy::{Action, Direction, PolicyIntent, Tier, TierRules};

use super::denied::Denial;
use super::rules::{digest, named_for};
use super::taken::{Taken, lower_changed, names_any};
use crate::change::{Change, Objects};
use crate::expr::{RuleBuilder, rule};
use crate::host::DenialFacts;
use crate::objects::net::PASSED_MARK;
use crate::objects::nft::Rule;

/// The chain of a policy's rules.
fn chain(direction: Direction, policy: &ClusterPolicyName) -> Arc<str> {
    let stem = match direction {
        Direction::Ingress => "cluster_in",
        Direction::Egress => "cluster_out",
    };
    named_for(stem, policy.as_str())
}

/// The chain that asks a list of policies in turn.
pub(super) fn list_chain(tier: Tier, direction: Direction, list: &[ClusterPolicyName]) -> Arc<str> {
    let stem = match tier {
        Tier::Admin => "admin",
        Tier::Baseline => "baseline",
    };
    let way = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    let names: String = list.iter().map(|name| format!("{name}\n")).collect();
    format!("{stem}_{way}_{}", digest(&names)).into()
}

/// Whether a policy may leave the list that asks it.
fn passes(rules: &TierRules) -> bool {
    rules.tier == Tier::Admin && rules.rules.iter().any(|rule| rule.action == Action::Pass)
}

/// Makes the chain of a list of policies, all of one tier.
pub(super) fn list(tier: Tier, direction: Direction, list: &[ClusterPolicyName], intent: &PolicyIntent, objects: &mut Objects) {
    let known = || list.iter().filter_map(|name| Some((name, intent.tiers.get(&(name.clone(), direction))?)));
    let mut asked = Vec::new();
    if known().any(|(_, rules)| passes(rules)) {
        // Whatever set it before: it is not ours yet.
        asked.push(rule().clear_mark_bits(PASSED_MARK).done());
    }
    for (name, rules) in known() {
        asked.push(rule().jump(chain(direction, name)).saying(name.as_str()));
        if passes(rules) {
            asked.push(rule().mark(PASSED_MARK).clear_mark_bits(PASSED_MARK).back());
        }
    }
    objects.chain(list_chain(tier, direction, list), asked);
}

/// Lowers the policies whose rules changed, or whose sets came or went.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, denials: DenialFacts, change: &mut Change) {
    let names = |rules: &Arc<TierRules>, sets: &_| rules.rules.iter().any(|rule| names_any(&rule.peers, rule.ports.as_deref(), sets));
    lower_changed((&old.tiers, old), (&new.tiers, new), change, names, |key, rules, intent, objects| {
        lower_one(key, rules, intent, denials, objects)
    });
}

fn lower_one(
    (policy, direction): &(ClusterPolicyName, Direction),
    rules: &TierRules,
    intent: &PolicyIntent,
    denials: DenialFacts,
    objects: &mut Objects,
) {
    let chain = chain(*direction, policy);
    let mut lowered: Vec<Rule> = Vec::new();
    for (index, rule_intent) in rules.rules.iter().enumerate() {
        let place = format!("{chain}/{index}");
        let passed_on = rules.tier == Tier::Admin && rule_intent.action == Action::Pass;
        let (peers, ports) = (&rule_intent.peers, rule_intent.ports.as_deref());
        let taken = Taken { peers, ports, direction: *direction, place: &place, comment: policy.as_str() };
        let deny = (rule_intent.action == Action::Deny)
            .then(|| Denial::by_rule(*direction, rules.tier, policy, rule_intent).lower(denials, objects));
        let end = |packets: RuleBuilder| match &deny {
            Some(chain) => packets.goto(chain.clone()),
            None if passed_on => pass_on(packets),
            None => packets.accept(),
        };
        let (some, called) = taken.lower(intent, objects, end);
        lowered.extend(some);
        if passed_on && called {
            // What came back from there may have been passed on.
            lowered.push(rule().mark(PASSED_MARK).back());
        }
    }
    objects.chain(chain, lowered);
}

fn pass_on(packets: RuleBuilder) -> Rule {
    packets.set_mark_bits(PASSED_MARK).back()
}

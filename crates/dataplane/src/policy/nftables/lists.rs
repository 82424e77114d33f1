//! What holds for a pod in one direction: a chain for each distinct combination of tiers and lists of policies, which asks them in turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_model::intent::policy::{Direction, PodPolicy, PodSide, PolicyIntent, Tier};

use super::denied::Denial;
use super::{BEGINS_WITH_SYN, OPEN, OPEN_TO_SYN, rules, tiers};
use crate::change::{Change, Objects};
use crate::expr::rule;
use crate::host::DenialFacts;

/// Lowers the lists. There are no more of them than pods on the node, so all are made anew when a pod's or a policy's existence changes.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, denials: DenialFacts, change: &mut Change) {
    if old.pods.ptr_eq(&new.pods) && old.rules.ptr_eq(&new.rules) && old.tiers.ptr_eq(&new.tiers) {
        return;
    }
    all(old, denials, &mut change.old);
    all(new, denials, &mut change.new);
}

fn all(policy: &PolicyIntent, denials: DenialFacts, objects: &mut Objects) {
    let mut chains: BTreeMap<Arc<str>, (Direction, &PodSide)> = BTreeMap::new();
    let mut lists = BTreeMap::new();
    for (pod, direction) in policy.pods.values().flat_map(|pod| Direction::BOTH.map(|direction| (pod, direction))) {
        let side = pod.side(direction);
        if side.is_open() {
            continue;
        }
        chains.entry(chain(direction, side)).or_insert((direction, side));
        for (tier, list) in [(Tier::Admin, &side.admin), (Tier::Baseline, &side.baseline)] {
            if !list.is_empty() {
                lists.entry((tier, direction, list)).or_insert(());
            }
        }
    }
    for ((tier, direction, list), ()) in lists {
        tiers::list(tier, direction, list, policy, objects);
    }
    for (chain, (direction, PodSide { admin, policies, baseline })) in chains {
        let mut asked = vec![rule().jump(BEGINS_WITH_SYN)];
        if !admin.is_empty() {
            asked.push(rule().jump(tiers::list_chain(Tier::Admin, direction, admin)).saying("Admin tier"));
        }
        match policies {
            Some(list) => {
                // A policy whose rules are not known lets nothing through.
                let known = list.iter().filter(|name| policy.rules.contains_key(&((*name).clone(), direction)));
                asked.extend(known.map(|name| rule().jump(rules::chain(direction, name)).saying(&name.to_string())));
                asked.push(rule().goto(Denial::by_policies(direction, list).lower(denials, objects)));
            }
            None => {
                if !baseline.is_empty() {
                    asked.push(rule().jump(tiers::list_chain(Tier::Baseline, direction, baseline)).saying("Baseline tier"));
                }
                asked.push(rule().accept());
            }
        }
        objects.chain(chain, asked);
    }
}

fn chain(direction: Direction, side: &PodSide) -> Arc<str> {
    // No name holds a space: what is of a tier cannot be taken for anything else.
    let tier = |word: &'static str| move |name: &bowline_model::ClusterPolicyName| format!("{word} {name}\n");
    let admin = side.admin.iter().map(tier("admin"));
    let policies = side.policies.iter().flatten().map(|name| format!("{name}\n"));
    let text: String = admin.chain(policies).chain(side.baseline.iter().map(tier("baseline"))).collect();
    let stem = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{stem}_{}", rules::digest(&text)).into()
}

/// The chain that judges a pod's traffic in a direction.
pub(super) fn chain_of(policy: &PodPolicy, direction: Direction) -> Arc<str> {
    let (this, other) = match direction {
        Direction::Ingress => (&policy.ingress, &policy.egress),
        Direction::Egress => (&policy.egress, &policy.ingress),
    };
    match (this.is_open(), other.is_open()) {
        (false, _) => chain(direction, this),
        (true, false) => OPEN_TO_SYN.into(),
        (true, true) => OPEN.into(),
    }
}

//! What holds for a pod in one direction: a chain for each distinct combination of tiers and lists of policies, which asks them in turn.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::policy::{Direction, PodPolicy, PodSide, PolicyIntent, Tier};
use bowline_model::{ClusterPolicyName, PolicyName};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::denied::Denial;
use super::{BEGINS_WITH_SYN, OPEN, OPEN_TO_SYN, rules, tiers};
use crate::change::{Change, Objects};
use crate::expr::rule;
use crate::host::DenialFacts;
use crate::objects::nft::Rule;

/// Lowers what belongs to lists that a change touches: those of pods whose policies are others, and those that name a policy which came or
/// went. Pods may share each part of it, so a part stays as long as any pod of an intent has it.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, denials: DenialFacts, change: &mut Change) {
    let touched = Touched::between(old, new);
    touched.lower(old, denials, &mut change.old);
    touched.lower(new, denials, &mut change.new);
}

/// What a change touches.
#[derive(Default)]
struct Touched<'a> {
    sides: BTreeSet<(Direction, &'a PodSide)>,
    /// Lists of NetworkPolicies, for what they deny together.
    policies: BTreeSet<(Direction, &'a [PolicyName])>,
    /// Lists of a tier.
    tiers: BTreeSet<(Tier, Direction, &'a [ClusterPolicyName])>,
}

impl<'a> Touched<'a> {
    fn between(old: &'a PolicyIntent, new: &'a PolicyIntent) -> Touched<'a> {
        let mut touched = Touched::default();
        for item in old.pods.diff(&new.pods) {
            let (was, is) = match item {
                DiffItem::Add(_, is) => (None, Some(is)),
                DiffItem::Remove(_, was) => (Some(was), None),
                DiffItem::Update { old: (_, was), new: (_, is) } => (Some(was), Some(is)),
            };
            for pod in was.into_iter().chain(is) {
                Direction::BOTH.into_iter().for_each(|direction| touched.add(direction, pod.side(direction)));
            }
        }
        let (names, ranked) = (came_or_went(&old.rules, &new.rules), others(&old.tiers, &new.tiers));
        if !names.is_empty() || !ranked.is_empty() {
            for pod in old.pods.values().chain(new.pods.values()) {
                for direction in Direction::BOTH {
                    let side = pod.side(direction);
                    let mut tiers = side.admin.iter().chain(&side.baseline);
                    let of_policies = side.policies.iter().flatten().any(|name| names.contains(&(name, direction)));
                    if of_policies || tiers.any(|name| ranked.contains(&(name, direction))) {
                        touched.add(direction, side);
                    }
                }
            }
        }
        touched
    }

    fn add(&mut self, direction: Direction, side: &'a PodSide) {
        if side.is_open() {
            return;
        }
        self.sides.insert((direction, side));
        self.policies.extend(side.policies.iter().map(|list| (direction, list.as_slice())));
        self.tiers.extend(tier_lists(side).map(|(tier, list)| (tier, direction, list)));
    }

    /// Makes of it what pods of the intent have.
    fn lower(&self, policy: &PolicyIntent, denials: DenialFacts, objects: &mut Objects) {
        let held = |direction, has: &dyn Fn(&PodSide) -> bool| policy.pods.values().any(|pod| has(pod.side(direction)));
        for (direction, side) in &self.sides {
            if held(*direction, &|other| other == *side) {
                objects.chain(chain(*direction, side), asked(policy, *direction, side));
            }
        }
        for (direction, list) in &self.policies {
            if held(*direction, &|other| other.policies.as_deref() == Some(list)) {
                Denial::by_policies(*direction, list).lower(denials, objects);
            }
        }
        for (tier, direction, list) in &self.tiers {
            if held(*direction, &|other| tier_lists(other).any(|(t, l)| (t, l) == (*tier, *list))) {
                tiers::list(*tier, *direction, list, policy, objects);
            }
        }
    }
}

/// The lists of the tiers that are asked for a pod.
fn tier_lists(side: &PodSide) -> impl Iterator<Item = (Tier, &[ClusterPolicyName])> {
    let both = [(Tier::Admin, side.admin.as_slice()), (Tier::Baseline, side.baseline.as_slice())];
    both.into_iter().filter(|(_, list)| !list.is_empty())
}

/// Keys that only one of them has.
fn came_or_went<'m, K: Ord, V: PartialEq>(
    old: &'m OrdMap<(K, Direction), V>,
    new: &'m OrdMap<(K, Direction), V>,
) -> BTreeSet<(&'m K, Direction)> {
    let keys = old.diff(new).filter_map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => Some((&key.0, key.1)),
        DiffItem::Update { .. } => None,
    });
    keys.collect()
}

/// Keys under which they differ.
fn others<'m, K: Ord, V: PartialEq>(
    old: &'m OrdMap<(K, Direction), V>,
    new: &'m OrdMap<(K, Direction), V>,
) -> BTreeSet<(&'m K, Direction)> {
    let keys = old.diff(new).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => (&key.0, key.1),
    });
    keys.collect()
}

/// The rules that ask what is about a pod, in turn.
fn asked(policy: &PolicyIntent, direction: Direction, side: &PodSide) -> Vec<Rule> {
    let PodSide { admin, policies, baseline } = side;
    let mut asked = vec![rule().jump(BEGINS_WITH_SYN)];
    if !admin.is_empty() {
        asked.push(rule().jump(tiers::list_chain(Tier::Admin, direction, admin)).saying("Admin tier"));
    }
    match policies {
        Some(list) => {
            // A policy whose rules are not known lets nothing through.
            let known = list.iter().filter(|name| policy.rules.contains_key(&((*name).clone(), direction)));
            asked.extend(known.map(|name| rule().jump(rules::chain(direction, name)).saying(&name.to_string())));
            asked.push(rule().goto(Denial::by_policies(direction, list).chain()));
        }
        None => {
            if !baseline.is_empty() {
                asked.push(rule().jump(tiers::list_chain(Tier::Baseline, direction, baseline)).saying("Baseline tier"));
            }
            asked.push(rule().accept());
        }
    }
    asked
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

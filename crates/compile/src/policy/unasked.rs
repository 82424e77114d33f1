//! The policies that select a pod and do not decide, each with the reason: who looks for what stops a packet is to see that the policy that was
//! meant to let it through, or to stop it, is there and why it came to nothing.

use bowline_model::intent::policy::{Direction, Tier};
use bowline_model::{ClusterPolicyName, NamespaceName, PolicyName};

use super::rules;
use super::story::Subject;
use super::tiers;
use crate::explain::PolicyTold;
use crate::world::{ClusterNetworkPolicy, NetworkPolicy, World};

/// Of a policy that was asked.
pub(super) const NO_RULE: &str = "no rule takes it";

/// More names than these are counted.
const NAMES_MAX: usize = 8;

/// A policy of which nothing is told but that it selects the pod, and why it does not decide.
pub(super) fn told(name: String, tier: Option<Tier>, why: &str) -> PolicyTold {
    PolicyTold {
        name,
        tier: tier.map(|tier| format!("{tier:?}")),
        action: None,
        allows: false,
        rule: None,
        why: Vec::new(),
        passed_over: Some(why.to_owned()),
    }
}

/// The NetworkPolicies of a pod's namespace that select it, each with whether it says anything of a direction.
pub(super) fn selecting<'w>(
    world: &'w World,
    subject: Subject<'w>,
    direction: Direction,
) -> impl Iterator<Item = (&'w PolicyName, &'w NetworkPolicy, bool)> {
    let first = PolicyName::new(subject.name.namespace.clone(), "");
    let same = world.policies().range(first..).take_while(move |(name, _)| name.namespace == subject.name.namespace);
    same.filter_map(move |(name, policy)| {
        let compiled = rules::compile(name, policy);
        compiled.selector.matches(subject.labels).then(|| (name, &**policy, compiled.side(direction).is_some()))
    })
}

/// The policies of a tier in the order in which they are asked. One of no known tier is of Admin.
pub(super) fn ranked(world: &World, tier: Tier) -> Vec<(&ClusterPolicyName, &ClusterNetworkPolicy)> {
    let of_tier = world.cluster_policies().iter().filter(|(_, policy)| tiers::tier_of(policy).unwrap_or(Tier::Admin) == tier);
    let mut ranked: Vec<_> = of_tier.map(|(name, policy)| (name, &**policy)).collect();
    ranked.sort_by_key(|(name, policy)| (policy.spec.priority.unwrap_or_default(), *name));
    ranked
}

/// Whether a ClusterNetworkPolicy is about a pod; if so, whether it could be understood whom it is about.
pub(super) fn is_about(world: &World, subject: Subject<'_>, policy: &ClusterNetworkPolicy) -> Option<bool> {
    let (meant, whole) = match tiers::read_subject(&policy.spec.subject) {
        Ok(meant) => (meant, true),
        Err((meant, _)) => (meant, false),
    };
    let namespace = world.namespaces().get(&NamespaceName(subject.name.namespace.clone()))?;
    meant.means(&namespace.metadata.labels, subject.labels).then_some(whole)
}

/// Whether a ClusterNetworkPolicy says anything of a direction. One that cannot be understood denies both.
pub(super) fn speaks(policy: &ClusterNetworkPolicy, direction: Direction) -> bool {
    let rules = match direction {
        Direction::Ingress => &policy.spec.ingress,
        Direction::Egress => &policy.spec.egress,
    };
    !rules.is_empty() || policy.unreadable.is_some() || tiers::tier_of(policy).is_none()
}

/// The policies of a tier about a pod and a direction, none of which is asked.
pub(super) fn of_tier(world: &World, subject: Subject<'_>, tier: Tier, direction: Direction, why: &str) -> Vec<PolicyTold> {
    let meant =
        ranked(world, tier).into_iter().filter(|(_, policy)| speaks(policy, direction) && is_about(world, subject, policy).is_some());
    meant.map(|(name, _)| told(name.to_string(), Some(tier), why)).collect()
}

/// The NetworkPolicies that select a pod for a direction, none of which is asked.
pub(super) fn network_policies(world: &World, subject: Subject<'_>, direction: Direction, why: &str) -> Vec<PolicyTold> {
    selecting(world, subject, direction).filter(|(_, _, speaks)| *speaks).map(|(name, _, _)| told(name.to_string(), None, why)).collect()
}

/// All policies that select a pod, none of which is asked.
pub(super) fn all(world: &World, subject: Subject<'_>, direction: Direction, why: &str) -> Vec<PolicyTold> {
    let mut all = of_tier(world, subject, Tier::Admin, direction, why);
    all.extend(network_policies(world, subject, direction, why));
    all.extend(of_tier(world, subject, Tier::Baseline, direction, why));
    all.extend(silent(world, subject, direction));
    all
}

/// The policies that select a pod, but are about the other direction alone.
pub(super) fn silent(world: &World, subject: Subject<'_>, direction: Direction) -> Vec<PolicyTold> {
    let why = format!("says nothing of {}", direction.word());
    let tier = |tier| {
        let meant = ranked(world, tier).into_iter();
        let meant = meant.filter(|(_, policy)| !speaks(policy, direction) && is_about(world, subject, policy).is_some());
        meant.map(move |(name, _)| (name.to_string(), Some(tier)))
    };
    let names = selecting(world, subject, direction).filter(|(_, _, speaks)| !*speaks).map(|(name, _, _)| (name.to_string(), None));
    let all = tier(Tier::Admin).chain(names).chain(tier(Tier::Baseline));
    all.map(|(name, tier)| told(name, tier, &why)).collect()
}

/// A line for each reason why policies do not decide, with their names; but for those of whom the text says it anyhow.
pub(super) fn lines(policies: &[PolicyTold], but: &str) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for policy in policies {
        // A rule that passes it on has a line of its own.
        let Some(why) = policy.passed_over.as_deref().filter(|why| *why != but && policy.action.is_none()) else { continue };
        let name = match &policy.tier {
            Some(tier) => format!("ClusterNetworkPolicy {} ({tier})", policy.name),
            None => format!("NetworkPolicy {}", policy.name),
        };
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, names)) => names.push(name),
            None => reasons.push((why, vec![name])),
        }
    }
    let line = |(why, names): (&str, Vec<String>)| {
        let more = names.len().saturating_sub(NAMES_MAX);
        let shown = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{why}: {shown}{more}")
    };
    reasons.into_iter().map(line).collect()
}

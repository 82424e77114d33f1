//! What is denied, by whom and why: a chain for each denial that gives some of its packets to nfnetlink_log, counts all of them and drops them.
//!
//! The rules that deny go to it, so that a packet which passes meets nothing more than before. The counter is an object of the table and not a
//! part of a rule: it goes on when rules are replaced, and when the agent is. Several denials of one ClusterNetworkPolicy and direction share
//! it; what is logged names the rule as well.
//!
//! Invariant: the drop is a rule of its own and depends on nothing. What the kernel cannot count or log is left out.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::policy::{Action, Direction, PolicyIntent, Tier, TierRule};
use bowline_model::{ClusterPolicyName, PolicyName};

use super::rules::digest;
use crate::change::Objects;
use crate::expr::rule;
use crate::host::DenialFacts;

/// The group of nfnetlink_log that denied packets are given to.
pub const LOG_GROUP: u16 = 118;

/// Packets a second of one denial that are given to it, and how many at once.
const LOG_PER_SECOND: u64 = 50;
const LOG_BURST: u32 = 100;

/// Bytes of each: an IPv6 header with extensions, and ports.
const SNAP_BYTES: u32 = 128;

/// Policies that a label names; of more, how many more and a digest, so that different lists stay different.
const NAMED_POLICIES: usize = 8;

/// First letters of the names of chains and counters.
const STEM: &str = "denied/";

/// Why a packet is denied. The list is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// NetworkPolicies select the pod, and no rule of them lets it through.
    NoRule,
    /// A rule of the Admin tier denies it.
    Admin,
    /// A rule of the Baseline tier denies it.
    Baseline,
    /// The policy of the pod is not in force yet, or the pod is gone.
    Closed,
    /// A pod's packet for a loopback address of its node.
    Loopback,
}

impl Reason {
    /// The reason in one word, for labels.
    pub fn word(self) -> &'static str {
        match self {
            Reason::NoRule => "no-rule",
            Reason::Admin => "admin-tier",
            Reason::Baseline => "baseline-tier",
            Reason::Closed => "closed",
            Reason::Loopback => "loopback",
        }
    }

    /// The reason in words, for people.
    pub fn says(self) -> &'static str {
        match self {
            Reason::NoRule => "no rule allows it",
            Reason::Admin => "a rule of the Admin tier denies it",
            Reason::Baseline => "a rule of the Baseline tier denies it",
            Reason::Closed => "closed until its policy is in force",
            Reason::Loopback => "a pod to the node's loopback",
        }
    }
}

/// What denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum By<'a> {
    Policies(&'a [PolicyName]),
    Cluster(Tier, &'a ClusterPolicyName, Option<&'a str>),
    Closed,
    Loopback,
}

/// One kind of packet that is denied: of which direction, by whom and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Denial<'a> {
    direction: Direction,
    by: By<'a>,
}

impl<'a> Denial<'a> {
    /// By NetworkPolicies that select a pod, none of which lets the packet through.
    pub(super) fn by_policies(direction: Direction, list: &'a [PolicyName]) -> Self {
        Denial { direction, by: By::Policies(list) }
    }

    /// By a rule of a ClusterNetworkPolicy.
    pub(super) fn by_rule(direction: Direction, tier: Tier, policy: &'a ClusterPolicyName, rule: &'a TierRule) -> Self {
        Denial { direction, by: By::Cluster(tier, policy, Some(&rule.label)) }
    }

    /// By there being no policy yet.
    pub(super) fn closed(direction: Direction) -> Self {
        Denial { direction, by: By::Closed }
    }

    /// By no pod's being let to the node's loopback.
    pub(super) fn loopback() -> Self {
        Denial { direction: Direction::Egress, by: By::Loopback }
    }

    /// Seen from the pod that is concerned.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        match self.by {
            By::Policies(_) => Reason::NoRule,
            By::Cluster(Tier::Admin, ..) => Reason::Admin,
            By::Cluster(Tier::Baseline, ..) => Reason::Baseline,
            By::Closed => Reason::Closed,
            By::Loopback => Reason::Loopback,
        }
    }

    /// The policies by name: all that select the pod where none of them lets the packet through, as the denial is theirs together. Empty where
    /// there is none.
    pub fn policies(&self) -> String {
        match self.by {
            By::Policies(list) => {
                let names: Vec<String> = list.iter().take(NAMED_POLICIES).map(PolicyName::to_string).collect();
                match list.len().saturating_sub(NAMED_POLICIES) {
                    0 => names.join(" "),
                    more => format!("{} +{more} ({})", names.join(" "), digest(&self.text())),
                }
            }
            By::Cluster(_, policy, _) => policy.to_string(),
            By::Closed | By::Loopback => String::new(),
        }
    }

    /// The rule that denies, where one does.
    pub fn rule(&self) -> Option<&'a str> {
        match self.by {
            By::Cluster(_, _, rule) => rule,
            By::Policies(_) | By::Closed | By::Loopback => None,
        }
    }

    /// The name of its chain, which is also what its packets are logged with.
    pub fn chain(&self) -> Arc<str> {
        match self.by {
            By::Policies(_) | By::Cluster(..) => format!("{STEM}{}", digest(&self.text())).into(),
            By::Closed => format!("{STEM}closed_{}", self.direction.word()).into(),
            By::Loopback => format!("{STEM}loopback").into(),
        }
    }

    /// The name of its counter.
    pub fn counter(&self) -> Arc<str> {
        self.of_policy().chain()
    }

    /// The same without the rule.
    fn of_policy(&self) -> Self {
        match self.by {
            By::Cluster(tier, policy, _) => Denial { by: By::Cluster(tier, policy, None), ..*self },
            By::Policies(_) | By::Closed | By::Loopback => *self,
        }
    }

    /// No name holds a line's end, nor does a label: what differs has another text.
    fn text(&self) -> String {
        let start = format!("{} {}\n", self.direction.word(), self.reason().word());
        match self.by {
            By::Policies(list) => list.iter().fold(start, |text, name| text + &format!("{name}\n")),
            By::Cluster(_, policy, rule) => format!("{start}{policy}\n{}\n", rule.unwrap_or_default()),
            By::Closed | By::Loopback => start,
        }
    }

    /// What the rule that drops says.
    fn comment(&self) -> String {
        let denied = format!("{} denied: ", self.direction.word());
        match self.by {
            By::Policies(list) => denied + &list.iter().map(PolicyName::to_string).collect::<Vec<_>>().join(" "),
            By::Cluster(_, policy, rule) => format!("{denied}{policy} {}", rule.unwrap_or_default()),
            By::Closed | By::Loopback => self.reason().says().to_owned(),
        }
    }

    /// Makes its chain and counter; gives the chain's name.
    pub(super) fn lower(&self, facts: DenialFacts, objects: &mut Objects) -> Arc<str> {
        let chain = self.chain();
        let mut rules = Vec::new();
        if facts.logged {
            rules.push(rule().at_most(LOG_PER_SECOND, LOG_BURST).log(LOG_GROUP, &chain, SNAP_BYTES).done());
        }
        let dropped = if facts.counted {
            let counter = self.counter();
            objects.counter(counter.clone());
            rule().count_on(&counter).drop_uncounted()
        } else {
            rule().drop()
        };
        rules.push(dropped.saying(&self.comment()));
        objects.chain(chain.clone(), rules);
        chain
    }
}

/// What the rules of an intent can deny, with each rule of ClusterNetworkPolicies; what is logged is one of these.
pub fn denials(policy: &PolicyIntent) -> BTreeSet<Denial<'_>> {
    let lists = policy.pods.values().flat_map(|pod| {
        let of = |direction| Some(Denial::by_policies(direction, pod.side(direction).policies.as_ref()?));
        Direction::BOTH.into_iter().filter_map(of)
    });
    let cluster = policy.tiers.iter().flat_map(|((name, direction), rules)| {
        let denying = rules.rules.iter().filter(|rule| rule.action == Action::Deny);
        denying.map(|rule| Denial::by_rule(*direction, rules.tier, name, rule))
    });
    let always = Direction::BOTH.map(Denial::closed).into_iter().chain([Denial::loopback()]);
    lists.chain(cluster).chain(always).collect()
}

/// The same without the rules: what is counted is one of these.
pub fn counted(policy: &PolicyIntent) -> BTreeSet<Denial<'_>> {
    denials(policy).into_iter().map(|denial| denial.of_policy()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use std::collections::BTreeMap;

    use super::*;

    fn names(count: usize) -> Vec<PolicyName> {
        (0..count).map(|number| PolicyName::new("shop", format!("p{number}"))).collect()
    }

    fn rule_of(label: &str) -> TierRule {
        TierRule { label: label.into(), action: Action::Deny, peers: bowline_model::intent::policy::Peers::Any, ports: None }
    }

    #[test]
    fn what_differs_has_a_name_of_its_own_and_what_is_of_one_policy_one_counter() {
        let (two, three, name) = (names(2), names(3), ClusterPolicyName::from("shop/p0"));
        let (first, second) = (rule_of("ingress[0]"), rule_of("ingress[1] `no-web`"));
        let all = [
            Denial::by_policies(Direction::Ingress, &two),
            Denial::by_policies(Direction::Egress, &two),
            Denial::by_policies(Direction::Ingress, &three),
            Denial::by_rule(Direction::Ingress, Tier::Admin, &name, &first),
            Denial::by_rule(Direction::Ingress, Tier::Admin, &name, &second),
            Denial::by_rule(Direction::Ingress, Tier::Baseline, &name, &first),
            Denial::closed(Direction::Ingress),
            Denial::closed(Direction::Egress),
            Denial::loopback(),
        ];
        let chains: BTreeMap<Arc<str>, &Denial<'_>> = all.iter().map(|denial| (denial.chain(), denial)).collect();
        assert_eq!(chains.len(), all.len());
        assert!(chains.keys().all(|chain| chain.len() <= 127), "a prefix of nfnetlink_log has so many bytes");
        assert_eq!(all.iter().map(Denial::counter).collect::<BTreeSet<_>>().len(), all.len() - 1);
        let [_, _, _, one, other, ..] = &all;
        assert_eq!(one.counter(), other.counter());
        assert_eq!(
            (other.policies().as_str(), other.rule(), other.reason().word()),
            ("shop/p0", Some("ingress[1] `no-web`"), "admin-tier")
        );
    }

    #[test]
    fn long_lists_are_cut_and_stay_apart() {
        let label = |list: &[PolicyName]| Denial::by_policies(Direction::Ingress, list).policies();
        assert_eq!(label(&names(2)), "shop/p0 shop/p1");
        assert_eq!(label(&names(8)).split(' ').count(), 8);
        let (long, longer) = (label(&names(11)), label(&names(12)));
        assert!(long.starts_with("shop/p0 shop/p1 ") && long.contains(" +3 ("), "{long}");
        let mut other = names(11);
        other.pop();
        other.push(PolicyName::new("shop", "zz"));
        assert_ne!(long, label(&other));
        assert!(longer.contains(" +4 ("), "{longer}");
    }

    #[test]
    fn what_the_kernel_lacks_is_left_out_and_the_drop_stays() {
        use crate::change::Change;
        use crate::interpret::Table;
        use crate::objects::nft::{Expr, NftKey, NftObject, Verdict};
        let list = names(1);
        let denial = Denial::by_policies(Direction::Egress, &list);
        for (counted, logged) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut change = Change::default();
            let chain = denial.lower(DenialFacts { counted, logged }, &mut change.new);
            let objects = change.into_delta().nft.set;
            assert_eq!(Table::from_objects(&objects).faults(), []);
            assert_eq!(objects.contains_key(&NftKey::Counter(denial.counter())), counted);
            let Some(NftObject::Chain(spec)) = objects.get(&NftKey::Chain(chain)) else { panic!("no chain") };
            assert_eq!(spec.rules.len(), 1 + usize::from(logged));
            let last = spec.rules.last().unwrap();
            assert_eq!(last.expressions.len(), 2, "it counts in either way and depends on nothing");
            assert_eq!(
                (last.expressions.last(), last.comment.as_deref()),
                (Some(&Expr::Verdict(Verdict::Drop)), Some("egress denied: shop/p0"))
            );
        }
    }
}

//! Why the tiers let a packet through or not: ClusterNetworkPolicies asked in order, NetworkPolicies between them, and what decides put into
//! words.
//!
//! Invariant: subjects and rules are read by the readers that the rules in force are made with (`tiers`); that it comes to the same verdict as
//! the oracle is a property test's to see.

use bowline_model::intent::policy::{Action, Direction, PortMatch, Tier};
use bowline_model::{ClusterPolicyName, NamespaceName};

use super::member::{Member, NodeMember};
use super::selector::Selector;
use super::story::{Packet, Side, Subject, ask_policies, lower, packet_words, peer_of, spaces_words};
use super::tiers::{self, PeerFound, ProtocolFound, RuleFound};
use crate::explain::{Outcome, PolicyTold, Sent};
use crate::world::{ClusterNetworkPolicy, World};

/// Asks everything that is about a pod in a direction.
pub(crate) fn ask(world: &World, subject: Subject<'_>, direction: Direction, packet: &Packet) -> Side {
    let asked = Asked { world, subject, direction, packet };
    let admin = asked.tier(Tier::Admin);
    match admin.ruled {
        Some(Ruled { action: Action::Accept | Action::Deny, .. }) => return asked.decided(admin, Tier::Admin, Vec::new()),
        Some(Ruled { action: Action::Pass, .. }) | None => {}
    }
    let passed = admin.ruled.as_ref().map(|ruled| format!("{} passes it on: {}", ruled.words(Tier::Admin), ruled.why.join("; ")));
    if let Some(mut side) = ask_policies(world, subject, direction, packet) {
        side.details.splice(0..0, passed);
        side.policies.splice(0..0, admin.told);
        return side;
    }
    let mut baseline = asked.tier(Tier::Baseline);
    baseline.told.splice(0..0, admin.told);
    if baseline.ruled.is_some() {
        return asked.decided(baseline, Tier::Baseline, passed.into_iter().collect());
    }
    let nobody = format!("selects {} for {}", subject.name, direction.word());
    let names: Vec<&str> = baseline.told.iter().filter(|told| told.rule.is_none()).map(|told| told.name.as_str()).collect();
    let text = match names.as_slice() {
        [] if passed.is_none() => format!("no policy {nobody}"),
        [] => format!("no NetworkPolicy {nobody}"),
        names => format!("no NetworkPolicy {nobody}, and no rule of ClusterNetworkPolicy {} takes it", names.join(", ")),
    };
    Side { details: passed.into_iter().collect(), policies: baseline.told, ..Side::plain(Outcome::Pass, text) }
}

/// What is asked about.
struct Asked<'a> {
    world: &'a World,
    subject: Subject<'a>,
    direction: Direction,
    packet: &'a Packet,
}

/// What a tier says.
struct Said {
    /// The policies that were asked.
    told: Vec<PolicyTold>,
    /// The rule that takes the packet.
    ruled: Option<Ruled>,
}

/// A rule that takes the packet.
struct Ruled {
    policy: String,
    rule: String,
    action: Action,
    why: Vec<String>,
}

impl Ruled {
    fn words(&self, tier: Tier) -> String {
        format!("ClusterNetworkPolicy {} ({tier:?}), {},", self.policy, self.rule)
    }
}

impl Asked<'_> {
    /// What comes of a tier in which a rule takes the packet.
    fn decided(&self, said: Said, tier: Tier, passed: Vec<String>) -> Side {
        let Some(ruled) = &said.ruled else { return Side::plain(Outcome::Pass, "no rule takes it") };
        let (outcome, does) = match ruled.action {
            Action::Accept => (Outcome::Pass, "accepts it"),
            Action::Pass => (Outcome::Pass, "passes it on, and nothing else is asked"),
            Action::Deny => (Outcome::Drop, "denies it"),
        };
        let words = ruled.words(tier);
        let mut side = Side { details: passed, policies: said.told, ..Side::plain(outcome, format!("{words} {does}")) };
        match outcome {
            Outcome::Pass => side.text.push_str(&format!(": {}", ruled.why.join("; "))),
            Outcome::Drop | Outcome::Reject => {
                side.details.extend(ruled.why.iter().cloned());
                let taken = packet_words(self.world, self.direction, self.packet);
                let word = self.direction.word();
                side.pass_if.push(format!("an {word} rule that is asked before it accepted {taken}"));
                if tier == Tier::Baseline {
                    side.pass_if.push(format!("a NetworkPolicy of {} had an {word} rule that took {taken}", self.subject.name.namespace));
                }
            }
        }
        side
    }

    /// Asks the policies of a tier in turn, until a rule takes the packet.
    fn tier(&self, tier: Tier) -> Said {
        let mut ranked: Vec<(i64, &ClusterPolicyName, &ClusterNetworkPolicy)> = self
            .world
            .cluster_policies()
            .iter()
            .filter(|(_, policy)| tiers::tier_of(policy).unwrap_or(Tier::Admin) == tier)
            .map(|(name, policy)| (policy.spec.priority.unwrap_or_default(), name, &**policy))
            .collect();
        ranked.sort_by_key(|(priority, name, _)| (*priority, *name));
        let mut said = Said { told: Vec::new(), ruled: None };
        for (_, name, policy) in ranked {
            let Some(ruled) = self.policy(policy) else { continue };
            let mut told = PolicyTold {
                name: name.to_string(),
                tier: Some(format!("{tier:?}")),
                action: None,
                allows: false,
                rule: None,
                why: Vec::new(),
            };
            if let Some((rule, action, why)) = &ruled {
                told.action = Some(format!("{action:?}"));
                told.allows = *action == Action::Accept;
                (told.rule, told.why) = (Some(rule.clone()), why.clone());
            }
            said.told.push(told);
            if let Some((rule, action, why)) = ruled {
                said.ruled = Some(Ruled { policy: name.to_string(), rule, action, why });
                break;
            }
        }
        said
    }

    /// What a policy says, if it is about the pod and the direction: its first rule that takes the packet, if any does.
    fn policy(&self, policy: &ClusterNetworkPolicy) -> Option<Option<(String, Action, Vec<String>)>> {
        let (subject, whole) = match tiers::read_subject(&policy.spec.subject) {
            Ok(subject) => (subject, true),
            Err((subject, _)) => (subject, false),
        };
        let namespace = self.world.namespaces().get(&NamespaceName(self.subject.name.namespace.clone()))?;
        if !subject.means(&namespace.metadata.labels, self.subject.labels) {
            return None;
        }
        if policy.unreadable.is_some() || tiers::tier_of(policy).is_none() {
            let why = vec!["it cannot be understood, so it denies everything".to_owned()];
            return Some(Some(("as a whole".to_owned(), Action::Deny, why)));
        }
        let rules = match self.direction {
            Direction::Ingress => &policy.spec.ingress,
            Direction::Egress => &policy.spec.egress,
        };
        if rules.is_empty() {
            return None;
        }
        Some(rules.iter().enumerate().find_map(|(index, rule)| {
            let label = tiers::label(self.direction, index, rule);
            let (found, faults) = tiers::read_rule(rule, self.direction, whole);
            match found {
                RuleFound::Nothing => None,
                RuleFound::DeniesAll => {
                    let what = faults.first().map_or("the policy's subject cannot be understood", |fault| &fault.what);
                    Some((label, Action::Deny, vec![format!("{what}, so the rule denies everything")]))
                }
                RuleFound::Takes(action, peers, protocols) => {
                    let peer = peers.iter().find_map(|peer| self.peer(peer))?;
                    let port = self.port(&protocols)?;
                    Some((label, action, vec![peer, port]))
                }
            }
        }))
    }

    /// How the other end is this peer, if it is.
    fn peer(&self, peer: &PeerFound) -> Option<String> {
        let address = peer_of(self.direction, self.packet);
        match peer {
            PeerFound::Pods(namespaces, pods) => {
                let name = self.world.holder(&address)?;
                let member = Member::of(self.world, name)?;
                let there = member.namespace_labels.as_ref().is_some_and(|labels| namespaces.matches(labels));
                (there && pods.matches(&member.labels)).then(|| format!("{name} is among {}", pods_words(namespaces, pods)))
            }
            PeerFound::Nodes(nodes) => {
                let chosen = |node: &NodeMember| nodes.matches(&node.labels) && node.addresses.contains(&address);
                let (name, _) = self.world.nodes().iter().find(|(_, node)| chosen(&NodeMember::of(node)))?;
                let with = if nodes.is_everything() { String::new() } else { format!(" with {}", nodes.words()) };
                Some(format!("{address} is node {name}'s, one of the nodes{with}"))
            }
            PeerFound::Networks(nets) => {
                let net = nets.iter().find(|net| net.contains(&address))?;
                Some(format!("{address} is in {net}"))
            }
        }
    }

    /// How the port is one of these, if it is.
    fn port(&self, protocols: &[ProtocolFound]) -> Option<String> {
        let packet = self.packet;
        let asked = packet.asked();
        if protocols.is_empty() {
            return Some("any port".to_owned());
        }
        protocols.iter().find_map(|protocol| match protocol {
            ProtocolFound::Match(PortMatch::Range { protocol, from, to }) => {
                let takes = packet.port_of(*protocol).is_some_and(|port| (*from..=*to).contains(&port));
                let range = || if from == to { asked.clone() } else { format!("{asked} is {from}-{to}/{}", lower(*protocol)) };
                takes.then(range)
            }
            ProtocolFound::Match(PortMatch::All(protocol)) => (packet.sent == Sent::from(*protocol)).then(|| asked.clone()),
            ProtocolFound::Match(PortMatch::Named(_)) => None,
            ProtocolFound::Named(name) => {
                let holder = self.world.holder(&packet.dst)?;
                let member = Member::of(self.world, holder)?;
                let (protocol, port) = packet.sent.protocol().zip(packet.port)?;
                let has = member.ports.contains(&(name.clone(), protocol, port));
                has.then(|| format!("{asked} is port `{}` of {holder}", name.escape_debug()))
            }
        })
    }
}

fn pods_words(namespaces: &Selector, pods: &Selector) -> String {
    let of = spaces_words(namespaces);
    if pods.is_everything() { format!("the pods of {of}") } else { format!("pods with {} of {of}", pods.words()) }
}

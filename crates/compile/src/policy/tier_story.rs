//! Why the tiers let a packet through or not: ClusterNetworkPolicies asked in order, NetworkPolicies between them, and what decides put into
//! words.
//!
//! Invariant: subjects and rules are read by the readers that the rules in force are made with (`tiers`); that it comes to the same verdict as
//! the oracle is a property test's to see.

use bowline_model::intent::policy::{Action, Direction, PortMatch, Tier};

use super::member::{Member, NodeMember};
use super::selector::Selector;
use super::story::{Packet, Side, Subject, ask_policies, lower, packet_words, peer_of, spaces_words};
use super::tiers::{self, PeerFound, ProtocolFound, RuleFound};
use super::unasked;
use crate::explain::{Cause, PolicyTold, Sent};
use crate::world::{ClusterNetworkPolicy, World};

/// Asks everything that is about a pod in a direction.
pub(crate) fn ask(world: &World, subject: Subject<'_>, direction: Direction, packet: &Packet) -> Side {
    let asked = Asked { world, subject, direction, packet };
    let admin = asked.tier(Tier::Admin);
    let mut policies = admin.told;
    let (mut side, in_text) = match admin.ruled {
        Some(ruled) if ruled.action != Action::Pass => {
            let why = format!("not asked, as {} decides", ruled.policy_words(Tier::Admin));
            policies.extend(unasked::network_policies(world, subject, direction, &why));
            policies.extend(unasked::of_tier(world, subject, Tier::Baseline, direction, &why));
            (asked.decided(&ruled, Tier::Admin), "")
        }
        passed => asked.after_admin(passed.as_ref(), &mut policies),
    };
    policies.extend(unasked::silent(world, subject, direction));
    side.details.extend(unasked::lines(&policies, in_text));
    Side { policies, ..side }
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
    /// The policies that are about the pod.
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
    fn policy_words(&self, tier: Tier) -> String {
        format!("ClusterNetworkPolicy {} ({tier:?})", self.policy)
    }

    fn words(&self, tier: Tier) -> String {
        format!("{}, {},", self.policy_words(tier), self.rule)
    }
}

impl Asked<'_> {
    /// What comes after an Admin tier that leaves it to others: NetworkPolicies where one selects the pod, else the Baseline tier. Adds what they
    /// say to `policies`; gives the reason, too, that the text tells of all policies that have it.
    fn after_admin(&self, passed: Option<&Ruled>, policies: &mut Vec<PolicyTold>) -> (Side, &'static str) {
        let Asked { world, subject, direction, packet } = *self;
        let passed = passed.map(|ruled| format!("{} passes it on: {}", ruled.words(Tier::Admin), ruled.why.join("; ")));
        if let Some(mut side) = ask_policies(world, subject, direction, packet) {
            side.details.splice(0..0, passed);
            policies.append(&mut side.policies);
            let why = "not asked, as NetworkPolicies select the pod";
            policies.extend(unasked::of_tier(world, subject, Tier::Baseline, direction, why));
            return (side, "");
        }
        let baseline = self.tier(Tier::Baseline);
        policies.extend(baseline.told);
        if let Some(ruled) = baseline.ruled {
            let mut side = self.decided(&ruled, Tier::Baseline);
            side.details.splice(0..0, passed);
            return (side, "");
        }
        let nobody = format!("selects {} for {}", subject.name, direction.word());
        let without = policies.iter().filter(|told| told.passed_over.as_deref() == Some(unasked::NO_RULE));
        let names: Vec<&str> = without.map(|told| told.name.as_str()).collect();
        let text = match names.as_slice() {
            [] if passed.is_none() => format!("no policy {nobody}"),
            [] => format!("no NetworkPolicy {nobody}"),
            names => format!("no NetworkPolicy {nobody}, and no rule of ClusterNetworkPolicy {} takes it", names.join(", ")),
        };
        (Side { details: passed.into_iter().collect(), ..Side::open(text) }, unasked::NO_RULE)
    }

    /// What comes of a tier in which a rule takes the packet.
    fn decided(&self, ruled: &Ruled, tier: Tier) -> Side {
        let words = ruled.words(tier);
        let does = match ruled.action {
            Action::Accept => "accepts it",
            Action::Pass => "passes it on, and nothing else is asked",
            Action::Deny => {
                let taken = packet_words(self.world, self.direction, self.packet);
                let word = self.direction.word();
                let mut pass_if = vec![format!("an {word} rule that is asked before it accepted {taken}")];
                if tier == Tier::Baseline {
                    pass_if.push(format!("a NetworkPolicy of {} had an {word} rule that took {taken}", self.subject.name.namespace));
                }
                let denied = Side::stopped(Cause::tier(tier, self.direction), format!("{words} denies it"));
                return Side { details: ruled.why.clone(), pass_if, ..denied };
            }
        };
        Side::open(format!("{words} {does}: {}", ruled.why.join("; ")))
    }

    /// Asks the policies of a tier in turn, until a rule takes the packet; the rest is told as not asked.
    fn tier(&self, tier: Tier) -> Said {
        let mut said = Said { told: Vec::new(), ruled: None };
        for (name, policy) in unasked::ranked(self.world, tier) {
            let Some(whole) = unasked::is_about(self.world, self.subject, policy) else { continue };
            if !unasked::speaks(policy, self.direction) {
                continue;
            }
            if let Some(ruled) = &said.ruled {
                let does = if ruled.action == Action::Pass { "passes it on" } else { "decides" };
                let why = format!("not asked, as {} {does}", ruled.policy_words(tier));
                said.told.push(unasked::told(name.to_string(), Some(tier), &why));
                continue;
            }
            let mut told = unasked::told(name.to_string(), Some(tier), unasked::NO_RULE);
            if let Some((rule, action, why)) = self.policy(policy, whole) {
                told.action = Some(format!("{action:?}"));
                told.allows = action == Action::Accept;
                // In the Baseline tier, after which nothing is asked, that decides.
                told.passed_over = (tier == Tier::Admin && action == Action::Pass).then(|| "passes it on".to_owned());
                (told.rule, told.why) = (Some(rule.clone()), why.clone());
                said.ruled = Some(Ruled { policy: name.to_string(), rule, action, why });
            }
            said.told.push(told);
        }
        said
    }

    /// The first rule of a policy that takes the packet, if any does.
    fn policy(&self, policy: &ClusterNetworkPolicy, whole: bool) -> Option<(String, Action, Vec<String>)> {
        if policy.unreadable.is_some() || tiers::tier_of(policy).is_none() {
            let why = vec!["it cannot be understood, so it denies everything".to_owned()];
            return Some(("as a whole".to_owned(), Action::Deny, why));
        }
        let rules = match self.direction {
            Direction::Ingress => &policy.spec.ingress,
            Direction::Egress => &policy.spec.egress,
        };
        rules.iter().enumerate().find_map(|(index, rule)| {
            let label = tiers::label(self.direction, index, rule);
            let (found, faults) = tiers::read_rule(rule, self.direction, whole);
            match found {
                RuleFound::Nothing => None,
                RuleFound::DeniesAll => {
                    let what = faults.first().map_or("the policy's subject cannot be understood", |fault| &fault.what);
                    Some((label, Action::Deny, vec![format!("{what}, so the rule denies everything")]))
                }
                RuleFound::Takes(action, peers, protocols) => {
                    let taken = peers.iter().find_map(|peer| self.peer(peer)).zip(self.port(&protocols));
                    if let Some((peer, port)) = taken {
                        return Some((label, action, vec![peer, port]));
                    }
                    let tier = tiers::tier_of(policy)?;
                    let protocols = tiers::unknown_to(tier, action, &peers, &protocols, self.direction)?;
                    let (peer, port) = self.unknown().zip(self.port(&protocols))?;
                    Some((tiers::unknown_label(&label), Action::Deny, vec![peer, port]))
                }
            }
        })
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

    /// How it is not known whose the other end is, if it is not: any rule about pods may mean it.
    fn unknown(&self) -> Option<String> {
        let address = peer_of(self.direction, self.packet);
        let of_pods = self.world.pod_networks().iter().any(|net| net.contains(&address));
        let pod = self.world.holder(&address).and_then(|name| Some((name, Member::of(self.world, name)?)));
        let of_node = || self.world.nodes().values().map(|node| NodeMember::of(node)).any(|node| node.own().any(|own| *own == address));
        if !of_pods || of_node() {
            return None;
        }
        match pod {
            Some((_, Member { namespace_labels: Some(_), .. })) => None,
            Some((name, _)) => Some(format!("the namespace of {name} is not known yet, so the rule may mean it")),
            None => Some(format!("{address} is an address for pods, and no pod is known to have it, so the rule may mean it")),
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

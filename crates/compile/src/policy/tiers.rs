//! One ClusterNetworkPolicy read into rules over sets.
//!
//! Invariant: what cannot be understood closes, as the API says: an Accept rule with it takes nothing, any other denies everything. Where it is
//! the subject that cannot be understood, this holds of the policy's rules for every pod that may be meant.
//! Reference: the API's own text of policy.networking.k8s.io/v1alpha2.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::policy::{Action, Block, Direction, Peers, PortMatch, SetId, Tier, TierRule, TierRules};
use bowline_model::{ClusterPolicyName, Problem, Protocol};
use ipnet::IpNet;

use super::rules::{Side, network};
use super::selector::Selector;
use super::sets::{Scope, SetKey, all_known};
use crate::codes;
use crate::world::{
    ClusterNetworkPolicy, ClusterPolicyPeer, ClusterPolicyProtocol, ClusterPolicyRule, ClusterPolicySubject, LabelSelector, Labels,
    NamespacedPods, ProtocolPorts,
};

/// The pods that a policy is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    namespaces: Selector,
    pods: Selector,
}

impl Subject {
    /// Whether it means a pod with these labels in a namespace with those.
    pub(crate) fn means(&self, namespace: &Labels, pod: &Labels) -> bool {
        self.namespaces.matches(namespace) && self.pods.matches(pod)
    }
}

/// A policy, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ranked {
    /// Its tier.
    pub(crate) tier: Tier,
    /// Its priority in the tier; the lower goes first.
    pub(crate) priority: i64,
    /// Whom it is about.
    pub(crate) subject: Subject,
    /// Its rules for what comes to them, if there are any.
    pub(crate) ingress: Option<Side<TierRules>>,
    /// Its rules for what they send, if there are any.
    pub(crate) egress: Option<Side<TierRules>>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

impl Ranked {
    /// The side of a direction.
    pub(crate) fn side(&self, direction: Direction) -> Option<&Side<TierRules>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// Something that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    code: u16,
    /// What is wrong, as the beginning of a sentence.
    pub(super) what: String,
    /// Where, below what is being read.
    field: String,
    fix: &'static str,
}

impl Fault {
    fn new(code: u16, what: impl Into<String>, field: impl Into<String>, fix: &'static str) -> Fault {
        Fault { code, what: what.into(), field: field.into(), fix }
    }

    fn below(self, field: &str) -> Fault {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        Fault { field: format!("{field}{dot}{}", self.field), ..self }
    }

    fn at(self, place: &str, so: &str) -> Problem {
        let what = if so.is_empty() { self.what } else { format!("{}, so {so}", self.what) };
        let place = if self.field.is_empty() { place.to_owned() } else { format!("{place}.{}", self.field) };
        Problem::new(self.code, what, place, self.fix)
    }
}

/// A peer, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PeerFound {
    /// Pods, by the labels of their namespace and their own.
    Pods(Selector, Selector),
    /// Nodes.
    Nodes(Selector),
    /// Addresses.
    Networks(Vec<IpNet>),
}

/// What a rule takes by protocol, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProtocolFound {
    /// These numbers.
    Match(PortMatch),
    /// The destination's ports of that name.
    Named(Arc<str>),
}

/// A rule, understood as far as it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RuleFound {
    /// What it does with what is of one of the peers and one of the protocols.
    Takes(Action, Vec<PeerFound>, Vec<ProtocolFound>),
    /// It takes nothing.
    Nothing,
    /// It denies everything.
    DeniesAll,
}

/// Reads a policy.
pub(crate) fn compile(name: &ClusterPolicyName, policy: &ClusterNetworkPolicy) -> Ranked {
    let place = format!("ClusterNetworkPolicy {name}");
    let spec = &policy.spec;
    let mut problems = Vec::new();
    let (subject, whole) = match read_subject(&spec.subject) {
        Ok(subject) => (subject, true),
        Err((subject, fault)) => {
            problems.push(fault.at(&format!("{place}, spec"), "its rules are taken to close the pods that it may mean"));
            (subject, false)
        }
    };
    let known_tier = tier_of(policy);
    let tier = known_tier.unwrap_or(Tier::Admin);
    let priority = spec.priority.unwrap_or_default();
    let ranked = |ingress, egress, problems| Ranked { tier, priority, subject: subject.clone(), ingress, egress, problems };
    if let Some(why) = &policy.unreadable {
        let what = "ClusterNetworkPolicy cannot be read: the pods that it selects are closed";
        problems.push(Problem::new(codes::POLICY_UNREADABLE, what, place, "correct its fields").because(&**why));
        return ranked(Some(closed(tier)), Some(closed(tier)), problems);
    }
    if known_tier.is_none() {
        let what = format!("tier `{}` is unknown, so the pods that it selects are closed", spec.tier.escape_debug());
        problems.push(Problem::new(codes::BAD_TIER_FIELD, what, format!("{place}, spec.tier"), "use Admin or Baseline"));
        return ranked(Some(closed(tier)), Some(closed(tier)), problems);
    }
    if !spec.priority.is_some_and(|priority| (0..=1000).contains(&priority)) {
        let given = spec.priority.map_or("no priority".to_owned(), |priority| format!("priority {priority}"));
        let what = format!("{given} is given, and is taken as {priority}");
        problems.push(Problem::new(codes::BAD_TIER_FIELD, what, format!("{place}, spec.priority"), "use 0 to 1000"));
    }
    let rules = |rules: Option<_>| rules.map(|(rules, sets)| Side { rules: Arc::new(TierRules { tier, rules }), sets: Arc::new(sets) });
    let ingress = rules(side(&place, tier, &spec.ingress, Direction::Ingress, whole, &mut problems));
    let egress = rules(side(&place, tier, &spec.egress, Direction::Egress, whole, &mut problems));
    ranked(ingress, egress, problems)
}

/// The tier that a policy is of; none if the API has no such tier.
pub(super) fn tier_of(policy: &ClusterNetworkPolicy) -> Option<Tier> {
    match &*policy.spec.tier {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        _ => None,
    }
}

/// Everything is denied.
fn closed(tier: Tier) -> Side<TierRules> {
    let rule = deny_all("the policy cannot be understood".into());
    Side { rules: Arc::new(TierRules { tier, rules: vec![rule] }), sets: Arc::default() }
}

fn deny_all(label: Arc<str>) -> TierRule {
    TierRule { label, action: Action::Deny, peers: Peers::Any, ports: None }
}

/// What people call a rule: its place, and its name where it has one.
pub(super) fn label(direction: Direction, index: usize, rule: &ClusterPolicyRule) -> String {
    let place = format!("{}[{index}]", direction.word());
    if rule.name.is_empty() { place } else { format!("{place} `{}`", rule.name.escape_debug()) }
}

/// The rules of a direction, if there are any, and the sets that they name.
fn side(
    place: &str,
    tier: Tier,
    rules: &[ClusterPolicyRule],
    direction: Direction,
    whole: bool,
    problems: &mut Vec<Problem>,
) -> Option<(Vec<TierRule>, BTreeSet<SetKey>)> {
    let mut sets = BTreeSet::new();
    let (mut compiled, mut denies_unknown) = (Vec::new(), false);
    for (index, rule) in rules.iter().enumerate() {
        let label: Arc<str> = label(direction, index, rule).into();
        let (found, faults) = read_rule(rule, direction, whole);
        let so = match found {
            RuleFound::Takes(..) => "it denies what it takes",
            RuleFound::Nothing => "the rule takes nothing",
            RuleFound::DeniesAll => "the rule denies everything",
        };
        let field = format!("{place}, spec.{}[{index}]", direction.word());
        problems.extend(faults.into_iter().map(|fault| fault.at(&field, so)));
        match found {
            RuleFound::Takes(action, peers, protocols) => {
                let unknown = unknown_to(tier, action, &peers, &protocols, direction);
                let peers = peers_of(peers, &mut sets);
                let ports = (!protocols.is_empty()).then(|| ports_of(protocols, &mut sets));
                compiled.push(TierRule { label: label.clone(), action, peers, ports });
                // What a rule of before denies already of those it does not know has come to its end.
                if let Some(protocols) = unknown.filter(|_| !denies_unknown) {
                    denies_unknown = protocols.is_empty();
                    let ports = (!protocols.is_empty()).then(|| ports_of(protocols, &mut sets));
                    let keys = all_known();
                    let peers = Peers::Unknown { known: keys.iter().map(SetKey::id).collect() };
                    sets.extend(keys);
                    compiled.push(TierRule { label: unknown_label(&label).into(), action: Action::Deny, peers, ports });
                }
            }
            RuleFound::Nothing => {}
            RuleFound::DeniesAll => compiled.push(deny_all(label)),
        }
    }
    (!compiled.is_empty()).then_some((compiled, sets))
}

/// Of which protocols a rule has to deny what an address sends or gets of which it is not known (yet) which pod has it; none if it denies none.
///
/// A rule that lets through what it takes takes no such address, and so is closed to it. A rule that closes would be open to it: a pod that is as new as that
/// may be one that it means. So such an address is denied what the rule does not let go on for certain.
pub(super) fn unknown_to(
    tier: Tier,
    action: Action,
    peers: &[PeerFound],
    protocols: &[ProtocolFound],
    direction: Direction,
) -> Option<Vec<ProtocolFound>> {
    let closes = match action {
        Action::Deny => true,
        // After the Baseline tier nothing is asked.
        Action::Pass => tier == Tier::Admin,
        Action::Accept => false,
    };
    if !closes || !peers.iter().any(|peer| matches!(peer, PeerFound::Pods(..))) {
        return None;
    }
    let may_be = |protocol: &ProtocolFound| match protocol {
        // Nor is it known which ports of that pod have names.
        ProtocolFound::Named(_) if direction == Direction::Egress => {
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| ProtocolFound::Match(PortMatch::All(protocol))).to_vec()
        }
        ProtocolFound::Named(_) | ProtocolFound::Match(_) => vec![protocol.clone()],
    };
    Some(protocols.iter().flat_map(may_be).collect())
}

/// What people call the part of a rule that is about addresses that no pod is known to have.
pub(super) fn unknown_label(label: &str) -> String {
    format!("{label} (unknown pod)")
}

fn peers_of(found: Vec<PeerFound>, sets: &mut BTreeSet<SetKey>) -> Peers {
    let (mut ids, mut blocks) = (BTreeSet::new(), BTreeSet::new());
    for peer in found {
        let key = match peer {
            PeerFound::Networks(nets) => {
                blocks.extend(nets.into_iter().map(|cidr| Block { cidr, except: Vec::new() }));
                continue;
            }
            PeerFound::Pods(namespaces, pods) => SetKey::Pods(Scope::Namespaces(namespaces), pods),
            PeerFound::Nodes(nodes) => SetKey::Nodes(nodes),
        };
        ids.insert(key.id());
        sets.insert(key);
    }
    let ids: BTreeSet<SetId> = ids;
    Peers::OneOf { sets: ids.into_iter().collect(), blocks: blocks.into_iter().collect() }
}

fn ports_of(found: Vec<ProtocolFound>, sets: &mut BTreeSet<SetKey>) -> Vec<PortMatch> {
    let each = found.into_iter().map(|protocol| match protocol {
        ProtocolFound::Match(found) => found,
        ProtocolFound::Named(name) => {
            let key = SetKey::Ports(Scope::Everywhere, name, None);
            let id = key.id();
            sets.insert(key);
            PortMatch::Named(id)
        }
    });
    each.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whom a policy is about; where that cannot be understood, whom it may be about.
pub(super) fn read_subject(subject: &ClusterPolicySubject) -> Result<Subject, (Subject, Fault)> {
    let fix = "give the subject either namespaces or pods";
    let chosen = match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => selector(namespaces, "namespaces").map(|namespaces| Subject { namespaces, pods: Selector::default() }),
        (None, Some(pods)) => namespaced(pods, "pods").map(|(namespaces, pods)| Subject { namespaces, pods }),
        (None, None) => Err(Fault::new(codes::BAD_SUBJECT, "the subject is empty", "", fix)),
        (Some(_), Some(_)) => Err(Fault::new(codes::BAD_SUBJECT, "the subject has both namespaces and pods", "", fix)),
    };
    chosen.map_err(|fault| {
        let readable = |selector: &LabelSelector| Selector::parse(selector, "", &mut Vec::new()).selector;
        let pods = subject.pods.clone().unwrap_or_default();
        let may_be = match &subject.namespaces {
            Some(namespaces) if subject.pods.is_none() => Subject { namespaces: readable(namespaces), pods: Selector::default() },
            None => Subject {
                namespaces: readable(&pods.namespace_selector.unwrap_or_default()),
                pods: readable(&pods.pod_selector.unwrap_or_default()),
            },
            // Either may be what is meant.
            Some(_) => Subject::default(),
        };
        (may_be, fault.below("subject"))
    })
}

fn selector(given: &LabelSelector, field: &str) -> Result<Selector, Fault> {
    let mut problems = Vec::new();
    let parsed = Selector::parse(given, field, &mut problems);
    match problems.into_iter().next() {
        None => Ok(parsed.selector),
        Some(problem) => {
            let fix = "use In or NotIn with values, or Exists or DoesNotExist without";
            Err(Fault::new(codes::BAD_SELECTOR, problem.what, problem.place, fix))
        }
    }
}

fn namespaced(pods: &NamespacedPods, field: &str) -> Result<(Selector, Selector), Fault> {
    let Some(own) = &pods.pod_selector else {
        return Err(Fault::new(codes::BAD_PEER, "pods lacks its podSelector", field, "give it one; {} means all"));
    };
    let namespaces = pods
        .namespace_selector
        .as_ref()
        .map_or(Ok(Selector::default()), |namespaces| selector(namespaces, "namespaceSelector").map_err(|fault| fault.below(field)))?;
    let own = selector(own, "podSelector").map_err(|fault| fault.below(field))?;
    Ok((namespaces, own))
}

/// Reads a rule; `whole` says whether the policy's subject was understood.
pub(super) fn read_rule(rule: &ClusterPolicyRule, direction: Direction, whole: bool) -> (RuleFound, Vec<Fault>) {
    let (peers, list) = match direction {
        Direction::Ingress => (&rule.from, "from"),
        Direction::Egress => (&rule.to, "to"),
    };
    let mut faults = Vec::new();
    if peers.is_empty() {
        faults.push(Fault::new(codes::BAD_PEER, "there is no peer", list, "name at least one"));
    }
    let (mut found, mut protocols) = (Vec::new(), Vec::new());
    for (index, peer) in peers.iter().enumerate() {
        match read_peer(peer, direction) {
            Ok(peer) => found.push(peer),
            Err(fault) => faults.push(fault.below(&format!("{list}[{index}]"))),
        }
    }
    for (index, protocol) in rule.protocols.iter().enumerate() {
        match read_protocol(protocol) {
            Ok(ProtocolFound::Named(_)) if found.iter().any(|peer| !matches!(peer, PeerFound::Pods(..))) => {
                let what = "a named port stands beside a peer that is no pod";
                let field = format!("protocols[{index}].destinationNamedPort");
                faults.push(Fault::new(codes::BAD_POLICY_PORT, what, field, "make them two rules: nodes and networks name no ports"));
            }
            Ok(protocol) => protocols.push(protocol),
            Err(fault) => faults.push(fault.below(&format!("protocols[{index}]"))),
        }
    }
    let whole = whole && faults.is_empty();
    let action = match &*rule.action {
        "Accept" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        other => {
            let what = format!("action `{}` is unknown", other.escape_debug());
            faults.push(Fault::new(codes::BAD_TIER_FIELD, what, "action", "use Accept, Deny or Pass"));
            None
        }
    };
    let found = match (action, whole) {
        (action, true) => RuleFound::Takes(action.unwrap_or(Action::Deny), found, protocols),
        (Some(Action::Accept), false) => RuleFound::Nothing,
        (Some(Action::Deny | Action::Pass) | None, false) => RuleFound::DeniesAll,
    };
    (found, faults)
}

fn read_peer(peer: &ClusterPolicyPeer, direction: Direction) -> Result<PeerFound, Fault> {
    let ClusterPolicyPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let set = [namespaces.is_some(), pods.is_some(), nodes.is_some(), networks.is_some(), domain_names.is_some()];
    let known = match direction {
        Direction::Ingress => "give it namespaces or pods",
        Direction::Egress => "give it namespaces, pods, nodes or networks",
    };
    match set.iter().filter(|set| **set).count() {
        0 => return Err(Fault::new(codes::BAD_PEER, "a peer has no field that is known", "", known)),
        1 => {}
        _ => return Err(Fault::new(codes::BAD_PEER, "a peer has several fields", "", "make them several peers")),
    }
    if let Some(namespaces) = namespaces {
        return selector(namespaces, "namespaces").map(|namespaces| PeerFound::Pods(namespaces, Selector::default()));
    }
    if let Some(pods) = pods {
        return namespaced(pods, "pods").map(|(namespaces, pods)| PeerFound::Pods(namespaces, pods));
    }
    if direction == Direction::Ingress {
        return Err(Fault::new(codes::BAD_PEER, "an ingress peer is neither namespaces nor pods", "", known));
    }
    if let Some(nodes) = nodes {
        return selector(nodes, "nodes").map(PeerFound::Nodes);
    }
    let Some(networks) = networks else {
        return Err(Fault::new(codes::UNSUPPORTED_PEER, "domainNames are not supported", "domainNames", "name the networks instead"));
    };
    let mut nets = Vec::new();
    for (index, text) in networks.iter().enumerate() {
        let what = || format!("`{}` is not a network", text.escape_debug());
        let fix = "write it as 192.0.2.0/24 or 2001:db8::/32";
        nets.push(network(text).ok_or_else(|| Fault::new(codes::BAD_BLOCK, what(), format!("networks[{index}]"), fix))?);
    }
    if nets.is_empty() {
        return Err(Fault::new(codes::BAD_PEER, "a peer names no network", "networks", "name at least one"));
    }
    Ok(PeerFound::Networks(nets))
}

fn read_protocol(protocol: &ClusterPolicyProtocol) -> Result<ProtocolFound, Fault> {
    let ClusterPolicyProtocol { tcp, udp, sctp, destination_named_port } = protocol;
    let name = destination_named_port.as_ref().filter(|name| !name.is_empty());
    match (tcp, udp, sctp, name) {
        (Some(ports), None, None, None) => read_ports(Protocol::Tcp, ports).map_err(|fault| fault.below("tcp")),
        (None, Some(ports), None, None) => read_ports(Protocol::Udp, ports).map_err(|fault| fault.below("udp")),
        (None, None, Some(ports), None) => read_ports(Protocol::Sctp, ports).map_err(|fault| fault.below("sctp")),
        (None, None, None, Some(name)) => Ok(ProtocolFound::Named(Arc::clone(name))),
        (None, None, None, None) => {
            let fix = "give it tcp, udp, sctp or destinationNamedPort";
            Err(Fault::new(codes::BAD_POLICY_PORT, "an entry of protocols has no field that is known", "", fix))
        }
        _ => Err(Fault::new(codes::BAD_POLICY_PORT, "an entry of protocols has several fields", "", "make them several entries")),
    }
}

fn read_ports(protocol: Protocol, ports: &ProtocolPorts) -> Result<ProtocolFound, Fault> {
    let bad = |what: &str, fix| Err(Fault::new(codes::BAD_POLICY_PORT, what, "destinationPort", fix));
    let number = |value: i64| u16::try_from(value).ok().filter(|number| *number != 0);
    let Some(port) = &ports.destination_port else {
        return bad("a protocol without destinationPort", "give it a destinationPort: for all of them, range {start: 1, end: 65535}");
    };
    let (from, to) = match (port.number, &port.range) {
        (Some(value), None) => (number(value), number(value)),
        (None, Some(range)) if range.start < range.end => (number(range.start), number(range.end)),
        (None, Some(_)) => return bad("the range does not end after its start", "use numbers from 1 to 65535, the greater as end"),
        (None, None) | (Some(_), Some(_)) => return bad("not exactly one of number and range is given", "give one of them"),
    };
    match (from, to) {
        (Some(from), Some(to)) => Ok(ProtocolFound::Match(PortMatch::Range { protocol, from, to })),
        _ => bad("a port is out of range", "use 1 to 65535"),
    }
}

//! Why a pod's NetworkPolicies let a packet through or not: each rule asked in turn, and what it wants put into words.
//!
//! Invariant: selectors, blocks and ports are read by the readers that the rules themselves are made with, so a story cannot understand a
//! policy otherwise than what is in force; that it comes to the same verdict as the oracle is a property test's to see.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::policy::{Direction, PortMatch};
use bowline_model::{Family, PodName, PolicyName, Protocol};

use super::member::Member;
use super::rules::{self, PortFound};
use super::selector::Selector;
use super::unasked;
use crate::explain::{Cause, Outcome, PolicyTold, Sent};
use crate::world::{LabelSelector, NetworkPolicy, Peer, PolicyPort, World};

/// The first packet of a connection, with the addresses that it has at the pods' interfaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    /// Source address.
    pub(crate) src: IpAddr,
    /// Destination address.
    pub(crate) dst: IpAddr,
    /// What is sent.
    pub(crate) sent: Sent,
    /// Destination port; none of ICMP.
    pub(crate) port: Option<u16>,
}

impl Packet {
    /// Its port, if it is of that protocol.
    pub(super) fn port_of(&self, protocol: Protocol) -> Option<u16> {
        self.port.filter(|_| self.sent == Sent::from(protocol))
    }

    /// What is asked for: `80/tcp`, `icmp`.
    pub(super) fn asked(&self) -> String {
        let word = self.sent.word(Family::of(&self.dst));
        self.port.map_or_else(|| word.to_owned(), |port| format!("{port}/{word}"))
    }
}

/// The pod whose policies are asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// Its name.
    pub(crate) name: &'a PodName,
    /// Its labels.
    pub(crate) labels: &'a crate::world::Labels,
}

/// What one direction comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Side {
    /// Pass or drop.
    pub(crate) outcome: Outcome,
    /// Why, in one line.
    pub(crate) text: String,
    /// What each rule wants, and what there is instead.
    pub(crate) details: Vec<String>,
    /// What each policy that selects the pod said, or why it was not asked.
    pub(crate) policies: Vec<PolicyTold>,
    /// What would open it: alternatives.
    pub(crate) pass_if: Vec<String>,
    /// What kind of thing stops it, if anything does.
    pub(crate) cause: Option<Cause>,
}

impl Side {
    /// A direction that nothing stops.
    pub(crate) fn open(text: impl Into<String>) -> Side {
        Side { outcome: Outcome::Pass, text: text.into(), details: Vec::new(), policies: Vec::new(), pass_if: Vec::new(), cause: None }
    }

    /// A direction that something stops.
    pub(crate) fn stopped(cause: Cause, text: impl Into<String>) -> Side {
        Side { outcome: Outcome::Drop, cause: Some(cause), ..Side::open(text) }
    }

    /// The same where no policy of the pod is asked for that, with those that there are.
    pub(crate) fn unasked(self, world: &World, subject: Subject<'_>, direction: Direction) -> Side {
        let policies = unasked::all(world, subject, direction, &format!("not asked, as {}", self.text));
        Side { details: unasked::lines(&policies, ""), policies, ..self }
    }
}

/// Asks the NetworkPolicies that select a pod in a direction; none if there are none.
pub(super) fn ask_policies(world: &World, subject: Subject<'_>, direction: Direction, packet: &Packet) -> Option<Side> {
    let selecting = unasked::selecting(world, subject, direction).filter(|(_, _, speaks)| *speaks);
    let asked: Vec<Asked> = selecting.map(|(name, policy, _)| ask_one(world, name, policy, direction, packet)).collect();
    if asked.is_empty() {
        return None;
    }
    let allowing = asked.iter().find_map(|asked| Some((asked.told.name.clone(), asked.told.rule.clone()?, asked.told.why.clone())));
    let mut policies: Vec<PolicyTold> = asked.iter().map(|asked| asked.told.clone()).collect();
    if let Some((name, rule, why)) = allowing {
        for other in policies.iter_mut().filter(|told| told.name != name) {
            other.passed_over = Some(if other.allows { "takes it as well" } else { unasked::NO_RULE }.to_owned());
        }
        let text = format!("NetworkPolicy {name}, {rule}: {}", why.join("; "));
        return Some(Side { policies, ..Side::open(text) });
    }
    let names: Vec<&str> = policies.iter().map(|told| told.name.as_str()).collect();
    let text = format!("NetworkPolicy {}", names.join(", "));
    let several = asked.len() > 1;
    let named = |told: &PolicyTold| {
        let name = if several { format!("{}: ", told.name) } else { String::new() };
        told.why.iter().map(move |line| format!("{name}{line}")).collect::<Vec<_>>()
    };
    let details = policies.iter().flat_map(named).collect();
    let mut pass_if: Vec<String> = asked.iter().flat_map(|asked| asked.ways.iter().cloned()).collect();
    pass_if.dedup();
    pass_if.truncate(WAYS_MAX);
    pass_if.push(broader(world, &names, direction, packet));
    Some(Side { details, policies, pass_if, ..Side::stopped(Cause::policies(direction), text) })
}

/// More ways than these are no help.
const WAYS_MAX: usize = 4;

/// What a policy would have to say.
fn broader(world: &World, names: &[&str], direction: Direction, packet: &Packet) -> String {
    let of = match names {
        [one] => format!("NetworkPolicy {one}"),
        _ => "one of these policies".to_owned(),
    };
    format!("{of} had an {} rule that took {}", direction.word(), packet_words(world, direction, packet))
}

/// What a rule would have to take.
pub(super) fn packet_words(world: &World, direction: Direction, packet: &Packet) -> String {
    let labels = labels_of(world, &peer_of(direction, packet));
    match packet.port {
        Some(_) => format!("{labels} on {}", packet.asked()),
        None => format!("{labels} on any port, and so {}", packet.asked()),
    }
}

/// A peer by what a rule could name it by.
fn labels_of(world: &World, peer: &IpAddr) -> String {
    let pod = world.holder(peer).and_then(|name| Some((name, world.pods().get(name)?)));
    let Some((name, pod)) = pod else { return peer.to_string() };
    // What controllers number their pods by means nothing to a policy.
    let numbers = |key: &str| key.ends_with("-hash") || key.contains("kubernetes.io/");
    let labels: Vec<String> = pod
        .metadata
        .labels
        .iter()
        .filter(|(key, _)| !numbers(key))
        .take(2)
        .map(|(key, value)| format!("{}={}", key.escape_debug(), value.escape_debug()))
        .collect();
    if labels.is_empty() { name.to_string() } else { format!("{} ({name})", labels.join(", ")) }
}

pub(super) fn peer_of(direction: Direction, packet: &Packet) -> IpAddr {
    match direction {
        Direction::Ingress => packet.src,
        Direction::Egress => packet.dst,
    }
}

pub(super) fn lower(protocol: Protocol) -> String {
    protocol.to_string().to_lowercase()
}

/// What a policy said, and what it would have taken instead.
struct Asked {
    told: PolicyTold,
    ways: Vec<String>,
}

/// A rule of either direction.
struct Rule<'a> {
    peers: &'a [Peer],
    ports: &'a [PolicyPort],
}

fn rules_of(policy: &NetworkPolicy, direction: Direction) -> Vec<Rule<'_>> {
    match direction {
        Direction::Ingress => {
            policy.spec.ingress.iter().flatten().map(|rule| Rule::of(rule.from.as_deref(), rule.ports.as_deref())).collect()
        }
        Direction::Egress => policy.spec.egress.iter().flatten().map(|rule| Rule::of(rule.to.as_deref(), rule.ports.as_deref())).collect(),
    }
}

impl<'a> Rule<'a> {
    fn of(peers: Option<&'a [Peer]>, ports: Option<&'a [PolicyPort]>) -> Self {
        Rule { peers: peers.unwrap_or_default(), ports: ports.unwrap_or_default() }
    }
}

/// What a policy says of the packet, which selects the pod in this direction.
fn ask_one(world: &World, name: &PolicyName, policy: &NetworkPolicy, direction: Direction, packet: &Packet) -> Asked {
    let told = |why| PolicyTold { name: name.to_string(), tier: None, action: None, allows: false, rule: None, why, passed_over: None };
    let whole = Selector::parse(&policy.spec.pod_selector, "", &mut Vec::new()).whole;
    if !whole || policy.unreadable.is_some() {
        let why = vec!["cannot be understood, so it lets nothing through".to_owned()];
        return Asked { told: told(why), ways: vec![format!("NetworkPolicy {name} were corrected")] };
    }
    let rules = rules_of(policy, direction);
    if rules.is_empty() {
        let why = vec![format!("has no {} rule, so it lets nothing through", direction.word())];
        return Asked { told: told(why), ways: Vec::new() };
    }
    let reader = Reader { world, policy: name, direction, packet };
    let (mut why, mut ways) = (Vec::new(), Vec::new());
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{}[{index}]", direction.word());
        match reader.rule(&field, rule) {
            Ok(taken) => {
                return Asked { told: PolicyTold { allows: true, rule: Some(field), ..told(taken) }, ways: Vec::new() };
            }
            Err(refusal) => {
                why.extend(refusal.why);
                ways.extend(refusal.ways);
            }
        }
    }
    Asked { told: told(why), ways }
}

/// Why something does not match, and what would make it.
#[derive(Default)]
struct Refusal {
    why: Vec<String>,
    ways: Vec<String>,
}

struct Reader<'a> {
    world: &'a World,
    policy: &'a PolicyName,
    direction: Direction,
    packet: &'a Packet,
}

impl Reader<'_> {
    /// What of the rule takes the packet.
    fn rule(&self, field: &str, rule: &Rule<'_>) -> Result<Vec<String>, Refusal> {
        let peers = self.peers(field, rule.peers);
        let ports = self.ports(field, rule.ports);
        match (peers, ports) {
            (Ok(peer), Ok(port)) => Ok(vec![peer, port]),
            (Err(one), Ok(_)) | (Ok(_), Err(one)) => Err(one),
            (Err(peers), Err(ports)) => {
                let both = |peer: &String| ports.ways.iter().map(move |port| format!("{peer} and {port}")).collect::<Vec<_>>();
                let ways = peers.ways.iter().flat_map(both).collect();
                Err(Refusal { why: [peers.why, ports.why].concat(), ways })
            }
        }
    }

    /// The list of peers, as the policy calls it, and its entry if there are several.
    fn place(&self, field: &str, index: usize, of: usize) -> String {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        if of == 1 { format!("{field}.{list}") } else { format!("{field}.{list}[{index}]") }
    }

    fn peers(&self, field: &str, peers: &[Peer]) -> Result<String, Refusal> {
        if peers.is_empty() {
            return Ok("any peer".to_owned());
        }
        let mut refusal = Refusal::default();
        for (index, peer) in peers.iter().enumerate() {
            match self.peer(peer) {
                Ok(taken) => return Ok(taken),
                Err(NoPeer { why, way }) => {
                    refusal.why.push(format!("{} {why}", self.place(field, index, peers.len())));
                    refusal.ways.extend(way);
                }
            }
        }
        Err(refusal)
    }

    fn peer(&self, peer: &Peer) -> Result<String, NoPeer> {
        let address = peer_of(self.direction, self.packet);
        match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
            (Some(block), None, None) => {
                let Some(read) = rules::read_block(self.policy, block) else {
                    return Err(NoPeer::because("has an ipBlock that cannot be understood"));
                };
                let hole = read.except.iter().find(|hole| hole.contains(&address));
                match (read.cidr.contains(&address), hole) {
                    (true, None) => Ok(format!("{address} is in {}", read.cidr)),
                    (true, Some(hole)) => Err(NoPeer::because(format!("leaves out {hole} of {}, which {address} is in", read.cidr))),
                    (false, _) => Err(NoPeer::because(format!("wants an address in {}; it is {address}", read.cidr))),
                }
            }
            (Some(_), _, _) => Err(NoPeer::because("has an ipBlock beside selectors, which matches nothing")),
            (None, None, None) => Err(NoPeer::because("is empty, which matches nothing")),
            (None, pods, namespaces) => self.pod_peer(&address, pods.as_ref(), namespaces.as_ref()),
        }
    }

    fn pod_peer(&self, address: &IpAddr, pods: Option<&LabelSelector>, namespaces: Option<&LabelSelector>) -> Result<String, NoPeer> {
        let pod_selector = pods.map(read).unwrap_or(Some(Selector::default()));
        let space_selector = namespaces.map(read);
        let (Some(pod_selector), Some(space_selector)) = (pod_selector, space_selector.map_or(Some(None), |read| read.map(Some))) else {
            return Err(NoPeer::because("has a selector that cannot be understood"));
        };
        let with = |selector: &Selector| if selector.is_everything() { String::new() } else { format!(" with {}", selector.words()) };
        let wants = match (&space_selector, pods) {
            (None, _) => format!("pods of {}{}", self.policy.namespace, with(&pod_selector)),
            (Some(spaces), None) => format!("pods of {}", spaces_words(spaces)),
            (Some(spaces), Some(_)) => format!("pods{} of {}", with(&pod_selector), spaces_words(spaces)),
        };
        let Some(name) = self.world.holder(address) else {
            return Err(NoPeer::because(format!("wants {wants}; {address} is no pod")));
        };
        let Some(member) = Member::of(self.world, name) else {
            return Err(NoPeer::because(format!("wants {wants}; {name} holds no address")));
        };
        let mut has = Vec::new();
        let mut change = Vec::new();
        match &space_selector {
            None if name.namespace != self.policy.namespace => {
                has.push(format!("{name} is in {}", name.namespace));
                change.push(format!("{name} were in {}", self.policy.namespace));
            }
            None => {}
            Some(_) if member.namespace_labels.is_none() => has.push(format!("Namespace {} is not known", name.namespace)),
            Some(spaces) => {
                for unmet in member.namespace_labels.iter().flat_map(|labels| spaces.unmet(labels)) {
                    has.push(format!("Namespace {} has {}", name.namespace, unmet.has));
                    change.push(format!("Namespace {} {}", name.namespace, unmet.change));
                }
            }
        }
        let unmet = pod_selector.unmet(&member.labels);
        has.extend(unmet.iter().map(|unmet| format!("{name} has {}", unmet.has)));
        change.extend(unmet.iter().map(|unmet| format!("{name} {}", unmet.change)));
        if has.is_empty() {
            return Ok(format!("{name} is among {wants}"));
        }
        Err(NoPeer { why: format!("wants {wants}; {}", has.join(", ")), way: (!change.is_empty()).then(|| change.join(" and ")) })
    }

    fn ports(&self, field: &str, ports: &[PolicyPort]) -> Result<String, Refusal> {
        let asked = self.packet.asked();
        if ports.is_empty() {
            return Ok("any port".to_owned());
        }
        let mut wants = Vec::new();
        for port in ports {
            let Ok(found) = rules::port_match(port) else {
                wants.push("(a port that cannot be understood)".to_owned());
                continue;
            };
            if self.takes(&found) {
                let wanted = words_of(&found);
                return Ok(if wanted == asked { asked } else { format!("{asked} is {wanted}") });
            }
            wants.push(words_of(&found));
        }
        let (mut why, mut way) = (
            format!("{field}.ports wants {}; it is {asked}", wants.join(", ")),
            format!("the port were {}", wants.first().map_or("another", String::as_str)),
        );
        if self.packet.port.is_none() {
            why.push_str(", which has no port");
            way = format!("NetworkPolicy {}, {field} named no ports", self.policy);
        }
        let why = vec![why];
        Err(Refusal { why, ways: vec![way] })
    }

    fn takes(&self, port: &PortFound) -> bool {
        let packet = self.packet;
        match port {
            PortFound::Match(PortMatch::All(protocol)) => packet.sent == Sent::from(*protocol),
            PortFound::Match(PortMatch::Range { protocol, from, to }) => {
                packet.port_of(*protocol).is_some_and(|port| (*from..=*to).contains(&port))
            }
            PortFound::Match(PortMatch::Named(_)) => false,
            PortFound::Named(name, protocol) => {
                let member = self.world.holder(&packet.dst).and_then(|holder| Member::of(self.world, holder));
                let asked = packet.port_of(*protocol);
                asked.zip(member).is_some_and(|(port, member)| member.ports.contains(&(Arc::clone(name), *protocol, port)))
            }
        }
    }
}

/// Why a peer does not match, and what would make it.
struct NoPeer {
    why: String,
    way: Option<String>,
}

impl NoPeer {
    fn because(why: impl Into<String>) -> NoPeer {
        NoPeer { why: why.into(), way: None }
    }
}

fn read(selector: &LabelSelector) -> Option<Selector> {
    let parsed = Selector::parse(selector, "", &mut Vec::new());
    parsed.whole.then_some(parsed.selector)
}

pub(super) fn spaces_words(selector: &Selector) -> String {
    if selector.is_everything() { "any namespace".to_owned() } else { format!("namespaces with {}", selector.words()) }
}

fn words_of(port: &PortFound) -> String {
    match port {
        PortFound::Match(PortMatch::All(protocol)) => format!("any {} port", lower(*protocol)),
        PortFound::Match(PortMatch::Range { protocol, from, to }) if from == to => format!("{from}/{}", lower(*protocol)),
        PortFound::Match(PortMatch::Range { protocol, from, to }) => format!("{from}-{to}/{}", lower(*protocol)),
        PortFound::Match(PortMatch::Named(_)) => "a named port".to_owned(),
        PortFound::Named(name, protocol) => format!("port `{name}`/{}", lower(*protocol)),
    }
}

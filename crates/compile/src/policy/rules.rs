//! One NetworkPolicy read into rules over sets.
//!
//! Invariant: what cannot be understood closes. A bad port, peer or block matches nothing; a bad pod selector or policy type
//! leaves the pods that may be meant closed in both directions.
//! Reference: the API's own text of networking.k8s.io/v1.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::policy::{Block, Direction, Peers, PolicyRule, PolicyRules, PortMatch, SetId};
use bowline_model::{PolicyName, Problem, Protocol};
use ipnet::IpNet;

use super::selector::Selector;
use super::sets::{Scope, SetKey};
use crate::codes;
use crate::world::{EgressRule, IngressRule, IntOrString, IpBlock, LabelSelector, NetworkPolicy, Peer, PolicyPort};

/// A policy, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compiled {
    /// The pods of its namespace that it is about.
    pub(crate) selector: Selector,
    /// What it says about traffic to them, if anything.
    pub(crate) ingress: Option<Side>,
    /// What it says about traffic from them, if anything.
    pub(crate) egress: Option<Side>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

/// One direction of a policy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Side<R = PolicyRules> {
    /// Its rules.
    pub(crate) rules: Arc<R>,
    /// The sets that they name.
    pub(crate) sets: Arc<BTreeSet<SetKey>>,
}

impl Compiled {
    /// The side of a direction.
    pub(crate) fn side(&self, direction: Direction) -> Option<&Side> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// Reads a policy.
pub(crate) fn compile(name: &PolicyName, policy: &NetworkPolicy) -> Compiled {
    let mut reader = Reader { name, sets: BTreeSet::new(), problems: Vec::new() };
    let spec = &policy.spec;
    let place = reader.place("spec.podSelector");
    let parsed = Selector::parse(&spec.pod_selector, &place, &mut reader.problems);
    if let Some(why) = &policy.unreadable {
        let what = "NetworkPolicy cannot be read: the pods that it selects are closed";
        let problem = Problem::new(codes::POLICY_UNREADABLE, what, format!("NetworkPolicy {name}"), "correct its fields");
        reader.problems.push(problem.because(&**why));
    }
    let mut directions = reader.directions(policy);
    if !parsed.whole || policy.unreadable.is_some() {
        let closed = || Some(Side { rules: Arc::new(PolicyRules { rules: Vec::new() }), sets: Arc::default() });
        return Compiled { selector: parsed.selector, ingress: closed(), egress: closed(), problems: reader.problems };
    }
    let ingress = directions.remove(&Direction::Ingress).then(|| {
        let rules = spec.ingress.iter().flatten().enumerate();
        let rules = rules.filter_map(|(index, rule)| reader.ingress(index, rule)).collect();
        reader.side(rules)
    });
    let egress = directions.remove(&Direction::Egress).then(|| {
        let rules = spec.egress.iter().flatten().enumerate();
        let rules = rules.filter_map(|(index, rule)| reader.egress(index, rule)).collect();
        reader.side(rules)
    });
    Compiled { selector: parsed.selector, ingress, egress, problems: reader.problems }
}

struct Reader<'a> {
    name: &'a PolicyName,
    sets: BTreeSet<SetKey>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn place(&self, field: &str) -> String {
        format!("NetworkPolicy {}, {field}", self.name)
    }

    fn problem(&mut self, code: u16, what: impl Into<String>, field: &str, fix: &str) {
        let place = self.place(field);
        self.problems.push(Problem::new(code, what, place, fix));
    }

    fn directions(&mut self, policy: &NetworkPolicy) -> BTreeSet<Direction> {
        let spec = &policy.spec;
        let mut directions = BTreeSet::new();
        for (index, text) in spec.policy_types.iter().enumerate() {
            match &**text {
                "Ingress" => directions.extend([Direction::Ingress]),
                "Egress" => directions.extend([Direction::Egress]),
                other => {
                    directions.extend([Direction::Ingress, Direction::Egress]);
                    let what = format!("policy type `{}` is unknown", other.escape_debug());
                    let field = format!("spec.policyTypes[{index}]");
                    self.problem(codes::BAD_POLICY_TYPE, what, &field, "use Ingress or Egress");
                }
            }
        }
        if spec.policy_types.is_empty() {
            directions.insert(Direction::Ingress);
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                directions.insert(Direction::Egress);
            }
        }
        directions
    }

    fn side(&mut self, mut rules: Vec<PolicyRule>) -> Side {
        rules.sort();
        rules.dedup();
        Side { rules: Arc::new(PolicyRules { rules }), sets: Arc::new(std::mem::take(&mut self.sets)) }
    }

    fn ingress(&mut self, index: usize, rule: &IngressRule) -> Option<PolicyRule> {
        let field = format!("spec.ingress[{index}]");
        let peers = self.peers(&format!("{field}.from"), rule.from.as_deref());
        // The destination is always a pod of the policy's own namespace.
        let scope = Scope::Namespace(self.name.namespace.clone());
        let ports = self.ports(&field, rule.ports.as_deref(), &scope);
        whole_rule(peers, ports)
    }

    fn egress(&mut self, index: usize, rule: &EgressRule) -> Option<PolicyRule> {
        let field = format!("spec.egress[{index}]");
        let peers = self.peers(&format!("{field}.to"), rule.to.as_deref());
        let own = |peer: &Peer| peer.pod_selector.is_some() && peer.namespace_selector.is_none();
        let scope = match rule.to.as_deref() {
            Some(peers) if !peers.is_empty() && peers.iter().all(own) => Scope::Namespace(self.name.namespace.clone()),
            _ => Scope::Everywhere,
        };
        let ports = self.ports(&field, rule.ports.as_deref(), &scope);
        whole_rule(peers, ports)
    }

    fn peers(&mut self, field: &str, peers: Option<&[Peer]>) -> Peers {
        let peers = peers.unwrap_or_default();
        if peers.is_empty() {
            return Peers::Any;
        }
        let (mut sets, mut blocks) = (BTreeSet::new(), BTreeSet::new());
        for (index, peer) in peers.iter().enumerate() {
            let field = format!("{field}[{index}]");
            match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
                (Some(block), None, None) => blocks.extend(self.block(&format!("{field}.ipBlock"), block)),
                (None, None, None) => {
                    let fix = "give it a podSelector, a namespaceSelector or an ipBlock; leave the list out to mean everyone";
                    self.problem(codes::BAD_PEER, "a peer is empty and matches nothing", &field, fix);
                }
                (Some(_), _, _) => {
                    let what = "a peer has an ipBlock beside selectors and matches nothing";
                    self.problem(codes::BAD_PEER, what, &field, "make them two peers");
                }
                (None, _, _) => sets.extend(self.pod_set(&field, peer)),
            }
        }
        let ids: BTreeSet<SetId> = sets.iter().map(SetKey::id).collect();
        self.sets.extend(sets);
        Peers::OneOf { sets: ids.into_iter().collect(), blocks: blocks.into_iter().collect() }
    }

    fn pod_set(&mut self, field: &str, peer: &Peer) -> Option<SetKey> {
        let scope = match &peer.namespace_selector {
            Some(selector) => self.selector(&format!("{field}.namespaceSelector"), selector).map(Scope::Namespaces),
            None => Some(Scope::Namespace(self.name.namespace.clone())),
        };
        let pods = match &peer.pod_selector {
            Some(selector) => self.selector(&format!("{field}.podSelector"), selector),
            None => Some(Selector::default()),
        };
        Some(SetKey::Pods(scope?, pods?))
    }

    fn selector(&mut self, field: &str, selector: &LabelSelector) -> Option<Selector> {
        let place = self.place(field);
        let parsed = Selector::parse(selector, &place, &mut self.problems);
        parsed.whole.then_some(parsed.selector)
    }

    fn block(&mut self, field: &str, block: &IpBlock) -> Option<Block> {
        let cidr = self.cidr(&format!("{field}.cidr"), &block.cidr)?;
        let mut except = BTreeSet::new();
        for (index, text) in block.except.iter().enumerate() {
            let field = format!("{field}.except[{index}]");
            let hole = self.cidr(&field, text)?;
            if !cidr.contains(&hole) {
                let what = format!("{hole} is not within {cidr}, so the block matches nothing");
                self.problem(codes::BAD_BLOCK, what, &field, "an exception must lie within the block's cidr");
                return None;
            }
            except.insert(hole);
        }
        Some(Block { cidr, except: except.into_iter().collect() })
    }

    fn cidr(&mut self, field: &str, text: &str) -> Option<IpNet> {
        let good = network(text);
        if good.is_none() {
            let what = format!("`{}` is not a network, so the block matches nothing", text.escape_debug());
            self.problem(codes::BAD_BLOCK, what, field, "write it as 192.0.2.0/24 or 2001:db8::/32");
        }
        good
    }

    fn ports(&mut self, field: &str, ports: Option<&[PolicyPort]>, scope: &Scope) -> Option<Vec<PortMatch>> {
        let ports = ports.unwrap_or_default();
        if ports.is_empty() {
            return None;
        }
        let mut matches = BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            match port_match(port) {
                Ok(PortFound::Match(found)) => {
                    matches.insert(found);
                }
                Ok(PortFound::Named(name, protocol)) => {
                    let key = SetKey::Ports(scope.clone(), name, Some(protocol));
                    matches.insert(PortMatch::Named(key.id()));
                    self.sets.insert(key);
                }
                Err(BadPort { what, field: of, fix }) => {
                    let field = format!("{field}.ports[{index}].{of}");
                    self.problem(codes::BAD_POLICY_PORT, what, &field, fix);
                }
            }
        }
        Some(matches.into_iter().collect())
    }
}

/// A network; none if the text is not one, or is one of IPv6 that stands for IPv4 addresses.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok()?.trunc();
    let mapped = matches!(net, IpNet::V6(v6) if v6.network().to_ipv4_mapped().is_some());
    (!mapped).then_some(net)
}

/// A block as it is understood; none if it matches nothing.
pub(super) fn read_block(name: &PolicyName, block: &IpBlock) -> Option<Block> {
    Reader { name, sets: BTreeSet::new(), problems: Vec::new() }.block("", block)
}

/// What a port of a policy means.
pub(super) enum PortFound {
    /// These numbers.
    Match(PortMatch),
    /// The destination's port of that name.
    Named(Arc<str>, Protocol),
}

/// Why a port of a policy matches nothing.
pub(super) struct BadPort {
    what: String,
    field: &'static str,
    fix: &'static str,
}

/// Reads a port of a policy.
pub(super) fn port_match(port: &PolicyPort) -> Result<PortFound, BadPort> {
    let bad = |what: String, field, fix| Err(BadPort { what, field, fix });
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => return bad(format!("protocol `{}` is unknown", other.escape_debug()), "protocol", "use TCP, UDP or SCTP"),
    };
    let number = |value: i64| u16::try_from(value).ok().filter(|number| *number != 0);
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortFound::Match(PortMatch::All(protocol))),
        (None, Some(_)) => bad("endPort without port".to_owned(), "endPort", "give the first port of the range as port"),
        (Some(IntOrString::Name(_)), Some(_)) => bad("endPort with a named port".to_owned(), "endPort", "a range needs a number as port"),
        (Some(IntOrString::Name(name)), None) => {
            let letters = name.bytes().any(|b| b.is_ascii_lowercase());
            let known = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if letters && known && name.len() <= 15 {
                return Ok(PortFound::Named(name.clone(), protocol));
            }
            let what = format!("`{}` is not a port name", name.escape_debug());
            bad(what, "port", "a name has at most 15 of a-z, 0-9 and -, and a letter; a number goes without quotes")
        }
        (Some(IntOrString::Int(value)), end) => {
            let Some(from) = number(*value) else {
                return bad(format!("port {value} is out of range"), "port", "use 1 to 65535");
            };
            let Some(to) = end.map_or(Some(from), number).filter(|to| *to >= from) else {
                let what = format!("endPort {} is out of range or before port {from}", end.unwrap_or_default());
                return bad(what, "endPort", "use a number from port to 65535");
            };
            Ok(PortFound::Match(PortMatch::Range { protocol, from, to }))
        }
    }
}

/// A rule, unless nothing is left of it that could match.
fn whole_rule(peers: Peers, ports: Option<Vec<PortMatch>>) -> Option<PolicyRule> {
    let nobody = matches!(&peers, Peers::OneOf { sets, blocks } if sets.is_empty() && blocks.is_empty());
    let nothing = ports.as_ref().is_some_and(Vec::is_empty);
    (!nobody && !nothing).then_some(PolicyRule { peers, ports })
}

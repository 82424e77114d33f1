//! What an explanation says, in a form that programs can read as well.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use bowline_model::intent::policy::{Direction, Tier};
use serde::{Deserialize, Serialize};

use super::question::Sent;

/// What becomes of the first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It arrives.
    Pass,
    /// It is refused: the sender is told so at once.
    Reject,
    /// It is gone, and nobody is told.
    Drop,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Pass => "pass",
            Outcome::Reject => "reject",
            Outcome::Drop => "drop",
        })
    }
}

/// What kind of thing stops a packet at a node: verdicts that are the same for other reasons are not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The policies of the pod that sends are not in force yet.
    EgressClosed,
    /// Those of the pod that it is for are not.
    IngressClosed,
    /// A rule of the Admin tier, for what the pod sends.
    EgressAdmin,
    /// A rule of the Admin tier, for what comes to the pod.
    IngressAdmin,
    /// NetworkPolicies of the pod that sends: no rule of them takes it.
    EgressPolicies,
    /// NetworkPolicies of the pod that it is for.
    IngressPolicies,
    /// A rule of the Baseline tier, for what the pod sends.
    EgressBaseline,
    /// A rule of the Baseline tier, for what comes to the pod.
    IngressBaseline,
    /// Nothing serves it: a service without an endpoint, or an address of the services' network that is no service's.
    NoEndpoint,
    /// A service has endpoints, and none on this node, where its traffic policy wants one.
    NoLocalEndpoint,
    /// `loadBalancerSourceRanges` do not hold the client.
    SourceRanges,
    /// A tunnel packet that comes from no node.
    Tunnel,
    /// Something else, which is nothing that an explanation knows.
    Other,
}

impl Cause {
    /// That a pod is closed.
    pub fn closed(direction: Direction) -> Cause {
        match direction {
            Direction::Egress => Cause::EgressClosed,
            Direction::Ingress => Cause::IngressClosed,
        }
    }

    /// What NetworkPolicies do not let through.
    pub fn policies(direction: Direction) -> Cause {
        match direction {
            Direction::Egress => Cause::EgressPolicies,
            Direction::Ingress => Cause::IngressPolicies,
        }
    }

    /// What a rule of a tier denies.
    pub fn tier(tier: Tier, direction: Direction) -> Cause {
        match (tier, direction) {
            (Tier::Admin, Direction::Egress) => Cause::EgressAdmin,
            (Tier::Admin, Direction::Ingress) => Cause::IngressAdmin,
            (Tier::Baseline, Direction::Egress) => Cause::EgressBaseline,
            (Tier::Baseline, Direction::Ingress) => Cause::IngressBaseline,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::EgressClosed => "closed for egress",
            Cause::IngressClosed => "closed for ingress",
            Cause::EgressAdmin => "egress rule of the Admin tier",
            Cause::IngressAdmin => "ingress rule of the Admin tier",
            Cause::EgressPolicies => "egress policies",
            Cause::IngressPolicies => "ingress policies",
            Cause::EgressBaseline => "egress rule of the Baseline tier",
            Cause::IngressBaseline => "ingress rule of the Baseline tier",
            Cause::NoEndpoint => "no endpoint",
            Cause::NoLocalEndpoint => "no local endpoint",
            Cause::SourceRanges => "source ranges",
            Cause::Tunnel => "tunnel packet",
            Cause::Other => "something else",
        })
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Always `bowline.io/v1`.
    pub api_version: String,
    /// Always `Explanation`.
    pub kind: String,
    /// The worst of all paths.
    pub verdict: Outcome,
    /// What is sent: a transport protocol, or ICMP.
    pub protocol: Sent,
    /// One for each pair of a source and an endpoint that the connection may be between; never empty.
    pub paths: Vec<Path>,
    /// How many more there are that were not looked at.
    pub left_out: usize,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndTold {
    /// `namespace/name` of a pod or service, the name of a node, or the address.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Destination port; none of a source, nor of ICMP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The node that it is on, if it is in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The way from one source to one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// What becomes of the packet.
    pub verdict: Outcome,
    /// Who begins.
    pub source: EndTold,
    /// Who is meant in the end.
    pub destination: EndTold,
    /// What happens on the way, in order; nothing is left out after a drop, so that all that stands in the way is seen at once.
    pub steps: Vec<Step>,
    /// What would let it pass, all of which must come true: of each, one alternative suffices.
    pub pass_if: Vec<Vec<String>>,
    /// The packet at each node that it reaches.
    pub hops: Vec<Hop>,
    /// What others than the explanation itself say of each node on the way.
    pub seen: Vec<Seen>,
    /// The nodes on the way whose kernels were not asked, and what to do about it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub not_asked: Vec<NotAsked>,
}

/// A node whose kernel was not asked: what it does was explained from the cluster's objects alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotAsked {
    /// The node.
    pub node: String,
    /// The command that asks it, to be run there.
    pub command: String,
}

/// A station of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The node that it happens on.
    pub node: String,
    /// What looks at the packet: `source check`, `service`, `egress policy`, a backend and the node that it leads to, and so on.
    pub what: String,
    /// What it decides; none where it only translates.
    pub verdict: Option<Outcome>,
    /// Whether the packet comes here at all.
    pub reached: bool,
    /// Why, in one line.
    pub text: String,
    /// More lines: what each rule wants, and what the peer has.
    pub details: Vec<String>,
    /// All policies that select the pod, in the order in which they are asked; those that have no say come last.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub policies: Vec<PolicyTold>,
}

/// What one policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTold {
    /// `namespace/name` of a NetworkPolicy, `name` of a ClusterNetworkPolicy.
    pub name: String,
    /// Admin or Baseline; none of a NetworkPolicy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tier: Option<String>,
    /// What the rule of a ClusterNetworkPolicy does: Accept, Deny or Pass; none where none of its rules takes the packet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub action: Option<String>,
    /// Whether one of its rules lets the packet through.
    pub allows: bool,
    /// The first rule that does, or that decides, as a field of the policy (`ingress[0]`), with the name that a ClusterNetworkPolicy gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What that rule takes; or what each rule wants and what the packet has.
    pub why: Vec<String>,
    /// Why it is not this policy that decides: no rule takes the packet, another policy's did, or it was not asked at all. None of one that
    /// decides, alone or with others.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub passed_over: Option<String>,
}

/// How a packet comes to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// From a pod of the node.
    Pod,
    /// From a process in the node's own network namespace.
    OwnNode,
    /// From another node.
    Fabric(String),
    /// From outside of the cluster.
    Outside,
}

/// An address, and a port where what is sent has ports.
pub type At = (IpAddr, Option<u16>);

/// A packet at a node, for those who would judge it by other means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The node.
    pub node: String,
    /// How it comes in.
    pub entry: Entry,
    /// Source address.
    pub src: IpAddr,
    /// Destination as it comes in.
    pub dst: At,
    /// Destination as it goes on, and how many there were to choose from; the same as `dst` where nothing translates.
    pub onward: At,
    /// Number of endpoints that the service gives here; 0 where nothing translates.
    pub choices: usize,
    /// What the node does.
    pub outcome: Outcome,
    /// What stops it here, if anything does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
}

/// What a node's oracle and kernel say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// The node.
    pub node: String,
    /// What was explained.
    pub explained: Outcome,
    /// What kind of thing stops it, as it was explained.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub explained_by: Option<Cause>,
    /// The verdict of an evaluator that shares no code with the explanation.
    pub oracle: Outcome,
    /// What kind of thing stops it, as the oracle says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oracle_by: Option<Cause>,
    /// Whether the node's kernel was asked.
    pub asked: bool,
    /// The verdict of what is in the node's kernel; none where it was not asked, or cannot be told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kernel: Option<Outcome>,
    /// What kind of rule of the kernel's stops it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kernel_by: Option<Cause>,
    /// What of the kernel decided, or why its verdict is not known.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub by: String,
}

impl Seen {
    /// Whether all that were asked say the same, for the same kind of reason. Who was asked and cannot tell does not.
    pub fn agrees(&self) -> bool {
        let explained = (self.explained, self.explained_by);
        let kernel = self.kernel.map(|kernel| (kernel, self.kernel_by));
        (self.oracle, self.oracle_by) == explained && (!self.asked || kernel == Some(explained))
    }
}

impl Explanation {
    /// The explanation of these paths.
    pub(super) fn of(protocol: Sent, paths: Vec<Path>, left_out: usize) -> Explanation {
        let verdict = paths.iter().map(|path| path.verdict).max().unwrap_or(Outcome::Pass);
        Explanation { api_version: "bowline.io/v1".to_owned(), kind: "Explanation".to_owned(), verdict, protocol, paths, left_out }
    }

    /// This one and another of the same connection, in another family.
    pub(crate) fn with(mut self, other: Explanation) -> Explanation {
        self.paths.extend(other.paths);
        Explanation::of(self.protocol, self.paths, self.left_out + other.left_out)
    }

    /// Notes the nodes whose kernels nobody has asked, with the command that asks them where they are.
    pub fn note_not_asked(&mut self, command: &str) {
        for path in &mut self.paths {
            let nodes: BTreeSet<&String> = path.seen.iter().filter(|seen| !seen.asked).map(|seen| &seen.node).collect();
            path.not_asked = nodes.into_iter().map(|node| NotAsked { node: node.clone(), command: command.to_owned() }).collect();
        }
    }

    /// Whether nobody who was asked says otherwise.
    pub fn agrees(&self) -> bool {
        self.paths.iter().flat_map(|path| &path.seen).all(Seen::agrees)
    }
}

impl fmt::Display for EndTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.ip.to_string();
        if self.name != ip {
            write!(f, "{} ", self.name)?;
        }
        match (self.port, self.ip) {
            (None, ip) => write!(f, "{ip}"),
            (Some(port), IpAddr::V4(ip)) => write!(f, "{ip}:{port}"),
            (Some(port), IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}"),
        }
    }
}

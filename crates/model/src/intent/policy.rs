//! NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) as they apply to this node's pods.
//!
//! Selectors are resolved to sets of addresses. Peers of one rule are alternatives. Rules of one NetworkPolicy are alternatives and policies add
//! up; rules of ClusterNetworkPolicies are asked in order, and the first that takes a connection decides.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ClusterPolicyName, PolicyName, Protocol};

/// Names a set by its content's definition (selectors), not by its members: the same selector, the same id, on every node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetId(pub Arc<str>);

/// Addresses of the pods or nodes that a peer's selectors choose, both families together.
pub type AddressSet = OrdSet<IpAddr>;

/// Where a port name leads: pod address, protocol and number of each pod that declares it.
pub type NamedPortSet = OrdSet<(IpAddr, Protocol, u16)>;

/// A block of addresses with exceptions (`ipBlock`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block {
    /// The block.
    pub cidr: IpNet,
    /// What of it is not meant; each lies within `cidr`.
    pub except: Vec<IpNet>,
}

/// Who a rule lets in, or lets reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peers {
    /// Everyone (the list is missing or empty).
    Any,
    /// One of these: members of a set, or addresses in a block.
    OneOf {
        /// Sets of addresses.
        sets: Vec<SetId>,
        /// Address blocks; for the traffic's own family only.
        blocks: Vec<Block>,
    },
    /// Whoever may be any pod: an address of the pod networks that is in none of these sets.
    Unknown {
        /// Sets of all addresses of which it is known whose they are: pods', and those that no pod has.
        known: Vec<SetId>,
    },
}

/// One alternative of a rule's ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PortMatch {
    /// Every port of the protocol.
    All(Protocol),
    /// Ports `from..=to` of the protocol.
    Range {
        /// Protocol.
        protocol: Protocol,
        /// First port.
        from: u16,
        /// Last port, not before `from`.
        to: u16,
    },
    /// The destination pod's port of that name: destination address, protocol and port are in the named-port set.
    Named(SetId),
}

/// A rule: peers and ports must both match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRule {
    /// The other end: source for ingress, destination for egress.
    pub peers: Peers,
    /// Destination ports; none means every port and protocol, ICMP included.
    pub ports: Option<Vec<PortMatch>>,
}

/// One direction of one policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRules {
    /// What it lets through; an empty list lets nothing through.
    pub rules: Vec<PolicyRule>,
}

/// A direction of traffic, seen from the pod that a policy selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// Its word: `ingress` or `egress`.
    pub fn word(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

/// What a ClusterNetworkPolicy's rule does with what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Lets it through; nothing else is asked.
    Accept,
    /// Drops it; nothing else is asked.
    Deny,
    /// Leaves the rest of the tier out.
    Pass,
}

/// A rule of a ClusterNetworkPolicy: peers and ports must both match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TierRule {
    /// Its place in the policy, and its name where it has one, for people: ``ingress[1] `no-web` ``.
    pub label: Arc<str>,
    /// What it does.
    pub action: Action,
    /// The other end: source for ingress, destination for egress.
    pub peers: Peers,
    /// Destination ports; none means every port and protocol, ICMP included.
    pub ports: Option<Vec<PortMatch>>,
}

/// A tier that ClusterNetworkPolicies can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Asked before NetworkPolicies.
    Admin,
    /// Asked where no NetworkPolicy selects the pod.
    Baseline,
}

/// One direction of one ClusterNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierRules {
    /// The policy's tier.
    pub tier: Tier,
    /// In order; never empty.
    pub rules: Vec<TierRule>,
}

/// What holds for one direction of a pod's traffic: the tiers in the order in which they are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodSide {
    /// ClusterNetworkPolicies of the Admin tier with rules for the direction: lower priority first, then by name.
    pub admin: Vec<ClusterPolicyName>,
    /// NetworkPolicies that select the pod for the direction, sorted; never an empty list. They decide for good: what none of them lets through
    /// is dropped, and the Baseline tier is not asked.
    pub policies: Option<Vec<PolicyName>>,
    /// ClusterNetworkPolicies of the Baseline tier, in the same order as the Admin tier's.
    pub baseline: Vec<ClusterPolicyName>,
}

impl PodSide {
    /// Whether no policy is about it.
    pub fn is_open(&self) -> bool {
        self.admin.is_empty() && self.policies.is_none() && self.baseline.is_empty()
    }
}

/// Which policies hold for one pod of this node. Where nothing decides, everything passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodPolicy {
    /// For what comes to it.
    pub ingress: PodSide,
    /// For what it sends.
    pub egress: PodSide,
}

impl PodPolicy {
    /// What holds for a direction.
    pub fn side(&self, direction: Direction) -> &PodSide {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Policy for this node's pods. A pod that is attached but not in `pods` is closed: nothing in, nothing out.
///
/// What an open pod sends itself always passes, and so does what its own node sends it (told by path, not by address).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyIntent {
    /// By host interface name, as in `PodsIntent`.
    pub pods: OrdMap<Arc<str>, Arc<PodPolicy>>,
    /// The rules of each NetworkPolicy that selects a pod of this node, by direction.
    pub rules: OrdMap<(PolicyName, Direction), Arc<PolicyRules>>,
    /// The rules of each ClusterNetworkPolicy that selects a pod of this node, by direction.
    pub tiers: OrdMap<(ClusterPolicyName, Direction), Arc<TierRules>>,
    /// Address sets that the rules name: of pods and of nodes.
    pub sets: OrdMap<SetId, Arc<AddressSet>>,
    /// Named-port sets that the rules name.
    pub named_ports: OrdMap<SetId, Arc<NamedPortSet>>,
    /// All networks that pods can have addresses in.
    pub pod_networks: Arc<[IpNet]>,
}

//! NetworkPolicy as it applies to this node's pods (networking.k8s.io/v1).
//!
//! Selectors are resolved to sets of addresses. Peers of one rule are alternatives, rules of one policy are alternatives, policies add up.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{PolicyName, Protocol};

/// Names a set by its content's definition (selectors), not by its members: the same selector, the same id, on every node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetId(pub Arc<str>);

/// Addresses of the pods that a peer's selectors choose, both families together.
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
    /// One of these: members of a pod set, or addresses in a block.
    OneOf {
        /// Sets of pod addresses.
        sets: Vec<SetId>,
        /// Address blocks; for the traffic's own family only.
        blocks: Vec<Block>,
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

/// Which policies hold for one pod of this node; by direction, none where no policy selects the pod (everything passes).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodPolicy {
    /// Policies that select it for ingress, sorted; never an empty list.
    pub ingress: Option<Vec<PolicyName>>,
    /// Policies that select it for egress, sorted; never an empty list.
    pub egress: Option<Vec<PolicyName>>,
}

/// Policy for this node's pods. A pod that is attached but not in `pods` is closed: nothing in, nothing out.
///
/// What an open pod sends itself always passes, and so does what its own node sends it (told by path, not by address).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyIntent {
    /// By host interface name, as in `PodsIntent`.
    pub pods: OrdMap<Arc<str>, Arc<PodPolicy>>,
    /// The rules of each policy that selects a pod of this node, by direction.
    pub rules: OrdMap<(PolicyName, Direction), Arc<PolicyRules>>,
    /// Pod address sets that the rules name.
    pub sets: OrdMap<SetId, Arc<AddressSet>>,
    /// Named-port sets that the rules name.
    pub named_ports: OrdMap<SetId, Arc<NamedPortSet>>,
}

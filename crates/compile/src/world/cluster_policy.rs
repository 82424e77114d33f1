//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), whole, as the experimental channel of network-policy-api v0.3 has it.
//!
//! A field that is missing and one that is there are kept apart wherever the API says that exactly one of several must be set: a peer in which
//! none is set was written for another version of the API, and is not taken to mean everyone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::meta::{ObjectMeta, nullable};
use super::policy::LabelSelector;

/// A ClusterNetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicy {
    /// Its metadata; it has no namespace.
    pub metadata: ObjectMeta,
    /// What it says.
    #[serde(deserialize_with = "nullable")]
    pub spec: ClusterNetworkPolicySpec,
    /// Why it could not be read, if so: then only tier, priority and subject of `spec` hold, and it denies everything.
    #[serde(skip)]
    pub unreadable: Option<Arc<str>>,
}

/// `spec` of a ClusterNetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicySpec {
    /// Admin or Baseline.
    #[serde(deserialize_with = "nullable")]
    pub tier: Arc<str>,
    /// 0 to 1000; the lower goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// The pods that it is about.
    #[serde(deserialize_with = "nullable")]
    pub subject: ClusterPolicySubject,
    /// What is done with what comes to them, in order; none says nothing about it.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<ClusterPolicyRule>,
    /// What is done with what they send, in order; none says nothing about it.
    #[serde(deserialize_with = "nullable")]
    pub egress: Vec<ClusterPolicyRule>,
}

/// The pods that a policy is about; exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterPolicySubject {
    /// All pods of these namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
}

/// Pods by the labels of their namespace and their own; the latter must be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedPods {
    /// Of these namespaces; all if empty or absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// These pods; all if empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// A rule of either direction: peers and protocols must both match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterPolicyRule {
    /// What people call it, at most 100 characters; may be empty.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// Accept, Deny or Pass.
    #[serde(deserialize_with = "nullable")]
    pub action: Arc<str>,
    /// Sources, in an ingress rule.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<ClusterPolicyPeer>,
    /// Destinations, in an egress rule.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<ClusterPolicyPeer>,
    /// Destination ports; all traffic, ICMP included, if absent or empty.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<ClusterPolicyProtocol>,
}

/// The other end of a rule; exactly one field is set, and in an ingress rule one of the first two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterPolicyPeer {
    /// All pods of these namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// These pods of these namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPods>,
    /// The addresses in these nodes' status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Blocks of addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Arc<str>>>,
    /// Names in the DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<Arc<str>>>,
}

/// What a rule takes by protocol; exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterPolicyProtocol {
    /// TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<ProtocolPorts>,
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<ProtocolPorts>,
    /// SCTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sctp: Option<ProtocolPorts>,
    /// The destination pod's ports of that name, of whatever protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<Arc<str>>,
}

/// Ports of one protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProtocolPorts {
    /// Destination ports. The API lets no protocol without them in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<DestinationPort>,
}

/// A port or a range of them; exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationPort {
    /// 1 to 65535.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// A range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<DestinationRange>,
}

/// Ports from `start` to `end`, both of them included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationRange {
    /// The first, 1 to 65535.
    pub start: i64,
    /// The last, greater than the first.
    pub end: i64,
}

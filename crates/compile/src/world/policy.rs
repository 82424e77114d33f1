//! NetworkPolicy (networking.k8s.io/v1), whole. A list that is missing and a list that is empty are kept apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::meta::{ObjectMeta, nullable};

/// A NetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPolicy {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What it says.
    #[serde(deserialize_with = "nullable")]
    pub spec: NetworkPolicySpec,
    /// Why it could not be read, if so: then only the pod selector of `spec` holds, and it lets nothing through.
    #[serde(skip)]
    pub unreadable: Option<Arc<str>>,
}

/// `spec` of a NetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// The pods of its namespace that it is about; all of them if empty.
    #[serde(deserialize_with = "nullable")]
    pub pod_selector: LabelSelector,
    /// Ingress, Egress or both; if absent or empty, Ingress, and Egress where there are egress rules.
    #[serde(deserialize_with = "nullable")]
    pub policy_types: Vec<Arc<str>>,
    /// Who may reach the pods; nobody if absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// Whom the pods may reach; nobody if absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
}

/// An ingress rule: peers and ports must both match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngressRule {
    /// Sources; everyone if absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<Peer>>,
    /// Destination ports; all if absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PolicyPort>>,
}

/// An egress rule: peers and ports must both match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EgressRule {
    /// Destinations; everyone if absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<Peer>>,
    /// Destination ports; all if absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PolicyPort>>,
}

/// The other end of a rule: pods by selectors, or a block of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// Pods by label: of the policy's namespace, or of those that `namespace_selector` chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces by label; all pods of them without a `pod_selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// A block of addresses; excludes the selectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,
}

/// A block of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpBlock {
    /// The block.
    #[serde(deserialize_with = "nullable")]
    pub cidr: Arc<str>,
    /// Blocks in it that are not meant.
    #[serde(deserialize_with = "nullable")]
    pub except: Vec<Arc<str>>,
}

/// Ports of a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyPort {
    /// TCP (if absent), UDP or SCTP.
    pub protocol: Option<Arc<str>>,
    /// A number, or the name that the destination pod gives a port; every port if absent.
    pub port: Option<IntOrString>,
    /// The last port of a range that starts at `port`.
    pub end_port: Option<i64>,
}

/// A number or a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name.
    Name(Arc<str>),
}

/// Chooses objects by their labels; all requirements must hold, none chooses everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels and their values.
    #[serde(deserialize_with = "nullable")]
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Requirements with an operator.
    #[serde(deserialize_with = "nullable")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement of a label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelRequirement {
    /// The label's key.
    #[serde(deserialize_with = "nullable")]
    pub key: Arc<str>,
    /// In, NotIn, Exists or DoesNotExist.
    #[serde(deserialize_with = "nullable")]
    pub operator: Arc<str>,
    /// Values for In and NotIn.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<Arc<str>>,
}

//! Pods, nodes and namespaces, trimmed to what the network needs of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::meta::{ObjectMeta, nullable};

/// A Pod (core/v1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What was asked for.
    pub spec: PodSpec,
    /// What is.
    #[serde(deserialize_with = "nullable")]
    pub status: PodStatus,
}

impl Pod {
    /// Whether it has ended for good; its address may be another's by now.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether `uid`, as a runtime knows it, means this pod: a mirror pod carries its static pod's in an annotation.
    pub fn is_uid(&self, uid: &str) -> bool {
        let annotated = |key| self.metadata.annotations.get(key).map(AsRef::as_ref);
        self.metadata.uid.as_deref() == Some(uid)
            || annotated("kubernetes.io/config.mirror") == Some(uid)
            || annotated("kubernetes.io/config.hash") == Some(uid)
    }

    /// The addresses that its status claims, as text.
    pub fn claimed(&self) -> impl Iterator<Item = &str> {
        let single = self.status.pod_ip.iter().filter(|_| self.status.pod_ips.is_empty());
        let texts = self.status.pod_ips.iter().map(|ip| &ip.ip).chain(single);
        texts.map(AsRef::as_ref).filter(|text| !text.is_empty())
    }

    /// The containers whose ports count: the ordinary ones, and init containers that stay (sidecars).
    pub fn serving_containers(&self) -> impl Iterator<Item = &Container> {
        let stays = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        self.spec.containers.iter().chain(self.spec.init_containers.iter().filter(stays))
    }
}

/// `spec` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node that it runs on, once scheduled.
    pub node_name: Option<Arc<str>>,
    /// Whether it uses its node's network namespace.
    #[serde(deserialize_with = "nullable")]
    pub host_network: bool,
    /// Its hostname, if set.
    pub hostname: Option<Arc<str>>,
    /// Its subdomain, if set.
    pub subdomain: Option<Arc<str>>,
    /// Its containers.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// Its init containers.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

/// A container of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Ports that it declares.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar.
    pub restart_policy: Option<Arc<str>>,
}

/// A port that a container declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// Its number, as given: not checked.
    #[serde(deserialize_with = "nullable")]
    pub container_port: i64,
    /// TCP (if absent), UDP or SCTP.
    pub protocol: Option<Arc<str>>,
    /// The node's port that leads to it, as given: not checked; 0 if none does.
    #[serde(deserialize_with = "nullable")]
    pub host_port: i64,
    /// The node's address at which that is; all of them if absent or empty.
    #[serde(rename = "hostIP")]
    pub host_ip: Option<Arc<str>>,
}

/// `status` of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: Option<Arc<str>>,
    /// Its addresses, at most one of each family.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// The first of them.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<Arc<str>>,
}

/// An address of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address as text: not checked.
    pub ip: Arc<str>,
}

/// A Node (core/v1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What was assigned to it.
    #[serde(deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// What it says of itself.
    #[serde(deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// The taint that the cluster autoscaler gives a node before it takes it away (KEP-3836).
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl Node {
    /// Whether it is about to be taken away, so that no new traffic should be led to it.
    pub fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() || self.spec.taints.iter().any(|taint| &*taint.key == TO_BE_DELETED_TAINT)
    }
}

/// `spec` of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Its pod subnets.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<Arc<str>>,
    /// The first of them.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<Arc<str>>,
    /// What keeps pods off it.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

/// A taint of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
}

impl NodeSpec {
    /// Its pod subnets as text, whichever field holds them.
    pub fn subnets(&self) -> impl Iterator<Item = &Arc<str>> {
        let single = self.pod_cidr.iter().filter(|_| self.pod_cidrs.is_empty());
        self.pod_cidrs.iter().chain(single).filter(|text| !text.is_empty())
    }
}

/// `status` of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Its addresses.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

/// An address of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS.
    #[serde(rename = "type")]
    pub kind: Arc<str>,
    /// The address as text: not checked.
    pub address: Arc<str>,
}

/// A Namespace (core/v1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its metadata.
    pub metadata: ObjectMeta,
}

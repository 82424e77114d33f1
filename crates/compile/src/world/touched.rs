//! What a change of the world touched: all that compiling needs to look at again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{ClusterPolicyName, NamespaceName, NodeName, PodName, PolicyName, ServiceName};

/// What changes touched. An object is named only if something of it changed that can matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Everything: the settings changed, or nothing was compiled yet.
    pub all: bool,
    /// Services which changed, or whose slices did.
    pub services: BTreeSet<ServiceName>,
    /// Pods whose labels, addresses, ports or state changed; also those that gained or lost an address by another's change.
    pub pods: BTreeSet<PodName>,
    /// Addresses which may belong to another pod now.
    pub addresses: BTreeSet<IpAddr>,
    /// NetworkPolicies.
    pub policies: BTreeSet<PolicyName>,
    /// ClusterNetworkPolicies.
    pub cluster_policies: BTreeSet<ClusterPolicyName>,
    /// Namespaces which came, went or have other labels.
    pub namespaces: BTreeSet<NamespaceName>,
    /// Nodes.
    pub nodes: BTreeSet<NodeName>,
    /// Whether the service networks may be others.
    pub service_networks: bool,
    /// Attachments, by host interface name.
    pub attached: BTreeSet<Arc<str>>,
}

impl Touched {
    /// Everything.
    pub fn everything() -> Self {
        Touched { all: true, ..Touched::default() }
    }

    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        *self == Touched::default()
    }

    /// Adds what another change touched.
    pub fn merge(&mut self, other: Touched) {
        self.all |= other.all;
        self.services.extend(other.services);
        self.pods.extend(other.pods);
        self.addresses.extend(other.addresses);
        self.policies.extend(other.policies);
        self.cluster_policies.extend(other.cluster_policies);
        self.namespaces.extend(other.namespaces);
        self.nodes.extend(other.nodes);
        self.service_networks |= other.service_networks;
        self.attached.extend(other.attached);
    }
}

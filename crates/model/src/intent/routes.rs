//! The fabric: how packets travel between this node and the others.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Dual, MacAddr, NodeName};

/// Settings of a node-to-node backend: a closed list, one folder of `dataplane/fabric` each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum BackendConf {
    /// Kernel VXLAN device with static neighbours and FDB (RFC 7348).
    Vxlan {
        /// VXLAN network identifier, 24 bits.
        #[serde(default = "default_vni")]
        vni: u32,
        /// UDP destination port.
        #[serde(default = "default_vxlan_port")]
        port: u16,
        /// Peers on the same link are reached without encapsulation.
        #[serde(default)]
        direct_routing: bool,
    },
    /// Routes to the other nodes' subnets by their addresses on a shared link.
    HostGw,
}

fn default_vni() -> u32 {
    1
}

fn default_vxlan_port() -> u16 {
    8472
}

impl BackendConf {
    /// It in one word, as it is chosen.
    pub fn word(&self) -> &'static str {
        match self {
            BackendConf::Vxlan { direct_routing: false, .. } => "vxlan",
            BackendConf::Vxlan { direct_routing: true, .. } => "vxlan+direct",
            BackendConf::HostGw => "host-gw",
        }
    }
}

impl Default for BackendConf {
    fn default() -> Self {
        BackendConf::Vxlan { vni: default_vni(), port: default_vxlan_port(), direct_routing: false }
    }
}

/// A node as the fabric sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FabricNode {
    /// Its name.
    pub name: NodeName,
    /// Its InternalIP of each family.
    pub internal: Dual<IpAddr>,
    /// Its pod subnets.
    pub pod_cidrs: Vec<IpNet>,
    /// A number for it, 1 to 65535, the same on every node, that marks connections which came from it.
    pub id: u16,
    /// Address of its tunnel device.
    pub vtep_mac: MacAddr,
}

/// What the fabric of this node must be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutesIntent {
    /// The backend's settings.
    pub backend: BackendConf,
    /// This node; none until its Node object has been seen.
    pub local: Option<Arc<FabricNode>>,
    /// The other nodes.
    pub peers: OrdMap<NodeName, Arc<FabricNode>>,
    /// All networks that pods of this cluster can have addresses in; what no node holds of them is unreachable.
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks whose packets from pods are not masqueraded, beside the cluster's own.
    pub no_masquerade: Vec<IpNet>,
}

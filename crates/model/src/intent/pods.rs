//! The pods attached to this node's network.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{Dual, MacAddr, PodName};

/// One attachment of a pod to this node's network (a container id and an interface name, CNI spec 1.1.0).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodIntent {
    /// The pod, where the runtime said it.
    pub pod: Option<PodName>,
    /// Name of the interface's end in the node's namespace, at most 15 bytes.
    pub host_ifname: Arc<str>,
    /// Address of the interface's end in the pod.
    pub mac: MacAddr,
    /// Address of the interface's end in the node.
    pub host_mac: MacAddr,
    /// The pod's addresses.
    pub ips: Dual<IpAddr>,
    /// Ports of the node that lead to this pod (CNI capability `portMappings`).
    pub host_ports: Vec<HostPort>,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// The node's address; all of them if absent.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: crate::Protocol,
}

/// The pods of this node, by the name of their interface's end in the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodsIntent {
    /// By host interface name.
    pub pods: OrdMap<Arc<str>, Arc<PodIntent>>,
}

//! What the operator says, as far as compiling depends on it.

use bowline_model::NodeName;
use bowline_model::intent::routes::BackendConf;
use ipnet::IpNet;

/// Settings of this node's agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The node that is compiled for.
    pub node_name: NodeName,
    /// How packets travel between nodes.
    pub backend: BackendConf,
    /// All networks that pods can have addresses in; the nodes' pod subnets if empty.
    pub cluster_cidrs: Vec<IpNet>,
    /// The service networks.
    pub service_cidrs: Vec<IpNet>,
    /// Networks whose addresses of the node take NodePort traffic; all but loopback if empty.
    pub node_port_addresses: Vec<IpNet>,
    /// In place of those networks: only the first InternalIP of each family that the node's own Node object has.
    pub node_port_primary: bool,
    /// Networks whose packets from pods are not masqueraded, beside the cluster's own.
    pub no_masquerade: Vec<IpNet>,
    /// Networks in which `externalIPs` of services may lie; none if empty (CVE-2020-8554).
    pub external_ips: Vec<IpNet>,
    /// Networks in which load balancer addresses of services may lie; none if empty.
    pub load_balancer_ips: Vec<IpNet>,
    /// Whether DNS is told the namespace of every pod address (`pods verified` in the Corefile).
    pub dns_pods: bool,
}

impl Settings {
    /// Defaults for the node `node_name`.
    pub fn new(node_name: impl Into<NodeName>) -> Self {
        Settings {
            node_name: node_name.into(),
            backend: BackendConf::default(),
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            node_port_addresses: Vec::new(),
            node_port_primary: false,
            no_masquerade: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            dns_pods: false,
        }
    }
}

//! Services (core/v1), EndpointSlices (discovery.k8s.io/v1) and ServiceCIDRs (networking.k8s.io/v1).
//!
//! Numbers and addresses are kept as they were given: a value out of range is a problem of its field, not of the object.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::meta::{ObjectMeta, nullable};
use super::policy::IntOrString;

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    /// What a load balancer made of it.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// ClusterIP (if absent), NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub kind: Option<Arc<str>>,
    /// The first virtual address, `None` for a headless service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<Arc<str>>,
    /// The virtual addresses, at most one of each family.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<Arc<str>>,
    /// IPv4, IPv6 or both.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<Arc<str>>,
    /// SingleStack, PreferDualStack or RequireDualStack.
    pub ip_family_policy: Option<Arc<str>>,
    /// Its ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it.
    #[serde(deserialize_with = "nullable")]
    pub selector: super::Labels,
    /// None (if absent) or ClientIP.
    pub session_affinity: Option<Arc<str>>,
    /// How long an affinity lasts.
    pub session_affinity_config: Option<SessionAffinityConfig>,
    /// Addresses that lead to the nodes from outside.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<Arc<str>>,
    /// The name that an ExternalName service stands for.
    pub external_name: Option<Arc<str>>,
    /// Cluster (if absent) or Local.
    pub external_traffic_policy: Option<Arc<str>>,
    /// Cluster (if absent) or Local.
    pub internal_traffic_policy: Option<Arc<str>>,
    /// Port on which each node says whether it has endpoints.
    pub health_check_node_port: Option<i64>,
    /// Whether readiness is to be disregarded.
    #[serde(deserialize_with = "nullable")]
    pub publish_not_ready_addresses: bool,
    /// The address asked of a load balancer.
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<Arc<str>>,
    /// Who may use the load balancer's addresses; everyone if empty.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_source_ranges: Vec<Arc<str>>,
    /// The load balancer that is meant.
    pub load_balancer_class: Option<Arc<str>>,
    /// Whether a LoadBalancer gets node ports (it does if absent).
    pub allocate_load_balancer_node_ports: Option<bool>,
    /// A preference among endpoints.
    pub traffic_distribution: Option<Arc<str>>,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name; may be absent where it is the only one.
    pub name: Option<Arc<str>>,
    /// TCP (if absent), UDP or SCTP.
    pub protocol: Option<Arc<str>>,
    /// Its number.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
    /// The pods' port.
    pub target_port: Option<IntOrString>,
    /// The nodes' port, 0 for none.
    #[serde(deserialize_with = "nullable")]
    pub node_port: i64,
    /// What is spoken on it.
    pub app_protocol: Option<Arc<str>>,
}

/// How long an affinity lasts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// For ClientIP.
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

/// How long a ClientIP affinity lasts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// 1 to 86400; 10800 if absent.
    pub timeout_seconds: Option<i64>,
}

/// `status` of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// The load balancer's part.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancerStatus,
}

/// What a load balancer says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// Where it takes traffic.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// A point at which a load balancer takes traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// Its address.
    pub ip: Option<Arc<str>>,
    /// Its name.
    pub hostname: Option<Arc<str>>,
    /// VIP (if absent): packets arrive with that destination. Proxy: they do not (KEP-1860).
    pub ip_mode: Option<Arc<str>>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Its metadata; the label `kubernetes.io/service-name` says whose it is.
    pub metadata: ObjectMeta,
    /// IPv4, IPv6 or FQDN.
    #[serde(deserialize_with = "nullable")]
    pub address_type: Arc<str>,
    /// The endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports of each of them.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
    /// When the change happened that made it as it is, since 1970, as far as its controller says so; nothing is compiled from it.
    #[serde(skip)]
    pub triggered_at: Option<Duration>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Its addresses; only the first counts.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<Arc<str>>,
    /// Its state.
    #[serde(deserialize_with = "nullable")]
    pub conditions: EndpointConditions,
    /// Its hostname in DNS.
    pub hostname: Option<Arc<str>>,
    /// The node that it is on.
    pub node_name: Option<Arc<str>>,
    /// What it is, usually a pod.
    pub target_ref: Option<TargetRef>,
    /// For whom it is meant, where its service prefers some endpoints to others.
    #[serde(deserialize_with = "nullable")]
    pub hints: EndpointHints,
}

/// For whom an endpoint is meant; for everyone where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// For clients on nodes of these zones.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<HintedPlace>,
    /// For clients on these nodes.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<HintedPlace>,
}

/// A zone or a node that an endpoint is meant for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HintedPlace {
    /// Its name.
    pub name: Arc<str>,
}

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Takes traffic; true if absent.
    pub ready: Option<bool>,
    /// As ready, but also said of what terminates; true if absent.
    pub serving: Option<bool>,
    /// Is going away; false if absent.
    pub terminating: Option<bool>,
}

/// An object behind an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its kind.
    pub kind: Option<Arc<str>>,
    /// Its name.
    pub name: Option<Arc<str>>,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// Its name, that of the service's port.
    pub name: Option<Arc<str>>,
    /// Its number; none means every port, which no service port leads to.
    pub port: Option<i64>,
    /// TCP (if absent), UDP or SCTP.
    pub protocol: Option<Arc<str>>,
}

/// A ServiceCIDR: networks that cluster addresses are given from (KEP-1880).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCidr {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceCidrSpec,
}

/// `spec` of a ServiceCIDR.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceCidrSpec {
    /// At most one network of each family.
    #[serde(deserialize_with = "nullable")]
    pub cidrs: Vec<Arc<str>>,
}

//! Services: which packets go to which endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Family, Protocol, ServiceName};

/// Where the packets of a service arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum FrontendAddress {
    /// A virtual address (ClusterIP, and external addresses that are allowed).
    Vip(IpAddr),
    /// Every address of the node (of the family) that `ServicesIntent::node_port_addresses` allows; loopback ones for the
    /// node's own programs alone, where there are socket hooks.
    NodePort(Family),
}

impl FrontendAddress {
    /// The family of the packets that arrive here.
    pub fn family(&self) -> Family {
        match self {
            FrontendAddress::Vip(address) => Family::of(address),
            FrontendAddress::NodePort(family) => *family,
        }
    }
}

/// What happens to a new connection to a frontend that has no endpoint to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WhenEmpty {
    /// Refused at once (TCP reset, ICMP port unreachable).
    Reject,
    /// Dropped: other nodes may have endpoints that the traffic policy keeps this node from using.
    Drop,
}

/// An address and port that answers for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address, of the frontend's family.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
}

/// One address, protocol and port of a service, with the endpoints that it balances over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Frontend {
    /// Where packets arrive.
    pub address: FrontendAddress,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Those that answer, in equal shares; sorted, without duplicates, of the frontend's family.
    pub endpoints: Vec<Endpoint>,
    /// Those that answer what this node's own processes and pods begin, where they are others: a service that gives outside traffic to local
    /// endpoints only still serves the node from anywhere. Never empty.
    pub own_endpoints: Option<Vec<Endpoint>>,
    /// Seconds for which a client address keeps its endpoint (sessionAffinity ClientIP).
    pub affinity_secs: Option<u32>,
    /// Networks of the frontend's family whose addresses may use it, where not all may; nobody may if there is none in the list.
    pub sources: Option<Vec<IpNet>>,
    /// What happens when `endpoints` is empty.
    pub when_empty: WhenEmpty,
}

/// A service as this node must serve it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceIntent {
    /// Its frontends, sorted.
    pub frontends: Vec<Frontend>,
}

/// What a load balancer that asks on a port of the node is told of a service (`healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The service.
    pub service: ServiceName,
    /// Its ready endpoints on this node; those that terminate do not count.
    pub local_endpoints: usize,
}

/// All services of this node.
///
/// Invariant: no two services have a frontend of the same address, protocol and port (the older service keeps it).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServicesIntent {
    /// By name.
    pub services: OrdMap<ServiceName, Arc<ServiceIntent>>,
    /// By the node's port on which load balancers ask whether a service has endpoints here.
    pub health_checks: OrdMap<u16, HealthCheck>,
    /// Networks whose addresses of the node take NodePort traffic; all of the node's addresses but loopback if empty.
    pub node_port_addresses: Vec<IpNet>,
    /// The service networks: what is sent there and belongs to no service is refused.
    pub service_cidrs: Vec<IpNet>,
}

//! The frontends that one service asks for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::services::{Frontend, FrontendAddress};
use bowline_model::{Family, Problem, Protocol, ServiceName};
use ipnet::IpNet;

use super::endpoints::{Chosen, Endpoints, Reach};
use super::{FrontendKey, is_headless, port_number};
use crate::codes;
use crate::world::{Age, Service, ServicePort, World};

/// Services with this label are another proxy's.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Services with this label are headless, even with an address.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Which claim to a frontend goes first: an address that the API server gave, or one from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// ClusterIP or node port: allocated.
    Allocated,
    /// externalIPs or load balancer: claimed.
    Claimed,
}

/// What a service asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its age, for conflicts.
    pub(crate) age: Age,
    /// Its frontends.
    pub(crate) frontends: BTreeMap<FrontendKey, (Rank, Frontend)>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
    /// Whether it has addresses whose permission depends on the nodes' addresses.
    pub(crate) exposed: bool,
    /// The node's port on which load balancers ask for it, and its ready endpoints on this node.
    pub(crate) health: Option<(u16, usize)>,
}

/// A kind of address that a service has, and how traffic to it is treated.
struct Way {
    rank: Rank,
    reach: Reach,
    /// Whether what this node and its pods begin is served from the whole cluster nevertheless.
    own_from_anywhere: bool,
}

/// Reads one service.
pub(crate) fn compile(world: &World, name: &ServiceName, service: &Service) -> Candidate {
    let age = service.metadata.age();
    let mut candidate = Candidate { age, frontends: BTreeMap::new(), problems: Vec::new(), exposed: false, health: None };
    let labels = &service.metadata.labels;
    let foreign = labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL);
    if foreign || is_headless(service) || service.spec.kind.as_deref() == Some("ExternalName") {
        return candidate;
    }
    let disregard_ready = service.spec.publish_not_ready_addresses;
    let mut problems = Vec::new();
    let endpoints = Endpoints::gather(world, name, disregard_ready, &mut problems);
    let mut reader = Reader { world, name, service, problems, exposed: false };
    let affinity_secs = reader.affinity();
    let internal = reader.reach("internalTrafficPolicy", service.spec.internal_traffic_policy.as_ref());
    let external = reader.reach("externalTrafficPolicy", service.spec.external_traffic_policy.as_ref());
    let (cluster, claimed, balanced) = (reader.cluster_addresses(), reader.external_addresses(), reader.balanced_addresses());
    let ranges = reader.source_ranges();
    let inside = Way { rank: Rank::Allocated, reach: internal, own_from_anywhere: false };
    let outside = |rank| Way { rank, reach: external, own_from_anywhere: true };
    let node_ports = matches!(service.spec.kind.as_deref(), Some("NodePort" | "LoadBalancer"));
    for (index, port) in service.spec.ports.iter().enumerate() {
        let Some((protocol, number)) = reader.port(index, port) else { continue };
        let label = port.name.as_deref().unwrap_or_default();
        let mut put = |way: &Way, address: FrontendAddress, number, sources| {
            let choose = |reach| endpoints.choose(label, protocol, address.family(), reach);
            let Chosen { endpoints, when_empty } = choose(way.reach);
            let own = Some(choose(Reach::Cluster).endpoints).filter(|own| way.own_from_anywhere && !own.is_empty() && *own != endpoints);
            let frontend = Frontend { address, protocol, port: number, endpoints, own_endpoints: own, affinity_secs, sources, when_empty };
            candidate.frontends.entry((address, protocol, number)).or_insert((way.rank, frontend));
        };
        for ip in &cluster {
            put(&inside, FrontendAddress::Vip(*ip), number, None);
        }
        for ip in &claimed {
            put(&outside(Rank::Claimed), FrontendAddress::Vip(*ip), number, None);
        }
        for ip in &balanced {
            put(&outside(Rank::Claimed), FrontendAddress::Vip(*ip), number, of_family(ranges.as_ref(), ip));
        }
        if let Some(node_port) = reader.node_port(index, port).filter(|_| node_ports) {
            for family in families(service, &cluster) {
                put(&outside(Rank::Allocated), FrontendAddress::NodePort(family), node_port, None);
            }
        }
    }
    candidate.health = reader.health_port(external).map(|port| (port, endpoints.ready_here()));
    candidate.exposed = reader.exposed;
    candidate.problems = reader.problems;
    candidate
}

struct Reader<'a> {
    world: &'a World,
    name: &'a ServiceName,
    service: &'a Service,
    problems: Vec<Problem>,
    exposed: bool,
}

impl Reader<'_> {
    fn problem(&mut self, code: u16, what: impl Into<String>, field: &str, fix: &str) {
        let place = format!("Service {}, {field}", self.name);
        self.problems.push(Problem::new(code, what, place, fix));
    }

    fn affinity(&mut self) -> Option<u32> {
        let spec = &self.service.spec;
        match spec.session_affinity.as_deref() {
            Some("ClientIP") => {}
            None | Some("None" | "") => return None,
            Some(other) => {
                let what = format!("session affinity `{}` is unknown", other.escape_debug());
                self.problem(codes::BAD_SERVICE_FIELD, what, "spec.sessionAffinity", "use None or ClientIP");
                return None;
            }
        }
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(10_800);
        let good = u32::try_from(seconds).ok().filter(|seconds| (1..=86_400).contains(seconds));
        if good.is_none() {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let what = format!("{seconds} s is out of range; 10800 s are used");
            self.problem(codes::BAD_SERVICE_FIELD, what, field, "use 1 to 86400");
        }
        Some(good.unwrap_or(10_800))
    }

    fn reach(&mut self, field: &str, value: Option<&Arc<str>>) -> Reach {
        match value.map(AsRef::as_ref) {
            Some("Local") => Reach::Local,
            None | Some("Cluster" | "") => Reach::Cluster,
            Some(other) => {
                let what = format!("`{}` is no traffic policy; Cluster is used", other.escape_debug());
                self.problem(codes::BAD_SERVICE_FIELD, what, &format!("spec.{field}"), "use Cluster or Local");
                Reach::Cluster
            }
        }
    }

    fn cluster_addresses(&mut self) -> Vec<IpAddr> {
        let spec = &self.service.spec;
        let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
        let texts: Vec<&Arc<str>> = spec.cluster_ips.iter().chain(single).filter(|text| !text.is_empty()).collect();
        texts.into_iter().filter_map(|text| self.address(text, "spec.clusterIPs")).collect()
    }

    fn address(&mut self, text: &str, field: &str) -> Option<IpAddr> {
        let address: Option<IpAddr> = text.parse().ok();
        let good = address.filter(|ip| super::endpoints::usable(text, Family::of(ip)).is_some());
        if good.is_none() {
            let what = format!("`{}` is not an address that a service can have", text.escape_debug());
            self.problem(codes::BAD_SERVICE_ADDRESS, what, field, "use a unicast IP address, not loopback or link-local");
        }
        good
    }

    fn external_addresses(&mut self) -> Vec<IpAddr> {
        let (service, settings) = (self.service, self.world.settings());
        let texts = service.spec.external_ips.iter().enumerate();
        texts.filter_map(|(index, text)| self.permitted(text, &format!("spec.externalIPs[{index}]"), &settings.external_ips)).collect()
    }

    /// Those of the load balancer whose packets arrive as they were sent.
    fn balanced_addresses(&mut self) -> Vec<IpAddr> {
        let (service, settings) = (self.service, self.world.settings());
        if service.spec.kind.as_deref() != Some("LoadBalancer") {
            return Vec::new();
        }
        let points = service.status.load_balancer.ingress.iter().enumerate();
        let points = points.filter(|(_, point)| !matches!(point.ip_mode.as_deref(), Some("Proxy")));
        let texts = points.filter_map(|(index, point)| Some((index, point.ip.as_ref().filter(|text| !text.is_empty())?)));
        let permitted = texts.filter_map(|(index, text)| {
            self.permitted(text, &format!("status.loadBalancer.ingress[{index}].ip"), &settings.load_balancer_ips)
        });
        permitted.collect()
    }

    /// Who may use the load balancer's addresses; everyone if none. A range that cannot be read lets nobody in.
    fn source_ranges(&mut self) -> Option<Vec<IpNet>> {
        let texts = &self.service.spec.load_balancer_source_ranges;
        if texts.is_empty() {
            return None;
        }
        let mut ranges = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.trim().parse::<IpNet>() {
                Ok(net) => ranges.push(net.trunc()),
                Err(_) => {
                    let what = format!("`{}` is no network, so nobody is let in by it", text.escape_debug());
                    let field = format!("spec.loadBalancerSourceRanges[{index}]");
                    self.problem(codes::BAD_SOURCE_RANGE, what, &field, "use a network in CIDR form, such as 192.0.2.0/24");
                }
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        Some(ranges)
    }

    /// The port on which load balancers ask, of a service that gives outside traffic to local endpoints only.
    fn health_port(&mut self, external: Reach) -> Option<u16> {
        let balanced = self.service.spec.kind.as_deref() == Some("LoadBalancer") && external == Reach::Local;
        let number = self.service.spec.health_check_node_port.filter(|number| balanced && *number != 0)?;
        let port = port_number(number);
        if port.is_none() {
            let what = format!("port {number} is out of range");
            self.problem(codes::BAD_SERVICE_PORT, what, "spec.healthCheckNodePort", "use 1 to 65535");
        }
        port
    }

    /// An address from outside, if it may be claimed: a setting names its network, and it is not one of the cluster's own.
    fn permitted(&mut self, text: &str, field: &str, allowed: &[IpNet]) -> Option<IpAddr> {
        self.exposed = true;
        let address = self.address(text, field)?;
        let settings = self.world.settings();
        let own = self.world.service_networks().iter().chain(&settings.cluster_cidrs).any(|net| net.contains(&address));
        let reason = if !allowed.iter().any(|net| net.contains(&address)) {
            "no setting allows it"
        } else if own {
            "it lies in the cluster's own networks"
        } else if is_node_address(self.world, &address) {
            "it is a node's address"
        } else {
            return Some(address);
        };
        let what = format!("address {address} is refused");
        let place = format!("Service {}, {field}", self.name);
        let fix = "remove it, or allow its network in the agent's settings";
        self.problems.push(Problem::new(codes::EXTERNAL_ADDRESS_REFUSED, what, place, fix).because(reason));
        None
    }

    fn port(&mut self, index: usize, port: &ServicePort) -> Option<(Protocol, u16)> {
        let protocol: Option<Protocol> = port.protocol.as_deref().unwrap_or("TCP").parse().ok();
        let number = port_number(port.port);
        if protocol.is_none() {
            let what = format!("protocol `{}` is unknown", port.protocol.as_deref().unwrap_or_default().escape_debug());
            let field = format!("spec.ports[{index}].protocol");
            self.problem(codes::BAD_SERVICE_PORT, what, &field, "use TCP, UDP or SCTP");
        }
        if number.is_none() {
            let what = format!("port {} is out of range", port.port);
            self.problem(codes::BAD_SERVICE_PORT, what, &format!("spec.ports[{index}].port"), "use 1 to 65535");
        }
        Some((protocol?, number?))
    }

    fn node_port(&mut self, index: usize, port: &ServicePort) -> Option<u16> {
        if port.node_port == 0 {
            return None;
        }
        let number = port_number(port.node_port);
        if number.is_none() {
            let what = format!("node port {} is out of range", port.node_port);
            self.problem(codes::BAD_SERVICE_PORT, what, &format!("spec.ports[{index}].nodePort"), "use 1 to 65535");
        }
        number
    }
}

/// The ranges that can hold clients of an address.
fn of_family(ranges: Option<&Vec<IpNet>>, address: &IpAddr) -> Option<Vec<IpNet>> {
    let same = |net: &&IpNet| Family::of_prefix(net) == Family::of(address);
    ranges.map(|ranges| ranges.iter().filter(same).copied().collect())
}

/// The families of a service: as it says, else those of its addresses.
fn families(service: &Service, cluster: &[IpAddr]) -> Vec<Family> {
    let said = |family| {
        let word = if family == Family::V4 { "IPv4" } else { "IPv6" };
        service.spec.ip_families.iter().any(|text| &**text == word)
    };
    let has = |family| cluster.iter().any(|ip| Family::of(ip) == family);
    let unsaid = service.spec.ip_families.is_empty();
    Family::BOTH.into_iter().filter(|family| if unsaid { has(*family) } else { said(*family) }).collect()
}

fn is_node_address(world: &World, address: &IpAddr) -> bool {
    let mut texts = world.nodes().values().flat_map(|node| &node.status.addresses);
    texts.any(|of| of.address.parse::<IpAddr>().is_ok_and(|known| known == *address))
}

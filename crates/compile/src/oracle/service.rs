//! Services (core/v1), judged one frontend at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_model::intent::services::{Endpoint, FrontendAddress};
use bowline_model::{Family, Protocol};

use crate::world::{EndpointSlice, Service, ServicePort, SliceEndpoint, SlicePort, World};

/// What becomes of a new connection to an address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It goes to one of these.
    Endpoints(BTreeSet<Endpoint>),
    /// It is refused.
    Reject,
    /// It is dropped.
    Drop,
    /// It is none of a service's.
    NotAService,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Cluster,
    NodePort,
    Outside,
}

/// Who begins a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// Whether it is the node that is asked about, or a pod of it.
    pub own: bool,
}

/// What becomes, on the node of that name, of a new connection of a client's to `port` of `address`.
pub fn endpoints_for(world: &World, node: &str, client: Client, address: FrontendAddress, protocol: Protocol, port: u16) -> Answer {
    let mut found: Vec<(bool, (bool, String), String, Answer)> = Vec::new();
    for service in world.services().values() {
        for wanted in service.spec.ports.iter().filter(|wanted| protocol_of(wanted.protocol.as_deref()) == Some(protocol)) {
            let Some(how) = leads_to(world, service, wanted, address, port) else { continue };
            let made = service.metadata.creation_timestamp.as_deref();
            found.push((
                how == How::Outside,
                (made.is_none(), made.unwrap_or_default().to_owned()),
                format!("{}\u{0}{}", service.metadata.namespace, service.metadata.name),
                answer(world, node, client, service, wanted, (protocol, address), how),
            ));
        }
    }
    found.sort_by(|a, b| (a.0, &a.1, &a.2).cmp(&(b.0, &b.1, &b.2)));
    found.into_iter().next().map_or(Answer::NotAService, |(_, _, _, answer)| answer)
}

fn leads_to(world: &World, service: &Service, wanted: &ServicePort, address: FrontendAddress, port: u16) -> Option<How> {
    let labels = &service.metadata.labels;
    let foreign = labels.contains_key("service.kubernetes.io/service-proxy-name");
    let spec = &service.spec;
    let kind = spec.kind.as_deref().unwrap_or("ClusterIP");
    let mut cluster_ips: Vec<&str> = spec.cluster_ips.iter().map(AsRef::as_ref).collect();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip.as_deref());
    }
    let headless = cluster_ips.contains(&"None") || labels.contains_key("service.kubernetes.io/headless");
    if foreign || headless || kind == "ExternalName" {
        return None;
    }
    if wanted.port < 1 || wanted.port > 65_535 {
        return None;
    }
    match address {
        FrontendAddress::NodePort(family) => {
            let node_port = wanted.node_port == i64::from(port) && (kind == "NodePort" || kind == "LoadBalancer");
            let word = if family == Family::V4 { "IPv4" } else { "IPv6" };
            let of_family = if spec.ip_families.is_empty() {
                cluster_ips.iter().any(|text| text.parse::<IpAddr>().is_ok_and(|ip| Family::of(&ip) == family))
            } else {
                spec.ip_families.iter().any(|text| &**text == word)
            };
            (node_port && of_family).then_some(How::NodePort)
        }
        FrontendAddress::Vip(ip) => {
            if wanted.port != i64::from(port) {
                return None;
            }
            let same = |text: &str| text.parse::<IpAddr>().is_ok_and(|known| known == ip);
            if cluster_ips.iter().any(|text| same(text)) {
                return Some(How::Cluster);
            }
            let settings = world.settings();
            let owned = world.service_networks().iter().chain(&settings.cluster_cidrs).any(|net| net.contains(&ip));
            let node = world.nodes().values().any(|node| node.status.addresses.iter().any(|a| same(&a.address)));
            let external = spec.external_ips.iter().any(|text| same(text));
            let external = external && settings.external_ips.iter().any(|net| net.contains(&ip));
            let balanced = service
                .status
                .load_balancer
                .ingress
                .iter()
                .any(|point| point.ip.as_deref().is_some_and(same) && point.ip_mode.as_deref() != Some("Proxy"));
            let balanced = balanced && kind == "LoadBalancer" && settings.load_balancer_ips.iter().any(|net| net.contains(&ip));
            ((external || balanced) && !owned && !node).then_some(How::Outside)
        }
    }
}

fn answer(
    world: &World,
    node: &str,
    client: Client,
    service: &Service,
    wanted: &ServicePort,
    (protocol, address): (Protocol, FrontendAddress),
    how: How,
) -> Answer {
    let family = address.family();
    let policy = match how {
        How::Cluster => &service.spec.internal_traffic_policy,
        How::NodePort | How::Outside => &service.spec.external_traffic_policy,
    };
    let everywhere = in_use(world, service, wanted, protocol, family, None);
    let local = policy.as_deref() == Some("Local");
    let shortcut = client.own && how != How::Cluster && !everywhere.is_empty();
    let chosen = match local && !shortcut {
        true => in_use(world, service, wanted, protocol, family, Some(node)),
        false => hinted(world, node, service, wanted, protocol, family).unwrap_or_else(|| everywhere.clone()),
    };
    match (chosen.is_empty(), everywhere.is_empty()) {
        (false, _) if !may_use(service, client, address) => Answer::Drop,
        (false, _) => Answer::Endpoints(chosen),
        (true, true) => Answer::Reject,
        (true, false) => Answer::Drop,
    }
}

/// Whether a load balancer's address is for this client; every other address is for everyone.
fn may_use(service: &Service, client: Client, address: FrontendAddress) -> bool {
    let FrontendAddress::Vip(vip) = address else { return true };
    let same = |text: &str| text.parse::<IpAddr>().is_ok_and(|known| known == vip);
    let spec = &service.spec;
    let its_own = spec.cluster_ips.iter().chain(&spec.cluster_ip).chain(&spec.external_ips).any(|text| same(text));
    let ranges = &spec.load_balancer_source_ranges;
    its_own || ranges.is_empty() || ranges.iter().any(|range| range.parse::<ipnet::IpNet>().is_ok_and(|net| net.contains(&client.ip)))
}

/// The ready endpoints that are meant for this node, or else for its zone, where every ready one says for whom it is.
fn hinted(
    world: &World,
    node: &str,
    service: &Service,
    wanted: &ServicePort,
    protocol: Protocol,
    family: Family,
) -> Option<BTreeSet<Endpoint>> {
    let label = |node: &crate::world::Node| node.metadata.labels.get("topology.kubernetes.io/zone").cloned();
    let zone = world.nodes().get(&bowline_model::NodeName::from(node)).and_then(|node| label(node)).unwrap_or_default();
    let all = statements(world, service, wanted, protocol, family);
    let ready: Vec<_> = all.into_iter().filter(|(_, said)| is_ready(service, said)).collect();
    let by = |names: &dyn Fn(&SliceEndpoint) -> Vec<String>, wanted: &str| {
        let every = ready.iter().all(|(_, said)| !names(said).is_empty());
        let some: BTreeSet<Endpoint> =
            ready.iter().filter(|(_, said)| names(said).iter().any(|name| name == wanted)).map(|(e, _)| *e).collect();
        Some(some).filter(|some| every && !some.is_empty() && !wanted.is_empty())
    };
    let nodes = |said: &SliceEndpoint| said.hints.for_nodes.iter().map(|place| place.name.to_string()).collect::<Vec<_>>();
    let zones = |said: &SliceEndpoint| said.hints.for_zones.iter().map(|place| place.name.to_string()).collect::<Vec<_>>();
    by(&nodes, node).or_else(|| by(&zones, &zone))
}

/// What load balancers are told on the node of that name: for each port the service and its ready endpoints here.
pub fn health_checks(world: &World, node: &str) -> BTreeMap<u16, (String, usize)> {
    let mut told = BTreeMap::new();
    for (name, service) in world.services() {
        let spec = &service.spec;
        let labels = &service.metadata.labels;
        let ours =
            !labels.contains_key("service.kubernetes.io/service-proxy-name") && !labels.contains_key("service.kubernetes.io/headless");
        let headless = spec.cluster_ips.iter().chain(&spec.cluster_ip).any(|ip| &**ip == "None");
        let local = spec.kind.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
        let Some(port) = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) else { continue };
        if !ours || headless || !local {
            continue;
        }
        let mut ready = BTreeSet::new();
        for slice in world.slices().values().filter(|slice| belongs(slice, service) && slice.ports.iter().any(is_port)) {
            let family = if &*slice.address_type == "IPv4" { Family::V4 } else { Family::V6 };
            let here = slice.endpoints.iter().filter(|e| e.node_name.as_deref() == Some(node) && is_ready(service, e));
            ready.extend(here.filter_map(|e| address(e, family)));
        }
        let v4 = ready.iter().filter(|ip| ip.is_ipv4()).count();
        told.entry(port).or_insert((name.to_string(), v4.max(ready.len() - v4)));
    }
    told
}

fn is_port(port: &SlicePort) -> bool {
    protocol_of(port.protocol.as_deref()).is_some() && port.port.is_some_and(|number| (1..=65_535).contains(&number))
}

fn is_ready(service: &Service, endpoint: &SliceEndpoint) -> bool {
    service.spec.publish_not_ready_addresses || endpoint.conditions.ready != Some(false)
}

/// Ready endpoints, or else those that terminate but still serve; of one node, if it is named.
fn in_use(
    world: &World,
    service: &Service,
    wanted: &ServicePort,
    protocol: Protocol,
    family: Family,
    node: Option<&str>,
) -> BTreeSet<Endpoint> {
    let (mut ready, mut draining) = (BTreeSet::new(), BTreeSet::new());
    for (endpoint, said) in statements(world, service, wanted, protocol, family) {
        let conditions = &said.conditions;
        if node.is_some() && said.node_name.as_deref() != node {
            continue;
        }
        if is_ready(service, said) {
            ready.insert(endpoint);
        } else if conditions.serving != Some(false) && conditions.terminating == Some(true) {
            draining.insert(endpoint);
        }
    }
    if ready.is_empty() { draining } else { ready }
}

/// Everything that slices say of endpoints of a port.
fn statements<'w>(
    world: &'w World,
    service: &Service,
    wanted: &ServicePort,
    protocol: Protocol,
    family: Family,
) -> Vec<(Endpoint, &'w SliceEndpoint)> {
    let mut found = Vec::new();
    for slice in world.slices().values().filter(|slice| belongs(slice, service)) {
        if &*slice.address_type != if family == Family::V4 { "IPv4" } else { "IPv6" } {
            continue;
        }
        for port in slice.ports.iter().filter(|port| is_port(port)) {
            let same_name = port.name.as_deref().unwrap_or_default() == wanted.name.as_deref().unwrap_or_default();
            let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else { continue };
            if same_name && protocol_of(port.protocol.as_deref()) == Some(protocol) {
                found.extend(slice.endpoints.iter().filter_map(|e| Some((Endpoint { ip: address(e, family)?, port: number }, e))));
            }
        }
    }
    found
}

fn belongs(slice: &EndpointSlice, service: &Service) -> bool {
    slice.metadata.namespace == service.metadata.namespace
        && slice.metadata.labels.get("kubernetes.io/service-name") == Some(&service.metadata.name)
}

fn address(endpoint: &SliceEndpoint, family: Family) -> Option<IpAddr> {
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    (Family::of(&ip) == family && !ip.is_loopback()).then_some(ip)
}

fn protocol_of(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

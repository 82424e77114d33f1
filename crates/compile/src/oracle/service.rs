//! Services (core/v1), judged one frontend at a time.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bowline_model::intent::services::{Endpoint, FrontendAddress};
use bowline_model::{Family, Protocol};

use crate::world::{EndpointSlice, Service, ServicePort, SliceEndpoint, World};

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

/// What becomes, on the node of that name, of a new connection to `port` of `address`.
pub fn endpoints_for(world: &World, node: &str, address: FrontendAddress, protocol: Protocol, port: u16) -> Answer {
    let mut found: Vec<(bool, (bool, String), String, Answer)> = Vec::new();
    for service in world.services().values() {
        for wanted in service.spec.ports.iter().filter(|wanted| protocol_of(wanted.protocol.as_deref()) == Some(protocol)) {
            let Some(how) = leads_to(world, service, wanted, address, port) else { continue };
            let made = service.metadata.creation_timestamp.as_deref();
            found.push((
                how == How::Outside,
                (made.is_none(), made.unwrap_or_default().to_owned()),
                format!("{}\u{0}{}", service.metadata.namespace, service.metadata.name),
                answer(world, node, service, wanted, protocol, address.family(), how),
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
            let owned = settings.service_cidrs.iter().chain(&settings.cluster_cidrs).any(|net| net.contains(&ip));
            let node = world.nodes().values().any(|node| node.status.addresses.iter().any(|a| same(&a.address)));
            let external = spec.external_ips.iter().any(|text| same(text));
            let external = external && settings.external_ips.iter().any(|net| net.contains(&ip));
            let balanced = service
                .status
                .load_balancer
                .ingress
                .iter()
                .any(|point| point.ip.as_deref().is_some_and(same) && point.ip_mode.as_deref() != Some("Proxy"));
            let balanced = balanced
                && kind == "LoadBalancer"
                && spec.load_balancer_source_ranges.is_empty()
                && settings.load_balancer_ips.iter().any(|net| net.contains(&ip));
            ((external || balanced) && !owned && !node).then_some(How::Outside)
        }
    }
}

fn answer(world: &World, node: &str, service: &Service, wanted: &ServicePort, protocol: Protocol, family: Family, how: How) -> Answer {
    let policy = match how {
        How::Cluster => &service.spec.internal_traffic_policy,
        How::NodePort | How::Outside => &service.spec.external_traffic_policy,
    };
    let everywhere = in_use(world, service, wanted, protocol, family, None);
    let chosen = match policy.as_deref() {
        Some("Local") => in_use(world, service, wanted, protocol, family, Some(node)),
        _ => everywhere.clone(),
    };
    match (chosen.is_empty(), everywhere.is_empty()) {
        (false, _) => Answer::Endpoints(chosen),
        (true, true) => Answer::Reject,
        (true, false) => Answer::Drop,
    }
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
    for slice in world.slices().values().filter(|slice| belongs(slice, service)) {
        if &*slice.address_type != if family == Family::V4 { "IPv4" } else { "IPv6" } {
            continue;
        }
        for port in &slice.ports {
            let same_name = port.name.as_deref().unwrap_or_default() == wanted.name.as_deref().unwrap_or_default();
            let number = port.port.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
            let Some(number) = number.filter(|_| same_name && protocol_of(port.protocol.as_deref()) == Some(protocol)) else {
                continue;
            };
            for endpoint in slice.endpoints.iter().filter(|e| node.is_none() || e.node_name.as_deref() == node) {
                let Some(ip) = address(endpoint, family) else { continue };
                let conditions = &endpoint.conditions;
                let endpoint = Endpoint { ip, port: number };
                if service.spec.publish_not_ready_addresses || conditions.ready != Some(false) {
                    ready.insert(endpoint);
                } else if conditions.serving != Some(false) && conditions.terminating == Some(true) {
                    draining.insert(endpoint);
                }
            }
        }
    }
    if ready.is_empty() { draining } else { ready }
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

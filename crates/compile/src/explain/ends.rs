//! Who is meant by a name or an address, and where they are.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{Dual, NodeName, PodName, Problem, Protocol, ServiceName};

use super::judge::attachment;
use super::question::{NameKind, PortAsked, Question, Sent, Whom};
use super::told::At;
use crate::codes;
use crate::world::{Pod, Service, World};

/// What is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceKind {
    /// A pod with an address of its own.
    Pod,
    /// A node, or a pod in its network namespace.
    Node,
    /// Somebody outside of the cluster.
    Outside,
    /// Nobody: the address is one of the pod network.
    Vacant,
}

/// An end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What people call it.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: PlaceKind,
    /// The node that it is on.
    pub(super) node: Option<NodeName>,
    /// Its addresses.
    pub(super) ips: Dual<IpAddr>,
}

/// What a connection is made to.
#[derive(Debug, Clone)]
pub(super) struct Aim {
    /// Addresses and ports; several only for a headless service.
    pub(super) at: Vec<At>,
    /// What is sent.
    pub(super) sent: Sent,
    /// What comes before the packet: how a name leads to these addresses.
    pub(super) preface: Option<String>,
}

fn missing(what: String, place: &str) -> Problem {
    Problem::new(codes::NO_SUCH_END, what, place, "look at kubectl get pods,services -A and kubectl get nodes")
}

fn unreachable(what: String, place: &str) -> Problem {
    Problem::new(codes::END_WITHOUT_ADDRESS, what, place, "look at kubectl get -o wide, and ask for an address instead")
}

enum Found<'w> {
    Pod(PodName, &'w Arc<Pod>),
    Service(ServiceName, &'w Arc<Service>),
    Place(Place),
}

fn find<'w>(world: &'w World, whom: &Whom, role: &str) -> Result<Found<'w>, Problem> {
    match whom {
        Whom::Address(ip) => Ok(Found::Place(place_at(world, *ip))),
        Whom::Node(name) => node(world, name, role).map(Found::Place),
        Whom::Named { kind, namespace, name } => named(world, *kind, namespace, name, role),
        Whom::Word { word, namespace } => match world.nodes().contains_key(&NodeName(word.clone())) {
            true => node(world, word, role).map(Found::Place),
            false => named(world, None, namespace, word, role),
        },
    }
}

fn named<'w>(world: &'w World, kind: Option<NameKind>, namespace: &Arc<str>, name: &Arc<str>, role: &str) -> Result<Found<'w>, Problem> {
    let pod_name = PodName::new(namespace.clone(), name.clone());
    let service_name = ServiceName::new(namespace.clone(), name.clone());
    let pod = world.pods().get(&pod_name).filter(|_| kind != Some(NameKind::Service));
    let service = world.services().get(&service_name).filter(|_| kind != Some(NameKind::Pod));
    match (pod, service) {
        (Some(pod), None) => Ok(Found::Pod(pod_name, pod)),
        // Who begins is a pod in any case.
        (Some(pod), Some(_)) if role == "SRC" => Ok(Found::Pod(pod_name, pod)),
        (None, Some(service)) => Ok(Found::Service(service_name, service)),
        (Some(_), Some(_)) => {
            let what = format!("{pod_name} is a pod and a service");
            Err(Problem::new(codes::AMBIGUOUS_END, what, role, format!("write pod/{pod_name} or svc/{service_name}")))
        }
        (None, None) => {
            let kinds = match kind {
                Some(NameKind::Pod) => "pod",
                Some(NameKind::Service) => "service",
                None => "pod and no service",
            };
            Err(missing(format!("there is no {kinds} {pod_name}"), role))
        }
    }
}

/// Those who may begin.
///
/// # Errors
/// Where nobody is meant.
pub(super) fn sources(world: &World, whom: &Whom) -> Result<Vec<Place>, Problem> {
    match find(world, whom, "SRC")? {
        Found::Place(place) if place.kind == PlaceKind::Vacant => {
            Err(missing(format!("{} is an address of the pod network that no pod holds", place.name), "SRC"))
        }
        Found::Place(place) => Ok(vec![place]),
        Found::Pod(name, pod) => pod_place(world, &name, pod, "SRC").map(|place| vec![place]),
        Found::Service(name, service) => {
            let mut behind: Vec<IpAddr> = endpoints(world, &name, service, None).into_iter().map(|(ip, _)| ip).collect();
            behind.sort_unstable();
            behind.dedup();
            if behind.is_empty() {
                return Err(unreachable(format!("service {name} has no ready endpoint that could begin"), "SRC"));
            }
            Ok(behind.into_iter().map(|ip| place_at(world, ip)).collect())
        }
    }
}

/// What the connection is made to.
///
/// # Errors
/// Where nobody is meant, or not with such a port.
pub(super) fn aim(world: &World, question: &Question) -> Result<Aim, Problem> {
    let to = |place: Place, port, sent| Aim { at: place.ips.values().map(|ip| (*ip, port)).collect(), sent, preface: None };
    match find(world, &question.to, "DST")? {
        Found::Place(place) => match question.port {
            Some(PortAsked::Number(port)) => Ok(to(place, Some(port), question.sent)),
            None if question.sent == Sent::Icmp => Ok(to(place, None, Sent::Icmp)),
            Some(PortAsked::Name(_)) | None => {
                let what = format!("{} needs a port by its number", place.name);
                Err(Problem::new(codes::NO_SUCH_PORT, what, "DST", "write it after a colon, e.g. 192.0.2.1:443, or ask for /icmp"))
            }
        },
        Found::Pod(name, pod) => {
            let place = pod_place(world, &name, pod, "DST")?;
            if question.sent == Sent::Icmp {
                return Ok(to(place, None, Sent::Icmp));
            }
            let (port, sent) = pod_port(&name, pod, question)?;
            Ok(to(place, Some(port), sent))
        }
        Found::Service(name, service) => service_aim(world, &name, service, question),
    }
}

fn service_aim(world: &World, name: &ServiceName, service: &Service, question: &Question) -> Result<Aim, Problem> {
    if service.spec.kind.as_deref() == Some("ExternalName") {
        let alias = service.spec.external_name.as_deref().unwrap_or_default().escape_debug().to_string();
        return Err(unreachable(format!("service {name} is another name of `{alias}`, and has no address of its own"), "DST"));
    }
    let (index, port, sent) = match question.sent {
        // No port is asked for: its address answers no ICMP, and a headless name leads to all of its pods.
        Sent::Icmp => (None, None, Sent::Icmp),
        Sent::Tcp | Sent::Udp | Sent::Sctp => {
            let (index, port, protocol) = service_port(name, service, question)?;
            (Some(index), Some(port), Sent::from(protocol))
        }
    };
    let ips = service.spec.cluster_ips.iter().chain(service.spec.cluster_ip.iter().filter(|_| service.spec.cluster_ips.is_empty()));
    let at: Vec<At> = ips.filter_map(|text| text.parse().ok()).map(|ip| (ip, port)).collect();
    if !at.is_empty() {
        return Ok(Aim { at, sent, preface: None });
    }
    let mut at: Vec<At> = endpoints(world, name, service, index).into_iter().map(|(ip, number)| (ip, port.map(|_| number))).collect();
    at.dedup();
    if at.is_empty() {
        return Err(unreachable(format!("service {name} has no cluster address and no ready endpoint"), "DST"));
    }
    Ok(Aim { at, sent, preface: Some(format!("{name} is headless: its name leads to its pods")) })
}

/// The service's port that is meant: its place in the list, number and protocol.
fn service_port(name: &ServiceName, service: &Service, question: &Question) -> Result<(usize, u16, Protocol), Problem> {
    let ports = service.spec.ports.iter().enumerate().filter_map(|(index, port)| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>().ok()?;
        let number = u16::try_from(port.port).ok().filter(|number| *number != 0)?;
        Some((index, port.name.clone().unwrap_or_default(), number, protocol))
    });
    let all: Vec<(usize, Arc<str>, u16, Protocol)> = ports.collect();
    let found: Vec<&(usize, Arc<str>, u16, Protocol)> = match &question.port {
        Some(PortAsked::Number(port)) => {
            all.iter().filter(|(_, _, number, protocol)| number == port && question.sent == Sent::from(*protocol)).collect()
        }
        Some(PortAsked::Name(port)) => all.iter().filter(|(_, name, _, _)| name == port).collect(),
        None => all.iter().collect(),
    };
    match *found.as_slice() {
        [(index, _, number, protocol)] => Ok((*index, *number, *protocol)),
        _ => {
            let have: Vec<String> = all.iter().map(|(_, name, number, protocol)| port_words(name, *number, *protocol)).collect();
            Err(no_port(&format!("service {name}"), &have, question.port.is_none()))
        }
    }
}

fn pod_port(name: &PodName, pod: &Pod, question: &Question) -> Result<(u16, Sent), Problem> {
    if let Some(PortAsked::Number(port)) = question.port {
        return Ok((port, question.sent));
    }
    let declared = pod.serving_containers().flat_map(|container| &container.ports).filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>().ok()?;
        let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
        Some((port.name.clone().unwrap_or_default(), number, protocol))
    });
    let all: Vec<(Arc<str>, u16, Protocol)> = declared.collect();
    let found: Vec<&(Arc<str>, u16, Protocol)> = match &question.port {
        Some(PortAsked::Name(port)) => all.iter().filter(|(name, _, _)| name == port).collect(),
        Some(PortAsked::Number(_)) | None => all.iter().collect(),
    };
    match *found.as_slice() {
        [(_, number, protocol)] => Ok((*number, Sent::from(*protocol))),
        _ => {
            let have: Vec<String> = all.iter().map(|(name, number, protocol)| port_words(name, *number, *protocol)).collect();
            Err(no_port(&format!("pod {name}"), &have, question.port.is_none()))
        }
    }
}

fn port_words(name: &str, number: u16, protocol: Protocol) -> String {
    let protocol = protocol.to_string().to_lowercase();
    if name.is_empty() { format!("{number}/{protocol}") } else { format!("{number}/{protocol} ({})", name.escape_debug()) }
}

fn no_port(whose: &str, have: &[String], unsaid: bool) -> Problem {
    let what = match (unsaid, have.is_empty()) {
        (_, true) => format!("{whose} names no port of its own"),
        (true, false) => format!("{whose} has several ports"),
        (false, false) => format!("{whose} has no such port"),
    };
    let fix = if have.is_empty() { "write one after a colon, by its number".to_owned() } else { format!("it has {}", have.join(", ")) };
    Problem::new(codes::NO_SUCH_PORT, what, "DST", fix)
}

/// The ready endpoints of a service; of one of its ports, if that is said.
fn endpoints(world: &World, name: &ServiceName, service: &Service, index: Option<usize>) -> Vec<(IpAddr, u16)> {
    let wanted = index.and_then(|index| service.spec.ports.get(index)).map(|port| port.name.clone().unwrap_or_default());
    let mut found = Vec::new();
    for slice in world.slices_of(name) {
        let ports =
            slice.ports.iter().filter(|port| wanted.as_ref().is_none_or(|name| port.name.as_deref().unwrap_or_default() == &**name));
        let ports: Vec<u16> = ports.filter_map(|port| port.port).filter_map(|number| u16::try_from(number).ok()).collect();
        let ready = slice.endpoints.iter().filter(|e| service.spec.publish_not_ready_addresses || e.conditions.ready != Some(false));
        for ip in ready.filter_map(|e| e.addresses.first()?.parse::<IpAddr>().ok()) {
            found.extend(ports.iter().map(|port| (ip, *port)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn pod_place(world: &World, name: &PodName, pod: &Pod, role: &str) -> Result<Place, Problem> {
    if pod.spec.host_network {
        let Some(node_name) = pod.spec.node_name.clone() else {
            return Err(unreachable(format!("pod {name} is on no node yet"), role));
        };
        let node = node(world, &node_name, role)?;
        return Ok(Place { name: format!("{name} (in {node_name}'s own network)"), ..node });
    }
    let ips = Dual::first_of(world.addresses_of(name));
    if ips.is_empty() {
        let why = if pod.is_terminal() { "has ended, and holds no address" } else { "has no address (yet)" };
        return Err(unreachable(format!("pod {name} {why}"), role));
    }
    Ok(Place { name: name.to_string(), kind: PlaceKind::Pod, node: Some(node_of(world, name, pod)), ips })
}

fn node_of(world: &World, name: &PodName, pod: &Pod) -> NodeName {
    let here = world.attachments_of(name).any(|attached| world.pod_of(attached).is_some());
    let elsewhere = pod.spec.node_name.clone().filter(|_| !here).map(NodeName);
    elsewhere.unwrap_or_else(|| world.settings().node_name.clone())
}

fn node(world: &World, name: &Arc<str>, role: &str) -> Result<Place, Problem> {
    let key = NodeName(name.clone());
    let Some(node) = world.nodes().get(&key) else {
        return Err(missing(format!("there is no node {name}"), role));
    };
    let internal = node.status.addresses.iter().filter(|address| &*address.kind == "InternalIP");
    let ips = Dual::first_of(internal.filter_map(|address| address.address.parse().ok()));
    if ips.is_empty() {
        return Err(unreachable(format!("node {name} has no InternalIP"), role));
    }
    Ok(Place { name: name.to_string(), kind: PlaceKind::Node, node: Some(key), ips })
}

/// Who is at an address.
pub(super) fn place_at(world: &World, ip: IpAddr) -> Place {
    let ips = Dual::first_of([ip]);
    let place = |name: String, kind, node| Place { name, kind, node, ips };
    if let Some((name, pod)) = world.holder(&ip).and_then(|name| world.pods().get_key_value(name)) {
        return place(name.to_string(), PlaceKind::Pod, Some(node_of(world, name, pod)));
    }
    if let Some(attached) = attachment(world, &ip) {
        let name = attached.intent.pod.as_ref().map_or_else(|| ip.to_string(), ToString::to_string);
        return place(name, PlaceKind::Pod, Some(world.settings().node_name.clone()));
    }
    let has =
        |texts: &[crate::world::NodeAddress]| texts.iter().any(|address| address.address.parse::<IpAddr>().is_ok_and(|own| own == ip));
    if let Some((name, _)) = world.nodes().iter().find(|(_, node)| has(&node.status.addresses)) {
        return place(name.to_string(), PlaceKind::Node, Some(name.clone()));
    }
    let subnets = world.nodes().values().flat_map(|node| node.spec.subnets()).filter_map(|text| text.parse::<ipnet::IpNet>().ok());
    let of_pods = world.settings().cluster_cidrs.iter().copied().chain(subnets).any(|net| net.contains(&ip));
    place(ip.to_string(), if of_pods { PlaceKind::Vacant } else { PlaceKind::Outside }, None)
}

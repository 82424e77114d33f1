//! NetworkPolicy (networking.k8s.io/v1) between the tiers of ClusterNetworkPolicy, judged one packet at a time.
//!
//! What cannot be read in a NetworkPolicy matches nothing. Only pods attached to this node are judged: others are their nodes' task.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::policy::Direction;
use ipnet::IpNet;

use super::cluster_policy::{Said, tier};
use crate::world::{Attached, IntOrString, IpBlock, LabelRequirement, LabelSelector, Labels, NetworkPolicy, Peer, Pod, PolicyPort, World};

/// One end of a connection, as it is seen at the pods' interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Whoever has this address.
    Address(IpAddr),
    /// A process in this node's own namespace.
    OwnNode(IpAddr),
}

impl End {
    fn ip(self) -> IpAddr {
        match self {
            End::Address(ip) | End::OwnNode(ip) => ip,
        }
    }
}

/// What stops a packet for or from a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// It cannot be said yet, or any more, which policies the pod has.
    Closed,
    /// A rule of the Admin tier.
    Admin,
    /// NetworkPolicies select the pod, and none of them lets it through.
    NetworkPolicies,
    /// A rule of the Baseline tier.
    Baseline,
}

/// Whether this node lets the first packet of a connection through. `protocol` is an IANA number, `port` the destination's.
pub fn allowed(world: &World, src: End, dst: End, protocol: u8, port: Option<u16>) -> bool {
    stopped_by(world, src, dst, protocol, port).is_none()
}

/// What stops the first packet of a connection on this node, and for which pod: the one that sends is asked first.
pub fn stopped_by(world: &World, src: End, dst: End, protocol: u8, port: Option<u16>) -> Option<(By, Direction)> {
    let source = match src {
        End::Address(ip) => attachment(world, ip),
        End::OwnNode(_) => None,
    };
    let destination = match dst {
        End::Address(ip) => attachment(world, ip),
        End::OwnNode(_) => None,
    };
    let closed = |end: &Attached| end.intent.pod.is_some() && pod_of(world, end).is_none_or(|pod| !is_placed(world, pod));
    if let (Some(source), Some(destination)) = (source, destination)
        && source.intent.host_ifname == destination.intent.host_ifname
        && !closed(source)
    {
        return None;
    }
    let packet = Packet { src: src.ip(), dst: dst.ip(), protocol, port };
    let own_node = matches!(src, End::OwnNode(_));
    for (end, direction) in [(source, Direction::Egress), (destination, Direction::Ingress)] {
        let Some(end) = end else { continue };
        if closed(end) {
            return Some((By::Closed, direction));
        }
        let judged = !(own_node && direction == Direction::Ingress);
        let by = pod_of(world, end).filter(|_| judged).and_then(|pod| tiers(world, pod, direction, &packet));
        if let Some(by) = by {
            return Some((by, direction));
        }
    }
    None
}

pub(super) struct Packet {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
}

/// Whether it can be said which ClusterNetworkPolicies are about a pod: not while its namespace's labels are unknown.
fn is_placed(world: &World, pod: &Pod) -> bool {
    let mut namespaces = world.namespaces().values();
    world.cluster_policies().is_empty() || namespaces.any(|namespace| namespace.metadata.name == pod.metadata.namespace)
}

/// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier"; "v1.NetworkPolicy always makes a final
/// decision for selected pods"; what no tier decides passes.
fn tiers(world: &World, pod: &Pod, direction: Direction, packet: &Packet) -> Option<By> {
    match tier(world, "Admin", pod, direction, packet) {
        Said::Accept => return None,
        Said::Deny => return Some(By::Admin),
        Said::Pass | Said::Nothing => {}
    }
    let network_policies = match direction {
        Direction::Ingress => enters(world, pod, packet),
        Direction::Egress => leaves(world, pod, packet),
    };
    match network_policies {
        Some(true) => None,
        Some(false) => Some(By::NetworkPolicies),
        None => (tier(world, "Baseline", pod, direction, packet) == Said::Deny).then_some(By::Baseline),
    }
}

/// "If no policies select a pod for ingress, all ingress is allowed": else at least one rule of one policy must match. None where no policy
/// selects it.
fn enters(world: &World, pod: &Pod, packet: &Packet) -> Option<bool> {
    let mut isolated = false;
    for policy in world.policies().values().filter(|policy| selects(policy, pod)) {
        if !directions(policy).0 {
            continue;
        }
        isolated = true;
        if !readable(policy) {
            continue;
        }
        for rule in policy.spec.ingress.iter().flatten() {
            let from = rule.from.as_deref().unwrap_or(&[]);
            let ports = rule.ports.as_deref().unwrap_or(&[]);
            if any_peer(world, policy, from, packet.src) && any_port(world, ports, packet) {
                return Some(true);
            }
        }
    }
    isolated.then_some(false)
}

/// The same for egress.
fn leaves(world: &World, pod: &Pod, packet: &Packet) -> Option<bool> {
    let mut isolated = false;
    for policy in world.policies().values().filter(|policy| selects(policy, pod)) {
        if !directions(policy).1 {
            continue;
        }
        isolated = true;
        if !readable(policy) {
            continue;
        }
        for rule in policy.spec.egress.iter().flatten() {
            let to = rule.to.as_deref().unwrap_or(&[]);
            let ports = rule.ports.as_deref().unwrap_or(&[]);
            if any_peer(world, policy, to, packet.dst) && any_port(world, ports, packet) {
                return Some(true);
            }
        }
    }
    isolated.then_some(false)
}

/// Whether the policy says anything about (ingress, egress).
fn directions(policy: &NetworkPolicy) -> (bool, bool) {
    let types = &policy.spec.policy_types;
    if !readable(policy) || types.iter().any(|text| &**text != "Ingress" && &**text != "Egress") {
        return (true, true);
    }
    if types.is_empty() {
        return (true, policy.spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
    }
    (types.iter().any(|text| &**text == "Ingress"), types.iter().any(|text| &**text == "Egress"))
}

fn readable(policy: &NetworkPolicy) -> bool {
    policy.unreadable.is_none() && sound(&policy.spec.pod_selector)
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let selector = &policy.spec.pod_selector;
    policy.metadata.namespace == pod.metadata.namespace
        && selector.match_labels.iter().all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
        && selector.match_expressions.iter().filter(|r| known(r)).all(|r| holds(r, &pod.metadata.labels))
}

/// "If this field is empty or missing, this rule matches all."
fn any_peer(world: &World, policy: &NetworkPolicy, peers: &[Peer], ip: IpAddr) -> bool {
    peers.is_empty() || peers.iter().any(|peer| peer_matches(world, policy, peer, ip))
}

fn peer_matches(world: &World, policy: &NetworkPolicy, peer: &Peer, ip: IpAddr) -> bool {
    if let Some(block) = &peer.ip_block {
        return peer.pod_selector.is_none() && peer.namespace_selector.is_none() && in_block(block, ip);
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return false;
    }
    let Some(pod) = pod_at(world, ip) else { return false };
    let namespace_fits = match &peer.namespace_selector {
        None => pod.metadata.namespace == policy.metadata.namespace,
        Some(selector) => {
            let mut namespaces = world.namespaces().values();
            let namespace = namespaces.find(|namespace| namespace.metadata.name == pod.metadata.namespace);
            namespace.is_some_and(|namespace| chooses(selector, &namespace.metadata.labels))
        }
    };
    namespace_fits && peer.pod_selector.as_ref().is_none_or(|selector| chooses(selector, &pod.metadata.labels))
}

fn in_block(block: &IpBlock, ip: IpAddr) -> bool {
    let Some(cidr) = network(&block.cidr) else { return false };
    let mut holes = Vec::new();
    for text in &block.except {
        match network(text) {
            Some(hole) if cidr.contains(&hole) => holes.push(hole),
            _ => return false,
        }
    }
    cidr.contains(&ip) && !holes.iter().any(|hole| hole.contains(&ip))
}

pub(super) fn network(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    match net {
        IpNet::V6(v6) if v6.network().to_ipv4_mapped().is_some() => None,
        IpNet::V4(_) | IpNet::V6(_) => Some(net),
    }
}

/// "If this field is empty or missing, this rule matches all ports."
fn any_port(world: &World, ports: &[PolicyPort], packet: &Packet) -> bool {
    ports.is_empty() || ports.iter().any(|port| port_matches(world, port, packet))
}

fn port_matches(world: &World, wanted: &PolicyPort, packet: &Packet) -> bool {
    let number = match wanted.protocol.as_deref() {
        None | Some("TCP") => 6,
        Some("UDP") => 17,
        Some("SCTP") => 132,
        Some(_) => return false,
    };
    if number != packet.protocol {
        return false;
    }
    match (&wanted.port, wanted.end_port, packet.port) {
        (None, None, _) => true,
        (Some(IntOrString::Int(first)), None, Some(port)) => *first == i64::from(port),
        (Some(IntOrString::Int(first)), Some(last), Some(port)) => {
            (1..=65_535).contains(first) && (*first..=65_535).contains(&last) && (*first..=last).contains(&i64::from(port))
        }
        (Some(IntOrString::Name(name)), None, Some(port)) => pod_at(world, packet.dst).is_some_and(|pod| declares(pod, name, number, port)),
        _ => false,
    }
}

/// Whether a container of the pod has a port of this name, protocol and number; a sidecar counts, another init container does not.
pub(super) fn declares(pod: &Pod, name: &str, protocol: u8, number: u16) -> bool {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports).any(|port| {
        let of = match port.protocol.as_deref() {
            None | Some("TCP") => 6,
            Some("UDP") => 17,
            Some("SCTP") => 132,
            Some(_) => 0,
        };
        port.name.as_deref() == Some(name) && of == protocol && port.container_port == i64::from(number)
    })
}

pub(super) fn chooses(selector: &LabelSelector, labels: &Labels) -> bool {
    sound(selector)
        && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|requirement| holds(requirement, labels))
}

pub(super) fn sound(selector: &LabelSelector) -> bool {
    selector.match_expressions.iter().all(known)
}

pub(super) fn known(requirement: &LabelRequirement) -> bool {
    !requirement.key.is_empty()
        && match &*requirement.operator {
            "In" | "NotIn" => !requirement.values.is_empty(),
            "Exists" | "DoesNotExist" => requirement.values.is_empty(),
            _ => false,
        }
}

pub(super) fn holds(requirement: &LabelRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let listed = value.is_some_and(|value| requirement.values.contains(value));
    match &*requirement.operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn attachment(world: &World, ip: IpAddr) -> Option<&Attached> {
    let mut all = world.attached().values();
    all.find(|attached| attached.intent.ips.values().any(|own| *own == ip)).map(AsRef::as_ref)
}

/// The pod of an attachment, if it is known by name and is not another of the same name.
fn pod_of<'a>(world: &'a World, attached: &Attached) -> Option<&'a Pod> {
    let name = attached.intent.pod.as_ref()?;
    let mut pods = world.pods().values();
    let pod = pods.find(|pod| pod.metadata.namespace == name.namespace && pod.metadata.name == name.name)?;
    let uid = attached.pod_uid.as_deref().unwrap_or_default();
    let mirrors = ["kubernetes.io/config.mirror", "kubernetes.io/config.hash"];
    let mirrored = || mirrors.iter().any(|key| pod.metadata.annotations.get(*key).is_some_and(|known| &**known == uid));
    let same = uid.is_empty() || pod.metadata.uid.as_deref() == Some(uid) || mirrored();
    (same && !pod.spec.host_network).then_some(pod)
}

/// The living pod that has an address: what is attached here goes before what statuses say, and the newest of those counts.
pub(super) fn pod_at(world: &World, ip: IpAddr) -> Option<&Pod> {
    let live = |pod: &&Pod| !matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if let Some(attached) = attachment(world, ip) {
        return pod_of(world, attached).filter(live);
    }
    let attached_here = |pod: &Pod| {
        let mut all = world.attached().values();
        all.any(|attached| {
            pod_of(world, attached)
                .is_some_and(|of| (&of.metadata.namespace, &of.metadata.name) == (&pod.metadata.namespace, &pod.metadata.name))
        })
    };
    let says = |pod: &&Pod| {
        let first = pod.status.pod_ip.clone().filter(|_| pod.status.pod_ips.is_empty());
        let texts: Vec<Arc<str>> = pod.status.pod_ips.iter().map(|ip| ip.ip.clone()).chain(first).collect();
        texts.iter().any(|text| text.parse::<IpAddr>().is_ok_and(|known| known == ip))
    };
    let mut holders: Vec<&Pod> = world.pods().values().map(AsRef::as_ref).filter(live).filter(says).collect();
    holders.retain(|pod| !pod.spec.host_network && !attached_here(pod));
    holders.sort_by_key(|pod| {
        let made = pod.metadata.creation_timestamp.clone();
        (made.is_none(), made, pod.metadata.namespace.clone(), pod.metadata.name.clone())
    });
    holders.pop()
}

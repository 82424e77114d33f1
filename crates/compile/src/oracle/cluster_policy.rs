//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), judged one packet at a time.
//!
//! "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules, fail closed means: treat the rule as a
//! Deny all rule." What is not known of a subject, an action, a tier or the object's form is taken the same way.

use std::net::IpAddr;

use bowline_model::intent::policy::Direction;

use super::policy::{Packet, chooses, declares, holds, known, network, pod_at, sound};
use crate::world::{
    ClusterNetworkPolicy, ClusterPolicyPeer, ClusterPolicyProtocol, ClusterPolicyRule, LabelSelector, Labels, NamespacedPods, Pod, World,
};

/// What a tier says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Accept,
    Deny,
    Pass,
    Nothing,
}

/// "Policies with lower priority values have higher precedence"; "a rule that appears at the top [...] would take the highest precedence".
/// Of equal priorities the API says that any may be applied; here it is the one whose name comes first.
pub(super) fn tier(world: &World, tier: &str, pod: &Pod, direction: Direction, packet: &Packet) -> Said {
    let mut policies: Vec<&ClusterNetworkPolicy> = world.cluster_policies().values().map(AsRef::as_ref).collect();
    policies.retain(|policy| if tier == "Admin" { &*policy.spec.tier != "Baseline" } else { &*policy.spec.tier == tier });
    policies.sort_by_key(|policy| (policy.spec.priority.unwrap_or(0), policy.metadata.name.clone()));
    for policy in policies {
        let Some(sure) = selects(world, policy, pod) else { continue };
        if policy.unreadable.is_some() || (&*policy.spec.tier != "Admin" && &*policy.spec.tier != "Baseline") {
            return Said::Deny;
        }
        let rules = match direction {
            Direction::Ingress => &policy.spec.ingress,
            Direction::Egress => &policy.spec.egress,
        };
        for rule in rules {
            let said = judge(world, tier, rule, sure, direction, packet);
            if said != Said::Nothing {
                return said;
            }
        }
    }
    Said::Nothing
}

/// Whether the policy may be about the pod, and then whether that is sure.
fn selects(world: &World, policy: &ClusterNetworkPolicy, pod: &Pod) -> Option<bool> {
    let namespace = namespace_labels(world, pod)?;
    let all = LabelSelector::default();
    let subject = &policy.spec.subject;
    let (namespaces, pods, complete) = match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => (namespaces, &all, true),
        // "If empty, it selects all Namespaces", and it is optional.
        (None, Some(NamespacedPods { namespace_selector, pod_selector })) => {
            (namespace_selector.as_ref().unwrap_or(&all), pod_selector.as_ref().unwrap_or(&all), pod_selector.is_some())
        }
        (None, None) | (Some(_), Some(_)) => (&all, &all, false),
    };
    let sure = complete && sound(namespaces) && sound(pods);
    (may_choose(namespaces, namespace) && may_choose(pods, &pod.metadata.labels)).then_some(sure)
}

fn namespace_labels<'w>(world: &'w World, pod: &Pod) -> Option<&'w Labels> {
    let mut namespaces = world.namespaces().values();
    namespaces.find(|namespace| namespace.metadata.name == pod.metadata.namespace).map(|namespace| &*namespace.metadata.labels)
}

/// Whether what can be read of a selector holds.
fn may_choose(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().filter(|r| known(r)).all(|r| holds(r, labels))
}

fn judge(world: &World, tier: &str, rule: &ClusterPolicyRule, sure: bool, direction: Direction, packet: &Packet) -> Said {
    let peers = match direction {
        Direction::Ingress => &rule.from,
        Direction::Egress => &rule.to,
    };
    let clear = !peers.is_empty()
        && peers.iter().all(|peer| peer_is_clear(peer, direction))
        && rule.protocols.iter().all(|protocol| protocol_is_clear(protocol, peers));
    if !sure || !clear {
        return if &*rule.action == "Accept" { Said::Nothing } else { Said::Deny };
    }
    let other = match direction {
        Direction::Ingress => packet.src,
        Direction::Egress => packet.dst,
    };
    let of_protocol = rule.protocols.is_empty() || rule.protocols.iter().any(|protocol| protocol_takes(world, protocol, packet));
    if !of_protocol || !peers.iter().any(|peer| peer_takes(world, peer, other)) {
        return if may_mean(world, tier, rule, peers, direction, packet) { Said::Deny } else { Said::Nothing };
    }
    match &*rule.action {
        "Accept" => Said::Accept,
        "Pass" => Said::Pass,
        _ => Said::Deny,
    }
}

/// Whether a rule that closes would take the packet if the pod behind an address were known of which nobody knows yet whose it is. The API says nothing of
/// pods that are so new; what is true is that a rule that denies them, or leaves them to others who may, has to.
fn may_mean(
    world: &World,
    tier: &str,
    rule: &ClusterPolicyRule,
    peers: &[ClusterPolicyPeer],
    direction: Direction,
    packet: &Packet,
) -> bool {
    let closes = match &*rule.action {
        "Accept" => false,
        "Pass" => tier == "Admin",
        _ => true,
    };
    let (egress, other) = match direction {
        Direction::Ingress => (false, packet.src),
        Direction::Egress => (true, packet.dst),
    };
    // What ports of the pod are called is as unknown as the pod.
    let may_have = |protocol: &ClusterPolicyProtocol| {
        let named = protocol.destination_named_port.as_deref().is_some_and(|name| !name.is_empty());
        named && egress && packet.port.is_some() && [6, 17, 132].contains(&packet.protocol)
    };
    let mut protocols = rule.protocols.iter();
    closes
        && peers.iter().any(|peer| peer.pods.is_some() || peer.namespaces.is_some())
        && (rule.protocols.is_empty() || protocols.any(|protocol| may_have(protocol) || protocol_takes(world, protocol, packet)))
        && is_nobodys(world, other)
}

/// Whether an address is one that pods can have, and neither a node's nor of a pod of which everything is known.
fn is_nobodys(world: &World, ip: IpAddr) -> bool {
    let subnets = || world.nodes().values().flat_map(|node| node.spec.subnets()).filter_map(|text| network(text));
    let configured = &world.settings().cluster_cidrs;
    let of_pods =
        if configured.is_empty() { subnets().any(|net| net.contains(&ip)) } else { configured.iter().any(|net| net.contains(&ip)) };
    let of_node = || world.nodes().values().any(|node| node.status.addresses.iter().any(|address| address.address.parse() == Ok(ip)));
    of_pods
        && !of_node()
        && !subnets().any(|net| no_pod_gets(&net, ip))
        && pod_at(world, ip).is_none_or(|pod| namespace_labels(world, pod).is_none())
}

/// The first address of a subnet and the next one, where there are more than two.
fn no_pod_gets(subnet: &ipnet::IpNet, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    subnet.contains(&ip) && subnet.max_prefix_len() - subnet.prefix_len() > 1 && bits(ip) - bits(subnet.network()) < 2
}

/// "Exactly one of the fields must be set for a given peer."
fn peer_is_clear(peer: &ClusterPolicyPeer, direction: Direction) -> bool {
    let pods_clear =
        |pods: &NamespacedPods| pods.namespace_selector.as_ref().is_none_or(sound) && pods.pod_selector.as_ref().is_some_and(sound);
    let egress = direction == Direction::Egress;
    match peer {
        ClusterPolicyPeer { namespaces: Some(namespaces), pods: None, nodes: None, networks: None, domain_names: None } => {
            sound(namespaces)
        }
        ClusterPolicyPeer { namespaces: None, pods: Some(pods), nodes: None, networks: None, domain_names: None } => pods_clear(pods),
        ClusterPolicyPeer { namespaces: None, pods: None, nodes: Some(nodes), networks: None, domain_names: None } => {
            egress && sound(nodes)
        }
        ClusterPolicyPeer { namespaces: None, pods: None, nodes: None, networks: Some(networks), domain_names: None } => {
            egress && !networks.is_empty() && networks.iter().all(|text| network(text).is_some())
        }
        _ => false,
    }
}

fn protocol_is_clear(protocol: &ClusterPolicyProtocol, peers: &[ClusterPolicyPeer]) -> bool {
    let named = protocol.destination_named_port.as_deref().unwrap_or("");
    let ports = [&protocol.tcp, &protocol.udp, &protocol.sctp].map(|ports| ports.iter().collect::<Vec<_>>()).concat();
    if !named.is_empty() {
        return ports.is_empty() && peers.iter().all(|peer| peer.nodes.is_none() && peer.networks.is_none());
    }
    let [only] = ports.as_slice() else { return false };
    let good = |port: i64| (1..=65_535).contains(&port);
    let Some(port) = &only.destination_port else { return false };
    match (port.number, &port.range) {
        (Some(number), None) => good(number),
        (None, Some(range)) => good(range.start) && good(range.end) && range.start < range.end,
        _ => false,
    }
}

fn protocol_takes(world: &World, protocol: &ClusterPolicyProtocol, packet: &Packet) -> bool {
    let Some(port) = packet.port else { return false };
    if let Some(name) = protocol.destination_named_port.as_deref().filter(|name| !name.is_empty()) {
        return pod_at(world, packet.dst).is_some_and(|pod| declares(pod, name, packet.protocol, port));
    }
    let of = |number: u8, ports: &Option<crate::world::ProtocolPorts>| {
        packet.protocol == number
            && ports.as_ref().and_then(|ports| ports.destination_port.as_ref()).is_some_and(|wanted| {
                wanted.number == Some(i64::from(port))
                    || wanted.range.as_ref().is_some_and(|range| (range.start..=range.end).contains(&i64::from(port)))
            })
    };
    of(6, &protocol.tcp) || of(17, &protocol.udp) || of(132, &protocol.sctp)
}

fn peer_takes(world: &World, peer: &ClusterPolicyPeer, ip: IpAddr) -> bool {
    let all = LabelSelector::default();
    if let Some(networks) = &peer.networks {
        return networks.iter().filter_map(|text| network(text)).any(|net| net.contains(&ip));
    }
    if let Some(nodes) = &peer.nodes {
        // "It selects the nodeIPs [...] by matching on the IPs present in the node.Status.Addresses field of the node."
        let mut chosen = world.nodes().values().filter(|node| chooses(nodes, &node.metadata.labels));
        return chosen.any(|node| node.status.addresses.iter().any(|address| address.address.parse() == Ok(ip)));
    }
    let (namespaces, pods) = match (&peer.namespaces, &peer.pods) {
        (Some(namespaces), _) => (namespaces, &all),
        (None, Some(pods)) => (pods.namespace_selector.as_ref().unwrap_or(&all), pods.pod_selector.as_ref().unwrap_or(&all)),
        (None, None) => return false,
    };
    let Some(pod) = pod_at(world, ip) else { return false };
    namespace_labels(world, pod).is_some_and(|labels| chooses(namespaces, labels)) && chooses(pods, &pod.metadata.labels)
}

//! Judges a packet by the intent, as the kernel must: fast enough to go through all connections after a change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::pods::{PodIntent, PodsIntent};
use bowline_model::intent::policy::{Action, Direction, Peers, PodPolicy, PodSide, PolicyIntent, PortMatch, TierRule};
use bowline_model::{ClusterPolicyName, PolicyName};

/// The first packet of a connection, with the addresses that it has at the pods' interfaces (destination translated, source not).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol number (IANA).
    pub protocol: u8,
    /// Destination port, where the protocol has ports.
    pub dst_port: Option<u16>,
    /// Host interface that it comes from; if absent, that of the pod with the source address.
    pub ingress_ifname: Option<Arc<str>>,
    /// Host interface that it goes to; if absent, that of the pod with the destination address.
    pub egress_ifname: Option<Arc<str>>,
    /// Whether a process in the node's own namespace sent it.
    pub from_own_node: bool,
}

impl Flow {
    /// A flow told by its addresses alone.
    pub fn between(src: IpAddr, dst: IpAddr, protocol: u8, dst_port: Option<u16>) -> Self {
        Flow { src, dst, protocol, dst_port, ingress_ifname: None, egress_ifname: None, from_own_node: false }
    }
}

/// Why a packet passes or does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No policy is about it.
    NoPolicy,
    /// A pod talks to itself.
    Itself,
    /// The pod's own node sent it.
    OwnNode,
    /// A pod whose policy is not known yet is closed.
    Closed(Direction),
    /// This policy lets it through.
    AllowedBy(PolicyName, Direction),
    /// None of these policies lets it through.
    DeniedBy(Vec<PolicyName>, Direction),
    /// This ClusterNetworkPolicy's rule decides, told by its label; `Pass` in the Baseline tier, after which nothing is asked.
    Ruled(ClusterPolicyName, Arc<str>, Action, Direction),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// Whether it passes.
    pub allowed: bool,
    /// Why.
    pub by: Reason,
}

/// Judges flows; finding pods by address is prepared once.
#[derive(Debug)]
pub struct Judge<'a> {
    policy: &'a PolicyIntent,
    pods: &'a PodsIntent,
    by_address: BTreeMap<IpAddr, &'a Arc<PodIntent>>,
}

/// Judges one flow. For many, keep a [`Judge`].
pub fn judge(policy: &PolicyIntent, pods: &PodsIntent, packet: &Flow) -> Verdict {
    Judge::new(policy, pods).verdict(packet)
}

impl<'a> Judge<'a> {
    /// A judge over this node's pods.
    pub fn new(policy: &'a PolicyIntent, pods: &'a PodsIntent) -> Self {
        let each = pods.pods.values().flat_map(|pod| pod.ips.values().map(move |ip| (*ip, pod)));
        Judge { policy, pods, by_address: each.collect() }
    }

    /// What becomes of a packet on this node: egress of its source first, then ingress of its destination.
    pub fn verdict(&self, packet: &Flow) -> Verdict {
        let find = |ifname: &Option<Arc<str>>, address: &IpAddr| match ifname {
            Some(ifname) => self.pods.pods.get(ifname),
            None => self.by_address.get(address).copied(),
        };
        let source = if packet.from_own_node { None } else { find(&packet.ingress_ifname, &packet.src) };
        let destination = find(&packet.egress_ifname, &packet.dst);
        for (pod, direction) in [(source, Direction::Egress), (destination, Direction::Ingress)] {
            if pod.is_some_and(|pod| self.pod_policy(pod).is_none()) {
                return Verdict { allowed: false, by: Reason::Closed(direction) };
            }
        }
        if source.is_some() && source == destination {
            return Verdict { allowed: true, by: Reason::Itself };
        }
        let egress = self.direction(source, Direction::Egress, packet, &packet.dst);
        if !egress.allowed {
            return egress;
        }
        if packet.from_own_node {
            return Verdict { allowed: true, by: Reason::OwnNode };
        }
        let ingress = self.direction(destination, Direction::Ingress, packet, &packet.src);
        if ingress.by == Reason::NoPolicy { egress } else { ingress }
    }

    fn pod_policy(&self, pod: &PodIntent) -> Option<&'a PodPolicy> {
        self.policy.pods.get(&pod.host_ifname).map(|policy| &**policy)
    }

    fn direction(&self, pod: Option<&Arc<PodIntent>>, direction: Direction, packet: &Flow, peer: &IpAddr) -> Verdict {
        let open = Verdict { allowed: true, by: Reason::NoPolicy };
        let Some(PodSide { admin, policies, baseline }) = pod.and_then(|pod| self.pod_policy(pod)).map(|policy| policy.side(direction))
        else {
            return open;
        };
        let ruled = |name: &ClusterPolicyName, rule: &TierRule| {
            let by = Reason::Ruled(name.clone(), rule.label.clone(), rule.action, direction);
            Verdict { allowed: rule.action != Action::Deny, by }
        };
        if let Some((name, rule)) = self.first(admin, direction, packet, peer).filter(|(_, rule)| rule.action != Action::Pass) {
            return ruled(name, rule);
        }
        if let Some(policies) = policies {
            return self.policies(policies, direction, packet, peer);
        }
        self.first(baseline, direction, packet, peer).map_or(open, |(name, rule)| ruled(name, rule))
    }

    /// The first rule of a tier that takes the packet.
    fn first<'p>(
        &self,
        tier: &'p [ClusterPolicyName],
        direction: Direction,
        packet: &Flow,
        peer: &IpAddr,
    ) -> Option<(&'p ClusterPolicyName, &'a TierRule)> {
        tier.iter().find_map(|name| {
            let rules = self.policy.tiers.get(&(name.clone(), direction))?;
            let rule = rules.rules.iter().find(|rule| self.matches(&rule.peers, rule.ports.as_deref(), packet, peer))?;
            Some((name, rule))
        })
    }

    fn policies(&self, policies: &[PolicyName], direction: Direction, packet: &Flow, peer: &IpAddr) -> Verdict {
        let lets = |name: &&PolicyName| {
            let rules = self.policy.rules.get(&((*name).clone(), direction));
            rules.is_some_and(|rules| rules.rules.iter().any(|rule| self.matches(&rule.peers, rule.ports.as_deref(), packet, peer)))
        };
        match policies.iter().find(lets) {
            Some(name) => Verdict { allowed: true, by: Reason::AllowedBy(name.clone(), direction) },
            None => Verdict { allowed: false, by: Reason::DeniedBy(policies.to_vec(), direction) },
        }
    }

    fn matches(&self, peers: &Peers, ports: Option<&[PortMatch]>, packet: &Flow, peer: &IpAddr) -> bool {
        let in_set = |id| self.policy.sets.get(id).is_some_and(|set| set.contains(peer));
        let peers = match peers {
            Peers::Any => true,
            Peers::Unknown { known } => self.policy.pod_networks.iter().any(|net| net.contains(peer)) && !known.iter().any(in_set),
            Peers::OneOf { sets, blocks } => {
                sets.iter().any(in_set)
                    || blocks.iter().any(|block| block.cidr.contains(peer) && !block.except.iter().any(|hole| hole.contains(peer)))
            }
        };
        peers && ports.is_none_or(|ports| ports.iter().any(|port| self.port_matches(port, packet)))
    }

    fn port_matches(&self, port: &PortMatch, packet: &Flow) -> bool {
        match port {
            PortMatch::All(protocol) => protocol.number() == packet.protocol,
            PortMatch::Range { protocol, from, to } => {
                let inside = packet.dst_port.is_some_and(|port| (*from..=*to).contains(&port));
                protocol.number() == packet.protocol && inside
            }
            PortMatch::Named(id) => {
                let Some(port) = packet.dst_port else { return false };
                let set = self.policy.named_ports.get(id);
                set.is_some_and(|set| {
                    let mut known = crate::PROTOCOLS.into_iter().filter(|known| known.number() == packet.protocol);
                    known.any(|known| set.contains(&(packet.dst, known, port)))
                })
            }
        }
    }
}

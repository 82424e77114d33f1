//! One policy's rules in one direction: a chain that accepts what they let through and otherwise comes back.
//!
//! Everything that a policy needs beside the shared sets carries its name, so that a change of one policy touches nothing of another.

use std::sync::Arc;

use bowline_model::intent::policy::{Block, Direction, Peers, PolicyIntent, PolicyRule, PolicyRules, PortMatch, SetId};
use bowline_model::{Family, PolicyName, Protocol};
use imbl::ordmap::DiffItem;
use sha2::{Digest, Sha256};

use super::sets;
use crate::change::{Change, Objects, intervals_of};
use crate::expr::Part::{Daddr, Dport, L4Proto, Saddr};
use crate::expr::{RuleBuilder, ip_field, named, rule};
use crate::interval::{self, Interval};
use crate::objects::nft::{Field, KeyBuilder, Rule};

/// Names longer than this are cut and told apart by a digest: the kernel takes 255 bytes, and a namespace (63) always stays whole.
const NAME_BYTES: usize = 120;
/// More ranges of one protocol than this in a rule become a set.
const RANGES_AS_RULES: usize = 3;

/// 64 bits of SHA-256: names are given by people who may want them to collide.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The chain of a policy's rules.
pub(super) fn chain(direction: Direction, policy: &PolicyName) -> Arc<str> {
    let stem = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    let name = policy.to_string();
    match name.get(..NAME_BYTES) {
        Some(start) if name.len() > NAME_BYTES => format!("{stem}/{start}.{}", digest(&name)).into(),
        _ => format!("{stem}/{name}").into(),
    }
}

/// Lowers the policies whose rules changed, or whose sets came or went.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, change: &mut Change) {
    let sets = sets::appeared_or_gone(old, new);
    if !sets.is_empty() {
        for (key, rules) in new.rules.iter().filter(|(_, rules)| names_any(rules, &sets)) {
            if let Some(was) = old.rules.get(key) {
                lower_one(key, was, old, &mut change.old);
            }
            lower_one(key, rules, new, &mut change.new);
        }
    }
    for item in old.rules.diff(&new.rules) {
        let (key, was, is) = match item {
            DiffItem::Add(key, is) => (key, None, Some(is)),
            DiffItem::Remove(key, was) => (key, Some(was), None),
            DiffItem::Update { old: (key, was), new: (_, is) } => (key, Some(was), Some(is)),
        };
        was.into_iter().for_each(|rules| lower_one(key, rules, old, &mut change.old));
        is.into_iter().for_each(|rules| lower_one(key, rules, new, &mut change.new));
    }
}

fn names_any(rules: &PolicyRules, ids: &std::collections::BTreeSet<SetId>) -> bool {
    rules.rules.iter().any(|rule| {
        let peers = match &rule.peers {
            Peers::Any => false,
            Peers::OneOf { sets, .. } => sets.iter().any(|id| ids.contains(id)),
        };
        peers || rule.ports.iter().flatten().any(|port| matches!(port, PortMatch::Named(id) if ids.contains(id)))
    })
}

/// One alternative of a rule's peers or ports.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    Anything,
    Peer(Family, Arc<str>),
    Protocol(Protocol),
    Ports(Protocol, u16, u16),
    PortSet(Protocol, Arc<str>),
    NamedPort(Family, Arc<str>),
}

impl Match {
    fn family(&self) -> Option<Family> {
        match self {
            Match::Peer(family, _) | Match::NamedPort(family, _) => Some(*family),
            Match::Anything | Match::Protocol(_) | Match::Ports(..) | Match::PortSet(..) => None,
        }
    }

    fn add_to(&self, packets: RuleBuilder, direction: Direction) -> RuleBuilder {
        match self {
            Match::Anything => packets,
            Match::Peer(family, set) => {
                let other_end = match direction {
                    Direction::Ingress => Saddr(*family),
                    Direction::Egress => Daddr(*family),
                };
                packets.family(*family).in_set(set, &[other_end])
            }
            Match::Protocol(protocol) => packets.protocol(*protocol),
            Match::Ports(protocol, from, to) if from == to => packets.protocol(*protocol).dport(*from),
            Match::Ports(protocol, from, to) => packets.protocol(*protocol).dports(*from, *to),
            Match::PortSet(protocol, set) => packets.protocol(*protocol).in_set(set, &[Dport]),
            Match::NamedPort(family, set) => packets.family(*family).in_set(set, &[Daddr(*family), L4Proto, Dport]),
        }
    }
}

fn lower_one((policy, direction): &(PolicyName, Direction), rules: &PolicyRules, sets: &PolicyIntent, objects: &mut Objects) {
    let chain = chain(*direction, policy);
    let name = policy.to_string();
    let mut lowered: Vec<Rule> = Vec::new();
    for (index, rule_intent) in rules.rules.iter().enumerate() {
        let place = format!("{chain}/{index}");
        let peers = peer_matches(&rule_intent.peers, &place, sets, objects);
        let ports = port_matches(rule_intent, &place, sets, objects);
        if peers.len() > 1 && ports.len() > 1 {
            // Peers first, then ports in a chain of their own: their sum in rules, not their product.
            let inner = ports.iter().map(|m| m.add_to(rule(), *direction).accept().saying(&name)).collect();
            objects.chain(place.clone(), inner);
            lowered.extend(peers.iter().map(|m| m.add_to(rule(), *direction).jump(place.clone()).saying(&name)));
        } else {
            let pairs = peers.iter().flat_map(|peer| ports.iter().map(move |port| (peer, port)));
            let possible = pairs.filter(|(peer, port)| peer.family().zip(port.family()).is_none_or(|(a, b)| a == b));
            let accept = |(peer, port): (&Match, &Match)| port.add_to(peer.add_to(rule(), *direction), *direction).accept().saying(&name);
            lowered.extend(possible.map(accept));
        }
    }
    objects.chain(chain, lowered);
}

/// The peers' alternatives. A set that is not there matches nothing; nothing can name it.
fn peer_matches(peers: &Peers, place: &str, intent: &PolicyIntent, objects: &mut Objects) -> Vec<Match> {
    let (ids, blocks) = match peers {
        Peers::Any => return vec![Match::Anything],
        Peers::OneOf { sets, blocks } => (sets, blocks),
    };
    let known = ids.iter().filter(|id| intent.sets.contains_key(*id));
    let mut matches: Vec<Match> = known.flat_map(|id| Family::BOTH.map(|f| Match::Peer(f, sets::name(id, f)))).collect();
    for family in Family::BOTH {
        let left = interval::merge(blocks_of(blocks, family));
        if !left.is_empty() {
            let set = named(&format!("{place}/block"), family);
            objects.set(set.clone(), intervals_of(ip_field(family)));
            for i in left {
                objects.interval(set.clone(), interval::key(family, i.first), interval::key(family, i.last));
            }
            matches.push(Match::Peer(family, set));
        }
    }
    matches
}

fn blocks_of(blocks: &[Block], family: Family) -> Vec<Interval> {
    blocks.iter().filter(|b| Family::of_prefix(&b.cidr) == family).flat_map(|b| interval::without(&b.cidr, &b.except)).collect()
}

/// The ports' alternatives. A rule without ports takes ICMP and everything else too; one with ports never does.
fn port_matches(rule: &PolicyRule, place: &str, intent: &PolicyIntent, objects: &mut Objects) -> Vec<Match> {
    let Some(ports) = &rule.ports else { return vec![Match::Anything] };
    let mut matches = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        if ports.contains(&PortMatch::All(protocol)) {
            matches.push(Match::Protocol(protocol));
            continue;
        }
        let ranges = interval::merge(ports.iter().filter_map(|port| range_of(port, protocol)).collect());
        let numbers = ranges.iter().map(|i| (u16::try_from(i.first).unwrap_or(u16::MAX), u16::try_from(i.last).unwrap_or(u16::MAX)));
        if ranges.len() <= RANGES_AS_RULES {
            matches.extend(numbers.map(|(from, to)| Match::Ports(protocol, from, to)));
            continue;
        }
        let set: Arc<str> = format!("{place}/ports{}", protocol.number()).into();
        objects.set(set.clone(), intervals_of(Field::Port));
        for (from, to) in numbers {
            objects.interval(set.clone(), KeyBuilder::new().port(from).build(), KeyBuilder::new().port(to).build());
        }
        matches.push(Match::PortSet(protocol, set));
    }
    for port in ports {
        if let PortMatch::Named(id) = port
            && intent.named_ports.contains_key(id)
        {
            matches.extend(Family::BOTH.map(|f| Match::NamedPort(f, sets::name(id, f))));
        }
    }
    matches
}

fn range_of(port: &PortMatch, wanted: Protocol) -> Option<Interval> {
    match port {
        PortMatch::Range { protocol, from, to } if *protocol == wanted && from <= to => {
            Some(Interval { first: u128::from(*from), last: u128::from(*to) })
        }
        PortMatch::Range { .. } | PortMatch::All(_) | PortMatch::Named(_) => None,
    }
}

//! What rules of policies take, as rules of chains: peers and ports, each by alternatives.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::policy::{Block, Direction, Peers, PolicyIntent, PortMatch, SetId};
use bowline_model::{Family, Protocol};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::sets::{self, POD_NETWORKS};
use crate::change::{Change, Objects, intervals_of};
use crate::expr::Part::{Daddr, Dport, L4Proto, Saddr};
use crate::expr::{RuleBuilder, ip_field, named, rule};
use crate::interval::{self, Interval};
use crate::objects::nft::{Field, KeyBuilder, Rule};

/// More ranges of one protocol than this in a rule become a set.
const RANGES_AS_RULES: usize = 3;

/// A rule of a policy, as it is to be lowered.
pub(super) struct Taken<'a> {
    /// Peers.
    pub(super) peers: &'a Peers,
    /// Ports; none takes everything.
    pub(super) ports: Option<&'a [PortMatch]>,
    /// Direction of the policy.
    pub(super) direction: Direction,
    /// First part of the names of what belongs to this rule alone.
    pub(super) place: &'a str,
    /// What people are shown.
    pub(super) comment: &'a str,
}

impl Taken<'_> {
    /// The rules that take it, each ended by `end`. Gives the rules, and whether the ends are in a chain of their own that the rules call.
    pub(super) fn lower(&self, intent: &PolicyIntent, objects: &mut Objects, end: impl Fn(RuleBuilder) -> Rule) -> (Vec<Rule>, bool) {
        let direction = self.direction;
        let peers = peer_matches(self.peers, self.place, intent, objects);
        let ports = port_matches(self.ports, self.place, intent, objects);
        if peers.len() > 1 && ports.len() > 1 {
            // Peers first, then ports in a chain of their own: their sum in rules, not their product.
            let inner = ports.iter().map(|m| end(m.add_to(rule(), direction)).saying(self.comment)).collect();
            objects.chain(self.place, inner);
            let call = |m: &Match| m.add_to(rule(), direction).jump(self.place).saying(self.comment);
            return (peers.iter().map(call).collect(), true);
        }
        let pairs = peers.iter().flat_map(|peer| ports.iter().map(move |port| (peer, port)));
        let possible = pairs.filter(|(peer, port)| peer.family().zip(port.family()).is_none_or(|(a, b)| a == b));
        let one = |(peer, port): (&Match, &Match)| end(port.add_to(peer.add_to(rule(), direction), direction)).saying(self.comment);
        (possible.map(one).collect(), false)
    }
}

/// Lowers the rules of policies that changed, and of those for which a set that they name came or went: `one` lowers those of a key, by the intent
/// that they are of, and `names` says whether they name one of these sets.
pub(super) fn lower_changed<K: Ord + Clone, V: PartialEq + Clone>(
    (old_rules, old): (&OrdMap<K, V>, &PolicyIntent),
    (new_rules, new): (&OrdMap<K, V>, &PolicyIntent),
    change: &mut Change,
    names: impl Fn(&V, &BTreeSet<SetId>) -> bool,
    one: impl Fn(&K, &V, &PolicyIntent, &mut Objects),
) {
    let sets = sets::appeared_or_gone(old, new);
    if !sets.is_empty() {
        for (key, rules) in new_rules.iter().filter(|(_, rules)| names(rules, &sets)) {
            if let Some(was) = old_rules.get(key) {
                one(key, was, old, &mut change.old);
            }
            one(key, rules, new, &mut change.new);
        }
    }
    for item in old_rules.diff(new_rules) {
        let (key, was, is) = match item {
            DiffItem::Add(key, is) => (key, None, Some(is)),
            DiffItem::Remove(key, was) => (key, Some(was), None),
            DiffItem::Update { old: (key, was), new: (_, is) } => (key, Some(was), Some(is)),
        };
        was.into_iter().for_each(|rules| one(key, rules, old, &mut change.old));
        is.into_iter().for_each(|rules| one(key, rules, new, &mut change.new));
    }
}

/// Whether a rule with these peers and ports names one of these sets.
pub(super) fn names_any(peers: &Peers, ports: Option<&[PortMatch]>, ids: &BTreeSet<SetId>) -> bool {
    let of_peers = match peers {
        Peers::Any => false,
        Peers::OneOf { sets, .. } | Peers::Unknown { known: sets } => sets.iter().any(|id| ids.contains(id)),
    };
    of_peers || ports.unwrap_or_default().iter().any(|port| matches!(port, PortMatch::Named(id) if ids.contains(id)))
}

/// One alternative of a rule's peers or ports.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Match {
    Anything,
    Peer(Family, Arc<str>),
    /// Of the pod networks and of none of these sets.
    Unknown(Family, Vec<Arc<str>>),
    Protocol(Protocol),
    Ports(Protocol, u16, u16),
    PortSet(Protocol, Arc<str>),
    NamedPort(Family, Arc<str>),
}

impl Match {
    fn family(&self) -> Option<Family> {
        match self {
            Match::Peer(family, _) | Match::Unknown(family, _) | Match::NamedPort(family, _) => Some(*family),
            Match::Anything | Match::Protocol(_) | Match::Ports(..) | Match::PortSet(..) => None,
        }
    }

    fn add_to(&self, packets: RuleBuilder, direction: Direction) -> RuleBuilder {
        let other_end = |family: Family| match direction {
            Direction::Ingress => Saddr(family),
            Direction::Egress => Daddr(family),
        };
        match self {
            Match::Anything => packets,
            Match::Peer(family, set) => packets.family(*family).in_set(set, &[other_end(*family)]),
            Match::Unknown(family, known) => {
                let of_pods = packets.family(*family).in_set(&named(POD_NETWORKS, *family), &[other_end(*family)]);
                known.iter().fold(of_pods, |packets, set| packets.not_in_set(set, &[other_end(*family)]))
            }
            Match::Protocol(protocol) => packets.protocol(*protocol),
            Match::Ports(protocol, from, to) if from == to => packets.protocol(*protocol).dport(*from),
            Match::Ports(protocol, from, to) => packets.protocol(*protocol).dports(*from, *to),
            Match::PortSet(protocol, set) => packets.protocol(*protocol).in_set(set, &[Dport]),
            Match::NamedPort(family, set) => packets.family(*family).in_set(set, &[Daddr(*family), L4Proto, Dport]),
        }
    }
}

/// The peers' alternatives. A set that is not there matches nothing; nothing can name it.
fn peer_matches(peers: &Peers, place: &str, intent: &PolicyIntent, objects: &mut Objects) -> Vec<Match> {
    let (ids, blocks) = match peers {
        Peers::Any => return vec![Match::Anything],
        Peers::Unknown { known } => {
            let known: Vec<&SetId> = known.iter().filter(|id| intent.sets.contains_key(*id)).collect();
            return Family::BOTH.map(|f| Match::Unknown(f, known.iter().map(|id| sets::name(id, f)).collect())).to_vec();
        }
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
fn port_matches(ports: Option<&[PortMatch]>, place: &str, intent: &PolicyIntent, objects: &mut Objects) -> Vec<Match> {
    let Some(ports) = ports else { return vec![Match::Anything] };
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

//! The whole way from objects to packets: a random cluster is compiled and lowered, random packets run through the rules and routes, and
//! what becomes of each is what the oracles say of the objects themselves.
//!
//! `PROPTEST_CASES` multiplies the work (256 is what one run does): `PROPTEST_CASES=20000 cargo test -p bowline-dataplane lowered`.

mod changes;
mod cluster;
mod expected;
mod sockets;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use bowline_compile::testing::dice::Dice;
use bowline_model::Dual;
use bowline_model::intent::services::Endpoint;
use proptest::prelude::*;

use super::machine::{Fate, Machine, full_on};
use crate::interpret::{End, Packet};
use crate::objects::net::{PASSED_MARK, PEER_MARK_SHIFT, TRANSLATED_MARK};
use cluster::Cluster;
use expected::{Choice, Memory};
use traffic::{Origin, Sent};

/// What has to occur among the packets, as `Trial::count` names it.
const KINDS: &str = "pod straight to a pod
    pod straight to bowline.1
    pod straight to bowline6.1
    pod straight to eth0
    pod straight to eth0 as the node
    pod straight to egress denied
    pod straight to ingress denied
    pod straight to egress denied in a tier
    pod straight to ingress denied in a tier
    pod by a service to egress denied in a tier
    pod straight to closed until its policy is in force
    pod straight to not the pod's own address
    pod straight to no local endpoint
    pod straight to not in loadBalancerSourceRanges
    outside straight to not in loadBalancerSourceRanges
    pod straight to refused
    pod straight to nowhere
    pod by a service to a pod
    pod by a service to a pod as the node
    pod by a service to bowline.1
    pod by a service to eth0 as the node
    pod by a service to egress denied
    pod by a service to ingress denied
    pod by a service to the node
    own node straight to a pod
    own node by a service to a pod
    own node by a service to closed until its policy is in force
    own node by a service to the node
    fabric straight to a pod
    fabric straight to ingress denied
    fabric straight to another node's address
    fabric by a service to a pod
    fabric by a service to bowline.1 as the node
    neighbour by a service to a pod
    neighbour by a service to eth0 as the node
    outside straight to ingress denied
    outside straight to this node's pods' address from outside
    outside by a service to a pod
    outside by a service to bowline.1
    outside by a service to eth0 as the node
    outside by a service to ingress denied";

const ESTABLISHED: u32 = 2;
const SYN_ACK: u8 = 0x12;

/// A cluster under test.
struct Trial {
    cluster: Cluster,
    machine: Machine,
    memory: Memory,
    tally: BTreeMap<String, u32>,
}

impl Trial {
    fn new(cluster: Cluster) -> Trial {
        let maps = full_on(&cluster.intent, &cluster.host);
        let eth0 = cluster.host.links.first().unwrap();
        let own = Dual::first_of(eth0.addresses.iter().map(ipnet::IpNet::addr));
        let connected = eth0.addresses.iter().map(ipnet::IpNet::trunc).collect();
        let machine = Machine::new(maps, connected, own);
        Trial { cluster, machine, memory: Memory::default(), tally: BTreeMap::new() }
    }

    /// Sends a packet, and says what is wrong with what became of it.
    fn send(&mut self, sent: &Sent) -> Result<(), String> {
        self.machine.advance(sent.after_ms);
        self.memory.now_ms += sent.after_ms;
        let mut after = sent.packet.clone();
        // A bit that somebody else sets counts for nothing, and none is left behind.
        let marked = sent.packet.random & 1 == 1;
        after.mark |= if marked { PASSED_MARK } else { 0 };
        let fate = self.machine.carry(&mut after);
        if !marked && after.mark & PASSED_MARK != 0 {
            return Err("the mark of what was passed on is left".to_owned());
        }
        let arrived = Endpoint { ip: after.dst, port: after.dst_port };
        self.count(sent, &after, &fate);
        match self.cluster.choice(&sent.packet) {
            Choice::Forged => stopped(&fate, &End::Drop),
            Choice::Refused(end) => stopped(&fate, &end),
            Choice::AsItIs => {
                let to = Endpoint { ip: sent.packet.dst, port: sent.packet.dst_port };
                same("destination", &arrived, &to)?;
                self.judge(sent, &after, &fate, false)
            }
            Choice::OneOf(endpoints, affinity) => {
                if !endpoints.contains(&arrived) {
                    return Err(format!("{arrived:?} is not one of {endpoints:?}"));
                }
                match affinity {
                    Some(affinity) => {
                        if let Some(kept) = self.memory.kept(&affinity, &endpoints) {
                            same("endpoint that the client keeps", &arrived, &kept)?;
                        }
                        self.memory.keep(affinity, arrived);
                    }
                    None => self.all_are_reached(sent, &endpoints)?,
                }
                self.judge(sent, &after, &fate, true)
            }
        }
    }

    fn count(&mut self, sent: &Sent, after: &Packet, fate: &Fate) {
        let origin = match sent.origin {
            Origin::Pod(_) => "pod",
            Origin::OwnNode => "own node",
            Origin::Fabric(_) => "fabric",
            Origin::Neighbour(_) => "neighbour",
            Origin::Outside => "outside",
        };
        let way = if after.dst == sent.packet.dst { "straight" } else { "by a service" };
        let source = if after.src == sent.packet.src { "" } else { " as the node" };
        let end = match fate {
            Fate::Node => "the node".to_owned(),
            Fate::Left { link, .. } if link.starts_with("bwl-") => "a pod".to_owned(),
            Fate::Left { link, .. } => link.clone(),
            Fate::NoRoute => "nowhere".to_owned(),
            Fate::Stopped { end: End::Drop, says, .. } => {
                let says = says.as_deref().unwrap_or("drop");
                let tier = if says.contains("gress[") { " in a tier" } else { "" };
                format!("{}{tier}", says.split(':').next().unwrap_or_default())
            }
            Fate::Stopped { .. } => "refused".to_owned(),
        };
        *self.tally.entry(format!("{origin} {way} to {end}{source}")).or_default() += 1;
    }

    /// Every endpoint gets its share of the random numbers, and each is judged for itself.
    fn all_are_reached(&mut self, sent: &Sent, endpoints: &BTreeSet<Endpoint>) -> Result<(), String> {
        let count = u32::try_from(endpoints.len()).unwrap();
        let mut reached = BTreeSet::new();
        for share in 0..count {
            let mut packet = sent.packet.clone();
            packet.random = u32::MAX / count * share + (u32::MAX / count / 2);
            let fate = self.machine.carry(&mut packet);
            reached.insert(Endpoint { ip: packet.dst, port: packet.dst_port });
            self.judge(sent, &packet, &fate, true)?;
        }
        same("endpoints", &reached, endpoints)
    }

    /// Holds what became of a packet against policy, routing and masquerading.
    fn judge(&mut self, sent: &Sent, after: &Packet, fate: &Fate, translated: bool) -> Result<(), String> {
        let to = Endpoint { ip: after.dst, port: after.dst_port };
        let expected = self.cluster.expected(sent, to, translated);
        let Some(wanted) = expected.fate else { return stopped(fate, &End::Drop) };
        same("fate", fate, &wanted)?;
        if wanted == Fate::NoRoute {
            return Ok(());
        }
        same("source", &after.src, &expected.src)?;
        let peer = self.cluster.handed_over_by(&sent.packet);
        let mark = peer.map_or(0, |peer| u32::from(peer.id) << PEER_MARK_SHIFT) | if translated { TRANSLATED_MARK } else { 0 };
        same("mark", &after.connection.mark, &mark)?;
        let answered = wanted == Fate::Node || self.cluster.intent.pods.pods.contains_key(after.oif.as_str());
        if answered && after.src == sent.packet.src { self.reply(sent, after, &wanted) } else { Ok(()) }
    }

    /// Lets the receiver answer: whatever the policies, the answer comes to where the question came from.
    fn reply(&mut self, sent: &Sent, question: &Packet, at: &Fate) -> Result<(), String> {
        if sent.origin == Origin::OwnNode && *at == Fate::Node {
            return Ok(());
        }
        let from = match at {
            Fate::Left { link, .. } => Origin::Pod(link.as_str().into()),
            Fate::Node | Fate::NoRoute | Fate::Stopped { .. } => Origin::OwnNode,
        };
        let mut answer = Packet::new(question.dst, question.src, question.protocol, question.src_port);
        (answer.src_port, answer.tcp_flags) = (question.dst_port, SYN_ACK);
        (answer.iif, answer.ether_src) = traffic::arrival(&self.cluster, &from, answer.family());
        answer.local_addresses.clone_from(&question.local_addresses);
        answer.connection = question.connection;
        (answer.connection.state, answer.connection.reply) = (ESTABLISHED, true);
        let wanted = match self.cluster.handed_over_by(&sent.packet) {
            Some(peer) => self.cluster.through(peer, answer.family()),
            None => self.cluster.lands(&answer, &answer.dst, from != Origin::OwnNode),
        };
        let fate = self.machine.carry(&mut answer);
        same("the answer's fate", &fate, &wanted)?;
        // The outer packet would be routed by it.
        let tunnelled = matches!(&fate, Fate::Left { link, .. } if link.starts_with("bowline"));
        if tunnelled { same("the mark in the tunnel", &answer.mark, &0) } else { Ok(()) }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: got {got:?}, wanted {wanted:?}")) }
}

fn stopped(fate: &Fate, wanted: &End) -> Result<(), String> {
    let ended = matches!(fate, Fate::Stopped { end, .. } if end == wanted);
    if ended { Ok(()) } else { Err(format!("got {fate:?}, wanted {wanted:?}")) }
}

/// Bytes to decide by, short to print.
#[derive(Clone)]
struct Decisions(Vec<u8>);

impl std::fmt::Debug for Decisions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn decisions(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Decisions> {
    prop::collection::vec(any::<u8>(), count).prop_map(Decisions)
}

/// Worlds in one run, twice what proptest would make.
fn config() -> ProptestConfig {
    let cases = ProptestConfig::default().cases * 2;
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 3000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    /// 512 clusters, 24 packets each.
    #[test]
    fn packets_go_where_the_oracles_say(objects in decisions(200..700), packets in prop::collection::vec(decisions(20), 24)) {
        let mut trial = Trial::new(Cluster::random(&mut Dice::new(&objects.0)));
        for bytes in packets {
            let sent = traffic::random(&trial.cluster, &mut Dice::new(&bytes.0));
            if let Err(wrong) = trial.send(&sent) {
                prop_assert!(false, "{}\n{:?}\n{}", wrong, sent, trial.cluster.show());
            }
        }
    }
}

/// The random traffic has everything in it that the test above is meant to hold.
#[test]
fn the_traffic_is_varied() {
    let mut tally = BTreeMap::new();
    for seed in 0..300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = |count| -> Vec<u8> {
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_be_bytes()[0]
            };
            (0..count).map(|_| next()).collect()
        };
        let mut trial = Trial::new(Cluster::random(&mut Dice::new(&bytes(600))));
        for _ in 0..24 {
            let sent = traffic::random(&trial.cluster, &mut Dice::new(&bytes(20)));
            trial.send(&sent).unwrap_or_else(|wrong| panic!("{wrong}\n{sent:?}\n{}", trial.cluster.show()));
        }
        for (what, count) in trial.tally {
            *tally.entry(what).or_default() += count;
        }
    }
    let missing: Vec<&str> = KINDS.lines().map(str::trim).filter(|kind| tally.get(*kind).copied().unwrap_or(0_u32) == 0).collect();
    assert!(missing.is_empty(), "{missing:?} of {tally:#?}");
}

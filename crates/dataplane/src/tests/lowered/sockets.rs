//! The socket hooks against the oracle: what a connect call is turned to is what the rules would have done with its packet, or it is left to
//! them; and following changes leads to the same maps as lowering everything.

use std::collections::BTreeMap;

use bowline_compile::testing::dice::Dice;
use bowline_model::intent::Intent;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, WhenEmpty};
use bowline_model::{Family, Protocol};
use proptest::prelude::*;

use super::cluster::Cluster;
use super::expected::Choice;
use super::traffic::{self, Origin, Sent};
use crate::HostFacts;
use crate::interpret::End;
use crate::interpret::sockets::{Socket, connect};
use crate::objects::sockets::{SocketKey, SocketValue};

type Maps = BTreeMap<SocketKey, SocketValue>;

fn hooked(cluster: &Cluster) -> HostFacts {
    HostFacts { socket_hooks: true, ..cluster.host.clone() }
}

fn full(intent: &Intent, host: &HostFacts) -> Maps {
    let delta = crate::lower(&Intent::default(), intent, host).value.sockets;
    assert!(delta.remove.is_empty(), "the full form removes nothing");
    delta.set
}

/// The frontend that a destination is one of.
fn frontend<'a>(cluster: &'a Cluster, sent: &Sent) -> Option<&'a Frontend> {
    let mut all = cluster.intent.services.services.values().flat_map(|service| &service.frontends);
    let (address, port) = (FrontendAddress::Vip(sent.packet.dst), sent.packet.dst_port);
    all.find(|f| f.address == address && f.port == port && f.protocol.number() == sent.packet.protocol)
}

/// Whether a frontend is left to the rules, as the lowering promises it.
fn is_for_the_rules(frontend: &Frontend) -> bool {
    let endpoints = frontend.own_endpoints.as_ref().unwrap_or(&frontend.endpoints);
    frontend.protocol == Protocol::Sctp
        || frontend.affinity_secs.is_some()
        || frontend.sources.is_some()
        || endpoints.is_empty() && frontend.when_empty == WhenEmpty::Drop
}

/// Holds the hooks against what the oracle says of the packet; says what it came to.
fn judge(cluster: &Cluster, maps: &Maps, sent: &Sent) -> Result<&'static str, String> {
    let packet = &sent.packet;
    let choice = cluster.choice(packet);
    let answer = connect(maps, packet.dst, packet.protocol, packet.dst_port, sent.origin == Origin::OwnNode);
    let wrong = || Err(format!("at the socket {answer:?}, by the oracle {choice:?}"));
    match (&answer, &choice) {
        // No socket sends what its own pod may not.
        (_, Choice::Forged) => Ok("forged"),
        (Socket::AsItIs, _) if frontend(cluster, sent).is_some_and(|frontend| !is_for_the_rules(frontend)) => wrong(),
        (Socket::AsItIs, _) => Ok("as it is"),
        (Socket::Refused, Choice::Refused(End::Reset | End::Unreachable)) => Ok("refused"),
        (Socket::To(endpoints), Choice::OneOf(wanted, None)) => {
            let endpoints = endpoints.iter().map(|e| Endpoint { ip: e.address, port: e.port });
            if endpoints.eq(wanted.iter().copied()) { Ok("to an endpoint") } else { wrong() }
        }
        (Socket::Refused | Socket::To(_), _) => wrong(),
    }
}

fn is_own(sent: &Sent) -> bool {
    matches!(sent.origin, Origin::Pod(_) | Origin::OwnNode)
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn sockets_go_where_the_oracle_says(objects in super::decisions(200..700), packets in prop::collection::vec(super::decisions(20), 24)) {
        let cluster = Cluster::random(&mut Dice::new(&objects.0));
        let maps = full(&cluster.intent, &hooked(&cluster));
        for bytes in packets {
            let sent = traffic::random(&cluster, &mut Dice::new(&bytes.0));
            if let Err(wrong) = judge(&cluster, &maps, &sent)
                && is_own(&sent)
            {
                prop_assert!(false, "{}\n{:?}\n{}", wrong, sent, cluster.show());
            }
        }
    }

    /// From any cluster to any other, by what differs.
    #[test]
    fn following_changes_leads_to_the_same_maps(one in super::decisions(200..500), other in super::decisions(200..500)) {
        let (before, after) = (Cluster::random(&mut Dice::new(&one.0)), Cluster::random(&mut Dice::new(&other.0)));
        let host = hooked(&after);
        let mut maps = full(&before.intent, &host);
        crate::lower(&before.intent, &after.intent, &host).value.sockets.apply_to(&mut maps);
        prop_assert_eq!(maps, full(&after.intent, &host), "{}\nthen\n{}", before.show(), after.show());
    }
}

/// The random traffic has everything in it that the property is meant to hold, and without hooks there is nothing for them.
#[test]
fn the_traffic_is_varied() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..200_u64 {
        let bytes: Vec<u8> = (0..700_u64)
            .map(|i| (seed.wrapping_mul(0x9e37_79b9).wrapping_add(i) ^ (i * i)).wrapping_mul(0x2545_f491).to_be_bytes()[4])
            .collect();
        let cluster = Cluster::random(&mut Dice::new(&bytes));
        let maps = full(&cluster.intent, &hooked(&cluster));
        assert!(full(&cluster.intent, &cluster.host).is_empty());
        for chunk in bytes.chunks(20) {
            let sent = traffic::random(&cluster, &mut Dice::new(chunk));
            if is_own(&sent) {
                *seen.entry(judge(&cluster, &maps, &sent).unwrap()).or_default() += 1;
            }
        }
    }
    assert!(["as it is", "refused", "to an endpoint"].iter().all(|what| seen.get(what).is_some_and(|n| *n > 5)), "{seen:?}");
}

/// A node port is on the node's loopback, for the node alone, where the settings do not keep it to other addresses.
#[test]
fn node_ports_are_on_loopback() {
    let of = |setup: &str, address: &str, on_node: bool| {
        let intent = super::super::notation::parse(setup);
        let host = HostFacts { socket_hooks: true, ..super::super::notation::host() };
        connect(&full(&intent, &host), address.parse().unwrap(), Protocol::Tcp.number(), 30_080, on_node)
    };
    let served = "pods a b\nnp 30080 -> a:80 b:80";
    for (family, address) in Family::BOTH.into_iter().zip(["127.0.0.1", "::1"]) {
        assert!(matches!(of(served, address, true), Socket::To(endpoints) if endpoints.len() == 2), "{family:?}");
        assert_eq!(of(served, address, false), Socket::AsItIs);
        assert_eq!(of(&format!("{served}\nnpnet"), address, true), Socket::AsItIs);
    }
}

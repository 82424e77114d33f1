#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;

use bowline_dataplane::objects::nft::{BaseChain, ChainKind, ChainSpec, Expr, Hook, NftKey, NftObject, Rule, Verdict};
use bowline_model::Delta;
use proptest::prelude::*;

use super::*;
use crate::netlink::Netlink;
use crate::netns::testing::fresh;
use crate::nft::NftDriver;
use crate::reconcile::Driver;

const GROUP: u16 = 118;

fn packet(number: u32, prefix: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = Message::new(PACKET, 0, &[2, 0, 0, 118]);
    message.attr_str(PREFIX, prefix).attr(PAYLOAD, payload).attr_be32(SEQUENCE, number);
    message.finish(0)
}

fn read(datagrams: &[Vec<u8>]) -> Heard {
    let (mut next, mut heard) = (None, Heard::default());
    for datagram in datagrams {
        messages(datagram).filter(|m| m.kind == PACKET).for_each(|message| note(&message, &mut next, &mut heard));
    }
    heard
}

#[test]
fn what_is_lost_is_missing_among_the_numbers() {
    let heard = read(&[packet(7, "denied/a", &[]), packet(8, "denied/a", &[]), packet(12, "denied/b", &[0x45])]);
    let prefixes: Vec<&str> = heard.packets.iter().map(|packet| packet.prefix.as_str()).collect();
    assert_eq!((prefixes, heard.lost), (vec!["denied/a", "denied/a", "denied/b"], 3));
    assert!(heard.packets.iter().all(|packet| packet.ends.is_none()), "nothing to be seen in them");
    assert_eq!(read(&[packet(u32::MAX, "x", &[]), packet(0, "x", &[])]).lost, 0, "numbers begin anew");
}

fn output(rules: Vec<Rule>) -> (NftKey, NftObject) {
    let base = Some(BaseChain { kind: ChainKind::Filter, hook: Hook::Output, priority: 0, accept: true });
    (NftKey::Chain("output".into()), NftObject::Chain(ChainSpec { base, rules }))
}

fn rule(expressions: Vec<Expr>) -> Rule {
    Rule { expressions, comment: None }
}

fn apply(driver: &mut NftDriver, set: Vec<(NftKey, NftObject)>, remove: Vec<NftKey>) -> BTreeMap<Arc<str>, u64> {
    let delta = Delta { set: set.into_iter().collect(), remove: remove.into_iter().collect() };
    assert_eq!(driver.apply(&delta).failed, vec![]);
    driver.counted().unwrap()
}

#[test]
fn a_flood_is_counted_to_the_packet_and_told_by_rate_over_changes_of_the_rules() {
    let Some(ns) = fresh() else { return };
    let mut driver = NftDriver::open_in(&ns).unwrap();
    let name: Arc<str> = "denied/one".into();
    let log = || rule(vec![Expr::Limit { per_second: 5, burst: 20 }, Expr::Log { group: GROUP, prefix: name.clone(), snap_bytes: 64 }]);
    let drop = || rule(vec![Expr::Count { counter: name.clone() }, Expr::Verdict(Verdict::Drop)]);
    let counter = || (NftKey::Counter(name.clone()), NftObject::Counter);
    apply(&mut driver, vec![counter(), output(vec![log(), drop()])], vec![]);
    let mut log_socket = NfLog::open_in(&ns, GROUP).unwrap();
    assert!(matches!(NfLog::open_in(&ns, GROUP), Err(NfLogError::Refused { .. })), "a group has one listener");
    let send = |count: usize| {
        let refused = ns.run(move || {
            Netlink::open().unwrap().set_up("lo").unwrap();
            let socket = UdpSocket::bind("127.0.0.1:4000").unwrap();
            (0..count).filter(|_| socket.send_to(b"x", "127.0.0.1:53").is_err()).count()
        });
        assert_eq!(refused.unwrap(), count, "all were dropped");
    };
    send(20_000);
    assert_eq!(driver.counted().unwrap(), [(name.clone(), 20_000)].into());
    let mut heard = Heard::default();
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while heard.packets.len() < 20 && std::time::Instant::now() < deadline {
        let more = log_socket.wait(Duration::from_millis(200)).unwrap();
        heard.packets.extend(more.packets);
        heard.lost += more.lost;
    }
    assert!((20..100).contains(&heard.packets.len()) && heard.lost == 0, "{} {}", heard.packets.len(), heard.lost);
    let loopback = "127.0.0.1".parse().unwrap();
    let ends = Ends { src: loopback, dst: loopback, protocol: 17, ports: Some((4000, 53)) };
    assert!(heard.packets.iter().all(|packet| *packet == Logged { prefix: "denied/one".into(), ends: Some(ends) }));
    // Another rule before it, then all anew in another order of work: what was counted stays.
    assert_eq!(apply(&mut driver, vec![counter(), output(vec![drop()])], vec![])[&name], 20_000);
    send(7);
    let other: Arc<str> = "denied/two".into();
    let more = vec![(NftKey::Counter(other.clone()), NftObject::Counter), output(vec![log(), drop()])];
    assert_eq!(apply(&mut driver, more, vec![]), [(name.clone(), 20_007), (other.clone(), 0)].into());
    let mut again = NftDriver::open_in(&ns).unwrap();
    let wanted: BTreeMap<NftKey, NftObject> =
        [counter(), (NftKey::Counter(other.clone()), NftObject::Counter), output(vec![log(), drop()])].into();
    let seen = again.read_owned(&wanted).unwrap();
    assert!(seen.len() == wanted.len() && seen.iter().all(|(key, seen)| NftDriver::same(seen, &wanted[key])), "{seen:?}");
    let gone = vec![NftKey::Counter(name.clone()), NftKey::Counter(other.clone())];
    assert_eq!(apply(&mut again, vec![output(vec![])], gone), BTreeMap::new(), "a counter goes with the rule that counts on it");
}

proptest! {
    #[test]
    fn no_message_brings_the_reader_down(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = Received { kind: PACKET, flags: 0, sequence: 0, port: 0, payload: &bytes };
        let (mut next, mut heard) = (Some(3), Heard::default());
        note(&whole, &mut next, &mut heard);
        prop_assert!(heard.packets.len() <= 1);
        read(&[bytes]);
    }
}

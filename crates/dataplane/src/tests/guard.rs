//! What pods may say: forged and foreign kinds of packets end at their links, each for its reason, and the pods' own goes on.

use std::collections::BTreeSet;

use bowline_model::Family;
use bowline_model::intent::Intent;
use expect_test::{Expect, expect};

use super::bench::{Bench, full};
use super::check;
use super::notation::{address, host, parse, pod_mac};
use crate::interpret::{Packet, Table};
use crate::objects::nft::{Expr, Hook, NftKey, NftObject, Rule, Verdict};
use crate::pod::guard::{ARP_CHAIN, CHAINS, Reason, by_reason};

/// Packets of one family alone.
fn check_of(family: Family, packets: &str, expected: Expect) {
    let mut bench = Bench::new("pods a b", family);
    let lines = packets.lines().map(str::trim).map(|line| format!("{line} => {}\n", bench.send(line)));
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn a_pod_has_one_station_and_one_address() {
    check(
        "pods a b\nclosed c",
        "a -> b:80/tcp
         a -> b:80/tcp as b
         a -> b:80/udp mac b
         a -> b:80/tcp as b mac b
         a -> n1:9/udp as nobody
         a -> b:9/udp as nobody mac b
         a -> out:80/tcp as x",
        expect![[r#"
            a -> b:80/tcp => bwlb: a -> b:80
            a -> b:80/tcp as b => drop: not the pod's own address
            a -> b:80/udp mac b => drop: not the pod's own station
            a -> b:80/tcp as b mac b => drop: not the pod's own station
            a -> n1:9/udp as nobody => drop: a pod without an address
            a -> b:9/udp as nobody mac b => drop: a pod without an address
            a -> out:80/tcp as x => drop: not the pod's own address
        "#]],
    );
}

#[test]
fn no_pod_is_a_router_or_gives_addresses() {
    check_of(
        Family::V4,
        "a -> b:1/tcp icmp
         a -> b:1/tcp icmp type 5
         a -> b:1/tcp icmp type 5 as out
         a -> b:1/tcp icmp type 9
         a -> b:68/udp sport 67
         a -> n1:68/udp sport 67 as b mac b
         a -> b:67/udp sport 68
         a -> b:68/udp
         a -> b:546/udp sport 547",
        expect![[r#"
            a -> b:1/tcp icmp => bwlb: a -> b:1
            a -> b:1/tcp icmp type 5 => drop: redirect from a pod
            a -> b:1/tcp icmp type 5 as out => drop: redirect from a pod
            a -> b:1/tcp icmp type 9 => drop: router advertisement from a pod
            a -> b:68/udp sport 67 => drop: DHCP answer from a pod
            a -> n1:68/udp sport 67 as b mac b => drop: DHCP answer from a pod
            a -> b:67/udp sport 68 => bwlb: a -> b:67
            a -> b:68/udp => bwlb: a -> b:68
            a -> b:546/udp sport 547 => bwlb: a -> b:546
        "#]],
    );
    check_of(
        Family::V6,
        "a -> b:1/tcp icmp
         a -> b:1/tcp icmp type 133
         a -> b:1/tcp icmp type 134
         a -> b:1/tcp icmp type 134 as out mac b
         a -> b:1/tcp icmp type 137
         a -> b:1/tcp icmp type 5
         a -> b:546/udp sport 547
         a -> b:547/udp sport 546
         a -> b:68/udp sport 67",
        expect![[r#"
            a -> b:1/tcp icmp => bwlb: a -> b:1
            a -> b:1/tcp icmp type 133 => bwlb: a -> b:1
            a -> b:1/tcp icmp type 134 => drop: router advertisement from a pod
            a -> b:1/tcp icmp type 134 as out mac b => drop: router advertisement from a pod
            a -> b:1/tcp icmp type 137 => drop: redirect from a pod
            a -> b:1/tcp icmp type 5 => bwlb: a -> b:1
            a -> b:546/udp sport 547 => drop: DHCP answer from a pod
            a -> b:547/udp sport 546 => bwlb: a -> b:547
            a -> b:68/udp sport 67 => bwlb: a -> b:68
        "#]],
    );
}

#[test]
fn a_pod_tells_neighbours_of_itself_alone() {
    check_of(
        Family::V6,
        "a -> b:1/tcp icmp type 136 about a
         a -> b:1/tcp icmp type 136 about b
         a -> n1:1/tcp icmp type 136 about b as b mac b
         a -> n1:1/tcp icmp type 135 about n1
         a -> n1:1/tcp icmp type 135 about a as nobody
         a -> n1:1/tcp icmp type 135 about b as nobody
         a -> n1:1/tcp icmp type 143 as nobody",
        expect![[r#"
            a -> b:1/tcp icmp type 136 about a => bwlb: a -> b:1
            a -> b:1/tcp icmp type 136 about b => drop: a neighbour's address that is not the pod's
            a -> n1:1/tcp icmp type 136 about b as b mac b => drop: a neighbour's address that is not the pod's
            a -> n1:1/tcp icmp type 135 about n1 => node: a -> n1:1
            a -> n1:1/tcp icmp type 135 about a as nobody => drop: a pod without an address
            a -> n1:1/tcp icmp type 135 about b as nobody => drop: a neighbour's address that is not the pod's
            a -> n1:1/tcp icmp type 143 as nobody => drop: a pod without an address
        "#]],
    );
}

fn arp(intent: &Intent) -> std::collections::BTreeMap<NftKey, NftObject> {
    crate::lower(&Intent::default(), intent, &host()).value.arp.set
}

#[test]
fn of_arp_only_the_pods_own_is_heard() {
    let objects = arp(&parse("pods a b"));
    let mut table = Table::from_objects(&objects);
    assert_eq!(table.faults(), []);
    let mut heard = |link: &str, station: &str, inside: &str, sender: &str, target: &str| {
        let mut packet = Packet::new(address(sender, Family::V4), address(target, Family::V4), 0, 0);
        packet.iif = link.to_owned();
        (packet.ether_src, packet.arp_sender) = (Some(pod_mac(station)), Some(pod_mac(inside)));
        table.run(Hook::Arp, &mut packet).passes()
    };
    assert!(heard("bwla", "a", "a", "a", "n1"), "a request");
    assert!(heard("bwla", "a", "a", "a", "a"), "an announcement");
    assert!(heard("bwla", "a", "a", "nobody", "a"), "a probe of its own address");
    assert!(!heard("bwla", "a", "a", "nobody", "b"), "a probe of another's");
    assert!(!heard("bwla", "a", "a", "b", "n1"), "another's address");
    assert!(!heard("bwla", "a", "b", "a", "n1"), "another's station inside");
    assert!(!heard("bwla", "b", "a", "a", "n1"), "another's station outside");
    assert!(!heard("bwlb", "a", "a", "a", "n1"), "another's link");
    assert!(!heard("bwlc", "c", "c", "c", "n1"), "of a pod that is not known");
    assert!(heard("eth0", "b", "a", "out", "n1"), "not a pod's link");
    assert!(heard("bowline.1", "b", "a", "out", "n1"), "not a pod's link");
}

#[test]
fn the_table_of_arp_follows_the_pods() {
    let (one, two) = (parse("pods a"), parse("pods a b"));
    let mut objects = arp(&one);
    let delta = crate::lower(&one, &two, &host()).value.arp;
    assert_eq!((delta.set.len(), delta.remove.len()), (1, 0), "one element: {delta:?}");
    delta.apply_to(&mut objects);
    assert_eq!(objects, arp(&two));
    crate::lower(&two, &one, &host()).value.arp.apply_to(&mut objects);
    assert_eq!(objects, arp(&one));
}

/// Every rule that counts for a reason is in a chain that is asked for its counters, and no reason lacks one.
#[test]
fn every_reason_is_counted_where_counters_are_read() {
    let intent = parse("pods a");
    let (inet, arp) = (full(&intent).1, arp(&intent));
    let dropping = |rule: &&Rule| rule.expressions.last() == Some(&Expr::Verdict(Verdict::Drop));
    let of = |objects: &std::collections::BTreeMap<NftKey, NftObject>, chains: &[&str]| {
        let mut comments = BTreeSet::new();
        for (key, object) in objects {
            let (NftKey::Chain(name), NftObject::Chain(chain)) = (key, object) else { continue };
            for rule in chain.rules.iter().filter(dropping) {
                let counts = rule.expressions.iter().any(|e| matches!(e, Expr::Counter | Expr::Count { .. }));
                assert!(counts, "{name}: {rule:?}");
                let says = rule.comment.as_deref().unwrap();
                let known = Reason::ALL.iter().any(|reason| reason.says() == says);
                assert!(!known || chains.contains(&&**name), "{name} is not read");
                comments.extend(known.then(|| says.to_owned()));
            }
        }
        comments
    };
    let counted = &of(&inet, &CHAINS) | &of(&arp, &[ARP_CHAIN]);
    assert_eq!(counted, Reason::ALL.iter().map(|reason| reason.says().to_owned()).collect());
    let sums = by_reason([(Reason::Arp.says(), 2), (Reason::Redirect.says(), 3), ("another rule", 9), (Reason::Arp.says(), 1)]);
    assert_eq!((sums[&Reason::Arp], sums[&Reason::Redirect], sums[&Reason::Tunnel], sums.len()), (3, 3, 0, Reason::ALL.len()));
}

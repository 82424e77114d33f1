//! Services, host ports and source translation.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_model::Family;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServiceIntent, WhenEmpty};
use bowline_model::{Protocol, ServiceName};
use expect_test::expect;

use super::bench::{Bench, full};
use super::check;
use super::notation::{address, base, parse};
use crate::interpret::{Packet, Table};
use crate::objects::nft::{Hook, NftKey, NftObject};

#[test]
fn a_service_leads_to_its_endpoints_from_everywhere() {
    check(
        "pods a b c
         svc v1:80/tcp -> b:8080 x:8080
         svc v1:80/udp -> b:5353
         np 30080/tcp -> b:8080",
        "a -> v1:80/tcp
         a -> v1:80/tcp random 90
         n1 -> v1:80/tcp
         a -> v1:80/udp
         a -> v1:80/sctp
         a -> v1:81/tcp
         n1 -> v1:81/udp
         out -> n1:30080/tcp
         out -> n1ext:30080/tcp
         out -> n1:30081/tcp
         n1 -> n1:30080/tcp
         a -> n1:30080/tcp
         x -> n1:30080/tcp
         n1 -> lo:30080/tcp
         out -> far:30080/tcp",
        expect![[r#"
            a -> v1:80/tcp => bwlb: a -> b:8080
            a -> v1:80/tcp random 90 => bowline.1 by gw2: a -> x:8080
            n1 -> v1:80/tcp => bwlb: n1 -> b:8080
            a -> v1:80/udp => bwlb: a -> b:5353
            a -> v1:80/sctp => unreachable in refuse
            a -> v1:81/tcp => reset in refuse
            n1 -> v1:81/udp => unreachable in refuse
            out -> n1:30080/tcp => bwlb: out -> b:8080
            out -> n1ext:30080/tcp => bwlb: out -> b:8080
            out -> n1:30081/tcp => node: out -> n1:30081
            n1 -> n1:30080/tcp => bwlb: n1 -> b:8080
            a -> n1:30080/tcp => bwlb: a -> b:8080
            x -> n1:30080/tcp => bwlb: x -> b:8080
            n1 -> lo:30080/tcp => node: n1 -> lo:30080
            out -> far:30080/tcp => eth0: out -> far:30080
        "#]],
    );
}

#[test]
fn without_endpoints_a_service_refuses_or_drops_at_once() {
    check(
        "pods a
         svc v1:80/tcp -> reject
         svc v1:53/udp -> reject
         svc v2:80/tcp -> drop
         np 30080/tcp -> reject
         np 30081/tcp -> drop",
        "a -> v1:80/tcp
         a -> v1:53/udp
         a -> v2:80/tcp
         n1 -> v1:80/tcp
         out -> n1:30080/tcp
         out -> n1:30081/tcp
         out -> n1:30080/tcp known
         a -> v1:80/tcp icmp",
        expect![[r#"
            a -> v1:80/tcp => reset in refuse
            a -> v1:53/udp => unreachable in refuse
            a -> v2:80/tcp => drop: no local endpoint
            n1 -> v1:80/tcp => reset in refuse
            out -> n1:30080/tcp => reset in refuse
            out -> n1:30081/tcp => drop: no local endpoint
            out -> n1:30080/tcp known => node: out -> n1:30080
            a -> v1:80/tcp icmp => unreachable in refuse
        "#]],
    );
}

#[test]
fn what_the_node_begins_may_have_other_endpoints() {
    check(
        "pods a b
         np 30080/tcp -> b:80 own=x:80
         np 30081/tcp -> drop own=x:81
         svc v2:80/tcp -> b:80 own=x:80 own=b:80",
        "out -> n1:30080/tcp
         x -> n1:30080/tcp
         a -> n1:30080/tcp
         n1 -> n1:30080/tcp
         out -> n1:30081/tcp
         a -> n1:30081/tcp
         n1 -> n1:30081/tcp
         n1 -> lo:30081/tcp
         a -> v2:80/tcp random 10
         a -> v2:80/tcp random 90
         out -> v2:80/tcp random 10
         out -> v2:80/tcp random 90",
        expect![[r#"
            out -> n1:30080/tcp => bwlb: out -> b:80
            x -> n1:30080/tcp => bwlb: x -> b:80
            a -> n1:30080/tcp => bowline.1 by gw2: a -> x:80
            n1 -> n1:30080/tcp => bowline.1 by gw2: n1 -> x:80
            out -> n1:30081/tcp => drop: no local endpoint
            a -> n1:30081/tcp => bowline.1 by gw2: a -> x:81
            n1 -> n1:30081/tcp => bowline.1 by gw2: n1 -> x:81
            n1 -> lo:30081/tcp => node: n1 -> lo:30081
            a -> v2:80/tcp random 10 => bowline.1 by gw2: a -> x:80
            a -> v2:80/tcp random 90 => bwlb: a -> b:80
            out -> v2:80/tcp random 10 => bwlb: out -> b:80
            out -> v2:80/tcp random 90 => bwlb: out -> b:80
        "#]],
    );
}

#[test]
fn a_load_balancers_address_is_for_its_sources() {
    check(
        "pods a b
         svc v2:80/tcp -> b:80 from=out
         svc v2:81/tcp -> b:80 own=x:80 from=a",
        "out -> v2:80/tcp
         far -> v2:80/tcp
         a -> v2:80/tcp
         n1 -> v2:80/tcp
         a -> v2:81/tcp
         out -> v2:81/tcp
         n1 -> v2:81/tcp",
        expect![[r#"
            out -> v2:80/tcp => bwlb: out -> b:80
            far -> v2:80/tcp => drop: not in loadBalancerSourceRanges
            a -> v2:80/tcp => drop: not in loadBalancerSourceRanges
            n1 -> v2:80/tcp => drop: not in loadBalancerSourceRanges
            a -> v2:81/tcp => bowline.1 by gw2: a -> x:80
            out -> v2:81/tcp => drop: not in loadBalancerSourceRanges
            n1 -> v2:81/tcp => drop: not in loadBalancerSourceRanges
        "#]],
    );
}

#[test]
fn node_ports_keep_to_their_addresses() {
    check(
        "pods a
         npnet
         np 30080/tcp -> a:8080
         np 30081/tcp -> reject",
        "out -> n1:30080/tcp
         out -> n1ext:30080/tcp
         out -> n1:30081/tcp
         out -> n1ext:30081/tcp",
        expect![[r#"
            out -> n1:30080/tcp => bwla: out -> a:8080
            out -> n1ext:30080/tcp => node: out -> n1ext:30080
            out -> n1:30081/tcp => reset in refuse
            out -> n1ext:30081/tcp => node: out -> n1ext:30081
        "#]],
    );
}

#[test]
fn host_ports_lead_to_one_pod() {
    check(
        "pods a b
         hostport 8080/tcp -> a:80
         hostport n1:9090/udp -> b:53
         hostport lo:9091/tcp -> a:91
         hostport n1:9091/tcp -> b:91
         hostport 9093/tcp -> a:93
         hostport n1:9094/tcp -> a:94
         np 9092/tcp -> b:1
         np 9093/tcp -> b:1
         np 9094/tcp -> b:1",
        "out -> n1:8080/tcp
         out -> n1ext:8080/tcp
         n1 -> n1:8080/tcp
         n1 -> lo:8080/tcp
         a -> n1:8080/tcp
         out -> n1:9090/udp
         out -> n1ext:9090/udp
         out -> n1:9090/tcp
         n1 -> lo:9091/tcp
         n1 -> n1:9091/tcp
         n1 -> lo:9092/tcp
         out -> lo:9091/tcp
         b -> lo:9091/tcp
         b -> lo:22/tcp
         b -> lo:22/tcp known
         out -> n1:9093/tcp
         n1 -> n1:9093/tcp
         b -> n1:9093/tcp
         out -> n1:9093/udp
         n1 -> lo:9093/tcp
         out -> n1:9094/tcp
         out -> far:8080/tcp",
        expect![[r#"
            out -> n1:8080/tcp => bwla: out -> a:80
            out -> n1ext:8080/tcp => bwla: out -> a:80
            n1 -> n1:8080/tcp => bwla: n1 -> a:80
            n1 -> lo:8080/tcp => bwla: n1 -> a:80
            a -> n1:8080/tcp => bwla: n1 -> a:80
            out -> n1:9090/udp => bwlb: out -> b:53
            out -> n1ext:9090/udp => node: out -> n1ext:9090
            out -> n1:9090/tcp => node: out -> n1:9090
            n1 -> lo:9091/tcp => bwla: n1 -> a:91
            n1 -> n1:9091/tcp => bwlb: n1 -> b:91
            n1 -> lo:9092/tcp => node: n1 -> lo:9092
            out -> lo:9091/tcp => node: out -> lo:9091
            b -> lo:9091/tcp => drop: a pod to the node's loopback
            b -> lo:22/tcp => drop: a pod to the node's loopback
            b -> lo:22/tcp known => node: b -> lo:22
            out -> n1:9093/tcp => bwlb: out -> b:1
            n1 -> n1:9093/tcp => bwlb: n1 -> b:1
            b -> n1:9093/tcp => bwlb: n1 -> b:1
            out -> n1:9093/udp => node: out -> n1:9093
            n1 -> lo:9093/tcp => bwla: n1 -> a:93
            out -> n1:9094/tcp => bwlb: out -> b:1
            out -> far:8080/tcp => eth0: out -> far:8080
        "#]],
    );
}

/// From loopback to loopback only IPv4 can be led to a pod.
#[test]
fn a_host_port_on_localhost() {
    for (family, wanted) in [(Family::V4, "bwla: n1 -> a:91"), (Family::V6, "node: lo -> lo:9091")] {
        let mut bench = Bench::new("pods a b\nhostport lo:9091/tcp -> a:91\nhostport n1:9091/tcp -> b:91", family);
        assert_eq!(bench.send("lo -> lo:9091/tcp"), wanted);
    }
}

#[test]
fn the_source_is_translated_only_on_the_way_out() {
    check(
        "pods a b
         svc v1:80/tcp -> a:8080
         svc v1:443/tcp -> n2:6443
         svc v2:80/tcp -> far:8080
         np 30080/tcp -> far:8080
         np 30081/tcp -> n2:8080
         np 30082/tcp -> x:8080
         np 30083/tcp -> a:8080",
        "a -> out:80/tcp
         a -> out:80/tcp icmp
         a -> b:80/tcp
         a -> x:80/tcp
         a -> n2:22/tcp
         a -> n1:22/tcp
         n1 -> a:80/tcp
         n1 -> x:80/tcp
         n1 -> out:80/tcp
         a -> v1:80/tcp
         b -> v1:80/tcp
         a -> v1:443/tcp
         n1 -> v1:443/tcp
         a -> v2:80/tcp
         n1 -> v2:80/tcp
         out -> n1:30080/tcp
         out -> n1:30081/tcp
         out -> n1:30082/tcp
         x -> n1:30081/tcp
         y -> n1:30082/tcp
         n3 -> n1:30082/tcp
         a -> n1:30082/tcp
         n1 -> n1:30082/tcp
         y -> n1:30083/tcp
         n3 -> n1:30083/tcp
         out -> n1:30082/tcp known",
        expect![[r#"
            a -> out:80/tcp => eth0: n1 -> out:80
            a -> out:80/tcp icmp => eth0: n1 -> out:80
            a -> b:80/tcp => bwlb: a -> b:80
            a -> x:80/tcp => bowline.1 by gw2: a -> x:80
            a -> n2:22/tcp => bowline.1 by gw2: a -> n2:22
            a -> n1:22/tcp => node: a -> n1:22
            n1 -> a:80/tcp => bwla: n1 -> a:80
            n1 -> x:80/tcp => bowline.1 by gw2: n1 -> x:80
            n1 -> out:80/tcp => eth0: n1 -> out:80
            a -> v1:80/tcp => bwla: n1 -> a:8080
            b -> v1:80/tcp => bwla: b -> a:8080
            a -> v1:443/tcp => bowline.1 by gw2: a -> n2:6443
            n1 -> v1:443/tcp => eth0: n1 -> n2:6443
            a -> v2:80/tcp => eth0: n1 -> far:8080
            n1 -> v2:80/tcp => eth0: n1 -> far:8080
            out -> n1:30080/tcp => eth0: n1 -> far:8080
            out -> n1:30081/tcp => eth0: n1 -> n2:8080
            out -> n1:30082/tcp => bowline.1 by gw2: out -> x:8080
            x -> n1:30081/tcp => eth0: n1 -> n2:8080
            y -> n1:30082/tcp => bowline.1 by gw2: n1 -> x:8080
            n3 -> n1:30082/tcp => bowline.1 by gw2: n1 -> x:8080
            a -> n1:30082/tcp => bowline.1 by gw2: a -> x:8080
            n1 -> n1:30082/tcp => bowline.1 by gw2: n1 -> x:8080
            y -> n1:30083/tcp => bwla: y -> a:8080
            n3 -> n1:30083/tcp => bwla: n3 -> a:8080
            out -> n1:30082/tcp known => node: out -> n1:30082
        "#]],
    );
}

#[test]
fn what_others_translate_is_theirs() {
    for family in Family::BOTH {
        let mut table = Table::from_objects(&full(&parse("pods a")).1);
        let mut packet = Packet::new(address("out", family), address("far", family), 6, 80);
        packet.connection.status = 1 << 5;
        packet.oif = "docker0".to_owned();
        packet.masquerade_address = Some(address("n1", family));
        assert!(table.run(Hook::Postrouting, &mut packet).passes());
        assert_eq!(packet.src, address("out", family));
    }
}

#[test]
fn a_client_keeps_its_endpoint_while_it_lives() {
    for family in Family::BOTH {
        let all = "pods a b c\nsvc v1:80/tcp -> a:80 b:80 x:80 aff=10\nnp 30080/tcp -> a:80 b:80 x:80 aff=10";
        let without_b = "pods a b c\nsvc v1:80/tcp -> a:80 x:80 aff=10\nnp 30080/tcp -> a:80 x:80 aff=10";
        let mut bench = Bench::new(all, family);
        for (to, client) in [("v1:80/tcp", "c"), ("n1:30080/tcp", "out")] {
            let send = |bench: &mut Bench, random: &str| bench.send(&format!("{client} -> {to} random {random}"));
            let to = |pod: &str| format!("bwl{pod}: {client} -> {pod}:80");
            assert_eq!(send(&mut bench, "50"), to("b"), "drawn");
            assert_eq!(send(&mut bench, "0"), to("b"), "kept");
            bench.advance(9_000);
            assert_eq!(send(&mut bench, "0"), to("b"), "kept and renewed");
            bench.advance(9_000);
            assert_eq!(send(&mut bench, "0"), to("b"), "kept after the first lifetime");
            bench.advance(10_001);
            assert_eq!(send(&mut bench, "0"), to("a"), "forgotten");
            bench.advance(10_001);
            assert_eq!(send(&mut bench, "50"), to("b"));
            bench.reload(without_b);
            assert_eq!(send(&mut bench, "0"), to("a"), "its endpoint has gone");
            bench.reload(all);
            assert_eq!(send(&mut bench, "50"), to("a"), "the new one is kept, and the old one does not come back");
            bench.reload(all);
            bench.advance(60_000);
        }
    }
}

fn frontend(family: Family, endpoints: u32, protocol: Protocol) -> Frontend {
    let ip = |i: u32| match family {
        Family::V4 => std::net::Ipv4Addr::from_bits(0x0a2a_0200 + i).into(),
        Family::V6 => std::net::Ipv6Addr::from_bits((0xfd42_u128 << 112) + u128::from(i)).into(),
    };
    Frontend {
        address: FrontendAddress::Vip(address("v1", family)),
        protocol,
        port: 80,
        endpoints: (1..=endpoints).map(|i| Endpoint { ip: ip(i), port: 8080 }).collect(),
        own_endpoints: None,
        affinity_secs: None,
        sources: None,
        when_empty: WhenEmpty::Reject,
    }
}

#[test]
fn endpoints_get_equal_shares() {
    for (family, protocol) in [(Family::V4, Protocol::Tcp), (Family::V6, Protocol::Udp)] {
        for count in [1_u32, 2, 3, 7, 250] {
            let mut intent = base();
            let service = ServiceIntent { frontends: vec![frontend(family, count, protocol)] };
            Arc::make_mut(&mut intent.services).services.insert(ServiceName::new("shop", "web"), Arc::new(service));
            let mut table = Table::from_objects(&full(&intent).1);
            let draws = count * 40;
            let mut shares = BTreeMap::new();
            for draw in 0..draws {
                let mut packet = Packet::new(address("out", family), address("v1", family), protocol.number(), 80);
                packet.random = u32::try_from((u64::from(draw) << 32) / u64::from(draws)).unwrap();
                assert!(table.run(Hook::Prerouting, &mut packet).passes());
                assert_eq!(packet.dst_port, 8080);
                *shares.entry(packet.dst).or_insert(0_u32) += 1;
            }
            assert_eq!(shares.len(), count as usize);
            let expected = f64::from(draws / count);
            let chi_square: f64 = shares.values().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
            assert!(chi_square < 0.1 * f64::from(count), "{count} endpoints: {chi_square}");
        }
    }
}

#[test]
fn clients_are_served_when_there_is_no_room_to_remember_them() {
    for family in Family::BOTH {
        let mut intent = base();
        let service = ServiceIntent { frontends: vec![Frontend { affinity_secs: Some(60), ..frontend(family, 2, Protocol::Tcp) }] };
        Arc::make_mut(&mut intent.services).services.insert(ServiceName::new("shop", "web"), Arc::new(service));
        let mut objects = full(&intent).1;
        let sets = objects.values_mut().filter_map(|object| if let NftObject::Set(spec) = object { spec.size.as_mut() } else { None });
        sets.for_each(|size| *size = 2);
        let mut table = Table::from_objects(&objects);
        let mut send = |client: u8, random| {
            let client: std::net::IpAddr = match family {
                Family::V4 => std::net::Ipv4Addr::new(203, 0, 113, client).into(),
                Family::V6 => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(client)).into(),
            };
            let mut packet = Packet::new(client, address("v1", family), Protocol::Tcp.number(), 80);
            packet.random = random;
            assert!(table.run(Hook::Prerouting, &mut packet).passes());
            assert_eq!(packet.dst_port, 8080, "{client} is not translated");
            packet.dst
        };
        let clients = [1, 2, 3];
        let first = clients.map(|client| send(client, 0));
        let again = clients.map(|client| send(client, u32::MAX));
        assert_eq!(again[..2], first[..2], "those that came first are remembered");
        assert_ne!(again[2], first[2], "the third is drawn for anew");
    }
}

#[test]
fn chains_follow_the_numbers_of_endpoints_and_not_the_services() {
    let mut intent = base();
    let services = &mut Arc::make_mut(&mut intent.services).services;
    for i in 0..500_u32 {
        let mut frontend = frontend(Family::V4, 1 + i % 2, Protocol::Tcp);
        frontend.address = FrontendAddress::Vip(std::net::Ipv4Addr::from_bits(0x0a2b_0000 + i).into());
        services.insert(ServiceName::new("shop", format!("s{i}")), Arc::new(ServiceIntent { frontends: vec![frontend] }));
    }
    let chains = |intent: &bowline_model::intent::Intent| full(intent).1.keys().filter(|k| matches!(k, NftKey::Chain(_))).count();
    assert_eq!(chains(&intent), chains(&base()) + 2);

    let mut changed = intent.clone();
    let one = Arc::new(ServiceIntent { frontends: vec![frontend(Family::V4, 3, Protocol::Tcp)] });
    Arc::make_mut(&mut changed.services).services.insert(ServiceName::new("shop", "new"), one);
    let delta = crate::lower(&intent, &changed, &super::notation::host()).value;
    assert_eq!(delta.nft.len(), 1 + 1 + 3, "a chain, an element that leads to it, three endpoints: {delta:?}");
    let back = crate::lower(&changed, &intent, &super::notation::host()).value;
    assert_eq!((back.nft.set.len(), back.nft.remove.len()), (0, 5));
}

//! Between the nodes: ways there and back, what is let in, problems.

use bowline_model::intent::Intent;
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::{Family, NodeName};
use expect_test::expect;
use std::sync::Arc;

use super::bench::{Bench, full};
use super::check;
use super::notation::{base, host, node, parse};
use crate::objects::net::{HELD_MARK, LinkKind, NetKey, NetObject, PEER_MARK_SHIFT, TRANSLATED_MARK};

const TRAFFIC: &str = "a -> x:80/tcp
    a -> y:80/tcp
    n1 -> x:80/tcp
    a -> lost:80/tcp
    n1 -> lost:80/tcp
    a -> n2:22/tcp
    n1 -> n2:22/tcp
    a -> out:40000/tcp reply n2
    a -> out:40000/tcp known
    a -> x:40000/tcp reply n2";

#[test]
fn vxlan_carries_pods_and_what_touches_them() {
    check(
        "pods a",
        TRAFFIC,
        expect![[r#"
        a -> x:80/tcp => bowline.1 by gw2: a -> x:80
        a -> y:80/tcp => bowline.1 by gw3: a -> y:80
        n1 -> x:80/tcp => bowline.1 by gw2: n1 -> x:80
        a -> lost:80/tcp => no route
        n1 -> lost:80/tcp => no route
        a -> n2:22/tcp => bowline.1 by gw2: a -> n2:22
        n1 -> n2:22/tcp => eth0: n1 -> n2:22
        a -> out:40000/tcp reply n2 => bowline.1 by gw2: a -> out:40000
        a -> out:40000/tcp known => eth0: a -> out:40000
        a -> x:40000/tcp reply n2 => bowline.1 by gw2: a -> x:40000
    "#]],
    );
}

#[test]
fn direct_routing_and_host_gw_use_the_link() {
    let direct = expect![[r#"
        a -> x:80/tcp => eth0 by n2: a -> x:80
        a -> y:80/tcp => eth0 by n3: a -> y:80
        n1 -> x:80/tcp => eth0 by n2: n1 -> x:80
        a -> lost:80/tcp => no route
        n1 -> lost:80/tcp => no route
        a -> n2:22/tcp => eth0: a -> n2:22
        n1 -> n2:22/tcp => eth0: n1 -> n2:22
        a -> out:40000/tcp reply n2 => eth0 by n2: a -> out:40000
        a -> out:40000/tcp known => eth0: a -> out:40000
        a -> x:40000/tcp reply n2 => eth0 by n2: a -> x:40000
    "#]];
    check("pods a\ndirect", TRAFFIC, direct);
    let host_gw = expect![[r#"
        a -> x:80/tcp => eth0 by n2: a -> x:80
        a -> y:80/tcp => eth0 by n3: a -> y:80
        n1 -> x:80/tcp => eth0 by n2: n1 -> x:80
        a -> lost:80/tcp => no route
        n1 -> lost:80/tcp => no route
        a -> n2:22/tcp => eth0: a -> n2:22
        n1 -> n2:22/tcp => eth0: n1 -> n2:22
        a -> out:40000/tcp reply n2 => eth0 by n2: a -> out:40000
        a -> out:40000/tcp known => eth0: a -> out:40000
        a -> x:40000/tcp reply n2 => eth0 by n2: a -> x:40000
    "#]];
    check("pods a\nhost-gw", TRAFFIC, host_gw);
}

#[test]
fn only_true_sources_come_in() {
    check(
        "pods a b\nsvc v1:9/udp -> n1:8472",
        "a -> b:80/tcp as out
         a -> b:80/tcp as b
         a -> b:80/tcp mac b
         a -> b:80/tcp as n1
         a -> b:80/tcp as lo
         x -> a:80/tcp
         x -> a:80/tcp via n3
         y -> a:80/tcp via n2
         a -> b:80/tcp via n2
         lost -> b:80/tcp via n2
         n2 -> b:80/tcp via n2
         n3 -> b:80/tcp via n2
         n1 -> b:80/tcp via n2
         out -> b:80/tcp via n2
         out -> b:80/tcp via n9
         x -> b:80/tcp from-link eth0
         lost -> b:80/tcp from-link eth0
         a -> b:80/tcp from-link eth0
         out -> n1:8472/udp
         n2 -> n1:8472/udp
         a -> n1:8472/udp
         x -> n1:8472/udp
         n2 -> n1:8472/udp via n2
         a -> v1:9/udp
         n1 -> n1:8472/udp
         out -> n1:22/tcp",
        expect![[r#"
            a -> b:80/tcp as out => drop: not the pod's own address
            a -> b:80/tcp as b => drop: not the pod's own address
            a -> b:80/tcp mac b => drop: not the pod's own station
            a -> b:80/tcp as n1 => drop: not the pod's own address
            a -> b:80/tcp as lo => drop: not the pod's own address
            x -> a:80/tcp => bwla: x -> a:80
            x -> a:80/tcp via n3 => drop: another node's address
            y -> a:80/tcp via n2 => drop: another node's address
            a -> b:80/tcp via n2 => drop: another node's address
            lost -> b:80/tcp via n2 => drop: another node's address
            n2 -> b:80/tcp via n2 => bwlb: n2 -> b:80
            n3 -> b:80/tcp via n2 => drop: another node's address
            n1 -> b:80/tcp via n2 => drop: another node's address
            out -> b:80/tcp via n2 => bwlb: out -> b:80
            out -> b:80/tcp via n9 => drop: unknown node
            x -> b:80/tcp from-link eth0 => drop: a pod's address from outside
            lost -> b:80/tcp from-link eth0 => drop: a pod's address from outside
            a -> b:80/tcp from-link eth0 => drop: this node's pods' address from outside
            out -> n1:8472/udp => drop: tunnel packet from no node
            n2 -> n1:8472/udp => node: n2 -> n1:8472
            a -> n1:8472/udp => drop: tunnel packet from a pod
            x -> n1:8472/udp => drop: tunnel packet inside the tunnel
            n2 -> n1:8472/udp via n2 => drop: tunnel packet inside the tunnel
            a -> v1:9/udp => drop: tunnel packet from a pod
            n1 -> n1:8472/udp => node: n1 -> n1:8472
            out -> n1:22/tcp => node: out -> n1:22
        "#]],
    );
    check(
        "pods a b\nhost-gw",
        "x -> b:80/tcp from-link eth0\na -> b:80/tcp from-link eth0",
        expect![[r#"
        x -> b:80/tcp from-link eth0 => bwlb: x -> b:80
        a -> b:80/tcp from-link eth0 => drop: this node's pods' address from outside
    "#]],
    );
}

#[test]
fn a_connection_remembers_the_node_that_handed_it_over() {
    for (setup, origin, mark) in [
        ("pods a", "out -> a:80/tcp via n2", 2),
        ("pods a", "n2 -> a:80/tcp via n2", 0),
        ("pods a", "x -> a:80/tcp via n2", 0),
        ("pods a", "out -> a:80/tcp from-mac n2", 0),
        ("pods a\nhost-gw", "out -> a:80/tcp from-mac n2", 2),
        ("pods a\nhost-gw", "n2 -> a:80/tcp from-mac n2", 0),
        ("pods a\nhost-gw", "out -> a:80/tcp", 0),
    ] {
        for family in Family::BOTH {
            let mut bench = Bench::new(setup, family);
            let mut packet = bench.packet(origin);
            bench.carry(&mut packet);
            assert_eq!(packet.connection.mark >> PEER_MARK_SHIFT, mark, "{setup}; {origin}; {family}");
        }
    }
}

#[test]
fn the_outer_packet_is_not_routed_by_the_inner_ones_mark() {
    for family in Family::BOTH {
        let mut bench = Bench::new("pods a", family);
        let mut packet = bench.packet("a -> out:40000/tcp reply n2");
        assert!(bench.carry(&mut packet).starts_with("bowline.1 by gw2"));
        assert_eq!(packet.mark, 0);
    }
}

fn changed(change: impl FnOnce(&mut Intent)) -> Intent {
    let mut intent = base();
    change(&mut intent);
    intent
}

fn peer(intent: &mut Intent, number: u16, change: impl FnOnce(&mut FabricNode)) {
    let mut node = (*node(number)).clone();
    change(&mut node);
    Arc::make_mut(&mut intent.routes).peers.insert(node.name.clone(), Arc::new(node));
}

fn problems(intent: &Intent) -> String {
    let lines = crate::lower(&Intent::default(), intent, &host()).problems;
    lines.iter().map(|p| format!("{p}\n")).collect()
}

#[test]
fn host_gw_names_the_node_that_is_no_neighbour_and_routes_the_others() {
    let intent = changed(|intent| {
        Arc::make_mut(&mut intent.routes).backend = BackendConf::HostGw;
        peer(intent, 3, |n| n.internal.v4 = Some("10.9.0.3".parse().unwrap()));
    });
    expect![[r#"
        error[BW2010]: node n3 (10.9.0.3) is not on a link of this node, so host-gw cannot reach its pods
         where: node n3
         why:   10.9.0.3 lies in no network of this node's links: it is behind a router
         fix:   use the backend vxlan (with directRouting for nodes that share a link)
         more:  bowline help BW2010
    "#]]
    .assert_eq(&problems(&intent));
    let routed = |cidr: &str| {
        full(&intent).0.keys().any(|k| matches!(k, NetKey::Route { destination, .. } if *destination == cidr.parse().unwrap()))
    };
    assert!(routed("10.42.2.0/24") && routed("fd42:0:0:3::/64"));
    assert!(!routed("10.42.3.0/24"));
}

#[test]
fn nodes_without_a_common_family_are_told() {
    let intent = changed(|intent| {
        peer(intent, 2, |n| n.internal.v4 = None);
        let routes = Arc::make_mut(&mut intent.routes);
        let mut local = (*node(1)).clone();
        local.internal.v6 = None;
        routes.local = Some(Arc::new(local));
    });
    expect![[r#"
        error[BW2011]: node n2 has no address of a family that this node has one of
         where: node n2
         fix:   give both nodes an InternalIP of one family
         more:  bowline help BW2011
    "#]]
    .assert_eq(&problems(&intent));
    assert_eq!(problems(&base()), "");
}

#[test]
fn outer_ipv6_only_where_there_is_no_outer_ipv4() {
    let devices = |intent: &Intent| {
        let link = |(key, object): (NetKey, NetObject)| match (key, object) {
            (NetKey::Link(name), NetObject::Link(spec)) => {
                let LinkKind::Vxlan { local, .. } = spec.kind;
                Some(format!("{name} from {local} mtu {}", spec.mtu_bytes))
            }
            _ => None,
        };
        full(intent).0.into_iter().filter_map(link).collect::<Vec<_>>()
    };
    assert_eq!(devices(&base()), ["bowline.1 from 10.0.0.1 mtu 1450"]);
    let mixed = changed(|intent| peer(intent, 2, |n| n.internal.v4 = None));
    assert_eq!(devices(&mixed), ["bowline.1 from 10.0.0.1 mtu 1450", "bowline6.1 from fd00::1 mtu 1430"]);
    assert_eq!(crate::pod::mtu(&base().routes, &host()), 1450);
    assert_eq!(crate::pod::mtu(&mixed.routes, &host()), 1430);
    assert_eq!(crate::pod::mtu(&parse("host-gw").routes, &host()), 1500);
    let forwarding = full(&mixed).0.into_iter().filter_map(|(key, object)| match (key, object) {
        (NetKey::Forwarding { link, .. }, NetObject::Forwarding(to)) => Some(format!("{link} {to}")),
        _ => None,
    });
    assert_eq!(forwarding.collect::<Vec<_>>(), ["bowline.1 10.0.0.3", "bowline6.1 fd00::2"]);
}

#[test]
fn a_peer_that_goes_takes_only_its_own() {
    let (with, without) = (parse("pods a"), parse("pods a\nwithout n2"));
    let delta = crate::lower(&with, &without, &host()).value;
    assert!(delta.net.set.is_empty() && delta.nft.set.is_empty(), "{delta:?}");
    assert!(delta.net.remove.iter().all(|key| !format!("{key:?}").contains("10.42.3.0")));
    // The same machine under a new name keeps what both names had in common.
    let renamed = changed(|intent| {
        peer(intent, 2, |n| n.name = NodeName::from("renamed"));
    });
    let both = full(&renamed);
    let after = changed(|intent| {
        peer(intent, 2, |n| n.name = NodeName::from("renamed"));
        Arc::make_mut(&mut intent.routes).peers.remove(&NodeName::from("n2"));
    });
    let delta = crate::lower(&renamed, &after, &host()).value;
    assert!(delta.is_empty(), "{delta:?}");
    assert_eq!(both, full(&after));
}

/// A datagram that nobody has answered is as new as the first. What its flow was marked with meanwhile stays.
#[test]
fn a_flow_of_a_peers_is_marked_once() {
    let mut bench = Bench::new("pods a b", Family::V4);
    let mut packet = bench.packet("out -> b:53/udp via n2");
    assert_eq!(bench.carry(&mut packet), "bwlb: out -> b:53");
    let peer = packet.connection.mark;
    assert_eq!(peer >> PEER_MARK_SHIFT, 2);
    for more in [HELD_MARK, TRANSLATED_MARK] {
        let mut next = bench.packet("out -> b:53/udp via n2");
        next.connection.mark = peer | more;
        assert_eq!(bench.carry(&mut next), "bwlb: out -> b:53");
        assert_eq!(next.connection.mark, peer | more);
    }
}

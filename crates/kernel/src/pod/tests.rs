//! Against the kernel: real packets, real kills.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;

use super::*;
use crate::netns::testing::fresh;

fn spec(name: &str, last: u8) -> PodLinkSpec {
    PodLinkSpec {
        host_ifname: name.to_owned(),
        host_mac: MacAddr([2, 0, 0, 0, 1, last]),
        pod_ifname: "eth0".to_owned(),
        pod_mac: MacAddr([2, 0, 0, 0, 2, last]),
        ips: Dual {
            v4: Some(Ipv4Addr::new(10, 42, 1, last).into()),
            v6: Some(Ipv6Addr::new(0xfd42, 0, 0, 1, 0, 0, 0, u16::from(last)).into()),
        },
        mtu_bytes: 1450,
    }
}

/// A node that forwards.
fn node() -> Option<(NetNs, Netlink)> {
    let ns = fresh()?;
    let mut netlink = Netlink::open_in(&ns).unwrap();
    netlink.set_up("lo").unwrap();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        sysctl::write_in(&ns, key, "1").unwrap();
    }
    Some((ns, netlink))
}

/// One datagram there and back between two pods, at once and without a second try.
fn datagram_passes(from: &NetNs, to: &NetNs, address: IpAddr) {
    let server = to.run(|| UdpSocket::bind(SocketAddr::new(address, 7)).unwrap()).unwrap();
    let client = from
        .run(|| {
            let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            UdpSocket::bind(SocketAddr::new(any, 0)).unwrap()
        })
        .unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    client.send_to(b"ping", SocketAddr::new(address, 7)).unwrap();
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).unwrap_or_else(|e| panic!("the first datagram to {address} arrives: {e}"));
    assert_eq!(&buffer[..length], b"ping");
    server.send_to(b"pong", peer).unwrap();
    let (length, _) = client.recv_from(&mut buffer).unwrap_or_else(|e| panic!("and so does the answer from {address}: {e}"));
    assert_eq!(&buffer[..length], b"pong");
}

#[test]
fn pods_talk_the_moment_they_are_attached_over_both_families() {
    let (Some((_node_ns, mut node)), Some(a), Some(b)) = (node(), fresh(), fresh()) else { return };
    let (spec_a, spec_b) = (spec("bwa", 1), spec("bwb", 2));
    attach(&mut node, &a, &spec_a).unwrap();
    attach(&mut node, &b, &spec_b).unwrap();
    for address in spec_b.ips.values() {
        datagram_passes(&a, &b, *address);
    }
    for address in spec_a.ips.values() {
        datagram_passes(&b, &a, *address);
    }
    assert_eq!(check(&mut node, &a, &spec_a).unwrap(), Vec::<String>::new());
    detach(&mut node, "bwa").unwrap();
    detach(&mut node, "bwa").unwrap();
    let mut pod = Netlink::open_in(&a).unwrap();
    assert_eq!(pod.link("eth0").unwrap(), None);
    let routes = node.routes(RouteFilter { table: None, protocol: Some(ROUTE_PROTOCOL) }).unwrap();
    assert_eq!(routes.len(), 2, "the other pod's only: {routes:?}");
}

#[test]
fn the_node_and_a_pod_exchange_bytes_that_fill_the_mtu() {
    let (Some((node_ns, mut node)), Some(a)) = (node(), fresh()) else { return };
    // The node needs an address of its own to talk from.
    node.create_veth(&VethSpec { name: "up", peer_name: "wire", ..VethSpec::default() }).unwrap();
    for (address, link) in [("192.0.2.1/24", "up"), ("2001:db8::1/64", "up")] {
        node.set_up(link).unwrap();
        node.set_up("wire").unwrap();
        node.add_address(link, address.parse().unwrap(), true).unwrap();
    }
    let spec = spec("bwa", 1);
    attach(&mut node, &a, &spec).unwrap();
    for address in spec.ips.values() {
        let listener = a.run(|| TcpListener::bind(SocketAddr::new(*address, 80)).unwrap()).unwrap();
        let mut client = node_ns.run(|| TcpStream::connect(SocketAddr::new(*address, 80)).unwrap()).unwrap();
        let (mut server, peer) = listener.accept().unwrap();
        let expected: IpAddr = if address.is_ipv4() { "192.0.2.1".parse().unwrap() } else { "2001:db8::1".parse().unwrap() };
        assert_eq!(peer.ip(), expected);
        client.write_all(&[7; 5000]).unwrap();
        let mut got = vec![0; 5000];
        server.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn a_pod_hears_no_router_advertisement_and_has_no_link_local_address() {
    let (Some((_ns, mut node)), Some(a)) = (node(), fresh()) else { return };
    sysctl::write_in(&a, "net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    sysctl::write_in(&a, "net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    attach(&mut node, &a, &spec("bwa", 1)).unwrap();
    for name in ["accept_ra", "autoconf", "accept_dad", "disable_ipv6"] {
        let value = sysctl::read_in(&a, &format!("net/ipv6/conf/eth0/{name}")).unwrap().unwrap();
        assert_eq!(value, "0", "{name}");
    }
    let mut pod = Netlink::open_in(&a).unwrap();
    let index = pod.index_of("eth0").unwrap();
    let addresses: Vec<_> = pod.addresses().unwrap().into_iter().filter(|x| x.link == index).map(|x| x.address.to_string()).collect();
    assert_eq!(addresses, ["10.42.1.1/32", "fd42:0:0:1::1/128"]);
    assert!(pod.link("lo").unwrap().unwrap().up);
    let host = node.index_of("bwa").unwrap();
    assert!(node.addresses().unwrap().iter().all(|x| x.link != host));
}

#[test]
fn one_family_alone_is_enough() {
    for family in Family::BOTH {
        let (Some((_ns, mut node)), Some(a), Some(b)) = (node(), fresh(), fresh()) else { return };
        let only = |mut spec: PodLinkSpec| {
            match family {
                Family::V4 => spec.ips.v6 = None,
                Family::V6 => spec.ips.v4 = None,
            }
            spec
        };
        let (spec_a, spec_b) = (only(spec("bwa", 1)), only(spec("bwb", 2)));
        attach(&mut node, &a, &spec_a).unwrap();
        attach(&mut node, &b, &spec_b).unwrap();
        datagram_passes(&a, &b, *spec_b.ips.get(family).unwrap());
        assert!(check(&mut node, &b, &spec_b).unwrap().is_empty());
    }
}

#[test]
fn attaching_again_makes_it_anew_and_anothers_link_is_left_alone() {
    let (Some((_ns, mut node)), Some(a)) = (node(), fresh()) else { return };
    let spec = spec("bwa", 1);
    attach(&mut node, &a, &spec).unwrap();
    let before = node.index_of("bwa").unwrap();
    attach(&mut node, &a, &spec).unwrap();
    assert_ne!(node.index_of("bwa").unwrap(), before);
    assert!(check(&mut node, &a, &spec).unwrap().is_empty());
    node.create_bridge("br0").unwrap();
    let taken = PodLinkSpec { host_ifname: "br0".to_owned(), ..spec };
    let error = attach(&mut node, &a, &taken).unwrap_err();
    assert!(matches!(&error, AttachError::NotOurs { .. }) && !error.may_retry(), "{error}");
    assert!(detach(&mut node, "br0").is_err());
    assert!(node.link("br0").unwrap().is_some());
}

#[test]
fn check_names_each_difference() {
    let (Some((_ns, mut node)), Some(a)) = (node(), fresh()) else { return };
    let spec = spec("bwa", 1);
    attach(&mut node, &a, &spec).unwrap();
    let mut pod = Netlink::open_in(&a).unwrap();
    type Harm = fn(&mut Netlink, &mut Netlink);
    let harms: [(Harm, &str); 5] = [
        (|_, pod| pod.delete_address("eth0", "10.42.1.1/32".parse().unwrap()).unwrap(), "has not the address 10.42.1.1/32"),
        (|_, pod| pod.delete_neighbour("eth0", gateway(Family::V6)).unwrap(), "no permanent neighbour fe80::1"),
        (|_, pod| pod.delete_route(TABLE_MAIN, "::/0".parse().unwrap(), 0, 0).unwrap(), "no route ::/0"),
        (|node, _| node.delete_route(TABLE_MAIN, "10.42.1.1/32".parse().unwrap(), 0, 0).unwrap(), "no route 10.42.1.1/32"),
        (|node, _| node.delete_link("bwa").unwrap(), "there is no link bwa"),
    ];
    for (harm, words) in harms {
        harm(&mut node, &mut pod);
        let differences = check(&mut node, &a, &spec).unwrap();
        assert!(differences.iter().any(|d| d.contains(words)), "{words}: {differences:?}");
    }
}

#[test]
fn what_a_chained_plugin_may_change_is_no_difference() {
    let (Some((_ns, mut node)), Some(a)) = (node(), fresh()) else { return };
    let spec = spec("bwa", 1);
    attach(&mut node, &a, &spec).unwrap();
    let mut pod = Netlink::open_in(&a).unwrap();
    node.set_mtu("bwa", 1300).unwrap();
    pod.set_mtu("eth0", 1300).unwrap();
    assert_eq!(check(&mut node, &a, &spec).unwrap(), [""; 0]);
}

/// Every crash point of [`attach`], in order.
const CRASH_POINTS: [&str; 10] = [
    "attach.former-removed",
    "attach.pair-created",
    "attach.host-prepared",
    "attach.host-up",
    "attach.pod-sysctls",
    "attach.pod-up",
    "attach.pod-address",
    "attach.pod-routes",
    "attach.pod-configured",
    "attach.routed",
];

/// Does what a killed process would: run by the test below in a process of its own.
#[test]
#[ignore = "run by a_kill_at_any_step_is_repaired_by_the_next_call"]
fn attach_in_the_namespaces_of_the_environment() {
    let open = |name: &str| NetNs::open(std::env::var(name).unwrap()).unwrap();
    let mut node = Netlink::open_in(&open("BOWLINE_TEST_NODE")).unwrap();
    attach(&mut node, &open("BOWLINE_TEST_POD"), &spec("bwa", 1)).unwrap();
}

#[test]
fn a_kill_at_any_step_is_repaired_by_the_next_call() {
    let (Some((node_ns, mut node)), Some(a), Some(b)) = (node(), fresh(), fresh()) else { return };
    let path = |ns: &NetNs| format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
    let (spec_a, spec_b) = (spec("bwa", 1), spec("bwb", 2));
    attach(&mut node, &b, &spec_b).unwrap();
    for point in CRASH_POINTS {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "pod::tests::attach_in_the_namespaces_of_the_environment"])
            .env("BOWLINE_TEST_NODE", path(&node_ns))
            .env("BOWLINE_TEST_POD", path(&a))
            .env("BOWLINE_CRASH_AT", point)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL), "{point}: {status}");
        if point == "attach.pair-created" || point == "attach.pod-up" {
            detach(&mut node, "bwa").unwrap();
            assert_eq!(node.link("bwa").unwrap(), None, "{point}: detach alone repairs too");
        }
        attach(&mut node, &a, &spec_a).unwrap();
        assert_eq!(check(&mut node, &a, &spec_a).unwrap(), Vec::<String>::new(), "{point}");
        for address in spec_b.ips.values() {
            datagram_passes(&a, &b, *address);
        }
    }
    let links: Vec<_> = node.links().unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(links.len(), 3, "lo and one end for each pod: {links:?}");
}

#[test]
fn a_burst_of_pods_is_attached_and_detached_without_a_rest() {
    let Some((_ns, mut node)) = node() else { return };
    let pods: Vec<NetNs> = (0..50).map_while(|_| fresh()).collect();
    let start = Instant::now();
    for (index, ns) in (1..).zip(&pods) {
        attach(&mut node, ns, &spec(&format!("bw{index}"), index)).unwrap();
    }
    let attached = start.elapsed();
    for index in 1..=pods.len() {
        detach(&mut node, &format!("bw{index}")).unwrap();
    }
    println!("attach {:?} each, detach {:?} each", attached / 50, (start.elapsed() - attached) / 50);
    assert_eq!(node.links().unwrap().len(), 1);
    assert!(node.routes(RouteFilter { table: None, protocol: Some(ROUTE_PROTOCOL) }).unwrap().is_empty());
    assert!(node.neighbours().unwrap().iter().all(|n| n.protocol != ROUTE_PROTOCOL));
}

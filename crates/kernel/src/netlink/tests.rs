//! Against the kernel, in namespaces that vanish with the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::net::IpAddr;

use bowline_dataplane::objects::net::{ROUTE_PROTOCOL, RouteSpec, RuleSelector, TABLE_MAIN};
use bowline_model::{Family, MacAddr};
use ipnet::IpNet;

use super::*;
use crate::netns::testing::fresh;

const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A namespace with the veth pair a - b, both up.
fn pair() -> Option<(NetNs, Netlink)> {
    let ns = fresh()?;
    let mut netlink = Netlink::open_in(&ns).unwrap();
    let spec = VethSpec { name: "a", mac: Some(MAC_A), peer_name: "b", peer_mac: Some(MAC_B), mtu_bytes: Some(1400), peer_ns: None };
    netlink.create_veth(&spec).unwrap();
    for name in ["lo", "a", "b"] {
        netlink.set_addr_gen_none(name).unwrap();
        netlink.set_up(name).unwrap();
    }
    Some((ns, netlink))
}

fn unicast(link: &str, gateway: Option<&str>) -> RouteSpec {
    RouteSpec::Unicast { link: link.into(), gateway: gateway.map(ip), source: None, mtu_bytes: None }
}

#[test]
fn a_veth_pair_is_made_as_asked_for() {
    let Some((_ns, mut netlink)) = pair() else { return };
    let a = netlink.link("a").unwrap().unwrap();
    let b = netlink.link("b").unwrap().unwrap();
    assert_eq!((a.mac, b.mac, a.mtu_bytes, b.mtu_bytes), (Some(MAC_A), Some(MAC_B), 1400, 1400));
    assert!(a.is_kind("veth") && a.up && a.carrier && a.addr_gen_none, "{a:?}");
    assert_eq!((a.peer(), b.peer()), (Some(b.index), Some(a.index)));
    assert_eq!(netlink.links().unwrap().len(), 3);
    assert!(netlink.addresses().unwrap().iter().all(|address| address.link != a.index), "no link-local address");
    let taken = netlink.create_veth(&VethSpec { name: "a", peer_name: "c", ..VethSpec::default() }).unwrap_err();
    assert_eq!(taken.errno(), Some(libc::EEXIST));
    assert!(!taken.may_retry());
    netlink.delete_link("a").unwrap();
    netlink.delete_link("a").unwrap();
    assert_eq!(netlink.link("b").unwrap(), None);
}

#[test]
fn the_other_end_is_made_in_another_namespace_and_links_can_be_moved() {
    let (Some(one), Some(two)) = (fresh(), fresh()) else { return };
    let mut here = Netlink::open_in(&one).unwrap();
    let mut there = Netlink::open_in(&two).unwrap();
    here.create_veth(&VethSpec { name: "a", peer_name: "eth0", peer_ns: Some(&two), ..VethSpec::default() }).unwrap();
    let (a, peer) = (here.link("a").unwrap().unwrap(), there.link("eth0").unwrap().unwrap());
    assert_eq!(here.link("eth0").unwrap(), None);
    assert!(peer.link_netns.is_some() && peer.link == Some(a.index) && peer.peer().is_none(), "{peer:?}");
    here.create_veth(&VethSpec { name: "c", peer_name: "d", ..VethSpec::default() }).unwrap();
    here.move_to("d", &two).unwrap();
    there.rename("d", "eth1").unwrap();
    assert!(there.link("eth1").unwrap().is_some());
    assert!(matches!(here.set_up("d"), Err(NetlinkError::NoSuchLink { .. })));
}

#[test]
fn bridge_master_mac_mtu_and_alias_are_set() {
    let Some((_ns, mut netlink)) = pair() else { return };
    netlink.create_bridge("br0").unwrap();
    netlink.set_master("a", Some("br0")).unwrap();
    let bridge = netlink.link("br0").unwrap().unwrap();
    assert_eq!(netlink.link("a").unwrap().unwrap().master, Some(bridge.index));
    netlink.set_master("a", None).unwrap();
    netlink.set_mac("a", MacAddr([2, 9, 9, 9, 9, 9])).unwrap();
    netlink.set_mtu("a", 1300).unwrap();
    netlink.set_alias("a", LINK_ALIAS).unwrap();
    netlink.set_down("a").unwrap();
    let a = netlink.link("a").unwrap().unwrap();
    assert_eq!((a.master, a.mac, a.mtu_bytes, a.up), (None, Some(MacAddr([2, 9, 9, 9, 9, 9])), 1300, false));
    assert!(a.is_ours());
}

#[test]
fn a_vxlan_link_is_read_back_with_its_settings() {
    let Some((_ns, mut netlink)) = pair() else { return };
    for (name, vni, local) in [("vx4", 1, "192.0.2.1"), ("vx6", 2, "2001:db8::1")] {
        let (local, mac) = (ip(local), Some(MAC_B));
        let spec = VxlanSpec { name, mac, vni, port: 8472, local, device: "a", mtu_bytes: Some(1330) };
        netlink.create_vxlan(&spec).unwrap();
        let link = netlink.link(name).unwrap().unwrap();
        let device = netlink.index_of("a").unwrap();
        let want = VxlanInfo { vni, port: 8472, local: Some(local), device: Some(device), learning: false };
        assert_eq!((link.vxlan, link.mac, link.mtu_bytes), (Some(want), mac, 1330));
    }
}

#[test]
fn addresses_of_both_families_come_and_go() {
    let Some((_ns, mut netlink)) = pair() else { return };
    let index = netlink.index_of("a").unwrap();
    for address in [net("192.0.2.1/24"), net("2001:db8::1/64"), net("10.0.0.1/32"), net("fd00::1/128")] {
        netlink.add_address("a", address, true).unwrap();
        netlink.add_address("a", address, true).unwrap();
        let found: Vec<_> = netlink.addresses().unwrap().into_iter().filter(|a| a.address == address).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].link == index && !found[0].tentative, "{found:?}");
        netlink.delete_address("a", address).unwrap();
        netlink.delete_address("a", address).unwrap();
        assert!(netlink.addresses().unwrap().iter().all(|a| a.address != address));
    }
    let error = netlink.add_address("nosuch", net("10.0.0.1/32"), true).unwrap_err();
    assert!(error.to_string().contains("`nosuch`") && error.may_retry(), "{error}");
}

#[test]
fn routes_of_both_families_are_set_replaced_found_and_deleted() {
    let Some((_ns, mut netlink)) = pair() else { return };
    let index = netlink.index_of("a").unwrap();
    netlink.add_address("a", net("10.9.9.9/32"), true).unwrap();
    for (table, destination, gateway, source) in [
        (TABLE_MAIN, "10.1.0.0/16", "192.0.2.7", Some("10.9.9.9")),
        (0x0b0a_0001, "10.2.0.0/16", "192.0.2.7", None),
        (TABLE_MAIN, "fd01::/64", "fe80::7", None),
        (0x0b0a_0001, "fd02::/64", "2001:db8::7", None),
        (TABLE_MAIN, "0.0.0.0/0", "169.254.1.1", None),
        (TABLE_MAIN, "::/0", "fe80::1", None),
    ] {
        let destination = net(destination);
        let find = |netlink: &mut Netlink| {
            let filter = RouteFilter { table: Some(table), protocol: Some(ROUTE_PROTOCOL) };
            netlink.routes(filter).unwrap().into_iter().filter(|r| r.destination == destination).collect::<Vec<_>>()
        };
        netlink.replace_route(table, destination, &unicast("a", None), 0, ROUTE_PROTOCOL).unwrap();
        let spec = RouteSpec::Unicast { link: "a".into(), gateway: Some(ip(gateway)), source: source.map(ip), mtu_bytes: Some(1280) };
        for _ in 0..2 {
            netlink.replace_route(table, destination, &spec, 0, ROUTE_PROTOCOL).unwrap();
        }
        let found = find(&mut netlink);
        assert_eq!(found.len(), 1, "{found:?}");
        let route = &found[0];
        assert!(route.is_unicast() && route.onlink && route.metric == 0 && !route.multipath, "{route:?}");
        assert_eq!((route.link, route.gateway), (Some(index), Some(ip(gateway))));
        assert_eq!((route.source, route.mtu_bytes), (source.map(ip), Some(1280)));
        netlink.delete_route(table, destination, 0, 99).unwrap();
        assert_eq!(find(&mut netlink).len(), 1, "another's mark deletes nothing of ours");
        netlink.delete_route(table, destination, 0, ROUTE_PROTOCOL).unwrap();
        netlink.delete_route(table, destination, 0, ROUTE_PROTOCOL).unwrap();
        assert!(find(&mut netlink).is_empty());
    }
}

#[test]
fn unreachable_routes_and_metrics_are_kept_apart() {
    let Some((_ns, mut netlink)) = pair() else { return };
    for destination in [net("10.42.0.0/16"), net("fd42::/56")] {
        netlink.replace_route(TABLE_MAIN, destination, &RouteSpec::Unreachable, 0, ROUTE_PROTOCOL).unwrap();
        netlink.replace_route(TABLE_MAIN, destination, &unicast("a", None), 50, ROUTE_PROTOCOL).unwrap();
        let found = |netlink: &mut Netlink| {
            let filter = RouteFilter { table: None, protocol: Some(ROUTE_PROTOCOL) };
            let mut all: Vec<_> = netlink.routes(filter).unwrap();
            all.retain(|r| r.destination == destination);
            all.sort_by_key(|r| r.metric);
            all.into_iter().map(|r| (r.metric, r.is_unreachable())).collect::<Vec<_>>()
        };
        assert_eq!(found(&mut netlink), [(0, true), (50, false)]);
        netlink.delete_route(TABLE_MAIN, destination, 0, ROUTE_PROTOCOL).unwrap();
        assert_eq!(found(&mut netlink), [(50, false)]);
    }
}

#[test]
fn neighbours_and_forwarding_entries_are_replaced_and_deleted() {
    let Some((_ns, mut netlink)) = pair() else { return };
    let index = netlink.index_of("a").unwrap();
    for address in [ip("10.0.0.9"), ip("fd00::9")] {
        for mac in [MAC_A, MAC_B] {
            netlink.replace_neighbour("a", address, mac, true, ROUTE_PROTOCOL).unwrap();
        }
        let want = NeighbourInfo { link: index, address, mac: Some(MAC_B), permanent: true, protocol: ROUTE_PROTOCOL };
        assert!(netlink.neighbours().unwrap().contains(&want));
        netlink.delete_neighbour("a", address).unwrap();
        netlink.delete_neighbour("a", address).unwrap();
        assert!(!netlink.neighbours().unwrap().iter().any(|n| n.address == address && n.permanent));
    }
    let local = ip("192.0.2.1");
    let spec = VxlanSpec { name: "vx", mac: None, vni: 1, port: 8472, local, device: "a", mtu_bytes: None };
    netlink.create_vxlan(&spec).unwrap();
    for destination in [ip("192.0.2.2"), ip("192.0.2.3")] {
        netlink.replace_forwarding("vx", MAC_A, destination).unwrap();
        let all = netlink.forwarding_entries(Some("vx")).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].destination == Some(destination) && all[0].mac == MAC_A && all[0].own && all[0].permanent);
    }
    netlink.delete_forwarding("vx", MAC_A).unwrap();
    netlink.delete_forwarding("vx", MAC_A).unwrap();
    assert!(netlink.forwarding_entries(Some("vx")).unwrap().is_empty());
}

#[test]
fn rules_of_both_families_are_added_once_and_deleted_by_mark() {
    let Some((_ns, mut netlink)) = pair() else { return };
    let mark = RuleSelector::Mark { value: 0x0005_0000, mask: 0xffff_0000 };
    for (family, selector) in [
        (Family::V4, mark.clone()),
        (Family::V6, mark),
        (Family::V4, RuleSelector::From(net("10.42.1.0/24"))),
        (Family::V6, RuleSelector::From(net("fd42:0:0:1::/64"))),
    ] {
        let ours =
            |netlink: &mut Netlink| netlink.rules().unwrap().into_iter().filter(|r| r.protocol == ROUTE_PROTOCOL).collect::<Vec<_>>();
        for _ in 0..2 {
            netlink.add_rule(family, 100, &selector, 0x0b0a_0005, ROUTE_PROTOCOL).unwrap();
        }
        let (table, protocol) = (0x0b0a_0005, ROUTE_PROTOCOL);
        let want = RuleInfo { family, priority: 100, selector: Some(selector.clone()), table, protocol };
        assert_eq!(ours(&mut netlink), [want]);
        netlink.delete_rule(family, 100, &selector, 0x0b0a_0005, 99).unwrap();
        assert_eq!(ours(&mut netlink).len(), 1);
        netlink.delete_rule(family, 100, &selector, 0x0b0a_0005, ROUTE_PROTOCOL).unwrap();
        netlink.delete_rule(family, 100, &selector, 0x0b0a_0005, ROUTE_PROTOCOL).unwrap();
        assert!(ours(&mut netlink).is_empty());
    }
    assert!(netlink.rules().unwrap().len() >= 5, "the kernel's own are still there");
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    let Some((_ns, mut netlink)) = pair() else { return };
    let error = netlink.set_mtu("a", 10).unwrap_err();
    assert!(error.to_string().starts_with("cannot set the MTU of link a: Invalid argument"), "{error}");
    assert!(error.to_string().contains('('), "{error}");
}

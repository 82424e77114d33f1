//! The driver under the reconciler, against the kernel, in namespaces that vanish with the test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::net::IpAddr;

use bowline_dataplane::objects::net::TABLE_MAIN;
use bowline_model::MacAddr;

use super::*;
use crate::netlink::VethSpec;
use crate::netns::testing::fresh;
use crate::reconcile::{Reconciler, SyncMode};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// A node with an underlay link of both families.
fn node() -> Option<(NetNs, Netlink)> {
    let ns = fresh()?;
    let mut netlink = Netlink::open_in(&ns).unwrap();
    netlink.create_veth(&VethSpec { name: "eth0", peer_name: "wire", ..VethSpec::default() }).unwrap();
    for name in ["lo", "wire", "eth0"] {
        netlink.set_up(name).unwrap();
    }
    for address in ["192.0.2.1/24", "2001:db8::1/64"] {
        netlink.add_address("eth0", net(address), true).unwrap();
    }
    Some((ns, netlink))
}

fn vxlan(vni: u32, last: u8) -> NetObject {
    let kind = LinkKind::Vxlan { vni, port: 8472, local: ip("192.0.2.1"), device: "eth0".into() };
    NetObject::Link(LinkSpec { kind, mac: Some(mac(last)), mtu_bytes: 1450 })
}

fn route(link: &str, gateway: &str) -> NetObject {
    NetObject::Route(RouteSpec::Unicast { link: link.into(), gateway: Some(ip(gateway)), source: None, mtu_bytes: None })
}

fn route_key(destination: &str) -> NetKey {
    NetKey::Route { table: TABLE_MAIN, destination: net(destination), metric: 0 }
}

/// What a node of a vxlan cluster of two has.
fn fabric() -> BTreeMap<NetKey, NetObject> {
    let link: Arc<str> = "bowline.1".into();
    let mark = RuleSelector::Mark { value: 0x0002_0000, mask: 0xffff_0000 };
    let rule = |family| NetKey::Rule { family, priority: 120, selector: mark.clone() };
    let table = NetObject::Rule(RuleAction::Table(0x0b0a_0002));
    let neighbour = |address: &str| NetKey::Neighbour { link: link.clone(), address: ip(address) };
    let address = |address: &str| NetKey::Address { link: link.clone(), address: net(address) };
    BTreeMap::from([
        (NetKey::Link(link.clone()), vxlan(1, 1)),
        (NetKey::Sysctl("net/ipv4/ip_forward".into()), NetObject::Sysctl("1".into())),
        (NetKey::Sysctl("net/ipv6/conf/all/forwarding".into()), NetObject::Sysctl("1".into())),
        (address("10.42.1.0/32"), NetObject::Address),
        (address("fd42:0:0:1::/128"), NetObject::Address),
        (neighbour("10.42.2.0"), NetObject::Neighbour(mac(2))),
        (neighbour("fd42:0:0:2::"), NetObject::Neighbour(mac(2))),
        (NetKey::Forwarding { link: link.clone(), mac: mac(2) }, NetObject::Forwarding(ip("192.0.2.2"))),
        (route_key("10.42.2.0/24"), route("bowline.1", "10.42.2.0")),
        (route_key("fd42:0:0:2::/64"), route("bowline.1", "fd42:0:0:2::")),
        (route_key("10.42.0.0/16"), NetObject::Route(RouteSpec::Unreachable)),
        (route_key("fd42::/56"), NetObject::Route(RouteSpec::Unreachable)),
        (NetKey::Route { table: 0x0b0a_0002, destination: net("0.0.0.0/0"), metric: 0 }, route("bowline.1", "10.42.2.0")),
        (rule(Family::V4), table.clone()),
        (rule(Family::V6), table),
    ])
}

fn reconciler(ns: &NetNs, wanted: BTreeMap<NetKey, NetObject>) -> Reconciler<NetDriver> {
    let mut reconciler = Reconciler::new(NetDriver::open_in(ns).unwrap());
    reconciler.want(Delta { set: wanted, remove: BTreeSet::new() });
    reconciler
}

/// What is wanted is all there, by a fresh look.
fn assert_in_place(ns: &NetNs, wanted: &BTreeMap<NetKey, NetObject>) {
    let seen = NetDriver::open_in(ns).unwrap().read_owned(wanted).unwrap();
    for (key, want) in wanted {
        let found = seen.get(key).unwrap_or_else(|| panic!("{key:?} is missing; there is {seen:#?}"));
        assert!(NetDriver::same(found, want), "{key:?}: {found:?} instead of {want:?}");
    }
    assert_eq!(seen.len(), wanted.len(), "nothing more: {seen:#?}");
}

#[test]
fn a_fabric_is_made_and_a_restart_writes_nothing() {
    let Some((ns, _netlink)) = node() else { return };
    let report = reconciler(&ns, fabric()).sync(SyncMode::Full, 0);
    assert_eq!((report.failed, report.written), (vec![], fabric().len()));
    assert_in_place(&ns, &fabric());
    let mut again = reconciler(&ns, fabric());
    again.allow_removal();
    let report = again.sync(SyncMode::Full, 0);
    assert_eq!((report.written, report.removed, report.failed), (0, 0, vec![]));
}

#[test]
fn what_cannot_be_changed_in_place_is_made_anew_with_all_that_hung_on_it() {
    let Some((ns, mut netlink)) = node() else { return };
    let mut reconciler = reconciler(&ns, fabric());
    reconciler.sync(SyncMode::Full, 0);
    let before = netlink.index_of("bowline.1").unwrap();
    let mut wanted = fabric();
    wanted.insert(NetKey::Link("bowline.1".into()), vxlan(7, 1));
    reconciler.want(Delta::between(&fabric(), &wanted));
    let report = reconciler.sync(SyncMode::Shadow, 0);
    assert!(report.is_clean() && report.written > 5, "{report:?}");
    assert_ne!(netlink.index_of("bowline.1").unwrap(), before);
    assert_in_place(&ns, &wanted);
    let index = netlink.index_of("bowline.1").unwrap();
    wanted.insert(NetKey::Link("bowline.1".into()), vxlan(7, 9));
    reconciler.want(Delta { set: wanted.clone(), remove: BTreeSet::new() });
    let report = reconciler.sync(SyncMode::Shadow, 0);
    assert_eq!(report.written, 3, "a MAC is changed in place, but takes the neighbours along");
    assert_eq!(netlink.index_of("bowline.1").unwrap(), index);
    assert_in_place(&ns, &wanted);
}

#[test]
fn removal_waits_for_leave_and_takes_ours_only() {
    let Some((ns, mut netlink)) = node() else { return };
    reconciler(&ns, fabric()).sync(SyncMode::Full, 0);
    let foreign = RouteSpec::Unicast { link: "eth0".into(), gateway: None, source: None, mtu_bytes: None };
    netlink.replace_route(TABLE_MAIN, net("198.51.100.0/24"), &foreign, 0, 4).unwrap();
    let local = ip("192.0.2.1");
    let other = VxlanSpec { name: "other0", mac: None, vni: 99, port: 4789, local, device: "eth0", mtu_bytes: None };
    netlink.create_vxlan(&other).unwrap();
    netlink.set_alias("other0", "somebody").unwrap();
    netlink.add_rule(Family::V4, 500, &RuleSelector::From(net("198.51.100.0/24")), 77, 4).unwrap();
    let mut restarted = reconciler(&ns, BTreeMap::new());
    let report = restarted.sync(SyncMode::Full, 0);
    assert_eq!((report.written, report.removed), (0, 0));
    assert_eq!(restarted.driver().read_owned(&BTreeMap::new()).unwrap().len(), fabric().len() - 2, "all but the sysctls");
    restarted.allow_removal();
    let report = restarted.sync(SyncMode::Full, 0);
    assert_eq!((report.failed, report.removed), (vec![], fabric().len() - 2));
    assert_in_place(&ns, &BTreeMap::new());
    assert!(netlink.link("other0").unwrap().is_some());
    assert!(netlink.rules().unwrap().iter().any(|rule| rule.priority == 500));
    let routes = netlink.routes(RouteFilter::default()).unwrap();
    assert!(routes.iter().any(|r| r.destination == net("198.51.100.0/24")));
    assert!(routes.iter().any(|r| r.destination == net("192.0.2.0/24")));
}

#[test]
fn what_someone_flushes_is_set_again() {
    let Some((ns, mut netlink)) = node() else { return };
    let mut reconciler = reconciler(&ns, fabric());
    reconciler.sync(SyncMode::Full, 0);
    let link: Arc<str> = "bowline.1".into();
    netlink.delete_route(TABLE_MAIN, net("10.42.2.0/24"), 0, 0).unwrap();
    netlink.delete_neighbour(&link, ip("fd42:0:0:2::")).unwrap();
    netlink.delete_forwarding(&link, mac(2)).unwrap();
    let selector = RuleSelector::Mark { value: 0x0002_0000, mask: 0xffff_0000 };
    netlink.delete_rule(Family::V6, 120, &selector, 0x0b0a_0002, ROUTE_PROTOCOL).unwrap();
    assert_eq!(reconciler.sync(SyncMode::Shadow, 0).written, 0, "the shadow is believed");
    let report = reconciler.sync(SyncMode::Full, 0);
    assert_eq!((report.written, report.failed), (4, vec![]));
    assert_in_place(&ns, &fabric());
    netlink.delete_link(&link).unwrap();
    assert!(reconciler.sync(SyncMode::Full, 0).is_clean());
    assert_in_place(&ns, &fabric());
}

#[test]
fn anothers_route_and_link_are_left_alone_and_named() {
    let Some((ns, mut netlink)) = node() else { return };
    for (destination, gateway) in [("10.42.2.0/24", "192.0.2.77"), ("fd42:0:0:2::/64", "2001:db8::77")] {
        let NetObject::Route(foreign) = route("eth0", gateway) else { panic!("a route") };
        netlink.replace_route(TABLE_MAIN, net(destination), &foreign, 0, 4).unwrap();
    }
    netlink.create_bridge("bowline.1").unwrap();
    let wanted = BTreeMap::from([
        (NetKey::Link("bowline.1".into()), vxlan(1, 1)),
        (route_key("10.42.2.0/24"), route("eth0", "192.0.2.2")),
        (route_key("fd42:0:0:2::/64"), route("eth0", "2001:db8::2")),
        (route_key("10.42.3.0/24"), route("eth0", "192.0.2.3")),
    ]);
    let mut reconciler = reconciler(&ns, wanted);
    reconciler.allow_removal();
    let report = reconciler.sync(SyncMode::Full, 0);
    assert_eq!(report.written, 1, "the good one is set");
    assert_eq!(report.failed.len(), 3, "{report:?}");
    for failure in &report.failed {
        assert!(failure.error.contains("not ours") && !failure.retryable, "{failure:?}");
    }
    assert!(netlink.link("bowline.1").unwrap().unwrap().is_kind("bridge"));
    let routes = netlink.routes(RouteFilter { table: None, protocol: Some(4) }).unwrap();
    assert_eq!(routes.len(), 2, "{routes:?}");
    netlink.delete_route(TABLE_MAIN, net("10.42.2.0/24"), 0, 4).unwrap();
    let due = reconciler.next_retry_ms().unwrap();
    assert_eq!(reconciler.sync(SyncMode::Shadow, due).written, 1, "and the others once the way is free");
}

#[test]
fn a_rule_that_asks_another_table_replaces_the_old_one() {
    let Some((ns, mut netlink)) = node() else { return };
    let selector = RuleSelector::From(net("10.42.1.0/24"));
    let key = NetKey::Rule { family: Family::V4, priority: 50, selector: selector.clone() };
    let wanted = |table| BTreeMap::from([(key.clone(), NetObject::Rule(RuleAction::Table(table)))]);
    let mut first = reconciler(&ns, wanted(1001));
    first.sync(SyncMode::Full, 0);
    first.want(Delta { set: wanted(1002), remove: BTreeSet::new() });
    assert_eq!(first.sync(SyncMode::Shadow, 0).written, 1);
    assert_in_place(&ns, &wanted(1002));
    // As after a kill between the two steps.
    netlink.add_rule(Family::V4, 50, &selector, 1003, ROUTE_PROTOCOL).unwrap();
    assert_eq!(reconciler(&ns, wanted(1003)).sync(SyncMode::Full, 0).written, 1);
    assert_in_place(&ns, &wanted(1003));
}

#[test]
fn a_bad_object_is_named_and_the_rest_goes_on() {
    let Some((ns, _netlink)) = node() else { return };
    let good = route_key("10.1.0.0/16");
    let wanted = BTreeMap::from([
        (route_key("10.1.2.3/16"), route("eth0", "192.0.2.2")),
        (route_key("10.2.0.0/16"), route("nosuch", "192.0.2.2")),
        (route_key("10.3.0.0/16"), NetObject::Address),
        (NetKey::Sysctl("kernel/panic".into()), NetObject::Sysctl("1".into())),
        (good.clone(), route("eth0", "192.0.2.2")),
    ]);
    let mut reconciler = reconciler(&ns, wanted.clone());
    let report = reconciler.sync(SyncMode::Full, 0);
    assert_eq!(report.written, 1);
    let failed: BTreeSet<_> = report.failed.iter().map(|f| f.key.clone()).collect();
    assert_eq!(failed, wanted.keys().filter(|key| **key != good).cloned().collect());
    let missing = report.failed.iter().find(|f| f.key == route_key("10.2.0.0/16")).unwrap();
    assert!(missing.retryable && missing.error.contains("`nosuch`"), "{missing:?}");
}

#[test]
fn two_links_trade_their_identifiers() {
    let Some((ns, _netlink)) = node() else { return };
    let named = |name: &str| NetKey::Link(name.into());
    let mut reconciler = reconciler(&ns, BTreeMap::from([(named("bowline.1"), vxlan(1, 1))]));
    reconciler.allow_removal();
    reconciler.sync(SyncMode::Full, 0);
    let wanted = BTreeMap::from([(named("bowline.2"), vxlan(1, 1))]);
    reconciler.want(Delta { set: wanted.clone(), remove: BTreeSet::from([named("bowline.1")]) });
    let report = reconciler.sync(SyncMode::Shadow, 0);
    assert!(report.is_clean(), "{report:?}");
    assert_in_place(&ns, &wanted);
}

#[test]
fn uninstall_leaves_nothing_of_ours() {
    let Some((ns, mut netlink)) = node() else { return };
    let links_before = netlink.links().unwrap().len();
    reconciler(&ns, fabric()).sync(SyncMode::Full, 0);
    let report = NetDriver::open_in(&ns).unwrap().uninstall().unwrap();
    assert_eq!(report.failed, vec![]);
    assert_in_place(&ns, &BTreeMap::new());
    assert_eq!(netlink.links().unwrap().len(), links_before);
}

#[test]
fn any_sequence_of_wishes_flushes_and_restarts_ends_as_wished() {
    let Some((ns, mut netlink)) = node() else { return };
    let all: Vec<_> = fabric().into_iter().collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % bound
    };
    let mut wanted = BTreeMap::new();
    let mut current = reconciler(&ns, BTreeMap::new());
    for round in 0..150 {
        // The link comes first in the order and is always wanted, in one of two shapes.
        let mut next: BTreeMap<_, _> = all.iter().filter(|_| draw(3) > 0).cloned().collect();
        next.insert(NetKey::Link("bowline.1".into()), vxlan(1 + u32::try_from(draw(2)).unwrap(), 1));
        match draw(4) {
            0 => current = reconciler(&ns, wanted.clone()),
            1 => netlink.delete_link("bowline.1").unwrap(),
            2 => netlink.delete_route(TABLE_MAIN, net("10.42.2.0/24"), 0, 0).unwrap(),
            _ => {}
        }
        current.want(Delta::between(&wanted, &next));
        wanted = next;
        current.allow_removal();
        let report = current.sync(SyncMode::Full, 0);
        assert!(report.is_clean(), "round {round}: {report:?}");
        assert_in_place(&ns, &wanted);
    }
}

#[test]
fn a_thousand_peers_are_set_and_a_restart_writes_nothing() {
    let Some((ns, _netlink)) = node() else { return };
    let link: Arc<str> = "bowline.1".into();
    let mut wanted = BTreeMap::from([
        (NetKey::Link(link.clone()), vxlan(1, 1)),
        (NetKey::Address { link: link.clone(), address: net("10.0.0.0/32") }, NetObject::Address),
    ]);
    for peer in 1..=1000_u16 {
        let [high, low] = peer.to_be_bytes();
        let (inner, mac): (IpAddr, _) = ([10, 1 + high, low, 0].into(), MacAddr([2, 1, 0, 0, high, low]));
        let route = NetObject::Route(RouteSpec::Unicast { link: link.clone(), gateway: Some(inner), source: None, mtu_bytes: None });
        wanted.insert(NetKey::Neighbour { link: link.clone(), address: inner }, NetObject::Neighbour(mac));
        wanted.insert(NetKey::Forwarding { link: link.clone(), mac }, NetObject::Forwarding([192, 0, 2, 9].into()));
        wanted.insert(NetKey::Route { table: TABLE_MAIN, destination: IpNet::new(inner, 24).unwrap(), metric: 0 }, route);
    }
    let start = std::time::Instant::now();
    assert_eq!(reconciler(&ns, wanted.clone()).sync(SyncMode::Full, 0).written, wanted.len());
    let written = start.elapsed();
    let mut again = reconciler(&ns, wanted.clone());
    again.allow_removal();
    let report = again.sync(SyncMode::Full, 0);
    assert_eq!((report.written, report.removed, report.failed), (0, 0, vec![]));
    println!("{} objects written in {written:?}, read back in {:?}", wanted.len(), start.elapsed() - written);
}

//! What lies between the nodes: a router's namespace with one LAN or a subnet for each node, and the outside behind it.
//!
//! Invariants: the root namespace gets no link, route, rule or sysctl; every link is made in the router's namespace with
//! its other end in the host's. The router translates no address and knows no route to pods or services, so a pod's
//! packet that leaves without translation is never answered by accident.

use std::net::IpAddr;

use anyhow::{Context, Result};
use bowline_kernel::netlink::{Netlink, RouteSpec, VethSpec};
use bowline_kernel::netns::NetNs;
use bowline_kernel::sysctl;
use bowline_model::net::{Dual, Family};
use ipnet::IpNet;

use crate::options::Underlay;
use crate::plan::Plan;

/// The main routing table.
const MAIN_TABLE: u32 = 254;
/// Origin of routes that an administrator sets.
const STATIC: u8 = 4;
/// The bridge of the LAN.
const LAN: &str = "lan0";
/// The router's link to the outside.
const OUTSIDE: &str = "outside0";
/// Every host's link.
const UPLINK: &str = "eth0";

/// Connects router, client and nodes (in the plan's order) as the plan says.
pub(crate) fn build(plan: &Plan, underlay: Underlay, router: u32, client: u32, nodes: &[u32]) -> Result<()> {
    let router_ns = NetNs::of_process(router)?;
    let mut at_router = Netlink::open_in(&router_ns)?;
    at_router.set_up("lo")?;
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        // Where the kernel lacks IPv6, IPv4 still works.
        if sysctl::read_in(&router_ns, key)?.is_some() {
            sysctl::write_in(&router_ns, key, "1")?;
        }
    }
    if underlay == Underlay::Lan {
        at_router.create_bridge(LAN)?;
        quiet(&router_ns, LAN)?;
        if let Some(first) = plan.nodes.first() {
            address(&mut at_router, LAN, &first.gateway)?;
        }
        at_router.set_up(LAN)?;
    }
    for (node, pid) in plan.nodes.iter().zip(nodes) {
        let port = format!("to-{}", node.name);
        connect(&router_ns, &mut at_router, &port, *pid, &node.addresses, &node.gateway)
            .with_context(|| format!("connect node {}", node.name))?;
        match underlay {
            Underlay::Lan => at_router.set_master(&port, Some(LAN))?,
            Underlay::Routed => address(&mut at_router, &port, &node.gateway)?,
        }
        at_router.set_up(&port)?;
    }
    connect(&router_ns, &mut at_router, OUTSIDE, client, &plan.client, &plan.outside_gateway).context("connect the client outside")?;
    address(&mut at_router, OUTSIDE, &plan.outside_gateway)?;
    at_router.set_up(OUTSIDE)?;
    give_client_more(plan, &mut at_router, client)
}

/// Makes a link between the router and a host, and sets the host's end up. The router's end stays down.
fn connect(
    router_ns: &NetNs,
    at_router: &mut Netlink,
    port: &str,
    host: u32,
    addresses: &Dual<IpNet>,
    gateway: &Dual<IpNet>,
) -> Result<()> {
    let host_ns = NetNs::of_process(host)?;
    let spec = VethSpec { name: port, peer_name: UPLINK, peer_ns: Some(&host_ns), ..VethSpec::default() };
    at_router.create_veth(&spec)?;
    quiet(router_ns, port)?;
    let mut at_host = Netlink::open_in(&host_ns)?;
    at_host.set_up("lo")?;
    quiet(&host_ns, UPLINK)?;
    address(&mut at_host, UPLINK, addresses)?;
    at_host.set_up(UPLINK)?;
    for (family, gateway) in gateway.iter() {
        route(&mut at_host, everything(family)?, UPLINK, Some(gateway.addr()))?;
    }
    Ok(())
}

/// The client's further addresses: on its loopback, with a route at the router.
fn give_client_more(plan: &Plan, at_router: &mut Netlink, client: u32) -> Result<()> {
    let mut at_client = Netlink::open_in(&NetNs::of_process(client)?)?;
    for extra in &plan.extra {
        let host = host_prefix(*extra)?;
        at_client.add_address("lo", host, true)?;
        let by_way_of = plan.client.get(Family::of(extra)).map(IpNet::addr);
        route(at_router, host, OUTSIDE, by_way_of).with_context(|| format!("route {extra} to the client"))?;
    }
    Ok(())
}

/// No waiting for duplicates that cannot be, and no listening to router advertisements.
fn quiet(ns: &NetNs, link: &str) -> Result<()> {
    for (key, value) in [("accept_dad", "0"), ("accept_ra", "0")] {
        let key = format!("net/ipv6/conf/{link}/{key}");
        if sysctl::read_in(ns, &key)?.is_some() {
            sysctl::write_in(ns, &key, value)?;
        }
    }
    Ok(())
}

fn address(netlink: &mut Netlink, link: &str, addresses: &Dual<IpNet>) -> Result<()> {
    for address in addresses.values() {
        netlink.add_address(link, *address, true)?;
    }
    Ok(())
}

fn route(netlink: &mut Netlink, destination: IpNet, link: &str, gateway: Option<IpAddr>) -> Result<()> {
    let spec = RouteSpec::Unicast { link: link.into(), gateway, source: None, mtu_bytes: None };
    Ok(netlink.replace_route(MAIN_TABLE, destination, &spec, 0, STATIC)?)
}

fn everything(family: Family) -> Result<IpNet> {
    Ok(match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
    .parse()?)
}

fn host_prefix(address: IpAddr) -> Result<IpNet> {
    Ok(IpNet::new(address, Family::of(&address).host_bits())?)
}

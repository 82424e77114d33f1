//! What this machine is: its links and addresses, which of them leads to the other nodes, and the other nodes' Ethernet addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bowline_dataplane::{HostFacts, LinkFacts};
use bowline_kernel::netlink::{Netlink, NetlinkError, RouteFilter};
use bowline_model::intent::routes::RoutesIntent;
use bowline_model::{Checked, Dual, Family, MacAddr, NodeName, Problem};

/// The discard port (RFC 863): a datagram there makes the kernel ask for the neighbour's Ethernet address, and does nothing else.
const DISCARD: u16 = 9;

/// ARPHRD_LOOPBACK.
const LOOPBACK: u16 = 772;

/// Reads the machine. What of the peers' Ethernet addresses was known `before` stays until the kernel says otherwise.
pub(crate) fn read(iface: Option<&str>, routes: &RoutesIntent, before: &HostFacts) -> Checked<HostFacts> {
    match Netlink::open().and_then(|mut node| facts(&mut node, iface, routes, before)) {
        Ok(facts) => {
            let mut problems = Vec::new();
            if let Some(name) = iface.filter(|name| facts.links.iter().all(|link| &*link.name != *name)) {
                let have: Vec<&str> = facts.links.iter().map(|link| &*link.name).collect();
                let fix = format!("use one of: {}", have.join(", "));
                problems.push(Problem::new(2030, format!("no link is called `{name}`"), "iface", fix));
            }
            Checked { value: facts, problems }
        }
        Err(error) => {
            let problem = Problem::new(2031, "this machine's links cannot be read", "netlink", "run the agent as root; it tries again");
            Checked { value: before.clone(), problems: vec![problem.because(error.to_string())] }
        }
    }
}

fn facts(node: &mut Netlink, iface: Option<&str>, routes: &RoutesIntent, before: &HostFacts) -> Result<HostFacts, NetlinkError> {
    let addresses = node.addresses()?;
    let links: Vec<LinkFacts> = node
        .links()?
        .into_iter()
        .filter(|link| !link.is_ours() && link.arphrd != LOOPBACK && link.up)
        .map(|link| LinkFacts {
            index: link.index,
            mtu_bytes: link.mtu_bytes,
            addresses: addresses.iter().filter(|a| a.link == link.index && !is_link_local(&a.address.addr())).map(|a| a.address).collect(),
            name: link.name.into(),
        })
        .collect();
    let default_index = default_link(node)?;
    let default_link = match iface {
        Some(name) => Some(Arc::from(name)),
        None => links.iter().find(|link| Some(link.index) == default_index).map(|link| link.name.clone()),
    };
    let mut facts = HostFacts { links, default_link, ..HostFacts::default() };
    facts.peer_macs = peer_macs(node, &facts, routes, before)?;
    Ok(facts)
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// The link of the default route with the best metric, IPv4 first.
fn default_link(node: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
    let routes = node.routes(RouteFilter { table: Some(bowline_dataplane::objects::net::TABLE_MAIN), ..RouteFilter::default() })?;
    let defaults = routes.iter().filter(|r| r.destination.prefix_len() == 0 && r.is_unicast());
    Ok(defaults.min_by_key(|r| (Family::of_prefix(&r.destination), r.metric)).and_then(|r| r.link))
}

/// Ethernet addresses of the peers on our links. Those that the kernel does not know are asked for, and are there at the next look.
fn peer_macs(
    node: &mut Netlink,
    facts: &HostFacts,
    routes: &RoutesIntent,
    before: &HostFacts,
) -> Result<BTreeMap<NodeName, Dual<MacAddr>>, NetlinkError> {
    let known: BTreeMap<IpAddr, MacAddr> = node.neighbours()?.into_iter().filter_map(|n| Some((n.address, n.mac?))).collect();
    let mut macs = BTreeMap::new();
    for (name, peer) in &routes.peers {
        let mut found: Dual<MacAddr> = before.peer_macs.get(name).copied().unwrap_or_default();
        for (family, address) in peer.internal.iter().filter(|(_, address)| facts.on_link(address).is_some()) {
            match known.get(address) {
                Some(mac) => *found.get_mut(family) = Some(*mac),
                None => ask_for(*address),
            }
        }
        if !found.is_empty() {
            macs.insert(name.clone(), found);
        }
    }
    Ok(macs)
}

/// Makes the kernel resolve a neighbour. The answer comes as a notification, so nothing waits here; a refusal shows when it does not come.
fn ask_for(address: IpAddr) {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    if let Ok(socket) = UdpSocket::bind(any) {
        let _ = socket.send_to(&[], (address, DISCARD));
    }
}

//! A pod's link: a veth pair, one end straight in the pod's namespace, the other on the node, routed and without a bridge.
//!
//! Invariant: when [`attach`] returns, the first packet of either side goes through: nothing waits for duplicate address detection or ARP.
//! Killed at any step, the next call with the same names makes it anew. The pod's end hears no router advertisements from the moment it can
//! hear anything. Until the node's rules know the pod, what it may reach is theirs to say, not ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use bowline_dataplane::objects::net::{ROUTE_PROTOCOL, RouteSpec, TABLE_MAIN};
use bowline_model::{Dual, Family, MacAddr};
use ipnet::IpNet;
use thiserror::Error;

use crate::crash_point;
use crate::netlink::{LINK_ALIAS, LinkInfo, Netlink, NetlinkError, RouteFilter, VethSpec};
use crate::netns::{NetNs, NetNsError};
use crate::sysctl::{self, SysctlError};

/// How long the kernel may take to finish what it does on the side.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
const SETTLE_POLL: Duration = Duration::from_micros(100);

/// The table in which the kernel keeps what is to be taken in here.
const TABLE_LOCAL: u32 = 255;

/// The address that pods have as their gateway. It is nobody's: the neighbour entry for it is permanent and leads to the node's end.
pub fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    }
}

/// What a pod's link must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLinkSpec {
    /// Name of the node's end.
    pub host_ifname: String,
    /// MAC of the node's end.
    pub host_mac: MacAddr,
    /// Name of the pod's end.
    pub pod_ifname: String,
    /// MAC of the pod's end.
    pub pod_mac: MacAddr,
    /// The pod's addresses.
    pub ips: Dual<IpAddr>,
    /// MTU of both ends in bytes.
    pub mtu_bytes: u32,
}

/// Why a pod could not be attached or detached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// A netlink operation failed.
    #[error("{place}: {source}")]
    Netlink {
        /// On the node or in the pod.
        place: &'static str,
        /// What failed.
        source: NetlinkError,
    },
    /// A sysctl could not be set.
    #[error("{place}: {source}")]
    Sysctl {
        /// On the node or in the pod.
        place: &'static str,
        /// What failed.
        source: SysctlError,
    },
    /// A link of that name is somebody else's.
    #[error("on the node: link {name} is there already and is not ours ({found}); it is left alone: remove or rename it")]
    NotOurs {
        /// The name.
        name: String,
        /// What it is.
        found: String,
    },
    /// The pair does not come up.
    #[error("{place}: link {name} is not operational {waited_ms} ms after it was set up")]
    NotOperational {
        /// On the node or in the pod.
        place: &'static str,
        /// Its name.
        name: String,
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// The kernel does not take packets to the pod's address.
    #[error("in the pod: the address {address} takes no packets {waited_ms} ms after it was added")]
    NotLocal {
        /// The address.
        address: IpAddr,
        /// How long it was waited for.
        waited_ms: u128,
    },
    /// A namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

impl AttachError {
    /// Whether the same call may succeed later by itself.
    pub fn may_retry(&self) -> bool {
        match self {
            AttachError::Netlink { source, .. } => source.may_retry(),
            AttachError::Sysctl { source, .. } => source.may_retry(),
            AttachError::NotOurs { .. } => false,
            AttachError::NotOperational { .. } | AttachError::NotLocal { .. } => true,
            AttachError::Namespace(error) => error.may_retry(),
        }
    }
}

/// Says where something failed.
trait At<T> {
    fn at(self, place: &'static str) -> Result<T, AttachError>;
}

impl<T> At<T> for Result<T, NetlinkError> {
    fn at(self, place: &'static str) -> Result<T, AttachError> {
        self.map_err(|source| AttachError::Netlink { place, source })
    }
}

impl<T> At<T> for Result<T, SysctlError> {
    fn at(self, place: &'static str) -> Result<T, AttachError> {
        self.map_err(|source| AttachError::Sysctl { place, source })
    }
}

const NODE: &str = "on the node";
const POD: &str = "in the pod";

/// Connects a pod's namespace with the node's, in which `node` works.
///
/// # Errors
/// What failed and where. What was made so far stays for the next call, or for [`detach`].
pub fn attach(node: &mut Netlink, pod_ns: &NetNs, spec: &PodLinkSpec) -> Result<(), AttachError> {
    remove_former(node, spec)?;
    crash_point!("attach.former-removed");
    let pair = VethSpec {
        name: &spec.host_ifname,
        mac: Some(spec.host_mac),
        peer_name: &spec.pod_ifname,
        peer_mac: Some(spec.pod_mac),
        peer_ns: Some(pod_ns),
        mtu_bytes: Some(spec.mtu_bytes),
    };
    node.create_veth(&pair).at(NODE)?;
    crash_point!("attach.pair-created");
    prepare_host_end(node, spec)?;
    crash_point!("attach.host-prepared");
    // The node's end comes up first and has no carrier until the pod's end follows, which then finds everything set.
    node.set_up(&spec.host_ifname).at(NODE)?;
    crash_point!("attach.host-up");
    pod_ns.run(|| configure_pod_end(spec))??;
    crash_point!("attach.pod-configured");
    route_to_pod(node, spec)?;
    crash_point!("attach.routed");
    wait_until_operational(node, &spec.host_ifname, NODE)
}

/// Takes a pod's link away, with all that hangs on it, by the name of the node's end alone. Absent is fine.
///
/// # Errors
/// [`AttachError::NotOurs`] if the name is somebody else's.
pub fn detach(node: &mut Netlink, host_ifname: &str) -> Result<(), AttachError> {
    let Some(link) = node.link(host_ifname).at(NODE)? else { return Ok(()) };
    if !is_ours(&link) {
        return Err(not_ours(&link));
    }
    node.delete_link(host_ifname).at(NODE)
}

/// A link is marked before it is first set up; so one that was never marked and is down is what a kill left behind.
fn is_ours(link: &LinkInfo) -> bool {
    link.is_kind("veth") && (link.is_ours() || (link.alias.is_none() && !link.up))
}

fn not_ours(link: &LinkInfo) -> AttachError {
    let kind = link.kind.as_deref().unwrap_or("device");
    AttachError::NotOurs { name: link.name.clone(), found: format!("kind {kind}, alias {:?}", link.alias.as_deref().unwrap_or("")) }
}

fn remove_former(node: &mut Netlink, spec: &PodLinkSpec) -> Result<(), AttachError> {
    detach(node, &spec.host_ifname)
}

fn prepare_host_end(node: &mut Netlink, spec: &PodLinkSpec) -> Result<(), AttachError> {
    let name = &spec.host_ifname;
    node.set_alias(name, LINK_ALIAS).at(NODE)?;
    node.set_addr_gen_none(name).at(NODE)?;
    node.inside(|| set_sysctls(&host_sysctls(name)))?.at(NODE)
}

/// The source of packets from a pod is checked by rules of ours, which know its address and MAC; the kernel's reverse path filter would
/// drop replies that are routed by mark.
fn host_sysctls(name: &str) -> Vec<(String, &'static str)> {
    vec![
        (format!("net/ipv4/conf/{name}/rp_filter"), "0"),
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{name}/accept_dad"), "0"),
    ]
}

/// IPv6 is switched on where the pod has an address of it: some runtimes make namespaces with it off.
fn pod_sysctls(spec: &PodLinkSpec) -> Vec<(String, &'static str)> {
    let key = |interface: &str, name: &str| format!("net/ipv6/conf/{interface}/{name}");
    let mut values = Vec::new();
    if spec.ips.v6.is_some() {
        values.push((key("lo", "disable_ipv6"), "0"));
        values.push((key(&spec.pod_ifname, "disable_ipv6"), "0"));
    }
    for name in ["accept_ra", "autoconf", "accept_dad", "accept_redirects"] {
        values.push((key(&spec.pod_ifname, name), "0"));
    }
    values
}

/// Sets sysctls; those of IPv6 are passed over where the kernel has none.
fn set_sysctls(values: &[(String, &'static str)]) -> Result<(), SysctlError> {
    for (key, value) in values {
        match sysctl::ensure(key, value) {
            Err(SysctlError::Absent { .. }) if key.starts_with("net/ipv6/") && !has_ipv6() => {}
            other => {
                other?;
            }
        }
    }
    Ok(())
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// Runs in the pod's namespace.
fn configure_pod_end(spec: &PodLinkSpec) -> Result<(), AttachError> {
    let mut pod = Netlink::open().at(POD)?;
    let name = spec.pod_ifname.as_str();
    pod.set_addr_gen_none(name).at(POD)?;
    set_sysctls(&pod_sysctls(spec)).at(POD)?;
    crash_point!("attach.pod-sysctls");
    pod.set_up("lo").at(POD)?;
    pod.set_up(name).at(POD)?;
    crash_point!("attach.pod-up");
    wait_until_operational(&mut pod, name, POD)?;
    for (family, address) in spec.ips.iter() {
        pod.add_address(name, IpNet::from(*address), true).at(POD)?;
        crash_point!("attach.pod-address");
        let via = gateway(family);
        pod.replace_neighbour(name, via, spec.host_mac, true, ROUTE_PROTOCOL).at(POD)?;
        for (destination, route) in pod_routes(name, family) {
            pod.replace_route(TABLE_MAIN, destination, &route, 0, ROUTE_PROTOCOL).at(POD)?;
        }
        crash_point!("attach.pod-routes");
    }
    wait_until_local(&mut pod, spec)
}

/// An IPv6 address takes packets once it has its route in the local table, which the kernel makes on the side even if it looks for no
/// duplicates.
fn wait_until_local(pod: &mut Netlink, spec: &PodLinkSpec) -> Result<(), AttachError> {
    let Some(address) = spec.ips.v6 else { return Ok(()) };
    wait(|| {
        let routes = pod.routes(RouteFilter { table: Some(TABLE_LOCAL), protocol: None }).at(POD)?;
        Ok(routes.iter().any(|route| route.destination == IpNet::from(address)))
    })?
    .map_err(|waited_ms| AttachError::NotLocal { address, waited_ms })
}

/// Asks again and again until the answer is yes, or says how many milliseconds were in vain. What is waited for takes microseconds and
/// cannot be subscribed to without a race of its own.
fn wait(mut done: impl FnMut() -> Result<bool, AttachError>) -> Result<Result<(), u128>, AttachError> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > SETTLE_TIMEOUT {
            return Ok(Err(start.elapsed().as_millis()));
        }
        std::thread::sleep(SETTLE_POLL);
    }
    Ok(Ok(()))
}

/// The gateway on the link, then everything through it.
fn pod_routes(name: &str, family: Family) -> [(IpNet, RouteSpec); 2] {
    let route = |gateway| RouteSpec::Unicast { link: name.into(), gateway, source: None, mtu_bytes: None };
    let everything = match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    [(IpNet::from(gateway(family)), route(None)), (everything, route(Some(gateway(family))))]
}

fn host_route(spec: &PodLinkSpec) -> RouteSpec {
    RouteSpec::Unicast { link: spec.host_ifname.as_str().into(), gateway: None, source: None, mtu_bytes: None }
}

/// The same objects are among the node's own later on; here they are made so that the pod need not wait for those.
fn route_to_pod(node: &mut Netlink, spec: &PodLinkSpec) -> Result<(), AttachError> {
    for address in spec.ips.values() {
        node.replace_neighbour(&spec.host_ifname, *address, spec.pod_mac, true, ROUTE_PROTOCOL).at(NODE)?;
        node.replace_route(TABLE_MAIN, IpNet::from(*address), &host_route(spec), 0, ROUTE_PROTOCOL).at(NODE)?;
    }
    Ok(())
}

/// A veth end has carrier at once, but the kernel sends on it only after work that it does on the side. Its flags do not tell: before that
/// work they still say what a new link begins with. The operational state does.
fn wait_until_operational(netlink: &mut Netlink, name: &str, place: &'static str) -> Result<(), AttachError> {
    wait(|| match netlink.link(name).at(place)? {
        Some(link) => Ok(link.carrier && link.operational),
        None => Err(NetlinkError::NoSuchLink { name: name.to_owned() }).at(place),
    })?
    .map_err(|waited_ms| AttachError::NotOperational { place, name: name.to_owned(), waited_ms })
}

/// Compares a pod's link with what it must be; says the differences in words, none if it is right.
///
/// The MTU is not looked at: a plugin after ours in the chain (`tuning`) may have given the link another one, and CHECK must then not fail
/// (CNI spec 1.1.0, CHECK).
///
/// # Errors
/// If the kernel does not answer or the pod's namespace cannot be entered.
pub fn check(node: &mut Netlink, pod_ns: &NetNs, spec: &PodLinkSpec) -> Result<Vec<String>, AttachError> {
    let mut differences = Vec::new();
    let host = Side { place: NODE, name: &spec.host_ifname, mac: spec.host_mac };
    if let Some(link) = host.check_link(node, &mut differences)? {
        if !link.is_ours() {
            differences.push(format!("{NODE}: link {} has not the alias {LINK_ALIAS}", link.name));
        }
        for address in spec.ips.values() {
            host.check_neighbour(node, &link, *address, spec.pod_mac, &mut differences)?;
            host.check_route(node, &link, (IpNet::from(*address), None), &mut differences)?;
        }
    }
    let inside = pod_ns.run(|| check_pod_end(spec))??;
    differences.extend(inside);
    Ok(differences)
}

/// Runs in the pod's namespace.
fn check_pod_end(spec: &PodLinkSpec) -> Result<Vec<String>, AttachError> {
    let mut differences = Vec::new();
    let mut pod = Netlink::open().at(POD)?;
    let side = Side { place: POD, name: &spec.pod_ifname, mac: spec.pod_mac };
    let Some(link) = side.check_link(&mut pod, &mut differences)? else { return Ok(differences) };
    let addresses = pod.addresses().at(POD)?;
    for (family, address) in spec.ips.iter() {
        let wanted = IpNet::from(*address);
        if !addresses.iter().any(|a| a.link == link.index && a.address == wanted && !a.tentative) {
            differences.push(format!("{POD}: link {} has not the address {wanted}", link.name));
        }
        side.check_neighbour(&mut pod, &link, gateway(family), spec.host_mac, &mut differences)?;
        for (destination, route) in pod_routes(&spec.pod_ifname, family) {
            let via = if let RouteSpec::Unicast { gateway, .. } = route { gateway } else { None };
            side.check_route(&mut pod, &link, (destination, via), &mut differences)?;
        }
    }
    Ok(differences)
}

/// One end of the pair under examination.
struct Side<'a> {
    place: &'static str,
    name: &'a str,
    mac: MacAddr,
}

impl Side<'_> {
    fn check_link(&self, netlink: &mut Netlink, differences: &mut Vec<String>) -> Result<Option<LinkInfo>, AttachError> {
        let Side { place, name, .. } = self;
        let Some(link) = netlink.link(name).at(self.place)? else {
            differences.push(format!("{place}: there is no link {name}"));
            return Ok(None);
        };
        if !link.up || !link.operational {
            differences.push(format!("{place}: link {name} is down"));
        }
        if link.mac != Some(self.mac) {
            let found = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            differences.push(format!("{place}: link {name} has the MAC {found} instead of {}", self.mac));
        }
        Ok(Some(link))
    }

    fn check_neighbour(
        &self,
        netlink: &mut Netlink,
        link: &LinkInfo,
        address: IpAddr,
        mac: MacAddr,
        differences: &mut Vec<String>,
    ) -> Result<(), AttachError> {
        let all = netlink.neighbours().at(self.place)?;
        if !all.iter().any(|n| n.link == link.index && n.address == address && n.mac == Some(mac) && n.permanent) {
            differences.push(format!("{}: link {} has no permanent neighbour {address} at {mac}", self.place, self.name));
        }
        Ok(())
    }

    fn check_route(
        &self,
        netlink: &mut Netlink,
        link: &LinkInfo,
        (destination, gateway): (IpNet, Option<IpAddr>),
        differences: &mut Vec<String>,
    ) -> Result<(), AttachError> {
        let routes = netlink.routes(RouteFilter { table: Some(TABLE_MAIN), protocol: Some(ROUTE_PROTOCOL) }).at(self.place)?;
        if !routes.iter().any(|r| r.link == Some(link.index) && r.destination == destination && r.gateway == gateway) {
            differences.push(format!("{}: there is no route {destination} over link {}", self.place, self.name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The driver of links, sysctls, addresses, neighbours, forwarding entries, routes and rules.
//!
//! Ours are: VXLAN links with our alias or a name that begins with it; what is on those; routes, neighbours and rules of our protocol
//! number. Sysctls and addresses elsewhere bear no mark: they are looked at where they are wanted, and never taken back for sysctls.
//! Invariant: nothing of anybody else is changed; where another's object holds the key, the key fails and says whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bowline_dataplane::objects::net::{LinkKind, LinkSpec, NetKey, NetObject, ROUTE_PROTOCOL, RouteSpec, RuleAction, RuleSelector};
use bowline_model::{Delta, Family};
use ipnet::IpNet;
use thiserror::Error;

use super::link::{LINK_ALIAS, LinkInfo, VxlanSpec};
use super::route::{RouteFilter, RouteInfo, RouteKey, Taken};
use super::{Netlink, NetlinkError, RuleInfo};
use crate::netns::{NetNs, NetNsError};
use crate::reconcile::{ApplyError, Driver, Failure, Report};
use crate::sysctl::{self, SysctlError};

/// Origin of the link-local addresses that the kernel makes by itself (`IFAPROT_KERNEL_LL`).
const KERNEL_LINK_LOCAL: u8 = 3;

/// What was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetSeen {
    /// An object in our terms.
    Is(NetObject),
    /// Something of ours that no object describes: half-made, or changed by someone.
    Otherwise,
}

/// Why one object could not be set or removed.
#[derive(Debug, Error)]
enum ObjectError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Namespace(#[from] NetNsError),
    #[error("{key:?} is no key for such an object: {reason}")]
    Misfit { key: NetKey, reason: &'static str },
}

impl ObjectError {
    fn may_retry(&self) -> bool {
        match self {
            ObjectError::Netlink(error) => error.may_retry(),
            ObjectError::Sysctl(error) => error.may_retry(),
            ObjectError::Namespace(error) => error.may_retry(),
            ObjectError::Misfit { .. } => false,
        }
    }
}

/// The driver in one network namespace.
#[derive(Debug)]
pub struct NetDriver {
    netlink: Netlink,
    /// Indices of links by name, true during one application.
    indices: BTreeMap<Arc<str>, u32>,
    /// Routes that are known to be ours, so that replacing them takes nothing from anybody.
    routes: BTreeSet<(u32, IpNet, u32)>,
    /// The tables that rules of ours are known to ask; more than one after a change that was cut short.
    rules: BTreeMap<(Family, u32, RuleSelector), BTreeSet<u32>>,
}

impl NetDriver {
    /// Works in the calling thread's network namespace.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn open() -> Result<NetDriver, NetlinkError> {
        Netlink::open().map(NetDriver::new)
    }

    /// Works in another network namespace.
    ///
    /// # Errors
    /// If it cannot be entered or no socket can be had.
    pub fn open_in(ns: &NetNs) -> Result<NetDriver, NetlinkError> {
        Netlink::open_in(ns).map(NetDriver::new)
    }

    /// Works over a connection.
    pub fn new(netlink: Netlink) -> NetDriver {
        NetDriver { netlink, indices: BTreeMap::new(), routes: BTreeSet::new(), rules: BTreeMap::new() }
    }

    /// The connection, for what is beside the objects.
    pub fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Removes everything of ours: what [`Driver::read_owned`] finds when nothing is wanted. Sysctls and pods' links stay as they are.
    ///
    /// # Errors
    /// If the kernel's objects cannot be read back.
    pub fn uninstall(&mut self) -> Result<Report<NetKey>, ApplyError> {
        let found = self.read_owned(&BTreeMap::new())?;
        Ok(self.apply(&Delta { set: BTreeMap::new(), remove: found.into_keys().collect() }))
    }

    fn read(&mut self, wanted: &BTreeMap<NetKey, NetObject>) -> Result<BTreeMap<NetKey, NetSeen>, ObjectError> {
        let links = self.netlink.links()?;
        let names: BTreeMap<u32, Arc<str>> = links.iter().map(|link| (link.index, Arc::from(link.name.as_str()))).collect();
        let ours: BTreeSet<u32> = links.iter().filter(|link| is_ours(link)).map(|link| link.index).collect();
        let mut seen: BTreeMap<NetKey, NetSeen> = links
            .iter()
            .filter(|link| ours.contains(&link.index))
            .map(|link| (NetKey::Link(link.name.as_str().into()), seen_link(link, &names)))
            .collect();
        self.read_sysctls(wanted, &mut seen)?;
        self.read_addresses(wanted, &ours, &names, &mut seen)?;
        self.read_neighbours(&ours, &names, &mut seen)?;
        self.read_routes(&names, &mut seen)?;
        self.read_rules(&mut seen)?;
        Ok(seen)
    }

    fn read_sysctls(&mut self, wanted: &BTreeMap<NetKey, NetObject>, seen: &mut BTreeMap<NetKey, NetSeen>) -> Result<(), ObjectError> {
        let keys: Vec<&Arc<str>> = wanted.keys().filter_map(|key| if let NetKey::Sysctl(path) = key { Some(path) } else { None }).collect();
        if keys.is_empty() {
            return Ok(());
        }
        // One that cannot be read counts as absent: setting it then says why.
        let values: Vec<Option<String>> = self.netlink.inside(|| keys.iter().map(|key| sysctl::read(key).ok().flatten()).collect())?;
        for (key, value) in keys.into_iter().zip(values) {
            if let Some(value) = value {
                seen.insert(NetKey::Sysctl(key.clone()), NetSeen::Is(NetObject::Sysctl(value.into())));
            }
        }
        Ok(())
    }

    fn read_addresses(
        &mut self,
        wanted: &BTreeMap<NetKey, NetObject>,
        ours: &BTreeSet<u32>,
        names: &BTreeMap<u32, Arc<str>>,
        seen: &mut BTreeMap<NetKey, NetSeen>,
    ) -> Result<(), ObjectError> {
        for info in self.netlink.addresses()? {
            let Some(link) = names.get(&info.link) else { continue };
            let key = NetKey::Address { link: link.clone(), address: info.address };
            let marked = ours.contains(&info.link) && info.protocol != KERNEL_LINK_LOCAL;
            if marked || wanted.contains_key(&key) {
                seen.insert(key, NetSeen::Is(NetObject::Address));
            }
        }
        Ok(())
    }

    fn read_neighbours(
        &mut self,
        ours: &BTreeSet<u32>,
        names: &BTreeMap<u32, Arc<str>>,
        seen: &mut BTreeMap<NetKey, NetSeen>,
    ) -> Result<(), ObjectError> {
        for info in self.netlink.neighbours()?.into_iter().filter(|n| n.protocol == ROUTE_PROTOCOL) {
            let Some(link) = names.get(&info.link) else { continue };
            let object = info.mac.filter(|_| info.permanent).map_or(NetSeen::Otherwise, |mac| NetSeen::Is(NetObject::Neighbour(mac)));
            seen.insert(NetKey::Neighbour { link: link.clone(), address: info.address }, object);
        }
        if ours.is_empty() {
            return Ok(());
        }
        for info in self.netlink.forwarding_entries(None)?.into_iter().filter(|e| e.own && ours.contains(&e.link)) {
            let Some(link) = names.get(&info.link) else { continue };
            let to = info.destination.filter(|_| info.permanent);
            let object = to.map_or(NetSeen::Otherwise, |to| NetSeen::Is(NetObject::Forwarding(to)));
            seen.insert(NetKey::Forwarding { link: link.clone(), mac: info.mac }, object);
        }
        Ok(())
    }

    fn read_routes(&mut self, names: &BTreeMap<u32, Arc<str>>, seen: &mut BTreeMap<NetKey, NetSeen>) -> Result<(), ObjectError> {
        self.routes.clear();
        for info in self.netlink.routes(RouteFilter { table: None, protocol: Some(ROUTE_PROTOCOL) })? {
            let RouteInfo { table, destination, metric, .. } = info;
            self.routes.insert((table, destination, metric));
            seen.insert(NetKey::Route { table, destination, metric }, seen_route(&info, names));
        }
        Ok(())
    }

    fn read_rules(&mut self, seen: &mut BTreeMap<NetKey, NetSeen>) -> Result<(), ObjectError> {
        self.rules.clear();
        for info in self.netlink.rules()?.into_iter().filter(|rule| rule.protocol == ROUTE_PROTOCOL) {
            let RuleInfo { family, priority, selector: Some(selector), table, .. } = info else { continue };
            let tables = self.rules.entry((family, priority, selector.clone())).or_default();
            tables.insert(table);
            let object = if tables.len() == 1 { NetSeen::Is(NetObject::Rule(RuleAction::Table(table))) } else { NetSeen::Otherwise };
            seen.insert(NetKey::Rule { family, priority, selector }, object);
        }
        Ok(())
    }

    fn index(&mut self, link: &Arc<str>) -> Result<u32, NetlinkError> {
        if let Some(index) = self.indices.get(link) {
            return Ok(*index);
        }
        let index = self.netlink.index_of(link)?;
        self.indices.insert(link.clone(), index);
        Ok(index)
    }

    /// Sets one object; says whether others may have gone with it.
    fn set(&mut self, key: &NetKey, object: &NetObject) -> Result<bool, ObjectError> {
        match (key, object) {
            (NetKey::Link(name), NetObject::Link(spec)) => return self.set_link(name, spec),
            (NetKey::Sysctl(path), NetObject::Sysctl(value)) => {
                self.netlink.inside(|| sysctl::ensure(path, value))??;
            }
            (NetKey::Address { link, address }, NetObject::Address) => {
                let index = self.index(link)?;
                self.netlink.add_address_at(index, *address, true)?;
            }
            (NetKey::Neighbour { link, address }, NetObject::Neighbour(mac)) => {
                let index = self.index(link)?;
                self.netlink.put_neighbour(index, *address, *mac, true, ROUTE_PROTOCOL)?;
            }
            (NetKey::Forwarding { link, mac }, NetObject::Forwarding(destination)) => {
                let index = self.index(link)?;
                self.netlink.put_forwarding(index, *mac, *destination)?;
            }
            (NetKey::Route { table, destination, metric }, NetObject::Route(spec)) => {
                check_route_key(key, *destination, *metric)?;
                self.set_route(RouteKey { table: *table, destination: *destination, metric: *metric, protocol: ROUTE_PROTOCOL }, spec)?;
            }
            (NetKey::Rule { family, priority, selector }, NetObject::Rule(RuleAction::Table(table))) => {
                self.set_rule(*family, *priority, selector, *table)?;
            }
            _ => return Err(ObjectError::Misfit { key: key.clone(), reason: "the two are of different kinds" }),
        }
        Ok(false)
    }

    /// Makes the link, changes it in place, or makes it anew; says whether others on it may have gone.
    fn set_link(&mut self, name: &Arc<str>, spec: &LinkSpec) -> Result<bool, ObjectError> {
        let LinkKind::Vxlan { vni, port, local, device } = &spec.kind;
        let mut made = false;
        let existing = self.netlink.link(name)?;
        if let Some(link) = existing.as_ref().filter(|link| !is_ours(link) && !is_half_made(link)) {
            let found = format!("{} link, alias {:?}", link.kind.as_deref().unwrap_or("device"), link.alias.as_deref().unwrap_or(""));
            return Err(NetlinkError::Foreign { object: format!("link {name}"), found }.into());
        }
        let device_index = self.index(device)?;
        let fits = |link: &LinkInfo| {
            link.vxlan
                .is_some_and(|v| (v.vni, v.port, v.local, v.device, v.learning) == (*vni, *port, Some(*local), Some(device_index), false))
        };
        let current = match existing.filter(fits) {
            Some(link) => link,
            None => {
                self.indices.remove(name);
                self.netlink.delete_link(name)?;
                let mtu_bytes = Some(spec.mtu_bytes);
                let new = VxlanSpec { name, mac: spec.mac, vni: *vni, port: *port, local: *local, device, mtu_bytes };
                self.netlink.create_vxlan(&new)?;
                crate::crash_point!("net.link-created");
                made = true;
                self.netlink.link(name)?.ok_or_else(|| NetlinkError::NoSuchLink { name: name.to_string() })?
            }
        };
        let disturbed = self.finish_link(name, spec, &current)?;
        Ok(made || disturbed)
    }

    /// What can be changed on a link as it stands; says whether that took others along.
    fn finish_link(&mut self, name: &str, spec: &LinkSpec, current: &LinkInfo) -> Result<bool, ObjectError> {
        let mut disturbed = false;
        if !current.is_ours() {
            self.netlink.set_alias(name, LINK_ALIAS)?;
        }
        if !current.addr_gen_none {
            self.netlink.set_addr_gen_none(name)?;
        }
        if let Some(mac) = spec.mac.filter(|mac| current.mac != Some(*mac)) {
            self.netlink.set_mac(name, mac)?;
            // The kernel forgets all neighbours on a link whose MAC changes, permanent ones too.
            disturbed = true;
        }
        if !current.up {
            self.netlink.set_up(name)?;
        }
        // The kernel quietly lowers an MTU that is too high when it makes a link; asked again, it says that it cannot.
        // Last, so that the link serves nevertheless.
        if current.mtu_bytes != spec.mtu_bytes {
            self.netlink.set_mtu(name, spec.mtu_bytes)?;
        }
        Ok(disturbed)
    }

    fn set_route(&mut self, key: RouteKey, spec: &RouteSpec) -> Result<(), ObjectError> {
        let index = match spec {
            RouteSpec::Unicast { link, .. } => self.index(link)?,
            RouteSpec::Unreachable => 0,
        };
        let known = (key.table, key.destination, key.metric);
        let first = if self.routes.contains(&known) { Taken::Replace } else { Taken::Refuse };
        match self.netlink.put_route(first, key, spec, index) {
            Err(error) if first == Taken::Refuse && error.errno() == Some(libc::EEXIST) => {
                self.check_route_is_ours(&key)?;
                self.netlink.put_route(Taken::Replace, key, spec, index)?;
            }
            other => other?,
        }
        self.routes.insert(known);
        Ok(())
    }

    fn check_route_is_ours(&mut self, key: &RouteKey) -> Result<(), NetlinkError> {
        let filter = RouteFilter { table: Some(key.table), protocol: None };
        let holder = self
            .netlink
            .routes(filter)?
            .into_iter()
            .find(|r| r.destination == key.destination && r.metric == key.metric && r.protocol != ROUTE_PROTOCOL);
        holder.map_or(Ok(()), |route| {
            Err(NetlinkError::Foreign {
                object: format!("route {} in table {}", key.destination, key.table),
                found: format!("route protocol {}", route.protocol),
            })
        })
    }

    fn set_rule(&mut self, family: Family, priority: u32, selector: &RuleSelector, table: u32) -> Result<(), ObjectError> {
        self.netlink.add_rule(family, priority, selector, table, ROUTE_PROTOCOL)?;
        let tables = self.rules.entry((family, priority, selector.clone())).or_default();
        tables.insert(table);
        let others: Vec<u32> = tables.iter().copied().filter(|other| *other != table).collect();
        for other in others {
            self.netlink.delete_rule(family, priority, selector, other, ROUTE_PROTOCOL)?;
            if let Some(tables) = self.rules.get_mut(&(family, priority, selector.clone())) {
                tables.remove(&other);
            }
        }
        Ok(())
    }

    /// Removes one object; says whether others may have gone with it.
    fn remove(&mut self, key: &NetKey) -> Result<bool, ObjectError> {
        match key {
            NetKey::Link(name) => {
                if self.netlink.link(name)?.is_some_and(|link| is_ours(&link)) {
                    self.netlink.delete_link(name)?;
                    self.indices.remove(name);
                }
            }
            NetKey::Sysctl(_) => {}
            NetKey::Address { link, address } => {
                self.netlink.delete_address(link, *address)?;
                // With a link's last IPv4 address the kernel drops every IPv4 route over it.
                return Ok(true);
            }
            NetKey::Neighbour { link, address } => self.netlink.delete_neighbour(link, *address)?,
            NetKey::Forwarding { link, mac } => self.netlink.delete_forwarding(link, *mac)?,
            NetKey::Route { table, destination, metric } => {
                self.netlink.delete_route(*table, *destination, *metric, ROUTE_PROTOCOL)?;
                self.routes.remove(&(*table, *destination, *metric));
            }
            NetKey::Rule { family, priority, selector } => {
                let known = (*family, *priority, selector.clone());
                for table in self.rules.get(&known).cloned().unwrap_or_default() {
                    self.netlink.delete_rule(*family, *priority, selector, table, ROUTE_PROTOCOL)?;
                }
                self.rules.remove(&known);
            }
        }
        Ok(false)
    }

    /// Sets what it can and collects what fails.
    fn set_all<'a>(
        &mut self,
        objects: impl Iterator<Item = (&'a NetKey, &'a NetObject)>,
        disturbed: &mut bool,
    ) -> Vec<(&'a NetKey, &'a NetObject, ObjectError)> {
        let mut failed = Vec::new();
        for (key, object) in objects {
            match self.set(key, object) {
                Ok(others_went) => *disturbed |= others_went,
                Err(error) => failed.push((key, object, error)),
            }
        }
        failed
    }
}

impl Driver for NetDriver {
    type Key = NetKey;
    type Value = NetObject;
    type Seen = NetSeen;

    fn read_owned(&mut self, wanted: &BTreeMap<NetKey, NetObject>) -> Result<BTreeMap<NetKey, NetSeen>, ApplyError> {
        self.read(wanted).map_err(|error| ApplyError::Read { driver: "net", retryable: error.may_retry(), source: Box::new(error) })
    }

    fn same(seen: &NetSeen, want: &NetObject) -> bool {
        match (seen, want) {
            (NetSeen::Is(NetObject::Link(seen)), NetObject::Link(want)) => {
                seen.kind == want.kind && seen.mtu_bytes == want.mtu_bytes && (want.mac.is_none() || seen.mac == want.mac)
            }
            (NetSeen::Is(seen), want) => seen == want,
            (NetSeen::Otherwise, _) => false,
        }
    }

    fn apply(&mut self, delta: &Delta<NetKey, NetObject>) -> Report<NetKey> {
        self.indices.clear();
        let mut report = Report::default();
        let mut failed = self.set_all(delta.set.iter(), &mut report.disturbed);
        for key in delta.remove.iter().rev() {
            match self.remove(key) {
                Ok(others_went) => report.disturbed |= others_went,
                Err(error) => report.failed.push(Failure { key: key.clone(), retryable: error.may_retry(), error: error.to_string() }),
            }
        }
        if !failed.is_empty() && !delta.remove.is_empty() {
            // What was removed may have been in the way: two VXLAN links cannot have the same identifier, for one.
            failed = self.set_all(failed.into_iter().map(|(key, object, _)| (key, object)), &mut report.disturbed);
        }
        report.failed.extend(failed.into_iter().map(|(key, _, error)| Failure {
            key: key.clone(),
            retryable: error.may_retry(),
            error: error.to_string(),
        }));
        report
    }
}

/// Whether a link bears our mark and is of a kind that objects describe. Pods' links bear the alias too and are none of the driver's.
fn is_ours(link: &LinkInfo) -> bool {
    link.is_kind("vxlan") && (link.is_ours() || link.name.starts_with(LINK_ALIAS))
}

/// What is left where the making of a link was cut short before it was marked.
fn is_half_made(link: &LinkInfo) -> bool {
    link.is_kind("vxlan") && link.alias.is_none() && !link.up
}

fn seen_link(link: &LinkInfo, names: &BTreeMap<u32, Arc<str>>) -> NetSeen {
    let complete = link.is_ours() && link.up && link.addr_gen_none;
    let kind = link.vxlan.filter(|vxlan| complete && !vxlan.learning).and_then(|vxlan| {
        let device = names.get(&vxlan.device?)?.clone();
        Some(LinkKind::Vxlan { vni: vxlan.vni, port: vxlan.port, local: vxlan.local?, device })
    });
    kind.map_or(NetSeen::Otherwise, |kind| NetSeen::Is(NetObject::Link(LinkSpec { kind, mac: link.mac, mtu_bytes: link.mtu_bytes })))
}

fn seen_route(route: &RouteInfo, names: &BTreeMap<u32, Arc<str>>) -> NetSeen {
    if route.is_unreachable() {
        return NetSeen::Is(NetObject::Route(RouteSpec::Unreachable));
    }
    let plain = route.is_unicast() && !route.multipath && route.onlink == route.gateway.is_some();
    match route.link.and_then(|index| names.get(&index)).filter(|_| plain) {
        Some(link) => NetSeen::Is(NetObject::Route(RouteSpec::Unicast {
            link: link.clone(),
            gateway: route.gateway,
            source: route.source,
            mtu_bytes: route.mtu_bytes,
        })),
        None => NetSeen::Otherwise,
    }
}

/// The kernel knows a route by less than what a key can say; a key that reads back as another one would be set and removed for ever.
fn check_route_key(key: &NetKey, destination: IpNet, metric: u32) -> Result<(), ObjectError> {
    let misfit = |reason| Err(ObjectError::Misfit { key: key.clone(), reason });
    if destination.addr() != destination.network() {
        return misfit("the destination has bits behind its prefix length");
    }
    if Family::of_prefix(&destination) == Family::V6 && metric == 1024 {
        return misfit("1024 is what the kernel takes for IPv6 by itself: say 0");
    }
    Ok(())
}

#[cfg(test)]
mod tests;

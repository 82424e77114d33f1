//! Routes. uapi linux/rtnetlink.h.

use std::net::IpAddr;

use bowline_dataplane::objects::net::RouteSpec;
use bowline_model::Family;
use ipnet::IpNet;

use super::{Netlink, NetlinkError, af_of, everything, family_of, prefix};
use crate::wire::{Attrs, Message, Received, flags, ip_of, u32_at};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;

const RTNH_F_ONLINK: u32 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_ANY: u8 = 255;
const RTN_UNSPEC: u8 = 0;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
/// Priority that the kernel gives an IPv6 route for which none is asked.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// Length of `struct rtmsg`.
const RTMSG_BYTES: usize = 12;

/// Which routes are asked for; none is all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Of this table only.
    pub table: Option<u32>,
    /// Of this origin only.
    pub protocol: Option<u8>,
}

/// A route as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteInfo {
    /// Its table.
    pub table: u32,
    /// Its destination.
    pub destination: IpNet,
    /// Its priority; 0 stands for the kernel's default, for IPv6 too (where the kernel says 1024).
    pub metric: u32,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// `RT_SCOPE_*`.
    pub scope: u8,
    /// `RTN_*`: 1 is unicast, 7 unreachable.
    pub kind: u8,
    /// Index of the link.
    pub link: Option<u32>,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// The gateway is taken as on the link.
    pub onlink: bool,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Path MTU in bytes.
    pub mtu_bytes: Option<u32>,
    /// It has several next hops, which are not told here.
    pub multipath: bool,
}

impl RouteInfo {
    /// Whether it refuses with ICMP unreachable.
    pub fn is_unreachable(&self) -> bool {
        self.kind == RTN_UNREACHABLE
    }

    /// Whether it sends to a link.
    pub fn is_unicast(&self) -> bool {
        self.kind == RTN_UNICAST
    }
}

/// What to do where the key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Replace what is there, whosoever it is.
    Replace,
    /// Fail with EEXIST.
    Refuse,
}

/// What identifies a route, and its mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteKey {
    pub(crate) table: u32,
    pub(crate) destination: IpNet,
    pub(crate) metric: u32,
    pub(crate) protocol: u8,
}

impl Netlink {
    /// The routes of both families that the filter lets through.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<RouteInfo>, NetlinkError> {
        let mut all = Vec::new();
        for family in Family::BOTH {
            let header = rtmsg(Some(family), 0, 0, filter.protocol.unwrap_or(0), 0, 0);
            let message = Message::new(RTM_GETROUTE, flags::REQUEST | flags::DUMP, &header);
            // The kernel filters only if it is new enough, and by table only where the table exists: so both are looked at here again.
            all.extend(self.list("routes", message, |received| {
                parse(received)
                    .filter(|route| filter.table.is_none_or(|t| t == route.table) && filter.protocol.is_none_or(|p| p == route.protocol))
            })?);
        }
        Ok(all)
    }

    /// Makes a route, or replaces the one of the same table, destination and metric, whosoever it is.
    ///
    /// # Errors
    /// [`NetlinkError::NoSuchLink`], or the kernel's refusal.
    pub fn replace_route(
        &mut self,
        table: u32,
        destination: IpNet,
        spec: &RouteSpec,
        metric: u32,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let index = match spec {
            RouteSpec::Unicast { link, .. } => self.index_of(link)?,
            RouteSpec::Unreachable => 0,
        };
        self.put_route(Taken::Replace, RouteKey { table, destination, metric, protocol }, spec, index)
    }

    /// Makes a route over the link of an index.
    pub(crate) fn put_route(&mut self, taken: Taken, key: RouteKey, spec: &RouteSpec, index: u32) -> Result<(), NetlinkError> {
        let mode = match taken {
            Taken::Replace => flags::REPLACE,
            Taken::Refuse => flags::EXCLUSIVE,
        };
        let family = Family::of_prefix(&key.destination);
        let (kind, scope, onlink) = match spec {
            RouteSpec::Unicast { gateway: Some(_), .. } => (RTN_UNICAST, SCOPE_UNIVERSE, RTNH_F_ONLINK),
            // IPv6 knows no scopes of routes and reports the universe whatever is sent.
            RouteSpec::Unicast { gateway: None, .. } => (RTN_UNICAST, SCOPE_LINK, 0),
            RouteSpec::Unreachable => (RTN_UNREACHABLE, SCOPE_UNIVERSE, 0),
        };
        let header = rtmsg(Some(family), key.destination.prefix_len(), scope, key.protocol, kind, onlink);
        let mut message = Message::new(RTM_NEWROUTE, flags::REQUEST | flags::ACK | flags::CREATE | mode, &header);
        identify(&mut message, &key);
        if let RouteSpec::Unicast { gateway, source, mtu_bytes, .. } = spec {
            message.attr_u32(RTA_OIF, index);
            if let Some(gateway) = gateway {
                put_gateway(&mut message, family, *gateway);
            }
            if let Some(source) = source {
                message.attr_ip(RTA_PREFSRC, *source);
            }
            if let Some(mtu) = mtu_bytes {
                message.nested(RTA_METRICS, |metrics| {
                    metrics.attr_u32(RTAX_MTU, *mtu);
                });
            }
        }
        self.execute("set", || route_words(key.destination, key.table), message)
    }

    /// Removes the route of that table, destination, metric and origin. Absent is fine.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete_route(&mut self, table: u32, destination: IpNet, metric: u32, protocol: u8) -> Result<(), NetlinkError> {
        let family = Family::of_prefix(&destination);
        let header = rtmsg(Some(family), destination.prefix_len(), SCOPE_ANY, protocol, RTN_UNSPEC, 0);
        let mut message = Message::new(RTM_DELROUTE, flags::REQUEST | flags::ACK, &header);
        identify(&mut message, &RouteKey { table, destination, metric, protocol });
        let absent = [libc::ESRCH, libc::ENOENT, libc::ENODEV];
        self.execute_unless(&absent, "delete", || route_words(destination, table), message)
    }
}

fn route_words(destination: IpNet, table: u32) -> String {
    format!("route {destination} in table {table}")
}

/// `struct rtmsg`; the table is always an attribute.
fn rtmsg(family: Option<Family>, length: u8, scope: u8, protocol: u8, kind: u8, route_flags: u32) -> [u8; RTMSG_BYTES] {
    let [a, b, c, d] = route_flags.to_ne_bytes();
    [family.map_or(0, af_of), length, 0, 0, 0, protocol, scope, kind, a, b, c, d]
}

fn identify(message: &mut Message, key: &RouteKey) {
    message.attr_ip(RTA_DST, key.destination.network()).attr_u32(RTA_TABLE, key.table);
    let metric = match (Family::of_prefix(&key.destination), key.metric) {
        // Said outright, since a removal that says nothing takes whichever comes first.
        (Family::V6, 0) => IPV6_DEFAULT_METRIC,
        (Family::V4 | Family::V6, metric) => metric,
    };
    if metric != 0 {
        message.attr_u32(RTA_PRIORITY, metric);
    }
}

/// A gateway of the other family needs another attribute (RFC 5549).
fn put_gateway(message: &mut Message, family: Family, gateway: IpAddr) {
    if Family::of(&gateway) == family {
        message.attr_ip(RTA_GATEWAY, gateway);
        return;
    }
    let mut via = u16::from(af_of(Family::of(&gateway))).to_ne_bytes().to_vec();
    match gateway {
        IpAddr::V4(a) => via.extend(a.octets()),
        IpAddr::V6(a) => via.extend(a.octets()),
    }
    message.attr(RTA_VIA, &via);
}

fn parse(message: &Received<'_>) -> Option<RouteInfo> {
    let (&[af, length, _, _, small_table, protocol, scope, kind], true) = (message.payload.first_chunk()?, message.kind == RTM_NEWROUTE)
    else {
        return None;
    };
    let family = family_of(af)?;
    let attrs = message.attrs(RTMSG_BYTES);
    let metric = attrs.u32(RTA_PRIORITY).unwrap_or(0);
    Some(RouteInfo {
        table: attrs.u32(RTA_TABLE).unwrap_or(u32::from(small_table)),
        destination: prefix(attrs.ip(RTA_DST).unwrap_or(everything(family).addr()), length)?,
        metric: if family == Family::V6 && metric == IPV6_DEFAULT_METRIC { 0 } else { metric },
        protocol,
        scope,
        kind,
        link: attrs.u32(RTA_OIF),
        gateway: attrs.ip(RTA_GATEWAY).or_else(|| ip_of(attrs.get(RTA_VIA)?.get(2..)?)),
        onlink: u32_at(message.payload, 8)? & RTNH_F_ONLINK != 0,
        source: attrs.ip(RTA_PREFSRC),
        mtu_bytes: attrs.get(RTA_METRICS).map(Attrs::of).and_then(|metrics| metrics.u32(RTAX_MTU)),
        multipath: attrs.get(RTA_MULTIPATH).is_some(),
    })
}

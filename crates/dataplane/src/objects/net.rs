//! Links, addresses, routes, neighbours, forwarding entries, routing rules and sysctls.
//!
//! Ours are told by the route protocol number [`ROUTE_PROTOCOL`] (routes, rules, neighbours where the kernel keeps one), by the link
//! names of this module, and by the table numbers from [`TABLE_BASE`] on.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{Family, MacAddr};
use ipnet::IpNet;

/// The route protocol number that marks our routes, rules and neighbours (`NDA_PROTOCOL`).
pub const ROUTE_PROTOCOL: u8 = 118;

/// The routing table of packets from this node's pods to other nodes; `TABLE_BASE + id` is the table of replies to the peer of that id.
pub const TABLE_BASE: u32 = 0x0b0a_0000;

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

/// Bits of the packet and connection mark that hold the id of the peer that a connection came from.
pub const PEER_MARK_MASK: u32 = 0xffff_0000;

/// Bit of the packet's mark that says, within the rules of policies and no longer, that a rule of the Admin tier passed the packet on to the
/// next. It is cleared on new connections' packets to and from pods that such rules are about.
pub const PASSED_MARK: u32 = 0x2000;

/// Bit of the connection mark that says that a service of ours translated its destination: whoever else translates is left alone.
pub const TRANSLATED_MARK: u32 = 1;

/// Bit of the connection mark that says that policies no longer allow the connection as it began. It is not let pass for being known: each packet of it,
/// of either direction, is judged as a beginning.
pub const HELD_MARK: u32 = 2;

/// Bit of the packet's mark that says, of the first of a connection, that its answers go back through the peer that it came from: so the programs
/// at links know that connection tracking has to know the connection.
pub const RETURNS_MARK: u32 = 0x1000;

/// Shift of the peer's id within the mark.
pub const PEER_MARK_SHIFT: u32 = 16;

/// What identifies an object for the kernel. The order is the order of making; removal goes the other way round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetKey {
    /// A link by its name.
    Link(Arc<str>),
    /// A sysctl by its path under /proc/sys with slashes, e.g. `net/ipv4/ip_forward`.
    Sysctl(Arc<str>),
    /// An address with its prefix length on a link.
    Address {
        /// The link's name.
        link: Arc<str>,
        /// The address and its prefix.
        address: IpNet,
    },
    /// A neighbour entry on a link.
    Neighbour {
        /// The link's name.
        link: Arc<str>,
        /// The neighbour's address.
        address: IpAddr,
    },
    /// A bridge forwarding entry of a VXLAN link: the destination of a MAC address.
    Forwarding {
        /// The link's name.
        link: Arc<str>,
        /// The inner destination MAC.
        mac: MacAddr,
    },
    /// A route.
    Route {
        /// Routing table.
        table: u32,
        /// Destination.
        destination: IpNet,
        /// Priority; 0 is the kernel's default.
        metric: u32,
    },
    /// A routing policy rule.
    Rule {
        /// Family.
        family: Family,
        /// Preference; lower is asked first.
        priority: u32,
        /// What it matches.
        selector: RuleSelector,
    },
}

/// What a routing policy rule matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSelector {
    /// Packet mark under a mask.
    Mark {
        /// Value.
        value: u32,
        /// Mask.
        mask: u32,
    },
    /// Source prefix.
    From(IpNet),
}

/// What the object must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetObject {
    /// A link of ours.
    Link(LinkSpec),
    /// A sysctl's value, without a newline. Never taken back on removal.
    Sysctl(Arc<str>),
    /// An address: nothing more to say.
    Address,
    /// The neighbour's MAC, permanent.
    Neighbour(MacAddr),
    /// Outer destination of a forwarding entry.
    Forwarding(IpAddr),
    /// A route.
    Route(RouteSpec),
    /// A rule's action.
    Rule(RuleAction),
}

/// A link that we make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Its kind.
    pub kind: LinkKind,
    /// Its own MAC, where it must be a certain one.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu_bytes: u32,
}

/// Kinds of links that we make beside the pods' own. A change that the kernel cannot make in place removes the link and makes it anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// VXLAN (RFC 7348) without learning.
    Vxlan {
        /// Network identifier.
        vni: u32,
        /// UDP destination port.
        port: u16,
        /// Local outer address.
        local: IpAddr,
        /// Underlying link by name.
        device: Arc<str>,
    },
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteSpec {
    /// To a link, perhaps through a gateway.
    Unicast {
        /// The link's name.
        link: Arc<str>,
        /// The gateway, if any; always taken as on the link (`onlink`).
        gateway: Option<IpAddr>,
        /// Preferred source address of this node's own packets.
        source: Option<IpAddr>,
        /// Path MTU in bytes, if lower than the link's.
        mtu_bytes: Option<u32>,
    },
    /// Refused with ICMP unreachable.
    Unreachable,
}

/// What a routing policy rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleAction {
    /// Asks a table.
    Table(u32),
}

//! Packet flows of services as data: files of cases, each a few objects and what becomes of packets then.
//!
//! ```text
//! set externalIPs 198.51.100.0/25 2001:db8:51::/120      a setting of every agent
//! node n1 zone=za                                        the cast: nodes, and pods on them
//! pod a @n1
//! pod h1 @n1 +hostnet
//! pod p @n1 port=8088:8080                               its port 8080 is the node's 8088
//!
//! case a cluster address leads to every endpoint
//!   svc web $v1 :http:80/tcp                             objects, as `notation` has them, in the namespace default
//!   slice web :http:8080/tcp $a $x!draining              its endpoints; nodes are the pods' own unless said
//!   a -> v1:80/tcp = a:8080<n1 x:8080                    a packet and what becomes of it
//! ```
//!
//! `$v1` stands for the addresses of v1 in both families, `$v1/4` for one of them. A slice becomes one for each family.
//!
//! A row is a sender (a pod, a node, or the client outside, `out`), perhaps `via` a node by which the client's packets come, and a
//! destination; then `reject`, `drop`, `untouched` (no service has to do with it: it goes where it was addressed to), or those who
//! answer, all of them in the end: `x:8080` sees the sender's own address, `x:8080<n1` that of n1. `kept` after them says that one client
//! has only one of them. A row that begins with `4:` or `6:` is of one family, one that begins with `nftables:` or `ebpf:` of one mode.
//! `health n1:31000 = 2` is what a load balancer is told, `problems 3002` what the compiler complains about, and `off-wire REASON` keeps a case
//! from being run with real packets.
//!
//! Who has which address is not the table's affair: whoever runs it says so ([`Places`]), and has to give `v…` (cluster addresses), `e…`
//! (allowed from outside), and the other names that [`place`] knows.

mod read;
mod run;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::{Family, Protocol};
use ipnet::IpNet;

pub use run::{Places, place, plain};

/// The table with the settings that most clusters have.
pub const SERVICES: &str = include_str!("services.flows");

/// The table for node ports on some addresses only, and nothing allowed from outside.
pub const NARROW: &str = include_str!("narrow.flows");

/// A file.
#[derive(Debug, Clone)]
pub struct Table {
    /// Settings of the agents: networks by key.
    pub settings: BTreeMap<String, Vec<IpNet>>,
    /// Nodes by name, and the zone of each.
    pub nodes: BTreeMap<String, Option<String>>,
    /// Pods by name.
    pub pods: BTreeMap<String, CastPod>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// A pod of the cast.
#[derive(Debug, Clone)]
pub struct CastPod {
    /// Its node.
    pub node: String,
    /// Whether it has the node's address.
    pub hostnet: bool,
    /// A port of its node, and the port of its own that it leads to.
    pub host_port: Option<(u16, u16)>,
}

/// Some objects and what becomes of packets.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows.
    pub title: String,
    /// Objects, one a line, with names for addresses.
    pub objects: Vec<String>,
    /// Packets.
    pub rows: Vec<Row>,
    /// What load balancers are told: node, port and number of endpoints.
    pub health: Vec<(String, u16, usize)>,
    /// Codes of the problems that the objects have.
    pub problems: Vec<u16>,
    /// Why it cannot be run with real packets.
    pub off_wire: Option<String>,
}

/// By what services are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By rules alone.
    Nftables,
    /// At the socket first, for the nodes' and the pods' own programs.
    Ebpf,
}

impl Mode {
    /// Both.
    pub const BOTH: [Mode; 2] = [Mode::Nftables, Mode::Ebpf];
}

/// One packet, the first of a connection.
#[derive(Debug, Clone)]
pub struct Row {
    /// As it stands in the file.
    pub text: String,
    /// Of this family only.
    pub family: Option<Family>,
    /// In this mode only.
    pub mode: Option<Mode>,
    /// Who sends.
    pub from: String,
    /// The node by which a client's packet comes.
    pub via: Option<String>,
    /// To whom.
    pub to: String,
    /// Destination port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What becomes of it.
    pub wanted: Wanted,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// One of these answers.
    Answer {
        /// All that may, and do in the end.
        by: Vec<Answerer>,
        /// Whether one client has only one of them.
        kept: bool,
    },
    /// It is refused at once.
    Reject,
    /// Nothing comes back.
    Drop,
    /// No service has to do with it.
    Untouched,
}

/// Somebody who answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answerer {
    /// A pod.
    pub pod: String,
    /// Its port.
    pub port: u16,
    /// Whose address it sees; the sender's own if nobody is named.
    pub sees: Option<String>,
}

impl Row {
    /// Whether it is of a family, in a mode.
    pub fn is_of(&self, family: Family, mode: Mode) -> bool {
        self.family.is_none_or(|of| of == family) && self.mode.is_none_or(|of| of == mode)
    }
}

impl Table {
    /// The node on which services meet the packet: the one that is addressed, else the sender's own, or that by which a client's comes.
    pub fn meets_at<'a>(&'a self, row: &'a Row) -> &'a str {
        let addressed = row.to.strip_suffix('b').filter(|name| self.nodes.contains_key(*name)).unwrap_or(&row.to);
        if self.nodes.contains_key(addressed) { addressed } else { self.enters_at(row) }
    }

    /// The node that the packet is on first.
    pub fn enters_at<'a>(&'a self, row: &'a Row) -> &'a str {
        match (&row.via, self.pods.get(&row.from)) {
            (Some(via), _) => via,
            (None, Some(pod)) => &pod.node,
            (None, None) if self.nodes.contains_key(&row.from) => &row.from,
            (None, None) => row.to.strip_suffix('b').filter(|name| self.nodes.contains_key(*name)).unwrap_or(&row.to),
        }
    }

    /// Whether the packet begins on the node where services meet it, or in a pod of it.
    pub fn is_own(&self, row: &Row) -> bool {
        row.from != "out" && self.enters_at(row) == self.meets_at(row)
    }

    /// The address that somebody of a row has: pods on their node's network have the node's.
    pub fn address(&self, places: &dyn Places, name: &str, family: Family) -> IpAddr {
        match self.pods.get(name) {
            Some(pod) if pod.hostnet => places.address(&pod.node, family),
            Some(_) | None => places.address(name, family),
        }
    }

    /// Whether the sender is in the node's own network namespace, the only one whose loopback is the node's.
    pub fn is_on_node(&self, row: &Row) -> bool {
        self.nodes.contains_key(&row.from) || self.pods.get(&row.from).is_some_and(|pod| pod.hostnet)
    }

    /// The pod whose host port is addressed, if one is.
    pub fn host_port(&self, row: &Row) -> Option<(&str, &CastPod)> {
        let mut pods = self.pods.iter().map(|(name, pod)| (name.as_str(), pod));
        pods.find(|(_, pod)| pod.node == row.to && pod.host_port.is_some_and(|(port, _)| port == row.port) && row.protocol == Protocol::Tcp)
    }
}

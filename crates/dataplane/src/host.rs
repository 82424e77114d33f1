//! What lowering must know of the machine itself: its links and addresses.
//!
//! Invariant: Bowline's own links are not in here, so that what is lowered never depends on what was lowered before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{Dual, Family, MacAddr, NodeName};
use ipnet::IpNet;

/// A link of the machine that is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its name.
    pub name: Arc<str>,
    /// Its index.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu_bytes: u32,
    /// Its addresses, each with the prefix that is on the link.
    pub addresses: Vec<IpNet>,
}

/// How the kernel can tell of denials. What it lacks is left out of the rules, which drop all the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DenialFacts {
    /// Rules can count on counters of the table.
    pub counted: bool,
    /// Rules can limit a rate and give packets to a group of nfnetlink_log.
    pub logged: bool,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Links that may carry packets to other nodes; ours, the pods' and loopback are left out.
    pub links: Vec<LinkFacts>,
    /// The link of the default route, or the one that the operator chose.
    pub default_link: Option<Arc<str>>,
    /// Ethernet addresses of the nodes that are on a link of ours, as far as they have been learnt (by family of the neighbour entry).
    pub peer_macs: BTreeMap<NodeName, Dual<MacAddr>>,
    /// Programs of ours are at the socket hooks.
    pub socket_hooks: bool,
    /// Programs of ours can be at links.
    pub fast_path: bool,
    /// How the kernel can tell of what policies deny.
    pub denials: DenialFacts,
}

impl HostFacts {
    /// The link that carries what comes from `internal`, the node's own address: the link that holds it, else the default one.
    pub fn underlay(&self, internal: &IpAddr) -> Option<&LinkFacts> {
        let holder = self.links.iter().find(|link| link.addresses.iter().any(|a| a.addr() == *internal));
        holder.or_else(|| self.links.iter().find(|link| Some(&link.name) == self.default_link.as_ref()))
    }

    /// The link that `address` is a neighbour on, if any: that with the longest prefix around it.
    pub fn on_link(&self, address: &IpAddr) -> Option<&LinkFacts> {
        let mut best: Option<(u8, &LinkFacts)> = None;
        for link in &self.links {
            for prefix in &link.addresses {
                let neighbour =
                    prefix.contains(address) && prefix.addr() != *address && prefix.prefix_len() < Family::of(address).host_bits();
                if neighbour && best.is_none_or(|(len, _)| prefix.prefix_len() > len) {
                    best = Some((prefix.prefix_len(), link));
                }
            }
        }
        best.map(|(_, link)| link)
    }
}

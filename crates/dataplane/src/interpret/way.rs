//! A packet through all hooks of a node, where somebody else knows the routes.

use std::net::IpAddr;

use super::{Outcome, Packet, Table};
use crate::objects::nft::Hook;

/// Where a packet for an address goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeadsTo {
    /// To the node itself.
    Node,
    /// Out by the link of this name.
    Link(String),
}

/// Takes a packet through the hooks until one stops it, or it has arrived; it comes from the node itself if it came in by no link.
pub fn through(table: &mut Table, packet: &mut Packet, leads_to: impl Fn(&IpAddr) -> LeadsTo) -> Outcome {
    let own = packet.iif.is_empty();
    if own && let LeadsTo::Link(link) = leads_to(&packet.dst) {
        packet.oif = link;
    }
    let mut outcome = table.run(if own { Hook::Output } else { Hook::Prerouting }, packet);
    let hooks: &[Hook] = match leads_to(&packet.dst) {
        LeadsTo::Node => &[Hook::Input],
        LeadsTo::Link(link) => {
            packet.oif = link;
            if own { &[Hook::Postrouting] } else { &[Hook::Forward, Hook::Postrouting] }
        }
    };
    for hook in hooks {
        if !outcome.passes() {
            break;
        }
        let path = std::mem::take(&mut outcome.path);
        outcome = table.run(*hook, packet);
        outcome.path.splice(0..0, path);
    }
    outcome
}

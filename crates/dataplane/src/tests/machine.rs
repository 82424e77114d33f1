//! A machine that holds lowered objects: takes packets through rules and routes, hook by hook, as its kernel would.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::{Dual, Family};
use ipnet::IpNet;

use crate::HostFacts;
use crate::interpret::{End, Packet, Table};
use crate::objects::net::{NetKey, NetObject, RouteSpec, RuleAction, RuleSelector, TABLE_MAIN};
use crate::objects::nft::{Hook, NftKey, NftObject};

/// Both drivers' objects.
pub(super) type Maps = (BTreeMap<NetKey, NetObject>, BTreeMap<NftKey, NftObject>);

/// The objects of an intent in its full form, on a machine like `host`.
pub(super) fn full_on(intent: &Intent, host: &HostFacts) -> Maps {
    let delta = crate::lower(&Intent::default(), intent, host).value;
    assert!(delta.net.remove.is_empty() && delta.nft.remove.is_empty(), "the full form removes nothing");
    (delta.net.set, delta.nft.set)
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// A process of the node has it.
    Node,
    /// It left by a link, perhaps to a gateway.
    Left { link: String, gateway: Option<IpAddr> },
    /// No route leads to where it wants to go.
    NoRoute,
    /// A rule ended it: how, in which chain, and what the rule says.
    Stopped { end: End, chain: Arc<str>, says: Option<Arc<str>> },
}

#[derive(Clone)]
pub(super) struct Machine {
    table: Table,
    net: BTreeMap<NetKey, NetObject>,
    /// Networks on the machine's own link.
    connected: Vec<IpNet>,
    /// Its addresses there.
    own: Dual<IpAddr>,
}

enum Next {
    Local,
    Link(String, Option<IpAddr>),
    Unreachable,
}

impl Machine {
    pub(super) fn new((net, nft): Maps, connected: Vec<IpNet>, own: Dual<IpAddr>) -> Machine {
        let table = Table::from_objects(&nft);
        assert_eq!(table.faults(), [], "the kernel would refuse this");
        Machine { table, net, connected, own }
    }

    /// Other objects, as the kernel would take them: what packets have put into sets stays.
    pub(super) fn reload(&mut self, (net, nft): Maps) {
        self.table.reload(&nft);
        self.net = net;
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.table.advance(ms);
    }

    /// Takes a packet through the hooks.
    pub(super) fn carry(&mut self, packet: &mut Packet) -> Fate {
        let own = packet.iif.is_empty();
        if own {
            // The link that a packet of the node's own would leave by as it stands.
            if let Next::Link(link, _) = self.route(packet) {
                packet.oif = link;
            }
        }
        if let Some(end) = self.hook(if own { Hook::Output } else { Hook::Prerouting }, packet) {
            return end;
        }
        let (link, gateway) = match self.route(packet) {
            Next::Local => return self.hook(Hook::Input, packet).unwrap_or(Fate::Node),
            Next::Unreachable => return Fate::NoRoute,
            Next::Link(link, gateway) => (link, gateway),
        };
        packet.oif.clone_from(&link);
        if !own && let Some(end) = self.hook(Hook::Forward, packet) {
            return end;
        }
        packet.masquerade_address = self.own.get(packet.family()).copied();
        self.hook(Hook::Postrouting, packet).unwrap_or(Fate::Left { link, gateway })
    }

    fn hook(&mut self, hook: Hook, packet: &mut Packet) -> Option<Fate> {
        let outcome = self.table.run(hook, packet);
        match outcome.end {
            End::Accept => None,
            End::Fault(fault) => panic!("{fault}"),
            end @ (End::Drop | End::Reset | End::Unreachable) => {
                let (chain, says) = outcome.by.expect("no base chain drops by policy");
                Some(Fate::Stopped { end, chain, says })
            }
        }
    }

    /// Routing as the kernel does it: the local table, then rules by preference, then the main table with what the machine has of its own.
    fn route(&self, packet: &Packet) -> Next {
        if packet.local_addresses.contains(&packet.dst) || packet.dst.is_loopback() {
            return Next::Local;
        }
        let mut rules: Vec<(u32, u32)> = Vec::new();
        for (key, object) in &self.net {
            let (NetKey::Rule { family, priority, selector }, NetObject::Rule(RuleAction::Table(table))) = (key, object) else { continue };
            let matches = match selector {
                RuleSelector::Mark { value, mask } => packet.mark & mask == *value,
                RuleSelector::From(prefix) => !packet.iif.is_empty() && prefix.contains(&packet.src),
            };
            if *family == packet.family() && matches {
                rules.push((*priority, *table));
            }
        }
        rules.sort_unstable();
        let found = rules.iter().find_map(|(_, table)| self.look_up(*table, &packet.dst));
        let found = found.or_else(|| self.look_up(TABLE_MAIN, &packet.dst));
        match found {
            Some(RouteSpec::Unicast { link, gateway, .. }) => Next::Link(link.to_string(), gateway),
            Some(RouteSpec::Unreachable) => Next::Unreachable,
            None => Next::Link("eth0".to_owned(), None),
        }
    }

    fn look_up(&self, wanted: u32, to: &IpAddr) -> Option<RouteSpec> {
        let mut best: Option<((u8, std::cmp::Reverse<u32>), &RouteSpec)> = None;
        let own = RouteSpec::Unicast { link: "eth0".into(), gateway: None, source: None, mtu_bytes: None };
        let ours = self.net.iter().filter_map(|(key, object)| match (key, object) {
            (NetKey::Route { table, destination, metric }, NetObject::Route(spec)) if *table == wanted => {
                Some((*destination, *metric, spec))
            }
            _ => None,
        });
        let machine = self.connected.iter().filter(|_| wanted == TABLE_MAIN).map(|net| (*net, 0, &own));
        for (destination, metric, spec) in ours.chain(machine).filter(|(d, _, _)| Family::of_prefix(d) == Family::of(to) && d.contains(to))
        {
            let rank = (destination.prefix_len(), std::cmp::Reverse(metric));
            if best.as_ref().is_none_or(|(r, _)| rank > *r) {
                best = Some((rank, spec));
            }
        }
        best.map(|(_, spec)| spec.clone())
    }
}

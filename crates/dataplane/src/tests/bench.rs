//! Sends packets through lowered rules and routes, hook by hook.
//!
//! A packet is `FROM -> TO:PORT/PROTOCOL` with words after it: `via n2` (handed over by that node), `as NAME` (with another's source
//! address), `mac NAME`, `from-link eth0`, `ack` (TCP in the midst of a connection), `known` (an established connection), `reply n2` (a
//! reply in a connection that came through that node), `icmp`, `random N` (of 100).

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::{Family, MacAddr};
use ipnet::IpNet;

use super::notation::{address, host, name_of, node, parse, pod_mac, target};
use crate::interpret::{End, Packet, Table};
use crate::objects::net::{NetKey, NetObject, PEER_MARK_SHIFT, RouteSpec, RuleAction, RuleSelector, TABLE_MAIN};
use crate::objects::nft::{Hook, NftKey, NftObject};

pub(super) struct Bench {
    family: Family,
    table: Table,
    net: BTreeMap<NetKey, NetObject>,
}

/// Both drivers' objects of an intent in its full form.
pub(super) fn full(intent: &Intent) -> (BTreeMap<NetKey, NetObject>, BTreeMap<NftKey, NftObject>) {
    let delta = crate::lower(&Intent::default(), intent, &host()).value;
    assert!(delta.net.remove.is_empty() && delta.nft.remove.is_empty(), "the full form removes nothing");
    (delta.net.set, delta.nft.set)
}

enum Next {
    Local,
    Link(String, Option<IpAddr>),
    Unreachable,
}

impl Bench {
    pub(super) fn new(setup: &str, family: Family) -> Bench {
        let (net, nft) = full(&parse(setup));
        let table = Table::from_objects(&nft);
        assert_eq!(table.faults(), [], "the kernel would refuse this");
        Bench { family, table, net }
    }

    /// Another intent, as the kernel would take it: what packets have put into sets stays.
    pub(super) fn reload(&mut self, setup: &str) {
        let (net, nft) = full(&parse(setup));
        self.table.reload(&nft);
        self.net = net;
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.table.advance(ms);
    }

    /// What becomes of the packet.
    pub(super) fn send(&mut self, line: &str) -> String {
        let mut packet = self.packet(line);
        self.carry(&mut packet)
    }

    pub(super) fn packet(&self, line: &str) -> Packet {
        let mut words = line.split_whitespace();
        let (from, _, to) = (words.next().unwrap(), words.next(), words.next().unwrap());
        let (name, port, protocol) = target(to);
        let mut packet = Packet::new(address(from, self.family), address(name, self.family), protocol.number(), port);
        packet.local_addresses = ["n1", "n1ext"].iter().map(|n| address(n, self.family)).collect();
        self.origin(&mut packet, from);
        while let Some(word) = words.next() {
            let mut argument = || words.next().unwrap();
            match word {
                "via" => {
                    let number: u16 = argument()[1..].parse().unwrap();
                    (packet.iif, packet.ether_src) = ("bowline.1".to_owned(), Some(node(number).vtep_mac));
                }
                "as" => packet.src = address(argument(), self.family),
                "mac" => packet.ether_src = Some(pod_mac(argument())),
                "from-link" => packet.iif = argument().to_owned(),
                "from-mac" => packet.ether_src = Some(MacAddr([2, 0, 0, 0, 0xee, argument()[1..].parse().unwrap()])),
                "ack" => packet.tcp_flags = 16,
                "known" => packet.connection.state = 2,
                "reply" => {
                    packet.connection.state = 2;
                    packet.connection.reply = true;
                    packet.connection.mark = argument()[1..].parse::<u32>().unwrap() << PEER_MARK_SHIFT | 1;
                }
                "icmp" => packet.protocol = if self.family == Family::V4 { 1 } else { 58 },
                "random" => packet.random = u32::MAX / 100 * argument().parse::<u32>().unwrap(),
                "sport" => packet.src_port = argument().parse().unwrap(),
                other => panic!("no such word: {other}"),
            }
        }
        packet
    }

    fn origin(&self, packet: &mut Packet, from: &str) {
        let (iif, mac) = match from {
            "n1" | "n1ext" => ("", None),
            "x" | "gw2" => ("bowline.1", Some(node(2).vtep_mac)),
            "y" | "gw3" => ("bowline.1", Some(node(3).vtep_mac)),
            "a" | "b" | "c" => return (packet.iif, packet.ether_src) = (format!("bwl{from}"), Some(pod_mac(from))),
            _ => ("eth0", Some(MacAddr([2, 0, 0, 0, 0xee, 0xee]))),
        };
        (packet.iif, packet.ether_src) = (iif.to_owned(), mac);
    }

    /// Takes a packet through the hooks.
    pub(super) fn carry(&mut self, packet: &mut Packet) -> String {
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
            Next::Local => return self.hook(Hook::Input, packet).unwrap_or_else(|| self.arrival("node", packet, None)),
            Next::Unreachable => return "no route".to_owned(),
            Next::Link(link, gateway) => (link, gateway),
        };
        packet.oif.clone_from(&link);
        if !own && let Some(end) = self.hook(Hook::Forward, packet) {
            return end;
        }
        packet.masquerade_address = Some(address("n1", self.family));
        self.hook(Hook::Postrouting, packet).unwrap_or_else(|| self.arrival(&link, packet, gateway))
    }

    fn hook(&mut self, hook: Hook, packet: &mut Packet) -> Option<String> {
        let outcome = self.table.run(hook, packet);
        let end = match &outcome.end {
            End::Accept => return None,
            End::Drop => "drop".to_owned(),
            End::Reset => "reset".to_owned(),
            End::Unreachable => "unreachable".to_owned(),
            End::Fault(fault) => panic!("{fault}"),
        };
        let (chain, comment) = outcome.by?;
        Some(comment.map_or_else(|| format!("{end} in {chain}"), |comment| format!("{end}: {comment}")))
    }

    fn arrival(&self, link: &str, packet: &Packet, gateway: Option<IpAddr>) -> String {
        let gateway = gateway.map(|g| format!(" by {}", name_of(&g))).unwrap_or_default();
        format!("{link}{gateway}: {} -> {}:{}", name_of(&packet.src), name_of(&packet.dst), packet.dst_port)
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
            if *family == self.family && matches {
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
        let connected: IpNet = if self.family == Family::V4 { "10.0.0.0/24" } else { "fd00::/64" }.parse().unwrap();
        let own = RouteSpec::Unicast { link: "eth0".into(), gateway: None, source: None, mtu_bytes: None };
        let ours = self.net.iter().filter_map(|(key, object)| match (key, object) {
            (NetKey::Route { table, destination, metric }, NetObject::Route(spec)) if *table == wanted => {
                Some((*destination, *metric, spec))
            }
            _ => None,
        });
        let machine = (wanted == TABLE_MAIN).then_some((connected, 0, &own));
        for (destination, metric, spec) in ours.chain(machine).filter(|(d, _, _)| d.contains(to)) {
            let rank = (destination.prefix_len(), std::cmp::Reverse(metric));
            if best.as_ref().is_none_or(|(r, _)| rank > *r) {
                best = Some((rank, spec));
            }
        }
        best.map(|(_, spec)| spec.clone())
    }
}

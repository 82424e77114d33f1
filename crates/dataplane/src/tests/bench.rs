//! Sends packets through lowered rules and routes, hook by hook.
//!
//! A packet is `FROM -> TO:PORT/PROTOCOL` with words after it: `via n2` (handed over by that node), `as NAME` (with another's source
//! address), `mac NAME`, `from-link eth0`, `ack` (TCP in the midst of a connection), `known` (an established connection), `held` (one that
//! policies no longer allow), `misfit` (invalid in the eyes of conntrack), `reply n2` (a reply in a connection that came through that node), `icmp`, `type N` (of ICMP), `about
//! NAME` (the target of a message about neighbours), `random N` (of 100).

use std::net::IpAddr;

use bowline_model::intent::Intent;
use bowline_model::{Dual, Family, MacAddr};

use super::machine::{Fate, Machine, Maps, full_on};
use super::notation::{address, host, name_of, nets, node, parse, pod_mac, target};
use crate::interpret::{End, Packet};
use crate::objects::net::{HELD_MARK, PEER_MARK_SHIFT};

pub(super) struct Bench {
    family: Family,
    machine: Machine,
}

/// Both drivers' objects of an intent in its full form.
pub(super) fn full(intent: &Intent) -> Maps {
    full_on(intent, &host())
}

impl Bench {
    pub(super) fn new(setup: &str, family: Family) -> Bench {
        Bench::of(&parse(setup), family)
    }

    pub(super) fn of(intent: &Intent, family: Family) -> Bench {
        let own = Dual::first_of([address("n1", Family::V4), address("n1", Family::V6)]);
        Bench { family, machine: Machine::new(full(intent), nets(&["10.0.0.0/24", "fd00::/64"]), own) }
    }

    /// Another intent, as the kernel would take it: what packets have put into sets stays.
    pub(super) fn reload(&mut self, setup: &str) {
        self.machine.reload(full(&parse(setup)));
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.machine.advance(ms);
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
                "held" => (packet.connection.state, packet.connection.mark) = (2, HELD_MARK),
                "misfit" => packet.connection.state = 1,
                "reply" => {
                    packet.connection.state = 2;
                    packet.connection.reply = true;
                    packet.connection.mark = argument()[1..].parse::<u32>().unwrap() << PEER_MARK_SHIFT | 1;
                }
                "icmp" => packet.protocol = if self.family == Family::V4 { 1 } else { 58 },
                "type" => packet.icmp_type = argument().parse().unwrap(),
                "about" => {
                    let IpAddr::V6(target) = address(argument(), Family::V6) else { panic!("not IPv6") };
                    packet.neighbour_target = Some(target);
                }
                "random" => packet.random = u32::MAX / 100 * argument().parse::<u32>().unwrap(),
                "sport" => packet.src_port = argument().parse().unwrap(),
                other => panic!("no such word: {other}"),
            }
        }
        packet
    }

    fn origin(&self, packet: &mut Packet, from: &str) {
        let (iif, mac) = match from {
            "n1" | "n1ext" | "lo" => ("", None),
            "x" | "gw2" => ("bowline.1", Some(node(2).vtep_mac)),
            "y" | "gw3" => ("bowline.1", Some(node(3).vtep_mac)),
            "a" | "b" | "c" => return (packet.iif, packet.ether_src) = (format!("bwl{from}"), Some(pod_mac(from))),
            _ => ("eth0", Some(MacAddr([2, 0, 0, 0, 0xee, 0xee]))),
        };
        (packet.iif, packet.ether_src) = (iif.to_owned(), mac);
    }

    /// Takes a packet through the hooks, and says what became of it.
    pub(super) fn carry(&mut self, packet: &mut Packet) -> String {
        let (chain, says, end) = match self.machine.carry(packet) {
            Fate::Node => return arrival("node", packet, None),
            Fate::Left { link, gateway } => return arrival(&link, packet, gateway),
            Fate::NoRoute => return "no route".to_owned(),
            Fate::Stopped { end, chain, says } => (chain, says, end),
        };
        let end = match end {
            End::Reset => "reset",
            End::Unreachable => "unreachable",
            End::Accept | End::Drop | End::Fault(_) => "drop",
        };
        says.map_or_else(|| format!("{end} in {chain}"), |says| format!("{end}: {says}"))
    }
}

fn arrival(link: &str, packet: &Packet, gateway: Option<IpAddr>) -> String {
    let gateway = gateway.map(|g| format!(" by {}", name_of(&g))).unwrap_or_default();
    format!("{link}{gateway}: {} -> {}:{}", name_of(&packet.src), name_of(&packet.dst), packet.dst_port)
}

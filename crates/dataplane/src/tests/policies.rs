//! The truth tables of policies, through the lowered rules of every node on the way, from the sender's to the receiver's.
//!
//! Nodes follow the steps as agents do: what is lowered is the difference to the step before.

use std::collections::BTreeMap;

use bowline_compile::testing::notation::ifname;
use bowline_compile::testing::policies::{Cast, Cell, Found, Theme, Worlds, hold, plain};
use bowline_model::MacAddr;
use bowline_model::intent::Intent;

use super::machine::{Fate, Maps, full_on};
use super::nodes::{Node, host, next};
use crate::HostFacts;
use crate::interpret::{End, Packet};

struct Cluster<'c> {
    cast: &'c Cast,
    worlds: Worlds<'c>,
    hosts: BTreeMap<String, HostFacts>,
    maps: BTreeMap<String, Maps>,
    nodes: BTreeMap<String, Node>,
}

impl<'c> Cluster<'c> {
    fn new(cast: &'c Cast) -> Cluster<'c> {
        let worlds = Worlds::new(cast);
        let places = plain(|_| None);
        // Nobody asks for the second link's addresses: they are some of no node.
        let address = |name: &str, family| match name.strip_suffix('b') {
            Some(node) => places(&format!("{node}9"), family).addr(),
            None => places(name, family).addr(),
        };
        let hosts: BTreeMap<String, HostFacts> = cast.nodes.iter().map(|name| (name.clone(), host(&cast.nodes, name, &address))).collect();
        let maps: BTreeMap<String, Maps> =
            worlds.nodes.iter().map(|(name, node)| (name.clone(), full_on(&node.intent, &hosts[name]))).collect();
        let node =
            |(name, maps): (&String, &Maps)| (name.clone(), Node::new(worlds.nodes[name].intent.clone(), &hosts[name], maps.clone()));
        let nodes = maps.iter().map(node).collect();
        Cluster { cast, worlds, hosts, maps, nodes }
    }

    /// What has changed in the worlds is lowered and loaded.
    fn follow(&mut self, title: &str) {
        for (name, node) in &mut self.nodes {
            let (host, maps, new) = (&self.hosts[name], self.maps.get_mut(name).unwrap(), &self.worlds.nodes[name].intent);
            let delta = crate::lower(&node.intent, new, host).value;
            delta.net.apply_to(&mut maps.0);
            delta.nft.apply_to(&mut maps.1);
            assert!(*maps == full_on(new, host), "{title}: what {name} followed is not what it would make anew");
            node.machine.reload(maps.clone());
            node.intent = Intent::clone(new);
        }
    }

    /// Whether a cell's first packet arrives.
    fn arrives(&mut self, cell: &Cell<'_>) -> bool {
        let [src, dst] = [cell.from, cell.to].map(|name| self.worlds.address(name, cell.family));
        let mut packet = Packet::new(src, dst, cell.protocol(), cell.dst_port().unwrap_or_default());
        let mut at = self.enters(cell, &mut packet);
        for _ in 0..3 {
            let node = self.nodes.get_mut(&at).unwrap();
            packet.local_addresses.clone_from(&node.local);
            let (link, gateway) = match node.machine.carry(&mut packet) {
                Fate::Stopped { end: End::Drop, .. } => return false,
                Fate::Node => {
                    assert_eq!(at, cell.to, "{cell}");
                    return true;
                }
                Fate::Left { link, gateway } => (link, gateway),
                fate @ (Fate::Stopped { .. } | Fate::NoRoute) => panic!("{cell}: {fate:?}"),
            };
            assert_eq!(packet.dst, dst, "{cell}");
            if link.starts_with("bwl-") {
                assert_eq!((link.as_str(), packet.src), (&*ifname(cell.to), src), "{cell}");
                return true;
            }
            let Some(onward) = next(&self.nodes, &at, (&link, gateway), &packet) else {
                assert_eq!(cell.to, "out", "{cell} leaves the cluster");
                return true;
            };
            (at, packet) = onward;
        }
        panic!("{cell}: goes round")
    }

    /// Where a cell's packet is first, and by which link it comes there.
    fn enters(&self, cell: &Cell<'_>, packet: &mut Packet) -> String {
        if let Some(pod) = self.worlds.scene.pods.get(cell.from) {
            let link = ifname(cell.from);
            packet.ether_src = Some(self.nodes[&pod.node].intent.pods.pods[&link].mac);
            packet.iif = link.to_string();
            return pod.node.clone();
        }
        if cell.from == "out" {
            (packet.iif, packet.ether_src) = ("eth0".into(), Some(MacAddr::derived("router")));
            return self.worlds.scene.pods[cell.to].node.clone();
        }
        cell.from.to_owned()
    }

    /// Follows a theme's steps.
    fn judge(&mut self, theme: &Theme) -> Vec<Found> {
        let mut found = Vec::new();
        for truth in theme.cases.iter().flat_map(|case| case.truths(self.cast)) {
            let title = truth.step.title.clone();
            self.worlds.go(&truth.scene);
            self.follow(&title);
            let (cells, mut wrong) = (truth.cells(self.cast), Vec::new());
            for (cell, wanted) in &cells {
                if self.arrives(cell) != *wanted {
                    wrong.push(format!("{cell}: {wanted} in the table"));
                }
            }
            found.push(Found { title, cells: cells.len(), wrong });
        }
        found
    }
}

#[test]
fn lowered_rules_do_what_the_truth_tables_say() {
    hold(|cast, theme| Cluster::new(cast).judge(theme));
}

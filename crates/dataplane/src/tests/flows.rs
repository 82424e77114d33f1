//! The tables of packet flows, through the sender's socket where that mode has hooks there, and through the lowered rules of every node on
//! the way, from the sender's to that of whoever answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_compile::Compiler;
use bowline_compile::testing::flows::{Answerer, Case, Mode, NARROW, Places, Row, SERVICES, Table, Wanted, plain};
use bowline_compile::testing::notation::ifname;
use bowline_model::{Family, MacAddr};

use super::machine::{Fate, Machine, full_on};
use super::nodes::{Node, host, next};
use crate::HostFacts;
use crate::interpret::sockets::Socket;
use crate::interpret::{End, Packet};

/// Enough draws of a random number for every share of up to four endpoints.
const DRAWS: u32 = 12;

struct Cluster<'t> {
    table: &'t Table,
    mode: Mode,
    places: Box<dyn Places + 't>,
    nodes: BTreeMap<String, Node>,
}

/// What came of a packet in the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    By(Answerer),
    Rejected,
    Dropped,
    Untouched,
}

impl<'t> Cluster<'t> {
    fn new(table: &'t Table, cases: &[&Case], mode: Mode) -> Cluster<'t> {
        let places: Box<dyn Places + 't> = Box::new(plain(table));
        let names: Vec<String> = table.nodes.keys().cloned().collect();
        let node = |name: &String| {
            let intent = Compiler::full(&table.world(name, cases, &*places)).value;
            let host = host(&names, name, &|of, family| places.address(of, family));
            let host = HostFacts { socket_hooks: mode == Mode::Ebpf, ..host };
            let objects = full_on(&intent, &host);
            (name.clone(), Node::new(intent, &host, objects))
        };
        let nodes = names.iter().map(node).collect();
        Cluster { table, mode, places, nodes }
    }

    /// A row's packet where it enters.
    fn first(&self, row: &Row, family: Family) -> Packet {
        let address = |name: &str| self.table.address(&*self.places, name, family);
        let mut packet = Packet::new(address(&row.from), address(&row.to), row.protocol.number(), row.port);
        match self.table.pods.get(&row.from) {
            Some(pod) if !pod.hostnet => {
                let link = ifname(&format!("default/{}", row.from));
                packet.ether_src = Some(self.nodes[&pod.node].intent.pods.pods[&link].mac);
                packet.iif = link.to_string();
            }
            Some(_) | None if row.from == "out" => {
                (packet.iif, packet.ether_src) = ("eth0".into(), Some(MacAddr::derived("router")));
            }
            Some(_) | None => {}
        }
        packet
    }

    /// Takes a row's packet from node to node.
    fn run(&mut self, row: &Row, family: Family, random: u32) -> Seen {
        let (sender, asked) = (self.table.address(&*self.places, &row.from, family), self.table.address(&*self.places, &row.to, family));
        let mut at = self.table.enters_at(row).to_owned();
        let mut packet = self.first(row, family);
        if row.from != "out"
            && let Some(end) = self.at_socket(row, &mut packet, random)
        {
            return end;
        }
        for _ in 0..4 {
            let node = self.nodes.get_mut(&at).unwrap();
            packet.local_addresses.clone_from(&node.local);
            packet.random = random;
            let fate = node.machine.carry(&mut packet);
            let next = match fate {
                Fate::Stopped { end: End::Drop, .. } => return Seen::Dropped,
                Fate::Stopped { .. } => return Seen::Rejected,
                Fate::NoRoute => panic!("{}: no route to {}", row.text, packet.dst),
                Fate::Node => return self.arrived(&packet, (sender, asked, row.port)),
                Fate::Left { link, .. } if link.starts_with("bwl-") => return self.arrived(&packet, (sender, asked, row.port)),
                Fate::Left { link, gateway } => next(&self.nodes, &at, (&link, gateway), &packet),
            };
            let Some(onward) = next else {
                assert_eq!((packet.dst, packet.dst_port), (asked, row.port), "a service leads nobody out of the cluster here");
                return Seen::Untouched;
            };
            (at, packet) = onward;
        }
        panic!("{}: goes round", row.text)
    }

    /// Turns a packet to where its sender's socket does; says what came of it, if that is all.
    fn at_socket(&self, row: &Row, packet: &mut Packet, random: u32) -> Option<Seen> {
        let on_node = self.table.is_on_node(row);
        match self.nodes[self.table.enters_at(row)].at_socket(packet, on_node) {
            Socket::Refused => return Some(Seen::Rejected),
            Socket::To(endpoints) => {
                let count = u64::try_from(endpoints.len()).unwrap();
                let drawn = usize::try_from((u64::from(random) * count) >> 32).unwrap();
                let endpoint = endpoints.into_iter().nth(drawn).unwrap();
                (packet.dst, packet.dst_port) = (endpoint.address, endpoint.port);
            }
            Socket::AsItIs => {}
        }
        if packet.dst.is_loopback() && !on_node {
            return Some(Seen::Untouched);
        }
        // It never leaves the pod, and has the pod's own address. By the rules it has the node's, and the tables speak of those.
        let itself = packet.dst == packet.src && !on_node;
        let sees = itself.then(|| self.table.pods[&row.from].node.clone());
        sees.map(|node| Seen::By(Answerer { pod: row.from.clone(), port: packet.dst_port, sees: Some(node) }))
    }

    fn arrived(&self, packet: &Packet, (sender, asked, port): (IpAddr, IpAddr, u16)) -> Seen {
        if (packet.dst, packet.dst_port) == (asked, port) {
            assert_eq!(packet.src, sender, "within the cluster nobody loses their address but by a service");
            return Seen::Untouched;
        }
        let family = Family::of(&packet.dst);
        let is = |name: &&String| self.table.address(&*self.places, name, family) == packet.dst;
        let pod = self.table.pods.keys().find(is).unwrap_or_else(|| panic!("{} is nobody", packet.dst)).clone();
        let sees = self.table.nodes.keys().find(|node| self.places.address(node, family) == packet.src);
        let sees = (packet.src != sender).then(|| sees.cloned().unwrap_or_else(|| packet.src.to_string()));
        Seen::By(Answerer { pod, port: packet.dst_port, sees })
    }

    /// Everything that comes of a row's packet, by chance; with what a client keeps if `kept`.
    fn outcomes(&mut self, row: &Row, family: Family, kept: bool) -> BTreeSet<Seen> {
        let draws = (0..DRAWS).map(|draw| u32::MAX / DRAWS * draw + u32::MAX / DRAWS / 2);
        let mut all = BTreeSet::new();
        for random in draws {
            if !kept {
                all.insert(self.run(row, family, random));
                continue;
            }
            // A client that nobody remembers yet; then it is remembered.
            let fresh: Vec<Machine> = self.nodes.values().map(|node| node.machine.clone()).collect();
            let first = self.run(row, family, random);
            for turn in 1..4_u32 {
                assert_eq!(self.run(row, family, random.rotate_left(turn * 7)), first, "{}: a client keeps its endpoint", row.text);
            }
            all.insert(first);
            self.nodes.values_mut().zip(fresh).for_each(|(node, machine)| node.machine = machine);
        }
        all
    }
}

fn wanted(row: &Row) -> (BTreeSet<Seen>, bool) {
    match &row.wanted {
        Wanted::Answer { by, kept } => (by.iter().cloned().map(Seen::By).collect(), *kept),
        Wanted::Reject => (BTreeSet::from([Seen::Rejected]), false),
        Wanted::Drop => (BTreeSet::from([Seen::Dropped]), false),
        Wanted::Untouched => (BTreeSet::from([Seen::Untouched]), false),
    }
}

fn judge(cluster: &mut Cluster<'_>, case: &Case, wrong: &mut Vec<String>) -> usize {
    let (mut count, mode) = (0, cluster.mode);
    for row in &case.rows {
        for family in Family::BOTH.into_iter().filter(|family| row.is_of(*family, mode)) {
            let (wanted, kept) = wanted(row);
            let got = cluster.outcomes(row, family, kept);
            if got != wanted {
                wrong.push(format!("{}: {family} {:?} {}\n  got {got:?}\n  not {wanted:?}", case.title, mode, row.text));
            }
            count += 1;
        }
    }
    count
}

#[test]
fn lowered_rules_do_what_the_tables_say() {
    for text in [SERVICES, NARROW] {
        let table = Table::read(text);
        let (mut wrong, mut count) = (Vec::new(), 0);
        for (case, mode) in table.cases.iter().flat_map(|case| Mode::BOTH.map(|mode| (case, mode))) {
            count += judge(&mut Cluster::new(&table, &[case], mode), case, &mut wrong);
        }
        assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// All services at once, as with real packets.
#[test]
fn lowered_rules_do_it_for_all_cases_together() {
    let table = Table::read(SERVICES);
    let together: Vec<&Case> = table.cases.iter().filter(|case| case.off_wire.is_none()).collect();
    for mode in Mode::BOTH {
        let mut cluster = Cluster::new(&table, &together, mode);
        let mut wrong = Vec::new();
        let count: usize = together.iter().map(|case| judge(&mut cluster, case, &mut wrong)).sum();
        assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), wrong.join("\n"));
    }
}

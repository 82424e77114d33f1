//! What no pod may send: forged stations and addresses, what only routers and DHCP servers say, neighbours that are others, tunnel packets. A
//! pod sends all of it as raw frames; none of it comes to another pod, to its node or to another node, each is counted under its name, and the
//! same with the pod's own addresses goes its way.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::foreign::shell;
use crate::common::cluster::{nodes, pods};
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually};
use crate::common::objects::idle;
use crate::common::rows::Bench;
use crate::common::stations;
use crate::common::wire::{BROADCAST, Ends, Mac, arp, hex, icmp, of_group, udp, vxlan};

/// How often each frame is sent.
const TIMES: u64 = 5;

/// Where the node hears plain datagrams.
const PORT: u16 = 7999;

/// The gateway of every pod.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// All nodes of a link, and all routers' listeners for reports of groups.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const REPORTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// Addresses of one place, by family.
type Both = (IpAddr, IpAddr);

/// Who is there, as the attacker sees it.
struct Cast {
    station: Mac,
    gateway: Mac,
    own: Both,
    near: Both,
    far: Both,
    node: Both,
}

/// A frame, and the reason under which it is counted at the link.
struct Attack {
    what: &'static str,
    reason: &'static str,
    tag: String,
    frame: Vec<u8>,
}

/// Where a frame is to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Near,
    Far,
    Node,
    Nowhere,
}

/// What comes to a pod.
struct Tap {
    tap: Generator,
    station: Mac,
}

impl Tap {
    fn at(lab: &Lab, pod: &str) -> Result<Tap> {
        Ok(Tap { tap: Generator::in_pod(lab, pod, &["tap"])?, station: stations::of_pod(lab, pod)? })
    }

    /// Frames with a tag that were sent to the pod; with what it answered to them, if `all` are asked for.
    fn count(&mut self, tag: &str, all: bool) -> Result<u64> {
        let start = if all { "-".to_owned() } else { hex(&self.station) };
        self.tap.ask(&format!("{start} {}", hex(tag.as_bytes())))?.as_u64().context("no number")
    }
}

struct Stage {
    cast: Cast,
    sender: Generator,
    own_tap: Generator,
    near: Tap,
    far: Tap,
    far_node: Generator,
    node: Generator,
}

pub(crate) fn end_at_the_link(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        idle("attacker", "n1", "attacker")?,
        idle("victim-near", "n1", "victim-near")?,
        idle("victim-far", "n2", "victim-far")?,
    ])?;
    lab.settled()?;
    let mut stage = Stage {
        cast: cast(lab)?,
        sender: Generator::in_pod(lab, "attacker", &["frames"])?,
        own_tap: Generator::in_pod(lab, "attacker", &["tap"])?,
        near: Tap::at(lab, "victim-near")?,
        far: Tap::at(lab, "victim-far")?,
        far_node: Generator::on_node(lab, "n2", &["tap"])?,
        node: Generator::on_node(lab, "n1", &["hear", "67", "68", "546", "547", "7999"])?,
    };
    let before = counted(lab)?;
    let mut attacks = attacks(&stage.cast);
    if lab.setup.backend == "vxlan" {
        attacks.push(tunnelled(lab, &stage.cast)?);
    }
    for attack in &attacks {
        stage.send(&attack.frame)?;
    }
    let mut wanted = before.clone();
    for Attack { reason, .. } in &attacks {
        *wanted.get_mut(*reason).with_context(|| format!("no reason {reason}"))? += TIMES;
    }
    counters_are(lab, &wanted)?;
    stage.markers("after-attacks")?;
    for Attack { what, tag, .. } in &attacks {
        for (place, count) in stage.arrived(tag, true)? {
            ensure!(count == 0, "{what}: {count} of {TIMES} came to {place}");
        }
    }
    unmoved(lab, &stage.cast)?;
    let allowed = stage.own_goes_on()?;
    counters_are(lab, &wanted)?;
    let (told, kinds) = (told(lab)?, wanted.iter().filter(|(reason, count)| before.get(*reason) != Some(count)).count());
    drop(stage);
    lab.delete("pod", &["attacker", "victim-near", "victim-far"])?;
    Ok(format!(
        "{} forged frames under {kinds} names: 0 arrived; {allowed} forms of the pod's own: all did; status: {told}",
        attacks.len() as u64 * TIMES
    ))
}

fn cast(lab: &Lab) -> Result<Cast> {
    let both = |app: &str| {
        let pod = pods(lab, &format!("app={app}"))?.into_iter().next().with_context(|| format!("no pod of {app}"))?;
        Ok::<Both, anyhow::Error>((pod.ip(false)?, pod.ip(true)?))
    };
    let n1 = nodes(lab)?.into_iter().find(|node| node.name == "n1").context("no n1")?;
    Ok(Cast {
        station: stations::of_pod(lab, "attacker")?,
        gateway: stations::gateway_of(lab, "attacker")?,
        own: both("attacker")?,
        near: both("victim-near")?,
        far: both("victim-far")?,
        node: (n1.ip(false)?, n1.ip(true)?),
    })
}

fn v4(address: IpAddr) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Ok(v4),
        IpAddr::V6(v6) => bail!("{v6} is not IPv4"),
    }
}

/// An option that nobody knows, with a tag: messages about neighbours may end with such.
fn option(tag: &str) -> Vec<u8> {
    [&[253, 2][..], tag.as_bytes(), &[0; 6]].concat()
}

/// What follows the checksum in a message about a neighbour.
fn about(flags: u8, target: IpAddr, tag: &str) -> Vec<u8> {
    let octets = match target {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
    };
    [&[flags, 0, 0, 0][..], &octets, &option(tag)].concat()
}

impl Cast {
    /// From the attacker as it is.
    fn right(&self, to: IpAddr) -> Ends {
        let src = if to.is_ipv4() { self.own.0 } else { self.own.1 };
        Ends { station: self.station, to_station: self.gateway, src, dst: to }
    }

    fn to_group(&self, group: Ipv6Addr) -> Ends {
        self.right(group.into()).on(of_group(group))
    }
}

/// Names eight letters long.
struct Tags(u32);

impl Tags {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("forg{:04}", self.0)
    }
}

fn attacks(cast: &Cast) -> Vec<Attack> {
    let mut tags = Tags(0);
    let mut all = Vec::new();
    let mut add = |what, reason, make: &dyn Fn(&str) -> Vec<u8>| {
        let tag = tags.next();
        all.push(Attack { what, reason, frame: make(&tag), tag });
    };
    let stranger: Mac = [2, 0x66, 0x66, 0x66, 0x66, 0x66];
    let (near4, near6, far4, far6, node4, node6) = (cast.near.0, cast.near.1, cast.far.0, cast.far.1, cast.node.0, cast.node.1);
    let plain = |ends: Ends| move |tag: &str| udp(ends, 4444, PORT, format!("{tag} x").as_bytes());
    for (to, as_if) in [(near4, far4), (near6, far6), (far4, near4), (far6, near6), (node4, near4), (node6, near6)] {
        add("another's address", "source-address", &plain(cast.right(to).of(as_if)));
        add("another's station", "source-mac", &plain(cast.right(to).at(stranger)));
    }
    arp_attacks(cast, stranger, &mut add);
    for to in [near4, far4, node4] {
        let redirect = move |tag: &str| [&[169, 254, 1, 1][..], tag.as_bytes()].concat();
        add("a redirect", "redirect", &move |tag| icmp(cast.right(to), 5, &redirect(tag)));
        add("the gateway's redirect", "redirect", &move |tag| icmp(cast.right(to).of(GATEWAY), 5, &redirect(tag)));
        add("a router of ICMP", "router-advertisement", &move |tag| icmp(cast.right(to), 9, &[&[1, 2, 0, 9][..], tag.as_bytes()].concat()));
        add("an answer of DHCP", "dhcp-answer", &move |tag| udp(cast.right(to), 67, 68, format!("{tag} x").as_bytes()));
    }
    let everybody = cast.right(Ipv4Addr::BROADCAST.into()).on(BROADCAST);
    add("an answer of DHCP to all", "dhcp-answer", &|tag| udp(everybody.of(node4), 67, 68, format!("{tag} x").as_bytes()));
    let router = |tag: &str| [&[64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0][..], &option(tag)].concat();
    add("the gateway as a router", "router-advertisement", &|tag| icmp(cast.to_group(ALL_NODES).of(GATEWAY6), 134, &router(tag)));
    for to in [near6, far6, node6] {
        add("a router", "router-advertisement", &|tag| icmp(cast.right(to), 134, &router(tag)));
        add("a redirect", "redirect", &move |tag| icmp(cast.right(to), 137, &[&about(0, near6, tag)[..], &[0; 16]].concat()));
        add("another's neighbour", "neighbour", &move |tag| icmp(cast.right(to), 136, &about(0x60, near6, tag)));
        add("another neighbour", "neighbour", &move |tag| icmp(cast.right(to).of(far6), 136, &about(0x60, far6, tag)));
        add("an answer of DHCP", "dhcp-answer", &move |tag| udp(cast.right(to), 547, 546, format!("{tag} x").as_bytes()));
    }
    let nobody = cast.to_group(ALL_NODES).of(Ipv6Addr::UNSPECIFIED.into());
    add("a search for another's duplicate", "neighbour", &|tag| icmp(nobody, 135, &about(0, near6, tag)));
    all
}

/// Adds an attack: what it is, its reason, and the frame with a tag in it.
type Add<'a> = dyn FnMut(&'static str, &'static str, &dyn Fn(&str) -> Vec<u8>) + 'a;

fn arp_attacks(cast: &Cast, stranger: Mac, add: &mut Add<'_>) {
    let (IpAddr::V4(own), IpAddr::V4(near), IpAddr::V4(node), IpAddr::V4(gateway)) = (cast.own.0, cast.near.0, cast.node.0, GATEWAY) else {
        return;
    };
    let (station, to_node, to_all) = (cast.station, (cast.station, cast.gateway), (cast.station, BROADCAST));
    let nobody = Ipv4Addr::UNSPECIFIED;
    add("ARP asks as another", "arp", &|tag| arp(to_all, 1, (station, near), node, tag.as_bytes()));
    add("ARP answers as another", "arp", &|tag| arp(to_node, 2, (station, near), node, tag.as_bytes()));
    add("ARP answers as the gateway", "arp", &|tag| arp(to_all, 2, (station, gateway), gateway, tag.as_bytes()));
    add("ARP of another station inside", "arp", &|tag| arp(to_all, 1, (stranger, own), node, tag.as_bytes()));
    add("ARP of another station outside", "arp", &|tag| arp((stranger, BROADCAST), 1, (station, own), node, tag.as_bytes()));
    add("ARP probes another's address", "arp", &|tag| arp(to_all, 1, (station, nobody), near, tag.as_bytes()));
}

/// What a pod wraps as another node would: a datagram from that node's pod to the pod beside.
fn tunnelled(lab: &Lab, cast: &Cast) -> Result<Attack> {
    let station = |node: &str| stations::on_node(lab, node, "bowline.1");
    let tag = "wrap0001".to_owned();
    let inner = Ends { station: station("n2")?, to_station: station("n1")?, src: cast.far.0, dst: cast.near.0 };
    let wrapped = vxlan(1, &udp(inner, 4444, PORT, format!("{tag} x").as_bytes()));
    Ok(Attack { what: "a tunnel packet", reason: "tunnel", frame: udp(cast.right(cast.node.0), 4789, 8472, &wrapped), tag })
}

/// What the node has counted, by reason.
fn counted(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let page = lab.metrics("n1")?;
    let lines = page.lines().filter_map(|line| line.strip_prefix("bowline_pod_guard_dropped_packets_total{reason=\""));
    let counts: BTreeMap<String, u64> =
        lines.filter_map(|line| line.split_once("\"} ")).filter_map(|(reason, n)| Some((reason.to_owned(), n.parse().ok()?))).collect();
    ensure!(!counts.is_empty(), "no counts in {page}");
    Ok(counts)
}

fn counters_are(lab: &Lab, wanted: &BTreeMap<String, u64>) -> Result<()> {
    eventually(|| {
        let counts = counted(lab)?;
        ensure!(counts == *wanted, "counted {counts:?} instead of {wanted:?}");
        Ok(())
    })
}

/// What `bowline status` tells of it.
fn told(lab: &Lab) -> Result<String> {
    let status = lab.status()?;
    let n1 = status["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n1").context("no n1")?.clone();
    let dropped = n1["droppedAtPods"].as_object().context("no droppedAtPods")?.clone();
    for (reason, count) in counted(lab)? {
        ensure!(count == 0 || dropped.get(&reason).and_then(Value::as_u64) == Some(count), "{reason} is {count}: {dropped:?}");
    }
    Ok(dropped.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", "))
}

/// The node has learnt nothing: of the attacker's station it knows the attacker's own addresses, and of routers nothing.
fn unmoved(lab: &Lab, cast: &Cast) -> Result<()> {
    let station: Vec<String> = cast.station.iter().map(|byte| format!("{byte:02x}")).collect();
    let known = shell(lab, "n1", "ip -4 neigh; ip -6 neigh")?;
    let of_it = known.lines().filter(|line| line.contains(&station.join(":")) || line.contains("02:66:66:66:66:66"));
    for line in of_it {
        let address: IpAddr = line.split_whitespace().next().unwrap_or_default().parse().with_context(|| line.to_owned())?;
        ensure!(address == cast.own.0 || address == cast.own.1, "the node believes: {line}");
    }
    let routes = shell(lab, "n1", "ip -6 route show table all proto ra")?;
    ensure!(routes.is_empty(), "the node believes a router: {routes}");
    Ok(())
}

impl Stage {
    fn send(&mut self, frame: &[u8]) -> Result<()> {
        let sent = self.sender.ask(&format!("{TIMES} {}", hex(frame)))?;
        ensure!(sent == TIMES, "sent {sent}");
        Ok(())
    }

    /// How many of a tag came to each place; of the pods with their answers, if `all` are asked for.
    fn arrived(&mut self, tag: &str, all: bool) -> Result<[(&'static str, u64); 4]> {
        let (near, far) = (self.near.count(tag, all)?, self.far.count(tag, all)?);
        let far_node = self.far_node.ask(&format!("- {}", hex(tag.as_bytes())))?.as_u64().context("no number")?;
        let heard = self.node.ask("?")?[tag].as_u64().unwrap_or(0);
        Ok([("the pod beside", near), ("the pod of the other node", far), ("the other node", far_node), ("the node", heard)])
    }

    /// Sends what must arrive and waits until it has: whatever was sent before would have as well.
    fn markers(&mut self, tag: &str) -> Result<()> {
        let Cast { near, far, node, .. } = self.cast;
        for to in [near.0, near.1, far.0, far.1, node.0, node.1] {
            let frame = udp(self.cast.right(to), 4444, PORT, format!("{tag} x").as_bytes());
            self.send(&frame)?;
        }
        eventually(|| {
            let [(_, near), (_, far), (_, far_node), (_, node)] = self.arrived(tag, false)?;
            let all = 2 * TIMES;
            ensure!(
                near == all && far == all && far_node >= all && node == all,
                "near {near}, far {far}, {far_node}, node {node} of {all}"
            );
            Ok(())
        })
    }

    /// Sends what a pod may, and sees it arrive where it is to; gives how many forms there were.
    fn own_goes_on(&mut self) -> Result<usize> {
        let forms = own(&self.cast)?;
        for (_, _, frame, _) in &forms {
            self.send(frame)?;
        }
        for (what, tag, _, at) in &forms {
            eventually(|| {
                let [(_, near), (_, far), _, (_, node)] = self.arrived(tag, false)?;
                let seen = [(At::Near, near), (At::Far, far), (At::Node, node)];
                let wrong = seen.iter().find(|(place, count)| *count != if place == at { TIMES } else { 0 });
                ensure!(wrong.is_none(), "{what} for {at:?}: {seen:?}");
                Ok(())
            })?;
        }
        // The node answers ARP of the pod's own.
        let answer = [&[0, 2][..], &self.cast.gateway, &v4(self.cast.node.0)?.octets(), &self.cast.station, &v4(self.cast.own.0)?.octets()];
        let answer = hex(&answer.concat());
        eventually(|| {
            let count = self.own_tap.ask(&format!("- {answer}"))?.as_u64().context("no number")?;
            ensure!(count == TIMES, "{count} of {TIMES} requests of ARP were answered");
            Ok(())
        })?;
        Ok(forms.len())
    }
}

type Form = (&'static str, String, Vec<u8>, At);

/// What a pod may send.
fn own(cast: &Cast) -> Result<Vec<Form>> {
    let mut number = 0;
    let mut forms: Vec<Form> = Vec::new();
    let mut add = |what, at, make: &dyn Fn(&str) -> Vec<u8>| {
        number += 1;
        let tag = format!("own_{number:04}");
        forms.push((what, tag.clone(), make(&tag), at));
    };
    let Cast { near, far, node, .. } = *cast;
    for (to, at) in [(near.0, At::Near), (near.1, At::Near), (far.0, At::Far), (far.1, At::Far), (node.0, At::Node), (node.1, At::Node)] {
        add("a datagram", at, &|tag| udp(cast.right(to), 4444, PORT, format!("{tag} x").as_bytes()));
        let (client, server) = if to.is_ipv4() { (68, 67) } else { (546, 547) };
        add("a request of DHCP", at, &|tag| udp(cast.right(to), client, server, format!("{tag} x").as_bytes()));
    }
    for (to, kind) in [(near.0, 8), (near.1, 128)] {
        add("an echo", At::Near, &|tag| icmp(cast.right(to), kind, &[&[0, 1, 0, 1][..], tag.as_bytes()].concat()));
    }
    add("its own neighbour", At::Near, &|tag| icmp(cast.right(near.1), 136, &about(0x60, cast.own.1, tag)));
    let unspecified: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    add("a search for its own duplicate", At::Nowhere, &|tag| {
        icmp(cast.to_group(ALL_NODES).of(unspecified), 135, &about(0, cast.own.1, tag))
    });
    add("a report of groups", At::Nowhere, &|tag| {
        icmp(cast.to_group(REPORTS).of(unspecified), 143, &[&[0, 0, 0, 0][..], tag.as_bytes()].concat())
    });
    let discover = cast.right(Ipv4Addr::BROADCAST.into()).on(BROADCAST).of(Ipv4Addr::UNSPECIFIED.into());
    add("a first request of DHCP", At::Nowhere, &|tag| udp(discover, 68, 67, format!("{tag} x").as_bytes()));
    let (own, node4, station) = (v4(cast.own.0)?, v4(node.0)?, cast.station);
    let nobody = Ipv4Addr::UNSPECIFIED;
    add("ARP asks for the node", At::Nowhere, &|tag| arp((station, BROADCAST), 1, (station, own), node4, tag.as_bytes()));
    add("ARP announces", At::Nowhere, &|tag| arp((station, BROADCAST), 1, (station, own), own, tag.as_bytes()));
    add("ARP probes", At::Nowhere, &|tag| arp((station, BROADCAST), 1, (station, nobody), own, tag.as_bytes()));
    Ok(forms)
}

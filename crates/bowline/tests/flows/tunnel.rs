//! What somebody else wraps as a node would, from the nodes' own network and from beyond it. VXLAN signs nothing: who forges a node's address,
//! that node's station and an address of that node's own is that node. Everything less ends at the node that it comes to.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::common::cluster::{nodes, pods};
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::idle;
use crate::common::rows::Bench;
use crate::common::stations;
use crate::common::wire::{Ends, Mac, hex, udp, vxlan};

/// Where the node hears plain datagrams.
const PORT: u16 = 7998;
const VXLAN: u16 = 8472;
const VNI: u8 = 1;
const PODS: [&str; 3] = ["tunnel-1", "tunnel-2", "tunnel-3"];

/// Everybody's addresses by family, and the tunnels' stations; by node.
struct Cast {
    nodes: Vec<[IpAddr; 2]>,
    pods: Vec<[IpAddr; 2]>,
    stations: Vec<Mac>,
}

/// Somebody who sends to n1 what they wrap.
struct Forger {
    who: &'static str,
    frames: Generator,
    station: Mac,
    to_station: Mac,
}

/// A wrapped packet: from which address, in which network, and what is in it.
struct Wrapped {
    what: &'static str,
    outer: IpAddr,
    vni: u8,
    station: Mac,
    source: [IpAddr; 2],
}

fn cast(lab: &Lab) -> Result<Cast> {
    let mut cast = Cast { nodes: Vec::new(), pods: Vec::new(), stations: Vec::new() };
    for (number, name) in (1..).zip(PODS) {
        let node = format!("n{number}");
        let of = nodes(lab)?.into_iter().find(|of| of.name == node).context("no such node")?;
        let pod = pods(lab, &format!("app={name}"))?.into_iter().next().context("no such pod")?;
        cast.nodes.push([of.ip(false)?, of.ip(true)?]);
        cast.pods.push([pod.ip(false)?, pod.ip(true)?]);
        cast.stations.push(stations::on_node(lab, &node, "bowline.1")?);
    }
    Ok(cast)
}

/// What must not come through.
fn attacks(cast: &Cast) -> Result<Vec<Wrapped>> {
    let [n1, n2, n3] = [cast.nodes[0], cast.nodes[1], cast.nodes[2]];
    let [p1, p2, p3] = [cast.pods[0], cast.pods[1], cast.pods[2]];
    let (second, nobody): (Mac, Mac) = (cast.stations[1], [2, 0x66, 0x66, 0x66, 0x66, 0x66]);
    let right = |what, outer| Wrapped { what, outer, vni: VNI, station: second, source: p2 };
    let inside = |what, source| Wrapped { what, outer: n2[0], vni: VNI, station: second, source };
    Ok(vec![
        right("a stranger of the nodes' network", "192.168.200.99".parse()?),
        right("the outside", "8.8.8.8".parse()?),
        right("a pod", p2[0]),
        right("the node itself", n1[0]),
        inside("a third node's pod", p3),
        inside("a third node", n3),
        inside("a pod of the node", p1),
        inside("the node itself inside", n1),
        Wrapped { what: "a station of nobody's", station: nobody, ..right("", n2[0]) },
        Wrapped { what: "the node's own station", station: cast.stations[0], ..right("", n2[0]) },
        Wrapped { what: "another network's number", vni: VNI + 1, ..right("", n2[0]) },
    ])
}

pub(crate) fn strangers_come_to_nobody(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let all = PODS.iter().zip(["n1", "n2", "n3"]).map(|(name, node)| idle(name, node, name)).collect::<Result<Vec<_>>>()?;
    lab.apply_objects(&all)?;
    lab.settled()?;
    let cast = cast(lab)?;
    let first = cast.nodes[0][0].to_string();
    said(&lab.client(&["ping", "-c", "1", "-W", "5", &first])?).context("the outside does not reach n1")?;
    let own = stations::outside(lab)?;
    let mut forgers = [
        Forger {
            who: "beside",
            frames: Generator::on_node(lab, "n3", &["frames"])?,
            station: stations::on_node(lab, "n3", "eth0")?,
            to_station: stations::on_node(lab, "n1", "eth0")?,
        },
        Forger { who: "outside", frames: Generator::outside(lab, &["frames"])?, station: own.0, to_station: own.1 },
    ];
    let mut pod = Generator::in_pod(lab, PODS[0], &["tap"])?;
    let mut node = Generator::on_node(lab, "n1", &["hear", &PORT.to_string()])?;
    let mut sent = Vec::new();
    for forger in &mut forgers {
        for wrapped in attacks(&cast)? {
            sent.extend(forger.send(&cast, &wrapped, &mut sent.len())?);
        }
    }
    // The same from a node's address, with all of that node's, does come in: whatever was sent before would have as well.
    let right = Wrapped { what: "all of a node's", outer: cast.nodes[1][0], vni: VNI, station: cast.stations[1], source: cast.pods[1] };
    for forger in &mut forgers {
        for (tag, what) in forger.send(&cast, &right, &mut 9000)? {
            eventually(|| {
                let (seen, heard) = arrived(&mut pod, &mut node, &tag)?;
                // Of the pod's link also its answer, that nobody is there.
                ensure!(seen + heard > 0, "{what}: {seen} came to the pod, {heard} to the node");
                Ok(())
            })?;
        }
    }
    for (tag, what) in &sent {
        let (seen, heard) = arrived(&mut pod, &mut node, tag)?;
        ensure!(seen == 0 && heard == 0, "{what}: {seen} came to the pod, {heard} to the node");
    }
    drop((forgers, pod, node));
    lab.delete("pod", &PODS)?;
    Ok(format!("{} packets wrapped beside the nodes and outside: 0 came to a pod or the node", sent.len()))
}

/// How many with a tag came to the pod's link, and to the node's own socket.
fn arrived(pod: &mut Generator, node: &mut Generator, tag: &str) -> Result<(u64, u64)> {
    let seen = pod.ask(&format!("- {}", hex(tag.as_bytes())))?.as_u64().context("no number")?;
    Ok((seen, node.ask("?")?[tag].as_u64().unwrap_or(0)))
}

impl Forger {
    /// Sends it with datagrams for a pod and for the node in it, of both families; their tags, and what they are.
    fn send(&mut self, cast: &Cast, wrapped: &Wrapped, number: &mut usize) -> Result<Vec<(String, String)>> {
        let mut sent = Vec::new();
        for family in 0..2 {
            for to in [cast.pods[0][family], cast.nodes[0][family]] {
                *number += 1;
                let tag = format!("{}{number:04}", &self.who[..4]);
                let inner = Ends { station: wrapped.station, to_station: cast.stations[0], src: wrapped.source[family], dst: to };
                let inner = vxlan(wrapped.vni, &udp(inner, 4444, PORT, format!("{tag} x").as_bytes()));
                let outer = Ends { station: self.station, to_station: self.to_station, src: wrapped.outer, dst: cast.nodes[0][0] };
                self.frames.ask(&format!("1 {}", hex(&udp(outer, 4789, VXLAN, &inner))))?;
                sent.push((tag, format!("{} from {} for {to}", wrapped.what, self.who)));
            }
        }
        Ok(sent)
    }
}

//! Datagrams larger than a link takes arrive whole by a service. Fragments and packets with extension headers are judged as the rest of their
//! flow: what a denied pod sends in any of these forms comes to nobody, beside an allowed one whose every form arrives.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::common::cluster::{Pod, cluster_ip, nodes, pods};
use crate::common::generator::{Generator, counts};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;
use crate::common::stations;
use crate::common::wire::{Ends, HOP_BY_HOP, Mac, OPTIONS, behind, hex, in_pieces, syn, udp};

const SERVER: &str = "pieces";
const FRIEND: &str = "pieces-friend";
/// One on the server's node, one on another.
const DENIED: [&str; 2] = ["pieces-near", "pieces-far"];

/// Where every form is sent from.
const FROM: u16 = 4444;
const NODE_PORT: u16 = 30_791;

/// More than any link takes, and more than two pieces.
const SIZES: [u64; 2] = [4000, 20_000];

/// Packets that the programs at links must have carried before anything else is tried.
const WARM: u64 = 20;

pub(crate) fn arrive_where_they_may(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server(SERVER, "n2", SERVER)?,
        idle(FRIEND, "n1", FRIEND)?,
        idle(DENIED[0], "n2", "pieces-denied")?,
        idle(DENIED[1], "n1", "pieces-denied")?,
        service(SERVER, SERVER, Some(NODE_PORT)),
    ])?;
    lab.settled()?;
    let large = large_ones(lab)?;
    lab.apply_objects(&[ingress_policy(SERVER, SERVER, Some(FRIEND))])?;
    lab.settled()?;
    let mut told = Vec::new();
    for v6 in lab.families() {
        told.push(of_family(lab, v6)?);
    }
    lab.delete("networkpolicy", &[SERVER])?;
    lab.delete("pod", &[SERVER, FRIEND, DENIED[0], DENIED[1]])?;
    lab.delete("service", &[SERVER])?;
    Ok(format!("{large} of up to {} bytes came back whole; {}", SIZES[1], told.join("; ")))
}

/// Large datagrams of a pod, a node and the outside, and their answers; how many there were.
fn large_ones(lab: &Lab) -> Result<usize> {
    let n1 = nodes(lab)?.into_iter().find(|node| node.name == "n1").context("no n1")?;
    let mut count = 0;
    for v6 in lab.families() {
        let inside = SocketAddr::new(cluster_ip(lab, SERVER, "default", v6)?, PORT).to_string();
        let outside = SocketAddr::new(n1.ip(v6)?, NODE_PORT).to_string();
        let places = [
            (&inside, Generator::in_pod(lab, FRIEND, &["parcels", &inside])?),
            (&inside, Generator::on_node(lab, "n3", &["parcels", &inside])?),
            (&outside, Generator::outside(lab, &["parcels", &outside])?),
        ];
        for (target, mut parcels) in places {
            for bytes in SIZES {
                // Pieces that fit the client's link may be too large for the tunnel, which the client is told by the first.
                eventually(|| {
                    let back = parcels.ask(&format!("large {bytes}"))?;
                    ensure!(back == json!({"by": SERVER, "from": target, "whole": true}), "{bytes} bytes to {target}: {back}");
                    Ok(())
                })?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// A pod that sends frames.
struct Sender {
    frames: Generator,
    station: Mac,
    gateway: Mac,
    own: IpAddr,
}

impl Sender {
    fn in_pod(lab: &Lab, name: &str, v6: bool) -> Result<Sender> {
        let all = pods(lab, &format!("app={}", if name == FRIEND { FRIEND } else { "pieces-denied" }))?;
        let pod = all.into_iter().find(|pod: &Pod| pod.name == name).with_context(|| format!("no {name}"))?;
        Ok(Sender {
            frames: Generator::in_pod(lab, name, &["frames"])?,
            station: stations::of_pod(lab, name)?,
            gateway: stations::gateway_of(lab, name)?,
            own: pod.ip(v6)?,
        })
    }

    fn ends(&self, to: IpAddr) -> Ends {
        Ends { station: self.station, to_station: self.gateway, src: self.own, dst: to }
    }

    fn send(&mut self, form: &Form) -> Result<()> {
        for frame in &form.frames {
            self.frames.ask(&format!("1 {}", hex(frame)))?;
        }
        Ok(())
    }
}

/// Where a packet of an allowed pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The server's socket takes it as a datagram.
    Heard,
    /// It comes to the server's link.
    Seen,
    /// The kernel takes it from nobody (RFC 8200, 4.5: the first fragment has all headers).
    Never,
}

/// A packet in one form.
struct Form {
    what: &'static str,
    tag: String,
    frames: Vec<Vec<u8>>,
    end: End,
}

fn forms(ends: Ends, whose: &str) -> Vec<Form> {
    let mut all: Vec<Form> = Vec::new();
    let mut add = |what, end, make: &dyn Fn(&str, u8) -> Vec<Vec<u8>>| {
        let number = u8::try_from(all.len() + 1).unwrap_or(u8::MAX);
        let tag = format!("{whose}{number:02}");
        all.push(Form { what, frames: make(&tag, number), tag, end });
    };
    // The tag in the first piece and in the last.
    let long = |tag: &str| udp(ends, FROM, PORT, format!("{tag} {} {tag}", "x".repeat(1100)).as_bytes());
    let ask = |tag: &str| syn(ends, FROM, PORT, format!("{tag} {} {tag}", "x".repeat(40)).as_bytes());
    let v6 = ends.src.is_ipv6();
    add("a whole one", End::Heard, &|tag, _| vec![long(tag)]);
    add("in two", End::Heard, &|tag, id| in_pieces(&long(tag), id, &[0, 608]));
    add("in three, the last first", End::Heard, &|tag, id| in_pieces(&long(tag), id, &[0, 400, 800]).into_iter().rev().collect());
    add("a first piece of eight bytes", End::Heard, &|tag, id| in_pieces(&long(tag), id, &[0, 8]));
    add("a SYN in two", End::Seen, &|tag, id| in_pieces(&ask(tag), id, &[0, 32]));
    let end = if v6 { End::Never } else { End::Seen };
    add("a SYN with a first piece of eight bytes", end, &|tag, id| in_pieces(&ask(tag), id, &[0, 8]));
    if v6 {
        add("a fragment that is all", End::Heard, &|tag, id| in_pieces(&long(tag), id, &[0]));
        add("hop-by-hop options", End::Heard, &|tag, _| vec![behind(&long(tag), HOP_BY_HOP)]);
        add("destination options", End::Heard, &|tag, _| vec![behind(&long(tag), OPTIONS)]);
        add("both options", End::Heard, &|tag, _| vec![behind(&behind(&long(tag), OPTIONS), HOP_BY_HOP)]);
        let pieces = |tag: &str, id| in_pieces(&long(tag), id, &[0, 608]);
        add("in two with hop-by-hop options", End::Heard, &|tag, id| {
            pieces(tag, id).iter().map(|piece| behind(piece, HOP_BY_HOP)).collect()
        });
        add("options in the first piece", End::Heard, &|tag, id| in_pieces(&behind(&long(tag), OPTIONS), id, &[0, 16]));
        add("options alone in the first piece", End::Never, &|tag, id| in_pieces(&behind(&long(tag), OPTIONS), id, &[0, 8]));
        add("a SYN behind options", End::Seen, &|tag, _| vec![behind(&ask(tag), OPTIONS)]);
    }
    all
}

fn of_family(lab: &Lab, v6: bool) -> Result<String> {
    let server = pods(lab, &format!("app={SERVER}"))?.into_iter().next().context("no server")?;
    let (direct, service) = (server.ip(v6)?, cluster_ip(lab, SERVER, "default", v6)?);
    let mut friend = Sender::in_pod(lab, FRIEND, v6)?;
    let mut denied = DENIED.iter().map(|name| Sender::in_pod(lab, name, v6)).collect::<Result<Vec<_>>>()?;
    warm(lab, &mut friend, direct, if v6 { "warm6" } else { "warm4" })?;
    let mut tap = Generator::in_pod(lab, SERVER, &["tap"])?;
    let mut attempts = Vec::new();
    for (place, to) in [("d", direct), ("s", service)] {
        for (index, sender) in denied.iter_mut().enumerate() {
            for form in forms(sender.ends(to), &format!("{place}{index}{}", u8::from(v6))) {
                sender.send(&form)?;
                attempts.push(form);
            }
        }
    }
    let mut arrived = 0;
    for (place, to) in [("d", direct), ("s", service)] {
        for form in forms(friend.ends(to), &format!("{place}f{}", u8::from(v6))) {
            friend.send(&form)?;
            eventually(|| {
                let (seen, heard) = (seen(&mut tap, form.tag.as_bytes())?, counts(lab, SERVER, &form.tag)?);
                let right = match form.end {
                    End::Heard => heard == 1,
                    End::Seen => seen > 0,
                    End::Never => seen == 0,
                };
                ensure!(right, "{} of an allowed pod to {to}: {seen} frames came, {heard} datagrams were heard", form.what);
                Ok(())
            })?;
            arrived += usize::from(form.end != End::Never);
        }
    }
    for form in &attempts {
        let (seen, heard) = (seen(&mut tap, form.tag.as_bytes())?, counts(lab, SERVER, &form.tag)?);
        ensure!(seen == 0 && heard == 0, "{} of a denied pod: {seen} frames came, {heard} datagrams were heard", form.what);
    }
    for sender in &denied {
        let from = seen(&mut tap, &octets(sender.own, direct))?;
        ensure!(from == 0, "{from} frames of {} came to {direct}", sender.own);
    }
    Ok(format!("{}: {arrived} of an allowed pod came, 0 of {} of denied ones", if v6 { "IPv6" } else { "IPv4" }, attempts.len()))
}

/// Source and destination as they stand in a header.
fn octets(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let of = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    [of(source), of(destination)].concat()
}

fn seen(tap: &mut Generator, part: &[u8]) -> Result<u64> {
    tap.ask(&format!("- {}", hex(part)))?.as_u64().context("no number")
}

/// An allowed flow on the same ports, until it is carried past the stack where there is what carries it.
fn warm(lab: &Lab, friend: &mut Sender, to: IpAddr, tag: &str) -> Result<()> {
    let frame = udp(friend.ends(to), FROM, PORT, format!("{tag} x").as_bytes());
    let carried = || if lab.setup.is_ebpf() { lab.metric("n2", "bowline_fastpath_packets_total") } else { Ok(0) };
    let (before, mut sent) = (carried()?, 0);
    eventually(|| {
        friend.frames.ask(&format!("{WARM} {}", hex(&frame)))?;
        sent += WARM;
        let heard = counts(lab, SERVER, tag)?;
        ensure!(heard == sent, "{heard} of {sent} datagrams of an allowed pod were heard");
        ensure!(!lab.setup.is_ebpf() || carried()? >= before + WARM, "the allowed flow is not carried yet");
        Ok(())
    })
}

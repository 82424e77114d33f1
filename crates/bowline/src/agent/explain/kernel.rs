//! What is in this node's kernel, asked about the packets of an explanation.
//!
//! The table is read back and the packets are taken through it by the interpreter, so that what answers is the rules as they are in force,
//! not those that are wanted. Where programs translate at the socket, their maps are asked before it, as for a new connection.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_compile::explain::{At, Cause, Entry, Explanation, Hop, Outcome, Seen, Sent};
use bowline_dataplane::fabric;
use bowline_dataplane::interpret::sockets::{self, Socket};
use bowline_dataplane::interpret::{self, End, LeadsTo, Packet, Table};
use bowline_dataplane::policy::nftables::Reason;
use bowline_dataplane::stop::{Stop, stop};
use bowline_kernel::nft::NftDriver;
use bowline_model::Family;
use bowline_model::intent::Intent;
use bowline_model::intent::pods::PodIntent;
use bowline_model::intent::policy::Tier;
use bowline_model::intent::routes::FabricNode;

use crate::agent::apply::Applied;

/// Adds the kernel's verdicts for what this node decides.
pub(super) fn ask(explanation: &mut Explanation, node: &str, applied: &Applied) {
    let sent = explanation.protocol;
    let mut kernel: Option<Result<Kernel<'_>, String>> = None;
    for path in &mut explanation.paths {
        for (hop, seen) in path.hops.iter().zip(&mut path.seen) {
            if hop.node != node {
                continue;
            }
            seen.asked = true;
            match kernel.get_or_insert_with(|| Kernel::read(applied)) {
                Ok(kernel) => kernel.judge(hop, sent, seen),
                Err(why) => seen.by.clone_from(why),
            }
        }
    }
}

/// The table as it is in the kernel, and what a packet needs beside it.
struct Kernel<'a> {
    table: Table,
    applied: &'a Applied,
    local: BTreeSet<IpAddr>,
}

impl<'a> Kernel<'a> {
    fn read(applied: &'a Applied) -> Result<Kernel<'a>, String> {
        let wanted = bowline_dataplane::lower(&Intent::default(), &applied.intent, &applied.host).value.nft.set;
        let snapshot = NftDriver::open().and_then(|mut driver| driver.snapshot(&wanted)).map_err(|error| error.to_string())?;
        if let Some(chain) = snapshot.strange.first() {
            return Err(format!("chain {chain} holds rules that are not ours"));
        }
        let local = applied.host.links.iter().flat_map(|link| link.addresses.iter().map(|net| net.addr())).collect();
        Ok(Kernel { table: Table::from_objects(&snapshot.objects), applied, local })
    }

    fn judge(&mut self, hop: &Hop, sent: Sent, seen: &mut Seen) {
        let Some((dst, choices)) = self.sent_to(hop, sent, seen) else { return };
        // Each choice in turn, as the kernel's random number would make it.
        let choices = u32::try_from(choices).unwrap_or(u32::MAX);
        for choice in 0..choices {
            let Some(mut packet) = self.packet(hop, dst, sent) else {
                seen.by = "the pod is not attached here".to_owned();
                return;
            };
            let middle = (u64::from(choice) * 2 + 1) * (1 << 31) / u64::from(choices);
            packet.random = u32::try_from(middle).unwrap_or(u32::MAX);
            let (applied, local) = (self.applied, &self.local);
            let outcome = interpret::through(&mut self.table, &mut packet, |ip| leads_to(applied, local, ip));
            let arrived = (packet.dst, hop.dst.1.map(|_| packet.dst_port));
            if arrived == hop.onward || (arrived == hop.dst && !outcome.passes()) {
                let stopped = match outcome.end {
                    End::Accept => return seen.kernel = Some(Outcome::Pass),
                    End::Fault(fault) => return seen.by = fault.to_string(),
                    End::Drop => Outcome::Drop,
                    End::Reset | End::Unreachable => Outcome::Reject,
                };
                (seen.kernel, seen.kernel_by) = (Some(stopped), Some(cause(stop(&applied.intent.policy, outcome.by.as_ref()))));
                seen.by = outcome.by.map(|(chain, says)| says.unwrap_or(chain).to_string()).unwrap_or_default();
                return;
            }
        }
        differs(seen, "its services lead elsewhere");
    }

    /// Where a packet is sent to, and among how many the rules choose then; none where it is judged at the socket already.
    fn sent_to(&self, hop: &Hop, sent: Sent, seen: &mut Seen) -> Option<(At, usize)> {
        match self.at_socket(hop, sent) {
            Ok(Socket::AsItIs) => return Some((hop.dst, hop.choices.max(1))),
            Ok(Socket::To(endpoints)) => {
                let endpoints: BTreeSet<At> = endpoints.into_iter().map(|endpoint| (endpoint.address, Some(endpoint.port))).collect();
                if endpoints.len() == hop.choices && endpoints.contains(&hop.onward) {
                    return Some((hop.onward, 1));
                }
                differs(seen, "its socket maps lead elsewhere");
            }
            Ok(Socket::Refused) => {
                (seen.kernel, seen.kernel_by) = (Some(Outcome::Reject), Some(Cause::NoEndpoint));
                "its socket maps".clone_into(&mut seen.by);
            }
            Err(error) => seen.by = format!("socket maps: {error}"),
        }
        None
    }

    /// What becomes of a new socket of the node or of a pod of it, before there is a packet.
    fn at_socket(&self, hop: &Hop, sent: Sent) -> io::Result<Socket> {
        let on_node = match &hop.entry {
            Entry::OwnNode => true,
            Entry::Pod => false,
            Entry::Fabric(_) | Entry::Outside => return Ok(Socket::AsItIs),
        };
        let ((address, Some(port)), true) = (hop.dst, self.applied.socket_hooks) else { return Ok(Socket::AsItIs) };
        let protocol = sent.number(Family::of(&address));
        let found = self.applied.socket_maps.readers.ask(|readers| readers.lookup.find(address, protocol, port, on_node));
        Ok(sockets::connect(&found.transpose()?.unwrap_or_default(), address, protocol, port, on_node))
    }

    /// The packet as it comes in, for where its socket sends it.
    fn packet(&self, hop: &Hop, (to, port): At, sent: Sent) -> Option<Packet> {
        let mut packet = Packet::new(hop.src, to, sent.number(Family::of(&to)), port.unwrap_or_default());
        packet.local_addresses.clone_from(&self.local);
        match &hop.entry {
            Entry::Pod => {
                let pod = pod_at(self.applied, &hop.src)?;
                packet.iif = pod.host_ifname.to_string();
                packet.ether_src = Some(pod.mac);
            }
            Entry::OwnNode => {}
            Entry::Outside => packet.iif = uplink(self.applied),
            Entry::Fabric(from) => {
                let peers = &self.applied.intent.routes.peers;
                let peer = peers.iter().find(|(name, _)| name.as_str() == from).map(|(_, peer)| peer);
                packet.iif = peer.map_or_else(String::new, |peer| link_to(self.applied, peer, &hop.src));
                packet.ether_src = peer.map(|peer| peer.vtep_mac);
            }
        }
        Some(packet)
    }
}

/// Notes that the kernel does something else than whatever was explained.
fn differs(seen: &mut Seen, why: &str) {
    let other = if seen.explained == Outcome::Reject { Outcome::Drop } else { Outcome::Reject };
    (seen.kernel, seen.kernel_by, seen.by) = (Some(other), Some(Cause::Other), why.to_owned());
}

/// The kind of thing that an explanation would call it.
fn cause(stop: Stop<'_>) -> Cause {
    match stop {
        Stop::Denied(denial) => match denial.reason() {
            Reason::NoRule => Cause::policies(denial.direction()),
            Reason::Admin => Cause::tier(Tier::Admin, denial.direction()),
            Reason::Baseline => Cause::tier(Tier::Baseline, denial.direction()),
            Reason::Closed => Cause::closed(denial.direction()),
            Reason::Loopback => Cause::Other,
        },
        Stop::NoEndpoint => Cause::NoEndpoint,
        Stop::NoLocalEndpoint => Cause::NoLocalEndpoint,
        Stop::NotASource => Cause::SourceRanges,
        Stop::Tunnel => Cause::Tunnel,
        Stop::Other => Cause::Other,
    }
}

fn pod_at<'a>(applied: &'a Applied, ip: &IpAddr) -> Option<&'a Arc<PodIntent>> {
    applied.intent.pods.pods.values().find(|pod| pod.ips.contains(ip))
}

fn leads_to(applied: &Applied, local: &BTreeSet<IpAddr>, ip: &IpAddr) -> LeadsTo {
    if local.contains(ip) || ip.is_loopback() {
        return LeadsTo::Node;
    }
    if let Some(pod) = pod_at(applied, ip) {
        return LeadsTo::Link(pod.host_ifname.to_string());
    }
    let peer = applied.intent.routes.peers.values().find(|peer| peer.pod_cidrs.iter().any(|net| net.contains(ip)));
    LeadsTo::Link(peer.map_or_else(|| uplink(applied), |peer| link_to(applied, peer, ip)))
}

/// The link that the nodes' own addresses are on.
fn uplink(applied: &Applied) -> String {
    let host = &applied.host;
    host.default_link.clone().or_else(|| host.links.first().map(|link| link.name.clone())).map_or_else(String::new, |name| name.to_string())
}

/// The link between this node and a peer's pods, for the address's family; no link where there is no way.
fn link_to(applied: &Applied, peer: &FabricNode, ip: &IpAddr) -> String {
    let link = fabric::link_to(&applied.intent.routes, &applied.host, peer, Family::of(ip));
    link.map_or_else(String::new, |link| link.to_string())
}

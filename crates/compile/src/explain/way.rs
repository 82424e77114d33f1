//! The way of a packet, station by station, over as many nodes as it takes.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::pods::HostPort;
use bowline_model::intent::routes::BackendConf;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, WhenEmpty};
use bowline_model::{Family, NodeName, Protocol, ServiceName};

use super::Explainer;
use super::check;
use super::ends::{Place, PlaceKind, place_at};
use super::judge::judge;
use super::question::Sent;
use super::told::{At, Cause, EndTold, Entry, Hop, Outcome, Path, Step};
use super::view::View;
use crate::policy::{Packet, Side};

/// One source, on its way to several targets.
pub(super) struct Walk<'e> {
    pub(super) explainer: &'e mut Explainer,
    pub(super) source: &'e Place,
    pub(super) src: IpAddr,
    pub(super) sent: Sent,
    /// What comes before the packet.
    pub(super) preface: Option<&'e str>,
}

/// What has happened so far.
#[derive(Debug, Clone)]
struct Trail {
    steps: Vec<Step>,
    hops: Vec<Hop>,
    pass_if: Vec<Vec<String>>,
    outcome: Outcome,
    /// What stopped it, as far as that is known to nodes' kernels.
    cause: Option<Cause>,
    /// How often it went from one node to another.
    crossings: u8,
}

/// From its source to a node port's node, and from there to an endpoint's: nothing goes further.
const CROSSINGS_MAX: u8 = 2;

/// A packet as it comes to a node.
#[derive(Debug, Clone)]
struct Arrival {
    view: Arc<View>,
    entry: Entry,
    src: IpAddr,
    dst: At,
}

/// What a node's services make of a packet.
enum Translated {
    /// Nothing: it is none of a service's.
    Not,
    /// It goes to one of these, by what is said.
    To(String, Vec<Endpoint>),
    /// It ends here.
    Ended((Outcome, Cause), String, Option<String>),
}

impl Trail {
    fn add(&mut self, node: &NodeName, what: impl Into<String>, verdict: Option<Outcome>, text: impl Into<String>) {
        let step = Step {
            node: node.to_string(),
            what: what.into(),
            verdict,
            reached: self.outcome == Outcome::Pass,
            text: text.into(),
            details: Vec::new(),
            policies: Vec::new(),
        };
        if self.outcome == Outcome::Pass {
            self.outcome = verdict.unwrap_or(Outcome::Pass);
        }
        self.steps.push(step);
    }

    /// Adds a step that stops it.
    fn stop(&mut self, node: &NodeName, what: &str, (outcome, cause): (Outcome, Cause), text: impl Into<String>) {
        if self.outcome == Outcome::Pass {
            self.cause = Some(cause);
        }
        self.add(node, what, Some(outcome), text);
    }

    fn policy(&mut self, node: &NodeName, what: &str, side: Side) {
        match side.cause {
            Some(cause) => self.stop(node, what, (side.outcome, cause), side.text),
            None => self.add(node, what, Some(side.outcome), side.text),
        }
        if let Some(step) = self.steps.last_mut() {
            (step.details, step.policies) = (side.details, side.policies);
        }
        if side.outcome != Outcome::Pass && !side.pass_if.is_empty() {
            self.pass_if.push(side.pass_if);
        }
    }

    /// Notes what a node did with the packet, if it came there at all.
    fn hop(&mut self, arrival: &Arrival, onward: At, choices: usize, reached: bool) {
        if reached {
            let Arrival { view, entry, src, dst } = arrival;
            let (node, entry) = (view.node.to_string(), entry.clone());
            self.hops.push(Hop { node, entry, src: *src, dst: *dst, onward, choices, outcome: self.outcome, cause: self.cause });
        }
    }
}

impl Walk<'_> {
    /// The paths to a target: one, or one for each endpoint where it is a service's.
    pub(super) fn to(&mut self, dst: At) -> Vec<Path> {
        let target = place_at(&self.explainer.world, dst.0);
        let own = self.explainer.world.settings().node_name.clone();
        let (entry, first) = match self.source.kind {
            PlaceKind::Pod => (Entry::Pod, self.source.node.clone()),
            PlaceKind::Node => (Entry::OwnNode, self.source.node.clone()),
            // Routes from outside lead to the node that has the address.
            PlaceKind::Outside | PlaceKind::Vacant => (Entry::Outside, target.node.clone()),
        };
        let view = self.explainer.view(&first.unwrap_or(own));
        let mut trail =
            Trail { steps: Vec::new(), hops: Vec::new(), pass_if: Vec::new(), outcome: Outcome::Pass, cause: None, crossings: 0 };
        match entry {
            Entry::Pod => trail.add(&view.node, "source check", Some(Outcome::Pass), format!("{} is its own address", self.src)),
            Entry::OwnNode => trail.add(&view.node, "source", None, "a process in the node's own network"),
            Entry::Fabric(_) | Entry::Outside => trail.add(&view.node, "source check", Some(Outcome::Pass), "from outside of the cluster"),
        };
        if let Some(preface) = self.preface {
            trail.add(&view.node, "name", None, preface);
        }
        self.at_node(Arrival { view, entry, src: self.src, dst }, trail)
    }

    /// What a node does with a packet, and everything after that.
    fn at_node(&mut self, arrival: Arrival, trail: Trail) -> Vec<Path> {
        let Arrival { view, entry, src, dst } = &arrival;
        let reached = trail.outcome == Outcome::Pass;
        match self.translate(view, entry, *src, *dst) {
            Translated::Not => self.judged(&arrival, *dst, 0, trail),
            Translated::To(by, endpoints) => {
                let choices = endpoints.len();
                let each = endpoints.into_iter().flat_map(|endpoint| {
                    let mut trail = trail.clone();
                    let onward = (endpoint.ip, Some(endpoint.port));
                    let share = if choices > 1 { format!(", one of {choices}") } else { String::new() };
                    let text = format!("{} -> {} ({by}{share})", socket(*dst), socket(onward));
                    trail.add(&view.node, "service", None, text);
                    self.judged(&arrival, onward, choices, trail)
                });
                each.collect()
            }
            Translated::Ended(stopped, text, pass_if) => {
                let mut trail = trail;
                trail.stop(&view.node, "service", stopped, text);
                trail.pass_if.extend(pass_if.map(|way| vec![way]));
                trail.hop(&arrival, *dst, 0, reached);
                vec![self.path(trail, *dst)]
            }
        }
    }

    /// The node's policies, and where the packet goes then.
    fn judged(&mut self, arrival: &Arrival, onward: At, choices: usize, mut trail: Trail) -> Vec<Path> {
        let Arrival { view, entry, src, .. } = arrival;
        let reached = trail.outcome == Outcome::Pass;
        let packet = Packet { src: *src, dst: onward.0, sent: self.sent, port: onward.1 };
        let judged = judge(&view.world, &packet, *entry == Entry::OwnNode);
        // The steps are in the order of the kernel's hooks, so that the first to stop it is the one that does.
        let strange = is_strange_tunnel(view, entry, *src, onward, self.sent);
        if strange {
            let stopped = (Outcome::Drop, Cause::Tunnel);
            trail.stop(&view.node, "tunnel", stopped, "the node takes tunnel packets from other nodes alone");
            trail.pass_if.push(vec![format!("the backend's port were another than {}", onward.1.unwrap_or_default())]);
        }
        if let Some(side) = judged.egress {
            trail.policy(&view.node, "egress policy", side);
        }
        let target = place_at(&view.world, onward.0);
        if let Some(side) = judged.ingress {
            trail.policy(&view.node, "ingress policy", side);
            trail.hop(arrival, onward, choices, reached);
            return vec![self.path(trail, onward)];
        }
        trail.hop(arrival, onward, choices, reached);
        if strange {
            return vec![self.path(trail, onward)];
        }
        match (target.kind, target.node) {
            (PlaceKind::Node, Some(node)) if node == view.node => {
                trail.add(&view.node, "node", Some(Outcome::Pass), "to a process of the node: policies end here");
                vec![self.path(trail, onward)]
            }
            (PlaceKind::Pod, Some(node)) if node == view.node => {
                trail.add(&view.node, "pod", Some(Outcome::Reject), format!("{} is not attached to the node's network (yet)", target.name));
                vec![self.path(trail, onward)]
            }
            (PlaceKind::Pod | PlaceKind::Node, Some(node)) => {
                let src = self.source_onward(arrival, onward, choices, target.kind, &mut trail);
                self.across(arrival, src, &node, onward, trail)
            }
            (PlaceKind::Vacant, _) => {
                trail.add(&view.node, "route", Some(Outcome::Reject), format!("no pod has {}: unreachable", onward.0));
                trail.pass_if.push(vec![format!("a pod had {}", onward.0)]);
                vec![self.path(trail, onward)]
            }
            (PlaceKind::Pod | PlaceKind::Node | PlaceKind::Outside, _) => {
                trail.add(&view.node, "outside", Some(Outcome::Pass), self.leaving(view, onward.0));
                vec![self.path(trail, onward)]
            }
        }
    }

    /// Over the fabric, or from node to node, and in at the other end.
    fn across(&mut self, from: &Arrival, src: IpAddr, node: &NodeName, onward: At, mut trail: Trail) -> Vec<Path> {
        let Arrival { view, entry, .. } = from;
        if trail.crossings == CROSSINGS_MAX {
            trail.add(&view.node, "route", Some(Outcome::Reject), format!("the nodes do not agree on who has {}", onward.0));
            trail.pass_if.push(vec![format!("the status of the pods said who has {}", onward.0)]);
            return vec![self.path(trail, onward)];
        }
        trail.crossings += 1;
        let routes = &view.intent.routes;
        let between_nodes = *entry == Entry::OwnNode && place_at(&view.world, onward.0).kind == PlaceKind::Node;
        let peer = routes.peers.get(node);
        let family = Family::of(&onward.0);
        let to = peer.and_then(|peer| peer.internal.get(family).or_else(|| peer.internal.values().next()));
        let word = if between_nodes { "underlay" } else { routes.backend.word() };
        match to {
            Some(to) => {
                let mtu = self.explainer.mtu_bytes.filter(|_| !between_nodes).map_or(String::new(), |mtu| format!(", mtu {mtu}"));
                trail.add(&view.node, format!("{word} -> {node}"), Some(Outcome::Pass), format!("to {to}{mtu}"));
            }
            None => {
                let text = format!("node {node} has no InternalIP or no pod subnet, so nothing leads there");
                trail.add(&view.node, format!("{word} -> {node}"), Some(Outcome::Reject), text);
                trail.pass_if.push(vec![format!("Node {node} had an InternalIP and a spec.podCIDR")]);
            }
        }
        let arrival = Arrival { view: self.explainer.view(node), entry: Entry::Fabric(view.node.to_string()), src, dst: onward };
        self.at_node(arrival, trail)
    }

    /// The source address that the packet leaves the node with: the node's own where the answer would otherwise not come back this way, which
    /// is so for what a service of it leads on from elsewhere, but for a client outside that is led to a pod.
    fn source_onward(&self, at: &Arrival, onward: At, choices: usize, to: PlaceKind, trail: &mut Trail) -> IpAddr {
        let Arrival { view, entry, src, .. } = at;
        let kept = choices == 0 || matches!(entry, Entry::Pod | Entry::OwnNode);
        let client = place_at(&view.world, *src).kind;
        let local = view.intent.routes.local.as_ref().and_then(|local| local.internal.get(Family::of(&onward.0)).copied());
        let Some(own) = local.filter(|_| !kept && (to != PlaceKind::Pod || client != PlaceKind::Outside)) else { return *src };
        trail.add(&view.node, "source", None, format!("{src} -> {own}, so that the answer comes back this way"));
        own
    }

    fn leaving(&self, view: &View, to: IpAddr) -> String {
        let routes = &view.intent.routes;
        let kept = routes.no_masquerade.iter().any(|net| net.contains(&to));
        let node = routes.local.as_ref().and_then(|local| local.internal.get(Family::of(&to)));
        match node.filter(|_| self.source.kind == PlaceKind::Pod && !kept) {
            Some(address) => format!("leaves the cluster as {address}"),
            None => "leaves the cluster with its own address".to_owned(),
        }
    }

    fn translate(&self, view: &View, entry: &Entry, src: IpAddr, dst: At) -> Translated {
        let services = &view.intent.services;
        let asked = self.sent.protocol().zip(dst.1);
        let all = services.services.iter().flat_map(|(name, service)| service.frontends.iter().map(move |frontend| (name, frontend)));
        let at = frontend_address(view, dst.0);
        let mut found = all.filter(|(_, frontend)| frontend.address == at && asked == Some((frontend.protocol, frontend.port)));
        if let Some((name, frontend)) = found.next() {
            return chosen(name, frontend, src, matches!(entry, Entry::Pod | Entry::OwnNode));
        }
        if let Some((pod, endpoint)) = asked.and_then(|(protocol, port)| host_port(view, (dst.0, port), protocol)) {
            return Translated::To(format!("host port of {pod}"), vec![endpoint]);
        }
        // What is for the node itself is not looked at as a service's.
        match services.service_cidrs.iter().any(|net| net.contains(&dst.0)) && !is_own(view, dst.0) {
            true => match asked {
                Some((protocol, _)) => {
                    let asked = format!("{protocol} {}", socket(dst));
                    let pass_if = format!("a service had {asked}");
                    Translated::Ended((Outcome::Reject, Cause::NoEndpoint), format!("no service has {asked}"), Some(pass_if))
                }
                None => {
                    let text = format!("{} is of the services' network, which answers no ICMP", dst.0);
                    Translated::Ended(
                        (Outcome::Reject, Cause::NoEndpoint),
                        text,
                        Some("a pod were asked, and not a service's address".to_owned()),
                    )
                }
            },
            false => Translated::Not,
        }
    }

    /// The path as it came out, with what the oracle says of each node on it.
    fn path(&mut self, trail: Trail, destination: At) -> Path {
        let target = place_at(&self.explainer.world, destination.0);
        let seen =
            trail.hops.iter().map(|hop| check::oracle(&self.explainer.view(&NodeName::from(hop.node.as_str())), hop, self.sent)).collect();
        let told =
            |place: &Place, ip, port| EndTold { name: place.name.clone(), ip, port, node: place.node.as_ref().map(ToString::to_string) };
        Path {
            verdict: trail.outcome,
            source: told(self.source, self.src, None),
            destination: told(&target, destination.0, destination.1),
            steps: trail.steps,
            pass_if: trail.pass_if,
            hops: trail.hops,
            seen,
            not_asked: Vec::new(),
        }
    }
}

/// What a frontend gives to a client.
fn chosen(name: &ServiceName, frontend: &Frontend, src: IpAddr, own: bool) -> Translated {
    let endpoints = frontend.own_endpoints.as_ref().filter(|_| own).unwrap_or(&frontend.endpoints);
    let welcome = frontend.sources.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&src)));
    match (endpoints.is_empty(), frontend.when_empty) {
        (false, _) if !welcome => {
            let text = format!("loadBalancerSourceRanges of {name} do not hold {}", src);
            Translated::Ended((Outcome::Drop, Cause::SourceRanges), text, Some(format!("loadBalancerSourceRanges of {name} held {}", src)))
        }
        (false, _) => Translated::To(name.to_string(), endpoints.clone()),
        (true, WhenEmpty::Reject) => {
            let pass_if = format!("{name} had a ready endpoint");
            Translated::Ended((Outcome::Reject, Cause::NoEndpoint), format!("{name} has no ready endpoint"), Some(pass_if))
        }
        (true, WhenEmpty::Drop) => {
            let text = format!("{name} has no ready endpoint on this node, and its traffic policy is Local");
            Translated::Ended((Outcome::Drop, Cause::NoLocalEndpoint), text, Some(format!("{name} had a ready endpoint on this node")))
        }
    }
}

/// The pod that has a host port at an address of the node, and where it leads. One at that address goes before one at all of them, and then the
/// first link by name.
pub(super) fn host_port(view: &View, (ip, port): (IpAddr, u16), protocol: Protocol) -> Option<(String, Endpoint)> {
    if !is_own(view, ip) {
        return None;
    }
    let family = Family::of(&ip);
    let attached = view.world.attached().values();
    let all = attached.flat_map(|one| one.intent.host_ports.iter().map(move |host| (&one.intent, host)));
    let here: Vec<_> = all.filter(|(_, host)| (host.protocol, host.host_port) == (protocol, port)).collect();
    let at_all = |host: &HostPort| host.host_ip.is_none_or(|at| at.is_unspecified() && Family::of(&at) == family);
    let found = here.iter().find(|(_, host)| host.host_ip == Some(ip)).or_else(|| here.iter().find(|(_, host)| at_all(host)));
    let (intent, host) = found?;
    let pod = intent.pod.as_ref().map_or_else(|| intent.host_ifname.to_string(), ToString::to_string);
    Some((pod, Endpoint { ip: *intent.ips.get(family)?, port: host.container_port }))
}

/// Whether an address is the node's own.
pub(super) fn is_own(view: &View, ip: IpAddr) -> bool {
    let place = place_at(&view.world, ip);
    place.kind == PlaceKind::Node && place.node.as_ref() == Some(&view.node)
}

/// Whether it is a packet for the node's tunnel device that does not come from a node.
pub(super) fn is_strange_tunnel(view: &View, entry: &Entry, src: IpAddr, onward: At, sent: Sent) -> bool {
    let BackendConf::Vxlan { port, .. } = &view.intent.routes.backend else { return false };
    let wrapped = sent == Sent::Udp && onward.1 == Some(*port) && is_own(view, onward.0);
    wrapped && *entry != Entry::OwnNode && place_at(&view.world, src).kind != PlaceKind::Node
}

/// How an address is one of a service's, if it is one.
pub(super) fn frontend_address(view: &View, ip: IpAddr) -> FrontendAddress {
    let nets = &view.intent.services.node_port_addresses;
    match is_own(view, ip) && (nets.is_empty() || nets.iter().any(|net| net.contains(&ip))) {
        true => FrontendAddress::NodePort(Family::of(&ip)),
        false => FrontendAddress::Vip(ip),
    }
}

fn socket((ip, port): At) -> String {
    port.map_or_else(|| ip.to_string(), |port| std::net::SocketAddr::new(ip, port).to_string())
}

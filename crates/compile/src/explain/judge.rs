//! What a node's policies do with a packet: egress of the pod that sends it, then ingress of the pod that it is for, where they are there.

use std::net::IpAddr;

use bowline_model::intent::policy::Direction;

use super::told::Cause;
use crate::policy::{Packet, Side, Subject, ask, awaits_namespace};
use crate::world::{Attached, World};

/// What the two directions come to; none where the end is not a pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Of the source.
    pub(crate) egress: Option<Side>,
    /// Of the destination.
    pub(crate) ingress: Option<Side>,
}

impl Judged {
    /// What stops the packet, if anything does.
    #[cfg(test)]
    pub(crate) fn stopped(&self) -> Option<Cause> {
        self.egress.iter().chain(&self.ingress).find_map(|side| side.cause)
    }
}

/// Judges a packet on the node whose world this is. What a process of the node sends is told by its path, not by its address.
pub(crate) fn judge(world: &World, packet: &Packet, own_node: bool) -> Judged {
    let source = if own_node { None } else { attachment(world, &packet.src) };
    let destination = attachment(world, &packet.dst);
    let unasked = |side: Side, end: &Attached, direction| match world.pod_of(end) {
        Some((name, pod)) => side.unasked(world, Subject { name, labels: &pod.metadata.labels }, direction),
        None => side,
    };
    if let (Some(source), Some(destination)) = (source, destination)
        && source.host_ifname() == destination.host_ifname()
        && closed(world, source).is_none()
    {
        let itself = |direction| unasked(Side::open("a pod always reaches itself"), source, direction);
        return Judged { egress: Some(itself(Direction::Egress)), ingress: Some(itself(Direction::Ingress)) };
    }
    let side = |end: &Attached, direction| {
        if let Some(why) = closed(world, end) {
            return unasked(Side::stopped(Cause::closed(direction), why), end, direction);
        }
        if own_node && direction == Direction::Ingress {
            return unasked(Side::open("a pod's own node always reaches it"), end, direction);
        }
        match world.pod_of(end) {
            Some((name, pod)) => ask(world, Subject { name, labels: &pod.metadata.labels }, direction, packet),
            None => Side::open("not a pod of the cluster, so no policy means it"),
        }
    };
    let both = (source.map(|end| side(end, Direction::Egress)), destination.map(|end| side(end, Direction::Ingress)));
    Judged { egress: both.0, ingress: both.1 }
}

/// Why a pod is in no way open, if so.
fn closed(world: &World, end: &Attached) -> Option<&'static str> {
    end.intent.pod.as_ref()?;
    match world.pod_of(end) {
        None => Some("the pod is not known (yet, or any more), so it is closed"),
        Some((name, _)) if awaits_namespace(world, name) => Some("the pod's Namespace is not known (yet, or any more), so it is closed"),
        Some(_) => None,
    }
}

/// The attachment that has an address.
pub(super) fn attachment<'w>(world: &'w World, ip: &IpAddr) -> Option<&'w Attached> {
    world.attached().values().find(|attached| attached.intent.ips.contains(ip)).map(AsRef::as_ref)
}

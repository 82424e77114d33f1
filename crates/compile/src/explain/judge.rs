//! What a node's policies do with a packet: egress of the pod that sends it, then ingress of the pod that it is for, where they are there.

use std::net::IpAddr;

use bowline_model::intent::policy::Direction;

use super::told::Outcome;
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
    /// Whether the packet passes both.
    #[cfg(test)]
    pub(crate) fn passes(&self) -> bool {
        let open = |side: &Option<Side>| side.as_ref().is_none_or(|side| side.outcome == Outcome::Pass);
        open(&self.egress) && open(&self.ingress)
    }
}

/// Judges a packet on the node whose world this is. What a process of the node sends is told by its path, not by its address.
pub(crate) fn judge(world: &World, packet: &Packet, own_node: bool) -> Judged {
    let source = if own_node { None } else { attachment(world, &packet.src) };
    let destination = attachment(world, &packet.dst);
    let unasked = |end: &Attached, direction, (outcome, why)| match world.pod_of(end) {
        Some((name, pod)) => Side::unasked(world, Subject { name, labels: &pod.metadata.labels }, direction, (outcome, why)),
        None => Side::plain(outcome, why),
    };
    if let (Some(source), Some(destination)) = (source, destination)
        && source.host_ifname() == destination.host_ifname()
        && closed(world, Some(source)).is_none()
    {
        let itself = (Outcome::Pass, "a pod always reaches itself");
        let both = (unasked(source, Direction::Egress, itself), unasked(destination, Direction::Ingress, itself));
        return Judged { egress: Some(both.0), ingress: Some(both.1) };
    }
    let side = |end: &Attached, direction| {
        if let Some(why) = closed(world, Some(end)) {
            return unasked(end, direction, (Outcome::Drop, why));
        }
        match world.pod_of(end) {
            Some((name, pod)) => ask(world, Subject { name, labels: &pod.metadata.labels }, direction, packet),
            None => Side::plain(Outcome::Pass, "not a pod of the cluster, so no policy means it"),
        }
    };
    let ingress = |end: &Attached| match own_node && closed(world, Some(end)).is_none() {
        true => unasked(end, Direction::Ingress, (Outcome::Pass, "a pod's own node always reaches it")),
        false => side(end, Direction::Ingress),
    };
    Judged { egress: source.map(|end| side(end, Direction::Egress)), ingress: destination.map(ingress) }
}

/// Why a pod is in no way open, if so.
fn closed(world: &World, end: Option<&Attached>) -> Option<&'static str> {
    let end = end.filter(|end| end.intent.pod.is_some())?;
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

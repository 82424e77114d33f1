//! VXLAN (RFC 7348): one kernel device for each family of outer addresses in use, without learning.
//!
//! Pods of both families travel in the IPv4 device wherever both nodes have IPv4 addresses; `bowline6.<vni>` is there only for nodes that
//! have none, and on machines that have none.

use std::sync::Arc;

use bowline_model::intent::routes::{FabricNode, RoutesIntent};
use bowline_model::{Dual, Family, Problem};

use super::{Context, NO_COMMON_FAMILY, Way, host_prefix, place, sysctl, tunnel_gateway};
use crate::change::Objects;
use crate::objects::net::{LinkKind, LinkSpec, NetKey, NetObject};

/// Outer Ethernet is not counted in the underlay's MTU; IP, UDP, VXLAN and inner Ethernet are.
pub(super) fn overhead(outer: Family) -> u32 {
    match outer {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

/// The devices' names. Outer IPv6 is needed where the node has no IPv4 address, or a peer has none.
pub(super) fn device_names(vni: u32, routes: &RoutesIntent, local: &FabricNode) -> Dual<Arc<str>> {
    let internal = &local.internal;
    let only_v6 = |node: &FabricNode| node.internal.v4.is_none() && node.internal.v6.is_some();
    let over_v6 = only_v6(local) || internal.v6.is_some() && routes.peers.values().any(|peer| only_v6(peer));
    Dual { v4: internal.v4.map(|_| format!("bowline.{vni}").into()), v6: over_v6.then(|| format!("bowline6.{vni}").into()) }
}

/// The way to a peer: over IPv4 if both have it.
pub(super) fn way(context: &Context<'_>, peer: &FabricNode) -> Result<Way, Problem> {
    let common = Family::BOTH.into_iter().find_map(|family| {
        let device = context.tunnels.get(family)?;
        Some((device.clone(), *peer.internal.get(family)?))
    });
    let (device, outer) = common.ok_or_else(|| {
        let what = format!("node {} has no address of a family that this node has one of", peer.name);
        Problem::new(NO_COMMON_FAMILY, what, place(peer), "give both nodes an InternalIP of one family")
    })?;
    Ok(Way::Tunnel { device, outer })
}

/// The devices, their addresses and settings.
pub(super) fn devices(context: &Context<'_>, vni: u32, port: u16, objects: &mut Objects) {
    let mut first = true;
    for (outer, name) in context.tunnels.iter() {
        let Some((local, underlay)) = context.source(outer).zip(context.underlay(outer)) else { continue };
        let kind = LinkKind::Vxlan { vni, port, local, device: underlay.name.clone() };
        let mtu_bytes = underlay.mtu_bytes.saturating_sub(overhead(outer));
        let spec = LinkSpec { kind, mac: Some(context.local.vtep_mac), mtu_bytes };
        objects.net(NetKey::Link(name.clone()), NetObject::Link(spec));
        sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0", objects);
        if std::mem::take(&mut first) {
            for cidr in &context.local.pod_cidrs {
                let address = host_prefix(tunnel_gateway(cidr));
                objects.net(NetKey::Address { link: name.clone(), address }, NetObject::Address);
            }
        }
    }
}

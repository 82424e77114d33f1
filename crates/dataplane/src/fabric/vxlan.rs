//! VXLAN (RFC 7348): one kernel device for each family of outer addresses in use, without learning.
//!
//! Pods of both families travel in the IPv4 device wherever both nodes have IPv4 addresses; `bowline6.<vni>` is there only for nodes that
//! have none, and on machines that have none.

use std::sync::Arc;

use bowline_model::intent::routes::{FabricNode, RoutesIntent};
use bowline_model::{Family, Problem};

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

/// The device's name.
pub(super) fn device_name(vni: u32, outer: Family) -> Arc<str> {
    match outer {
        Family::V4 => format!("bowline.{vni}").into(),
        Family::V6 => format!("bowline6.{vni}").into(),
    }
}

/// Whether outer IPv6 is needed: the node has no IPv4 address, or a peer has none.
pub(super) fn needs_v6_tunnel(routes: &RoutesIntent, local: &FabricNode) -> bool {
    local.internal.v6.is_some()
        && (local.internal.v4.is_none() || routes.peers.values().any(|p| p.internal.v4.is_none() && p.internal.v6.is_some()))
}

/// Whether this node has a device of that outer family.
pub(super) fn uses(context: &Context<'_>, outer: Family) -> bool {
    match outer {
        Family::V4 => context.local.internal.v4.is_some(),
        Family::V6 => context.needs_v6_tunnel,
    }
}

/// The way to a peer: over IPv4 if both have it.
pub(super) fn way(context: &Context<'_>, vni: u32, peer: &FabricNode) -> Result<Way, Problem> {
    let common = Family::BOTH.into_iter().find_map(|family| {
        context.local.internal.get(family)?;
        Some((family, *peer.internal.get(family)?))
    });
    let (family, outer) = common.ok_or_else(|| {
        let what = format!("node {} has no address of a family that this node has one of", peer.name);
        Problem::new(NO_COMMON_FAMILY, what, place(peer), "give both nodes an InternalIP of one family")
    })?;
    Ok(Way::Tunnel { device: device_name(vni, family), outer })
}

/// The devices, their addresses and settings.
pub(super) fn devices(context: &Context<'_>, vni: u32, port: u16, objects: &mut Objects) {
    let mut first = true;
    for outer in Family::BOTH.into_iter().filter(|f| uses(context, *f)) {
        let Some((local, underlay)) = context.source(outer).zip(context.underlay(outer)) else { continue };
        let name = device_name(vni, outer);
        let kind = LinkKind::Vxlan { vni, port, local, device: underlay.name.clone() };
        let mtu_bytes = underlay.mtu_bytes.saturating_sub(overhead(outer));
        let spec = LinkSpec { kind, mac: Some(context.local.vtep_mac), mtu_bytes };
        objects.net.insert(NetKey::Link(name.clone()), NetObject::Link(spec));
        sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0", objects);
        if std::mem::take(&mut first) {
            for cidr in &context.local.pod_cidrs {
                let address = host_prefix(tunnel_gateway(cidr));
                objects.net.insert(NetKey::Address { link: name.clone(), address }, NetObject::Address);
            }
        }
    }
}

//! host-gw: pod subnets are routed by the other nodes' own addresses on a link that both nodes are on. Also DirectRouting of the tunnels.

use bowline_model::intent::routes::FabricNode;
use bowline_model::{Family, Problem};

use super::{Context, NO_COMMON_FAMILY, NOT_A_NEIGHBOUR, Way, place};

/// The way to a peer that is a neighbour, if it is one.
pub(super) fn neighbour(context: &Context<'_>, peer: &FabricNode, family: Family) -> Option<Way> {
    context.local.internal.get(family)?;
    let gateway = *peer.internal.get(family)?;
    let link = context.host.on_link(&gateway)?;
    Some(Way::Direct { link: link.name.clone(), gateway })
}

/// The way to a peer, or who is in the way.
pub(super) fn way(context: &Context<'_>, peer: &FabricNode, family: Family) -> Result<Way, Problem> {
    let (Some(_), Some(address)) = (context.local.internal.get(family), peer.internal.get(family)) else {
        let what = format!("this node and node {} do not both have an {family} address, but the latter has {family} pods", peer.name);
        return Err(Problem::new(
            NO_COMMON_FAMILY,
            what,
            place(peer),
            "give both nodes an InternalIP of that family, or use the backend vxlan",
        ));
    };
    neighbour(context, peer, family).ok_or_else(|| {
        let what = format!("node {} ({address}) is not on a link of this node, so host-gw cannot reach its pods", peer.name);
        Problem::new(NOT_A_NEIGHBOUR, what, place(peer), "use the backend vxlan (with directRouting for nodes that share a link)")
            .because(format!("{address} lies in no network of this node's links: it is behind a router"))
    })
}

//! Kernel objects as values: what the backends lower to and what the drivers read back and apply.

pub mod hooks;
pub mod net;
pub mod nft;
pub mod sockets;

use bowline_model::Delta;

/// Changes for the drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectDelta {
    /// Links, addresses, routes, neighbours, forwarding entries, rules, sysctls.
    pub net: Delta<net::NetKey, net::NetObject>,
    /// Sets, elements, chains of our nftables table of the family `inet`.
    pub nft: Delta<nft::NftKey, nft::NftObject>,
    /// Those of the family `arp`.
    pub arp: Delta<nft::NftKey, nft::NftObject>,
    /// Elements of the maps of the socket hooks.
    pub sockets: Delta<sockets::SocketKey, sockets::SocketValue>,
    /// Links with programs of the fast path.
    pub hooks: Delta<hooks::HookKey, hooks::Side>,
}

impl ObjectDelta {
    /// Adds a later delta.
    pub fn then(&mut self, later: ObjectDelta) {
        self.net.then(later.net);
        self.nft.then(later.nft);
        self.arp.then(later.arp);
        self.sockets.then(later.sockets);
        self.hooks.then(later.hooks);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.net.is_empty() && self.nft.is_empty() && self.arp.is_empty() && self.sockets.is_empty() && self.hooks.is_empty()
    }
}

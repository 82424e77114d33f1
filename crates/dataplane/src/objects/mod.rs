//! Kernel objects as values: what the backends lower to and what the drivers read back and apply.

pub mod net;
pub mod nft;

use bowline_model::Delta;

/// Changes for both drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectDelta {
    /// Links, addresses, routes, neighbours, forwarding entries, rules, sysctls.
    pub net: Delta<net::NetKey, net::NetObject>,
    /// Sets, elements, chains of our nftables table.
    pub nft: Delta<nft::NftKey, nft::NftObject>,
}

impl ObjectDelta {
    /// Adds a later delta.
    pub fn then(&mut self, later: ObjectDelta) {
        self.net.then(later.net);
        self.nft.then(later.nft);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.net.is_empty() && self.nft.is_empty()
    }
}

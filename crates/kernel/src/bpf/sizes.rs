//! How many elements the maps have room for.
//!
//! Invariant: a map never changes its size. Maps of other sizes have a directory of their own, so that programs with them take the place of
//! those with the former ones as another build's do.

use std::ops::RangeInclusive;

use super::hooks::MAPS_PREFIX;

/// Room in each map, in elements. LRU maps (`carried`, `peers`, `flows`) take their memory at once and forget what was used least; the others
/// take it as they fill, and refuse what does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Flows of the fast path, each direction by itself; LRU. For half as many connections it remembers what may begin without the stack, and that
    /// they have.
    pub carried: u32,
    /// Addresses, ports and protocols of services.
    pub frontends: u32,
    /// Endpoints of those, each as often as it is in a list.
    pub endpoints: u32,
    /// Endpoints of UDP services.
    pub live: u32,
    /// Sockets that were translated; LRU.
    pub peers: u32,
    /// Pairs of a socket that sends datagrams and a service that it sends to; LRU.
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { carried: 131_072, frontends: 262_144, endpoints: 2_097_152, live: 1_048_576, peers: 65_536, flows: 65_536 }
    }
}

impl Sizes {
    /// What a size may be: less is of no use (an LRU map keeps some room for each processor), more than the kernel makes one of.
    pub const BOUNDS: RangeInclusive<u32> = 1024..=16_777_216;

    /// Each map's name and size.
    pub fn each(&self) -> [(&'static str, u32); 6] {
        let Sizes { carried, frontends, endpoints, live, peers, flows } = *self;
        [("carried", carried), ("frontends", frontends), ("endpoints", endpoints), ("live", live), ("peers", peers), ("flows", flows)]
    }

    /// The same of the fast path's.
    pub(super) fn of_fastpath(&self) -> [(&'static str, u32); 3] {
        let connections = self.carried / 2;
        [("carried", self.carried), ("openings", connections), ("direct", connections)]
    }

    /// Name of the directory of maps of these sizes.
    pub(super) fn directory(&self) -> String {
        let name = format!("{MAPS_PREFIX}{}", bowline_bpf::MAPS_VERSION);
        if *self == Sizes::default() {
            return name;
        }
        self.each().iter().fold(name, |name, (_, size)| format!("{name}-{size}"))
    }
}

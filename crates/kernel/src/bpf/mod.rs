//! Services at the socket: the programs at cgroup hooks, and the driver of their maps; and the programs of the fast path at links.
//!
//! Everything is pinned below `bowline` of the BPF file system, so that it works on while no agent runs: `maps-VERSION` (with their sizes
//! behind it, where those are not the usual ones) holds the maps, which one build hands to the next, and `links-HASH` the attachments of one build's programs. Another build attaches its own beside them before
//! it takes the old ones off, so at no time is there none; what one has translated the other leaves as it is, since an endpoint is no
//! frontend.
//!
//! Invariant: what a map lacks is served by the packet filter's rules.

mod attach;
mod epoch;
mod fastpath;
mod features;
mod hooks;
mod lookup;
mod maps;
mod sizes;
mod stale;
#[cfg(test)]
mod tests;

pub use bowline_bpf::abi::Count;
pub use epoch::{Epoch, HandOverError, HandedOver, Which};
pub use fastpath::{Fastpath, HookDriver, Tally};
pub use hooks::{BpfError, Hooks, Place};
pub use lookup::Lookup;
pub use maps::{Fill, SocketDriver, is_full};
pub use sizes::Sizes;
pub use stale::Sweeper;

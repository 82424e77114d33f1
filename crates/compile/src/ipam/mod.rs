//! Which pod of this node has which address: pure allocation.
//!
//! Invariant: an address has at most one owner, and the network's first and last addresses never have one. An address
//! that was never used goes before any that was, and among those the one that has been free longest. Whether it may be given yet, others say.
//!
//! The agent keeps each attachment in a file of its own and gives them back to a new [`Pool`] when it starts
//! ([`Pool::restore`]); the pool itself can be written down too, which keeps the order of reuse over restarts.

mod attachment;
mod block;
mod pool;
#[cfg(test)]
mod tests;

pub use attachment::{AttachmentKey, host_ifname, host_mac, pod_mac};
pub use block::AddressRange;
pub use pool::{IpamError, Pool, Usage, Want};

//! The nftables driver: the tables `inet bowline` and `arp bowline` by netlink, without the `nft` program.
//!
//! Invariants: no other table is ever read or written; a delta is one transaction, so a packet sees the old rules or the new; what fails
//! is told by its key while the rest goes on.
//! Reference: Linux uapi `netfilter/nf_tables.h` (kernel 5.6 and later; older ones lack some of the expressions).

mod decode;
mod driver;
mod encode;
mod error;
mod expr;
mod known;
mod plan;
mod probe;
mod read;
mod rebuild;
mod shape;
mod snapshot;
mod socket;
mod uapi;
mod wire;

#[cfg(test)]
mod tests;

pub use decode::SeenBase;
pub use driver::{NftDriver, NftSeen, RuleCounter};
pub use error::{EncodeError, NftError};
pub use snapshot::Snapshot;

//! Intent → kernel objects; pure.
//!
//! Each backend is a folder with a `lower` function that turns two intents, the old and the new, into the objects to set and to remove.
//! `lower(empty, new)` is the full form. Nothing here reads the kernel, the clock or the environment.

pub mod fabric;
pub mod fastpath;
pub mod interpret;
pub mod masquerade;
pub mod objects;
pub mod pod;
pub mod policy;
pub mod service;
pub mod stop;

mod change;
mod expr;
mod host;
mod interval;
#[cfg(test)]
mod tests;

use bowline_model::Checked;
use bowline_model::intent::Intent;

use change::Change;
pub use host::{DenialFacts, HostFacts, LinkFacts};
use objects::ObjectDelta;

/// What turns the objects of `old` into those of `new`, on a machine like `host`; all of them if `old` is the empty intent.
///
/// The cost follows what differs between the two, which are persistent maps. Objects that are there already may be among those to set. When
/// the host's facts have changed, the full form is to be made and compared with what is there. The problems are always those of the whole
/// of `new`.
pub fn lower(old: &Intent, new: &Intent, host: &HostFacts) -> Checked<ObjectDelta> {
    let first = *old == Intent { revision: old.revision, dns: old.dns.clone(), ..Intent::default() };
    let mut change = Change::default();
    pod::lower(old, new, first, host, &mut change);
    fabric::lower(old, new, first, host, &mut change);
    service::nftables::lower(old, new, first, host, &mut change);
    service::ebpf::lower(old, new, host, &mut change);
    policy::nftables::lower(old, new, first, host, &mut change);
    masquerade::lower(old, new, first, host, &mut change);
    fastpath::lower(old, new, first, host, &mut change);
    Checked { value: change.into_delta(), problems: fabric::problems(&new.routes, host) }
}

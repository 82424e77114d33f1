//! World to intent: Kubernetes objects in, what one node must do out.
//!
//! Invariant: pure. No I/O, no clock, no async; the result depends on the world as it is, never on how it became so. One bad
//! object becomes a problem and never drops a good one; a policy that cannot be understood closes.

pub mod cases;
pub mod codes;
mod compiler;
pub mod dns;
pub mod explain;
pub mod fuzz;
pub mod ipam;
pub mod oracle;
pub mod policy;
pub mod routes;
pub mod services;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod world;

#[cfg(test)]
mod tests;

pub use compiler::Compiler;
pub use fuzz::fuzz_objects;
pub use policy::{Flow, Judge, Reason, Verdict, judge};
pub use world::{Attached, Change, Kind, Object, ObjectKey, Settings, Touched, World};

use bowline_model::Protocol;

/// All protocols that have ports.
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

//! The nouns of Bowline: what every room speaks of and none of them owns.
//!
//! Invariant: no I/O, no clock, no async; only data, its ordering and its text forms.

pub mod checked;
pub mod delta;
pub mod intent;
pub mod names;
pub mod net;

pub use checked::{Checked, Code, Problem};
pub use delta::Delta;
pub use names::{ClusterPolicyName, NamespaceName, NodeName, PodName, PolicyName, ServiceName, SliceName};
pub use net::{Dual, Family, MacAddr, Protocol};

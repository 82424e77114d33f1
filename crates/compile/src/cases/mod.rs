//! Policy cases: who must reach whom, judged without a cluster.
//!
//! A file names manifests and cases; the manifests are made into a world as a cluster would make them (pods of templates, addresses, endpoints
//! of services), and each case is explained in it. Pure: who reads files gives their text.

mod cluster;
mod fields;
mod objects;
mod read;
mod run;

pub use cluster::Cluster;
pub use objects::{Sourced, objects};
pub use read::{Case, Manifest, Suite, fuzz_cases};
pub use run::{Judged, run};

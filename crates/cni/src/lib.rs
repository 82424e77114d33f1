//! The Container Network Interface: protocol types, verbs, and the plugin's front.
//!
//! The plugin that a container runtime executes does next to nothing: it checks what it was given, asks the
//! node's agent over a unix socket, and prints the answer in the version that the configuration speaks. All
//! state and every kernel change belong to the agent; the one thing written here is the journal of deletions
//! that the agent was not there to take ([`journal`]).
//!
//! Invariant: nothing that came from outside (environment, configuration, wire) is used as a file name, an
//! interface name or an address before it was checked by the strict parsers in this crate.
//!
//! Reference: CNI specification 1.1.0, and the result formats of 0.1.0 to 1.0.0.

pub mod config;
pub mod env;
pub mod error;
mod field;
pub mod journal;
pub mod plugin;
pub mod result;
pub mod runtime;
pub mod version;
pub mod wire;

pub use config::{NetworkConfig, fuzz_config};
pub use env::{Invocation, PodIdentity, Verb};
pub use error::{CniError, code};
pub use plugin::plugin_main;
pub use result::{CniResult, Dns, Interface, IpConfig, Route, fuzz_result};
pub use runtime::RuntimeConfig;
pub use version::Version;

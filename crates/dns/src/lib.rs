//! The cluster's DNS server: a Corefile says what it does, the node's agent says what there is to answer.
//!
//! Invariant: what decides ([`answer`], [`corefile`], [`wire`]) is pure; only [`feed`], [`server`], [`run`](mod@run) and the
//! forwarding and reading parts of [`plugin`] touch the outside. With the agent gone it answers the last it knew, without
//! limit of time. Reference: Kubernetes DNS-Based Service Discovery 1.1.0; RFC 1034, 1035, 6891, 7766; CoreDNS's manual.
#![allow(clippy::disallowed_methods, reason = "a server keeps time")]

pub mod answer;
pub mod chain;
pub mod config;
pub mod corefile;
pub mod error;
pub mod feed;
pub mod fuzz;
pub mod index;
pub mod metrics;
pub mod name;
pub mod plugin;
pub mod run;
pub mod server;
pub mod wire;

pub use error::DnsError;
pub use feed::FeedServer;
pub use fuzz::{fuzz_corefile, fuzz_message};
pub use run::{Args, from_go_style, run};

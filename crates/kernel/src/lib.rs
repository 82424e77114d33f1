//! The only crate that touches the kernel: drivers that make it equal to the objects of `bowline-dataplane`.
//!
//! Everything here is blocking and belongs on a thread of its own. `unsafe` occurs in `sys` only. Nothing here decides what the objects
//! should be.
#![allow(clippy::disallowed_methods, reason = "drivers wait on sockets with deadlines")]

pub mod bpf;
pub mod conntrack;
pub mod crash;
pub mod fake;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod nflog;
pub mod nft;
pub mod pod;
pub mod reconcile;
pub mod sockdiag;
mod sys;
pub mod sysctl;
pub mod watch;
mod wire;

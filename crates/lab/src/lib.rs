//! A cluster of network namespaces on one machine, with its own Kubernetes API: the demonstration and the test bench.
//!
//! A lab drives the product from outside, as a user would: it executes the binary that it is part of (`bowline agent`,
//! `bowline dns`) and calls the CNI plugin that the agent installs. Nothing in the product knows of it.
//!
//! Invariants: the root namespace gets no link, route, rule or sysctl; no file of the machine is written but under
//! `/run/bowline-lab/NAME`; all processes are in one process namespace, so killing its first ends them all.
#![allow(clippy::disallowed_methods, reason = "it drives processes and waits for them")]

mod cli;
pub mod codes;
mod control;
mod daemon;
mod echo;
mod enter;
mod exec;
pub mod handle;
mod holder;
mod image;
mod init;
mod kubelet;
mod look;
mod ns;
mod options;
mod outside;
mod place;
mod plan;
mod progress;
mod remote;
mod underlay;
mod up;

pub use cli::{ApiVerb, Hidden, LabCommand, Named, Output, VerbArg, run, run_hidden};
pub use image::Image;
pub use look::{agent_run_dirs, kubeconfig, networks, running};
pub use options::{Agents, Backend, Options, Underlay, UpArgs};

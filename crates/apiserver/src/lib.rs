//! The lab's Kubernetes API server: objects in memory behind the REST interface that `kubectl` and kube-rs speak.
//!
//! Objects are JSON values; what the server must know of a kind (names, scope, subresources, columns, merge keys) stands
//! in tables. Invariant: every write passes through [`Store`], which numbers it with one revision, so that a list and
//! the watch that follows it show each change exactly once. Nothing here is known to the node agent: it sees only HTTP.
//!
//! Reference: the Kubernetes API conventions and the API concepts page of Kubernetes 1.32.
#![allow(clippy::disallowed_methods, reason = "a server keeps time")]

mod accept;
pub mod admission;
pub mod controllers;
pub mod error;
pub mod kinds;
pub mod object;
pub mod patch;
mod protobuf;
mod rest;
pub mod selector;
pub mod server;
pub mod store;
pub mod stream;
mod table;
mod tls;

pub use accept::accept;
pub use error::ApiError;
pub use server::{Config, LogRequest, LogSource, LogStream, Server, ServerError};
pub use store::{GroupResource, Store};

//! Slow, obvious evaluators, written from the Kubernetes API's own text, against which everything else is held.
//!
//! Invariant: they read the world's objects and nothing that other modules made of them, and share no code with those.

mod cluster_policy;
pub mod policy;
pub mod service;

//! Intent: what must be on this node, whatever the backend that brings it about.
//!
//! Invariant: an intent depends on the world as it is, never on the order in which the world was learnt.

pub mod dns;
pub mod pods;
pub mod policy;
pub mod routes;
pub mod services;

use std::sync::Arc;

/// Everything that one node must do, at one revision of the world.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Intent {
    /// The world's revision that this was compiled from; grows by one a turn.
    pub revision: u64,
    /// Pods of this node.
    pub pods: Arc<pods::PodsIntent>,
    /// The fabric between the nodes.
    pub routes: Arc<routes::RoutesIntent>,
    /// Services.
    pub services: Arc<services::ServicesIntent>,
    /// Network policy for this node's pods.
    pub policy: Arc<policy::PolicyIntent>,
    /// Names that the cluster's DNS answers.
    pub dns: Arc<dns::DnsIntent>,
}

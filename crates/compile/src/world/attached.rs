//! Attachments of pods to this node's network, as the CNI plugin made them.

use std::sync::Arc;

use bowline_model::intent::pods::PodIntent;

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The runtime's id of the sandbox.
    pub container_id: Arc<str>,
    /// Name of the interface in the pod.
    pub ifname: Arc<str>,
    /// The pod's uid, where the runtime said it.
    pub pod_uid: Option<Arc<str>>,
    /// What it must be.
    pub intent: PodIntent,
}

impl Attached {
    /// The name that it has in every intent.
    pub fn host_ifname(&self) -> &Arc<str> {
        &self.intent.host_ifname
    }
}

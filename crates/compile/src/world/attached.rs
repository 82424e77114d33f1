//! Attachments of pods to this node's network, as the CNI plugin made them.

use std::sync::Arc;

use bowline_model::PodName;
use bowline_model::intent::pods::{HostPort, PodIntent};

use crate::ipam::{self, Attachment};

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

impl From<&Attachment> for Attached {
    fn from(record: &Attachment) -> Self {
        let pod = record.pod.as_ref();
        let host_port = |port: &ipam::HostPort| HostPort {
            host_ip: port.host_ip,
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: port.protocol,
        };
        Attached {
            container_id: record.container_id.as_str().into(),
            ifname: record.ifname.as_str().into(),
            pod_uid: pod.and_then(|pod| pod.uid.as_deref()).map(Into::into),
            intent: PodIntent {
                pod: pod.map(|pod| PodName::new(pod.namespace.as_str(), pod.name.as_str())),
                host_ifname: record.host_ifname.as_str().into(),
                mac: record.mac,
                host_mac: ipam::host_mac(&record.key()),
                ips: record.ips,
                host_ports: record.host_ports.iter().map(host_port).collect(),
            },
        }
    }
}

//! What the node remembers of one interface of one container, and the names that follow from its identity.

use std::fmt;
use std::net::IpAddr;

use bowline_model::net::fnv1a;
use bowline_model::{Dual, MacAddr, Protocol};
use serde::{Deserialize, Serialize};

/// The identity of an attachment: all that DEL knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentKey {
    /// The container, as the runtime calls it.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

impl AttachmentKey {
    /// The key of this container and interface.
    pub fn new(container_id: impl Into<String>, ifname: impl Into<String>) -> Self {
        AttachmentKey { container_id: container_id.into(), ifname: ifname.into() }
    }

    /// Text that no other key has: neither part may hold a slash.
    fn seed(&self) -> String {
        format!("{}/{}", self.container_id, self.ifname)
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

/// The pod that a container belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where the runtime says it: a pod of the same name may follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// A port of the node that leads to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The one address of the node on which it is open; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
}

/// One interface of one container: what the agent writes to disk before it touches the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the network, from the CNI configuration.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
    /// The pod, where the runtime says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// Path of the container's network namespace as the runtime calls it; for the result and for messages.
    #[serde(default)]
    pub netns: String,
    /// Its addresses.
    pub ips: Dual<IpAddr>,
    /// The interface's other end on the node.
    pub host_ifname: String,
    /// Hardware address in the container.
    pub mac: MacAddr,
    /// Ports of the node that lead here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

impl Attachment {
    /// Its identity.
    pub fn key(&self) -> AttachmentKey {
        AttachmentKey::new(&self.container_id, &self.ifname)
    }
}

/// Name of the node's end of an attachment: `bwl` and 44 bits of a hash, 14 bytes, so that DEL finds the link without any record.
pub fn host_ifname(key: &AttachmentKey) -> String {
    // FNV mixes its high bits poorly for short input; this finaliser (of MurmurHash3) spreads them.
    let mut hash = fnv1a(key.seed().as_bytes());
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    format!("bwl{:011x}", (hash ^ (hash >> 33)) >> 20)
}

/// Hardware address of the container's end, where the runtime asks for none.
pub fn pod_mac(key: &AttachmentKey) -> MacAddr {
    MacAddr::derived(&format!("pod/{}", key.seed()))
}

/// Hardware address of the node's end.
pub fn host_mac(key: &AttachmentKey) -> MacAddr {
    MacAddr::derived(&format!("host/{}", key.seed()))
}

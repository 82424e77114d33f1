//! The identity of one interface of one container, and the names that follow from it.

use std::fmt;

use bowline_model::MacAddr;
use bowline_model::net::fnv1a;
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

//! Inotify instances: the kernel gives each user 128 unless it is told otherwise, and a kubelet that gets none ends.

use std::fs;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail};
use rustix::fs::inotify;

use crate::cluster::up::counted;

/// What a control plane takes, and what a node takes beside it: 13 and 7 were counted, the rest is for what runs in pods.
const OF_A_CONTROL_PLANE: usize = 16;
const OF_A_NODE: usize = 8;

/// What the kernel allows each user.
const LIMIT: &str = "/proc/sys/fs/inotify/max_user_instances";

/// Sees that there are enough left for a cluster of so many nodes.
pub(crate) fn check(nodes: usize) -> Result<()> {
    let wanted = OF_A_CONTROL_PLANE + nodes * OF_A_NODE;
    // Nobody says how many are in use, so they are taken, and given back at once.
    let taken: Vec<OwnedFd> = (0..wanted).map_while(|_| inotify::init(inotify::CreateFlags::CLOEXEC).ok()).collect();
    let limit = fs::read_to_string(LIMIT).unwrap_or_default();
    enough(nodes, wanted, taken.len(), limit.trim())
}

fn enough(nodes: usize, wanted: usize, free: usize, limit: &str) -> Result<()> {
    if free >= wanted {
        return Ok(());
    }
    bail!(
        "a cluster of {} takes up to {wanted} inotify instances, and {free} are left of the {limit} that fs.inotify.max_user_instances allows \
         each user; take another cluster down, or run: sysctl -w fs.inotify.max_user_instances=1024",
        counted(nodes, "node")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn too_few_are_said_with_the_setting() {
        let refusal = enough(2, 32, 5, "128").unwrap_err().to_string();
        assert!(refusal.contains("sysctl -w fs.inotify.max_user_instances=1024") && refusal.contains("5 are left of the 128"), "{refusal}");
        assert!(enough(2, 32, 32, "128").is_ok());
    }
}

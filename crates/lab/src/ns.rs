//! Namespaces, mounts and cgroups: thin wrappers with errors that name what was tried.
//!
//! Invariant: nothing here changes the caller's process but the calling thread, and nothing is mounted anywhere but in
//! a mount namespace that has been made private. Reference: namespaces(7), cgroups(7), mount_namespaces(7).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bowline_kernel::mounts;
pub(crate) use bowline_kernel::mounts::MountPoint;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

/// A kind of namespace, in the order in which they must be joined: the mount namespace last, since it moves the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Namespace {
    /// What of the cgroup tree is seen.
    Cgroup,
    /// System V IPC.
    Ipc,
    /// Host name.
    Uts,
    /// The network.
    Net,
    /// Mounts.
    Mnt,
}

impl Namespace {
    /// All that a node has of its own.
    pub(crate) const NODE: [Namespace; 5] = [Namespace::Cgroup, Namespace::Ipc, Namespace::Uts, Namespace::Net, Namespace::Mnt];

    fn file(self) -> &'static str {
        match self {
            Namespace::Cgroup => "cgroup",
            Namespace::Ipc => "ipc",
            Namespace::Uts => "uts",
            Namespace::Net => "net",
            Namespace::Mnt => "mnt",
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Namespace::Cgroup => UnshareFlags::NEWCGROUP,
            Namespace::Ipc => UnshareFlags::NEWIPC,
            Namespace::Uts => UnshareFlags::NEWUTS,
            Namespace::Net => UnshareFlags::NEWNET,
            Namespace::Mnt => UnshareFlags::NEWNS,
        }
    }
}

/// Leaves the namespaces that are shared so far. Never called with `FILES`.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES), "file tables stay shared");
    #[allow(deprecated, reason = "the unsafe form guards against FILES only, which is never passed here")]
    Ok(rustix::thread::unshare(flags)?)
}

/// Makes new namespaces of `kinds` for the calling thread.
pub(crate) fn make(kinds: &[Namespace]) -> Result<()> {
    let flags = kinds.iter().fold(UnshareFlags::empty(), |all, kind| all | kind.flag());
    unshare(flags).with_context(|| format!("unshare {kinds:?}"))
}

/// Joins the namespaces `kinds` of process `pid` as the process directory `proc_root` shows it.
pub(crate) fn join(proc_root: &Path, pid: u32, kinds: &[Namespace]) -> Result<()> {
    let mut kinds = kinds.to_vec();
    kinds.sort_unstable();
    let opened: Vec<(PathBuf, OwnedFd)> = kinds
        .iter()
        .map(|kind| {
            let path = proc_root.join(pid.to_string()).join("ns").join(kind.file());
            let fd = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
            Ok((path, fd.into()))
        })
        .collect::<Result<_>>()?;
    if kinds.contains(&Namespace::Mnt) {
        unshare(UnshareFlags::FS).context("unshare the working directory")?;
    }
    for (path, fd) in &opened {
        setns(fd).with_context(|| format!("setns {}", path.display()))?;
    }
    Ok(())
}

fn setns(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(fd.as_fd(), None)?)
}

/// The mount point of the cgroup2 hierarchy.
pub(crate) fn cgroup2_root() -> Result<PathBuf> {
    mounts::first_of("cgroup2").context("read /proc/self/mountinfo")?.context("no cgroup2 hierarchy is mounted on this machine")
}

/// The mounts that this process sees, in their order.
pub(crate) fn mounts() -> Result<Vec<MountPoint>> {
    mounts::all().context("read /proc/self/mountinfo")
}

/// Moves the calling process into a cgroup, made if it is not there.
pub(crate) fn join_cgroup(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create cgroup {}", directory.display()))?;
    let file = directory.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("join {}", file.display()))
}

/// Removes a cgroup and all below it. Those that still hold processes are killed first.
pub(crate) fn remove_cgroup(directory: &Path) -> io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    // Absent before Linux 5.14; then only the process namespace's end has emptied it.
    let _ = fs::write(directory.join("cgroup.kill"), "1");
    // What was killed is in its cgroup until it has been reaped: there is no event for that.
    let mut attempts = 1000;
    loop {
        match remove_cgroup_tree(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

fn remove_cgroup_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Keeps mounts made from now on from being seen by others.
pub(crate) fn make_mounts_private() -> Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("make the mounts private")
}

/// Mounts a file system.
pub(crate) fn mount(kind: &str, at: &Path, options: &str) -> Result<()> {
    let data = std::ffi::CString::new(options)?;
    rustix::mount::mount(kind, at, kind, MountFlags::empty(), data.as_c_str()).with_context(|| format!("mount {kind} at {}", at.display()))
}

/// Shows `source` (and, with `recursive`, all that is mounted below it) at `target` too.
pub(crate) fn bind(source: &Path, target: &Path, recursive: bool, read_only: bool) -> Result<()> {
    let result = if recursive { rustix::mount::mount_bind_recursive(source, target) } else { rustix::mount::mount_bind(source, target) };
    result.with_context(|| format!("bind {} to {}", source.display(), target.display()))?;
    if read_only {
        rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")
            .with_context(|| format!("make {} read-only", target.display()))?;
    }
    Ok(())
}

/// Detaches what is mounted at `point`, with all below it.
pub(crate) fn detach(point: &Path) -> Result<()> {
    rustix::mount::unmount(point, UnmountFlags::DETACH).with_context(|| format!("unmount {}", point.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_mount_namespace_is_joined_last() {
        let mut kinds = Namespace::NODE.to_vec();
        kinds.reverse();
        kinds.sort_unstable();
        assert_eq!(kinds.last(), Some(&Namespace::Mnt));
    }
}

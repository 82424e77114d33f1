//! Where a lab's few files are, how a running one is found, and how what it left is removed.
//!
//! Invariant: outside its own namespaces a lab has one directory under /run and one in the cgroup tree, both named
//! after it, so that `down` needs nothing but the name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Serialize;

use crate::ns;
use crate::options::Options;

/// The directory of all labs' files.
const RUN: &str = "/run/bowline-lab";
/// The cgroup of all labs.
const CGROUP: &str = "bowline-lab";

/// The files of the lab of one name, whether it is up or not.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The lab's name.
    pub(crate) name: String,
}

impl Place {
    /// The place of lab `name`.
    pub(crate) fn of(name: &str) -> Place {
        Place { name: name.to_owned() }
    }

    /// The directory of all labs.
    pub(crate) fn all() -> PathBuf {
        PathBuf::from(RUN)
    }

    /// Its directory.
    pub(crate) fn directory(&self) -> PathBuf {
        Path::new(RUN).join(&self.name)
    }

    /// The socket on which the daemon answers.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// The file for kubectl.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory().join("kubeconfig")
    }

    /// The directory of logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.directory().join("logs")
    }

    /// The lab's cgroup.
    pub(crate) fn cgroup(&self) -> Result<PathBuf> {
        Ok(ns::cgroup2_root()?.join(CGROUP).join(&self.name))
    }

    /// Its process 1, if it is up.
    pub(crate) fn running(&self) -> Option<Running> {
        running().into_iter().find(|lab| lab.options.name == self.name)
    }

    /// Ends the lab if it is up.
    pub(crate) fn kill(&self) -> Result<bool> {
        let Some(lab) = self.running() else { return Ok(false) };
        let Some(pid) = i32::try_from(lab.pid).ok().and_then(Pid::from_raw) else { return Ok(false) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error).context("open the lab's process 1"),
        };
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).context("kill the lab's process 1")?;
        // It ends when all its descendants have: the wait needs no limit of its own.
        let mut polled = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut polled, None) {}
        Ok(true)
    }

    /// Removes what a lab that is no longer up has left: its cgroups and files (the logs too unless `keep_logs`).
    pub(crate) fn remove(&self, keep_logs: bool) -> Result<bool> {
        let mut found = false;
        let cgroup = self.cgroup()?;
        if cgroup.exists() {
            found = true;
            ns::remove_cgroup(&cgroup).with_context(|| format!("remove {}", cgroup.display()))?;
            // Fails while other labs are in it, and rightly so.
            cgroup.parent().map(fs::remove_dir).transpose().ok();
        }
        let directory = self.directory();
        if directory.exists() {
            found = true;
            if keep_logs {
                for entry in fs::read_dir(&directory)?.flatten() {
                    if entry.path() != self.logs() {
                        remove_any(&entry.path())?;
                    }
                }
            } else {
                remove_any(&directory)?;
                fs::remove_dir(RUN).ok();
            }
        }
        Ok(found)
    }
}

fn remove_any(path: &Path) -> Result<()> {
    let directory = fs::symlink_metadata(path).is_ok_and(|data| data.is_dir());
    if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }.with_context(|| format!("remove {}", path.display()))
}

/// A lab that is up.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Running {
    /// Its process 1 as this machine numbers it.
    pub(crate) pid: u32,
    /// With what it was started.
    pub(crate) options: Options,
}

impl Running {
    /// The lab's process directory.
    pub(crate) fn proc_root(&self) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("root/proc")
    }
}

/// The labs that are up on this machine.
pub(crate) fn running() -> Vec<Running> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Running> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(running_as).collect();
    found.sort_by(|a, b| a.options.name.cmp(&b.options.name));
    found
}

fn running_as(pid: u32) -> Option<Running> {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut arguments = command_line.split(|byte| *byte == 0).map(String::from_utf8_lossy).skip(1);
    if arguments.next()? != crate::init::COMMAND {
        return None;
    }
    let _name = arguments.next()?;
    let options: Options = serde_json::from_str(&arguments.next()?).ok()?;
    // A command line proves nothing; being root's and process 1 of a process namespace is what only a lab's is.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let first = field("NSpid:")?.split_whitespace().count() >= 2 && field("NSpid:")?.split_whitespace().next_back() == Some("1");
    let root = field("Uid:")?.split_whitespace().next() == Some("0");
    let alive = !field("State:")?.trim_start().starts_with('Z');
    (first && root && alive).then_some(Running { pid, options })
}

/// Names of labs of which something is left though they are not up.
pub(crate) fn left_over() -> Vec<String> {
    let up: Vec<String> = running().into_iter().map(|lab| lab.options.name).collect();
    let cgroup = ns::cgroup2_root().map(|root| root.join(CGROUP)).unwrap_or_default();
    let mut names: Vec<String> = [PathBuf::from(RUN), cgroup]
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !up.contains(name))
        .collect();
    names.sort();
    names.dedup();
    names
}

//! The processes that hold namespaces open: one for the router, the outside client, each node and each pod.
//!
//! A holder makes its namespaces and mounts, says so on standard output, and then does nothing at all until it is
//! killed. It is never the agent, so that what belongs to a node (pins in its bpffs, for one) outlives the agent.
//!
//! A node's root is an overlay over the machine's own file systems: all programs are there, and whatever is written
//! stays in memory. So nothing that runs on a node or in a pod can change a file of the machine.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};

use crate::enter::{self, Enter, own_command};
use crate::ns::{self, MountPoint, Namespace};

/// The hidden command's name.
pub(crate) const COMMAND: &str = "lab-pause";

/// What to hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Holding {
    /// Host name inside.
    pub(crate) hostname: String,
    /// The cgroup to be in; the root of the cgroup namespace.
    pub(crate) cgroup: PathBuf,
    /// What is made beyond the network namespace.
    pub(crate) kind: Kind,
}

/// Kinds of holders.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A network namespace and a view of it in /sys.
    Network,
    /// A host with a root of its own.
    Host {
        /// An empty directory in which the root is put together.
        stage: PathBuf,
        /// Lines for /etc/hosts.
        hosts: String,
        /// Contents of /etc/resolv.conf.
        resolv_conf: String,
    },
    /// A pod on the node whose namespaces the process is in.
    Pod {
        /// Whether it stays in the node's network.
        host_network: bool,
    },
}

/// A running holder. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Holder {
    child: std::process::Child,
}

impl Holder {
    /// Starts one and waits until everything is made. With `node`, inside that node's namespaces.
    pub(crate) fn start(holding: &Holding, node: Option<u32>) -> Result<Holder> {
        let request = serde_json::to_string(holding)?;
        let mut command: Command = match node {
            None => {
                let mut command = own_command();
                command.arg(COMMAND).arg(request);
                command
            }
            Some(node) => {
                let argv = [enter::SELF, COMMAND, &request].map(str::to_owned).to_vec();
                Enter::of(node, holding.cgroup.clone(), argv).command()?
            }
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start a holder")?;
        let mut said = String::new();
        if let Some(mut output) = child.stdout.take() {
            let mut byte = [0];
            while output.read(&mut byte)? == 1 && byte != *b"\n" {
                said.push(char::from(byte[0]));
            }
        }
        let holder = Holder { child };
        if said == "ready" {
            return Ok(holder);
        }
        bail!("{}: {}", holding.hostname, if said.is_empty() { "the holder ended at once" } else { &said })
    }

    /// Its process number in the lab.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The hidden command: holds, and never ends by itself.
pub(crate) fn run(spec: &str) -> u8 {
    let made = serde_json::from_str::<Holding>(spec).context("unreadable request").and_then(|h| h.make());
    let line = match &made {
        Ok(()) => "ready".to_owned(),
        Err(error) => format!("{error:#}").replace('\n', " "),
    };
    let said = writeln!(std::io::stdout(), "{line}");
    if made.is_err() || said.is_err() {
        return 1;
    }
    loop {
        std::thread::park();
    }
}

impl Holding {
    fn make(&self) -> Result<()> {
        if !matches!(self.kind, Kind::Pod { .. }) {
            // A pod's holder is in its cgroup before it comes here, and its node shows the tree from elsewhere.
            ns::join_cgroup(&self.cgroup)?;
        }
        let mut kinds = Namespace::NODE.to_vec();
        if matches!(self.kind, Kind::Pod { host_network: true }) {
            kinds.retain(|kind| *kind != Namespace::Net);
        }
        ns::make(&kinds)?;
        ns::make_mounts_private()?;
        rustix::system::sethostname(self.hostname.as_bytes()).context("set the host name")?;
        match &self.kind {
            Kind::Network => fresh_sysfs(Path::new("/sys")),
            Kind::Host { stage, hosts, resolv_conf } => {
                build_root(stage)?;
                write_host_files(&self.hostname, hosts, resolv_conf)
            }
            Kind::Pod { host_network: false } => fresh_sysfs(Path::new("/sys")),
            Kind::Pod { host_network: true } => Ok(()),
        }
    }
}

/// Mounts a sysfs that shows this network namespace, with this cgroup namespace and a bpffs in it.
fn fresh_sysfs(at: &Path) -> Result<()> {
    ns::detach(at)?;
    mount_sys(at)
}

fn mount_sys(at: &Path) -> Result<()> {
    ns::mount("sysfs", at, "")?;
    ns::mount("cgroup2", &at.join("fs/cgroup"), "")?;
    ns::mount("bpf", &at.join("fs/bpf"), "mode=0700")
}

/// Puts a node's root together in `stage` and makes it this process's root.
fn build_root(stage: &Path) -> Result<()> {
    let others = ns::mounts()?;
    ns::mount("tmpfs", stage, "mode=0755")?;
    let root = stage.join("root");
    fs::create_dir(&root)?;
    overlay(Path::new("/"), &root, stage, 0)?;
    for (number, mount) in others.iter().filter(|mount| is_worth_showing(mount, stage)).enumerate() {
        show(mount, &root, stage, number + 1)?;
    }
    ns::bind(Path::new("/dev"), &root.join("dev"), true, false)?;
    ns::mount("proc", &root.join("proc"), "")?;
    mount_sys(&root.join("sys"))?;
    ns::mount("tmpfs", &root.join("run"), "mode=0755")?;
    std::env::set_current_dir(&root)?;
    rustix::process::pivot_root(".", ".").context("pivot_root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("leave the old root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// The machine's own disks; what is about processes, devices and the like is made afresh.
fn is_worth_showing(mount: &MountPoint, stage: &Path) -> bool {
    let own = ["/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    mount.point != Path::new("/")
        && !mount.point.starts_with(stage)
        && !own.iter().any(|prefix| mount.point.starts_with(prefix))
        && !matches!(mount.kind.as_str(), "autofs" | "binfmt_misc" | "proc" | "sysfs" | "cgroup" | "cgroup2")
}

fn overlay(lower: &Path, at: &Path, stage: &Path, number: usize) -> Result<()> {
    let (upper, work) = (stage.join(format!("upper{number}")), stage.join(format!("work{number}")));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    ns::mount("overlay", at, &options)
}

/// Shows one of the machine's other mounts, as an overlay where that is possible, else read-only. A place that the
/// root's overlay lacks (something is mounted over it) is left out.
fn show(mount: &MountPoint, root: &Path, stage: &Path, number: usize) -> Result<()> {
    let Ok(relative) = mount.point.strip_prefix("/") else { return Ok(()) };
    let target = root.join(relative);
    if !target.exists() {
        return Ok(());
    }
    let plain = !mount.point.to_string_lossy().contains([',', ':', '\\']);
    if plain && mount.point.is_dir() && overlay(&mount.point, &target, stage, number).is_ok() {
        return Ok(());
    }
    ns::bind(&mount.point, &target, false, true)
}

/// Files that say who this host is, and an absence of any other cluster's network.
fn write_host_files(hostname: &str, hosts: &str, resolv_conf: &str) -> Result<()> {
    for foreign in ["/etc/cni", "/opt/cni", "/var/lib/cni", "/etc/bowline", "/var/lib/bowline"] {
        if Path::new(foreign).exists() {
            fs::remove_dir_all(foreign).with_context(|| format!("clear {foreign}"))?;
        }
    }
    for directory in ["/etc/cni/net.d", "/opt/cni/bin", "/etc/bowline", "/var/lib/bowline", "/run/bowline", "/run/lock"] {
        fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    }
    let lines = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{hosts}");
    for (file, text) in [("/etc/hostname", format!("{hostname}\n")), ("/etc/hosts", lines), ("/etc/resolv.conf", resolv_conf.to_owned())] {
        if fs::symlink_metadata(file).is_ok_and(|data| data.is_symlink()) {
            fs::remove_file(file)?;
        }
        fs::write(file, text).with_context(|| format!("write {file}"))?;
    }
    Ok(())
}

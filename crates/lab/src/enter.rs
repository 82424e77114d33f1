//! Entering a namespace of the lab and becoming a command there.
//!
//! One hidden command does it for everything: agents, CNI plugins, containers, probes and `lab exec`. It joins the
//! cgroup first (a cgroup's hooks see sockets by where their maker was), then the namespaces, then makes the mounts,
//! then becomes the command.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ns::{self, Namespace};

/// The hidden command's name.
pub(crate) const COMMAND: &str = "lab-enter";

/// Written to standard input (a socket then) when everything but the exec is done.
pub(crate) const ENTERED: u8 = b'S';
/// Written by the echo server when it listens.
pub(crate) const LISTENING: u8 = b'R';

/// What to enter and what to become.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Enter {
    /// The lab's process directory as the caller sees it; `/proc` inside the lab.
    pub(crate) proc_root: PathBuf,
    /// The process whose namespaces are joined, by its number in the lab.
    pub(crate) target: Option<u32>,
    /// Which of them.
    pub(crate) namespaces: Vec<Namespace>,
    /// The cgroup to join, made if it is not there.
    pub(crate) cgroup: Option<PathBuf>,
    /// Mounts to make, in a mount namespace of its own.
    pub(crate) binds: Vec<Bind>,
    /// The whole environment; the caller's if none is given.
    pub(crate) env: Option<BTreeMap<String, String>>,
    /// The working directory.
    pub(crate) cwd: Option<PathBuf>,
    /// Standard input is a socket on which [`ENTERED`] is awaited.
    pub(crate) notify: bool,
    /// Standard input stays open for the command after that.
    pub(crate) keep_stdin: bool,
    /// Die when the parent dies.
    pub(crate) die_with_parent: bool,
    /// Standard input is a terminal that is to be the command's own.
    pub(crate) terminal: bool,
    /// The command.
    pub(crate) argv: Vec<String>,
}

/// A file or directory shown at a second place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// What is shown.
    pub(crate) source: PathBuf,
    /// Where; made if it is not there.
    pub(crate) target: PathBuf,
    /// Whether writing is refused.
    pub(crate) read_only: bool,
}

impl Enter {
    /// Everything of the node or pod held by process `target`.
    pub(crate) fn of(target: u32, cgroup: PathBuf, argv: Vec<String>) -> Enter {
        Enter {
            proc_root: PathBuf::from("/proc"),
            target: Some(target),
            namespaces: Namespace::NODE.to_vec(),
            cgroup: Some(cgroup),
            argv,
            ..Enter::default()
        }
    }

    /// A command that enters, with nothing on standard input.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = own_command();
        command.arg(COMMAND).arg(serde_json::to_string(self)?).stdin(Stdio::null());
        Ok(command)
    }

    /// Enters and becomes the command; comes back only with an error.
    pub(crate) fn exec(&self) -> Result<std::convert::Infallible> {
        if self.die_with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        }
        if self.terminal {
            rustix::process::setsid().context("begin a session")?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()).context("take the terminal")?;
        }
        if let Some(cgroup) = &self.cgroup {
            ns::join_cgroup(cgroup)?;
        }
        if let Some(target) = self.target {
            ns::join(&self.proc_root, target, &self.namespaces)?;
        }
        if !self.binds.is_empty() {
            ns::make(&[Namespace::Mnt])?;
            ns::make_mounts_private()?;
            for bind in &self.binds {
                bind.make()?;
            }
        }
        let (program, arguments) = self.argv.split_first().context("no command given")?;
        let mut command = Command::new(program);
        command.args(arguments);
        if program == SELF {
            command.arg0("bowline");
        }
        if let Some(env) = &self.env {
            command.env_clear().envs(env);
        }
        if let Some(cwd) = &self.cwd {
            std::env::set_current_dir(cwd).with_context(|| format!("change to {}", cwd.display()))?;
        }
        if self.notify {
            notify(ENTERED)?;
            if !self.keep_stdin {
                rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
            }
        }
        let error = command.exec();
        let why = if error.kind() == std::io::ErrorKind::NotFound && !program.contains('/') {
            format!("exec: {program:?}: executable file not found in $PATH")
        } else {
            format!("cannot run {program}")
        };
        Err(anyhow::Error::from(error).context(why))
    }
}

impl Bind {
    fn make(&self) -> Result<()> {
        if fs::metadata(&self.source).with_context(|| format!("volume {}", self.source.display()))?.is_dir() {
            fs::create_dir_all(&self.target)
        } else {
            self.target
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&self.target).map(|_| ()))
        }
        .with_context(|| format!("make mount point {}", self.target.display()))?;
        ns::bind(&self.source, &self.target, true, self.read_only)
    }
}

/// Path by which a process runs the binary that it is itself.
pub(crate) const SELF: &str = "/proc/self/exe";

/// A command that runs this very binary, whatever has become of its file.
pub(crate) fn own_command() -> Command {
    let mut command = Command::new(SELF);
    command.arg0("bowline");
    command
}

/// Tells the one who started this process how far it has come, on the socket that is standard input.
pub(crate) fn notify(byte: u8) -> Result<()> {
    rustix::io::write(rustix::stdio::stdin(), &[byte]).context("write to the starter")?;
    Ok(())
}

/// The hidden command: status 127 where the command is not found, 126 where it cannot be entered or run.
pub(crate) fn run(spec: &str) -> u8 {
    let failure = match serde_json::from_str::<Enter>(spec).context("unreadable request").and_then(|e| e.exec()) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let _ = writeln!(std::io::stderr(), "{failure:#}");
    match failure.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) => 127,
        Some(_) | None => 126,
    }
}

/// `path` as seen by process `pid` of the lab, for one who is in another mount namespace.
pub(crate) fn seen_by(pid: u32, path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    Path::new("/proc").join(pid.to_string()).join("root").join(relative)
}

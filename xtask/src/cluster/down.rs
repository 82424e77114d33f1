//! Taking a cluster down: machines, processes, cgroups, files. Whatever state it was in, nothing is left.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::cluster::component::{Session, start_of};
use crate::cluster::lab::{self, Lab};
use crate::cluster::node;
use crate::cluster::place::Place;
use crate::cluster::plan::Plan;

/// What is written down about a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Addresses and ports.
    pub(crate) plan: Plan,
    /// The binary that made the lab, and by which it is driven; none for a control plane alone.
    pub(crate) binary: Option<PathBuf>,
    /// Processes of this machine that are the cluster's: those of a control plane alone.
    pub(crate) sessions: Vec<Session>,
    /// Whether `up` came to its end.
    pub(crate) complete: bool,
}

impl Record {
    /// What is written down, if it can be read.
    pub(crate) fn read(place: &Place) -> Option<Record> {
        serde_json::from_str(&fs::read_to_string(place.record()).ok()?).ok()
    }

    /// Writes it down.
    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let path = place.record();
        fs::write(&path, serde_json::to_string_pretty(self)?).with_context(|| format!("write {}", path.display()))
    }
}

/// The command.
pub(crate) fn run(name: &str) -> Result<bool> {
    let place = Place::of(name)?;
    let found = sweep(&place, false)?;
    let line = if found { format!("cluster {name} is gone") } else { format!("there was no cluster {name}") };
    writeln!(std::io::stdout(), "{line}")?;
    Ok(true)
}

/// Ends and removes all of a cluster, its logs too unless they are to be kept; whether there was anything.
pub(crate) fn sweep(place: &Place, keep_logs: bool) -> Result<bool> {
    let record = Record::read(place);
    let sessions = record.as_ref().map(|record| record.sessions.as_slice()).unwrap_or_default();
    for session in sessions {
        end(session)?;
    }
    // Without a record, or for a control plane alone, a lab of this name is somebody else's.
    if let Some(recorded) = record.as_ref().and_then(|record| record.binary.as_deref()) {
        Lab::of(&place.name, &lab::any_binary(recorded)?).down()?;
    }
    let cgroups = node::remove_cgroups(&place.name)?;
    let files = place.directory().exists();
    if files {
        remove_files(place, keep_logs)?;
    }
    Ok(files || cgroups)
}

fn remove_files(place: &Place, keep_logs: bool) -> Result<()> {
    let directory = place.directory();
    if !keep_logs {
        return fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()));
    }
    for entry in fs::read_dir(directory)?.flatten().filter(|entry| entry.path() != place.logs()) {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Ends a session with all of its processes, if it is still the one that was started.
fn end(session: &Session) -> Result<()> {
    let alive = || start_of(session.pid) == Some(session.started_ticks);
    let Some(pid) = i32::try_from(session.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    if !alive() {
        return Ok(());
    }
    rustix::process::kill_process_group(pid, Signal::KILL).with_context(|| format!("end {}", session.component))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive() {
        if Instant::now() > deadline {
            bail!("{} (process {}) does not end", session.component, session.pid);
        }
        // Its parent is process 1, which reaps it; there is no event for one who is not the parent.
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

//! The machine that figures belong to, and what is asked of its kernel on the side.

use std::process::Command;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;

/// Where and of what something was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mb: u64,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Machine {
    /// This one.
    pub(crate) fn look() -> Machine {
        let field = |file: &str, key: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start_matches([':', ' ', '\t']).to_owned())).unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        Machine {
            cpu: field("/proc/cpuinfo", "model name"),
            cpus: cpus(),
            memory_mb: memory.split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            commit: commit(),
            date: output("date", &["-u", "+%Y-%m-%d"]),
        }
    }
}

fn commit() -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    let head = output("git", &["-C", root, "rev-parse", "--short", "HEAD"]);
    let changed = output("git", &["-C", root, "status", "--porcelain", "--untracked-files=no", "--", "../../crates"]);
    if changed.is_empty() { head } else { format!("{head} with changes") }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// CPUs of this machine.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The CPU for load generators: another than the server's, which is 0, where there are two.
pub(crate) fn other_cpu() -> usize {
    usize::from(cpus() > 1)
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("keeping a thread on CPU {cpu}"))
}

/// Processes that wanted a CPU over the last minute, as foreign load.
pub(crate) fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// Seconds of CPU that a process has used, to the nanosecond, over all of its threads that are alive.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let directory = format!("/proc/{pid}/task");
    let mut total = 0.0;
    for task in std::fs::read_dir(&directory).with_context(|| directory.clone())? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default();
        total += first.parse::<f64>().unwrap_or(0.0) / 1e9;
    }
    Ok(total)
}

/// A figure of /proc/PID/status in megabytes (`VmRSS`, `VmHWM`).
pub(crate) fn memory_mb(pid: u32, key: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).with_context(|| format!("{path}: no {key}"))?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{path}: {key}{line}"))?;
    Ok(kb / 1024.0)
}

//! The agent's memory on a lab's node: idle, and with thousands of services that it learnt from the lab's API.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_lab::handle::{Lab, Options};
use serde_json::Value;

use crate::populate::Populate;
use crate::report::{Growth, Row, Section, Target};
use crate::{BOWLINE, Effort, machine};

/// How long the agent may take to settle after a change: it reads the kernel back once.
const SETTLE: Duration = Duration::from_secs(3);

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let name = format!("bench-memory-{}", std::process::id());
    let lab = Lab::up(Options { binary: Some(BOWLINE.into()), ..Options::new(&name, "--nodes 1 --service-cidr 10.96.0.0/12") })?;
    let run_dir = run_dir(&name)?;
    let pid = agent_pid(&run_dir)?;
    let mut section = Section::new("agent: memory of the process");
    let mut growth = Growth {
        columns: Vec::new(),
        rows: ["resident, MB", "resident at most, MB", "CPU seconds since the start"].map(|what| (what.to_owned(), Vec::new())).into(),
    };
    let populate = Populate::connect(&lab.kubeconfig()?)?;
    let mut before = 0;
    for services in effort.pick(&[0, 1000][..], &[0, 1000, 10_000, 100_000][..]).iter().copied() {
        populate.services(before..services, 2)?;
        wait_applied(&run_dir, services)?;
        std::thread::sleep(SETTLE);
        before = services;
        let resident = machine::memory_mb(pid, "VmRSS")?;
        growth.columns.push(format!("{services}"));
        let figures = [resident, machine::memory_mb(pid, "VmHWM")?, machine::cpu_seconds(pid)?];
        for ((_, row), figure) in growth.rows.iter_mut().zip(figures) {
            row.push(figure);
        }
        match services {
            0 => section.rows.push(Row::new("idle", "MB", resident).target(Target::AtMost(25.0))),
            1000 => {}
            10_000 => section.rows.push(Row::new("10000 services, 2 endpoints each", "MB", resident).target(Target::AtMost(120.0))),
            _ => section.rows.push(Row::new(format!("{services} services, 2 endpoints each"), "MB", resident)),
        }
    }
    section.growth = Some(growth);
    section.notes.push("services and EndpointSlices made through the lab's API; VmRSS of `bowline agent` on a lab of one node, 3 s after they were in the kernel".into());
    section.notes.push("the target at 10,000 services is for 5,000 nodes and 150,000 pods beside, which this lab has not".into());
    Ok(section)
}

/// Where the agent of the lab's only node has its sockets.
pub(crate) fn run_dir(lab: &str) -> Result<PathBuf> {
    let dirs = bowline_lab::agent_run_dirs(lab)?;
    dirs.into_iter().next().map(|(_, dir)| dir).context("a lab without nodes")
}

/// The process that listens on the agent's socket.
pub(crate) fn agent_pid(run_dir: &Path) -> Result<u32> {
    let path = run_dir.join("agent.sock");
    let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
}

/// Waits until at least so many services are in the kernel.
pub(crate) fn wait_applied(run_dir: &Path, services: u32) -> Result<()> {
    let path = run_dir.join("agent.sock");
    let begun = Instant::now();
    loop {
        let mut bytes = Vec::new();
        UnixStream::connect(&path).and_then(|mut stream| stream.read_to_end(&mut bytes)).with_context(|| path.display().to_string())?;
        let status: Value = serde_json::from_slice(&bytes).context("the agent's status")?;
        let of = |key: &str| status.pointer(key).and_then(Value::as_u64).unwrap_or(0);
        if of("/cluster/services") >= u64::from(services) && of("/appliedRevision") == of("/revision") && of("/revision") > 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(600), "{services} services are not in the kernel after 600 s: {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

//! Starting a container's process and hearing of its end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::Kubelet;
use super::env::{self, Env, Facts};
use super::image::Program;
use super::pod::Sandbox;
use super::volumes;
use crate::enter::{Bind, ENTERED, Enter, LISTENING};

/// How long a container may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// A container's process that has just begun.
pub(super) struct Started {
    /// The process.
    pub(super) child: tokio::process::Child,
    /// Its number in the lab.
    pub(super) pid: u32,
    /// Its environment.
    pub(super) env: Env,
}

/// Starts a container. When this returns, the command runs in its place; the echo server even listens.
pub(super) async fn start(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    sandbox: &Sandbox,
    facts: &Facts,
    volumes: &BTreeMap<String, PathBuf>,
) -> Result<Started> {
    let env = env::of(kubelet, pod, container, facts).await?;
    let wanted = container.image.as_deref().unwrap_or_default();
    let image = kubelet.lab.options.images.iter().find(|image| image.is(wanted));
    let program = Program::of(container, &env, &kubelet.node, image);
    let mut enter = Enter::of(sandbox.holder.pid(), sandbox.cgroup.clone(), program.argv());
    enter.binds = volumes::binds(pod, container, volumes, kubelet.api.pods.is_some())?;
    enter.binds.extend(image.map(|image| Bind { source: image.program.clone(), target: image.path(), read_only: true }));
    enter.env = Some(env.clone());
    enter.cwd = container.working_dir.as_ref().filter(|_| matches!(program, Program::Command(_))).map(PathBuf::from);
    enter.notify = true;
    enter.keep_stdin = matches!(program, Program::Echo(_));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let log = crate::daemon::pod_log(&kubelet.lab, pod, &container.name)?;
    let mut command = tokio::process::Command::from(enter.command()?);
    command.stdin(OwnedFd::from(theirs)).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("start the container")?;
    // The command holds the other end: without this one here, its end would never be heard.
    drop(command);
    let awaited = if enter.keep_stdin { LISTENING } else { ENTERED };
    let begun = tokio::time::timeout(PATIENCE, hear(UnixStream::from_std(ours)?, awaited)).await;
    let pid = child.id();
    match (begun, pid) {
        (Ok(true), Some(pid)) => Ok(Started { child, pid, env }),
        (Ok(_), _) => {
            let status = child.wait().await?;
            bail!("it ended at once ({status}); see its log")
        }
        (Err(_), _) => {
            child.kill().await?;
            bail!("it had not begun after {} s", PATIENCE.as_secs())
        }
    }
}

/// Whether `awaited` comes before the other end closes.
async fn hear(mut socket: UnixStream, awaited: u8) -> bool {
    loop {
        match socket.read_u8().await {
            Ok(byte) if byte == awaited => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// A process's exit code as containers report it.
pub(super) fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

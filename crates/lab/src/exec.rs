//! Running a command inside a lab from outside, with standard input, output and exit status passed through.
//!
//! The caller joins the lab's process namespace and starts the command there, so that /proc is true for it and it ends
//! with the lab; the command itself then joins cgroup and namespaces like any process of the lab.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{refused, require_up};
use crate::control::{self, Reply, Request, Whom};
use crate::enter::Enter;
use crate::ns::Namespace;
use crate::place::Place;

/// Runs `argv` where `whom` is; its exit status.
pub(crate) fn run(place: &Place, whom: Whom, argv: Vec<String>) -> Result<u8> {
    let lab = require_up(place)?;
    let target = match control::ask(place, &Request::Find { whom })? {
        Reply::Found(target) => target,
        Reply::Refused { why } => return Err(refused(place, why)),
        Reply::Done { .. } => return Err(refused(place, "an answer to another question".to_owned())),
    };
    let env = target.env.map(|mut env| {
        env.extend(std::env::var("TERM").map(|term| ("TERM".to_owned(), term)));
        env
    });
    let enter = Enter {
        proc_root: lab.proc_root(),
        target: Some(target.pid),
        namespaces: Namespace::NODE.to_vec(),
        cgroup: Some(target.cgroup),
        env,
        die_with_parent: true,
        argv,
        ..Enter::default()
    };
    let processes = fs::File::open(format!("/proc/{}/ns/pid", lab.pid)).context("open the lab's process namespace")?;
    let mut command = enter.command()?;
    command.stdin(std::process::Stdio::inherit());
    // Signals must be heard before the command starts, and no thread can be started after the namespace is joined: a
    // runtime of this thread alone does for both.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // The terminal sends these to the command too; it decides.
        let _heard = [signal(SignalKind::interrupt())?, signal(SignalKind::quit())?, signal(SignalKind::hangup())?];
        rustix::thread::move_into_link_name_space(processes.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .context("join the lab's process namespace")?;
        let mut child = tokio::process::Command::from(command).spawn().context("start the command")?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                _ = terminate.recv() => {
                    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
                        let _ = rustix::process::kill_process(pid, Signal::TERM);
                    }
                }
            }
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
        Ok(u8::try_from(code).unwrap_or(255))
    })
}

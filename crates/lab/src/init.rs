//! Process 1 of a lab: starts the daemon and reaps whatever is left without a parent.
//!
//! Its command line (`bowline lab-init NAME OPTIONS`) is the only record that a lab is up: `lab list`, `down` and the
//! exec commands find it in /proc. When it ends, the kernel ends every process of the lab with it.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::WaitOptions;

use crate::enter::own_command;
use crate::ns::{self, Namespace};
use crate::place::Place;

/// The hidden command's name.
pub(crate) const COMMAND: &str = "lab-init";

/// The hidden command.
pub(crate) fn run(name: &str, options: &str) -> u8 {
    match supervise(name, options) {
        Ok(status) => status,
        Err(error) => {
            crate::progress::report_failure("host", &error);
            1
        }
    }
}

fn supervise(name: &str, options: &str) -> Result<u8> {
    // A session of its own: neither a hang-up nor Ctrl-C on the terminal reaches the lab.
    let _ = rustix::process::setsid();
    let place = Place::of(name);
    ns::join_cgroup(&place.cgroup()?.join("daemon"))?;
    ns::make(&[Namespace::Mnt])?;
    ns::make_mounts_private()?;
    ns::mount("proc", Path::new("/proc"), "").context("show the lab's own processes")?;
    let daemon = own_command().args([crate::daemon::COMMAND, name, options]).spawn().context("start the daemon")?;
    // The pipe of `lab up` must end with the daemon's copy of it.
    rustix::stdio::dup2_stdout(std::fs::File::open("/dev/null")?)?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == daemon.id() => {
                return Ok(status.exit_status().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
            }
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for processes"),
        }
    }
}

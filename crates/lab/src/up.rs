//! `bowline lab up`: starts process 1 of a lab and tells of its progress.
//!
//! Invariant: when this ends without success, by whatever way but a kill, nothing of the lab is left but its logs; after
//! a kill the daemon ends by itself, and the next `up` or `down` sweeps.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bowline_model::checked::Problem;
use rustix::fs::FlockOperation;
use rustix::thread::UnshareFlags;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::cli::{BAD, INTERRUPTED};
use crate::control::{self, Reply, Request};
use crate::enter::own_command;
use crate::options::{Agents, Options, UpArgs};
use crate::place::Place;
use crate::progress::{Marks, ProblemError, Progress, problem_of};
use crate::remote::Remote;
use crate::{init, ns, place};

/// A lab needs the rights of root.
pub(crate) fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let problem = Problem::new(1002, "a lab needs root", "this process", "run with sudo");
    Err(ProblemError(problem.because("it makes network, mount and cgroup namespaces")).into())
}

/// The command.
pub(crate) fn run(args: &UpArgs) -> Result<u8> {
    let begin = Instant::now();
    let options = args.options().map_err(ProblemError)?;
    require_root()?;
    check_host()?;
    let place = Place::of(&options.name);
    let lock = lock()?;
    if place.running().is_some() {
        let problem = Problem::new(
            1004,
            "a lab of this name is up",
            format!("lab {}", place.name),
            format!("bowline lab down --name {0}, or choose another --name", place.name),
        );
        return Err(ProblemError(problem).into());
    }
    if let Some(server) = &options.apiserver {
        check_sharing(server)?;
    }
    place.remove(false).context("remove what an earlier lab left")?;
    for dead in place::left_over().iter().map(|name| Place::of(name)).filter(|dead| !dead.directory().exists()) {
        // Of a lab that went with its process only empty cgroups are left.
        dead.remove(false)?;
    }
    fs::create_dir_all(place.logs())?;
    let output = start(&place, &options, args.leash)?;
    drop(lock);
    let mut report = Report { begin, marks: Marks::here(), place: &place };
    report.step("host", "namespaces, overlay, cgroup2")?;
    let limit = (!args.no_wait).then_some(args.wait);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(follow(&mut report, output, limit));
    match outcome {
        Ok(Outcome::Up) => report.next(&options).map(|()| 0),
        Ok(Outcome::Interrupted) => {
            sweep(&place, false)?;
            writeln!(std::io::stderr(), "interrupted; lab {} is gone", place.name)?;
            Ok(INTERRUPTED)
        }
        Ok(Outcome::Failed { step, problem }) => {
            report.failure(&step, &problem)?;
            sweep(&place, true)?;
            Ok(BAD)
        }
        Err(error) => {
            report.failure("host", &problem_of("lab up", &error))?;
            sweep(&place, true)?;
            Ok(BAD)
        }
    }
}

fn sweep(place: &Place, keep_logs: bool) -> Result<()> {
    place.kill()?;
    place.remove(keep_logs).map(|_| ())
}

/// What every lab needs of the machine.
fn check_host() -> Result<()> {
    let known = fs::read_to_string("/proc/filesystems").context("read /proc/filesystems")?;
    for kind in ["overlay", "bpf", "tmpfs"] {
        if !known.lines().any(|line| line.split_whitespace().next_back() == Some(kind)) {
            let problem = Problem::new(
                1003,
                "the machine refused what a lab needs",
                format!("file system {kind}"),
                format!("load it (modprobe {kind}), or use a kernel that has it"),
            );
            return Err(ProblemError(problem.because("it is not in /proc/filesystems")).into());
        }
    }
    ns::cgroup2_root().map(|_| ()).map_err(|error| {
        let problem = Problem::new(
            1003,
            "the machine refused what a lab needs",
            "cgroup2",
            "mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        );
        ProblemError(problem.because(format!("{error:#}"))).into()
    })
}

/// Every lab has a node n1: two at one API server would fight for it.
fn check_sharing(server: &Path) -> Result<()> {
    let wanted = Remote::read(server)?.url();
    let same = |other: &Path| Remote::read(other).is_ok_and(|other| other.url() == wanted);
    let Some(other) = place::running().into_iter().find(|lab| lab.options.apiserver.as_deref().is_some_and(same)) else { return Ok(()) };
    let fix = format!("bowline lab down --name {0}, or give another server", other.options.name);
    let problem = Problem::new(1001, "the lab's options do not fit together", "--apiserver", fix);
    Err(ProblemError(problem.because(format!("lab {} has its nodes at {wanted} already", other.options.name))).into())
}

/// Two `lab up` at once look for each other's lab in turn.
fn lock() -> Result<OwnedFd> {
    let directory = Place::all();
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let file: OwnedFd = fs::File::open(&directory)?.into();
    rustix::fs::flock(&file, FlockOperation::LockExclusive).context("wait for another lab up")?;
    Ok(file)
}

/// Starts process 1; its progress comes out of what is returned.
fn start(place: &Place, options: &Options, leash: Option<i32>) -> Result<OwnedFd> {
    let input = match leash {
        Some(pid) => {
            let pid = rustix::process::Pid::from_raw(pid).context("--leash wants the number of a process")?;
            let leash = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
            Stdio::from(leash.context("open the process of --leash")?)
        }
        None => Stdio::null(),
    };
    let log = fs::File::create(place.logs().join("lab.log"))?;
    let mut command = own_command();
    command
        .args([init::COMMAND, &options.name, &serde_json::to_string(options)?])
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(log);
    // The next child is the first of a new process namespace; no thread may be started in between.
    ns::unshare(UnshareFlags::NEWPID).context("make a process namespace")?;
    let mut child = command.spawn().context("start process 1 of the lab")?;
    Ok(child.stdout.take().context("no output of process 1")?.into())
}

enum Outcome {
    Up,
    Failed { step: String, problem: Problem },
    Interrupted,
}

/// Shows progress until the lab is up, fails, is interrupted or takes too long.
async fn follow(report: &mut Report<'_>, output: OwnedFd, limit: Option<Duration>) -> Result<Outcome> {
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(output)?;
    let mut lines = BufReader::new(pipe).lines();
    let deadline = tokio::time::sleep(limit.unwrap_or(Duration::from_secs(300)).saturating_sub(report.begin.elapsed()));
    let mut deadline = std::pin::pin!(deadline);
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut next = "underlay".to_owned();
    loop {
        let line = tokio::select! {
            line = lines.next_line() => line?,
            _ = interrupt.recv() => return Ok(Outcome::Interrupted),
            _ = terminate.recv() => return Ok(Outcome::Interrupted),
            () = &mut deadline => {
                let fix = format!("bowline lab logs --name {}; or wait longer: --wait 2m", report.place.name);
                let pending = match control::ask(report.place, &Request::Pending) {
                    Ok(Reply::Done { text }) => text,
                    Ok(Reply::Found(_) | Reply::Refused { .. }) | Err(_) => String::new(),
                };
                let problem = Problem::new(1007, "the lab was not ready in time", format!("step {next}"), fix).because(pending);
                return Ok(Outcome::Failed { step: next, problem });
            }
        };
        let Some(line) = line else {
            let problem =
                Problem::new(1005, "the lab did not come up", format!("step {next}"), "see its log below").because("its daemon ended");
            return Ok(Outcome::Failed { step: next, problem });
        };
        match serde_json::from_str(&line).with_context(|| format!("unexpected output {line:?}"))? {
            Progress::Done { step, detail } => {
                report.step(&step, &detail)?;
                next = following(&step).to_owned();
                if limit.is_none() && step == "api" {
                    return Ok(Outcome::Up);
                }
            }
            Progress::Failed { step, problem } => return Ok(Outcome::Failed { step, problem }),
            Progress::Ready => return Ok(Outcome::Up),
        }
    }
}

fn following(step: &str) -> &'static str {
    match step {
        "underlay" => "api",
        "api" => "agents",
        _ => "pods",
    }
}

struct Report<'a> {
    begin: Instant,
    marks: Marks,
    place: &'a Place,
}

impl Report<'_> {
    fn seconds(&self) -> String {
        format!("{:.1}s", self.begin.elapsed().as_secs_f64())
    }

    fn step(&self, step: &str, detail: &str) -> Result<()> {
        writeln!(std::io::stderr(), " {} {step:<10} {detail:<30} {}", self.marks.good(), self.seconds())?;
        Ok(())
    }

    fn next(&self, options: &Options) -> Result<()> {
        let name = if options.name == "default" { String::new() } else { format!(" --name {}", options.name) };
        if options.bare {
            writeln!(std::io::stdout(), "Ready in {}. Next:\n  bowline lab node-exec n1{name} -- COMMAND", self.seconds())?;
            return Ok(());
        }
        writeln!(
            std::io::stdout(),
            "Ready in {}. Next:\n  export KUBECONFIG=$(bowline lab kubeconfig{name})\n  kubectl get pods -A\n  bowline check",
            self.seconds()
        )?;
        self.warn_of_problems(options)
    }

    /// A lab can be up and its network refused, say host-gw between nodes that are no neighbours: the product's own word on that.
    fn warn_of_problems(&self, options: &Options) -> Result<()> {
        if options.agents == Agents::None {
            return Ok(());
        }
        let status = own_command().args(["status", "--name", &options.name]).stdin(Stdio::null()).output().context("run bowline status")?;
        if status.status.code() == Some(i32::from(BAD)) {
            let told = String::from_utf8_lossy(&status.stdout);
            let problems = told.split("\n\n").filter(|part| part.contains("BW"));
            writeln!(std::io::stderr(), "\n! the agents report problems:\n{}", problems.collect::<Vec<_>>().join("\n").trim_end())?;
        }
        Ok(())
    }

    fn failure(&self, step: &str, problem: &Problem) -> Result<()> {
        let mut errors = std::io::stderr();
        writeln!(errors, " {} {step:<10} {:<30} {}", self.marks.bad(), "", self.seconds())?;
        writeln!(errors, "{problem}")?;
        let log = self.place.logs().join("lab.log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        writeln!(errors, "The last lines of {}:", log.display())?;
        for line in lines.iter().skip(lines.len().saturating_sub(10)) {
            writeln!(errors, "  {line}")?;
        }
        Ok(())
    }
}

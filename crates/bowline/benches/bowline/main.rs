//! `make bench`: Bowline measured beside its peers, in one run and in turn.
//!
//! Invariant: a figure that is compared comes from the same run as what it is compared with; only ratios survive a change of machine. Every
//! link, rule and process is in network namespaces of the bench's own or on loopback, and goes with it. Words select benches by name; a
//! bench that cannot run says why and the others go on.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a bench is there to run programs, take times and print them")]

mod cluster;
mod cni;
mod dns;
mod dnsload;
mod enforced;
mod first;
mod kubeproxy;
mod machine;
mod memory;
mod paths;
mod peers;
mod policies;
#[path = "../../tests/common/populate.rs"]
#[allow(dead_code, reason = "tests use the other part")]
mod populate;
mod proxies;
mod report;
mod services;
mod sockets;
mod stats;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use machine::Machine;
use report::{Report, Section};

/// The executable that is measured.
pub(crate) const BOWLINE: &str = env!("CARGO_BIN_EXE_bowline");

/// Measure Bowline beside its peers.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench")]
struct Args {
    /// Which benches; all of them if none is named
    names: Vec<Bench>,
    /// Fewer rounds and smaller sizes: to see that it works
    #[arg(long)]
    quick: bool,
    /// What is printed; the JSON is written to target/bench in any case
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// What cargo says to every bench
    #[arg(long, hide = true)]
    bench: bool,
    /// The part that runs on a lab's node or in a pod
    #[arg(long, hide = true, value_enum)]
    inside: Option<Inside>,
    /// What the client there connects to
    #[arg(long, hide = true)]
    target: Option<std::net::SocketAddr>,
    /// It has a mount namespace of its own
    #[arg(long, hide = true)]
    apart: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Parts of benches that run on a lab's node or in a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Inside {
    Cni,
    Client,
    Echo,
    Flows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    Cni,
    Services,
    Sockets,
    First,
    Proxies,
    Policies,
    Enforced,
    Paths,
    Dns,
    Memory,
}

impl Bench {
    const ALL: [Bench; 10] = [
        Bench::Services,
        Bench::Sockets,
        Bench::First,
        Bench::Proxies,
        Bench::Policies,
        Bench::Enforced,
        Bench::Paths,
        Bench::Cni,
        Bench::Dns,
        Bench::Memory,
    ];

    fn name(self) -> &'static str {
        match self {
            Bench::Cni => "cni",
            Bench::Services => "services",
            Bench::Sockets => "sockets",
            Bench::First => "first",
            Bench::Proxies => "proxies",
            Bench::Policies => "policies",
            Bench::Enforced => "enforced",
            Bench::Paths => "paths",
            Bench::Dns => "dns",
            Bench::Memory => "memory",
        }
    }

    fn measure(self, effort: Effort) -> Result<Section> {
        match self {
            Bench::Cni => cni::measure(effort),
            Bench::Services => services::measure(effort),
            Bench::Sockets => sockets::measure(effort),
            Bench::First => first::measure(effort),
            Bench::Proxies => proxies::measure(effort),
            Bench::Policies => policies::measure(effort),
            Bench::Enforced => enforced::measure(effort),
            Bench::Paths => paths::measure(effort),
            Bench::Dns => dns::measure(effort),
            Bench::Memory => memory::measure(effort),
        }
    }
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough to see that it works.
    Quick,
    /// Enough to publish.
    Full,
}

impl Effort {
    /// One of two amounts.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Effort::Quick => quick,
            Effort::Full => full,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let result = match (args.inside, args.apart) {
        (Some(Inside::Cni), _) => cni::inside(effort),
        (Some(Inside::Client), _) => args.target.context("a client needs a target").and_then(proxies::inside),
        (Some(Inside::Echo), _) => enforced::echo(),
        (Some(Inside::Flows), _) => args.target.context("flows need a target").and_then(enforced::flows),
        (None, true) => run(&args, effort),
        (None, false) => apart(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this program again in a mount namespace of its own, for mounts that go with it, in whatever way it ends.
fn apart() -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "the bench makes network namespaces: run it as root (sudo make bench)");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .arg("--apart");
    let status = command.status().context("unshare (util-linux)")?;
    anyhow::ensure!(status.success(), "{status}");
    Ok(())
}

fn run(args: &Args, effort: Effort) -> Result<()> {
    let selected = |bench: &Bench| args.names.is_empty() || args.names.contains(bench);
    // Whatever else the machine does comes after, for ours and peers alike: threads and children take this over.
    rustix::process::setpriority_process(None, -20).context("a better priority")?;
    let mut report = Report::new(Machine::look(), effort);
    if args.output == Output::Table {
        println!("{}", report.head());
    }
    let mut failed = Vec::new();
    for bench in Bench::ALL.into_iter().filter(selected) {
        eprintln!("measuring {} ...", bench.name());
        let before = machine::load_average();
        match bench.measure(effort) {
            Ok(mut section) => {
                section.load_before = before;
                if args.output == Output::Table {
                    println!("{section}");
                }
                report.sections.push(section);
            }
            Err(error) => {
                eprintln!("{}: not measured: {error:#}", bench.name());
                failed.push(bench.name());
            }
        }
    }
    let text = serde_json::to_string_pretty(&report)?;
    let path = results_directory()?.join("latest.json");
    std::fs::write(&path, &text).with_context(|| path.display().to_string())?;
    match args.output {
        Output::Json => println!("{text}"),
        Output::Table => println!("results as JSON: {}", path.display()),
    }
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// `bench` in the target directory, which is three levels above this executable.
fn results_directory() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let directory = exe.ancestors().nth(3).context("this executable is not in a target directory")?.join("bench");
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

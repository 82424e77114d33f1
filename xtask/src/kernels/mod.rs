//! Runs tests on other kernels: Debian's, booted by emulation with this machine's files under a layer that is thrown away.
//!
//! The machine is QEMU's without hardware virtualization, so that it runs wherever the tests do; it takes some ten times as long. What is run
//! are the executables that were built here, in the same directory.

mod boot;
mod package;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

/// What Debian 12 has, and Debian 13.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// The fast path and the socket hooks, with packets, by the tests of the crate that loads them.
const UNITS: &[&str] = &["bpf::", "netlink::", "nft::", "conntrack::", "sockdiag::", "nflog::"];

/// The same with an agent: services at the socket, and nothing left. Not those rows that have to be within a time, nor
/// traffic at a rate that an emulated machine has not.
const ROWS: &[&str] = &["sockets", "loopback", "refused", "kept", "uninstall-ebpf"];

/// How much more patience the tests are to have.
const SLOW: &str = "BOWLINE_SLOW=10";

/// Flags of `cargo xtask kernels`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask kernels", about = "The tests of the kernel crate and of an agent on Debian's kernels, in virtual machines")]
struct Args {
    /// Kernels by their first two numbers
    #[arg(default_values_t = SERIES.map(str::to_owned))]
    series: Vec<String>,
    /// Seconds for each test executable
    #[arg(long, default_value_t = 1500)]
    limit: u64,
    /// Names of the kernel crate's tests, or parts of them, instead of the usual ones
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    units: Option<Vec<String>>,
    /// Rows of the test of conduct instead of the usual ones
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    rows: Option<Vec<String>>,
    /// This command instead of the tests
    #[arg(last = true)]
    command: Vec<String>,
}

/// What was run on a kernel.
struct Outcome {
    series: String,
    version: String,
    what: &'static str,
    good: bool,
    last: String,
    took: Duration,
}

/// The chore.
pub(crate) fn run(rest: &[String]) -> Result<bool> {
    let args = Args::parse_from(std::iter::once("kernels".to_owned()).chain(rest.iter().cloned()));
    let runs = if args.command.is_empty() { tests(&args)? } else { vec![("command", args.command.clone())] };
    let mut outcomes = Vec::new();
    for series in &args.series {
        let Some(kernel) = package::kernel(series)? else {
            println!("skipped: apt knows no kernel {series} (apt-get update, or the distribution has none)");
            continue;
        };
        let machine = boot::Machine::new(&kernel)?;
        for (what, command) in &runs {
            println!("\n== {what} on Linux {}", kernel.version);
            let begun = Instant::now();
            let ended = machine.run(command, Duration::from_secs(args.limit))?;
            outcomes.push(Outcome {
                series: series.clone(),
                version: kernel.version.clone(),
                what,
                good: ended.status == Some(0),
                last: ended.last,
                took: begun.elapsed(),
            });
        }
    }
    println!();
    for outcome in &outcomes {
        let Outcome { series, version, what, good, last, took } = outcome;
        let word = if *good { "ok" } else { "FAILED" };
        println!("{series:<6} {version:<24} {what:<10} {word:<7} {:>5} s  {last}", took.as_secs());
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.good).count();
    println!("{} passed, {failed} failed", outcomes.len() - failed);
    Ok(failed == 0 && !outcomes.is_empty())
}

/// The test executables with their words.
fn tests(args: &Args) -> Result<Vec<(&'static str, Vec<String>)>> {
    let units = executable(&["--package", "bowline-kernel", "--lib"])?;
    let conduct = executable(&["--package", "bowline", "--test", "conduct"])?;
    let words = |program: &Path, head: &[&str], own: &Option<Vec<String>>, usual: &[&str]| {
        let usual = || usual.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let head = head.iter().map(|word| (*word).to_owned());
        ["env".to_owned(), SLOW.to_owned(), program.display().to_string()]
            .into_iter()
            .chain(head)
            .chain(own.clone().unwrap_or_else(usual))
            .collect::<Vec<_>>()
    };
    // One at a time: the emulated machine is slow, and some of them have to be within a time.
    Ok(vec![("units", words(&units, &["--test-threads", "1"], &args.units, UNITS)), ("conduct", words(&conduct, &[], &args.rows, ROWS))])
}

/// Builds a test and says where it is.
fn executable(of: &[&str]) -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["test", "--no-run", "--message-format", "json-render-diagnostics"])
        .args(of)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    ensure!(output.status.success(), "cargo test --no-run {}: {}", of.join(" "), output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut found = messages.filter_map(|message| {
        let is_test = message.get("profile")?.get("test")?.as_bool()?;
        message.get("executable")?.as_str().filter(|_| is_test).map(PathBuf::from)
    });
    match found.next_back() {
        Some(path) => Ok(path),
        None => bail!("cargo built no test by {}", of.join(" ")),
    }
}

//! The chores, as sequences of commands with their output passed through.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::tally::Tally;

/// A step of a chore: what it is called, and the command.
struct Step<'a> {
    name: &'a str,
    command: &'a [&'a str],
}

/// Crates whose tests need no root.
const CARGO_TEST: &[&str] = &["cargo", "test", "--workspace", "--no-fail-fast", "--lib", "--bins"];

/// Tests that make network namespaces, one runner after the other.
const LAB_TESTS: &[&str] = &["cargo", "test", "--workspace", "--no-fail-fast", "--test", "*"];

/// Everything that a change must pass; the last line is the count over all runners.
pub(crate) fn test(rest: &[String]) -> Result<bool> {
    need_root("make test makes network namespaces")?;
    let steps = [
        Step { name: "formatting", command: &["cargo", "fmt", "--all", "--check"] },
        Step { name: "lints", command: &["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"] },
        Step { name: "unit and property tests", command: CARGO_TEST },
        Step { name: "lab tests", command: LAB_TESTS },
    ];
    let mut tally = Tally::default();
    let mut good = true;
    for step in steps.iter().filter(|s| rest.is_empty() || rest.iter().any(|word| s.name.contains(word.as_str()))) {
        good &= run(step, &mut tally)?;
    }
    good &= licences(&mut tally)?;
    if !good && tally.failed == 0 {
        tally.failed = 1;
    }
    if !tally.failures.is_empty() {
        println!("\n== what failed");
        for line in &tally.failures {
            println!("{line}");
        }
    }
    println!("{tally}");
    Ok(good)
}

/// What needs no root.
pub(crate) fn check() -> Result<bool> {
    let steps = [
        Step { name: "formatting", command: &["cargo", "fmt", "--all", "--check"] },
        Step { name: "lints", command: &["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"] },
        Step {
            name: "pure tests",
            command: &["cargo", "test", "-p", "bowline-model", "-p", "bowline-compile", "-p", "bowline-dataplane", "-p", "bowline-cni"],
        },
    ];
    all(&steps)
}

/// Builds, runs the scenarios in each backend, and leaves a lab to look around in.
pub(crate) fn demo(rest: &[String]) -> Result<bool> {
    need_root("make demo makes network namespaces")?;
    let built = run(&Step { name: "build", command: &["cargo", "build", "--package", "bowline"] }, &mut Tally::default())?;
    if !built {
        return Ok(false);
    }
    let mut command = vec!["cargo", "test", "--quiet", "--package", "bowline", "--test", "scenarios", "--", "--demo"];
    command.extend(rest.iter().map(String::as_str));
    run(&Step { name: "scenarios", command: &command }, &mut Tally::default())
}

/// Removes the demo's labs.
pub(crate) fn demo_down() -> Result<bool> {
    run(
        &Step { name: "demo-down", command: &["cargo", "run", "--quiet", "--package", "bowline", "--", "lab", "down", "--name", "demo"] },
        &mut Tally::default(),
    )
}

/// Measurements beside their peers.
pub(crate) fn bench(rest: &[String]) -> Result<bool> {
    need_root("make bench makes network namespaces")?;
    let mut command = vec!["cargo", "bench", "--package", "bowline", "--bench", "bench", "--"];
    command.extend(rest.iter().map(String::as_str));
    run(&Step { name: "bench", command: &command }, &mut Tally::default())
}

/// Advisories, where cargo-deny and its database are to be had.
pub(crate) fn audit() -> Result<bool> {
    if !have("cargo-deny") {
        bail!("cargo-deny is not installed; run: cargo install cargo-deny --locked");
    }
    run(&Step { name: "advisories", command: &["cargo", "deny", "check"] }, &mut Tally::default())
}

/// The full figures: what takes hours, and is no part of what a change must pass. The last line is the count over all runners.
pub(crate) fn long() -> Result<bool> {
    need_root("make long makes network namespaces")?;
    let steps = [
        Step {
            name: "random clusters",
            command: &["env", "PROPTEST_CASES=50000", "cargo", "test", "--release", "-p", "bowline-dataplane", "--lib", "lowered"],
        },
        Step { name: "truth tables with packets", command: &["cargo", "test", "-p", "bowline", "--test", "policies", "--", "--long"] },
        Step { name: "conduct", command: &["cargo", "test", "-p", "bowline", "--test", "conduct", "--", "--long"] },
        Step { name: "faults", command: &["cargo", "test", "--release", "-p", "bowline", "--test", "faults", "--", "--long"] },
    ];
    all(&steps)
}

/// Tests that kill few mutants in much time: those that the others leave alive are shown to them, too.
const SLOW: &[&str] = &["the_oracle_and_the_compiler_say", "seventy_thousand", "properties", "ipam"];

/// Changes what decides on policies in every way that `.cargo/mutants.toml` names, one at a time: whatever passes all tests is untested.
pub(crate) fn mutants() -> Result<bool> {
    if !have("cargo-mutants") {
        bail!("cargo-mutants is not installed; run: cargo install cargo-mutants --locked");
    }
    let mut quick = vec!["cargo", "mutants", "-p", "bowline-compile", "--output", "target", "--", "--"];
    quick.extend(SLOW.iter().flat_map(|test| ["--skip", test]));
    // What lives on through them is no failure yet.
    run(&Step { name: "mutants by the quick tests", command: &quick }, &mut Tally::default())?;
    let all = ["cargo", "mutants", "-p", "bowline-compile", "--output", "target", "--iterate"];
    run(&Step { name: "the rest by all tests", command: &all }, &mut Tally::default())
}

/// Licences of everything that is linked, against deny.toml: by cargo-deny where it is installed, else by cargo's own metadata.
fn licences(tally: &mut Tally) -> Result<bool> {
    if have("cargo-deny") {
        return run(&Step { name: "licences", command: &["cargo", "deny", "--offline", "check", "licenses", "bans", "sources"] }, tally);
    }
    println!("\n== licences (by cargo metadata; cargo-deny is not installed)");
    let allowed = allowed_licences(&std::fs::read_to_string("deny.toml").context("deny.toml")?);
    let output = Command::new("cargo").args(["metadata", "--format-version", "1", "--locked"]).output().context("cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata's answer")?;
    let packages = metadata.get("packages").and_then(|p| p.as_array()).context("packages in cargo metadata's answer")?;
    let mut good = true;
    for package in packages {
        let text = |key: &str| package.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        if !licence_allowed(&text("license"), &allowed) {
            println!("{} {}: licence `{}` is not in deny.toml", text("name"), text("version"), text("license"));
            good = false;
        }
    }
    println!("{} packages, {}", packages.len(), if good { "all allowed" } else { "not all allowed" });
    Ok(good)
}

fn allowed_licences(deny: &str) -> Vec<String> {
    let list = deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
    list.split(',').map(|item| item.trim().trim_matches('"').to_owned()).filter(|item| !item.is_empty()).collect()
}

/// SPDX expressions of the forms that crates use: `A`, `A OR B`, `A AND B`, `A/B`, and parentheses around them.
fn licence_allowed(expression: &str, allowed: &[String]) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    // `MPL-2.0+` is that version or a later one: allowed where the version is.
    let one = |term: &str| allowed.iter().any(|a| a == term.trim().trim_end_matches('+'));
    if expression.contains('(') {
        return plain.split(" AND ").all(|part| part.split(" OR ").any(one));
    }
    plain.split(" OR ").any(|alternative| alternative.split(" AND ").all(one))
}

fn need_root(why: &str) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let root = status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if root { Ok(()) } else { bail!("{why}: run it as root (sudo make ...)") }
}

fn have(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// One step after the other, also after one that fails; the last line is the count over all of them.
fn all(steps: &[Step<'_>]) -> Result<bool> {
    let mut tally = Tally::default();
    let mut good = true;
    for step in steps {
        good &= run(step, &mut tally)?;
    }
    println!("{tally}");
    Ok(good)
}

/// Runs one command with its output passed through and its closing lines counted. stderr goes where ours goes.
fn run(step: &Step<'_>, tally: &mut Tally) -> Result<bool> {
    println!("\n== {}", step.name);
    let started = Instant::now();
    let (program, arguments) = step.command.split_first().context("an empty command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading its output")?;
            println!("{line}");
            tally.hear(&line);
        }
    }
    let status = child.wait().context("waiting for it")?;
    println!("-- {}: {} in {:.1} s", step.name, if status.success() { "ok" } else { "FAILED" }, started.elapsed().as_secs_f64());
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_are_judged_by_their_operators() {
        let allowed = allowed_licences("[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"Unicode-3.0\"]\n");
        for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 AND MIT", "MIT+"] {
            assert!(licence_allowed(good, &allowed), "{good}");
        }
        for bad in ["GPL-3.0", "", "MIT AND GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
            assert!(!licence_allowed(bad, &allowed), "{bad}");
        }
    }
}

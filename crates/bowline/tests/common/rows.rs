//! A runner for rows: checks that share a lab, a line for each, and a closing line that counts.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use super::generate;
use super::lab::{self, Lab, Setup};

/// What a check is given.
pub(crate) struct Bench {
    lab: Option<Lab>,
    /// The full figures are wanted, not those of every change.
    pub(crate) long: bool,
}

impl Bench {
    /// The lab of the check's group.
    pub(crate) fn lab(&self) -> Result<&Lab> {
        self.lab.as_ref().context("this group of checks has no lab")
    }

    /// One figure for every change, another for the long run.
    pub(crate) fn figure(&self, short: usize, long: usize) -> usize {
        if self.long { long } else { short }
    }
}

/// One check: a word to select it by, what it shows, and the check, which tells what was seen.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) check: fn(&Bench) -> Result<String>,
}

/// A check cannot be made on this machine, or is not made on every change: the error that says so, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Skipped(pub(crate) String);

/// How a check ended.
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Checks that share a lab, in order. Without a set-up each makes its own.
pub(crate) struct Group {
    pub(crate) setup: Option<fn() -> Setup>,
    pub(crate) rows: &'static [Row],
}

/// Runs the groups; words select rows by name, `--long` (or BOWLINE_LONG=1) the full figures. Also the generators of traffic start here.
pub(crate) fn main(groups: &[Group]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--generator", rest)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return generate::main(rest);
    }
    let all: usize = groups.iter().map(|group| group.rows.len()).sum();
    if let Some(reason) = lab::missing() {
        println!("skipped: {reason}");
        println!("0 passed, 0 failed, {all} skipped");
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    lab::end_with_interrupts();
    let long = words.iter().any(|w| w == "--long") || std::env::var_os("BOWLINE_LONG").is_some_and(|v| v == "1");
    let only: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.starts_with("--")).collect();
    let wanted = |row: &Row| only.is_empty() || only.contains(&row.name);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    println!("{:<16} {:<44} {:<4} {:>6}  seen", "check", "shows", "", "time");
    for group in groups {
        let rows: Vec<&Row> = group.rows.iter().filter(|row| wanted(row)).collect();
        if rows.is_empty() {
            continue;
        }
        let bench = match group.setup.map(|setup| setup().up()).transpose() {
            Ok(lab) => Bench { lab, long },
            Err(error) => {
                println!("{:<16} the lab did not come up: {error:#}", rows.first().map_or("", |row| row.name));
                failed += rows.len();
                continue;
            }
        };
        for row in rows {
            match run(row, &bench) {
                Outcome::Passed => passed += 1,
                Outcome::Failed => failed += 1,
                Outcome::Skipped => skipped += 1,
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(row: &Row, bench: &Bench) -> Outcome {
    let started = Instant::now();
    let outcome = (row.check)(bench);
    let (mark, seen, judged) = match &outcome {
        Ok(seen) => ("ok", seen.clone(), Outcome::Passed),
        Err(error) => match error.downcast_ref::<Skipped>() {
            Some(Skipped(why)) => ("skip", why.clone(), Outcome::Skipped),
            None => ("FAIL", format!("{error:#}"), Outcome::Failed),
        },
    };
    println!("{:<16} {:<44} {mark:<4} {:>5.1}s  {seen}", row.name, row.title, started.elapsed().as_secs_f64());
    if let (Outcome::Failed, Some(lab)) = (&judged, &bench.lab) {
        print!("{}", lab.report());
        // The next check finds the lab as the first one did.
        lab.mend();
    }
    judged
}

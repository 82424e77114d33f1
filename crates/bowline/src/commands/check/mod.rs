//! `bowline check`: a connectivity test of the whole cluster, in a namespace of its own that is removed afterwards, also on Ctrl-C.
//!
//! Every probe says what was expected and what came; a failed check names the command that repeats it.

mod probes;
mod stage;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use bowline_model::Problem;
use clap::Args;
use serde::Serialize;

use super::output::{self, Format, Mark};
use probes::{CHECKS, Outcome};
use stage::Stage;

/// Flags of `bowline check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Checks to run, all if none is named
    checks: Vec<String>,
    /// The lab to check; the one that runs if there is only one
    #[arg(long, value_name = "LAB")]
    name: Option<String>,
    /// Only pods of this node ask
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// List the checks and end
    #[arg(long)]
    list: bool,
    /// Leave the check's namespace in place
    #[arg(long)]
    keep: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One check's result.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    check: &'static str,
    result: &'static str,
    probes: usize,
    good: usize,
    seconds: f64,
    failures: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    api_version: &'static str,
    kind: &'static str,
    name: String,
    checks: Vec<Row>,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    if args.list {
        for check in CHECKS {
            let _ = writeln!(std::io::stdout(), "{:<24} {}", check.name, check.title);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.checks.iter().find(|word| CHECKS.iter().all(|c| c.name != word.as_str())) {
        eprintln!("error: no check is called `{unknown}`; `bowline check --list` names them");
        return output::exit(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to run on: {error}");
            return output::exit(output::UNKNOWN);
        }
    };
    runtime.block_on(async {
        tokio::select! {
            code = checked(args) => code,
            _ = tokio::signal::ctrl_c() => {
                if let Ok(lab) = lab_name(args) {
                    let _ = stage::sweep(&lab).await;
                }
                output::exit(130)
            }
        }
    })
}

fn lab_name(args: &CheckArgs) -> Result<String, Problem> {
    let unknown = |why: String| Problem::new(1204, "no cluster to check", "--name", "start one: bowline lab up").because(why);
    match (&args.name, bowline_lab::running().as_slice()) {
        (Some(name), _) => Ok(name.clone()),
        (None, [one]) => Ok(one.clone()),
        (None, []) => Err(unknown("no lab runs".into())),
        (None, many) => Err(unknown(format!("several labs run: {}", many.join(", ")))),
    }
}

async fn checked(args: &CheckArgs) -> ExitCode {
    let lab = match lab_name(args) {
        Ok(lab) => lab,
        Err(problem) => {
            eprintln!("{problem}");
            return output::exit(output::UNKNOWN);
        }
    };
    let stage = match Stage::set(&lab, args.node.as_deref()).await {
        Ok(stage) => stage,
        Err(error) => {
            eprintln!(
                "{}",
                Problem::new(1205, "the check's pods did not come up", format!("lab {lab}"), "look at: bowline status")
                    .because(format!("{error:#}"))
            );
            let _ = stage::sweep(&lab).await;
            return output::exit(output::UNKNOWN);
        }
    };
    let started = Instant::now();
    let mut rows = Vec::new();
    for check in CHECKS.iter().filter(|c| args.checks.is_empty() || args.checks.iter().any(|word| word == c.name)) {
        let begun = Instant::now();
        let outcome = (check.run)(&stage).await;
        let row = row(check.name, outcome, begun.elapsed().as_secs_f64());
        if args.output == Format::Table {
            show(&row, args);
        }
        rows.push(row);
    }
    let swept = if args.keep { Ok(()) } else { stage::sweep(&lab).await };
    conclude(
        args,
        Report { api_version: "bowline.io/v1", kind: "Check", name: lab, checks: rows },
        started.elapsed().as_secs_f64(),
        swept.is_ok(),
    )
}

fn row(check: &'static str, outcome: Outcome, seconds: f64) -> Row {
    let result = match (&outcome.skipped, outcome.failures.is_empty()) {
        (Some(_), _) => "skip",
        (None, true) => "ok",
        (None, false) => "fail",
    };
    Row {
        check,
        result,
        probes: outcome.probes,
        good: outcome.probes - outcome.failures.len(),
        seconds,
        failures: outcome.failures,
        skipped: outcome.skipped,
    }
}

fn show(row: &Row, args: &CheckArgs) {
    let mut out = std::io::stdout();
    let _ = match &row.skipped {
        Some(why) => writeln!(out, " {} {:<24} skipped: {why}", Mark::Skip.text(), row.check),
        None => {
            let mark = if row.failures.is_empty() { Mark::Ok } else { Mark::Fail };
            let code = if row.failures.is_empty() { "" } else { "  BW4201" };
            writeln!(out, " {} {:<24} {}/{}  {:.1}s{code}", mark.text(), row.check, row.good, row.probes, row.seconds)
        }
    };
    for failure in &row.failures {
        let _ = writeln!(out, "     {failure}");
    }
    if !row.failures.is_empty() {
        let name = args.name.as_ref().map_or(String::new(), |n| format!(" --name {n}"));
        let _ = writeln!(out, "     again: bowline check {}{name} --keep", row.check);
    }
}

fn conclude(args: &CheckArgs, report: Report, seconds: f64, swept: bool) -> ExitCode {
    let count = |result: &str| report.checks.iter().filter(|r| r.result == result).count();
    let (failed, probes, good) =
        (count("fail"), report.checks.iter().map(|r| r.probes).sum::<usize>(), report.checks.iter().map(|r| r.good).sum::<usize>());
    let written = if args.output == Format::Table {
        let end = match (args.keep, swept) {
            (true, _) => "kept",
            (false, true) => "cleaned up",
            (false, false) => "not cleaned up: kubectl delete namespace bowline-check",
        };
        let (passed, skipped) = (count("ok"), count("skip"));
        writeln!(std::io::stdout(), "{passed} passed, {failed} failed, {skipped} skipped; {good}/{probes} probes; {seconds:.1}s; {end}")
    } else {
        output::print_document(&report, args.output)
    };
    match (written, failed) {
        (Ok(()), 0) => ExitCode::SUCCESS,
        (Ok(()), _) => output::exit(output::BAD),
        (Err(_), _) => output::exit(output::UNKNOWN),
    }
}

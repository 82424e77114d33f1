//! The repository's chores, called by the Makefile: `cargo xtask demo | demo-down | test | check | bench | audit | image | cluster | conformance |
//! kernels | mutants | long`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a command line program answers on stdout and runs others")]

mod cluster;
mod conformance;
mod house;
mod image;
mod kernels;
mod steps;
mod tally;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match words.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("", words.as_slice()),
    };
    let result = match command {
        "demo" => steps::demo(rest),
        "demo-down" => steps::demo_down(),
        "test" => steps::test(rest),
        "check" => steps::check(),
        "bench" => steps::bench(rest),
        "audit" => steps::audit(),
        "image" => image::run(rest),
        "cluster" => cluster::run(rest),
        "conformance" => conformance::run(rest),
        "kernels" => kernels::run(rest),
        "mutants" => steps::mutants(),
        "long" => steps::long(),
        other => {
            eprintln!(
                "xtask: no chore is called `{other}`; there are demo, demo-down, test, check, bench, audit, image, cluster, conformance, kernels, mutants, long"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

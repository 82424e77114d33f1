//! The lab's commands alone, for working on the lab: `labdev lab up --agents none`.

use std::process::ExitCode;

use bowline_lab::{Hidden, LabCommand};
use clap::Parser;

#[derive(Parser)]
enum Command {
    /// A cluster of network namespaces on this machine
    #[command(subcommand)]
    Lab(LabCommand),
    #[command(flatten)]
    Hidden(Hidden),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Lab(command) => bowline_lab::run(command),
        Command::Hidden(command) => bowline_lab::run_hidden(command),
    }
}

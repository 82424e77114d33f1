//! Bowline: the whole network of a Kubernetes cluster in one binary.
//!
//! Under the name `bowline-cni` the same executable is the CNI plugin, under `loopback` the one of that name; everything else is a
//! subcommand.

#![allow(clippy::disallowed_methods, reason = "the binary is where time, processes and the environment are met")]

mod agent;
mod codes;
mod commands;
mod loopback;
mod watch;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// The whole network of a Kubernetes cluster in one binary.
///
/// New here? `bowline lab up` makes a cluster of network namespaces on this machine; `bowline help BW1101` explains a problem's code.
#[derive(Debug, Parser)]
#[command(name = "bowline", version, disable_help_subcommand = true)]
struct Cli {
    /// Log lines for people or as JSON (for agent and dns; BOWLINE_LOG chooses what is logged: warn, info, debug)
    #[arg(long, global = true, value_name = "FORM", default_value = "text", value_parser = ["text", "json"], env = "BOWLINE_LOG_FORMAT")]
    log_format: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of a node: routes, services, policy, CNI, the feed of names
    Agent(Box<agent::AgentArgs>),
    /// Answer the cluster's names as a Corefile says
    Dns(bowline_dns::Args),
    /// A cluster of network namespaces on this machine
    #[command(subcommand)]
    Lab(bowline_lab::LabCommand),
    /// What the agents do and what is wrong, on this node or in a lab
    Status(commands::status::StatusArgs),
    /// Say why a connection passes or not: services, the way, every policy, and what would let it pass
    Explain(commands::explain::ExplainArgs),
    /// Work with network policies, without a cluster
    #[command(subcommand)]
    Policy(commands::policy::PolicyCommand),
    /// Test the connectivity of a whole cluster: pods, services, names, the outside, policy
    Check(commands::check::CheckArgs),
    /// Remove everything of Bowline from this node, or prove that nothing is left
    Uninstall(commands::uninstall::UninstallArgs),
    /// Print a shell's completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Explain a problem's code (BW1101) or a command
    Help {
        /// A code, or the words of a command
        words: Vec<String>,
    },
    /// One connection or look-up, for `bowline check`
    #[command(hide = true)]
    Probe(commands::probe::ProbeArgs),
    #[command(flatten)]
    Hidden(bowline_lab::Hidden),
}

fn main() -> ExitCode {
    let called_as = std::env::args_os().next().unwrap_or_default();
    match std::path::Path::new(&called_as).file_name().and_then(|name| name.to_str()) {
        Some(agent::install::PLUGIN_NAME) => return bowline_cni::plugin_main(),
        Some(loopback::PLUGIN_NAME) => return loopback::plugin_main(),
        Some(_) | None => {}
    }
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "dns") {
        words = bowline_dns::from_go_style(words);
    }
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match cli.command {
        Command::Agent(args) => serve(&cli.log_format, agent::run(*args)),
        Command::Dns(args) => serve(&cli.log_format, async { Ok(bowline_dns::run(args).await?) }),
        Command::Lab(command) => bowline_lab::run(command),
        Command::Hidden(hidden) => bowline_lab::run_hidden(hidden),
        Command::Status(args) => commands::status::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::Policy(command) => commands::policy::run(&command),
        Command::Check(args) => commands::check::run(&args),
        Command::Uninstall(args) => commands::uninstall::run(&args),
        Command::Probe(args) => commands::probe::run(&args),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "bowline", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Help { words } => help(&words),
    }
}

/// Runs a service in the foreground until it ends.
fn serve(log_format: &str, service: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    start_logging(log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to run on: {error}");
            return ExitCode::from(3);
        }
    };
    match runtime.block_on(service) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("{}{text}", if text.starts_with("error") { "" } else { "error: " });
            ExitCode::FAILURE
        }
    }
}

fn start_logging(format: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BOWLINE_LOG").unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).with_target(false);
    if format == "json" { builder.json().init() } else { builder.init() }
}

fn help(words: &[String]) -> ExitCode {
    if let [code] = words
        && let Some(text) = codes::explain(code)
    {
        let _ = writeln!(std::io::stdout(), "{text}");
        return ExitCode::SUCCESS;
    }
    let mut command = Cli::command();
    command.build();
    let mut at = &mut command;
    for word in words {
        match at.find_subcommand_mut(word) {
            Some(found) => at = found,
            None => {
                eprintln!("error: there is neither a command nor a code `{word}`; `bowline help` lists the commands");
                return ExitCode::from(2);
            }
        }
    }
    let _ = at.print_long_help();
    ExitCode::SUCCESS
}

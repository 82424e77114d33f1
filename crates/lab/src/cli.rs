//! The commands under `bowline lab`, and the hidden ones by which a lab starts its own processes.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bowline_model::checked::Problem;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::control::{self, Reply, Request, Verb, Whom};
use crate::options::{UpArgs, check_name};
use crate::place::{self, Place};
use crate::progress::{ProblemError, problem_of};
use crate::{daemon, echo, enter, exec, holder, init, outside, up};

/// Status when something is wrong.
pub(crate) const BAD: u8 = 1;
/// Status for options that make no sense.
pub(crate) const USAGE: u8 = 2;
/// Status when nothing could be found out.
pub(crate) const UNKNOWN: u8 = 3;
/// Status after an interruption.
pub(crate) const INTERRUPTED: u8 = 130;

/// Which lab.
#[derive(Debug, Clone, Args)]
pub struct Named {
    /// Name of the lab
    #[arg(long, default_value = "default", env = "BOWLINE_LAB")]
    pub name: String,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// Commands that make and use a cluster of network namespaces on this machine.
#[derive(Debug, Clone, Subcommand)]
pub enum LabCommand {
    /// Bring a cluster up on this machine, inside network namespaces
    Up(Box<UpArgs>),
    /// Take a lab down; nothing of it is left, whatever state it was in
    Down {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// All labs of this machine
        #[arg(long)]
        all: bool,
    },
    /// List the labs of this machine
    List {
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print the path of the file for kubectl
    Kubeconfig {
        /// Which one.
        #[command(flatten)]
        named: Named,
    },
    /// Run a command in a pod
    Exec {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// The pod
        pod: String,
        /// The pod's namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The container; the first if none is named
        #[arg(short, long)]
        container: Option<String>,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on a node
    NodeExec {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// The node: n1, n2, ...
        node: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on the host outside the cluster
    Client {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on the router between nodes and outside
    Router {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start, stop or kill the agent of a node
    Agent {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// What to do
        #[arg(value_enum)]
        verb: VerbArg,
        /// The node: n1, n2, ...
        node: String,
        /// With start: the executable of another build of Bowline, to see an upgrade
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
    },
    /// Stop and start the Kubernetes API, to see what the cluster does without it
    Api {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// What to do
        #[arg(value_enum)]
        verb: ApiVerb,
    },
    /// Print the logs of the lab, or of one node's agent
    Logs {
        /// Which one.
        #[command(flatten)]
        named: Named,
        /// The node: n1, n2, ...
        node: Option<String>,
    },
}

/// What can be done to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerbArg {
    /// Start it if it does not run.
    Start,
    /// Ask it to end, and wait.
    Stop,
    /// Kill it where it stands.
    Kill,
}

/// What can be done to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ApiVerb {
    /// Let it answer.
    Start,
    /// Close its sockets and drop every connection.
    Stop,
}

/// Commands that the lab gives to itself. Nobody types them.
#[derive(Debug, Clone, Subcommand)]
pub enum Hidden {
    /// Process 1 of a lab
    #[command(name = init::COMMAND, hide = true)]
    Init {
        /// The lab's name
        name: String,
        /// Its options as JSON
        options: String,
    },
    /// The daemon of a lab
    #[command(name = daemon::COMMAND, hide = true)]
    Daemon {
        /// The lab's name
        name: String,
        /// Its options as JSON
        options: String,
    },
    /// What holds namespaces
    #[command(name = holder::COMMAND, hide = true)]
    Pause {
        /// What to hold, as JSON
        spec: String,
    },
    /// What enters namespaces and becomes another command
    #[command(name = enter::COMMAND, hide = true)]
    Enter {
        /// What to enter, as JSON
        spec: String,
    },
    /// The built-in server of pods
    #[command(name = echo::COMMAND, hide = true)]
    Echo {
        /// The ports: tcp/80,udp/53
        ports: String,
    },
    /// The servers of the host outside
    #[command(name = outside::COMMAND, hide = true)]
    Outside {
        /// Its addresses
        addresses: String,
    },
}

/// Runs a hidden command.
pub fn run_hidden(command: Hidden) -> ExitCode {
    let ended = |result: Result<()>| match result {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            BAD
        }
    };
    ExitCode::from(match command {
        Hidden::Init { name, options } => init::run(&name, &options),
        Hidden::Daemon { name: _, options } => daemon::run(&options),
        Hidden::Pause { spec } => holder::run(&spec),
        Hidden::Enter { spec } => enter::run(&spec),
        Hidden::Echo { ports } => ended(echo::run(&ports)),
        Hidden::Outside { addresses } => ended(outside::run(&addresses)),
    })
}

/// Runs a command; what it could not do it has said on standard error.
pub fn run(command: LabCommand) -> ExitCode {
    let place = match &command {
        LabCommand::Up(args) => args.name.clone(),
        LabCommand::List { .. } => String::new(),
        LabCommand::Down { named, .. }
        | LabCommand::Kubeconfig { named }
        | LabCommand::Exec { named, .. }
        | LabCommand::NodeExec { named, .. }
        | LabCommand::Client { named, .. }
        | LabCommand::Router { named, .. }
        | LabCommand::Agent { named, .. }
        | LabCommand::Api { named, .. }
        | LabCommand::Logs { named, .. } => named.name.clone(),
    };
    let status = dispatch(command).unwrap_or_else(|error| {
        let gone = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
        if error.downcast_ref::<std::io::Error>().is_some_and(gone) {
            // Whoever read the answer has seen enough of it.
            return 0;
        }
        let problem = problem_of(&format!("lab {place}"), &error);
        let _ = writeln!(std::io::stderr(), "{problem}");
        match problem.code.0 {
            1001 => USAGE,
            1008 => UNKNOWN,
            _ => BAD,
        }
    });
    ExitCode::from(status)
}

fn dispatch(command: LabCommand) -> Result<u8> {
    let whom = |whom, named: Named, command| exec::run(&place_of(&named)?, whom, command);
    match command {
        LabCommand::Up(args) => up::run(&args),
        LabCommand::Down { all: true, .. } => down_all(),
        LabCommand::Down { named, all: false } => down(&place_of(&named)?),
        LabCommand::List { output } => list(output),
        LabCommand::Kubeconfig { named } => {
            let place = place_of(&named)?;
            if require_up(&place)?.options.bare {
                return Err(refused(&place, "its machines are bare: it has no API".to_owned()));
            }
            say(&place.kubeconfig().display().to_string())
        }
        LabCommand::Exec { named, pod, namespace, container, command } => {
            whom(Whom::Pod { namespace, name: pod, container }, named, command)
        }
        LabCommand::NodeExec { named, node, command } => whom(Whom::Node { name: node }, named, command),
        LabCommand::Client { named, command } => whom(Whom::Client, named, command),
        LabCommand::Router { named, command } => whom(Whom::Router, named, command),
        LabCommand::Agent { named, verb, node, program } => {
            // The daemon is in another directory.
            let program = program.map(std::path::absolute).transpose().context("the path of the program")?;
            let verb = match verb {
                VerbArg::Start => Verb::Start,
                VerbArg::Stop => Verb::Stop,
                VerbArg::Kill => Verb::Kill,
            };
            request(&place_of(&named)?, &Request::Agent { node, verb, program })
        }
        LabCommand::Api { named, verb } => {
            let verb = match verb {
                ApiVerb::Start => Verb::Start,
                ApiVerb::Stop => Verb::Stop,
            };
            request(&place_of(&named)?, &Request::Api { verb })
        }
        LabCommand::Logs { named, node } => logs(&place_of(&named)?, node.as_deref()),
    }
}

fn place_of(named: &Named) -> Result<Place> {
    check_name(&named.name).map_err(ProblemError)?;
    Ok(Place::of(&named.name))
}

/// Prints a line of the answer.
fn say(line: &str) -> Result<u8> {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(0)
}

/// The lab must be up.
pub(crate) fn require_up(place: &Place) -> Result<place::Running> {
    place.running().with_context(|| {
        let others: Vec<String> = place::running().into_iter().map(|lab| lab.options.name).collect();
        let why = if others.is_empty() { "no lab is up".to_owned() } else { format!("these are up: {}", others.join(", ")) };
        let fix = format!("bowline lab up --name {}", place.name);
        ProblemError(Problem::new(1008, "the lab is not up", format!("lab {}", place.name), fix).because(why))
    })
}

/// Turns a refusal into a problem.
pub(crate) fn refused(place: &Place, why: String) -> anyhow::Error {
    let problem = Problem::new(1009, "the lab could not do it", format!("lab {}", place.name), "see the reason, and: bowline lab logs");
    ProblemError(problem.because(why)).into()
}

fn request(place: &Place, request: &Request) -> Result<u8> {
    require_up(place)?;
    match control::ask(place, request)? {
        Reply::Done { text } => say(&text),
        Reply::Refused { why } => Err(refused(place, why)),
        Reply::Found(_) => Err(refused(place, "an answer to another question".to_owned())),
    }
}

fn down(place: &Place) -> Result<u8> {
    up::require_root()?;
    let was_up = place.kill()?;
    let left = place.remove(false)?;
    say(&if was_up || left { format!("lab {} is gone", place.name) } else { format!("there was no lab {}", place.name) })
}

fn down_all() -> Result<u8> {
    up::require_root()?;
    let mut names: Vec<String> = place::running().into_iter().map(|lab| lab.options.name).collect();
    names.extend(place::left_over());
    if names.is_empty() {
        return say("there was no lab");
    }
    for name in names {
        down(&Place::of(&name))?;
    }
    Ok(0)
}

fn list(output: Output) -> Result<u8> {
    let up = place::running();
    let left = place::left_over();
    if output == Output::Table {
        let mut text = format!("{:<16} {:<6} {:>5}  {:<8} {:<8} {}\n", "NAME", "STATE", "NODES", "BACKEND", "UNDERLAY", "FAMILIES");
        for lab in &up {
            let options = &lab.options;
            let families: Vec<String> = options.families().iter().map(ToString::to_string).collect();
            let underlay = format!("{:?}", options.underlay).to_lowercase();
            let (name, backend) = (&options.name, options.backend.word());
            text.push_str(&format!("{name:<16} {:<6} {:>5}  {backend:<8} {underlay:<8} {}\n", "up", options.nodes, families.join(",")));
        }
        for name in &left {
            text.push_str(&format!("{name:<16} {:<6}\n", "dead"));
        }
        write!(std::io::stdout(), "{text}")?;
        return Ok(0);
    }
    let labs: Vec<serde_json::Value> = up
        .iter()
        .map(|lab| {
            json!({"name": lab.options.name, "state": "up", "pid": lab.pid, "options": lab.options,
                          "kubeconfig": Place::of(&lab.options.name).kubeconfig()})
        })
        .chain(left.iter().map(|name| json!({"name": name, "state": "dead"})))
        .collect();
    let answer = json!({"apiVersion": "bowline.dev/v1", "kind": "LabList", "items": labs});
    match output {
        Output::Yaml => say(serde_saphyr::to_string(&answer)?.trim_end()),
        Output::Json | Output::Table => say(&serde_json::to_string_pretty(&answer)?),
    }
}

fn logs(place: &Place, node: Option<&str>) -> Result<u8> {
    let directory = place.logs();
    let entries = fs::read_dir(&directory).map_err(|error| {
        let problem = Problem::new(1008, "the lab has no logs", format!("lab {}", place.name), "bowline lab list");
        ProblemError(problem.because(format!("{}: {error}", directory.display())))
    })?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    let mut output = std::io::stdout();
    let mut found = false;
    for path in files {
        let title = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = node.is_none_or(|node| title.strip_prefix(node).is_some_and(|rest| rest.starts_with('-')));
        if wanted {
            found = true;
            writeln!(output, "==> {title} <==")?;
            output.write_all(&fs::read(&path)?)?;
        }
    }
    match node {
        Some(node) if !found => Err(refused(place, format!("there is no log of a node {node}"))),
        Some(_) | None => Ok(0),
    }
}

//! `bowline status`: what the agents do, and what is wrong.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bowline_model::Problem;
use clap::Args;
use serde::Serialize;

use super::agents::{self, Agents};
use super::output::{self, Format, Mark};
use crate::agent::denials::Denied;
use crate::agent::status::{self, NodeStatus};

/// Flags of `bowline status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The lab to look at; without it this node's agent, or else the one lab that runs
    #[arg(long, value_name = "LAB")]
    name: Option<String>,
    /// Directory of the agent's sockets
    #[arg(long, env = "BOWLINE_RUN_DIR", default_value = "/run/bowline", value_name = "DIR")]
    run_dir: PathBuf,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    api_version: &'static str,
    kind: &'static str,
    name: String,
    state: &'static str,
    nodes: Vec<NodeStatus>,
    silent: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> ExitCode {
    let status = match gather(args) {
        Ok(status) => status,
        Err(problem) => {
            eprintln!("{problem}");
            return output::exit(output::UNKNOWN);
        }
    };
    let written = match args.output {
        Format::Table => std::io::stdout().write_all(render(&status).as_bytes()),
        Format::Json | Format::Yaml => output::print_document(&status, args.output),
    };
    match (written, status.state) {
        (Err(_), _) => output::exit(output::UNKNOWN),
        (Ok(()), "ok") => ExitCode::SUCCESS,
        (Ok(()), _) => output::exit(output::BAD),
    }
}

fn gather(args: &StatusArgs) -> Result<Status, Problem> {
    let Agents { name, places } = agents::find(args.name.as_deref(), &args.run_dir)?;
    let (mut nodes, mut silent) = (Vec::new(), Vec::new());
    let mut why = String::new();
    for (node, run_dir) in places {
        match status::ask(&run_dir) {
            Ok(status) => nodes.push(status),
            Err(error) => {
                why = error.to_string();
                silent.push(node);
            }
        }
    }
    if nodes.is_empty() {
        return Err(agents::none_answers(&name).because(why));
    }
    let good = silent.is_empty() && nodes.iter().all(|n| n.state == "ok");
    Ok(Status { api_version: "bowline.io/v1", kind: "Status", name, state: if good { "ok" } else { "degraded" }, nodes, silent })
}

fn render(status: &Status) -> String {
    let problems: Vec<(&str, &Problem)> = status.nodes.iter().flat_map(|n| n.problems.iter().map(|p| (n.node.as_str(), p))).collect();
    let count = problems.len() + status.silent.len();
    let mut text = match count {
        0 => format!("{}: {}\n\n", status.name, status.state.to_uppercase()),
        1 => format!("{}: {}, 1 problem\n\n", status.name, status.state.to_uppercase()),
        n => format!("{}: {}, {n} problems\n\n", status.name, status.state.to_uppercase()),
    };
    let mut rows = vec![["NAME", "STATE", "BACKEND", "MODE", "PODS", "SYNCED", "AGE"].map(str::to_owned).to_vec()];
    for node in &status.nodes {
        let synced = if node.synced { "yes" } else { "no" };
        rows.push(vec![
            node.node.clone(),
            node.state.clone(),
            node.backend.clone(),
            node.mode.clone(),
            node.pods.to_string(),
            synced.to_owned(),
            output::age(node.age_secs),
        ]);
    }
    let unknown = || "unknown".to_owned();
    rows.extend(status.silent.iter().map(|n| vec![n.clone(), "silent".to_owned(), unknown(), unknown(), unknown(), unknown(), unknown()]));
    text.push_str(&output::table(&rows));
    if let Some(node) = status.nodes.first() {
        let c = node.cluster;
        text.push_str(&format!("\nNodes {}  Pods {}  Services {}  Policies {}\n", c.nodes, c.pods, c.services, c.policies));
    }
    for node in status.nodes.iter().filter(|node| !node.dropped_at_pods.is_empty()) {
        let counts: Vec<String> = node.dropped_at_pods.iter().map(|(reason, packets)| format!("{reason} {packets}")).collect();
        text.push_str(&format!("Dropped at pods' links of {}: {}\n", node.node, counts.join(", ")));
    }
    for (node, denied) in status.nodes.iter().flat_map(|n| n.denied.iter().map(|denied| (n.node.as_str(), denied))) {
        let Denied { policy, direction, reason, packets } = denied;
        let by = if policy.is_empty() { String::new() } else { format!(" by {policy}") };
        text.push_str(&format!("Denied at {node}: {packets} packets, {direction}{by} ({reason})\n"));
    }
    for node in &status.silent {
        text.push_str(&format!(
            "\n{} BW1203 {node}: its agent does not answer\n  fix: bowline lab agent start {node}\n",
            Mark::Fail.text()
        ));
    }
    for (node, problem) in problems {
        text.push_str(&paragraph(Mark::Fail, node, problem));
    }
    for (node, warning) in status.nodes.iter().flat_map(|n| n.warnings.iter().map(|w| (n.node.as_str(), w))) {
        text.push_str(&paragraph(Mark::Note, node, warning));
    }
    text
}

fn paragraph(mark: Mark, node: &str, problem: &Problem) -> String {
    let mut text = format!("\n{} {} {node}: {} ({})\n", mark.text(), problem.code, problem.what, problem.place);
    if !problem.why.is_empty() {
        text.push_str(&format!("  why: {}\n", problem.why));
    }
    text.push_str(&format!("  fix: {}\n", problem.fix));
    text
}

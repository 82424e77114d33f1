//! Where the agents are that a command asks: this node's, or those of a lab.

use std::path::{Path, PathBuf};

use bowline_model::Problem;

/// Agents that belong together.
pub(crate) struct Agents {
    /// What they are of: `this node`, or the lab's name.
    pub(crate) name: String,
    /// Each one's node and the directory of its sockets.
    pub(crate) places: Vec<(String, PathBuf)>,
}

/// The agents of the lab that is named; without a name this node's agent, or else those of the one lab that runs.
///
/// # Errors
/// BW1203 where there is none, or not one alone.
pub(crate) fn find(lab: Option<&str>, run_dir: &Path) -> Result<Agents, Problem> {
    let here = run_dir.join("agent.sock");
    if lab.is_none() && here.exists() {
        return Ok(Agents { name: "this node".to_owned(), places: vec![("this node".to_owned(), run_dir.to_owned())] });
    }
    let name = match lab {
        Some(name) => name.to_owned(),
        None => only_lab(&here)?,
    };
    let places = bowline_lab::agent_run_dirs(&name).map_err(|e| none_answers(&format!("lab {name}")).because(format!("{e:#}")))?;
    Ok(Agents { name, places })
}

fn only_lab(here: &Path) -> Result<String, Problem> {
    let labs = bowline_lab::running();
    match labs.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(none_answers(&here.display().to_string()).because("no agent's socket here, and no lab runs")),
        many => Err(none_answers("--name").because(format!("several labs run: {}; name one", many.join(", ")))),
    }
}

/// Nobody is there, or nobody says anything.
pub(crate) fn none_answers(place: &str) -> Problem {
    Problem::new(1203, "no agent answers", place, "start the agent (bowline agent, or bowline lab up), and run this as root")
}

//! What commands outside this crate need of a running lab: which there are, its kubeconfig, where its agents listen.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::control::{self, Reply, Request, Whom};
use crate::place::{self, Place, Running};
use crate::plan::Plan;

/// Names of the labs that are up on this machine.
pub fn running() -> Vec<String> {
    place::running().into_iter().map(|lab| lab.options.name).collect()
}

/// The kubeconfig of a lab that is up.
///
/// # Errors
/// When no lab of that name is up.
pub fn kubeconfig(name: &str) -> Result<PathBuf> {
    if up(name)?.options.bare {
        bail!("the machines of lab {name} are bare: it has no API");
    }
    Ok(Place::of(name).kubeconfig())
}

/// For each node of a lab, its name and the directory of its agent's sockets as this process sees it.
///
/// # Errors
/// When no lab of that name is up, or it does not answer.
pub fn agent_run_dirs(name: &str) -> Result<Vec<(String, PathBuf)>> {
    Ok(processes(name)?.into_iter().map(|(node, process)| (node, process.join("root/run/bowline"))).collect())
}

/// Each node's name and the file of its network namespace.
///
/// # Errors
/// If the lab is not up.
pub fn networks(name: &str) -> Result<Vec<(String, PathBuf)>> {
    Ok(processes(name)?.into_iter().map(|(node, process)| (node, process.join("ns/net"))).collect())
}

/// Each node's name and the directory of the process that keeps its namespaces.
fn processes(name: &str) -> Result<Vec<(String, PathBuf)>> {
    let lab = up(name)?;
    let place = Place::of(name);
    let find = |node: String| {
        let whom = Whom::Node { name: node.clone() };
        match control::ask(&place, &Request::Find { whom })? {
            Reply::Found(target) => Ok((node, lab.proc_root().join(target.pid.to_string()))),
            Reply::Refused { why } => bail!("node {node}: {why}"),
            Reply::Done { .. } => bail!("node {node}: an answer to another question"),
        }
    };
    Plan::of(&lab.options).nodes.into_iter().map(|node| find(node.name)).collect()
}

fn up(name: &str) -> Result<Running> {
    Place::of(name).running().with_context(|| format!("no lab called {name} is up"))
}

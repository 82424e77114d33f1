//! The commands for a cluster that is up.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cluster::component;
use crate::cluster::down::Record;
use crate::cluster::kubectl::{Kubectl, condition, items, text};
use crate::cluster::lab::{self, Lab, succeed};
use crate::cluster::place::Place;
use crate::cluster::screen::Screen;
use crate::cluster::{images, install, up};

/// The cluster must be there.
fn require(name: &str) -> Result<(Place, Record)> {
    let place = Place::of(name)?;
    match Record::read(&place) {
        Some(record) if up::is_up(&place, &record)? => Ok((place, record)),
        Some(_) | None => bail!("cluster {name} is not up; run: cargo xtask cluster up"),
    }
}

/// The machines of a cluster that has some.
fn require_machines(name: &str) -> Result<(Place, Record, Lab)> {
    let (place, record) = require(name)?;
    let Some(binary) = record.binary.clone() else { bail!("{name} is a control plane alone: it has no nodes") };
    let lab = Lab::of(name, &lab::any_binary(&binary)?);
    Ok((place, record, lab))
}

/// Says what works.
pub(crate) fn status(name: &str) -> Result<bool> {
    let (place, record) = require(name)?;
    let kubectl = Kubectl::of(&place);
    let mut output = std::io::stdout();
    writeln!(output, "server   {}", kubectl.run(&["get", "--raw", "/readyz"])?.trim())?;
    if record.plan.nodes.is_empty() {
        return Ok(true);
    }
    let nodes = kubectl.json(&["get", "nodes"])?;
    let pods = kubectl.json(&["get", "pods", "--all-namespaces"])?;
    let bad_nodes: Vec<&str> =
        items(&nodes).iter().filter(|node| !condition(node, "Ready")).map(|node| text(node, "/metadata/name")).collect();
    let bad_pods: Vec<String> = items(&pods)
        .iter()
        .filter(|pod| text(pod, "/status/phase") != "Succeeded" && !condition(pod, "Ready"))
        .map(|pod| format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name")))
        .collect();
    writeln!(output, "nodes    {}/{} Ready", items(&nodes).len() - bad_nodes.len(), items(&nodes).len())?;
    writeln!(output, "pods     {}/{} ready or done", items(&pods).len() - bad_pods.len(), items(&pods).len())?;
    // What was killed on purpose counts too: it is said, and is no fault.
    for (component, times) in component::restarts(&place)? {
        writeln!(output, "{component} was started again, {}; see {}", up::counted(times, "time"), place.log(&component).display())?;
    }
    for bad in bad_nodes.iter().map(|node| (*node).to_owned()).chain(bad_pods.iter().cloned()) {
        writeln!(output, "not ready: {bad}")?;
    }
    Ok(bad_nodes.is_empty() && bad_pods.is_empty() && items(&nodes).len() == record.plan.nodes.len())
}

/// Prints the path of the administrator's kubeconfig.
pub(crate) fn kubeconfig(name: &str) -> Result<bool> {
    let (place, _) = require(name)?;
    writeln!(std::io::stdout(), "{}", Kubectl::of(&place).kubeconfig().display())?;
    Ok(true)
}

/// Runs a command on a node or the host outside; this program ends with its status.
pub(crate) fn exec(name: &str, node: &str, words: &[String]) -> Result<bool> {
    let (_, _, lab) = require_machines(name)?;
    let mut command = if node == "client" { lab.on_client(words) } else { lab.on_node(node, words) };
    let status = command.stdin(std::process::Stdio::inherit()).status().with_context(|| format!("run {words:?}"))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(code) => std::process::exit(code),
        None => bail!("{words:?}: {status}"),
    }
}

/// Imports archives into every node.
pub(crate) fn load(name: &str, archives: &[PathBuf]) -> Result<bool> {
    let (_, record, lab) = require_machines(name)?;
    let count = images::import(&lab, &record.plan.nodes, archives)?;
    writeln!(std::io::stdout(), "{count} images on each node")?;
    Ok(true)
}

/// Installs Bowline.
pub(crate) fn install(name: &str, image: Option<&Path>) -> Result<bool> {
    let (place, record, lab) = require_machines(name)?;
    install::run(&lab, &place, &record.plan, (image, None), &Screen::new())?;
    Ok(true)
}

/// Kills a component; what watches over it starts it again.
pub(crate) fn restart(name: &str, wanted: &str) -> Result<bool> {
    let (place, record) = require(name)?;
    let known = component::names(&place)?;
    if !known.iter().any(|one| *one == wanted.replace('/', "-")) {
        bail!("no component is called {wanted}; there are {}", known.join(", "));
    }
    let on_node = |node: &str| -> Result<()> {
        let (_, _, lab) = require_machines(name)?;
        let file = component::pid_file_in_node(wanted);
        let script = format!("kill -KILL \"$(cat '{}')\"", file.display());
        lab.run(node, &["sh", "-c", &script], None).map(|_| ())
    };
    match (wanted.split_once('/'), record.plan.nodes.first()) {
        (Some((node, _)), _) => on_node(node)?,
        (None, Some(first)) => on_node(&first.name)?,
        (None, None) => {
            let file = place.directory().join(format!("{wanted}.pid"));
            let pid = std::fs::read_to_string(&file).with_context(|| format!("there is no component {wanted}"))?;
            succeed(std::process::Command::new("kill").args(["-KILL", pid.trim()]))?;
        }
    }
    writeln!(std::io::stdout(), "{wanted} was killed and is started again")?;
    Ok(true)
}

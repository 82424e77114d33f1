//! The lab's agents and pods against a real etcd, API server, controller manager and scheduler, in place of the lab's own.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::outcome::{Case, Outcome};
use super::place::{self, Cluster};

pub(crate) const NAME: &str = "lab";

/// The names that this suite makes and takes down.
const CONTROL_PLANE: &str = "conf-lab";
const LAB: &str = "conf-lab";

/// Makes a control plane and a lab on it, looks, and takes both down.
pub(crate) fn run() -> Result<Outcome> {
    let begun = Instant::now();
    let bowline = place::bowline()?;
    let cluster = Cluster::find_or_make(CONTROL_PLANE, &["--control-plane-only", "--dual-stack"])?;
    let lab = Lab { bowline: bowline.display().to_string(), kubeconfig: cluster.kubeconfig.display().to_string() };
    let mut cases = Vec::new();
    for (name, check) in CHECKS {
        let since = Instant::now();
        let result = check(&lab);
        cases.push(Case::of(*name, since.elapsed(), &result));
        eprintln!("{} {name} {}", if result.is_ok() { '✓' } else { '✗' }, super::table::clock(since.elapsed().as_secs_f64()));
        if let (Err(error), true) = (&result, *name == UP) {
            eprintln!("{error:#}");
            break;
        }
    }
    lab.down();
    cluster.leave();
    Ok(Outcome { suite: NAME.into(), seconds: begun.elapsed().as_secs_f64(), cases, ..Outcome::default() })
}

const UP: &str = "three nodes come up against the real API server";

/// A check has a name and is content or not.
type Check = (&'static str, fn(&Lab) -> Result<()>);

const CHECKS: &[Check] = &[
    (UP, up),
    ("nodes are ready and have the subnets that the controller manager gave", nodes),
    ("the examples' workloads become ready", examples),
    ("bowline check finds nothing wrong", check),
    ("the API server goes and comes back", api),
];

struct Lab {
    bowline: String,
    kubeconfig: String,
}

impl Lab {
    fn bowline(&self, words: &[&str], limit: u64) -> Result<String> {
        let mut command = Command::new(&self.bowline);
        place::run(command.args(words).args(["--name", LAB]).env("KUBECONFIG", &self.kubeconfig), Duration::from_secs(limit))
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        place::kubectl_at(self.kubeconfig.as_ref(), words)
    }

    fn down(&self) {
        if let Err(error) = self.bowline(&["lab", "down"], 120) {
            eprintln!("conformance: {error:#}");
        }
    }
}

fn up(lab: &Lab) -> Result<()> {
    lab.bowline(&["lab", "up", "--nodes", "3", "--dual-stack", "--wait", "180s", "--apiserver", &lab.kubeconfig], 300).map(drop)
}

fn nodes(lab: &Lab) -> Result<()> {
    let text = lab.kubectl(&["get", "nodes", "-o", "json"])?;
    let list: serde_json::Value = serde_json::from_str(&text)?;
    let items = list.get("items").and_then(|items| items.as_array()).context("no items")?;
    let mut subnets = std::collections::BTreeSet::new();
    for node in items {
        let of = |pointer: &str| node.pointer(pointer).cloned().unwrap_or_default();
        let name = of("/metadata/name");
        let ready = of("/status/conditions").as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(ready, "{name} is not ready");
        for subnet in of("/spec/podCIDRs").as_array().into_iter().flatten() {
            ensure!(subnets.insert(subnet.to_string()), "{name} has {subnet}, and another node, too");
        }
    }
    ensure!(items.len() == 3 && subnets.len() == 6, "{} nodes with {} subnets, not 3 with 6", items.len(), subnets.len());
    Ok(())
}

fn examples(lab: &Lab) -> Result<()> {
    let example = place::repository().join("examples/nginx-web.yaml");
    let made = lab.kubectl(&["apply", "-f", &example.display().to_string(), "-o", "name"])?;
    for workload in made.lines().filter(|line| line.starts_with("deployment") || line.starts_with("daemonset")) {
        lab.kubectl(&["rollout", "status", workload, "--timeout=120s"])?;
    }
    Ok(())
}

fn check(lab: &Lab) -> Result<()> {
    lab.bowline(&["check"], 300).map(drop)
}

/// While it is away nothing changes on the wire; afterwards changes arrive again.
fn api(lab: &Lab) -> Result<()> {
    lab.bowline(&["lab", "api", "stop"], 30)?;
    lab.bowline(&["lab", "api", "start"], 60)?;
    lab.kubectl(&["get", "--raw", "/readyz"])?;
    check(lab)
}

//! The outside suites, run as they are, and the table of what they said.
//!
//! Nothing here judges the network by itself: a case is what a suite calls a case, and a case that is not run has its reason in
//! `conformance/skips/SUITE.txt` or gives it itself.

mod clusternetpol;
mod cni;
mod ctr;
mod cyclonus;
mod e2e;
mod ginkgo;
mod lab;
mod outcome;
mod peers;
mod place;
mod plugins;
mod skips;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;
use regex::Regex;

use outcome::Outcome;
use place::Cluster;

/// Suites in the order in which they run, each with what it is. `peers` measures and runs only when it is asked for.
const SUITES: &[(&str, &str)] = &[
    (cni::NAME, "the CNI project's cnitool and plugins, over our plugin in a lab"),
    (lab::NAME, "the lab's agents and pods against a real API server"),
    ("conformance", "Kubernetes e2e: [sig-network] [Conformance]"),
    ("network", "Kubernetes e2e: the rest of [sig-network]"),
    ("netpol", "Kubernetes e2e: [sig-network] Netpol"),
    (cyclonus::NAME, "truth tables of network policies"),
    (clusternetpol::NAME, "the network-policy-api's tests of ClusterNetworkPolicy"),
    (peers::NAME, "measurements beside kube-proxy, CoreDNS and flannel"),
];

/// Runs the outside suites and prints a table; without names all but `peers`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask conformance", after_help = "Suites: cni, lab, conformance, network, netpol, cyclonus, clusternetpol, peers")]
pub(crate) struct Options {
    /// Suites to run
    suites: Vec<String>,
    /// Only cases that match; for cyclonus a list of its tags
    #[arg(long, value_name = "REGEX")]
    pub(crate) focus: Option<Regex>,
    /// Writes the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Specs of the e2e suites that run at once
    #[arg(long, default_value_t = 3)]
    pub(crate) procs: u16,
    /// The cluster to run on; made, and taken down at the end, if it is not up
    #[arg(long, default_value = place::DEFAULT)]
    pub(crate) cluster: String,
    /// For peers: the archive of Bowline's image; made from the tree if none is named
    #[arg(long, value_name = "TAR")]
    image: Option<PathBuf>,
    /// Prints what the e2e suites would run and skip, and runs nothing
    #[arg(long)]
    list: bool,
}

/// Runs the chore with the words that follow its name.
pub(crate) fn run(rest: &[String]) -> Result<bool> {
    let words = std::iter::once("conformance").chain(rest.iter().map(String::as_str));
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(error) => {
            error.print()?;
            return Ok(!error.use_stderr());
        }
    };
    let wanted = wanted(&options.suites)?;
    if options.list {
        e2e::SELECTIONS.iter().filter(|selection| wanted.contains(&selection.name)).try_for_each(|selection| selection.list(&options))?;
        return Ok(true);
    }
    let outcomes = run_all(&wanted, &options);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&outcomes)?).with_context(|| path.display().to_string())?;
    }
    println!("\n{}", table::Table(&outcomes));
    Ok(outcomes.iter().all(|outcome| outcome.counts().1 == 0))
}

fn wanted(words: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = words.iter().find(|word| !SUITES.iter().any(|(name, _)| name == word)) {
        let known: Vec<String> = SUITES.iter().map(|(name, what)| format!("  {name:13} {what}")).collect();
        bail!("no suite is called `{unknown}`; there are\n{}", known.join("\n"));
    }
    let all = SUITES.iter().map(|(name, _)| *name);
    Ok(all.filter(|name| if words.is_empty() { *name != peers::NAME } else { words.iter().any(|word| word == name) }).collect())
}

fn run_all(wanted: &[&'static str], options: &Options) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut cluster: Option<Cluster> = None;
    for name in wanted {
        eprintln!("\n== {name}");
        let outcome = match *name {
            cni::NAME => cni::run(options),
            lab::NAME => lab::run(),
            peers::NAME => peers::run(options.image.as_deref()),
            name => on_cluster(name, &mut cluster, options),
        };
        outcomes.push(outcome.unwrap_or_else(|error| Outcome::absent(name, &format!("{error:#}"))));
    }
    if let Some(cluster) = cluster {
        cluster.leave();
    }
    outcomes
}

fn on_cluster(name: &str, cluster: &mut Option<Cluster>, options: &Options) -> Result<Outcome> {
    if cluster.is_none() {
        *cluster = Some(Cluster::find_or_make(&options.cluster, &[])?);
    }
    let cluster = cluster.as_ref().context("no cluster")?;
    match name {
        cyclonus::NAME => return cyclonus::run(cluster, options),
        clusternetpol::NAME => return clusternetpol::run(cluster, options),
        _ => {}
    }
    let selection = e2e::SELECTIONS.iter().find(|selection| selection.name == name).context("no such selection")?;
    selection.run(cluster, options)
}

/// The file with a suite's skips.
pub(crate) fn skip_file(suite: &str) -> PathBuf {
    place::repository().join("conformance/skips").join(format!("{suite}.txt"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn suites_are_chosen_by_name() {
        let of = |words: &[&str]| wanted(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap(), ["cni", "lab", "conformance", "network", "netpol", "cyclonus", "clusternetpol"]);
        assert_eq!(of(&["netpol", "cni"]).unwrap(), ["cni", "netpol"]);
        assert_eq!(of(&["peers"]).unwrap(), ["peers"]);
        assert!(format!("{:#}", of(&["nope"]).unwrap_err()).contains("cyclonus"));
    }
}

//! Suites out of Kubernetes' own e2e tests, run as they are by ginkgo against a cluster.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use regex::Regex;

use super::outcome::{Case, Outcome};
use super::place::{self, Cluster};
use super::skips::Skips;
use super::{Options, ginkgo, skip_file};

/// A selection of the e2e tests.
pub(crate) struct Selection {
    pub(crate) name: &'static str,
    of: &'static str,
    but: Option<&'static str>,
    /// How long the whole may take, as ginkgo takes it.
    timeout: &'static str,
}

pub(crate) const SELECTIONS: &[Selection] = &[
    Selection { name: "conformance", of: r"\[sig-network\].*\[Conformance\]", but: None, timeout: "2h" },
    Selection { name: "network", of: r"\[sig-network\]", but: Some(r"\[Conformance\]|\] Netpol (API )?|\] Netpol \["), timeout: "5h" },
    Selection { name: "netpol", of: r"\[sig-network\] Netpol ", but: None, timeout: "4h" },
];

/// What a selection comes to: the specs to run, and the cases that are skipped by the file.
struct Chosen {
    run: Vec<String>,
    skipped: Vec<Case>,
    stale: Vec<String>,
}

impl Selection {
    fn choose(&self, all: &[String], skips: &Skips, nodes: usize, focus: Option<&Regex>) -> Result<Chosen> {
        let (of, but) = (Regex::new(self.of)?, self.but.map(Regex::new).transpose()?);
        let ours: Vec<&String> =
            all.iter().filter(|name| of.is_match(name) && !but.as_ref().is_some_and(|but| but.is_match(name))).collect();
        let stale = skips.stale(ours.iter().map(|name| name.as_str()));
        let mut chosen = Chosen { run: Vec::new(), skipped: Vec::new(), stale };
        for name in ours.into_iter().filter(|name| focus.is_none_or(|focus| focus.is_match(name))) {
            match skips.reason(name, nodes) {
                Some(reason) => chosen.skipped.push(Case::skipped(name, reason)),
                None => chosen.run.push(name.clone()),
            }
        }
        chosen.run.sort();
        Ok(chosen)
    }

    /// Runs it against a cluster.
    pub(crate) fn run(&self, cluster: &Cluster, options: &Options) -> Result<Outcome> {
        let begun = Instant::now();
        let chosen = self.chosen(cluster.nodes()?, options)?;
        let mut cases = Vec::new();
        if !chosen.run.is_empty() {
            cases = self.ginkgo(&chosen.run, cluster, options)?;
        }
        cases.extend(chosen.skipped);
        Ok(Outcome { suite: self.name.into(), seconds: begun.elapsed().as_secs_f64(), cases, stale: chosen.stale, ..Outcome::default() })
    }

    /// Prints what would run on a cluster of two nodes.
    pub(crate) fn list(&self, options: &Options) -> Result<()> {
        let chosen = self.chosen(2, options)?;
        chosen.run.iter().for_each(|name| println!("{}\trun\t{name}", self.name));
        for case in &chosen.skipped {
            if let super::outcome::Verdict::Skipped(reason) = &case.verdict {
                println!("{}\tskip ({reason})\t{}", self.name, case.name);
            }
        }
        chosen.stale.iter().for_each(|pattern| println!("{}\tstale line\t{pattern}", self.name));
        Ok(())
    }

    fn chosen(&self, nodes: usize, options: &Options) -> Result<Chosen> {
        let e2e = place::program("e2e.test", "suite")?;
        let all = ginkgo::listed(&place::run(Command::new(e2e).arg("--list-tests"), Duration::from_secs(120))?);
        ensure!(!all.is_empty(), "e2e.test --list-tests named no test");
        self.choose(&all, &Skips::read(&skip_file(self.name))?, nodes, options.focus.as_ref())
    }

    fn ginkgo(&self, names: &[String], cluster: &Cluster, options: &Options) -> Result<Vec<Case>> {
        let dir = cluster.results(self.name)?;
        let report = dir.join("report.json");
        if report.exists() {
            std::fs::remove_file(&report).with_context(|| report.display().to_string())?;
        }
        let selected: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut command = Command::new(place::program("ginkgo", "suite")?);
        command.arg("run").arg(format!("--procs={}", options.procs)).args(["-v", "--no-color", "--keep-going", "--silence-skips"]);
        command.arg(format!("--timeout={}", self.timeout)).arg("--json-report=report.json").arg("--output-dir").arg(&dir);
        command.args(ginkgo::focus(&selected).iter().map(|pattern| format!("--focus={pattern}")));
        command.arg(place::program("e2e.test", "suite")?).arg("--");
        command.arg(format!("--kubeconfig={}", cluster.kubeconfig.display()));
        command.arg(format!("--kubectl-path={}", place::program("kubectl", "client")?.display()));
        // Only the first of the processes side by side would count the nodes by itself; in the others tests skip themselves for want of nodes.
        command.arg(format!("--num-nodes={}", cluster.nodes()?));
        command.args(["--provider=skeleton", "--prepull-images=false", "--disable-log-dump=true", "--delete-namespace=true"]);
        command.arg(format!("--report-dir={}", dir.join("files").display())).arg("--dump-logs-on-failure=true");
        command.current_dir(&dir);
        let log = dir.join("log.txt");
        eprintln!(
            "conformance: {}: {} specs, {} at a time; everything they say is in {}",
            self.name,
            names.len(),
            options.procs,
            log.display()
        );
        let mut progress = ginkgo::Progress::of(names.len());
        place::stream(&mut command, &log, |line| {
            if let Some(said) = progress.hear(line) {
                eprintln!("{said}");
            }
        })?;
        ginkgo::cases(&report, &selected).with_context(|| format!("no report; the last of {} says why", log.display()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn selections_part_the_tests_of_the_network() {
        let names = [
            "[sig-network] DNS should provide DNS for services [Conformance]",
            "[sig-network] Services should be able to up and down services",
            "[sig-network] Netpol NetworkPolicy between server and client should support allow-all policy [Feature:NetworkPolicy]",
            "[sig-network] Netpol [LinuxOnly] NetworkPolicy between server and client using UDP should work [Feature:NetworkPolicy]",
            "[sig-network] Netpol API should support creating NetworkPolicy API operations",
            "[sig-node] Pods should run",
        ]
        .map(str::to_owned);
        let of = |index: usize| SELECTIONS[index].choose(&names, &Skips::default(), 2, None).unwrap().run.len();
        assert_eq!([of(0), of(1), of(2)], [1, 1, 3]);
    }
}

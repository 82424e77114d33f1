//! Cyclonus, the policy-assistant's former name: truth tables of network policies, each pod of three namespaces asked for every other.
//!
//! Its own words are read as they come: `starting test case #N`, for each step `W wrong, I ignored, R correct`, `finished policy #N`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::outcome::{Case, Figure, Outcome};
use super::place::{self, Cluster};
use super::skips::Skips;
use super::{Options, skip_file};

pub(crate) const NAME: &str = "cyclonus";

/// Runs it as it is, with nothing excluded; a focus is a list of its tags.
pub(crate) fn run(cluster: &Cluster, options: &Options) -> Result<Outcome> {
    let begun = Instant::now();
    let dir = cluster.results(NAME)?;
    let mut command = Command::new(place::program("cyclonus", "policy")?);
    command.env("KUBECONFIG", &cluster.kubeconfig).args(["generate", "--exclude=", "--cleanup-namespaces"]);
    // "A Pod cannot block access to itself" (Kubernetes, Network Policies); cyclonus expects otherwise unless it is told.
    command.arg("--ignore-loopback");
    // A kernel without SCTP cannot serve it; policies that speak of it are applied all the same and must not change TCP and UDP.
    command.arg(if std::fs::exists("/proc/net/sctp").unwrap_or(false) {
        "--server-protocol=TCP,UDP,SCTP"
    } else {
        "--server-protocol=TCP,UDP"
    });
    command.args(["--perturbation-wait-seconds=1", "--job-timeout-seconds=1", "--pod-creation-timeout-seconds=300"]);
    if let Some(focus) = &options.focus {
        command.arg(format!("--include={focus}"));
    }
    let log = dir.join("log.txt");
    eprintln!("conformance: {NAME}: everything it says is in {}", log.display());
    let mut hearing = Hearing::default();
    let mut since = Instant::now();
    place::stream(&mut command, &log, |line| {
        hearing.hear(line, since.elapsed());
        if line.starts_with("starting test case #") {
            since = Instant::now();
        } else if line.starts_with("finished policy #") {
            eprintln!("{}", hearing.last());
        }
    })?;
    let stale = Skips::read(&skip_file(NAME))?.stale(hearing.names.iter().map(String::as_str));
    let figures =
        vec![Figure { what: "pairs of pods, compared".into(), value: format!("{} right, {} wrong", hearing.right, hearing.wrong) }];
    let why =
        std::fs::read_to_string(&log).ok().and_then(|text| text.lines().rev().find(|line| line.contains("level=fatal")).map(str::to_owned));
    let mut cases = hearing.finish(why.as_deref().unwrap_or("it ended before this case"));
    let (skips, nodes) = (Skips::read(&skip_file(NAME))?, cluster.nodes()?);
    for case in &mut cases {
        if let Some(reason) = skips.reason(&case.name, nodes) {
            *case = Case::skipped(case.name.clone(), reason);
        }
    }
    Ok(Outcome { suite: NAME.into(), seconds: begun.elapsed().as_secs_f64(), cases, stale, figures })
}

/// What has been heard so far.
#[derive(Debug, Default)]
struct Hearing {
    /// Numbered, since several cases have one description.
    names: Vec<String>,
    cases: Vec<Case>,
    /// Of the case that runs: what was wrong in each of its steps.
    steps: usize,
    complaints: Vec<String>,
    right: u64,
    wrong: u64,
}

impl Hearing {
    fn hear(&mut self, line: &str, elapsed: Duration) {
        if let Some((number, description)) = line.strip_prefix("test #").and_then(|rest| rest.split_once(": ")) {
            self.names.push(format!("#{number} {description}"));
        } else if line.starts_with("starting test case #") {
            (self.steps, self.complaints) = (0, Vec::new());
        } else if let Some((wrong, right)) = comparison(line) {
            self.steps += 1;
            self.right += right;
            self.wrong += wrong;
            if wrong > 0 {
                self.complaints.push(format!(
                    "step {}: {wrong} of {} pairs of pods are not as the policies say",
                    self.steps,
                    wrong + right
                ));
            }
        } else if line.starts_with("finished policy #") {
            let name = self.names.get(self.cases.len()).cloned().unwrap_or_else(|| format!("#{}", self.cases.len() + 1));
            let case = if self.complaints.is_empty() && self.steps > 0 {
                Case::passed(name, elapsed)
            } else {
                Case::failed(name, if self.steps == 0 { "no step was compared".to_owned() } else { self.complaints.join("; ") }, elapsed)
            };
            self.cases.push(case);
        }
    }

    /// A line for people on the case that ended last.
    fn last(&self) -> String {
        let failed = self.cases.iter().filter(|case| matches!(case.verdict, super::outcome::Verdict::Failed(_))).count();
        self.cases.last().map_or_else(String::new, |case| {
            let mark = if matches!(case.verdict, super::outcome::Verdict::Passed) { '✓' } else { '✗' };
            format!("{mark} {}/{} ({failed} failed) {:>7.1} s  {}", self.cases.len(), self.names.len(), case.seconds, case.name)
        })
    }

    /// All cases; those that it did not come to have failed.
    fn finish(self, why: &str) -> Vec<Case> {
        let missing: Vec<Case> = self.names.iter().skip(self.cases.len()).map(|name| Case::failed(name, why, Duration::ZERO)).collect();
        if self.names.is_empty() {
            return vec![Case::failed("(the suite itself)", why, Duration::ZERO)];
        }
        self.cases.into_iter().chain(missing).collect()
    }
}

/// `W wrong, I ignored, R correct`, with or without a word before it: W and R.
fn comparison(line: &str) -> Option<(u64, u64)> {
    let (wrong, rest) = line.strip_prefix("Discrepancy found:").unwrap_or(line).split_once(" wrong, ")?;
    let (_, right) = rest.strip_suffix(" correct")?.split_once(" ignored, ")?;
    Some((wrong.parse().ok()?, right.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::super::outcome::Verdict;
    use super::*;

    #[test]
    fn cases_are_heard_with_their_steps() {
        let mut hearing = Hearing::default();
        let lines = [
            "testing 3 cases",
            "test #1: deny all",
            " - tags: deny-all, rule",
            "test #2: allow: some",
            "test #3: deny all",
            "starting test case #1",
            "0 wrong, 0 ignored, 324 correct",
            "finished policy #1",
            "starting test case #2",
            "0 wrong, 0 ignored, 324 correct",
            "Discrepancy found:4 wrong, 0 ignored, 320 correct",
            "finished policy #2",
        ];
        lines.iter().for_each(|line| hearing.hear(line, Duration::from_secs(2)));
        assert_eq!(hearing.last(), "✗ 2/3 (1 failed)     2.0 s  #2 allow: some");
        assert_eq!((hearing.right, hearing.wrong), (968, 4));
        let cases = hearing.finish("it ended");
        assert_eq!(cases[0], Case::passed("#1 deny all", Duration::from_secs(2)));
        assert_eq!(cases[1].verdict, Verdict::Failed("step 2: 4 of 324 pairs of pods are not as the policies say".into()));
        assert_eq!(cases[2], Case::failed("#3 deny all", "it ended", Duration::ZERO));
    }

    #[test]
    fn nothing_heard_is_a_failure() {
        assert!(matches!(Hearing::default().finish("no server")[..], [Case { verdict: Verdict::Failed(_), .. }]));
    }
}

//! The network-policy-api's own conformance tests of ClusterNetworkPolicy: a client and a server in each of four namespaces and on the nodes.
//!
//! It is a Go test, run as it is with every feature that it has. A case is a subtest that has no subtests; its words are those of `-test.v`:
//! `=== RUN` and what it logs as it comes, `--- PASS` with the times of all of them at the end.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::outcome::{Case, Outcome, Verdict};
use super::place::{self, Cluster, kubectl_at};
use super::skips::Skips;
use super::{Options, skip_file};

pub(crate) const NAME: &str = "clusternetpol";

/// The Go test that all cases are in.
const TEST: &str = "TestConformance";

/// How long agents may take to see that the kind is there: they ask for one that was absent every two minutes.
const SEEN: Duration = Duration::from_secs(150);

/// Runs it on a cluster, with the definition of its kind installed.
pub(crate) fn run(cluster: &Cluster, options: &Options) -> Result<Outcome> {
    let begun = Instant::now();
    let program = place::program("clusternetpol.test", "policy-api")?;
    define(cluster)?;
    let mut command = Command::new(program);
    command.env("KUBECONFIG", &cluster.kubeconfig).args(["-test.v", "-test.timeout=90m"]);
    let focus = options.focus.as_ref().map_or_else(String::new, |focus| format!("/{focus}"));
    command.arg(format!("-test.run=^{TEST}${focus}")).args(["-all-features", "-debug"]);
    let log = cluster.results(NAME)?.join("log.txt");
    eprintln!("conformance: {NAME}: everything it says is in {}", log.display());
    let mut hearing = Hearing::default();
    place::stream(&mut command, &log, |line| {
        if let Some(said) = hearing.hear(line) {
            eprintln!("{said}");
        }
    })?;
    let mut cases = hearing.finish();
    let (skips, nodes) = (Skips::read(&skip_file(NAME))?, cluster.nodes()?);
    let stale = skips.stale(cases.iter().map(|case| case.name.as_str()));
    for case in &mut cases {
        if let Some(reason) = skips.reason(&case.name, nodes) {
            *case = Case::skipped(case.name.clone(), reason);
        }
    }
    Ok(Outcome { suite: NAME.into(), seconds: begun.elapsed().as_secs_f64(), cases, stale, ..Outcome::default() })
}

/// Installs the tests' own definition of the kind, and waits until the agent of every node watches it.
fn define(cluster: &Cluster) -> Result<()> {
    let definition = place::cache().join("work/clusternetpol/crd.yaml");
    let kubectl = |words: &[&str]| kubectl_at(&cluster.kubeconfig, words);
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &definition.display().to_string()])?;
    kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &definition.display().to_string()])?;
    let (nodes, begun) = (cluster.nodes()?, Instant::now());
    loop {
        let watches = watches(&kubectl(&["get", "--raw", "/metrics"])?);
        if watches >= nodes {
            return Ok(());
        }
        ensure!(begun.elapsed() < SEEN, "{watches} of {nodes} agents watch ClusterNetworkPolicies after {} s", SEEN.as_secs());
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// How many watches of the kind an API server serves, by its metrics, in the version that Bowline reads.
fn watches(metrics: &str) -> usize {
    let all = metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{"));
    let ours = all.filter(|line| {
        ["resource=\"clusternetworkpolicies\"", "verb=\"WATCH\"", "version=\"v1alpha2\""].iter().all(|label| line.contains(label))
    });
    ours.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
}

/// What has been heard so far.
#[derive(Debug, Default)]
struct Hearing {
    /// By name, with what it was heard to say.
    tests: BTreeMap<String, Heard>,
    /// In the order in which they ended.
    ended: Vec<String>,
    /// The one whose words the next line is.
    speaks: String,
}

/// One test or subtest.
#[derive(Debug, Default)]
struct Heard {
    said: String,
    verdict: Option<Verdict>,
    took: Duration,
    has_subtests: bool,
    subtest_failed: bool,
}

impl Hearing {
    /// Takes a line; a line for people if a subtest begins with it.
    fn hear(&mut self, line: &str) -> Option<String> {
        let words = line.trim_start();
        if let Some(name) = ["=== RUN", "=== NAME", "=== CONT"].iter().find_map(|prefix| words.strip_prefix(prefix)) {
            name.trim().clone_into(&mut self.speaks);
            if !words.starts_with("=== RUN") {
                return None;
            }
            self.tests.entry(self.speaks.clone()).or_default();
            let parent = parent(&self.speaks).and_then(|parent| self.tests.get_mut(parent))?;
            parent.has_subtests = true;
            return Some(format!("… {}", plain(&self.speaks)));
        }
        let Some((mark, name, took)) = verdict(words) else {
            self.keep(words);
            return None;
        };
        let test = self.tests.entry(name.to_owned()).or_default();
        test.took = took;
        test.verdict = Some(match mark {
            "PASS" => Verdict::Passed,
            "SKIP" => Verdict::Skipped(format!("by itself: {}", test.said)),
            _ => Verdict::Failed(if test.said.is_empty() { "it says nothing".to_owned() } else { test.said.clone() }),
        });
        if mark == "FAIL"
            && let Some(parent) = parent(name).and_then(|parent| self.tests.get_mut(parent))
        {
            parent.subtest_failed = true;
        }
        self.ended.push(name.to_owned());
        None
    }

    /// Keeps what says most of why a test failed: what it expected, or else its last words.
    fn keep(&mut self, words: &str) {
        let Some(test) = self.tests.get_mut(&self.speaks) else { return };
        if words.is_empty() || (test.said.contains("Expected connection") && !words.contains("Expected connection")) {
            return;
        }
        words.clone_into(&mut test.said);
    }

    /// All cases; what it began and did not end has failed.
    fn finish(mut self) -> Vec<Case> {
        let mut cases = Vec::new();
        for name in std::mem::take(&mut self.ended) {
            let Some(test) = self.tests.remove(&name).filter(Heard::is_case) else { continue };
            cases.extend(test.verdict.map(|verdict| Case { name: plain(&name), verdict, seconds: test.took.as_secs_f64() }));
        }
        let open = self.tests.into_iter().filter(|(_, test)| test.verdict.is_none() && !test.has_subtests);
        cases.extend(open.map(|(name, test)| Case::failed(plain(&name), format!("it did not end: {}", test.said), Duration::ZERO)));
        if cases.is_empty() {
            cases.push(Case::failed("(the suite itself)", "it ran no test", Duration::ZERO));
        }
        cases
    }
}

impl Heard {
    /// A subtest alone is a case, and what failed without any of its own failing.
    fn is_case(&self) -> bool {
        !self.has_subtests || (matches!(self.verdict, Some(Verdict::Failed(_))) && !self.subtest_failed)
    }
}

/// A line `--- VERDICT: NAME (1.23s)`.
fn verdict(words: &str) -> Option<(&str, &str, Duration)> {
    let (mark, rest) = words.strip_prefix("--- ")?.split_once(": ")?;
    let (name, took) = rest.rsplit_once(" (")?;
    let seconds: f64 = took.strip_suffix("s)")?.parse().ok()?;
    Some((mark, name, Duration::try_from_secs_f64(seconds).ok()?))
}

fn parent(name: &str) -> Option<&str> {
    Some(name.rsplit_once('/')?.0)
}

/// A name as people read it.
fn plain(name: &str) -> String {
    let cut = name.strip_prefix(TEST).map_or(name, |rest| rest.trim_start_matches('/'));
    if cut.is_empty() { "(its setup)".to_owned() } else { cut.replace('_', " ").replace('/', ": ") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn heard(text: &str) -> Vec<Case> {
        let mut hearing = Hearing::default();
        text.lines().for_each(|line| drop(hearing.hear(line)));
        hearing.finish()
    }

    const OUTPUT: &str = "\
=== RUN   TestConformance
    suite.go:161: Test Setup: Applying base manifests
=== RUN   TestConformance/CNPAdmin
=== RUN   TestConformance/CNPAdmin/Should_allow
    helper.go:107: FAILED Command was [/agnhost connect]
    helper.go:108: Expected connection to succeed, but instead it failed
=== RUN   TestConformance/CNPAdmin/Should_deny
    helper.go:107: FAILED Command was [/agnhost connect]
    helper.go:114: Expected connection to fail from a to b, but instead it successfully connected.
    helper.go:80:
        \tError:      \tCondition never satisfied
=== NAME  TestConformance/CNPAdmin
    apply.go:168: Deleting x
=== RUN   TestConformance/CNPOld
    suite.go:220: no such feature
--- FAIL: TestConformance (30.00s)
    --- FAIL: TestConformance/CNPAdmin (20.50s)
        --- PASS: TestConformance/CNPAdmin/Should_allow (3.10s)
        --- FAIL: TestConformance/CNPAdmin/Should_deny (10.00s)
    --- SKIP: TestConformance/CNPOld (0.00s)
FAIL
";

    #[test]
    fn cases_are_the_innermost_subtests() {
        let cases = heard(OUTPUT);
        assert_eq!(cases.len(), 3);
        assert_eq!(cases[0], Case::passed("CNPAdmin: Should allow", Duration::from_millis(3100)));
        assert!(matches!(&cases[1].verdict, Verdict::Failed(why) if why.contains("Expected connection to fail")));
        assert!(matches!(&cases[2].verdict, Verdict::Skipped(why) if why.contains("no such feature")));
    }

    #[test]
    fn what_fails_without_a_subtest_is_a_case_and_so_is_what_never_ends() {
        let cases = heard(
            "=== RUN   TestConformance\n    suite.go:1: no such namespace\n--- FAIL: TestConformance (1.00s)\n=== RUN   TestConformance/A\n",
        );
        assert_eq!(cases[0].name, "(its setup)");
        assert!(matches!(&cases[0].verdict, Verdict::Failed(why) if why.contains("no such namespace")));
        assert_eq!(cases[1], Case::failed("A", "it did not end: ", Duration::ZERO));
        assert!(matches!(heard("FAIL\n")[..], [Case { verdict: Verdict::Failed(_), .. }]));
    }

    #[test]
    fn watches_are_counted_in_the_version_that_is_read() {
        let line = |version: &str, verb: &str, count: u8| {
            format!("apiserver_longrunning_requests{{resource=\"clusternetworkpolicies\",verb=\"{verb}\",version=\"{version}\"}} {count}\n")
        };
        let text = line("v1alpha2", "WATCH", 2) + &line("v1beta1", "WATCH", 1) + &line("v1alpha2", "GET", 7);
        assert_eq!(watches(&text), 2);
    }
}

//! Ginkgo, which runs the Kubernetes e2e suite: the list of its specs, its progress as it is printed, and its JSON report.
//!
//! Reference: Ginkgo 2.27, `types.Report` and `types.SpecReport`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::outcome::{Case, Verdict};

/// Names of specs out of `e2e.test --list-tests`: `FILE:LINE: NAME`, indented.
pub(crate) fn listed(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| {
        let (place, name) = line.strip_prefix("    ")?.split_once(": ")?;
        let (_, number) = place.rsplit_once(':')?;
        number.parse::<u32>().ok().map(|_| name.trim().to_owned())
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Regular expressions for `--focus` that select these specs and no others: Go's are matched against the suite's name and the spec's.
pub(crate) fn focus(names: &[&str]) -> Vec<String> {
    names.chunks(20).map(|some| format!(" ({}) *$", some.iter().map(|name| regex::escape(name)).collect::<Vec<_>>().join("|"))).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default, deserialize_with = "null_is_empty")]
    special_suite_failure_reasons: Vec<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    spec_reports: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default, deserialize_with = "null_is_empty")]
    container_hierarchy_texts: Vec<String>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    /// Nanoseconds.
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

fn null_is_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The cases of a report: each selected spec has one, also when the suite ended before it; a setup that failed is a case of its own.
pub(crate) fn cases(report: &Path, selected: &[&str]) -> Result<Vec<Case>> {
    let mut found = BTreeMap::new();
    let mut others = Vec::new();
    let mut why = String::from("the suite ended before it");
    for report in read(report)? {
        if let Some(reason) = report.special_suite_failure_reasons.first() {
            why = format!("the suite ended before it: {reason}");
        }
        for spec in report.spec_reports {
            let case = spec.case();
            if spec.leaf_node_type == "It" {
                found.insert(case.name.clone(), case);
            } else if matches!(case.verdict, Verdict::Failed(_)) {
                others.push(case);
            }
        }
    }
    let of_selected = selected.iter().map(|name| match found.remove(*name).filter(was_reached) {
        Some(case) => case,
        None => Case::failed(*name, &why, Duration::ZERO),
    });
    Ok(of_selected.chain(others).collect())
}

/// The cases of a report of which all that was selected is wanted.
pub(crate) fn all_cases(report: &Path) -> Result<Vec<Case>> {
    let specs = read(report)?.into_iter().flat_map(|report| report.spec_reports);
    let cases = specs.filter(|spec| spec.leaf_node_type == "It" || spec.state == "failed").map(|spec| spec.case());
    Ok(cases.filter(was_reached).collect())
}

/// A spec that ginkgo reports as not run without a word is one that it never came to.
fn was_reached(case: &Case) -> bool {
    !matches!(&case.verdict, Verdict::Skipped(reason) if reason.is_empty())
}

fn read(report: &Path) -> Result<Vec<Report>> {
    let at = || report.display().to_string();
    serde_json::from_slice(&std::fs::read(report).with_context(at)?).with_context(at)
}

impl Spec {
    fn case(&self) -> Case {
        let texts = self.container_hierarchy_texts.iter().map(String::as_str).chain([self.leaf_node_text.as_str()]);
        let mut name = texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ").trim().to_owned();
        if self.leaf_node_type != "It" {
            name = format!("[{}] {name}", self.leaf_node_type).trim().to_owned();
        }
        let message = self.failure.as_ref().map_or("", |failure| failure.message.as_str());
        let took = Duration::from_nanos(self.run_time);
        match self.state.as_str() {
            "passed" => Case::passed(name, took),
            "skipped" | "pending" => Case::skipped(
                name,
                if message.is_empty() { String::new() } else { format!("by itself: {}", super::outcome::first_line(message)) },
            ),
            state => Case::failed(name, if message.is_empty() { state } else { message }, took),
        }
    }
}

/// Hears `ginkgo -v`: after a rule, processes side by side print a bullet with the time and then the spec's name, one alone the other way
/// round.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    done: usize,
    failed: usize,
    total: usize,
    after_rule: bool,
    /// The line after the last rule, unless it was a bullet.
    header: String,
    /// A bullet whose name comes next.
    bullet: Option<(bool, String)>,
}

impl Progress {
    pub(crate) fn of(total: usize) -> Progress {
        Progress { total, ..Progress::default() }
    }

    /// A line for people, if this one completes a spec.
    pub(crate) fn hear(&mut self, line: &str) -> Option<String> {
        let after_rule = std::mem::replace(&mut self.after_rule, line.starts_with("----------"));
        if let Some(rest) = line.strip_prefix("• [") {
            let failed = ["FAILED", "PANICKED", "TIMEDOUT", "INTERRUPTED"].iter().any(|word| rest.starts_with(word));
            let time = rest.rsplit('[').next().unwrap_or_default().trim_end_matches([']', ' ']).replace(" seconds", " s");
            if after_rule {
                self.bullet = Some((failed, time));
                return None;
            }
            let name = std::mem::take(&mut self.header);
            return Some(self.complete(failed, &time, &name));
        }
        if let Some((failed, time)) = self.bullet.take() {
            return Some(self.complete(failed, &time, line));
        }
        if after_rule {
            self.header = line.to_owned();
        }
        None
    }

    fn complete(&mut self, failed: bool, time: &str, name: &str) -> String {
        self.done += 1;
        self.failed += usize::from(failed);
        let mark = if failed { '✗' } else { '✓' };
        // What follows the name in brackets are the labels, which are in it, too.
        let name = name.trim().rsplit_once(" [").map_or(name.trim(), |(name, _)| name);
        // A failed one has its leaf marked.
        let name = name.replacen(" [It] ", " ", 1);
        format!("{mark} {}/{} ({} failed) {time:>9}  {name}", self.done, self.total, self.failed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_the_list() {
        let text = "The following spec names can be used:\n    \
                    k8s.io/kubernetes@v1.35.4/test/e2e/network/dns.go:54: [sig-network] DNS should provide: DNS [Conformance]\n    \
                    k8s.io/kubernetes@v1.35.4/test/e2e/network/service.go:905: [sig-network] Services should be updated \n\n";
        assert_eq!(listed(text), ["[sig-network] DNS should provide: DNS [Conformance]", "[sig-network] Services should be updated"]);
    }

    #[test]
    fn a_focus_selects_whole_names_only() {
        let focus = focus(&["[sig-network] Proxy v1 (a)", "[sig-network] B"]);
        let pattern = regex::Regex::new(&focus[0]).unwrap();
        assert!(pattern.is_match("Kubernetes e2e suite [sig-network] Proxy v1 (a) "));
        assert!(pattern.is_match("Kubernetes e2e suite [sig-network] B"));
        assert!(!pattern.is_match("Kubernetes e2e suite [sig-network] B and more"));
    }

    #[test]
    fn a_report_has_a_case_for_each_selected_spec() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let it = |name: &str, state: &str, failure: &str| {
            format!(
                r#"{{"ContainerHierarchyTexts":["[sig-network] X"],"LeafNodeType":"It","LeafNodeText":"{name}","State":"{state}",
                    "RunTime":1500000000{failure}}}"#
            )
        };
        let specs = [
            it("good ", "passed", ""),
            it("bad", "failed", r#","Failure":{"Message":"no answer\nin a while"}"#),
            it("choosy", "skipped", r#","Failure":{"Message":"needs 3 nodes"}"#),
            it("late", "skipped", ""),
            it("other", "skipped", ""),
            r#"{"ContainerHierarchyTexts":null,"LeafNodeType":"SynchronizedBeforeSuite","LeafNodeText":"","State":"failed","RunTime":1,
                "Failure":{"Message":"no nodes"}}"#
                .to_owned(),
        ];
        let text = format!(r#"[{{"SpecialSuiteFailureReasons":null,"SpecReports":[{}]}}]"#, specs.join(","));
        std::fs::write(file.path(), text).unwrap();
        let selected = ["[sig-network] X good", "[sig-network] X bad", "[sig-network] X choosy", "[sig-network] X late"];
        let cases = cases(file.path(), &selected).unwrap();
        assert_eq!(cases.len(), 5);
        assert_eq!(cases[0], Case::passed("[sig-network] X good", Duration::from_millis(1500)));
        assert_eq!(cases[1].verdict, Verdict::Failed("no answer".to_owned()));
        assert_eq!(cases[2].verdict, Verdict::Skipped("by itself: needs 3 nodes".to_owned()));
        assert_eq!(cases[3].verdict, Verdict::Failed("the suite ended before it".to_owned()));
        assert_eq!(cases[4].name, "[SynchronizedBeforeSuite]");
    }

    #[test]
    fn progress_is_heard_from_bullets() {
        let rule = "------------------------------";
        let mut progress = Progress::of(3);
        let beside = [
            rule,
            "• [0.015 seconds]",
            "[sig-network] A [sig-network]",
            "chatter",
            rule,
            "• [FAILED] [61.000 seconds]",
            "[sig-network] [It] B [x, y]",
        ];
        let said: Vec<String> = beside.iter().filter_map(|line| progress.hear(line)).collect();
        assert_eq!(said, ["✓ 1/3 (0 failed)   0.015 s  [sig-network] A", "✗ 2/3 (1 failed)  61.000 s  [sig-network] B"]);
        let alone = [
            rule,
            "[sig-network] C [Conformance] [x, y]",
            "file.go:152",
            "• [2.000 seconds]",
            rule,
            "[ReportAfterSuite] PASSED [0.1 seconds]",
        ];
        let said: Vec<String> = alone.iter().filter_map(|line| progress.hear(line)).collect();
        assert_eq!(said, ["✓ 3/3 (1 failed)   2.000 s  [sig-network] C [Conformance]"]);
    }
}

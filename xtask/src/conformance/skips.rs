//! Why cases are not run: `conformance/skips/SUITE.txt`, a line for each as REGEX, tab, reason; `#` begins a comment.
//!
//! A reason that begins with `nodes<N: ` counts on clusters with fewer nodes only.
//!
//! A line that no case of the suite is called by any more is stale and is reported, so that a skip does not outlive its reason unseen.

use std::path::Path;

use anyhow::{Context, Result};
use regex::Regex;

/// The lines of a skip file.
#[derive(Debug, Default)]
pub(crate) struct Skips {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    pattern: Regex,
    /// On clusters with fewer nodes than this.
    below: Option<usize>,
    reason: String,
}

impl Skips {
    /// Reads a suite's file; a suite without a file skips nothing.
    pub(crate) fn read(path: &Path) -> Result<Skips> {
        if !path.exists() {
            return Ok(Skips::default());
        }
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Skips::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Skips> {
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
            let at = || format!("line {}", number + 1);
            let (pattern, reason) = line
                .split_once('\t')
                .filter(|(_, reason)| !reason.trim().is_empty())
                .with_context(|| format!("{}: no tab and reason", at()))?;
            let pattern = Regex::new(pattern.trim()).with_context(at)?;
            let (below, reason) = match reason.trim().strip_prefix("nodes<").and_then(|rest| rest.split_once(": ")) {
                Some((count, reason)) => (Some(count.parse().with_context(at)?), reason),
                None => (None, reason.trim()),
            };
            lines.push(Line { pattern, below, reason: reason.to_owned() });
        }
        Ok(Skips { lines })
    }

    /// Why a case is not run on a cluster of so many nodes, if it is not.
    pub(crate) fn reason(&self, case: &str, nodes: usize) -> Option<&str> {
        let counts = |line: &&Line| line.below.is_none_or(|count| nodes < count) && line.pattern.is_match(case);
        self.lines.iter().find(counts).map(|line| line.reason.as_str())
    }

    /// Patterns that match no case.
    pub(crate) fn stale<'a>(&self, cases: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
        let unused = self.lines.iter().filter(|line| !cases.clone().any(|case| line.pattern.is_match(case)));
        unused.map(|line| line.pattern.to_string()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n\nLoadBalancers\tno cloud\nsctp$\tthe kernel has none\n";

    #[test]
    fn the_first_line_that_matches_gives_the_reason() {
        let skips = Skips::parse(FILE).unwrap();
        assert_eq!(skips.reason("LoadBalancers sctp", 2), Some("no cloud"));
        assert_eq!(skips.reason("services: sctp", 2), Some("the kernel has none"));
        assert_eq!(skips.reason("sctp services", 2), None);
    }

    #[test]
    fn a_reason_may_count_on_small_clusters_only() {
        let skips = Skips::parse("Zones\tnodes<4: needs three zones\n").unwrap();
        assert_eq!(skips.reason("Zones", 3), Some("needs three zones"));
        assert_eq!(skips.reason("Zones", 4), None);
        assert!(Skips::parse("Zones\tnodes<many: needs three zones\n").is_err());
    }

    #[test]
    fn lines_without_a_case_are_stale() {
        let skips = Skips::parse(FILE).unwrap();
        assert_eq!(skips.stale(["a sctp", "b"].into_iter()), ["LoadBalancers"]);
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        for bad in ["LoadBalancers", "LoadBalancers\t ", "(\tno pattern"] {
            assert!(Skips::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_files_of_the_repository_parse() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/skips");
        let mut files = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            Skips::read(&path).unwrap();
            files += 1;
        }
        assert!(files > 0);
    }
}

//! The table at the end: a row for each suite, then what failed and what was skipped.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::outcome::{Outcome, Verdict};

/// Everything that ran, for printing.
pub(crate) struct Table<'a>(pub(crate) &'a [Outcome]);

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|o| o.suite.len()).chain([5]).max().unwrap_or(5);
        writeln!(f, "{:width$}  {:>7}  {:>7}  {:>7}  {:>9}", "SUITE", "passed", "failed", "skipped", "time")?;
        for outcome in self.0 {
            let (passed, failed, skipped) = outcome.counts();
            writeln!(f, "{:width$}  {passed:>7}  {failed:>7}  {skipped:>7}  {:>9}", outcome.suite, clock(outcome.seconds))?;
        }
        self.0.iter().try_for_each(|outcome| failures(f, outcome))?;
        self.0.iter().try_for_each(|outcome| skips(f, outcome))?;
        self.0.iter().try_for_each(|outcome| figures(f, outcome))?;
        let (passed, failed, skipped) = self.0.iter().map(Outcome::counts).fold((0, 0, 0), |a, b| (a.0 + b.0, a.1 + b.1, a.2 + b.2));
        write!(f, "\n{passed} passed, {failed} failed, {skipped} skipped")
    }
}

fn failures(f: &mut Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let failed: Vec<(&str, &str)> = outcome
        .cases
        .iter()
        .filter_map(|case| if let Verdict::Failed(why) = &case.verdict { Some((case.name.as_str(), why.as_str())) } else { None })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{}: failed", outcome.suite)?;
    failed.iter().try_for_each(|(name, why)| writeln!(f, "  ✗ {name}\n      {why}"))
}

/// Skipped cases under their reason, the reason that most share first.
fn skips(f: &mut Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for case in &outcome.cases {
        if let Verdict::Skipped(why) = &case.verdict {
            reasons.entry(why).or_default().push(&case.name);
        }
    }
    if !reasons.is_empty() {
        writeln!(f, "\n{}: skipped", outcome.suite)?;
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    for (why, names) in reasons {
        writeln!(f, "  {} × {why}", names.len())?;
        names.iter().try_for_each(|name| writeln!(f, "      {name}"))?;
    }
    for pattern in &outcome.stale {
        writeln!(f, "  stale line in conformance/skips/{}.txt: no case is called `{pattern}`", outcome.suite)?;
    }
    Ok(())
}

fn figures(f: &mut Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    if outcome.figures.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{}: measured", outcome.suite)?;
    let width = outcome.figures.iter().map(|figure| figure.what.chars().count()).max().unwrap_or(0);
    outcome.figures.iter().try_for_each(|figure| writeln!(f, "  {:width$}  {}", figure.what, figure.value))
}

/// Seconds as people read them.
pub(crate) fn clock(seconds: f64) -> String {
    let duration = std::time::Duration::from_secs_f64(seconds.max(0.0));
    let whole = duration.as_secs();
    if whole < 60 { format!("{seconds:.1} s") } else { format!("{}m{:02}s", whole / 60, whole % 60) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use std::time::Duration;

    use super::super::outcome::{Case, Figure};
    use super::*;

    #[test]
    fn a_table_has_rows_failures_skips_and_a_closing_line() {
        let cases = vec![
            Case::passed("a", Duration::from_secs(3)),
            Case::failed("b", "no answer", Duration::ZERO),
            Case::skipped("c", "no cloud"),
            Case::skipped("d", "no cloud"),
        ];
        let figures = vec![Figure { what: "memory".into(), value: "12 MB".into() }];
        let outcome = Outcome { suite: "network".into(), seconds: 61.0, cases, stale: vec!["xyz".into()], figures };
        let text = Table(&[outcome]).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "network        1        1        2      1m01s");
        assert!(text.contains("network: failed\n  ✗ b\n      no answer\n"), "{text}");
        assert!(text.contains("  2 × no cloud\n      c\n      d\n"), "{text}");
        assert!(text.contains("no case is called `xyz`"), "{text}");
        assert!(text.contains("  memory  12 MB"), "{text}");
        assert_eq!(*lines.last().unwrap(), "1 passed, 1 failed, 2 skipped");
    }
}

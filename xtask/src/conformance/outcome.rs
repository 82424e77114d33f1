//! What a suite said: its cases, each with a verdict and a time.

use std::time::Duration;

use serde::Serialize;

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "verdict", content = "why")]
pub(crate) enum Verdict {
    /// It ran and was content.
    Passed,
    /// It ran and was not; the first line of what it said.
    Failed(String),
    /// It did not run; the reason.
    Skipped(String),
}

/// A case of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Case {
    /// Its name in its own suite.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
}

impl Case {
    pub(crate) fn passed(name: impl Into<String>, took: Duration) -> Case {
        Case { name: name.into(), verdict: Verdict::Passed, seconds: took.as_secs_f64() }
    }

    pub(crate) fn failed(name: impl Into<String>, why: impl AsRef<str>, took: Duration) -> Case {
        Case { name: name.into(), verdict: Verdict::Failed(first_line(why.as_ref())), seconds: took.as_secs_f64() }
    }

    pub(crate) fn skipped(name: impl Into<String>, why: impl Into<String>) -> Case {
        Case { name: name.into(), verdict: Verdict::Skipped(why.into()), seconds: 0.0 }
    }

    /// A check of our own: passed when it is content, failed with its error's chain otherwise.
    pub(crate) fn of(name: impl Into<String>, took: Duration, result: &anyhow::Result<()>) -> Case {
        match result {
            Ok(()) => Case::passed(name, took),
            Err(error) => Case::failed(name, format!("{error:#}"), took),
        }
    }
}

/// A measurement, which is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: String,
}

/// A suite that has run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) suite: String,
    pub(crate) seconds: f64,
    pub(crate) cases: Vec<Case>,
    /// Lines of the skip file that no case of the suite is called by.
    pub(crate) stale: Vec<String>,
    pub(crate) figures: Vec<Figure>,
}

impl Outcome {
    /// A suite of which nothing ran.
    pub(crate) fn absent(suite: &str, why: &str) -> Outcome {
        Outcome { suite: suite.to_owned(), cases: vec![Case::failed("(the suite itself)", why, Duration::ZERO)], ..Outcome::default() }
    }

    /// Passed, failed, skipped.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        self.cases.iter().fold((0, 0, 0), |(passed, failed, skipped), case| match case.verdict {
            Verdict::Passed => (passed + 1, failed, skipped),
            Verdict::Failed(_) => (passed, failed + 1, skipped),
            Verdict::Skipped(_) => (passed, failed, skipped + 1),
        })
    }
}

/// The first line that says something, without what a terminal makes of it, and no longer than a screen is wide by two.
pub(crate) fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("(no message)");
    if line.chars().count() <= 300 { line.to_owned() } else { line.chars().take(299).chain(['…']).collect() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn counts_are_of_cases() {
        let cases = vec![
            Case::passed("a", Duration::from_secs(1)),
            Case::failed("b", "\n  it broke\nhere", Duration::ZERO),
            Case::skipped("c", "no cloud"),
            Case::skipped("d", "no cloud"),
        ];
        assert_eq!(cases[1].verdict, Verdict::Failed("it broke".to_owned()));
        assert_eq!(Outcome { cases, ..Outcome::default() }.counts(), (1, 1, 2));
    }

    #[test]
    fn a_message_is_its_first_line_cut() {
        assert_eq!(first_line(""), "(no message)");
        assert_eq!(first_line(&"x".repeat(301)).chars().count(), 300);
    }
}

//! Counts what test runners say, for one closing line over all of them.

/// Tests that passed, failed, and were skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// The lines that tell of failures, to be said again at the end, where they are looked for.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// Adds what a line says, if it is a runner's closing line: cargo's own (`test result: ok. 3 passed; 0 failed; ...`), or the plain one
    /// (`3 passed, 0 failed, 1 skipped`), or a test's own word that it skipped something (`skipped: reason`).
    pub(crate) fn hear(&mut self, line: &str) {
        if tells_of_failure(line) {
            self.failures.push(line.to_owned());
        }
        let cargo = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")).map(|(_, counts)| counts);
        if let Some(counts) = cargo.or_else(|| plain_counts(line)) {
            for part in counts.split([';', ',']) {
                let mut words = part.split_whitespace();
                let number = words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
                match words.next() {
                    Some("passed") => self.passed += number,
                    Some("failed") => self.failed += number,
                    Some("skipped" | "ignored") => self.skipped += number,
                    _ => {}
                }
            }
        }
    }
}

/// cargo's line of a test that failed (`test name ... FAILED`), a row's (`name title FAIL 1.0s what was seen`), or a panic's place.
fn tells_of_failure(line: &str) -> bool {
    (line.starts_with("test ") && line.ends_with("... FAILED"))
        || line.split_once(" FAIL ").is_some_and(|(_, rest)| rest.split_whitespace().next().is_some_and(|time| time.ends_with('s')))
        || (line.starts_with("thread '") && line.contains("' panicked at "))
}

fn plain_counts(line: &str) -> Option<&str> {
    let (passed, rest) = line.split_once(" passed, ")?;
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let failed = rest.split(' ').next()?;
    (all_digits(passed) && all_digits(failed)).then_some(line)
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn closing_lines_are_added_and_others_are_not() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "3 passed, 2 failed, 4 skipped",
            "test oracle::agrees ... ok",
            "we passed, 9 failed",
            "test oracle::differs ... FAILED",
            "lists            410, then lists cut                          FAIL   3.0s  objects were written",
            "a word of FAIL in what a program says",
        ] {
            tally.hear(line);
        }
        assert_eq!(tally.to_string(), "8 passed, 2 failed, 5 skipped");
        let names: Vec<_> = tally.failures.iter().filter_map(|line| line.split_whitespace().find(|word| *word != "test")).collect();
        assert_eq!(names, ["oracle::differs", "lists"]);
    }
}

//! Counts what test runners say, for one closing line over all of them.

/// Tests that passed, failed, and were skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Adds what a line says, if it is a runner's closing line: cargo's own (`test result: ok. 3 passed; 0 failed; ...`), or the plain one
    /// (`3 passed, 0 failed, 1 skipped`), or a test's own word that it skipped something (`skipped: reason`).
    pub(crate) fn hear(&mut self, line: &str) {
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
        ] {
            tally.hear(line);
        }
        assert_eq!(tally, Tally { passed: 8, failed: 2, skipped: 5 });
        assert_eq!(tally.to_string(), "8 passed, 2 failed, 5 skipped");
    }
}

//! When to try again what the node has not given yet: soon at first, since most of it is still on its way when the agent starts.

/// The first pause, and the longest.
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 60_000;

/// Tries, each after twice the pause of the one before.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tries {
    pause_ms: u64,
}

impl Tries {
    /// One more was in vain; the pause until the next, in milliseconds.
    pub(crate) fn failed(&mut self) -> u64 {
        self.pause_ms = (self.pause_ms * 2).clamp(FIRST_MS, LONGEST_MS);
        self.pause_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let mut tries = Tries::default();
        let pauses: Vec<u64> = (0..9).map(|_| tries.failed() / 1000).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}

//! Order statistics of samples.

/// Samples, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Of these values.
    pub(crate) fn new(mut values: Vec<f64>) -> Samples {
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    /// The smallest value that `per_cent` of all do not exceed; not a number if there is none.
    pub(crate) fn percentile(&self, per_cent: usize) -> f64 {
        let rank = (self.0.len() * per_cent).div_ceil(100).max(1) - 1;
        self.0.get(rank).copied().unwrap_or(f64::NAN)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle value.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The range that the middle half lies in.
    pub(crate) fn middle_half(&self) -> (f64, f64) {
        (self.percentile(25), self.percentile(75))
    }
}

/// Each of `ours` over the one of `theirs` that was measured beside it.
pub(crate) fn ratios(ours: &[f64], theirs: &[f64]) -> Samples {
    Samples::new(ours.iter().zip(theirs).map(|(a, b)| a / b).collect())
}

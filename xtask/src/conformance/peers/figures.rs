//! What the rounds say: each figure of both sides, and the ratio of the first to the second, round by round.

use std::time::Duration;

use super::{PODS, REST, Usage};
use crate::conformance::outcome::Figure;

/// What one side took in one round.
pub(super) struct Sample {
    pub(super) rest_ms: u64,
    pub(super) work_ms: u64,
    /// From a pod's creation to its being Ready, the quickest first.
    pub(super) starts: Vec<Duration>,
    pub(super) usage: Usage,
}

/// Both sides in one round, in their order, and the machine's load at its end.
pub(super) struct Round {
    pub(super) load: f64,
    pub(super) sides: Vec<Sample>,
}

/// A figure for each thing that was measured.
pub(super) fn of(names: [&str; 2], ready: &[Duration], rounds: &[Round]) -> Vec<Figure> {
    let each =
        |value: &dyn Fn(&Sample) -> f64| -> Vec<Vec<f64>> { rounds.iter().map(|round| round.sides.iter().map(value).collect()).collect() };
    let seconds: Vec<Vec<f64>> = vec![ready.iter().map(Duration::as_secs_f64).collect()];
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let median_start = |sample: &Sample| sample.starts.get(sample.starts.len() / 2).copied().unwrap_or_default().as_secs_f64();
    let mut figures = vec![
        beside(names, "from installing to nodes Ready and names answered", "s", &seconds),
        beside(names, &format!("a pod from creation to Ready, median of {PODS} a round"), "s", &each(&median_start)),
        beside(names, &format!("processor at rest, both nodes, {} s", REST.as_secs()), "ms", &each(&|sample| sample.rest_ms as f64)),
        beside(names, &format!("processor for the start of {PODS} pods"), "ms", &each(&|sample| sample.work_ms as f64)),
        beside(names, "memory, both nodes", "MB", &each(&|sample| megabytes(sample.usage.bytes))),
    ];
    for sample in rounds.last().iter().flat_map(|round| &round.sides) {
        for (process, bytes) in &sample.usage.each {
            figures.push(Figure { what: format!("memory of {process}, last round"), value: format!("{:.1} MB", megabytes(*bytes)) });
        }
    }
    let (low, middle, high) = spread(rounds.iter().map(|round| round.load).collect());
    figures.push(Figure { what: "load average of the machine".into(), value: format!("{middle:.1} ({low:.1}..{high:.1})") });
    figures
}

/// Medians of both sides, and the median of the ratios with the least and the greatest.
fn beside(names: [&str; 2], what: &str, unit: &str, rounds: &[Vec<f64>]) -> Figure {
    let side = |index: usize| spread(rounds.iter().filter_map(|round| round.get(index).copied()).collect()).1;
    let ratio = |round: &Vec<f64>| match round.as_slice() {
        [ours, theirs] if *theirs > 0.0 => Some(ours / theirs),
        _ => None,
    };
    let (low, middle, high) = spread(rounds.iter().filter_map(ratio).collect());
    let value = format!("{} {:.2} {unit}, {} {:.2} {unit}, ratio {middle:.2} ({low:.2}..{high:.2})", names[0], side(0), names[1], side(1));
    Figure { what: what.to_owned(), value }
}

/// The least, the median and the greatest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_one_round() {
        let figure = beside(["a", "b"], "x", "s", &[vec![1.0, 2.0], vec![9.0, 3.0], vec![4.0, 4.0]]);
        assert_eq!(figure.value, "a 4.00 s, b 3.00 s, ratio 1.00 (0.50..3.00)");
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(beside(["a", "b"], "x", "s", &[vec![1.0, 0.0]]).value, "a 1.00 s, b 0.00 s, ratio 0.00 (0.00..0.00)");
    }
}

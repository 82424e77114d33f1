//! Prometheus's text format (0.0.4): histograms that are counted with one atomic addition, and the page that all is written on.
//!
//! Invariant: no clock and no I/O; whoever counts says how much.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the page is, for an HTTP answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// A histogram.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Vec<AtomicU64>,
    /// The sum in millionths.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one with these upper bounds, ascending.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts a value, which is not negative.
    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let micros = Duration::try_from_secs_f64(value).map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self.sum.fetch_add(micros, Ordering::Relaxed);
    }
}

/// The page.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// An empty one with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Page {
        Page(String::with_capacity(bytes))
    }

    /// What has been written.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins a metric: `kind` is counter, gauge or histogram.
    pub fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value of the metric that was begun.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if i == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A metric of one value.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The buckets, sum and count of the histogram that was begun.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bounds = histogram.bounds.iter().map(ToString::to_string).chain([String::from("+Inf")]);
        let mut total = 0;
        let bucket_name = format!("{name}_bucket");
        for (bound, bucket) in bounds.zip(&histogram.buckets) {
            total += bucket.load(Ordering::Relaxed);
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            self.sample(&bucket_name, &labels, total);
        }
        let micros = histogram.sum.load(Ordering::Relaxed);
        self.sample(&format!("{name}_sum"), labels, format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
        self.sample(&format!("{name}_count"), labels, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up_and_labels_are_escaped() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        [0.25, 0.5, 0.75, 7.0].iter().for_each(|value| histogram.observe(*value));
        let mut page = Page::default();
        page.head("x_seconds", "histogram", "Time.");
        page.histogram("x_seconds", &[("a", "b\"\\\n")], &histogram);
        page.single("y_total", "counter", "Some.", 3);
        let label = "a=\"b\\\"\\\\\\n\"";
        let expected = format!(
            "# HELP x_seconds Time.\n# TYPE x_seconds histogram\nx_seconds_bucket{{{label},le=\"0.5\"}} 2\n\
             x_seconds_bucket{{{label},le=\"1\"}} 3\nx_seconds_bucket{{{label},le=\"+Inf\"}} 4\nx_seconds_sum{{{label}}} 8.500000\n\
             x_seconds_count{{{label}}} 4\n# HELP y_total Some.\n# TYPE y_total counter\ny_total 3\n"
        );
        assert_eq!(page.into_text(), expected);
    }
}

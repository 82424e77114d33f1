//! What was measured, as a table for people and as JSON.

use std::fmt;

use serde::Serialize;

use crate::Effort;
use crate::machine::Machine;
use crate::stats::Samples;

/// All of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    machine: Machine,
    quick: bool,
    pub(crate) sections: Vec<Section>,
}

/// One bench's part.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Section {
    pub(crate) title: String,
    /// Load average of the machine when it began.
    pub(crate) load_before: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) growth: Option<Growth>,
    /// How it was measured, and what could not be.
    pub(crate) notes: Vec<String>,
}

/// A figure with its target and its peer's figure.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    target: Option<Target>,
    got: f64,
    /// The middle half of the samples.
    spread: Option<(f64, f64)>,
    peer: Option<f64>,
    ratio: Option<f64>,
    ratio_spread: Option<(f64, f64)>,
}

/// What is wanted of a figure, or of its ratio to the peer's.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    /// Not more than.
    AtMost(f64),
    /// Not less than.
    AtLeast(f64),
    /// A ratio of not more than.
    RatioAtMost(f64),
    /// A ratio of not less than.
    RatioAtLeast(f64),
}

/// How figures grow with the size of the cluster.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Growth {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<(String, Vec<f64>)>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(machine: Machine, effort: Effort) -> Report {
        Report { machine, quick: effort == Effort::Quick, sections: Vec::new() }
    }

    /// The lines above the tables.
    pub(crate) fn head(&self) -> String {
        let m = &self.machine;
        let quick = if self.quick { "; --quick: not for publishing" } else { "" };
        format!("{} x {}, {} MB, Linux {}, commit {}, {}{quick}", m.cpus, m.cpu, m.memory_mb, m.kernel, m.commit, m.date)
    }
}

impl Section {
    /// An empty one.
    pub(crate) fn new(title: &str) -> Section {
        Section { title: title.to_owned(), ..Section::default() }
    }
}

impl Row {
    /// A single figure.
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, got: f64) -> Row {
        Row { what: what.into(), unit, target: None, got, spread: None, peer: None, ratio: None, ratio_spread: None }
    }

    /// The median of samples, with its spread.
    pub(crate) fn median(what: impl Into<String>, unit: &'static str, samples: &Samples) -> Row {
        Row { spread: Some(samples.middle_half()), ..Row::new(what, unit, samples.median()) }
    }

    /// With what is wanted.
    pub(crate) fn target(self, target: Target) -> Row {
        Row { target: Some(target), ..self }
    }

    /// With the peer's figure; the ratio is that of the two.
    pub(crate) fn peer(self, peer: f64) -> Row {
        Row { peer: Some(peer), ratio: Some(self.got / peer), ..self }
    }

    /// With the peer's figure and the ratios that were taken round by round.
    pub(crate) fn peer_ratios(self, peer: f64, ratios: &Samples) -> Row {
        Row { peer: Some(peer), ratio: Some(ratios.median()), ratio_spread: Some(ratios.middle_half()), ..self }
    }

    /// Whether the target is met, where there is one that can be judged.
    fn met(&self) -> Option<bool> {
        Some(match self.target? {
            Target::AtMost(limit) => self.got <= limit,
            Target::AtLeast(limit) => self.got >= limit,
            Target::RatioAtMost(limit) => self.ratio? <= limit,
            Target::RatioAtLeast(limit) => self.ratio? >= limit,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::AtMost(limit) => write!(f, "<= {}", number(*limit)),
            Target::AtLeast(limit) => write!(f, ">= {}", number(*limit)),
            Target::RatioAtMost(limit) => write!(f, "ratio <= {}", number(*limit)),
            Target::RatioAtLeast(limit) => write!(f, "ratio >= {}", number(*limit)),
        }
    }
}

/// Three digits that count, four around 1.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        // Ratios near 1 are what targets are about.
        size if (0.9..2.0).contains(&size) => format!("{value:.3}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

fn with_spread(value: f64, spread: Option<(f64, f64)>) -> String {
    spread.map_or_else(|| number(value), |(low, high)| format!("{} ({}..{})", number(value), number(low), number(high)))
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n== {} (load average before: {})", self.title, number(self.load_before))?;
        writeln!(f, "{:<52} {:<13} {:<5} {:<26} {:>9}  {:<20} unit", "what", "target", "met", "got (middle half)", "peer", "ratio")?;
        for row in &self.rows {
            let target = row.target.map(|t| t.to_string()).unwrap_or_default();
            let met = row.met().map_or("", |met| if met { "yes" } else { "SHORT" });
            let peer = row.peer.map(number).unwrap_or_default();
            let ratio = row.ratio.map(|r| with_spread(r, row.ratio_spread)).unwrap_or_default();
            let got = with_spread(row.got, row.spread);
            writeln!(f, "{:<52} {target:<13} {met:<5} {got:<26} {peer:>9}  {ratio:<20} {}", row.what, row.unit)?;
        }
        if let Some(growth) = &self.growth {
            write!(f, "{:<52}", "growth")?;
            for column in &growth.columns {
                write!(f, " {column:>12}")?;
            }
            writeln!(f)?;
            for (what, figures) in &growth.rows {
                write!(f, "{what:<52}")?;
                for figure in figures {
                    write!(f, " {:>12}", if figure.is_nan() { "-".to_owned() } else { number(*figure) })?;
                }
                writeln!(f)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

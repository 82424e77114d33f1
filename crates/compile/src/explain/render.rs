//! An explanation as people read it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bowline_model::Family;

use super::told::{Explanation, Outcome, Path, Seen, Step};

/// Puts a verdict's word into colour, or leaves it.
pub type Paint<'p> = &'p dyn Fn(Outcome, &str) -> String;

impl Explanation {
    /// The explanation as text: the first path of each verdict in full, the others by their ends.
    pub fn render(&self, paint: Paint<'_>) -> String {
        let mut text = String::new();
        let mut shown = BTreeSet::new();
        let mut others = Vec::new();
        for path in &self.paths {
            if !shown.insert(path.verdict) {
                others.push(path);
                continue;
            }
            if !text.is_empty() {
                text.push('\n');
            }
            self.path(path, paint, &mut text);
        }
        if !others.is_empty() {
            text.push('\n');
        }
        for path in others {
            let word = paint(path.verdict, &path.verdict.to_string().to_uppercase());
            let _ = writeln!(text, "also {word}: {} -> {}", path.source, path.destination);
        }
        if self.left_out > 0 {
            let _ = writeln!(text, "{} more were not looked at", self.left_out);
        }
        text
    }

    fn path(&self, path: &Path, paint: Paint<'_>, text: &mut String) {
        let word = paint(path.verdict, &path.verdict.to_string().to_uppercase());
        let protocol = self.protocol.word(Family::of(&path.destination.ip));
        let _ = writeln!(text, "{word}  {protocol}  {} -> {}{}\n", path.source, path.destination, not_asked(path));
        let width = |of: &dyn Fn(&Step) -> usize| path.steps.iter().map(of).max().unwrap_or(0);
        let (number, node) = (path.steps.len().to_string().len(), width(&|step| step.node.chars().count()));
        let (what, verdict) = (width(&|step| step.what.chars().count()), width(&|step| verdict_of(step).chars().count()));
        for (index, step) in path.steps.iter().enumerate() {
            let shown = verdict_of(step);
            let painted = step.verdict.map_or(String::new(), |outcome| paint(outcome, &shown));
            let gap = " ".repeat(verdict - shown.chars().count());
            let place = format!("{:>number$} {:<node$}  {:<what$}", index + 1, step.node, step.what);
            let _ = writeln!(text, "{place}  {painted}{gap}  {}", step.text);
            for line in &step.details {
                let _ = writeln!(text, "{:indent$}{line}", "", indent = number + node + 3);
            }
        }
        for (index, ways) in path.pass_if.iter().enumerate() {
            let label = if index == 0 { "pass if:" } else { "    and:" };
            let _ = writeln!(text, "{label} {}", ways.join(", or "));
        }
        if !path.seen.is_empty() {
            let each: Vec<String> = path.seen.iter().map(seen).collect();
            let sum = match path.seen.iter().find(|seen| !seen.agrees()) {
                None => "agree",
                Some(odd) if odd.asked && odd.kernel.is_none() => "not known",
                Some(odd) if [Some(odd.oracle), odd.kernel].iter().flatten().all(|said| *said == odd.explained) => "differ in the reason",
                Some(_) => "differ",
            };
            let _ = writeln!(text, "seen: {}: {sum}", each.join("; "));
        }
    }
}

/// What the verdict does not rest on.
fn not_asked(path: &Path) -> String {
    let Some((last, others)) = path.not_asked.split_last() else { return String::new() };
    let others: String = others.iter().map(|other| format!("{}'s and ", other.node)).collect();
    let kernels = if others.is_empty() { "kernel was" } else { "kernels were" };
    format!("; {others}{}'s {kernels} not asked: run `{}` there", last.node, last.command)
}

fn verdict_of(step: &Step) -> String {
    let Some(outcome) = step.verdict else { return String::new() };
    let word = match outcome {
        Outcome::Pass => "pass".to_owned(),
        Outcome::Drop | Outcome::Reject => outcome.to_string().to_uppercase(),
    };
    if step.reached { word } else { format!("({word})") }
}

fn seen(seen: &Seen) -> String {
    let because = if seen.by.is_empty() { String::new() } else { format!(" ({})", seen.by) };
    let kernel = match (seen.asked, seen.kernel) {
        (false, _) => "not asked".to_owned(),
        (true, None) => "unknown".to_owned(),
        (true, Some(outcome)) => outcome.to_string(),
    };
    format!("{} oracle {}, kernel {kernel}{because}", seen.node, seen.oracle)
}

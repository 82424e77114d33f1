//! The CNI project's own programs over our plugin: cnitool, which is libcni, in a lab; tests of their plugins with ours in the chain;
//! and containerd's `ctr run --cni` where a cluster is up.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Options;
use super::outcome::{Case, Outcome};
use super::place;

pub(crate) const NAME: &str = "cni";

/// The parts of the suite; a focus that matches a part's name runs this part alone.
const PARTS: [&str; 3] = ["cnitool", "portmap integration tests", "ctr"];

/// Runs the parts.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let begun = Instant::now();
    let dir = place::results(NAME)?;
    let focus = options.focus.as_ref();
    let named: Vec<&str> = PARTS.into_iter().filter(|part| focus.is_some_and(|focus| focus.is_match(part))).collect();
    let wanted = |part: &str| named.is_empty() || named.contains(&part);
    let [tool, plugins, ctr] = PARTS;
    let mut cases = Vec::new();
    if wanted(tool) {
        cases.extend(cnitool(&dir)?);
    }
    if wanted(plugins) {
        cases.extend(super::plugins::cases(&dir));
    }
    if wanted(ctr) {
        cases.push(super::ctr::case(&options.cluster));
    }
    cases.retain(|case| !named.is_empty() || focus.is_none_or(|focus| focus.is_match(&case.name)));
    Ok(Outcome { suite: NAME.into(), seconds: begun.elapsed().as_secs_f64(), cases, ..Outcome::default() })
}

/// Runs the test program that drives cnitool, with the cnitool of the cache.
fn cnitool(dir: &Path) -> Result<Vec<Case>> {
    let log = dir.join("log.txt");
    let mut command = Command::new("cargo");
    command.current_dir(place::repository()).args(["test", "--quiet", "--package", "bowline", "--test", "cnitool"]);
    command.env("CNITOOL", place::program("cnitool", "cni")?);
    let mut cases = Vec::new();
    place::stream(&mut command, &log, |line| {
        if let Some(case) = row(line) {
            eprintln!("{line}");
            cases.push(case);
        }
    })?;
    if cases.is_empty() {
        let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word");
        cases.push(Case::failed("cnitool", format!("no case ran: {last}; see {}", log.display()), Duration::ZERO));
    }
    Ok(cases)
}

/// A row of the test program: name, title, `ok` or `FAIL`, seconds, what was seen.
fn row(line: &str) -> Option<Case> {
    for (mark, good) in [(" ok ", true), (" FAIL ", false)] {
        let Some((before, after)) = line.split_once(mark) else { continue };
        let Some((seconds, seen)) = after.trim_start().split_once("s  ") else { continue };
        let Ok(seconds) = seconds.trim().parse::<f64>() else { continue };
        let (name, title) = before.split_once(' ')?;
        let (name, took) = (format!("cnitool {name}: {}", title.trim()), Duration::try_from_secs_f64(seconds).ok()?);
        return Some(if good { Case::passed(name, took) } else { Case::failed(name, seen, took) });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cases() {
        let good = row("status           STATUS is content                            ok     0.3s  cnitool status: ok");
        assert_eq!(good, Some(Case::passed("cnitool status: STATUS is content", Duration::from_millis(300))));
        let bad = row("add              ADD gives addresses                          FAIL   1.0s  no address");
        assert_eq!(bad, Some(Case::failed("cnitool add: ADD gives addresses", "no address", Duration::from_secs(1))));
        assert_eq!(row("check            shows                                             time  seen"), None);
    }
}

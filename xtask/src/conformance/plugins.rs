//! The CNI project's plugins: those of their own tests that call the main plugin through libcni, with ours in its place.
//!
//! These are portmap's integration tests, which chain their portmap after `ptp`. What stands for `ptp` here hands the call to our plugin without
//! the sections that are ptp's own (`ipam`, `ipMasq`). The other tests call their plugin's functions in the same process, or fix addresses and
//! bridges of their own, and say nothing of another plugin.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::outcome::Case;
use super::{ginkgo, place};

/// The lab that this makes and takes down. The tests speak IPv4 only.
const LAB: &str = "conf-plugins";

/// Where Debian's containernetworking-plugins puts portmap.
const THEIRS: &str = "/usr/lib/cni";

const WHICH: &str = "portmap integration tests";

/// Stands for `ptp`.
const STAND_IN: &str = "#!/bin/bash\nset -o pipefail\njq 'del(.ipam, .ipMasq)' | /opt/cni/bin/bowline-cni\n";

/// Their cases, or the reason why there are none.
pub(crate) fn cases(dir: &Path) -> Vec<Case> {
    let missing = ["jq", "go"].into_iter().find(|program| !place::installed(program));
    if let Some(program) = missing.or_else(|| (!Path::new(THEIRS).join("portmap").exists()).then_some("containernetworking-plugins")) {
        return vec![Case::skipped(WHICH, format!("{program} is not installed"))];
    }
    let result = run(dir);
    if let Ok(bowline) = place::bowline() {
        let _ = place::run(Command::new(bowline).args(["lab", "down", "--name", LAB]), Duration::from_secs(60));
    }
    result.unwrap_or_else(|error| vec![Case::failed(WHICH, format!("{error:#}"), Duration::ZERO)])
}

fn run(dir: &Path) -> Result<Vec<Case>> {
    let test = place::program("portmap.test", "cni")?;
    let bowline = place::bowline()?;
    let lab = |words: &[&str], rest: &[&str], limit: u64| {
        let mut command = Command::new(&bowline);
        place::run(command.arg("lab").args(words).args(["--name", LAB]).args(rest), Duration::from_secs(limit))
    };
    let _ = lab(&["down"], &[], 60);
    lab(&["up"], &["--nodes", "1"], 120)?;
    std::fs::write(dir.join("ptp"), STAND_IN)?;
    let report = dir.join("plugins.json");
    if report.exists() {
        std::fs::remove_file(&report)?;
    }
    // The tests build their echo server as they begin, from the module that they were built from.
    let script = format!(
        "set -e; mkdir -p /run/stand-in; cp {0}/ptp /run/stand-in; chmod 755 /run/stand-in/ptp; cd {1}; export CGO_ENABLED=0; \
         export PATH=/run/stand-in:{THEIRS}:$PATH; {2} --ginkgo.no-color --ginkgo.focus='{WHICH}' --ginkgo.json-report={3}",
        dir.display(),
        place::cache().join("work/plugins").display(),
        test.display(),
        report.display(),
    );
    let ran = lab(&["node-exec", "n1"], &["--", "sh", "-c", &script], 600);
    let cases = ginkgo::all_cases(&report).with_context(|| ran.as_ref().err().map_or_else(String::new, |error| format!("{error:#}")))?;
    ensure!(!cases.is_empty(), "{WHICH}: none ran");
    Ok(cases)
}

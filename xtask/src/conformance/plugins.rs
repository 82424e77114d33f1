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
const STAND_IN: &str = "#!/bin/bash\nset -o pipefail\njq \"del(.ipam, .ipMasq)\" | /opt/cni/bin/bowline-cni\n";

/// Where it lies on the node, with the report.
const AT: &str = "/run/stand-in";

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
    // The tests build their echo server as they begin, from the module that they were built from. A node's files are its own: the report comes
    // back as what the command says.
    let script = format!(
        "set -e; mkdir -p {AT}; printf '%s' '{STAND_IN}' >{AT}/ptp; chmod 755 {AT}/ptp; cd {}; export CGO_ENABLED=0 PATH={AT}:{THEIRS}:$PATH; \
         {} --ginkgo.no-color --ginkgo.focus='{WHICH}' --ginkgo.json-report={AT}/report.json >{AT}/log 2>&1 || tail -n 3 {AT}/log >&2; \
         cat {AT}/report.json",
        place::cache().join("work/plugins").display(),
        test.display(),
    );
    let said = lab(&["node-exec", "n1"], &["--", "sh", "-c", &script], 600)?;
    let report = dir.join("plugins.json");
    std::fs::write(&report, said).with_context(|| report.display().to_string())?;
    let cases = ginkgo::all_cases(&report)?;
    ensure!(!cases.is_empty(), "{WHICH}: none ran");
    Ok(cases)
}

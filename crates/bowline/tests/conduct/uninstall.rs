//! `bowline uninstall`: refused beside a running agent, and afterwards nothing is left, which `--verify` says and the kernel shows.

use anyhow::{Result, ensure};

use crate::common::lab::BOWLINE;
use crate::common::node;
use crate::common::objects::server;
use crate::common::rows::Bench;

pub(crate) fn leaves_nothing(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("left-1", "n2", "left")?])?;
    lab.settled()?;
    let before = node::read(lab, "n2")?;
    let run = |words: &[&str]| lab.node("n2", &[&[BOWLINE, "uninstall"], words].concat());

    let refused = run(&[])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && why.contains("stop it first"), "beside a running agent: {} {why}", refused.status);
    node::same("after a refusal", &before.ours, &node::read(lab, "n2")?.ours)?;

    lab.agent("stop", "n2")?;
    let verify = run(&["--verify"])?;
    let listed = String::from_utf8_lossy(&verify.stdout).into_owned();
    ensure!(verify.status.code() == Some(1), "--verify before: {} {listed}", verify.status);
    for kind in ["file ", "link bwl", "nftables", "left on this node"] {
        ensure!(listed.contains(kind), "--verify does not list `{kind}`: {listed}");
    }
    node::same("after --verify", &before.ours, &stopped(&node::read(lab, "n2")?.ours, &before.ours))?;

    let done = run(&[])?;
    ensure!(done.status.success(), "uninstall: {} {}{}", done.status, text(&done.stdout), text(&done.stderr));
    let verified = run(&["--verify"])?;
    ensure!(verified.status.success(), "--verify after: {} {}", verified.status, text(&verified.stdout));
    let after = node::read(lab, "n2")?;
    ensure!(after.ours.is_empty(), "left: {:?}", after.ours.iter().take(5).collect::<Vec<_>>());
    node::same("others'", &before.theirs, &after.theirs)?;

    lab.agent("start", "n2")?;
    lab.settled()?;
    Ok(format!(
        "{} lines of nft, ip and files gone, others' {} as before; a new agent starts from nothing",
        before.ours.len(),
        after.theirs.len()
    ))
}

/// A stopped agent may have taken its sockets along: what else there was must be there.
fn stopped(now: &std::collections::BTreeSet<String>, before: &std::collections::BTreeSet<String>) -> std::collections::BTreeSet<String> {
    let mut all = now.clone();
    all.extend(before.iter().filter(|line| line.starts_with("file /run")).cloned());
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

//! The troubles, one after the other.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::common::cluster;
use crate::common::lab::{BOWLINE, Lab, eventually};
use crate::common::objects::NODES;
use crate::common::rows::Bench;
use crate::front::{Asked, PORT};
use crate::stage::{Stage, soon};

/// How long a trouble lasts; how long it must last to be one is the server's business, so this is time and no event.
fn lasts(bench: &Bench, short: u64, long: u64) -> Duration {
    Duration::from_secs(if bench.long { long } else { short })
}

/// Nodes that cannot be served ask little: one question at a time, each two seconds or so, for all kinds of a node.
fn calm(asked: Asked, lasted: Duration) -> Result<()> {
    let most = NODES.len() as u64 * (24 + lasted.as_secs());
    ensure!(asked.requests.max(asked.connections) <= most, "{asked:?} in {} s, more than {most}", lasted.as_secs());
    Ok(())
}

pub(crate) fn stopped(bench: &Bench) -> Result<String> {
    let mut stage = Stage::set(bench)?;
    stage.front.order("stop")?;
    stage.change()?;
    sleep(lasts(bench, 5, 120));
    told_of(stage.lab)?;
    stage.unchanged("the server was stopped")?;
    let asked = stage.front.order("start")?;
    ensure!(asked.requests == 0, "a stopped server was asked");
    stage.back(Instant::now(), soon)
}

/// Every node's status says within a while that the server is away, since when and why, and the command's exit status is that of a bad result.
fn told_of(lab: &Lab) -> Result<()> {
    eventually(|| {
        let output = lab.run(&["status"], &[])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = NODES.iter().filter(|node| text.contains(&format!("BW1209 {node}: the API server has not served since 20")));
        ensure!(told.count() == NODES.len() && text.contains("why: no answer"), "the outage is not told of: {text}");
        ensure!(output.status.code() == Some(1), "bowline status exits with {:?}", output.status.code());
        Ok(())
    })
}

pub(crate) fn slow(bench: &Bench) -> Result<String> {
    let mut stage = Stage::set(bench)?;
    stage.front.order("slow 200")?;
    stage.unchanged("the server was made slow")?;
    stage.front.order("gone")?;
    let lasted = lasts(bench, 4, 120);
    sleep(lasted);
    // What comes in drops comes nevertheless, so that the change is made last.
    stage.unchanged("the server was slow")?;
    stage.change()?;
    calm(stage.front.order("slow 0")?, lasted)?;
    stage.back(Instant::now(), soon)
}

pub(crate) fn lists(bench: &Bench) -> Result<String> {
    let mut stage = Stage::set(bench)?;
    let lasted = lasts(bench, 2, 40);
    for (number, fault) in ["cut", "pages", "empty", "old"].into_iter().enumerate() {
        stage.front.order(fault)?;
        if number == 0 {
            // From here on every kind has to be listed anew.
            stage.front.order("gone")?;
            sleep(Duration::from_millis(300));
            stage.change()?;
        }
        sleep(lasted);
        stage.unchanged(&format!("lists were faulty: {fault}"))?;
        let asked = stage.front.order("counts")?;
        // A kind asks at most twice a second, for a list and beside it for its node.
        let most = NODES.len() as u64 * (32 + 8 * 2 * 2 * lasted.as_secs());
        ensure!(asked.requests > 0 && asked.requests <= most, "{asked:?} in {} s of {fault}, not 1 to {most}", lasted.as_secs());
    }
    stage.front.order("well")?;
    stage.back(Instant::now(), soon)
}

pub(crate) fn refused(bench: &Bench) -> Result<String> {
    let mut stage = Stage::set(bench)?;
    let lasted = lasts(bench, 2, 60);
    stage.front.order("refuse 429")?;
    stage.front.order("break")?;
    sleep(lasted);
    stage.unchanged("the server had too much to do")?;
    calm(stage.front.order("token renewed")?, lasted)?;
    stage.front.order("well")?;
    stage.change()?;
    sleep(lasted);
    stage.unchanged("the token had expired")?;
    calm(stage.front.order("counts")?, lasted)?;
    stage.front.renew(stage.lab, "renewed")?;
    stage.back(Instant::now(), soon)
}

/// Rules on the router that let nothing of these addresses through to the proxy, nor back.
fn drop_all(lab: &Lab, peers: &[IpAddr]) -> Result<()> {
    let mut script = "add table inet trouble; add chain inet trouble in { type filter hook input priority -300; }; \
                      add chain inet trouble out { type filter hook output priority -300; }"
        .to_owned();
    for peer in peers {
        let family = if peer.is_ipv4() { "ip" } else { "ip6" };
        script += &format!("; add rule inet trouble in {family} saddr {peer} tcp dport {PORT} drop");
        script += &format!("; add rule inet trouble out {family} daddr {peer} tcp sport {PORT} drop");
    }
    nft(lab, &script)
}

fn nft(lab: &Lab, script: &str) -> Result<()> {
    let output = std::process::Command::new(BOWLINE).args(["lab", "router", "--name", lab.name(), "--", "nft", script]).output();
    let output = output.context("starting bowline")?;
    ensure!(output.status.success(), "nft {script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A peer that is gone without a word must be found so soon; from then on it is as after a return.
const FOUND_WITHIN: Duration = Duration::from_secs(15);

/// The node whose connections a middleman holds and forwards no more. Of the others' not a packet comes through, neither way.
const STALLED: &str = "n3";

pub(crate) fn half_open(bench: &Bench) -> Result<String> {
    let mut stage = Stage::set(bench)?;
    let mut dropped = Vec::new();
    for node in cluster::nodes(stage.lab)? {
        for v6 in stage.lab.families() {
            let peer = node.ip(v6)?;
            if node.name == STALLED {
                stage.front.order(&format!("stall {peer}"))?;
            } else {
                dropped.push(peer);
            }
        }
    }
    let begun = Instant::now();
    drop_all(stage.lab, &dropped)?;
    let outcome = stage.change().and_then(|()| stage.unchanged("connections were dead"));
    sleep(lasts(bench, 10, 120).saturating_sub(begun.elapsed()));
    nft(stage.lab, "delete table inet trouble")?;
    let returned = Instant::now();
    outcome?;
    // Whoever was stalled and makes a new connection is served, whenever that was.
    let found = FOUND_WITHIN.saturating_sub(returned.duration_since(begun));
    stage.back(returned, |node| if node == STALLED { found + soon(node) } else { soon(node) })
}

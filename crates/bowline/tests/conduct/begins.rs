//! Connections that begin without the stack: fast, but by the rules of the moment, and cut as any other when these close.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::common::cluster;
use crate::common::generator::{Generator, number};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;

/// Connections that began without the stack.
const BEGUN: &str = "bowline_fastpath_connections_total";

/// So many must have, on each of the nodes on the way, before anything is looked at.
const ENOUGH: u64 = 300;

/// A denied client that has had no answer for so long has none.
const SILENCE_MS: u64 = 500;

/// How long after the policy was applied the last connection may be granted.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

const DENIED: [&str; 2] = ["begins-near", "begins-far"];

pub(crate) fn by_the_rules(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("begins-server", "n2", "begins")?,
        idle("begins-near", "n2", "begins-denied")?,
        idle("begins-far", "n1", "begins-denied")?,
        idle("begins-friend", "n3", "begins-friend")?,
        service("begins", "begins", None),
    ])?;
    lab.settled()?;
    let pods = cluster::pods(lab, "app=begins")?;
    let server = pods.first().context("no server")?;
    let mut targets = Vec::new();
    for v6 in lab.families() {
        targets.push(SocketAddr::new(server.ip(v6)?, PORT).to_string());
        targets.push(SocketAddr::new(cluster::cluster_ip(lab, "begins", "default", v6)?, PORT).to_string());
    }
    let words: Vec<&str> = ["dial"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let before = [lab.metric("n1", BEGUN)?, lab.metric("n2", BEGUN)?];
    let mut denied = DENIED.iter().map(|pod| Generator::in_pod(lab, pod, &words)).collect::<Result<Vec<_>>>()?;
    let friend = Generator::in_pod(lab, "begins-friend", &words)?;
    for (node, before) in ["n1", "n2"].into_iter().zip(before) {
        eventually(|| {
            let begun = lab.metric(node, BEGUN)? - before;
            ensure!(begun > ENOUGH, "{node}: {begun} connections began without the stack");
            Ok(())
        })?;
    }
    // An agent that goes and comes finds what its programs have begun.
    lab.agent("kill", "n2")?;
    lab.agent("start", "n2")?;
    lab.settled()?;
    let young = DENIED.iter().map(|pod| Generator::in_pod(lab, pod, &["follow", targets.first().map_or("", String::as_str)]));
    let mut young = young.collect::<Result<Vec<_>>>()?;
    for dial in &mut denied {
        let seen = dial.ask("?")?;
        ensure!(number(&seen, "failed")? == 0, "before the policy: {seen}");
    }
    let closed = closes(lab, &mut denied, &mut young)?;
    let seen = friend.finish()?;
    ensure!(number(&seen, "failed")? == 0, "a client that is allowed: {seen}");
    let begun = lab.metric("n2", BEGUN)?;
    drop((denied, young));
    lab.delete("networkpolicy", &["begins"])?;
    lab.delete("service", &["begins"])?;
    lab.delete("pod", &["begins-server", "begins-near", "begins-far", "begins-friend"])?;
    Ok(format!("{} connections of an allowed client, 0 failed; n2 began {begun} by itself; {closed}", number(&seen, "opened")?))
}

/// A policy comes: nothing more begins, and what has just begun ends.
fn closes(lab: &Lab, denied: &mut [Generator], young: &mut [Generator]) -> Result<String> {
    let applied = Instant::now();
    lab.apply_objects(&[ingress_policy("begins", "begins", Some("begins-friend"))])?;
    let (mut heard, mut slowest) = (Vec::new(), Duration::ZERO);
    for (generator, counts) in denied.iter_mut().map(|dial| (dial, "opened")).chain(young.iter_mut().map(|follow| (follow, "messages"))) {
        heard.push(eventually(|| {
            let seen = generator.ask("?")?;
            let silent = number(&seen, "sinceMs")?;
            ensure!(silent > SILENCE_MS, "a denied client is answered: {seen}");
            slowest = slowest.max(applied.elapsed().saturating_sub(Duration::from_millis(silent)));
            number(&seen, counts)
        })?);
    }
    ensure!(slowest < CLOSED_WITHIN, "a denied client was answered for {} ms", slowest.as_millis());
    // Time for what must not come.
    std::thread::sleep(Duration::from_secs(2));
    for ((generator, counts), before) in
        denied.iter_mut().map(|g| (g, "opened")).chain(young.iter_mut().map(|g| (g, "messages"))).zip(heard)
    {
        let seen = generator.ask("?")?;
        ensure!(number(&seen, counts)? == before, "a denied client is answered again: {seen}");
    }
    Ok(format!("nothing for denied ones after {} ms", slowest.as_millis()))
}

//! A policy that comes later cuts established connections that it does not allow, while the server goes on talking; others live on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::common::cluster;
use crate::common::generator::{Generator, number};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;

/// The server talks every 20 ms: this long without a word is the end.
const SILENCE_MS: u64 = 500;

/// How long after the policy was applied the last word may come.
const CUT_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn by_policy(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let pods = [
        server("cut-server", "n2", "cut")?,
        idle("cut-near", "n2", "cut-denied")?,
        idle("cut-far", "n1", "cut-denied")?,
        idle("cut-friend", "n3", "cut-friend")?,
    ];
    lab.apply_objects(&pods)?;
    lab.apply_objects(&[service("cut", "cut", None)])?;
    lab.settled()?;
    let mut told = Vec::new();
    for v6 in lab.families() {
        told.push(once(lab, v6)?);
    }
    lab.delete("pod", &["cut-server", "cut-near", "cut-far", "cut-friend"])?;
    lab.delete("service", &["cut"])?;
    Ok(told.join("; "))
}

/// A policy that came while no agent was there cuts as soon as one is.
pub(crate) fn after_absence(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("late-server", "n2", "late")?, idle("late-near", "n2", "denied")?, idle("late-far", "n1", "denied")?])?;
    lab.settled()?;
    let server = cluster::pods(lab, "app=late")?.first().map(|pod| pod.ip(false)).transpose()?;
    let target = server.map(|ip| std::net::SocketAddr::new(ip, PORT).to_string()).unwrap_or_default();
    let mut follows =
        [Generator::in_pod(lab, "late-near", &["follow", &target])?, Generator::in_pod(lab, "late-far", &["follow", &target])?];
    lab.agent("kill", "n2")?;
    lab.apply_objects(&[ingress_policy("late", "late", None)])?;
    for follow in &mut follows {
        ensure!(number(&follow.ask("?")?, "sinceMs")? < SILENCE_MS, "a connection ended without anybody who could cut it");
    }
    lab.agent("start", "n2")?;
    lab.settled()?;
    let mut heard = Vec::new();
    for follow in &mut follows {
        heard.push(eventually(|| {
            let seen = follow.ask("?")?;
            ensure!(number(&seen, "sinceMs")? > SILENCE_MS, "a denied client still hears the server");
            number(&seen, "messages")
        })?);
    }
    std::thread::sleep(Duration::from_secs(1));
    for (follow, before) in follows.iter_mut().zip(&heard) {
        ensure!(number(&follow.ask("?")?, "messages")? == *before, "one that was cut hears the server again");
    }
    drop(follows);
    lab.delete("pod", &["late-server", "late-near", "late-far"])?;
    lab.delete("networkpolicy", &["late"])?;
    Ok(format!("{} connections silent once an agent is back", heard.len()))
}

fn once(lab: &Lab, v6: bool) -> Result<String> {
    let at = |ip: std::net::IpAddr| std::net::SocketAddr::new(ip, PORT).to_string();
    let server = cluster::pods(lab, "app=cut")?.first().map(|pod| pod.ip(v6)).transpose()?;
    let (direct, vip) = (server.map(at).unwrap_or_default(), at(cluster::cluster_ip(lab, "cut", "default", v6)?));
    let mut denied = Vec::new();
    for pod in ["cut-near", "cut-far"] {
        for target in [&direct, &vip] {
            denied.push(Generator::in_pod(lab, pod, &["follow", target])?);
        }
    }
    let mut friends = Vec::new();
    for target in [&direct, &vip] {
        friends.push(Generator::in_pod(lab, "cut-friend", &["follow", target])?);
    }
    for follow in denied.iter_mut().chain(&mut friends) {
        ensure!(number(&follow.ask("?")?, "sinceMs")? < SILENCE_MS, "the server is not heard before the policy");
    }
    lab.apply_objects(&[ingress_policy("cut", "cut", Some("cut-friend"))])?;
    let applied = Instant::now();
    let mut heard = Vec::new();
    for follow in &mut denied {
        heard.push(eventually(|| {
            let seen = follow.ask("?")?;
            ensure!(number(&seen, "sinceMs")? > SILENCE_MS, "a denied client still hears the server");
            number(&seen, "messages")
        })?);
    }
    let took = applied.elapsed().saturating_sub(Duration::from_millis(SILENCE_MS));
    ensure!(took < CUT_WITHIN, "it took {} ms until the last denied client heard nothing", took.as_millis());
    // The server has talked on all the while: into the connections that are cut, too.
    std::thread::sleep(Duration::from_secs(1));
    for (follow, before) in denied.iter_mut().zip(&heard) {
        let seen = follow.ask("?")?;
        ensure!(number(&seen, "messages")? == *before, "a client that was cut hears the server again: {seen}");
    }
    for follow in &mut friends {
        let seen = follow.ask("?")?;
        ensure!(number(&seen, "sinceMs")? < SILENCE_MS && seen["ended"].is_null(), "an allowed client was cut, too: {seen}");
    }
    lab.delete("networkpolicy", &["cut"])?;
    lab.settled()?;
    let family = if v6 { "IPv6" } else { "IPv4" };
    Ok(format!("{family}: {} connections silent after {} ms, {} live on", denied.len(), took.as_millis(), friends.len()))
}

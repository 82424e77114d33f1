//! The API server away: what is in force stays, also through a restart of the agents; and after its return changes arrive.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::common::cluster;
use crate::common::generator::{Generator, all_answered, number, unbroken};
use crate::common::lab::{Lab, eventually, said};
use crate::common::node;
use crate::common::objects::{NODES, PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;
use crate::restarts::{at, named, nothing_through};

/// Changes must have arrived this long after the API answers again.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn away(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[ingress_policy("away-closed", "away-closed", None), service("away", "away", None)])?;
    let pods = [server("away-s2", "n2", "away")?, server("away-s3", "n3", "away")?, server("away-closed", "n3", "away-closed")?];
    lab.apply_objects(&pods)?;
    lab.apply_objects(&[idle("away-c1", "n1", "away-client")?])?;
    lab.settled()?;
    let vip = format!("{}:{PORT}", cluster::cluster_ip(lab, "away", "default", false)?);
    let direct = at(&named(lab, "away", "away-s3")?, false)?;
    let closed = at(&named(lab, "away-closed", "away-closed")?, false)?;
    let streams = Generator::in_pod(lab, "away-c1", &["stream", "10", &vip, &direct])?;
    let datagrams = Generator::in_pod(lab, "away-c1", &["datagrams", "away", "5000", &vip, &direct])?;
    let probe = Generator::in_pod(lab, "away-c1", &["probe", &closed])?;
    let before: Vec<node::Kernel> = NODES.iter().map(|n| node::read(lab, n)).collect::<Result<_>>()?;

    lab.api("stop")?;
    goes_on(lab, &vip)?;
    lab.kill_agents(Duration::from_millis(100))?;
    // Agents that were never told anything must take nothing away: half a minute is what a real one would wait, a few seconds show it.
    std::thread::sleep(Duration::from_secs(2));
    goes_on(lab, &vip)?;
    for (name, before) in NODES.iter().zip(&before) {
        node::same(&format!("{name}, with the API away"), &before.ours, &node::read(lab, name)?.ours)?;
    }
    let refused = lab.apply_objects(&[ingress_policy("away-late", "away", None)]);
    ensure!(refused.is_err(), "the API took a policy while it was stopped");

    lab.api("start")?;
    let returned = Instant::now();
    eventually(|| lab.kubectl(&["get", "--raw", "/readyz"]).or_else(|_| lab.kubectl(&["get", "nodes"])))?;
    let sent = all_answered(&datagrams.finish()?)?;
    let (requests, _) = unbroken(&streams.finish()?)?;
    let tried = nothing_through(&probe.finish()?)?;
    let took = arrives(lab, &direct, returned)?;
    lab.settled()?;
    lab.delete("networkpolicy", &["away-late", "away-closed"])?;
    lab.delete("pod", &["away-s2", "away-s3", "away-c1", "away-closed"])?;
    lab.delete("service", &["away"])?;
    Ok(format!(
        "{requests} requests and {sent} datagrams answered, 0 of {tried} probes let through; a policy arrived {took} ms after the return"
    ))
}

/// Names and services, by a client that begins only now.
fn goes_on(lab: &Lab, vip: &str) -> Result<()> {
    let dns = "10.43.0.10";
    let dig = lab.pod("away-c1", &["dig", "+short", "+time=2", "+tries=1", &format!("@{dns}"), "away.default.svc.cluster.local"])?;
    let answer = said(&dig).context("dig")?;
    ensure!(vip.starts_with(answer.trim()) && !answer.trim().is_empty(), "the name says {answer:?}, the service is at {vip}");
    let fresh = Generator::in_pod(lab, "away-c1", &["stream", "2", vip])?;
    unbroken(&fresh.finish()?).map(|_| ())
}

/// How long after the return a policy that is applied then cuts what it denies, in milliseconds.
fn arrives(lab: &Lab, direct: &str, returned: Instant) -> Result<u128> {
    let mut follow = Generator::in_pod(lab, "away-c1", &["follow", direct])?;
    lab.apply_objects(&[ingress_policy("away-late", "away", None)])?;
    let applied = Instant::now();
    eventually(|| {
        let since = number(&follow.ask("?")?, "sinceMs")?;
        ensure!(since > 500, "the server is still heard");
        Ok(())
    })?;
    let took = returned.elapsed().saturating_sub(Duration::from_millis(500));
    let limit = ARRIVES_WITHIN.max(applied.duration_since(returned) + Duration::from_secs(1));
    ensure!(took <= limit, "the policy arrived only {} ms after the return", took.as_millis());
    Ok(took.as_millis())
}

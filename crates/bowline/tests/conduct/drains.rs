//! A pod that is being deleted still serves for a while: its connections live on, new ones go to the others.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::{Generator, number, once_in_pod, once_outside, unbroken};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, idle, myself, server, service};
use crate::common::rows::Bench;

const NODE_PORT: u16 = 30_777;
const CLIENT: &str = "drains-client";

/// Longer than all that is looked at while it lasts.
const GRACE_SECS: u64 = 120;

/// Requests that a connection answers after nothing new comes to its pod any more.
const STILL: u64 = 40;

/// A server that goes on when it is asked to end, until it is told once more.
fn lingering(name: &str, node: &str, app: &str) -> Result<Value> {
    let mut pod = server(name, node, app)?;
    pod["spec"]["terminationGracePeriodSeconds"] = json!(GRACE_SECS);
    let program = myself()?;
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", "trap '' TERM; exec \"$@\"", "sh", program, "--generator", "serve", name]);
    Ok(pod)
}

/// Where a pod and the host outside reach the service.
struct Targets {
    inside: Vec<String>,
    outside: Vec<String>,
}

impl Targets {
    fn of(lab: &Lab) -> Result<Targets> {
        let mut targets = Targets { inside: Vec::new(), outside: Vec::new() };
        let first = cluster::nodes(lab)?.into_iter().find(|node| node.name == "n1").context("no n1")?;
        for v6 in lab.families() {
            targets.inside.push(SocketAddr::new(cluster::cluster_ip(lab, "drains", "default", v6)?, PORT).to_string());
            targets.outside.push(SocketAddr::new(first.ip(v6)?, NODE_PORT).to_string());
        }
        Ok(targets)
    }

    /// Connections from both places, which stay.
    fn streams(&self, lab: &Lab) -> Result<[Generator; 2]> {
        let words = |targets: &[String]| ["stream", "4"].map(str::to_owned).into_iter().chain(targets.to_vec()).collect::<Vec<_>>();
        let (inside, outside) = (words(&self.inside), words(&self.outside));
        let inside: Vec<&str> = inside.iter().map(String::as_str).collect();
        let outside: Vec<&str> = outside.iter().map(String::as_str).collect();
        Ok([Generator::in_pod(lab, CLIENT, &inside)?, Generator::outside(lab, &outside)?])
    }

    /// New connections from both places are answered by this one alone.
    fn lead_to(&self, lab: &Lab, name: &str) -> Result<()> {
        for target in &self.inside {
            let report = once_in_pod(lab, CLIENT, &["call", "tcp", "10", target])?;
            ensure!(report["by"] == json!({name: 10}), "{target} is answered by {}", report["by"]);
        }
        for target in &self.outside {
            let report = once_outside(lab, &["call", "tcp", "10", target])?;
            ensure!(report["by"] == json!({name: 10}), "{target} from outside is answered by {}", report["by"]);
        }
        Ok(())
    }
}

pub(crate) fn old_connections_live_on(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        lingering("drains-old", "n2", "drains")?,
        idle(CLIENT, "n1", CLIENT)?,
        service("drains", "drains", Some(NODE_PORT)),
    ])?;
    lab.settled()?;
    let targets = Targets::of(lab)?;
    let (streams, mut last) = (targets.streams(lab)?, targets.streams(lab)?);
    lab.apply_objects(&[server("drains-new", "n3", "drains")?])?;
    lab.settled()?;
    let begun = Instant::now();
    lab.kubectl(&["delete", "pod", "drains-old", "--wait=false"])?;
    eventually(|| targets.lead_to(lab, "drains-new"))?;
    let took = begun.elapsed();
    let mut requests = 0;
    for mut stream in streams {
        let before = number(&stream.ask("?")?, "requests")?;
        eventually(|| {
            let seen = stream.ask("?")?;
            ensure!(unbroken(&seen)?.0 > before + STILL, "connections of before stand still: {seen}");
            Ok(())
        })?;
        requests += unbroken(&stream.finish()?)?.0;
    }
    targets.lead_to(lab, "drains-new")?;
    let old: Value = serde_json::from_str(&lab.kubectl(&["get", "pod", "drains-old", "-o", "json"])?)?;
    ensure!(!old["metadata"]["deletionTimestamp"].is_null(), "the old pod is not being deleted");
    // The last word: with the pod its connections end.
    once_in_pod(lab, "drains-old", &["end"])?;
    for stream in &mut last {
        eventually(|| {
            let seen = stream.ask("?")?;
            ensure!(seen["broken"].as_array().is_some_and(|broken| broken.len() == 4), "connections outlive their pod: {seen}");
            Ok(())
        })?;
    }
    drop(last);
    lab.delete("pod", &["drains-old", "drains-new", CLIENT])?;
    lab.delete("service", &["drains"])?;
    Ok(format!("new ones go elsewhere within {} ms; 0 of 8 old ones broke ({requests} requests); all end with the pod", took.as_millis()))
}

//! Agents of a large cluster killed, upgraded and downgraded under a thousand connections: nothing breaks, nothing is lost, and a restart of
//! the same build writes nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::generator::{Generator, all_kept};
use crate::common::lab::{BOWLINE, Lab, said, within};
use crate::common::objects::{NODES, ingress_policy, myself, server};
use crate::common::populate::Populate;
use crate::common::rows::Bench;
use crate::common::twin::Twin;
use crate::restarts::{at, far_server, named, nothing_through, stage, targets};

/// Connections of each of the two clients.
const CONNECTIONS: &str = "500";

/// Milliseconds between two requests on a connection: 2,000 requests a second in all, which two processors bear beside three agents that start.
const PAUSE_MS: &str = "500";

/// Microseconds between two datagrams of each of the two flows.
const DATAGRAM_PAUSE_US: &str = "2000";

/// Restarts in a round: the same build, another, and back.
const RESTARTS: usize = 3;

/// Three agents that list 20,000 objects each, beside the traffic, on a machine that may have other work.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was seen of the restarts.
#[derive(Default)]
struct Seen {
    longest: Duration,
    /// Restarts of the same build, meanwhile nothing changed in the cluster.
    alike: usize,
}

pub(crate) fn at_scale(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let services = u32::try_from(bench.figure(2_000, 10_000))?;
    Populate::connect(lab.kubeconfig())?.services(0..services, 2)?;
    stage(lab)?;
    within(PATIENCE, || known(lab, services))?;
    let twin = Twin::make()?;
    let (streams, datagrams) = traffic(lab)?;
    let probes = probes(lab)?;
    let (mut seen, rounds) = (Seen::default(), bench.figure(2, 34));
    for round in 0..rounds {
        let pause = Duration::from_millis(u64::try_from(round % 5)? * 70);
        one_round(lab, services, &twin, pause, &mut seen).with_context(|| format!("round {round}"))?;
    }
    ensure!(seen.alike * 2 >= rounds, "in {rounds} rounds the cluster stayed the same in {} only", seen.alike);
    let (sent, requests, slowest) = all_kept(streams, datagrams)?;
    let mut denied = 0;
    for probe in probes {
        denied += nothing_through(&probe.finish()?)?;
    }
    Ok(format!(
        "{services} services, {} kills of 3 agents, {} upgrades and downgrades among them: 0 of 1000 connections broke ({requests} requests, \
         slowest {slowest} ms), 0 of {sent} datagrams lost, 0 of {denied} denied ones let through, {} times 0 objects written by the same build; settled in {} ms at most",
        rounds * RESTARTS,
        rounds * (RESTARTS - 1),
        seen.alike,
        seen.longest.as_millis()
    ))
}

/// The same build again, another one, and back.
fn one_round(lab: &Lab, services: u32, twin: &Twin, pause: Duration, seen: &mut Seen) -> Result<()> {
    let mut replace = |program: &Path| -> Result<()> {
        lab.replace_agents(program, pause)?;
        let begun = Instant::now();
        within(PATIENCE, || known(lab, services))?;
        seen.longest = seen.longest.max(begun.elapsed());
        runs(lab, program)
    };
    let (before, cluster) = (programs(lab)?, endpoints(lab)?);
    replace(Path::new(BOWLINE))?;
    let written = written(lab)?;
    ensure!(programs(lab)? == before, "a restart of the same build changed programs");
    replace(twin.path())?;
    let after = programs(lab)?;
    ensure!(before.is_disjoint(&after) && before.len() == after.len(), "not all programs were replaced: {before:?}, then {after:?}");
    replace(Path::new(BOWLINE))?;
    // A pod that did not answer its probe in time leaves its service: then there is something to write.
    if endpoints(lab)? == cluster {
        ensure!(written.iter().all(|count| *count == 0), "a restart of the same build wrote {written:?} objects on the nodes");
        seen.alike += 1;
    }
    Ok(())
}

/// The endpoints that are not made in bulk, as the API has them: the same text as long as nothing about them changes.
fn endpoints(lab: &Lab) -> Result<String> {
    let versions = "jsonpath={.items[*].metadata.resourceVersion}";
    let of = |namespace: &str| lab.kubectl(&["get", "endpointslices", "-n", namespace, "-o", versions]);
    Ok(of("default")? + " " + &of("kube-system")?)
}

/// Connections of two clients to pods, a service and node ports, on one node and across, and datagrams to a pod and a service.
fn traffic(lab: &Lab) -> Result<([Generator; 2], Generator)> {
    let targets = targets(lab)?;
    let words: Vec<&str> = ["streams", CONNECTIONS, PAUSE_MS].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let streams = [Generator::in_pod(lab, "kept-c1", &words)?, Generator::in_pod(lab, "kept-c2", &words)?];
    let [direct, by_service] = far_server(lab)?;
    let datagrams = Generator::in_pod(lab, "kept-c1", &["datagrams", "kept", DATAGRAM_PAUSE_US, &direct, &by_service])?;
    Ok((streams, datagrams))
}

/// Probes of a pod that lets nobody in, from beside it and from another node; the same probe of one that does shows that it would be seen.
fn probes(lab: &Lab) -> Result<[Generator; 2]> {
    lab.apply_objects(&[ingress_policy("denied", "denied", None)])?;
    lab.apply_objects(&[server("denied", "n2", "denied")?, server("open", "n2", "open")?])?;
    lab.settled()?;
    let (denied, open) = (at(&named(lab, "denied", "denied")?, false)?, at(&named(lab, "open", "open")?, false)?);
    let mut probes = [Generator::in_pod(lab, "kept-c1", &["probe", &denied])?, Generator::in_pod(lab, "kept-c2", &["probe", &denied])?];
    for probe in &mut probes {
        probe.ask(&format!("+{open}"))?;
        within(PATIENCE, || {
            ensure!(probe.ask("?")?[&open]["through"].as_u64() > Some(10), "no probe of a pod that is open comes through");
            Ok(())
        })?;
        probe.ask(&format!("-{open}"))?;
    }
    Ok(probes)
}

/// Every agent knows all services, and has them in its kernel.
fn known(lab: &Lab, services: u32) -> Result<()> {
    for node in agents(lab)? {
        let count = node.pointer("/cluster/services").and_then(Value::as_u64).context("no count of services")?;
        ensure!(count > u64::from(services), "{} knows {count} services", node["node"]);
        ensure!(
            node["synced"] == true && node["appliedRevision"] == node["revision"] && node["problems"] == serde_json::json!([]),
            "{} is at work: {node}",
            node["node"]
        );
    }
    Ok(())
}

fn agents(lab: &Lab) -> Result<Vec<Value>> {
    let nodes = lab.status()?["nodes"].as_array().cloned().unwrap_or_default();
    ensure!(nodes.len() == NODES.len(), "{} agents answer", nodes.len());
    Ok(nodes)
}

/// Objects that each agent has written since it began.
fn written(lab: &Lab) -> Result<Vec<u64>> {
    agents(lab)?.iter().map(|node| node["writtenTotal"].as_u64().context("no count of written objects")).collect()
}

/// All agents are of this executable.
fn runs(lab: &Lab, program: &Path) -> Result<()> {
    // The lab itself is of the executable that is tested, and its processes are seen from everywhere in it: agents are told by their words.
    let script =
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q ' agent --config' && readlink $p/exe; done 2>/dev/null; true";
    let output = said(&lab.node("n1", &["sh", "-c", script])?).context("the agents' executables")?;
    let of = output.lines().filter(|line| Path::new(line) == program).count();
    ensure!(of == NODES.len(), "{of} agents are of {}: {output}", program.display());
    Ok(())
}

/// What the nodes have of the product's programs: the attachments at sockets, and the programs at links; nothing in a mode without.
fn programs(lab: &Lab) -> Result<BTreeSet<String>> {
    if !lab.setup.is_ebpf() {
        return Ok(BTreeSet::new());
    }
    let own = myself()?;
    let mut all = BTreeSet::new();
    for node in NODES {
        let pins = said(&lab.node(node, &["sh", "-c", "ls -1i /sys/fs/bpf/bowline/links-*/"])?).context("attachments at sockets")?;
        all.extend(pins.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).map(|line| format!("{node} {line}")));
        let left = said(&lab.node(node, &[&own, "--generator", "programs"])?).context("programs at links")?;
        let left: Vec<String> = serde_json::from_str(&left)?;
        ensure!(!left.is_empty(), "{node} has no programs at links");
        all.extend(left.into_iter().map(|line| format!("{node} {line}")));
    }
    Ok(all)
}

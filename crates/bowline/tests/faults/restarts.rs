//! Agents killed and started again: connections and datagrams do not notice, and nothing is written that is right already.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster::{self, Pod};
use crate::common::generator::{Generator, all_kept};
use crate::common::lab::Lab;
use crate::common::node;
use crate::common::objects::{self, NODES, PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;

/// The node port of the service under traffic.
const NODE_PORT: u16 = 30_700;

/// Two servers behind a service with a node port, under a policy that lets the clients in.
pub(crate) fn stage(lab: &Lab) -> Result<()> {
    let pods = [
        server("kept-s2", "n2", "kept")?,
        server("kept-s3", "n3", "kept")?,
        idle("kept-c1", "n1", "kept-client")?,
        idle("kept-c2", "n2", "kept-client")?,
    ];
    lab.apply_objects(&pods)?;
    let mut policy = ingress_policy("kept", "kept", Some("kept-client"));
    // A pod that goes by the node port of another node comes as that node, where the endpoint is on a third.
    for node in cluster::nodes(lab)? {
        for v6 in lab.families() {
            let ip = node.ip(v6)?;
            let block = json!({"from": [{"ipBlock": {"cidr": format!("{ip}/{}", if v6 { 128 } else { 32 })}}]});
            policy["spec"]["ingress"].as_array_mut().context("no rules")?.push(block);
        }
    }
    lab.apply_objects(&[service("kept", "kept", Some(NODE_PORT)), policy])?;
    lab.settled()
}

/// Pod, service and node port, in each family: where a client on n1 connects to.
pub(crate) fn targets(lab: &Lab) -> Result<Vec<String>> {
    let (servers, nodes) = (cluster::pods(lab, "app=kept")?, cluster::nodes(lab)?);
    let mut all = Vec::new();
    for v6 in lab.families() {
        let shown = |ip: std::net::IpAddr, port: u16| std::net::SocketAddr::new(ip, port).to_string();
        for pod in &servers {
            all.push(shown(pod.ip(v6)?, PORT));
        }
        all.push(shown(cluster::cluster_ip(lab, "kept", "default", v6)?, PORT));
        for node in nodes.iter().filter(|node| node.name != "n1") {
            all.push(shown(node.ip(v6)?, NODE_PORT));
        }
    }
    Ok(all)
}

/// Where datagrams go: the server on n3 itself, and the service.
pub(crate) fn far_server(lab: &Lab) -> Result<[String; 2]> {
    let server = cluster::pods(lab, "app=kept")?.into_iter().find(|pod| pod.node == "n3").context("no server on n3")?;
    let service = cluster::cluster_ip(lab, "kept", "default", true)?;
    Ok([at(&server, false)?, std::net::SocketAddr::new(service, PORT).to_string()])
}

pub(crate) fn under_traffic(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    stage(lab)?;
    let targets = targets(lab)?;
    let words: Vec<&str> = ["stream", "25"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let streams = [Generator::in_pod(lab, "kept-c1", &words)?, Generator::in_pod(lab, "kept-c2", &words)?];
    let [direct, by_service] = far_server(lab)?;
    let datagrams = Generator::in_pod(lab, "kept-c1", &["datagrams", "kept", "1000", &direct, &by_service])?;

    let kills = bench.figure(5, 100);
    for round in 0..kills {
        // Now with long absence, now killed again in the middle of its start.
        let pause = Duration::from_millis(u64::try_from(round % 5)? * 70);
        lab.kill_agents(pause)?;
        if round % 2 == 0 {
            lab.settled()?;
        } else {
            std::thread::sleep(pause);
        }
    }
    lab.settled()?;
    let (sent, requests, slowest) = all_kept(streams, datagrams)?;
    Ok(format!(
        "{kills} kills of 3 agents: 0 of 50 connections broke ({requests} requests, slowest {slowest} ms), 0 of {sent} datagrams lost"
    ))
}

/// Services of every sort, so that a restart has something that it could write anew.
fn varied(lab: &Lab) -> Result<()> {
    let mut sticky = service("sticky", "kept", None);
    sticky["spec"]["sessionAffinity"] = json!("ClientIP");
    let mut local = service("local", "kept", Some(NODE_PORT + 1));
    local["spec"]["externalTrafficPolicy"] = json!("Local");
    let empty = service("empty", "nobody", Some(NODE_PORT + 2));
    let block = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "block"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "kept"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.64/26"]}}, {"namespaceSelector": {}}],
                         "ports": [{"port": 7000, "endPort": 7010, "protocol": "TCP"}]}],
            "egress": [{"to": [{"podSelector": {}}]}],
        },
    });
    lab.apply_objects(&[sticky, local, empty, block])
}

pub(crate) fn write_nothing(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    stage(lab)?;
    let before: Vec<node::Kernel> = NODES.iter().map(|n| node::read(lab, n)).collect::<Result<_>>()?;
    restart_quietly(lab)?;
    for (name, before) in NODES.iter().zip(&before) {
        node::same(name, &before.ours, &node::read(lab, name)?.ours)?;
    }
    // The dynamic map of the service with affinity is more than nft 1.0.6 can list, so here the agents' own count is all.
    varied(lab)?;
    lab.settled()?;
    restart_quietly(lab)?;
    let objects: usize = before.iter().map(|kernel| kernel.ours.len()).sum();
    lab.delete("service", &["sticky", "local", "empty"])?;
    lab.delete("networkpolicy", &["block"])?;
    Ok(format!("writtenTotal 0 on 3 nodes, twice; {objects} lines of nft, ip and files as before"))
}

fn restart_quietly(lab: &Lab) -> Result<()> {
    lab.kill_agents(Duration::ZERO)?;
    lab.settled()?;
    // What it writes late counts too: a look at the neighbours, a hint of the kernel.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let status = lab.status()?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        ensure!(nodes.len() == NODES.len(), "{} agents answer", nodes.len());
        for node in nodes {
            ensure!(node["writtenTotal"] == 0, "{}: {} objects written after the restart", node["node"], node["writtenTotal"]);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The pod of that name.
pub(crate) fn named(lab: &Lab, app: &str, name: &str) -> Result<Pod> {
    let found = cluster::pods(lab, &format!("app={app}"))?.into_iter().find(|pod| pod.name == name);
    found.ok_or_else(|| anyhow::anyhow!("no pod {name}"))
}

/// All of a probe's targets: how often they were tried, and that nothing came through.
pub(crate) fn nothing_through(report: &Value) -> Result<u64> {
    let mut tried = 0;
    for (target, seen) in report.as_object().into_iter().flatten() {
        let through = crate::common::generator::number(seen, "through")?;
        ensure!(through == 0, "{through} probes of {target} got through, the first: {}", seen["first"]);
        tried += crate::common::generator::number(seen, "tried")?;
    }
    Ok(tried)
}

/// The address and port of a pod's server.
pub(crate) fn at(pod: &Pod, v6: bool) -> Result<String> {
    Ok(std::net::SocketAddr::new(pod.ip(v6)?, objects::PORT).to_string())
}

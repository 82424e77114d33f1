//! Scenarios 1 and 2: pods, nodes and the outside, and whose address is seen.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Node, Pod, nodes, pods};
use crate::lab::{Lab, address_of, curl, eventually, said, words};

/// Scenario 1.
pub(crate) fn pods_reach_pods(lab: &Lab) -> Result<String> {
    lab.apply("nginx-ds.yaml")?;
    lab.apply("nginx-web.yaml")?;
    let (mut all, nodes) = (pods(lab, "app=nginx-ds")?, nodes(lab)?);
    all.extend(pods(lab, "app=nginx-web")?);
    ensure!(nodes.len() >= 2 && all.len() == nodes.len() + 1, "{} pods on {} nodes", all.len(), nodes.len());
    let mut reached = 0;
    for v6 in lab.families() {
        for from in &all {
            for to in &all {
                let page = fetch_from_pod(lab, from, to.ip(v6)?, 80)?;
                let client = address_of(&page, "client")?;
                ensure!(client == from.ip(v6)?, "{} saw {client} where {} has {}", to.name, from.name, from.ip(v6)?);
                reached += 1;
            }
        }
        for node in &nodes {
            reached += node_and_pods(lab, node, &all, v6)?;
        }
        ttl(lab, &all, v6)?;
        path(lab, &all, v6)?;
    }
    Ok(format!("{reached} pages, each with the client's own address; TTL 64, 63, 62; path seen on the underlay"))
}

/// Node to pods with its InternalIP, pods to the node with theirs.
fn node_and_pods(lab: &Lab, node: &Node, all: &[Pod], v6: bool) -> Result<usize> {
    for pod in all {
        let output = lab.node(&node.name, &words(&curl(pod.ip(v6)?, 80)))?;
        let page = said(&output).with_context(|| format!("{} -> {}: {output:?}", node.name, pod.name))?;
        let client = address_of(&page, "client")?;
        ensure!(client == node.ip(v6)?, "{} saw {client} where node {} has {}", pod.name, node.name, node.ip(v6)?);
        let pinged = lab.pod(&pod.name, &["ping", "-c", "1", "-W", "2", &node.ip(v6)?.to_string()])?;
        ensure!(pinged.status.success(), "{} does not reach node {}: {}", pod.name, node.name, String::from_utf8_lossy(&pinged.stdout));
    }
    Ok(all.len())
}

/// The TTL falls by one a node.
fn ttl(lab: &Lab, all: &[Pod], v6: bool) -> Result<()> {
    let from = all.first().context("no pod")?;
    for to in all {
        let output = lab.pod(&from.name, &["ping", "-c", "1", "-W", "2", &to.ip(v6)?.to_string()])?;
        let told = said(&output).with_context(|| format!("ping {} -> {}", from.name, to.name))?;
        let seen = told.split("ttl=").nth(1).and_then(|rest| rest.split_whitespace().next()).context("no ttl in ping's answer")?;
        let want = match (from.name == to.name, from.node == to.node) {
            (true, _) => "64",
            (false, true) => "63",
            (false, false) => "62",
        };
        ensure!(seen == want, "ttl {seen} from {} ({}) back to {} ({}), {want} wanted", to.name, to.node, from.name, from.node);
    }
    Ok(())
}

/// What travels between two nodes, captured on the underlay while a pod fetches a page from another node.
fn path(lab: &Lab, all: &[Pod], v6: bool) -> Result<()> {
    let from = all.first().context("no pod")?;
    let to = all.iter().find(|p| p.node != from.node).context("no pod on another node")?;
    let wrapped = lab.setup.backend == "vxlan" && !lab.setup.is_direct();
    let filter = if wrapped { "udp port 8472".to_owned() } else { format!("host {} and tcp port 80", to.ip(v6)?) };
    let mut capture = lab.node_background(&from.node, &["tcpdump", "-n", "-l", "-i", "eth0", "-c", "3", &filter])?;
    let seen = eventually(|| {
        fetch_from_pod(lab, from, to.ip(v6)?, 80)?;
        capture.try_wait()?.context("the path's packets are not on the underlay")
    });
    if seen.is_err() {
        capture.kill()?;
        capture.wait()?;
    }
    let status = seen.with_context(|| format!("capturing `{filter}` on {}", from.node))?;
    ensure!(status.success(), "tcpdump: {status}");
    Ok(())
}

pub(crate) fn fetch_from_pod(lab: &Lab, from: &Pod, to: IpAddr, port: u16) -> Result<String> {
    let output = lab.pod(&from.name, &words(&curl(to, port)))?;
    said(&output).with_context(|| format!("{} ({}) -> {to}:{port}: {}", from.name, from.node, output.status))
}

/// Scenario 2.
pub(crate) fn outside_sees_the_node(lab: &Lab) -> Result<String> {
    let (all, nodes) = (pods(lab, "app=nginx-ds")?, nodes(lab)?);
    for v6 in lab.families() {
        let outside: IpAddr = if v6 { "2001:db8:113::10" } else { "203.0.113.10" }.parse()?;
        for pod in &all {
            let page = fetch_from_pod(lab, pod, outside, 80)?;
            let node = nodes.iter().find(|n| n.name == pod.node).context("its node")?;
            let client = address_of(&page, "client")?;
            ensure!(client == node.ip(v6)?, "outside saw {client} where {} is on {} ({})", pod.name, node.name, node.ip(v6)?);
        }
    }
    Ok(format!("the outside saw the node's address {} times, never a pod's", all.len() * lab.families().len()))
}

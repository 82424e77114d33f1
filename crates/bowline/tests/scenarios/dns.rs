//! Scenario 3: names.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Pod, cluster_ip, nodes, pods};
use crate::lab::{Lab, eventually, said};

/// Scenario 3.
pub(crate) fn names_resolve(lab: &Lab) -> Result<String> {
    let pod = pods(lab, "app=nginx-ds")?.into_iter().next().context("no pod")?;
    let node = nodes(lab)?.into_iter().next().context("no node")?;
    let v6 = lab.families().first().copied().unwrap_or(false);
    let (server, web) = (cluster_ip(lab, "kube-dns", "kube-system", v6)?, cluster_ip(lab, "nginx-web", "default", v6)?);
    let at = format!("@{server}");
    let kind = if v6 { "AAAA" } else { "A" };
    let full = "nginx-web.default.svc.cluster.local";
    for (place, answer) in [
        ("pod", eventually(|| dig_pod(lab, &pod, &["-t", kind, full, &at]))?),
        ("pod, by its search path", dig_pod(lab, &pod, &["+search", "-t", kind, "nginx-web"])?),
        ("node", dig_node(lab, &node.name, &["-t", kind, full, &at])?),
        ("pod, over TCP", dig_pod(lab, &pod, &["+tcp", "-t", kind, full, &at])?),
    ] {
        ensure!(answer.trim() == web.to_string(), "{place}: {answer:?} where {web} is wanted");
    }
    let back = dig_pod(lab, &pod, &["-x", &web.to_string(), &at])?;
    ensure!(back.trim() == format!("{full}."), "-x {web}: {back:?}");
    let outside = dig_pod(lab, &pod, &["-t", kind, "www.outside.test", &at])?;
    let lines: Vec<&str> = outside.lines().collect();
    let client: IpAddr = if v6 { "2001:db8:113::10" } else { "203.0.113.10" }.parse()?;
    ensure!(
        lines.first() == Some(&"alias.outside.test.") && lines.contains(&client.to_string().as_str()),
        "www.outside.test by CNAME to {client}: {lines:?}"
    );
    let missing = lab.pod(&pod.name, &["dig", "+time=2", "+tries=1", "nothing.default.svc.cluster.local", &at])?;
    ensure!(said(&missing).is_some_and(|t| t.contains("status: NXDOMAIN") && t.contains("SOA")), "NXDOMAIN with SOA is wanted");
    let api = dig_pod(lab, &pod, &["-t", kind, "kubernetes.default.svc.cluster.local", &at])?;
    ensure!(api.trim() == cluster_ip(lab, "kubernetes", "default", v6)?.to_string(), "kubernetes: {api:?}");
    Ok(format!("nginx-web is {web} by {server} on UDP and TCP, from pods and nodes; -x, search path, CNAME chain, NXDOMAIN with SOA"))
}

fn dig_pod(lab: &Lab, pod: &Pod, argv: &[&str]) -> Result<String> {
    let mut all = vec!["dig", "+short", "+time=2", "+tries=1"];
    all.extend(argv);
    let output = lab.pod(&pod.name, &all)?;
    answer(&output, argv)
}

fn dig_node(lab: &Lab, node: &str, argv: &[&str]) -> Result<String> {
    let mut all = vec!["dig", "+short", "+time=2", "+tries=1"];
    all.extend(argv);
    let output = lab.node(node, &all)?;
    answer(&output, argv)
}

fn answer(output: &std::process::Output, argv: &[&str]) -> Result<String> {
    let told = said(output).with_context(|| format!("dig {}: {}", argv.join(" "), String::from_utf8_lossy(&output.stdout)))?;
    ensure!(!told.trim().is_empty(), "dig {}: no answer", argv.join(" "));
    Ok(told)
}

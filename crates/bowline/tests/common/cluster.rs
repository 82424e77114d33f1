//! Pods, nodes and services as the API tells of them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;

use super::lab::Lab;

/// A pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    ips: Vec<IpAddr>,
}

/// A node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    ips: Vec<IpAddr>,
}

fn of_family(ips: &[IpAddr], v6: bool) -> Result<IpAddr> {
    ips.iter().copied().find(|ip| ip.is_ipv6() == v6).with_context(|| format!("no address of the family (IPv6: {v6}) among {ips:?}"))
}

impl Pod {
    pub(crate) fn ip(&self, v6: bool) -> Result<IpAddr> {
        of_family(&self.ips, v6).with_context(|| self.name.clone())
    }
}

impl Node {
    pub(crate) fn ip(&self, v6: bool) -> Result<IpAddr> {
        of_family(&self.ips, v6).with_context(|| self.name.clone())
    }
}

fn items(lab: &Lab, words: &[&str]) -> Result<Vec<Value>> {
    let mut all = vec!["get", "-o", "json"];
    all.extend(words);
    let list: Value = serde_json::from_str(&lab.kubectl(&all)?)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn addresses(list: &Value, key: &str) -> Vec<IpAddr> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry[key].as_str()?.parse().ok()).collect()
}

/// Pods of the default namespace with a label, that are not going away.
pub(crate) fn pods(lab: &Lab, selector: &str) -> Result<Vec<Pod>> {
    let found = items(lab, &["pods", "-l", selector])?;
    let alive = found.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null());
    Ok(alive
        .map(|p| Pod {
            name: p["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            node: p["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
            ips: addresses(&p["status"]["podIPs"], "ip"),
        })
        .collect())
}

/// All nodes.
pub(crate) fn nodes(lab: &Lab) -> Result<Vec<Node>> {
    let found = items(lab, &["nodes"])?;
    Ok(found
        .iter()
        .map(|n| {
            let internal: Vec<Value> =
                n["status"]["addresses"].as_array().into_iter().flatten().filter(|a| a["type"] == "InternalIP").cloned().collect();
            Node { name: n["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ips: addresses(&Value::Array(internal), "address") }
        })
        .collect())
}

/// A service's cluster address of a family.
pub(crate) fn cluster_ip(lab: &Lab, service: &str, namespace: &str, v6: bool) -> Result<IpAddr> {
    let found: Value = serde_json::from_str(&lab.kubectl(&["get", "service", service, "-n", namespace, "-o", "json"])?)?;
    let ips: Vec<IpAddr> =
        found["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    of_family(&ips, v6).with_context(|| format!("service {namespace}/{service}"))
}

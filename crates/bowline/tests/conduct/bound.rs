//! A service's address that a node has as its own, with somebody who listens there: the service is the service's all the same.
//!
//! By the rules the node's own programs reach nobody then: the kernel sends from the very address that it sends to, and takes no answer by a link
//! that seems to come from an address of its own (RFC 1812, 5.3.7). But they do not reach the listener either.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::foreign::shell;
use crate::common::cluster::{cluster_ip, nodes};
use crate::common::generator::{Generator, once_in_pod, once_on_node, once_outside};
use crate::common::lab::Lab;
use crate::common::objects::{PORT, idle, server, service};
use crate::common::rows::Bench;

const NEAR: &str = "bound-near";
const FAR: &str = "bound-far";
const ITSELF: &str = "the node itself";

pub(crate) fn leads_to_endpoints(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("bound", "n2", "bound")?, idle(NEAR, "n1", NEAR)?, idle(FAR, "n3", FAR)?, service("bound", "bound", None)])?;
    lab.settled()?;
    let mut told = Vec::new();
    for v6 in lab.families() {
        let address = cluster_ip(lab, "bound", "default", v6)?;
        let prefix = if v6 { 128 } else { 32 };
        shell(lab, "n1", &format!("ip addr add {address}/{prefix} dev lo nodad"))?;
        let outcome = served(lab, address);
        shell(lab, "n1", &format!("ip addr del {address}/{prefix} dev lo"))?;
        told.push(format!("{address}: {} calls, 0 to the node's own listener", outcome?));
    }
    lab.delete("pod", &["bound", NEAR, FAR])?;
    lab.delete("service", &["bound"])?;
    Ok(told.join("; "))
}

/// Everybody is answered by the endpoint, and whoever listens on the node hears nothing; how many calls there were.
fn served(lab: &Lab, address: IpAddr) -> Result<u64> {
    lab.settled()?;
    let target = SocketAddr::new(address, PORT).to_string();
    let mut listener = Generator::on_node(lab, "n1", &["listen", &target])?;
    let n1 = nodes(lab)?.into_iter().find(|node| node.name == "n1").context("no n1")?;
    let route = ["ip", "route", "replace", &address.to_string(), "via", &n1.ip(address.is_ipv6())?.to_string()];
    ensure!(lab.router(&route)?.status.success(), "the router does not take a route to {address}");
    let (mut calls, by_rules) = (0, !lab.setup.is_ebpf());
    for protocol in ["tcp", "udp"] {
        let words = ["call", protocol, "5", target.as_str()];
        let places: [(&str, Result<Value>); 5] = [
            ("a pod of the node", once_in_pod(lab, NEAR, &words)),
            ("another node's pod", once_in_pod(lab, FAR, &words)),
            (ITSELF, once_on_node(lab, "n1", &words)),
            ("another node", once_on_node(lab, "n3", &words)),
            ("outside", once_outside(lab, &words)),
        ];
        for (who, report) in places {
            if by_rules && who == ITSELF {
                ensure!(report.is_err(), "{who} by {protocol}: an answer");
                continue;
            }
            let report = report.with_context(|| who.to_owned())?;
            ensure!(report["by"] == json!({"bound": 5}), "{who} by {protocol}: {} answered", report["by"]);
            calls += 5;
        }
    }
    let heard = listener.ask("?")?;
    ensure!(heard == 0, "{heard} connections came to the node's own listener");
    ensure!(lab.router(&["ip", "route", "del", &address.to_string()])?.status.success(), "the route to {address} stays");
    Ok(calls)
}

//! Programs with one socket for both families, which write IPv4 addresses as IPv6 (`::ffff:10.43.0.1`): services serve them, and answer with
//! the address that they wrote.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::sockets::tracked;
use crate::common::cluster::cluster_ip;
use crate::common::generator::{once_in_pod, once_on_node};
use crate::common::lab::Lab;
use crate::common::objects::{PORT, idle, server, service};
use crate::common::rows::Bench;

const CLIENT: &str = "mapped-client";
const NODE_PORT: u16 = 30_746;

fn mapped(address: IpAddr, port: u16) -> Result<String> {
    let IpAddr::V4(v4) = address else { bail!("{address} is not IPv4") };
    Ok(SocketAddr::new(v4.to_ipv6_mapped().into(), port).to_string())
}

/// Who answered.
fn by(report: &Value) -> BTreeSet<String> {
    report["by"].as_object().into_iter().flat_map(|by| by.keys().cloned()).collect()
}

/// Everything that a program can do with such an address; who answered.
fn speaks(ask: &dyn Fn(&[&str]) -> Result<Value>, target: &str) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for protocol in ["tcp", "udp"] {
        let report = ask(&["call", protocol, "12", target])?;
        ensure!(report["peers"] == json!([target]), "connected by {protocol} to {target}, the peer is called {}", report["peers"]);
        all.extend(by(&report));
    }
    let report = ask(&["letters", "mapped", "20", target])?;
    ensure!(report["from"] == json!([target]), "datagrams to {target} are answered by {}", report["from"]);
    ensure!(by(&report).len() == 1, "one socket, and {:?} answered", by(&report));
    all.extend(by(&report));
    Ok(all)
}

pub(crate) fn are_served(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("mapped-near", "n1", "mapped")?,
        server("mapped-far", "n2", "mapped")?,
        idle(CLIENT, "n1", CLIENT)?,
        service("mapped", "mapped", Some(NODE_PORT)),
        service("mapped-none", "mapped-none", None),
    ])?;
    lab.settled()?;
    let servers = BTreeSet::from(["mapped-near".to_owned(), "mapped-far".to_owned()]);
    let address = cluster_ip(lab, "mapped", "default", false)?;
    let (in_pod, on_node) = (|words: &[&str]| once_in_pod(lab, CLIENT, words), |words: &[&str]| once_on_node(lab, "n1", words));
    for (whose, ask) in [("a pod's", &in_pod as &dyn Fn(&[&str]) -> Result<Value>), ("the node's", &on_node)] {
        let answered = speaks(ask, &mapped(address, PORT)?)?;
        // Twenty-five choices of two that are all the same: one chance in sixteen million.
        ensure!(answered == servers, "{whose} sockets were answered by {answered:?}");
        nobody(ask, lab)?;
    }
    let mut told = "a pod and the node: 24 connections and a socket without one each, by TCP and UDP".to_owned();
    if lab.setup.is_ebpf() {
        let seen = tracked(lab, "n1", address)?;
        ensure!(seen == 0, "{seen} connections to {address} went by the rules");
        let answered = speaks(&on_node, &mapped(Ipv4Addr::LOCALHOST.into(), NODE_PORT)?)?;
        ensure!(answered == servers, "on loopback {answered:?} answered");
        told.push_str("; none tracked under the service's address; the same on ::ffff:127.0.0.1");
    }
    lab.delete("pod", &["mapped-near", "mapped-far", CLIENT])?;
    lab.delete("service", &["mapped", "mapped-none"])?;
    Ok(told)
}

/// A service without endpoints refuses them, too.
fn nobody(ask: &dyn Fn(&[&str]) -> Result<Value>, lab: &Lab) -> Result<()> {
    let target = mapped(cluster_ip(lab, "mapped-none", "default", false)?, PORT)?;
    for protocol in ["tcp", "udp"] {
        let Err(error) = ask(&["call", protocol, "1", &target]) else { bail!("{target} has no endpoints and answers by {protocol}") };
        // What a node's own rules refuse of its own datagrams never leaves, and the kernel says so in other words.
        let refusals: &[&str] =
            if protocol == "udp" { &["Connection refused", "Operation not permitted"] } else { &["Connection refused"] };
        let why = format!("{error:#}");
        ensure!(refusals.iter().any(|refusal| why.contains(refusal)), "{target} by {protocol}: {why}");
    }
    Ok(())
}

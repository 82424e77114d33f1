//! One UDP socket that talks to a service: its flow moves within a second when the endpoint goes, and also when the last one goes and returns.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::cluster;
use crate::common::generator::{Generator, number};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, idle, server, service};
use crate::common::rows::Bench;

/// The promise, in milliseconds.
const WITHIN_MS: u64 = 1000;

fn flow(lab: &Lab, name: &str) -> Result<Generator> {
    let mut targets = Vec::new();
    for v6 in lab.families() {
        targets.push(std::net::SocketAddr::new(cluster::cluster_ip(lab, name, "default", v6)?, PORT).to_string());
    }
    let words: Vec<&str> = ["datagrams", name, "5000"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    Generator::in_pod(lab, &format!("{name}-client"), &words)
}

/// Who answered each target since the last question.
fn answering(report: &Value) -> Result<Vec<String>> {
    let flows = report.as_array().context("no flows")?;
    Ok(flows.iter().flat_map(|flow| flow["by"].as_object().into_iter().flat_map(|by| by.keys().cloned())).collect())
}

pub(crate) fn when_endpoints_go(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let pods = [server("moves-a", "n2", "moves")?, server("moves-b", "n3", "moves")?, idle("moves-client", "n1", "moves-client")?];
    lab.apply_objects(&pods)?;
    lab.apply_objects(&[service("moves", "moves", None)])?;
    lab.settled()?;
    let mut flow = flow(lab, "moves")?;
    let mut worst = 0;
    // Both ways, so that each flow has to move at least once.
    for (gone, node) in [("moves-a", "n2"), ("moves-b", "n3")] {
        flow.ask("?")?;
        lab.delete("pod", &[gone])?;
        let stays = if gone == "moves-a" { "moves-b" } else { "moves-a" };
        eventually(|| {
            std::thread::sleep(Duration::from_millis(100));
            let report = flow.ask("?")?;
            worst = worst.max(longest_gap(&report)?);
            let by = answering(&report)?;
            ensure!(by.len() == lab.families().len() && by.iter().all(|name| name == stays), "{by:?} answer");
            Ok(())
        })?;
        lab.apply_objects(&[server(gone, node, "moves")?])?;
        lab.settled()?;
    }
    ensure!(worst <= WITHIN_MS, "a flow was without an answer for {worst} ms");
    lab.delete("pod", &["moves-a", "moves-b", "moves-client"])?;
    lab.delete("service", &["moves"])?;
    Ok(format!("from each of two endpoints to the other, both families: longest silence {worst} ms"))
}

fn longest_gap(report: &Value) -> Result<u64> {
    let mut worst = 0;
    for flow in report.as_array().context("no flows")? {
        worst = worst.max(number(flow, "longestGapMs")?);
    }
    Ok(worst)
}

/// The node port of the service whose last endpoint goes.
const BACK_PORT: u16 = 30_777;

/// Flows to a service from a pod, from a node's own process, and from outside to a node's port.
struct Everyone(Vec<Generator>);

impl Everyone {
    fn begin(lab: &Lab, name: &str) -> Result<Everyone> {
        let (mut by_service, mut by_node) = (Vec::new(), Vec::new());
        let first = cluster::nodes(lab)?.into_iter().next().context("no node")?;
        for v6 in lab.families() {
            by_service.push(std::net::SocketAddr::new(cluster::cluster_ip(lab, name, "default", v6)?, PORT).to_string());
            by_node.push(std::net::SocketAddr::new(first.ip(v6)?, BACK_PORT).to_string());
        }
        let inside: Vec<&str> = ["datagrams", name, "5000"].into_iter().chain(by_service.iter().map(String::as_str)).collect();
        let outside: Vec<&str> = ["datagrams", name, "5000"].into_iter().chain(by_node.iter().map(String::as_str)).collect();
        let pod = Generator::in_pod(lab, &format!("{name}-client"), &inside)?;
        Ok(Everyone(vec![pod, Generator::on_node(lab, "n2", &inside)?, Generator::outside(lab, &outside)?]))
    }

    /// What all of them report, as one report.
    fn ask(&mut self) -> Result<Value> {
        let mut all = Vec::new();
        for flow in &mut self.0 {
            all.extend(flow.ask("?")?.as_array().context("no flows")?.clone());
        }
        Ok(Value::Array(all))
    }
}

pub(crate) fn when_the_last_returns(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("back", "n2", "back")?, idle("back-client", "n1", "back-client")?])?;
    lab.apply_objects(&[service("back", "back", Some(BACK_PORT))])?;
    lab.settled()?;
    let mut flows = Everyone::begin(lab, "back")?;
    lab.delete("pod", &["back"])?;
    eventually(|| {
        let report = flows.ask()?;
        let since = report.as_array().context("no flows")?.iter().map(|f| number(f, "sinceAnswerMs")).collect::<Result<Vec<_>>>()?;
        ensure!(since.iter().all(|ms| *ms > 500), "somebody still answers: {since:?}");
        Ok(())
    })?;
    lab.apply_objects(&[server("back", "n3", "back")?])?;
    let ready = Instant::now();
    eventually(|| {
        let report = flows.ask()?;
        let by = answering(&report)?;
        ensure!(by.len() == lab.families().len() * flows.0.len(), "only {by:?} answers");
        Ok(())
    })?;
    let took = ready.elapsed().as_millis();
    ensure!(took <= u128::from(WITHIN_MS), "answers came only {took} ms after the endpoint was ready");
    lab.delete("pod", &["back", "back-client"])?;
    lab.delete("service", &["back"])?;
    Ok(format!("none answered, then the new one, {took} ms after it was ready: a pod, a node's process, and the outside by a node port"))
}

//! The fast path: packets between pods are carried past the stack, with and without an agent, and programs leave with their mode.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::foreign::{counted, repairs, shell};
use super::sockets::switch;
use crate::common::cluster::pods;
use crate::common::generator::{Generator, all_answered, number, unbroken};
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::{PORT, idle, myself, server};
use crate::common::rows::Bench;

/// Packets after which the few that the stack is shown do not count.
const ENOUGH: u64 = 4000;

/// Packets that a node's programs have carried since their maps were made.
fn carried(lab: &Lab, node: &str) -> Result<u64> {
    lab.metric(node, "bowline_fastpath_packets_total")
}

/// Connections and datagrams live on when the fast path is taken from under them, and when it comes.
pub(crate) fn over_a_switch(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("switch-near", "n1", "switch")?,
        server("switch-far", "n2", "switch")?,
        idle("switch-client", "n1", "switch-client")?,
    ])?;
    lab.settled()?;
    let mut targets = Vec::new();
    for server in pods(lab, "app=switch")? {
        for v6 in lab.families() {
            targets.push(SocketAddr::new(server.ip(v6)?, PORT).to_string());
        }
    }
    let begin = |head: &[&str]| {
        let words: Vec<&str> = head.iter().copied().chain(targets.iter().map(String::as_str)).collect();
        Generator::in_pod(lab, "switch-client", &words)
    };
    let before = carried(lab, "n1")?;
    let (flows, streams) = (begin(&["datagrams", "switch", "2000"])?, begin(&["stream", "8"])?);
    eventually(|| {
        ensure!(carried(lab, "n1")? > before, "nothing is carried yet");
        Ok(())
    })?;
    for mode in ["false", "true", "false", "true"] {
        switch(lab, "fastPath", mode)?;
    }
    let there = carried(lab, "n1")?;
    eventually(|| {
        ensure!(carried(lab, "n1")? > there, "nothing is carried after the last switch");
        Ok(())
    })?;
    let sent = all_answered(&flows.finish()?)?;
    let (requests, slowest) = unbroken(&streams.finish()?)?;
    lab.delete("pod", &["switch-near", "switch-far", "switch-client"])?;
    Ok(format!("4 switches: 0 of {sent} datagrams lost, 0 connections broke ({requests} requests, slowest {slowest} ms)"))
}

/// Within which what someone took off is back.
const WITHIN: Duration = Duration::from_secs(2);

/// Where a node has programs at links: what is put back may be another copy, with another number.
fn at_links(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let output = lab.node(node, &[&myself()?, "--generator", "programs"])?;
    let text = said(&output).with_context(|| format!("{node}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let all: Vec<String> = serde_json::from_str(&text)?;
    let mut places = all.iter().filter_map(|line| Some(line.split_once(" at ")?.1.to_owned())).collect::<Vec<_>>();
    places.sort();
    Ok(places)
}

/// Someone takes all programs off their links, under traffic: nothing is lost, they are back, and carry again.
pub(crate) fn put_back(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("robbed-near", "n1", "robbed")?,
        server("robbed-far", "n2", "robbed")?,
        idle("robbed-client", "n1", "robbed-client")?,
    ])?;
    lab.settled()?;
    let mut words = vec!["datagrams".to_owned(), "robbed".to_owned(), "2000".to_owned()];
    for server in pods(lab, "app=robbed")? {
        for v6 in lab.families() {
            words.push(SocketAddr::new(server.ip(v6)?, PORT).to_string());
        }
    }
    let flows = Generator::in_pod(lab, "robbed-client", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let before = at_links(lab, "n1")?;
    let mut told = Vec::new();
    for _ in 0..3 {
        let count = repairs(lab, "n1", "links")?;
        let taken = said(&lab.node("n1", &[&myself()?, "--generator", "programs", "off"])?).context("taking programs off")?;
        let begun = Instant::now();
        ensure!(taken.trim() == before.len().to_string(), "{taken} programs were taken off, of {}", before.len());
        while at_links(lab, "n1")? != before {
            ensure!(begun.elapsed() < 3 * WITHIN, "not back within {} s: {:?}", (3 * WITHIN).as_secs(), at_links(lab, "n1")?);
        }
        let took = begun.elapsed();
        ensure!(took < WITHIN, "back only after {} ms", took.as_millis());
        told.push(took.as_millis().to_string());
        counted(lab, "n1", "links", count)?;
        let there = carried(lab, "n1")?;
        eventually(|| {
            ensure!(carried(lab, "n1")? > there + 100, "nothing is carried since they are back");
            Ok(())
        })?;
    }
    let sent = all_answered(&flows.finish()?)?;
    lab.delete("pod", &["robbed-near", "robbed-far", "robbed-client"])?;
    Ok(format!("{} programs back after {} ms, 0 of {sent} datagrams lost", before.len(), told.join(", ")))
}

/// Packets that a token bucket at a link's root has let through.
fn through_the_bucket(lab: &Lab, link: &str) -> Result<u64> {
    let page = shell(lab, "n1", &format!("tc -s -j qdisc show dev {link} root"))?;
    let all: serde_json::Value = serde_json::from_str(&page).with_context(|| page.clone())?;
    all[0]["packets"].as_u64().with_context(|| page.clone())
}

/// Datagrams that a generator has sent on all its flows.
fn sent_by(flows: &mut Generator) -> Result<u64> {
    flows.ask("?")?.as_array().context("no flows")?.iter().map(|flow| number(flow, "sent")).sum()
}

/// A pod whose traffic somebody limits: it gets everything by way of the limit, for as long as that is there.
pub(crate) fn limited(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("limited-server", "n1", "limited")?, idle("limited-client", "n1", "limited-client")?])?;
    lab.settled()?;
    let server = pods(lab, "app=limited")?.into_iter().next().context("no pod")?;
    let mut words = vec!["datagrams".to_owned(), "limited".to_owned(), "2000".to_owned()];
    for v6 in lab.families() {
        words.push(SocketAddr::new(server.ip(v6)?, PORT).to_string());
    }
    let first = server.ip(lab.families().first().copied().unwrap_or(false))?;
    let route: serde_json::Value = serde_json::from_str(&shell(lab, "n1", &format!("ip -j route get {first}"))?)?;
    let link = route[0]["dev"].as_str().context("no link")?.to_owned();
    let begin = || Generator::in_pod(lab, "limited-client", &words.iter().map(String::as_str).collect::<Vec<_>>());
    // So many that flows of both families are among them.
    let carries = |when: &str| {
        let there = carried(lab, "n1")?;
        eventually(|| {
            let count = carried(lab, "n1")? - there;
            ensure!(count > ENOUGH / 4, "{count} are carried{when}");
            Ok(())
        })
    };
    let mut flows = begin()?;
    carries(" before a limit")?;
    let before = at_links(lab, "n1")?;
    shell(lab, "n1", &format!("tc qdisc add dev {link} root tbf rate 1gbit burst 1mb latency 50ms"))?;
    let begun = Instant::now();
    while at_links(lab, "n1")?.iter().any(|place| place.contains(&link)) {
        ensure!(begun.elapsed() < WITHIN, "{link} has programs still, after {} ms", begun.elapsed().as_millis());
    }
    let took = begun.elapsed();
    let (bucket, sent) = (through_the_bucket(lab, &link)?, sent_by(&mut flows)?);
    eventually(|| {
        ensure!(sent_by(&mut flows)? > sent + ENOUGH, "few are sent");
        Ok(())
    })?;
    let (sent, bucket) = (sent_by(&mut flows)? - sent, through_the_bucket(lab, &link)? - bucket);
    ensure!(bucket * 100 >= sent * 99, "{bucket} of {sent} datagrams came by the limit");
    // While a root discipline is exchanged, a link has one that drops all (dev_deactivate): what the stack sends then is
    // lost, with or without an agent, and is not counted here. What is carried does not see that, above.
    let mut all = all_answered(&flows.finish()?)?;
    shell(lab, "n1", &format!("tc qdisc del dev {link} root"))?;
    let begun = Instant::now();
    while at_links(lab, "n1")? != before {
        ensure!(begun.elapsed() < 3 * WITHIN, "not back within {} s: {:?}", (3 * WITHIN).as_secs(), at_links(lab, "n1")?);
    }
    let flows = begin()?;
    carries(" after the limit")?;
    all += all_answered(&flows.finish()?)?;
    lab.delete("pod", &["limited-server", "limited-client"])?;
    Ok(format!(
        "{bucket} of {sent} by the limit, programs off after {} ms and back without it, 0 of {all} datagrams lost",
        took.as_millis()
    ))
}

/// Datagrams and requests on connections, to a pod of the same node and to one of another.
pub(crate) fn carries(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("fast-near", "n1", "fast-near")?,
        server("fast-far", "n2", "fast-far")?,
        idle("fast-client", "n1", "fast-client")?,
    ])?;
    lab.settled()?;
    let mut told = Vec::new();
    for (app, peer) in [("fast-near", "n1"), ("fast-far", "n2")] {
        let server = pods(lab, &format!("app={app}"))?.into_iter().next().context("no pod")?;
        let targets: Vec<String> =
            lab.families().into_iter().map(|v6| Ok(SocketAddr::new(server.ip(v6)?, PORT).to_string())).collect::<Result<_>>()?;
        let words = |head: &[&str]| head.iter().copied().chain(targets.iter().map(String::as_str)).map(str::to_owned).collect::<Vec<_>>();
        let (datagrams, stream) = (words(&["datagrams", "fast", "2000"]), words(&["stream", "4"]));
        let begin = |words: &[String]| Generator::in_pod(lab, "fast-client", &words.iter().map(String::as_str).collect::<Vec<_>>());
        let before = (carried(lab, "n1")?, carried(lab, peer)?);
        let (flows, streams) = (begin(&datagrams)?, begin(&stream)?);
        eventually(|| {
            let count = carried(lab, "n1")? - before.0;
            ensure!(count > ENOUGH, "{app}: n1 has carried {count} packets");
            Ok(())
        })?;
        let sent = all_answered(&flows.finish()?)?;
        let (requests, _) = unbroken(&streams.finish()?)?;
        // Each datagram and its answer; each request and its answer. The stack is shown a few of each flow.
        let all = 2 * (sent + requests);
        for (node, before) in [("n1", before.0), (peer, before.1)] {
            let count = carried(lab, node)? - before;
            ensure!(count * 10 >= all * 9, "{app}: {node} carried {count} of {all} packets");
            told.push(format!("{node} {count} of {all}"));
        }
    }
    lab.delete("pod", &["fast-near", "fast-far", "fast-client"])?;
    told.dedup();
    Ok(told.join(", "))
}

//! What a policy denies is probed every millisecond: through restarts of the agent, and at new pods before they are known to be there.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::generator::{Generator, counts, number};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, cluster_policy, idle, ingress_policy, no_egress_policy, pod, server};
use crate::common::rows::Bench;
use crate::restarts::{at, named, nothing_through};

/// Clients beside the denied pods and on another node.
fn probers(lab: &Lab) -> Result<()> {
    lab.apply_objects(&[idle("prober1", "n1", "prober")?, idle("prober3", "n3", "prober")?])
}

pub(crate) fn through_restarts(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    probers(lab)?;
    lab.apply_objects(&[ingress_policy("denied", "denied", None)])?;
    lab.apply_objects(&[server("denied", "n3", "denied")?, server("open", "n3", "open")?])?;
    lab.settled()?;
    let (denied, open) = (named(lab, "denied", "denied")?, named(lab, "open", "open")?);
    let targets = [at(&denied, false)?, at(&denied, true)?];
    let words = ["probe", &targets[0], &targets[1]];
    let mut probes = [Generator::in_pod(lab, "prober1", &words)?, Generator::in_pod(lab, "prober3", &words)?];
    let kills = bench.figure(5, 100);
    for round in 0..kills {
        let pause = Duration::from_millis(u64::try_from(round % 5)? * 60);
        lab.kill_agents(pause)?;
        if round % 2 == 0 {
            lab.settled()?;
        } else {
            std::thread::sleep(pause);
        }
    }
    lab.settled()?;
    // The same probe of a pod without a policy shows that it would be seen.
    for probe in &mut probes {
        let target = at(&open, false)?;
        probe.ask(&format!("+{target}"))?;
        eventually(|| {
            let seen = probe.ask("?")?[&target]["through"].as_u64().unwrap_or(0);
            ensure!(seen > 10, "only {seen} probes of a pod that is open came through");
            Ok(())
        })?;
        probe.ask(&format!("-{target}"))?;
    }
    let mut tried = 0;
    for probe in probes {
        tried += nothing_through(&probe.finish()?)?;
    }
    let arrived = counts(lab, "denied", "probe")?;
    ensure!(arrived == 0, "{arrived} datagrams arrived at the denied pod");
    lab.delete("pod", &["denied", "open"])?;
    Ok(format!("{kills} kills of 3 agents: 0 of {tried} datagrams and {tried} SYNs let through"))
}

/// A pod on n3 whose address is probed from before there is a pod until after it serves.
struct Newcomer<'a> {
    lab: &'a Lab,
    probes: [Generator; 2],
    /// The addresses that are probed: those that can be the next.
    window: Vec<String>,
}

/// How many addresses ahead are probed at once.
const AHEAD: u32 = 3;

fn after(ip: IpAddr, by: u32) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => (u32::from(v4) + by).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) + u128::from(by)).to_be_bytes().into(),
    }
}

impl Newcomer<'_> {
    /// Probes what follows `newest`, and nothing else.
    fn look_after(&mut self, newest: IpAddr) -> Result<()> {
        let next: Vec<String> = (1..=AHEAD).map(|by| std::net::SocketAddr::new(after(newest, by), PORT).to_string()).collect();
        for probe in &mut self.probes {
            for target in next.iter().filter(|t| !self.window.contains(t)) {
                probe.ask(&format!("+{target}"))?;
            }
        }
        self.drop_others(&next)?;
        self.window = next;
        Ok(())
    }

    /// What is no longer probed must never have answered.
    fn drop_others(&mut self, keep: &[String]) -> Result<u64> {
        let mut tried = 0;
        for probe in &mut self.probes {
            for target in self.window.iter().filter(|t| !keep.contains(t)) {
                let seen = probe.ask(&format!("-{target}"))?;
                let through = number(&seen, "through")?;
                ensure!(through == 0, "{through} probes of the new pod at {target} got through, the first: {}", seen["first"]);
                tried += number(&seen, "tried")?;
            }
        }
        Ok(tried)
    }

    /// Makes a pod, waits until it serves, and gives what was seen of its address.
    fn come(&mut self, name: &str, sink: &str) -> Result<(IpAddr, [u64; 2])> {
        self.lab.apply_objects(&[pod(name, "n3", "newcomer", &["flood", name, sink])?])?;
        let ip = named(self.lab, "newcomer", name)?.ip(false)?;
        let target = std::net::SocketAddr::new(ip, PORT).to_string();
        ensure!(self.window.contains(&target), "{name} got {ip}, which was not probed: {:?}", self.window);
        let (mut tried, mut through) = (0, 0);
        for probe in &mut self.probes {
            let seen = probe.ask("?")?;
            tried += number(&seen[&target], "tried")?;
            through += number(&seen[&target], "through")?;
        }
        Ok((ip, [tried, through]))
    }
}

pub(crate) fn new_pods(bench: &Bench) -> Result<String> {
    let policies = [ingress_policy("newcomer-in", "newcomer", None), no_egress_policy("newcomer-out", "newcomer")];
    under(bench, &Closing { kind: "networkpolicy", policies: policies.to_vec(), names: &["newcomer-in", "newcomer-out"] })
}

pub(crate) fn new_pods_by_tier(bench: &Bench) -> Result<String> {
    let sections = json!({
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
        "egress": [{"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}],
    });
    let policies = vec![cluster_policy("newcomer", ("Admin", 1000), "newcomer", sections)];
    under(bench, &Closing { kind: "clusternetworkpolicy", policies, names: &["newcomer"] })
}

/// What closes the newcomers, both ways.
struct Closing {
    kind: &'static str,
    policies: Vec<Value>,
    names: &'static [&'static str],
}

fn under(bench: &Bench, closing: &Closing) -> Result<String> {
    let lab = bench.lab()?;
    probers(lab)?;
    lab.apply_objects(&[server("sink", "n1", "sink")?])?;
    let sink = at(&named(lab, "sink", "sink")?, false)?;
    let first = pod("newcomer-free", "n3", "free", &["flood", "free", &sink])?;
    lab.apply_objects(std::slice::from_ref(&first))?;
    let newest = named(lab, "free", "newcomer-free")?.ip(false)?;
    lab.apply_objects(&closing.policies)?;
    let probes = [Generator::in_pod(lab, "prober1", &["probe"])?, Generator::in_pod(lab, "prober3", &["probe"])?];
    let mut newcomer = Newcomer { lab, probes, window: Vec::new() };
    newcomer.look_after(newest)?;
    let count = bench.figure(10, 100);
    let (mut tried, mut names) = (0, Vec::new());
    for number in 0..count {
        let name = format!("newcomer-{number}");
        let (ip, [probes, through]) = newcomer.come(&name, &sink)?;
        ensure!(through == 0, "{through} of {probes} probes got through to {name}: {:?}", newcomer.probes[0].ask("?")?);
        tried += probes;
        names.push(name);
        newcomer.look_after(ip)?;
    }
    for name in &names {
        let out = counts(lab, "sink", name)?;
        ensure!(out == 0, "{out} datagrams of {name} got out");
    }
    let free = counts(lab, "sink", "free")?;
    ensure!(free > 100, "only {free} datagrams of the pod without a policy came, so nothing is shown");
    control(&mut newcomer, &sink, closing)?;
    let doomed: Vec<&str> =
        names.iter().map(String::as_str).chain(["newcomer-free", "newcomer-late", "sink", "prober1", "prober3"]).collect();
    lab.delete("pod", &doomed)?;
    Ok(format!("{count} pods: 0 of {tried} datagrams and SYNs let in, 0 datagrams out (beside {free} of a free pod)"))
}

/// Without the policies the very same pod is found open, so that closedness is the policies' doing.
fn control(newcomer: &mut Newcomer<'_>, sink: &str, closing: &Closing) -> Result<()> {
    newcomer.lab.delete(closing.kind, closing.names)?;
    newcomer.lab.settled()?;
    let (ip, _) = newcomer.come("newcomer-late", sink)?;
    let target = std::net::SocketAddr::new(ip, PORT).to_string();
    eventually(|| {
        for probe in &mut newcomer.probes {
            let through = probe.ask("?")?[&target]["through"].as_u64().context("no such target")?;
            ensure!(through > 0, "no probe of a new pod without a policy was refused by it");
        }
        Ok(())
    })
}

//! What a policy denies is probed every millisecond: through restarts of the agent, and at new pods before they are known to be there.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::common::generator::{Generator, counts, number};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, cluster_policy, idle, ingress_policy, no_egress_policy, pod, pods_of, server};
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

/// Pods on n3 whose addresses are probed from before there is a pod until after it serves.
///
/// Addresses that were never used are given first, in order, and then those that have been free longest: which are next is known, but
/// for those that pods of others had before.
struct Newcomers<'a> {
    lab: &'a Lab,
    probes: [Generator; 2],
    /// The addresses that are probed: those that can be the next.
    window: Vec<String>,
    /// Of n3's pods.
    subnet: IpNet,
    /// The newest of those that were never used before.
    newest: IpAddr,
    /// Those of pods that have gone again, longest free first.
    freed: VecDeque<IpAddr>,
    /// The pods that are there, oldest first.
    alive: VecDeque<(String, IpAddr)>,
}

/// How many addresses ahead are probed at once.
const AHEAD: usize = 3;
/// How many newcomers there are at once: enough to go on sending for a while, and no more than a subnet has addresses.
const AT_ONCE: usize = 20;
/// How many may come with an address that others had before, and was not probed therefore.
const UNKNOWN: usize = 60;

fn after(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => (u32::from(v4) + 1).to_be_bytes().into(),
        IpAddr::V6(v6) => (u128::from(v6) + 1).to_be_bytes().into(),
    }
}

impl Newcomers<'_> {
    /// Probes what can be the next, and nothing else. Gives how often was tried what is no longer probed.
    fn look_ahead(&mut self) -> Result<u64> {
        let unused = std::iter::successors(Some(after(self.newest)), |ip| Some(after(*ip)));
        let unused = unused.take_while(|ip| self.subnet.contains(ip) && *ip != self.subnet.broadcast());
        let next = unused.chain(self.freed.iter().copied()).take(AHEAD).map(|ip| SocketAddr::new(ip, PORT).to_string()).collect::<Vec<_>>();
        let mut tried = 0;
        for probe in &mut self.probes {
            for target in next.iter().filter(|t| !self.window.contains(t)) {
                probe.ask(&format!("+{target}"))?;
            }
            for target in self.window.iter().filter(|t| !next.contains(t)) {
                let seen = probe.ask(&format!("-{target}"))?;
                let through = number(&seen, "through")?;
                ensure!(through == 0, "{through} probes of the new pod at {target} got through, the first: {}", seen["first"]);
                tried += number(&seen, "tried")?;
            }
        }
        self.window = next;
        Ok(tried)
    }

    /// Makes a pod, waits until it serves, and gives its address, and how many probes of that were tried and got through: nothing if
    /// it was not known to be the next.
    fn come(&mut self, name: &str, sink: &str) -> Result<(SocketAddr, Option<[u64; 2]>)> {
        self.lab.apply_objects(&[pod(name, "n3", "newcomer", &["flood", name, sink])?])?;
        let ip = named(self.lab, "newcomer", name)?.ip(false)?;
        self.alive.push_back((name.to_owned(), ip));
        self.newest = self.newest.max(ip);
        self.freed.retain(|free| *free != ip);
        let target = SocketAddr::new(ip, PORT);
        if !self.window.contains(&target.to_string()) {
            return Ok((target, None));
        }
        let (mut tried, mut through) = (0, 0);
        for probe in &mut self.probes {
            let seen = probe.ask("?")?;
            tried += number(&seen[target.to_string()], "tried")?;
            through += number(&seen[target.to_string()], "through")?;
        }
        Ok((target, Some([tried, through])))
    }

    /// Ends the oldest but for as many as may be there at once.
    fn leave(&mut self, at_once: usize) -> Result<()> {
        while self.alive.len() > at_once {
            let Some((name, ip)) = self.alive.pop_front() else { break };
            self.lab.delete("pod", &[&name])?;
            self.freed.push_back(ip);
        }
        Ok(())
    }
}

pub(crate) fn new_pods(bench: &Bench) -> Result<String> {
    let policies = [ingress_policy("newcomer-in", "newcomer", None), no_egress_policy("newcomer-out", "newcomer")];
    under(bench, &Closing { kind: "networkpolicy", policies: policies.to_vec(), names: &["newcomer-in", "newcomer-out"] })
}

/// What newcomers send is denied by its receiver, whose node comes to know only after a while that an address is theirs.
pub(crate) fn new_pods_by_tier(bench: &Bench) -> Result<String> {
    let deny = |peer: Value| json!({"ingress": [{"action": "Deny", "from": [peer]}]});
    let policies = vec![
        cluster_policy("newcomer", ("Admin", 1000), "newcomer", deny(json!({"namespaces": {}}))),
        cluster_policy("newcomer-sink", ("Admin", 1000), "sink", deny(json!({"pods": pods_of("newcomer")}))),
    ];
    under(bench, &Closing { kind: "clusternetworkpolicy", policies, names: &["newcomer", "newcomer-sink"] })
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
    let subnet = lab.kubectl(&["get", "node", "n3", "-o", "jsonpath={.spec.podCIDR}"])?.trim().parse()?;
    let mut newcomers = Newcomers { lab, probes, window: Vec::new(), subnet, newest, freed: VecDeque::new(), alive: VecDeque::new() };
    newcomers.look_ahead()?;
    let count = bench.figure(10, 1000);
    let (mut tried, mut names, mut unknown) = (0, Vec::new(), 0);
    while names.len() < count {
        let name = format!("newcomer-{}", names.len() + unknown);
        match newcomers.come(&name, &sink)? {
            (at, Some([probes, through])) => {
                ensure!(through == 0, "{through} of {probes} probes got through to {name}: {:?}", newcomers.probes[0].ask("?")?);
                ensure!(probes > 0, "{name} was not probed at {at}");
                names.push(name);
            }
            (at, None) => {
                unknown += 1;
                ensure!(unknown < UNKNOWN, "{name} has {at}, the {unknown}th that was not probed: {:?}", newcomers.window);
            }
        }
        newcomers.leave(AT_ONCE)?;
        tried += newcomers.look_ahead()?;
    }
    for name in &names {
        let out = counts(lab, "sink", name)?;
        ensure!(out == 0, "{out} datagrams of {name} got out");
    }
    let free = counts(lab, "sink", "free")?;
    ensure!(free > 100, "only {free} datagrams of the pod without a policy came, so nothing is shown");
    control(&mut newcomers, &sink, closing)?;
    newcomers.leave(0)?;
    lab.delete("pod", &["newcomer-free", "sink", "prober1", "prober3"])?;
    Ok(format!("{count} pods: 0 of {tried} datagrams and SYNs let in, 0 datagrams out (beside {free} of a free pod)"))
}

/// Without the policies the very same pod is found open, so that closedness is the policies' doing.
fn control(newcomers: &mut Newcomers<'_>, sink: &str, closing: &Closing) -> Result<()> {
    newcomers.lab.delete(closing.kind, closing.names)?;
    newcomers.lab.settled()?;
    let (target, _) = newcomers.come("newcomer-late", sink)?;
    for probe in &mut newcomers.probes {
        if !newcomers.window.contains(&target.to_string()) {
            probe.ask(&format!("+{target}"))?;
        }
        eventually(|| {
            let through = probe.ask("?")?[target.to_string()]["through"].as_u64().context("no such target")?;
            ensure!(through > 0, "no probe of a new pod without a policy was refused by it");
            Ok(())
        })?;
    }
    Ok(())
}

//! Addresses given again: a pod that gets the address of one that has just gone is never taken for it, on its own node or on another that has not
//! heard of the change yet; nor is the one that has gone taken for the new one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster::Pod;
use crate::common::generator::{Generator, counts, number};
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::{idle, ingress_policy, pod, server};
use crate::common::rows::Bench;
use crate::restarts::{at, named, nothing_through};

/// How long another node hears nothing of what changes: longer than its watch takes to come back after a break.
const LAG: Duration = Duration::from_secs(3);

/// Whom the policies let in, and who comes after it; a pod that is open, and one after it that is shut; and the other way round.
const FORMER: [&str; 3] = ["reuse-friend", "reuse-open", "reuse-shut"];
const LATER: [&str; 3] = ["reuse-stranger", "reuse-shut-now", "reuse-open-now"];
const GUARDED: [&str; 2] = ["reuse-near", "reuse-far"];
const PROBERS: [&str; 2] = ["prober1", "prober3"];

/// A node's agent that hears nothing and does nothing until this is dropped, as one whose watches lag.
struct Deaf<'l> {
    lab: &'l Lab,
    node: &'static str,
}

impl<'l> Deaf<'l> {
    fn make(lab: &'l Lab, node: &'static str) -> Result<Deaf<'l>> {
        let deaf = Deaf { lab, node };
        deaf.signal("STOP")?;
        Ok(deaf)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        // The processes of all nodes are seen from each; the brackets keep the script from finding itself.
        let script = format!(
            "own=$(readlink /proc/self/ns/net); for p in /proc/[0-9]*; do [ \"$(readlink $p/ns/net)\" = \"$own\" ] && \
             tr '\\0' ' ' <$p/cmdline | grep -q ' agent [-]-config' && kill -{signal} ${{p#/proc/}} && echo $p; done 2>/dev/null; true"
        );
        let found = said(&self.lab.node(self.node, &["sh", "-c", &script])?).context("the agent's process")?;
        ensure!(found.lines().count() == 1, "{signal}: {} has {} agents", self.node, found.lines().count());
        Ok(())
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        let _ = self.signal("CONT");
    }
}

/// Targets in both families.
fn both(pod: &Pod) -> Result<[String; 2]> {
    Ok([at(pod, false)?, at(pod, true)?])
}

/// The same pod with the addresses of another.
fn in_the_place_of(mut object: Value, former: &Pod) -> Result<Value> {
    object["metadata"]["annotations"] = json!({"bowline.lab/ips": format!("{},{}", former.ip(false)?, former.ip(true)?)});
    Ok(object)
}

/// The same pod, which is known to the API until it has let go of its addresses.
fn in_order(mut object: Value) -> Value {
    object["spec"]["terminationGracePeriodSeconds"] = json!(1);
    object
}

/// What the rounds have seen.
#[derive(Default)]
struct Seen {
    /// Probes of what was shut, and of what was guarded.
    tried: u64,
    /// The longest time until an address was given again.
    longest: Duration,
}

pub(crate) fn of_addresses(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        ingress_policy("reuse-guarded", "reuse-guarded", Some("reuse-friend")),
        ingress_policy("reuse-shut", "reuse-shut", None),
    ])?;
    lab.apply_objects(&[
        server(GUARDED[0], "n3", "reuse-guarded")?,
        server(GUARDED[1], "n1", "reuse-guarded")?,
        idle(PROBERS[0], "n1", "prober")?,
        idle(PROBERS[1], "n3", "prober")?,
    ])?;
    let guarded = GUARDED.iter().map(|name| both(&named(lab, "reuse-guarded", name)?)).collect::<Result<Vec<_>>>()?.concat();
    let (mut seen, rounds) = (Seen::default(), bench.figure(1, 12));
    for round in 0..rounds {
        one_round(lab, &guarded, round, &mut seen).with_context(|| format!("round {round}"))?;
    }
    // The very same pod, with the label of the one before it, is let in: it was policy that denied.
    lab.kubectl(&["label", "pod", LATER[0], "app=reuse-friend", "--overwrite"])?;
    let words: Vec<&str> = ["probe"].into_iter().chain(guarded.iter().map(String::as_str)).collect();
    let mut control = Generator::in_pod(lab, LATER[0], &words)?;
    eventually(|| {
        let report = control.ask("?")?;
        for target in &guarded {
            ensure!(number(&report[target], "through")? > 10, "few probes of {target} come through: {report}");
        }
        Ok(())
    })?;
    drop(control);
    lab.delete("pod", &[LATER, [GUARDED[0], GUARDED[1], PROBERS[0]]].concat())?;
    lab.delete("pod", &[PROBERS[1]])?;
    lab.delete("networkpolicy", &["reuse-guarded", "reuse-shut"])?;
    Ok(format!(
        "{} addresses given again, after {} ms at most, while n1 heard nothing for {} s: 0 of {} datagrams and SYNs let through",
        FORMER.len() * rounds,
        seen.longest.as_millis(),
        LAG.as_secs(),
        seen.tried
    ))
}

/// What goes on about the pods while they change.
struct Traffic {
    /// Flows to the pod that is open, which go on when it has gone.
    flows: Vec<Generator>,
    /// Probes from beside and from n1, of the pod that is shut and then of the one after the open one.
    probes: Vec<Generator>,
}

/// The pods of whose addresses it is about, and traffic to them.
fn stage(lab: &Lab, guarded: &[String], friend: &str) -> Result<([Pod; 3], Traffic)> {
    lab.apply_objects(&[
        in_order(pod(FORMER[0], "n3", "reuse-friend", &flood(friend, guarded))?),
        in_order(server(FORMER[1], "n3", "reuse-open")?),
        in_order(server(FORMER[2], "n3", "reuse-shut")?),
    ])?;
    lab.settled()?;
    let former = [named(lab, "reuse-friend", FORMER[0])?, named(lab, "reuse-open", FORMER[1])?, named(lab, "reuse-shut", FORMER[2])?];
    for name in GUARDED {
        eventually(|| {
            ensure!(counts(lab, name, friend)? > 100, "few datagrams of a friend come to {name}");
            Ok(())
        })?;
    }
    let (open, shut) = (both(&former[1])?, both(&former[2])?);
    let of_probers = |words: &[&str]| PROBERS.iter().map(|prober| Generator::in_pod(lab, prober, words)).collect::<Result<Vec<_>>>();
    let flows = of_probers(&["datagrams", "flow", "1000", &open[0], &open[1]])?;
    let probes = of_probers(&["probe", &shut[0], &shut[1]])?;
    Ok((former, Traffic { flows, probes }))
}

fn flood<'a>(tag: &'a str, targets: &'a [String]) -> Vec<&'a str> {
    ["flood", tag].into_iter().chain(targets.iter().map(String::as_str)).collect()
}

/// The pods go, and others come with their addresses, while n1 hears of none of it.
fn change(lab: &Lab, guarded: &[String], former: &[Pod; 3], traffic: &mut Traffic, round: usize, seen: &mut Seen) -> Result<()> {
    let deaf = Deaf::make(lab, "n1")?;
    lab.delete("pod", &FORMER)?;
    let gone = Instant::now();
    for probe in &mut traffic.probes {
        for target in both(&former[2])? {
            let report = probe.ask(&format!("-{target}"))?;
            ensure!(number(&report, "through")? == 0, "the pod that was shut: {report}");
            seen.tried += number(&report, "tried")?;
        }
        for target in both(&former[1])? {
            probe.ask(&format!("+{target}"))?;
        }
    }
    for flow in &mut traffic.flows {
        flow.ask("?")?;
    }
    if round.is_multiple_of(2) {
        // Who gives the addresses may forget none of that.
        lab.agent("kill", "n3")?;
        lab.agent("start", "n3")?;
    }
    let later = [
        in_the_place_of(pod(LATER[0], "n3", "reuse-stranger", &flood(&format!("stranger{round}"), guarded))?, &former[0])?,
        in_the_place_of(server(LATER[1], "n3", "reuse-shut")?, &former[1])?,
        in_the_place_of(server(LATER[2], "n3", "reuse-open")?, &former[2])?,
    ];
    lab.apply_text(&json!({"apiVersion": "v1", "kind": "List", "items": later}).to_string())?;
    // For so long n1 hears nothing, which is what is tried.
    std::thread::sleep(LAG.saturating_sub(gone.elapsed()));
    drop(deaf);
    lab.wait_pods(&LATER)?;
    seen.longest = seen.longest.max(gone.elapsed());
    Ok(())
}

fn one_round(lab: &Lab, guarded: &[String], round: usize, seen: &mut Seen) -> Result<()> {
    lab.delete("pod", &LATER)?;
    let (former, mut traffic) = stage(lab, guarded, &format!("friend{round}"))?;
    change(lab, guarded, &former, &mut traffic, round, seen)?;
    let words: Vec<&str> = ["probe"].into_iter().chain(guarded.iter().map(String::as_str)).collect();
    let mut out = Generator::in_pod(lab, LATER[0], &words)?;
    eventually(|| {
        ensure!(number(&out.ask("?")?[&guarded[0]], "tried")? > 200, "too few probes yet");
        Ok(())
    })?;
    // What was shut is open now, and found so by the same probes.
    for probe in &mut traffic.probes {
        for target in both(&former[2])? {
            probe.ask(&format!("+{target}"))?;
            eventually(|| {
                ensure!(number(&probe.ask("?")?[&target], "through")? > 10, "the pod at {target} is open, and shut to probes");
                Ok(())
            })?;
            probe.ask(&format!("-{target}"))?;
        }
    }
    lab.settled()?;
    seen.tried += nothing_through(&out.finish()?)?;
    for probe in traffic.probes {
        seen.tried += nothing_through(&probe.finish()?)?;
    }
    for name in GUARDED {
        let arrived = counts(lab, name, &format!("stranger{round}"))?;
        ensure!(arrived == 0, "{arrived} datagrams of a stranger with a friend's address came to {name}");
    }
    for tag in ["probe", "flow"] {
        let arrived = counts(lab, LATER[1], tag)?;
        ensure!(arrived == 0, "{arrived} datagrams (`{tag}`) came to a pod that is shut, with the address of one that was open");
    }
    for mut flow in traffic.flows {
        let report = flow.ask("?")?;
        let by = report.as_array().into_iter().flatten().any(|flow| flow["by"] != json!({}));
        ensure!(!by, "a flow was answered by who came after its server: {report}");
    }
    for ((former, name), app) in former.iter().zip(LATER).zip(["reuse-stranger", "reuse-shut", "reuse-open"]) {
        ensure!(both(&named(lab, app, name)?)? == both(former)?, "{name} has another address than {}", former.name);
    }
    Ok(())
}

//! The tiers of ClusterNetworkPolicy around NetworkPolicies, with real connections: who decides, that `explain` names the rule, and that a
//! change cuts what it no longer allows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::{Generator, number};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, cluster_policy, idle, ingress_policy, pods_of, server};
use crate::common::rows::Bench;

/// The server talks every 20 ms: this long without a word is the end.
const SILENCE_MS: u64 = 500;

/// How long after a change the last word may come.
const CUT_WITHIN: Duration = Duration::from_secs(2);

const PODS: [&str; 4] = ["ti-server", "ti-near", "ti-far", "ti-other"];
const CLUSTER_POLICIES: [&str; 3] = ["ti-guard", "ti-first", "ti-floor"];

pub(crate) fn decide(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("ti-server", "n2", "ti-server")?,
        idle("ti-near", "n2", "ti-a")?,
        idle("ti-far", "n1", "ti-a")?,
        idle("ti-other", "n3", "ti-b")?,
    ])?;
    lab.settled()?;
    let (mut steps, mut cuts) = (0, Vec::new());
    for v6 in lab.families() {
        let ip = cluster::pods(lab, "app=ti-server")?.first().map(|pod| pod.ip(v6)).transpose()?.context("the server")?;
        let mut stage = Stage::set(lab, SocketAddr::new(ip, PORT))?;
        steps += stage.tiers()?;
        cuts.push(stage.cuts()?);
        lab.delete("clusternetworkpolicy", &CLUSTER_POLICIES)?;
        lab.kubectl(&["label", "pod", "ti-other", "app=ti-b", "--overwrite"])?;
    }
    lab.delete("pod", &PODS)?;
    let slowest = cuts.iter().max().copied().unwrap_or_default();
    Ok(format!("{steps} steps as the tiers say, each named by explain; connections silent within {} ms of a change", slowest.as_millis()))
}

/// A rule about what comes from pods of an app.
fn from(name: &str, action: &str, app: &str) -> Value {
    json!({"name": name, "action": action, "from": [{"pods": pods_of(app)}]})
}

fn guard(name: &str, priority: u16, rule: Value) -> Value {
    cluster_policy(name, ("Admin", priority), "ti-server", json!({"ingress": [rule]}))
}

fn floor(rules: Value) -> Value {
    cluster_policy("ti-floor", ("Baseline", 0), "ti-server", json!({ "ingress": rules }))
}

/// A policy that lets everybody in.
fn open() -> Value {
    let mut policy = ingress_policy("ti", "ti-server", None);
    policy["spec"]["ingress"] = json!([{}]);
    policy
}

struct Stage<'l> {
    lab: &'l Lab,
    at: SocketAddr,
    /// Pods of app ti-a beside the server and elsewhere, and one of app ti-b.
    clients: [(&'static str, Generator); 3],
}

impl<'l> Stage<'l> {
    fn set(lab: &'l Lab, at: SocketAddr) -> Result<Stage<'l>> {
        let knocker = |pod: &'static str| Generator::in_pod(lab, pod, &["knock"]).map(|generator| (pod, generator));
        Ok(Stage { lab, at, clients: [knocker("ti-near")?, knocker("ti-far")?, knocker("ti-other")?] })
    }

    /// Whether app ti-a and app ti-b get in, and what explains it for the former.
    fn step(&mut self, what: &str, a: bool, b: bool, because: &str) -> Result<usize> {
        let at = self.at;
        for (pod, generator) in &mut self.clients {
            let wanted = if *pod == "ti-other" { b } else { a };
            eventually(|| {
                let opened = generator.ask(&at.to_string())?.as_bool().context("a knock is true or false")?;
                ensure!(opened == wanted, "{what}: {pod} gets in: {opened}");
                Ok(())
            })?;
        }
        let family = if at.is_ipv6() { "ipv6" } else { "ipv4" };
        let target = format!("pod/default/ti-server:{PORT}");
        eventually(|| {
            let output = self.lab.run(&["explain", "default/ti-far", &target, "--family", family], &[])?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.code() == Some(i32::from(!a)), "{what}: {}: {said}", output.status);
            ensure!(said.contains(because) && said.contains(": agree"), "{what}: `{because}` is not in\n{said}");
            Ok(())
        })?;
        Ok(1)
    }

    fn tiers(&mut self) -> Result<usize> {
        let lab = self.lab;
        let mut steps = 0;
        lab.apply_objects(&[open(), guard("ti-guard", 10, from("no-a", "Deny", "ti-a"))])?;
        let denied = "ClusterNetworkPolicy ti-guard (Admin), ingress[0] `no-a`, denies it";
        steps += self.step("Admin denies what NetworkPolicy allows", false, true, denied)?;
        lab.apply_objects(&[guard("ti-first", 9, from("yes-a", "Accept", "ti-a")), ingress_policy("ti", "ti-server", None)])?;
        let accepted = "ClusterNetworkPolicy ti-first (Admin), ingress[0] `yes-a`, accepts it";
        steps += self.step("the lower priority accepts what NetworkPolicy denies", true, false, accepted)?;
        lab.apply_objects(&[guard("ti-first", 11, from("yes-a", "Accept", "ti-a"))])?;
        steps += self.step("the greater one comes too late", false, false, denied)?;
        lab.apply_objects(&[guard("ti-first", 0, from("ask", "Pass", "ti-a"))])?;
        steps += self.step("passed on, and NetworkPolicy denies", false, false, "NetworkPolicy default/ti")?;
        lab.apply_objects(&[ingress_policy("ti", "ti-server", Some("ti-a"))])?;
        let passed = "ClusterNetworkPolicy ti-first (Admin), ingress[0] `ask`, passes it on";
        steps += self.step("passed on, and NetworkPolicy allows", true, false, "NetworkPolicy default/ti, ingress[0]")?;
        lab.apply_objects(&[floor(json!([{"name": "nobody", "action": "Deny", "from": [{"namespaces": {}}]}]))])?;
        steps += self.step("NetworkPolicy decides, so Baseline is not asked", true, false, passed)?;
        lab.delete("networkpolicy", &["ti"])?;
        let floored = "ClusterNetworkPolicy ti-floor (Baseline), ingress[0] `nobody`, denies it";
        steps += self.step("passed on to Baseline, which denies", false, false, floored)?;
        let nobody = json!({"name": "nobody", "action": "Deny", "from": [{"namespaces": {}}]});
        lab.apply_objects(&[floor(json!([from("a-may", "Accept", "ti-a"), nobody]))])?;
        let floored = "ClusterNetworkPolicy ti-floor (Baseline), ingress[0] `a-may`, accepts it";
        steps += self.step("Baseline's first rule accepts", true, false, floored)?;
        lab.delete("clusternetworkpolicy", &CLUSTER_POLICIES)?;
        steps += self.step("without policies everybody gets in", true, true, "no policy selects default/ti-server for ingress")?;
        Ok(steps)
    }

    /// A rule that comes, and a pod that comes under a rule, cut; gives the longer time that it took.
    fn cuts(&mut self) -> Result<Duration> {
        let lab = self.lab;
        let follow = |pod: &str| Generator::in_pod(lab, pod, &["follow", &self.at.to_string()]);
        let (mut denied, mut other) = ([follow("ti-near")?, follow("ti-far")?], [follow("ti-other")?]);
        for generator in denied.iter_mut().chain(&mut other) {
            ensure!(number(&generator.ask("?")?, "sinceMs")? < SILENCE_MS, "the server is not heard before the policy");
        }
        let deny = json!({"name": "no", "action": "Deny", "from": [{"pods": pods_of("ti-a")}, {"pods": pods_of("ti-c")}]});
        lab.apply_objects(&[guard("ti-guard", 1000, deny)])?;
        let by_rule = silent(&mut denied, Instant::now())?;
        for generator in &mut other {
            let seen = generator.ask("?")?;
            ensure!(number(&seen, "sinceMs")? < SILENCE_MS && seen["ended"].is_null(), "an allowed client was cut, too: {seen}");
        }
        // The rule stays as it is; that its peers are one more is what closes.
        lab.kubectl(&["label", "pod", "ti-other", "app=ti-c", "--overwrite"])?;
        let by_member = silent(&mut other, Instant::now())?;
        Ok(by_rule.max(by_member))
    }
}

/// Waits until none of them hears the server, and sees that it stays so.
fn silent(follows: &mut [Generator], since: Instant) -> Result<Duration> {
    let mut heard = Vec::new();
    for follow in follows.iter_mut() {
        heard.push(eventually(|| {
            let seen = follow.ask("?")?;
            ensure!(number(&seen, "sinceMs")? > SILENCE_MS, "a denied client still hears the server");
            number(&seen, "messages")
        })?);
    }
    let took = since.elapsed().saturating_sub(Duration::from_millis(SILENCE_MS));
    ensure!(took < CUT_WITHIN, "it took {} ms until the last denied client heard nothing", took.as_millis());
    // The server talks on all the while: into the connections that are cut, too.
    std::thread::sleep(Duration::from_secs(1));
    for (follow, before) in follows.iter_mut().zip(&heard) {
        let seen = follow.ask("?")?;
        ensure!(number(&seen, "messages")? == *before, "a client that was cut hears the server again: {seen}");
    }
    Ok(took)
}

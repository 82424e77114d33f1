//! What a policy denies stays denied, probed every millisecond, while policies and labels are edited so that something denies it all the
//! while, and while a namespace ends whose policies go before its pods.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::generator::{Generator, counts};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{cluster_policy, idle, ingress_policy, server};
use crate::common::rows::Bench;
use crate::restarts::{at, named, nothing_through};

/// A policy about pods with a label of their own, which lets in only who has `from`.
fn by_label(name: &str, selector: &Value, from: &str) -> Value {
    let mut policy = ingress_policy(name, "edited", Some(from));
    policy["spec"]["podSelector"] = selector.clone();
    policy
}

/// Denies what comes from any pod, in the tier of administrators.
fn guard(name: &str) -> Value {
    cluster_policy(name, ("Admin", 5), "edited", json!({"ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}))
}

/// What is edited, in words, and the edit.
type Edit<'l> = (&'static str, Box<dyn Fn() -> Result<()> + 'l>);

/// One round of edits; after each of them something else denies what was denied before.
fn one_round(lab: &Lab) -> Result<usize> {
    let app = json!({"matchLabels": {"app": "edited"}});
    let same = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["edited", "other"]}]});
    let tier = json!({"matchLabels": {"tier": "back"}});
    let label = |words: &[&str]| lab.kubectl(&[&["label", "--overwrite"], words].concat()).map(drop);
    let edits: [Edit<'_>; 13] = [
        ("another peer", Box::new(|| lab.apply_objects(&[by_label("one", &app, "friend")]))),
        ("no peer", Box::new(|| lab.apply_objects(&[ingress_policy("one", "edited", None)]))),
        ("the same pods by other words", Box::new(|| lab.apply_objects(&[by_label("one", &same, "friend")]))),
        ("a second policy", Box::new(|| lab.apply_objects(&[by_label("two", &app, "pal")]))),
        ("the first goes", Box::new(|| lab.delete("networkpolicy", &["one"]))),
        ("a label that selects", Box::new(|| label(&["pod", "edited", "tier=back"]))),
        ("a policy by that label", Box::new(|| lab.apply_objects(&[by_label("three", &tier, "pal")]))),
        ("the second goes", Box::new(|| lab.delete("networkpolicy", &["two"]))),
        ("who probes becomes somebody else", Box::new(|| label(&["pod", "prober1", "prober3", "tier=front"]))),
        ("the namespace's labels", Box::new(|| label(&["namespace", "default", "stage=test"]))),
        ("a tier beside it", Box::new(|| lab.apply_objects(&[guard("edited"), by_label("one", &app, "friend")]))),
        ("the label goes", Box::new(|| label(&["pod", "edited", "tier-"]))),
        (
            "the tier and the third go",
            Box::new(|| {
                lab.delete("clusternetworkpolicy", &["edited"])?;
                lab.delete("networkpolicy", &["three"])?;
                label(&["pod", "prober1", "prober3", "tier-"])?;
                label(&["namespace", "default", "stage-"])
            }),
        ),
    ];
    for (what, edit) in &edits {
        edit().with_context(|| (*what).to_owned())?;
    }
    Ok(edits.len())
}

/// Probes of a target from beside it and from another node.
fn probes(lab: &Lab, targets: &[String]) -> Result<[Generator; 2]> {
    let words: Vec<&str> = ["probe"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    Ok([Generator::in_pod(lab, "prober1", &words)?, Generator::in_pod(lab, "prober3", &words)?])
}

/// A probe of what nothing denies any more is seen to come through.
fn comes_through(probe: &mut Generator, target: &str) -> Result<()> {
    eventually(|| {
        let seen = probe.ask("?")?[target]["through"].as_u64().unwrap_or(0);
        ensure!(seen > 10, "only {seen} probes of {target}, which is open, came through");
        Ok(())
    })
}

pub(crate) fn of_rules(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[ingress_policy("one", "edited", None)])?;
    lab.apply_objects(&[idle("prober1", "n1", "prober")?, idle("prober3", "n3", "prober")?, server("edited", "n3", "edited")?])?;
    lab.settled()?;
    let denied = named(lab, "edited", "edited")?;
    let targets = [at(&denied, false)?, at(&denied, true)?];
    let probes = probes(lab, &targets)?;
    let mut edits = 0;
    for _ in 0..bench.figure(1, 20) {
        edits += one_round(lab)?;
    }
    lab.settled()?;
    let mut tried = 0;
    for probe in probes {
        tried += nothing_through(&probe.finish()?)?;
    }
    let arrived = counts(lab, "edited", "probe")?;
    ensure!(arrived == 0, "{arrived} datagrams arrived at the denied pod");
    // Without the last policy the same probes come through: it was policies that denied.
    lab.delete("networkpolicy", &["one"])?;
    for mut probe in self::probes(lab, &targets)? {
        targets.iter().try_for_each(|target| comes_through(&mut probe, target))?;
    }
    lab.delete("pod", &["edited", "prober1", "prober3"])?;
    Ok(format!("{edits} edits of policies and labels: 0 of {tried} datagrams and SYNs let through"))
}

/// A server that goes on when it is told to end, so that its namespace ends without it for a while.
fn stubborn() -> Result<Value> {
    let mut pod = server("doomed", "n3", "doomed")?;
    let command = pod["spec"]["containers"][0]["command"].as_array().cloned().unwrap_or_default();
    let words = ["sh", "-c", "trap '' TERM; exec \"$@\"", "sh"].into_iter().map(Value::from).chain(command);
    pod["spec"]["containers"][0]["command"] = words.collect();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(6);
    Ok(pod)
}

pub(crate) fn of_a_namespace(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let within = |mut object: Value| {
        object["metadata"]["namespace"] = json!("doomed");
        object
    };
    let rounds = bench.figure(1, 10);
    lab.apply_objects(&[idle("prober1", "n1", "prober")?, idle("prober3", "n3", "prober")?])?;
    let (mut tried, mut after) = (0, 0);
    for _ in 0..rounds {
        lab.apply_objects(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "doomed"}}),
            within(ingress_policy("shut", "doomed", None)),
        ])?;
        lab.apply_text(&within(stubborn()?).to_string())?;
        lab.kubectl(&["wait", "-n", "doomed", "--for=condition=Ready", "--timeout=60s", "pod", "doomed"])?;
        lab.settled()?;
        let address = |path: &str| lab.kubectl(&["get", "pod", "-n", "doomed", "doomed", "-o", &format!("jsonpath={{{path}}}")]);
        let ip: std::net::IpAddr = address(".status.podIP")?.trim().parse()?;
        let target = std::net::SocketAddr::new(ip, crate::common::objects::PORT).to_string();
        let mut probes = probes(lab, std::slice::from_ref(&target))?;
        lab.kubectl(&["delete", "namespace", "doomed", "--wait=false"])?;
        eventually(|| {
            ensure!(!address(".metadata.deletionTimestamp")?.is_empty(), "the pod does not end");
            Ok(())
        })?;
        // As a server without the order of KEP-5080 does it.
        lab.kubectl(&["delete", "networkpolicy", "-n", "doomed", "shut", "--ignore-not-found"])?;
        let count = |probe: &mut Generator| probe.ask("?")?[&target]["tried"].as_u64().context("no count");
        let gone_at = count(&mut probes[0])?;
        eventually(|| {
            ensure!(
                lab.kubectl(&["get", "namespace", "doomed", "--ignore-not-found", "-o", "name"])?.is_empty(),
                "the namespace is still there"
            );
            Ok(())
        })?;
        after += count(&mut probes[0])? - gone_at;
        for probe in probes {
            tried += nothing_through(&probe.finish()?)?;
        }
    }
    ensure!(after > 1000, "only {after} probes were tried while the pods outlived their policies");
    lab.delete("pod", &["prober1", "prober3"])?;
    Ok(format!("{rounds} namespaces whose policies went before their pods: 0 of {tried} datagrams and SYNs let through"))
}

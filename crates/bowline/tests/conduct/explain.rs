//! What `bowline explain` says is what packets do, under policies of many forms; and the oracle and every kernel on the way say the same.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::{Generator, once_on_node};
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, ingress_policy, server, service};
use crate::common::rows::Bench;
use crate::foreign::shell;

/// Pods by name, node and app.
const PODS: [(&str, &str, &str); 4] = [("ex-a", "n1", "ex-a"), ("ex-b", "n1", "ex-b"), ("ex-c", "n3", "ex-c"), ("ex-d", "n2", "ex-a")];

/// Names of policies of a round; each may be there or not.
const POLICIES: [&str; 3] = ["ex-one", "ex-two", "ex-three"];

/// Names of policies of the tiers.
const CLUSTER_POLICIES: [&str; 3] = ["ex-u", "ex-v", "ex-w"];

/// A port that a service gives on every node.
const NODE_PORT: u16 = 30_977;

/// A port of n1 that leads to the second of the pods.
const HOST_PORT: u16 = 7077;

/// xorshift64: the same policies in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit
    }

    fn pick<'t>(&mut self, options: &[&'t str]) -> &'t str {
        options[self.below(options.len())]
    }

    fn selector(&mut self) -> Value {
        match self.below(4) {
            0 => json!({}),
            1 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [self.pick(&["ex-a", "ex-b"])]}]}),
            _ => json!({"matchLabels": {"app": self.pick(&["ex-a", "ex-b", "ex-c"])}}),
        }
    }

    fn peer(&mut self) -> Value {
        match self.below(5) {
            0 => json!({"namespaceSelector": {}, "podSelector": self.selector()}),
            1 => {
                let blocks = [
                    json!({"cidr": "10.42.0.0/16", "except": ["10.42.1.0/24"]}),
                    json!({"cidr": "192.168.200.0/24"}),
                    json!({"cidr": "203.0.113.0/24"}),
                    json!({"cidr": "::/0"}),
                ];
                json!({"ipBlock": blocks[self.below(blocks.len())]})
            }
            _ => json!({"podSelector": self.selector()}),
        }
    }

    fn rule(&mut self, peers: &str) -> Value {
        let mut rule = json!({});
        if self.below(4) != 0 {
            rule[peers] = (0..=self.below(2)).map(|_| self.peer()).collect();
        }
        match self.below(4) {
            0 => rule["ports"] = json!([{"port": PORT}]),
            1 => rule["ports"] = json!([{"port": PORT + 1}, {"protocol": "UDP"}]),
            _ => {}
        }
        rule
    }

    fn policy(&mut self, name: &str) -> Value {
        let mut spec = json!({"podSelector": self.selector(), "policyTypes": []});
        let both = self.below(3);
        for (place, (direction, peers)) in [("ingress", "from"), ("egress", "to")].into_iter().enumerate() {
            if both == place {
                continue;
            }
            let word = if place == 0 { "Ingress" } else { "Egress" };
            spec["policyTypes"].as_array_mut().into_iter().for_each(|types| types.push(json!(word)));
            spec[direction] = (0..self.below(3)).map(|_| self.rule(peers)).collect();
        }
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec})
    }

    fn cluster_peer(&mut self, direction: &str) -> Value {
        match self.below(if direction == "egress" { 6 } else { 4 }) {
            0 => json!({"namespaces": {}}),
            1..=3 => json!({"pods": {"namespaceSelector": {}, "podSelector": self.selector()}}),
            4 => json!({"nodes": {}}),
            _ => json!({"networks": [self.pick(&["10.42.0.0/16", "192.168.200.0/24", "10.42.1.0/24"]), "::/0"]}),
        }
    }

    fn cluster_policy(&mut self, name: &str) -> Value {
        let (tier, priority) = (self.pick(&["Admin", "Admin", "Baseline"]), self.below(3));
        let subject = json!({"pods": {"namespaceSelector": {}, "podSelector": self.selector()}});
        let mut spec = json!({"tier": tier, "priority": priority, "subject": subject});
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            let rules = (0..self.below(3)).map(|_| {
                let mut rule = json!({"action": self.pick(&["Accept", "Deny", "Pass"])});
                rule[peers] = (0..=self.below(2)).map(|_| self.cluster_peer(direction)).collect();
                if self.below(3) == 0 {
                    let port = PORT + u16::try_from(self.below(2)).unwrap_or_default();
                    rule["protocols"] = json!([{"tcp": {"destinationPort": {"number": port}}}]);
                }
                rule
            });
            spec[direction] = rules.collect();
        }
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name}, "spec": spec})
    }
}

/// Who knocks, by the name that `explain` takes, and the generator that does it.
struct Knocker<'a> {
    name: &'a str,
    generator: Generator,
}

/// Whom is knocked at.
struct Door {
    /// As `explain` takes it.
    named: String,
    at: SocketAddr,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    dropped: usize,
}

pub(crate) fn says_what_packets_do(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let mut pods = PODS.iter().map(|(name, node, app)| server(name, node, app)).collect::<Result<Vec<_>>>()?;
    pods[1]["spec"]["containers"][0]["ports"] = json!([{"containerPort": PORT, "hostPort": HOST_PORT}]);
    lab.apply_objects(&pods)?;
    // One endpoint behind it, so that the connection goes where the explanation does.
    lab.apply_objects(&[service("ex-c", "ex-c", Some(NODE_PORT))])?;
    lab.settled()?;
    let mut random = Random(0x5eed_0000_0000_0007);
    let mut tally = Tally::default();
    let rounds = bench.figure(6, 40);
    for round in 0..rounds {
        let named = 1 + random.below(POLICIES.len());
        let mut policies: Vec<Value> = POLICIES.iter().take(named).map(|name| random.policy(name)).collect();
        // Half of the rounds have both kinds, and some have tiers alone.
        if round % 2 == 1 {
            policies.truncate(named - 1);
            policies.extend(CLUSTER_POLICIES.iter().map(|name| random.cluster_policy(name)));
        }
        lab.apply_objects(&policies)?;
        lab.settled()?;
        let families = lab.families();
        let v6 = families.get(round % families.len().max(1)).copied().unwrap_or_default();
        let outcome = round_of(lab, v6, &mut tally);
        outcome.with_context(|| format!("round {round} (IPv6: {v6}), under {}", json!(policies)))?;
        lab.delete("networkpolicy", &POLICIES)?;
        lab.delete("clusternetworkpolicy", &CLUSTER_POLICIES)?;
    }
    ensure!(tally.passed > 0 && tally.dropped > 0, "only {} passed and {} dropped: nothing was tried", tally.passed, tally.dropped);
    lab.delete("pod", &PODS.map(|(name, _, _)| name))?;
    lab.delete("service", &["ex-c"])?;
    Ok(format!(
        "{} passed and {} dropped under {rounds} sets of policies, each explained so by object, oracle and kernels",
        tally.passed, tally.dropped
    ))
}

fn doors(lab: &Lab, v6: bool) -> Result<Vec<Door>> {
    let mut doors = Vec::new();
    for (name, _, app) in PODS {
        let pod = cluster::pods(lab, &format!("app={app}"))?.into_iter().find(|pod| pod.name == name).context("a pod is gone")?;
        doors.push(Door { named: format!("pod/default/{name}:{PORT}"), at: SocketAddr::new(pod.ip(v6)?, PORT) });
    }
    let vip = SocketAddr::new(cluster::cluster_ip(lab, "ex-c", "default", v6)?, PORT);
    doors.push(Door { named: format!("svc/default/ex-c:{PORT}"), at: vip });
    for (name, port) in [("n2", NODE_PORT), ("n1", HOST_PORT)] {
        let node: IpAddr = cluster::nodes(lab)?.iter().find(|node| node.name == name).context(name)?.ip(v6)?;
        doors.push(Door { named: format!("{name}:{port}"), at: SocketAddr::new(node, port) });
    }
    Ok(doors)
}

/// Every pair of a knocker and a door.
fn round_of(lab: &Lab, v6: bool, tally: &mut Tally) -> Result<()> {
    let doors = doors(lab, v6)?;
    let mut knockers = Vec::new();
    for (name, _, _) in PODS {
        knockers.push(Knocker { name, generator: Generator::in_pod(lab, name, &["knock"])? });
    }
    knockers.push(Knocker { name: "n3", generator: Generator::on_node(lab, "n3", &["knock"])? });
    let outside = Knocker { name: if v6 { "2001:db8:113::10" } else { "203.0.113.10" }, generator: Generator::outside(lab, &["knock"])? };
    // The outside is led in by a node port and a host port alone.
    let ports = doors.len().saturating_sub(2);
    let pairs = std::thread::scope(|scope| {
        let mut each: Vec<_> = knockers.into_iter().map(|knocker| scope.spawn(|| knock(lab, knocker, &doors, v6))).collect();
        each.push(scope.spawn(|| knock(lab, outside, doors.get(ports..).unwrap_or_default(), v6)));
        each.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a knocker panicked"))).collect::<Result<Vec<_>>>()
    })?;
    for (passed, dropped) in pairs {
        (tally.passed, tally.dropped) = (tally.passed + passed, tally.dropped + dropped);
    }
    Ok(())
}

fn knock(lab: &Lab, mut knocker: Knocker<'_>, doors: &[Door], v6: bool) -> Result<(usize, usize)> {
    let (mut passed, mut dropped) = (0, 0);
    for door in doors {
        let opened = knocker.generator.ask(&door.at.to_string())?.as_bool().context("a knock is true or false")?;
        let source = if knocker.name.starts_with("ex-") { format!("default/{}", knocker.name) } else { knocker.name.to_owned() };
        let explained = explain(lab, &source, &door.named, v6)?;
        ensure!(opened == explained, "{source} -> {}: opened: {opened}, explained: {explained}", door.named);
        if opened { passed += 1 } else { dropped += 1 }
    }
    Ok((passed, dropped))
}

/// Whether `explain` says that it passes; that all agree, and that its exit status says the same.
fn explain(lab: &Lab, source: &str, target: &str, v6: bool) -> Result<bool> {
    let family = if v6 { "ipv6" } else { "ipv4" };
    let output = lab.run(&["explain", source, target, "--family", family, "-o", "json"], &[])?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("explain {source} {target}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let passes = said["verdict"] == "pass";
    let wanted = if passes { 0 } else { 1 };
    ensure!(
        output.status.code() == Some(wanted),
        "explain {source} {target}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let seen: Vec<&Value> =
        said["paths"].as_array().into_iter().flatten().flat_map(|path| path["seen"].as_array().into_iter().flatten()).collect();
    ensure!(!seen.is_empty(), "explain {source} {target}: nobody was asked");
    for one in seen {
        ensure!(one["kernel"] == one["explained"] && one["oracle"] == one["explained"], "explain {source} {target}: {one}");
    }
    Ok(passes)
}

/// Somebody's change of a node's table, and what `explain` is to say until the agent puts it back.
struct Change<'a> {
    what: &'a str,
    script: String,
    from: &'a str,
    to: &'a str,
    explained: (&'a str, Value),
    kernel: (&'a str, Value),
}

/// In the second before the agent puts a table right that somebody changed, `explain` tells that the kernel does something else, or the same for
/// another reason, and ends with 3. Before and afterwards all agree.
pub(crate) fn tells_of_a_kernel_that_differs(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("di-a", "n1", "di-a")?, server("di-b", "n1", "di-b")?, server("di-c", "n1", "di-c")?])?;
    lab.apply_objects(&[ingress_policy("di-b", "di-b", Some("other"))])?;
    lab.settled()?;
    let address = |name: &str| cluster::pods(lab, &format!("app={name}"))?.first().context("a pod is gone")?.ip(false);
    let (a, b) = (address("di-a")?, address("di-b")?);
    let changes = [
        Change {
            what: "opened",
            script: format!("nft add element inet bowline self4 '{{ {a} . {b} }}'"),
            from: "di-a",
            to: "di-b",
            explained: ("drop", json!("ingress-policies")),
            kernel: ("pass", Value::Null),
        },
        Change {
            what: "shut",
            script: "nft flush map inet bowline pods_in4".to_owned(),
            from: "di-a",
            to: "di-c",
            explained: ("pass", Value::Null),
            kernel: ("drop", json!("ingress-closed")),
        },
        Change {
            what: "shut for another reason",
            script: "nft flush map inet bowline pods_in4".to_owned(),
            from: "di-a",
            to: "di-b",
            explained: ("drop", json!("ingress-policies")),
            kernel: ("drop", json!("ingress-closed")),
        },
    ];
    for change in &changes {
        eventually(|| changed(lab, change)).with_context(|| change.what.to_owned())?;
    }
    lab.delete("pod", &["di-a", "di-b", "di-c"])?;
    lab.delete("networkpolicy", &["di-b"])?;
    let each: Vec<&str> = changes.iter().map(|change| change.what).collect();
    Ok(format!("a table that somebody {} is told with BW4120 and status 3, and is put back", each.join(", ")))
}

/// Changes the table and asks at once; the agent may have been faster, where it was about to look anyhow.
fn changed(lab: &Lab, change: &Change<'_>) -> Result<()> {
    let Change { from, to, explained, kernel, .. } = change;
    let (source, target) = (format!("default/{from}"), format!("pod/default/{to}:{PORT}"));
    let ask = || lab.run(&["explain", &source, &target, "--family", "ipv4", "-o", "json"], &[]);
    let settled = if explained.0 == "pass" { 0 } else { 1 };
    let right = || {
        eventually(|| {
            ensure!(ask()?.status.code() == Some(settled), "they do not agree");
            Ok(())
        })
    };
    right()?;
    shell(lab, "n1", &change.script)?;
    let output = ask()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(3) && errors.contains("BW4120"), "explain says {}: {errors}", output.status);
    let said: Value = serde_json::from_slice(&output.stdout).context("no JSON beside the error")?;
    let seen = &said["paths"][0]["seen"][0];
    ensure!(said["verdict"] == explained.0 && seen["explainedBy"] == explained.1, "another explanation: {said}");
    ensure!(seen["kernel"] == kernel.0 && seen["kernelBy"] == kernel.1, "the kernel is told otherwise: {seen}");
    ensure!(seen["oracle"] == explained.0 && seen["oracleBy"] == explained.1, "the oracle is told otherwise: {seen}");
    right()
}

/// Where somebody wrote other endpoints, or none, into the maps at the sockets, `explain` tells that the kernel does something else, and a
/// connection does it; and what the maps do not hold the rules serve, as is explained.
pub(crate) fn tells_of_socket_maps_that_differ(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[server("dm-a", "n1", "dm-a")?, server("dm-b", "n1", "dm-b")?, server("dm-c", "n3", "dm-c")?])?;
    lab.apply_objects(&[service("dm-c", "dm-c", None)])?;
    lab.settled()?;
    let mut knocker = Generator::in_pod(lab, "dm-a", &["knock"])?;
    let mut told = Vec::new();
    for v6 in lab.families() {
        let pod = |name: &str| -> Result<String> {
            let pod = cluster::pods(lab, &format!("app={name}"))?.into_iter().next().context("a pod is gone")?;
            Ok(SocketAddr::new(pod.ip(v6)?, PORT).to_string())
        };
        let (b, c) = (pod("dm-b")?, pod("dm-c")?);
        let vip = SocketAddr::new(cluster::cluster_ip(lab, "dm-c", "default", v6)?, PORT).to_string();
        let turn = |to: &[&str]| once_on_node(lab, "n1", &[&["turn", &vip], to].concat());
        eventually(|| ensure_explained(lab, v6, true).map(drop))?;
        ensure!(turn(&[&b])? == json!([c]), "other endpoints than {c}");
        told.push(ensure_explained(lab, v6, false).context("turned to another pod")?);
        ensure!(turn(&[&c, &b])? == json!([b]), "other endpoints than {b}");
        told.push(ensure_explained(lab, v6, false).context("another pod beside it")?);
        ensure!(turn(&[])? == json!([c, b]), "other endpoints than {c} and {b}");
        told.push(ensure_explained(lab, v6, false).context("no endpoint")?);
        ensure!(knocker.ask(&vip)? == json!(false), "a service without endpoints in the maps answered");
        turn(&[&c])?;
        ensure_explained(lab, v6, true)?;
        ensure!(knocker.ask(&vip)? == json!(true), "the service does not answer");
    }
    drop(knocker);
    lab.delete("pod", &["dm-a", "dm-b", "dm-c"])?;
    lab.delete("service", &["dm-c"])?;
    told.sort_unstable();
    told.dedup();
    Ok(format!("other endpoints in the maps are told with BW4120 and status 3: {}", told.join("; ")))
}

/// Whether the explanation of the service passes, and the kernel agrees; what is said of the kernel.
fn ensure_explained(lab: &Lab, v6: bool, agrees: bool) -> Result<String> {
    let (family, target) = (if v6 { "ipv6" } else { "ipv4" }, format!("svc/default/dm-c:{PORT}"));
    let output = lab.run(&["explain", "default/dm-a", &target, "--family", family, "-o", "json"], &[])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let wanted = if agrees { 0 } else { 3 };
    ensure!(output.status.code() == Some(wanted), "explain says {}, not {wanted}: {errors}", output.status);
    ensure!(agrees || errors.contains("BW4120"), "no BW4120: {errors}");
    let said: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    ensure!(said["verdict"] == "pass", "another explanation: {said}");
    let seen = &said["paths"][0]["seen"][0];
    ensure!((seen["kernel"] == seen["explained"]) == agrees, "of the kernel: {seen}");
    Ok(seen["by"].as_str().unwrap_or_default().to_owned())
}

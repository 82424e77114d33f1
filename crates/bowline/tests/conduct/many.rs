//! As many rules of ClusterNetworkPolicies about one pod as overflowed other networks' numbers (CVE-2026-25804): in a real kernel, the last
//! of all decides still, whatever its priority, and who is denied by none gets in.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually};
use crate::common::objects::{PORT, cluster_policy, idle, pods_of, server};
use crate::common::populate::Populate;
use crate::common::rows::Bench;

/// Policies, half of them of each tier: a tenth on every change, since listing 70,000 rules alone takes most of a minute in an unoptimized build.
const POLICIES: (usize, usize) = (280, 2800);
/// The rules of each: as many as the API takes.
const RULES: u32 = 25;
/// One more than the greatest priority.
const PRIORITIES: u32 = 1001;
/// Of ports that rules name, the first; the server's is none of them.
const FIRST_PORT: u32 = 20_000;
const PORTS: u32 = 40_000;

const LAST: &str = "zz-last";

fn name(number: u32) -> String {
    format!("many-{number:04}")
}

/// A policy that denies ports which nobody asks for, some with a client that nobody has.
fn one(number: u32) -> Value {
    let tier = if number.is_multiple_of(2) { "Admin" } else { "Baseline" };
    let rules: Vec<Value> = (0..RULES)
        .map(|rule| {
            let port = FIRST_PORT + (number * RULES + rule) % PORTS;
            let protocol = if rule.is_multiple_of(2) { "tcp" } else { "udp" };
            json!({
                "action": if rule.is_multiple_of(3) { "Pass" } else { "Deny" },
                "from": [{"namespaces": {}}],
                "protocols": [{protocol: {"destinationPort": {"number": port}}}],
            })
        })
        .collect();
    let priority = u16::try_from(number / 2 % PRIORITIES).unwrap_or_default();
    cluster_policy(&name(number), (tier, priority), "many-server", json!({ "ingress": rules }))
}

/// The policy that is asked last in its tier, about one client.
fn last(tier: &str, action: &str) -> Value {
    let rule = json!({"action": action, "from": [{"pods": pods_of("many-client")}]});
    cluster_policy(LAST, (tier, 1000), "many-server", json!({ "ingress": [rule] }))
}

/// Rules of ClusterNetworkPolicies in the kernel of the server's node.
fn in_the_kernel(lab: &Lab) -> Result<usize> {
    let output = lab.node("n2", &["nft", "list", "table", "inet", "bowline"])?;
    let text = String::from_utf8(output.stdout)?;
    let mut within = false;
    let mut count = 0;
    for line in text.lines().map(str::trim) {
        match line {
            _ if line.starts_with("chain ") => within = line.contains("cluster_in/many-"),
            "}" => within = false,
            _ => count += usize::from(within && line.contains("dport")),
        }
    }
    Ok(count)
}

pub(crate) fn rules_about_one_pod(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("many-server", "n2", "many-server")?,
        idle("many-near", "n2", "many-client")?,
        idle("many-far", "n1", "many-client")?,
        idle("many-other", "n3", "many-other")?,
    ])?;
    let policies = u32::try_from(bench.figure(POLICIES.0, POLICIES.1))?;
    let populate = Populate::connect(lab.kubeconfig())?;
    populate.policies((0..policies).map(one))?;
    let begun = Instant::now();
    lab.settled()?;
    let took = begun.elapsed();
    let rules = in_the_kernel(lab)?;
    // Each that closes has another one for pods that are not known: all of the Admin tier, and what the Baseline tier denies.
    let unknown = policies / 2 * (RULES + RULES - RULES.div_ceil(3));
    // Peers are sets of addresses, and those are of one family each.
    let wanted = 2 * (policies * RULES + unknown);
    ensure!(rules == usize::try_from(wanted)?, "{rules} rules in the kernel, not {wanted}");
    let ip = cluster::pods(lab, "app=many-server")?.first().map(|pod| pod.ip(false)).transpose()?.context("the server")?;
    let at = SocketAddr::new(ip, PORT);
    let mut clients = Vec::new();
    for (pod, is_named) in [("many-near", true), ("many-far", true), ("many-other", false)] {
        clients.push((pod, is_named, Generator::in_pod(lab, pod, &["knock"])?));
    }
    let mut get_in = |what: &str, named: bool| {
        for (pod, is_named, generator) in &mut clients {
            let wanted = named || !*is_named;
            eventually(|| {
                let opened = generator.ask(&at.to_string())?.as_bool().context("a knock is true or false")?;
                ensure!(opened == wanted, "{what}: {pod} gets in: {opened}");
                Ok(())
            })?;
        }
        Ok::<_, anyhow::Error>(())
    };
    get_in("no rule is about the port", true)?;
    let mut steps = 1;
    for (tier, action, named) in
        [("Admin", "Deny", false), ("Admin", "Accept", true), ("Baseline", "Deny", false), ("Admin", "Deny", false)]
    {
        lab.apply_objects(&[last(tier, action)])?;
        get_in(&format!("the last of {tier} says {action}"), named)?;
        steps += 1;
    }
    let output = lab.run(&["explain", "default/many-far", &format!("pod/default/many-server:{PORT}")], &[])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains(&format!("ClusterNetworkPolicy {LAST} (Admin), ingress[0], denies it")), "explain says:\n{said}");
    populate.without_policies((0..policies).map(name).chain([LAST.to_owned()]))?;
    lab.settled()?;
    get_in("all are gone", true)?;
    lab.delete("pod", &["many-server", "many-near", "many-far", "many-other"])?;
    Ok(format!(
        "{rules} rules of {policies} policies settled {} ms after the last was made; the last decides, {steps} steps",
        took.as_millis()
    ))
}

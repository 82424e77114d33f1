//! Others' objects on a node stay as they are, whatever the agent does; its own are put back when others take them away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::common::lab::{Lab, eventually, said};
use crate::common::node::{self, Kernel};
use crate::common::objects::{ingress_policy, server, service};
use crate::common::rows::Bench;

/// What somebody else may have on a node: tables, chains at our hooks, routes in our tables, rules, links, addresses.
const FOREIGN: &str = "set -e
    nft add table inet foreign
    nft add chain inet foreign forward '{ type filter hook forward priority 0; policy accept; }'
    nft add rule inet foreign forward ip daddr 198.51.100.7 counter drop
    nft add set inet foreign some '{ type ipv4_addr; elements = { 198.51.100.1, 198.51.100.2 }; }'
    nft add table ip bowline
    nft add chain ip bowline own
    nft add table ip6 kube-proxy
    ip link add foreign0 type veth peer name foreign1
    ip link set foreign0 addrgenmode none
    ip link set foreign1 addrgenmode none
    ip addr add 198.51.100.129/28 dev foreign0
    ip -6 addr add 2001:db8:129::1/64 dev foreign0 nodad
    ip link set foreign0 up
    ip link set foreign1 up
    ip route add 198.51.100.64/28 dev foreign0 proto static
    ip route add 10.42.200.0/24 dev foreign0 proto 117
    ip route add blackhole 198.51.100.32/28 table 100
    ip rule add from 198.51.100.0/24 lookup 100 priority 2015
    ip rule add fwmark 0x1 lookup 100 priority 5000";

pub(crate) fn shell(lab: &Lab, node: &str, script: &str) -> Result<String> {
    let output = lab.node(node, &["sh", "-c", script])?;
    said(&output).with_context(|| format!("{node}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn populated(lab: &Lab) -> Result<()> {
    lab.apply_objects(&[server("some-1", "n1", "some")?, server("some-2", "n2", "some")?])?;
    lab.apply_objects(&[service("some", "some", Some(30_800)), ingress_policy("some", "some", Some("other"))])?;
    lab.settled()
}

/// Two reads that agree: what the kernel does by itself to a new link is over.
fn calm(lab: &Lab, node: &str) -> Result<Kernel> {
    eventually(|| {
        let (one, two) = (node::read(lab, node)?, node::read(lab, node)?);
        node::same("still moving", &one.theirs, &two.theirs)?;
        Ok(two)
    })
}

pub(crate) fn untouched(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    let unmarked = calm(lab, "n1")?;
    shell(lab, "n1", FOREIGN)?;
    let before = calm(lab, "n1")?;
    let foreign = before.theirs.len() - unmarked.theirs.intersection(&before.theirs).count();
    ensure!(foreign >= 12, "only {foreign} foreign objects were seen");
    let check = |when: &str| node::same(when, &before.theirs, &node::read(lab, "n1")?.theirs);
    lab.agent("kill", "n1")?;
    lab.agent("start", "n1")?;
    lab.settled()?;
    check("after a kill and a start")?;
    lab.agent("stop", "n1")?;
    check("after a stop")?;
    lab.agent("start", "n1")?;
    lab.settled()?;
    check("after a start")?;
    // Objects of ours come and go beside them.
    lab.delete("pod", &["some-1"])?;
    lab.apply_objects(&[server("some-1", "n1", "some")?])?;
    lab.settled()?;
    check("after pods came and went")?;
    Ok(format!("{foreign} foreign tables, rules, routes and links as before through kill, stop, start and changes"))
}

/// Ways in which others take ours away, with what the agent counts them as.
const THEFTS: &[(&str, &str, Option<&str>)] = &[
    ("table", "nft delete table inet bowline", Some("rules")),
    ("ruleset", "nft list table inet bowline >/dev/null; nft flush ruleset; nft add table inet foreign2", Some("rules")),
    ("chain", "nft flush chain inet bowline ingress", Some("rules")),
    // Routes also go with their links, so nobody counts them.
    ("rules", "ip rule flush proto 118; ip -6 rule flush proto 118", None),
    ("routes", "ip route flush table all proto 118; ip -6 route flush table all proto 118", None),
];

/// How often a node's agent says that it has put something back.
pub(crate) fn repairs(lab: &Lab, node: &str, of: &str) -> Result<u64> {
    lab.metric(node, &format!("bowline_repairs_total{{of=\"{of}\"}}"))
}

/// It has counted more than before.
pub(crate) fn counted(lab: &Lab, node: &str, of: &str, before: u64) -> Result<()> {
    eventually(|| {
        ensure!(repairs(lab, node, of)? > before, "{node} has put back something of {of} and does not count it");
        Ok(())
    })
}

/// The promise.
const WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn repaired(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    let before = node::read(lab, "n1")?;
    let mut told = Vec::new();
    for (what, script, of) in THEFTS {
        let count = of.map(|of| repairs(lab, "n1", of)).transpose()?;
        // Each of them fails if there is nothing to take away. It may be back before it can be looked at.
        shell(lab, "n1", &format!("set -e; {script}"))?;
        let begun = Instant::now();
        let mut missing = node::same(what, &before.ours, &node::read(lab, "n1")?.ours);
        while missing.is_err() && begun.elapsed() < 3 * WITHIN {
            missing = node::same(what, &before.ours, &node::read(lab, "n1")?.ours);
        }
        missing.with_context(|| format!("not repaired within {} s", (3 * WITHIN).as_secs()))?;
        let took = begun.elapsed();
        ensure!(took < WITHIN, "{what}: repaired only after {} ms", took.as_millis());
        told.push(format!("{what} {} ms", took.as_millis()));
        if let (Some(of), Some(before)) = (of, count) {
            counted(lab, "n1", of, before)?;
        }
    }
    Ok(told.join(", "))
}

//! BPF maps and their file system: what is not there at the start is waited for, and what does not fit is served by the rules.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::foreign::shell;
use super::sockets::switch;
use crate::common::cluster::cluster_ip;
use crate::common::generator::{Generator, all_answered, unbroken};
use crate::common::lab::{Lab, eventually, said, within};
use crate::common::objects::{PORT, idle, server, service, wide};
use crate::common::rows::Bench;

fn n1(lab: &Lab) -> Result<Value> {
    let status = lab.status()?;
    status["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n1").cloned().context("n1 is silent")
}

fn has(node: &Value, kind: &str, code: u16) -> bool {
    node[kind].as_array().into_iter().flatten().any(|told| told["code"] == code)
}

/// A node whose BPF file system is mounted only after the agent has started: a problem where ebpf is asked for, a note where it is as the
/// kernel has it.
pub(crate) fn the_file_system_comes_late(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.settled()?;
    let seen = ["auto", "ebpf"].into_iter().try_for_each(|mode| comes_late(lab, mode).with_context(|| mode));
    // Whatever was found, the lab is left as it was.
    shell(lab, "n1", "grep -q ' /sys/fs/bpf bpf ' /proc/mounts || mount -t bpf bpf /sys/fs/bpf")?;
    switch(lab, "serviceMode", "ebpf")?;
    seen?;
    Ok("BW1311 and BW1312 while it was not mounted, with auto as notes; all gone without a restart".to_owned())
}

fn comes_late(lab: &Lab, mode: &str) -> Result<()> {
    shell(lab, "n1", &format!("sed -i 's/^serviceMode: .*/serviceMode: {mode}/' /etc/bowline/agent.yaml"))?;
    lab.agent("stop", "n1")?;
    shell(lab, "n1", "umount -l /sys/fs/bpf")?;
    lab.agent("start", "n1")?;
    let (told, other, state) = if mode == "auto" { ("warnings", "problems", "ok") } else { ("problems", "warnings", "degraded") };
    let without = eventually(|| {
        let node = n1(lab)?;
        ensure!(has(&node, told, 1311) && has(&node, told, 1312) && node["state"] == state, "{node}");
        Ok(node)
    });
    shell(lab, "n1", "mount -t bpf bpf /sys/fs/bpf")?;
    let without = without?;
    ensure!(without["fastPath"] == false && without["mode"] == "nftables" && without["synced"] == true, "{without}");
    ensure!(!has(&without, other, 1311) && !has(&without, other, 1312), "{without}");
    // The agent tries again within a minute.
    let with = within(Duration::from_secs(90), || {
        let node = n1(lab)?;
        ensure!(node["fastPath"] == true && node["mode"] == "ebpf", "{node}");
        Ok(node)
    })?;
    ensure!(["problems", "warnings"].iter().all(|kind| !has(&with, kind, 1311) && !has(&with, kind, 1312)), "{with}");
    lab.settled()
}

/// More services than the map has room for: each has a frontend for each port and family.
const SERVICES: usize = 30;
const PORTS: u16 = 20;
const ROOM: usize = 1024;

/// How often the log of an agent says so.
fn times_said(lab: &Lab, words: &str) -> Result<usize> {
    Ok(said(&lab.run(&["lab", "logs"], &[])?).context("no logs")?.matches(words).count())
}

pub(crate) fn full(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    switch(lab, "mapSizes", &format!("{{frontends: {ROOM}}}"))?;
    let seen = filled_up(lab);
    let names: Vec<String> = (0..SERVICES).map(name).chain(["full".to_owned()]).collect();
    lab.delete("service", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    lab.delete("pod", &["full-server", "full-client"])?;
    switch(lab, "mapSizes", "{}")?;
    seen
}

fn name(number: usize) -> String {
    format!("full-{number:03}")
}

fn filled_up(lab: &Lab) -> Result<String> {
    const WORDS: &str = "maps of services are full";
    lab.apply_objects(&[server("full-server", "n2", "full")?, idle("full-client", "n1", "full-client")?, service("full", "full", None)])?;
    lab.settled()?;
    let mut targets = Vec::new();
    for v6 in lab.families() {
        targets.push(SocketAddr::new(cluster_ip(lab, "full", "default", v6)?, PORT).to_string());
    }
    let begin = |head: &[&str]| {
        let words: Vec<&str> = head.iter().copied().chain(targets.iter().map(String::as_str)).collect();
        Generator::in_pod(lab, "full-client", &words)
    };
    let (flows, streams) = (begin(&["datagrams", "full", "2000"])?, begin(&["stream", "4"])?);
    let names: Vec<String> = (0..SERVICES).map(name).collect();
    let more: Vec<Value> = names.iter().map(|name| wide(name, "full", PORTS)).collect();
    let before = times_said(lab, WORDS)?;
    lab.apply_objects(&more)?;
    let filled = eventually(|| {
        let node = n1(lab)?;
        ensure!(has(&node, "problems", 1314) && node["cluster"]["services"].as_u64() >= Some(SERVICES as u64), "{}", node["problems"]);
        ensure!(node["problems"].as_array().is_some_and(|all| all.len() == 1), "one problem for all of them: {}", node["problems"]);
        let left_out = lab.metric("n1", "bowline_socket_frontends_left_out")?;
        let (entries, room) = (
            lab.metric("n1", "bowline_socket_map_entries{map=\"frontends\"}")?,
            lab.metric("n1", "bowline_socket_map_entries_max{map=\"frontends\"}")?,
        );
        let all = 2 * u64::from(PORTS) * SERVICES as u64;
        ensure!(room == ROOM as u64 && entries <= room && entries + left_out >= all, "{entries} of {room}, {left_out} left out, of {all}");
        Ok((entries, room, left_out))
    })?;
    let (entries, room, left_out) = filled;
    ensure!(lab.metric("n1", "bowline_socket_map_full_total")? >= left_out, "refusals are counted");
    // All of them are served, in the map or not.
    for name in names.iter().step_by(3) {
        for v6 in lab.families() {
            let target = SocketAddr::new(cluster_ip(lab, name, "default", v6)?, PORT).to_string();
            let mut knock = Generator::in_pod(lab, "full-client", &["knock"])?;
            ensure!(knock.ask(&target)? == true, "{name} at {target} does not answer");
        }
    }
    ensure!(times_said(lab, WORDS)? == before + 1, "said {} times", times_said(lab, WORDS)? - before);
    let sent = all_answered(&flows.finish()?)?;
    let (requests, _) = unbroken(&streams.finish()?)?;
    lab.delete("service", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    eventually(|| {
        let left_out = lab.metric("n1", "bowline_socket_frontends_left_out")?;
        ensure!(left_out == 0 && !has(&n1(lab)?, "problems", 1314), "{left_out} are left out still");
        Ok(())
    })?;
    Ok(format!(
        "{entries} of {room} frontends in the map, {left_out} left out and served; said once; 0 of {sent} datagrams lost, 0 connections broke \
         ({requests} requests)"
    ))
}

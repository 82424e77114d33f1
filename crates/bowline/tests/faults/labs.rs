//! Labs themselves: killed half-way up, two beside each other, and one whose underlay does not fit its backend.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::{Generator, number};
use crate::common::lab::{self, BOWLINE, Setup, eventually};
use crate::common::objects::{PORT, idle, server, service};
use crate::common::rows::Bench;

/// Steps of `lab up` after which it is killed.
const STEPS: [&str; 3] = ["host", "underlay", "api"];

pub(crate) fn killed_half_way(_: &Bench) -> Result<String> {
    for step in STEPS {
        let name = format!("h{}-{step}", std::process::id());
        let outcome = kill_after(&name, step).and_then(|()| {
            let down = Command::new(BOWLINE).args(["lab", "down", "--name", &name]).output()?;
            ensure!(down.status.success(), "lab down: {}", String::from_utf8_lossy(&down.stderr));
            let left = left_of(&name)?;
            ensure!(left.is_empty(), "after a kill at `{step}` and `lab down` there is left: {}", left.join("; "));
            Ok(())
        });
        let _ = Command::new(BOWLINE).args(["lab", "down", "--name", &name]).output();
        outcome?;
    }
    Ok(format!("killed after each of {}: no process, cgroup, directory or mount left", STEPS.join(", ")))
}

/// Starts a lab and kills `lab up` as soon as it has told of a step.
fn kill_after(name: &str, step: &str) -> Result<()> {
    let mut command = Command::new(BOWLINE);
    let mut up = command.args(["lab", "up", "--name", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let told = BufReader::new(up.stderr.take().context("no output")?).lines().map_while(Result::ok);
    let reached = told.into_iter().find(|line| line.split_whitespace().any(|word| word == step));
    up.kill()?;
    up.wait()?;
    ensure!(reached.is_some(), "`lab up` never told of {step}");
    Ok(())
}

/// Processes, directories and mounts that bear the name.
fn left_of(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if pid.bytes().all(|b| b.is_ascii_digit()) && words.contains(name) && pid != std::process::id().to_string() {
            found.push(format!("process {pid}: {}", words.chars().take(60).collect::<String>()));
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    for mount in mounts.lines().filter(|line| line.contains(name)) {
        found.push(format!("mount {mount}"));
    }
    let cgroups =
        mounts.lines().filter(|line| line.split_whitespace().nth(2) == Some("cgroup2")).filter_map(|line| line.split_whitespace().nth(1));
    let places = cgroups.map(|root| Path::new(root).join("bowline-lab").join(name)).chain([Path::new("/run/bowline-lab").join(name)]);
    found.extend(places.filter(|path| path.exists()).map(|path| path.display().to_string()));
    Ok(found)
}

pub(crate) fn side_by_side(_: &Bench) -> Result<String> {
    let address = "10.43.0.77";
    let labs = [Setup::new("vxlan").up()?, Setup::new("host-gw").up()?];
    for (number, lab) in labs.iter().enumerate() {
        let mut same = service("same", "same", None);
        same["spec"]["clusterIP"] = json!(address);
        lab.apply_objects(&[same, server(&format!("own-{number}"), "n2", "same")?, idle("client", "n1", "client")?])?;
    }
    let target = format!("{address}:{PORT}");
    for (number, lab) in labs.iter().enumerate() {
        let mut flow = Generator::in_pod(lab, "client", &["datagrams", "side", "1000", &target])?;
        eventually(|| {
            let seen = flow.ask("?")?;
            let by = seen[0]["by"].as_object().cloned().unwrap_or_default();
            ensure!(by.values().filter_map(Value::as_u64).sum::<u64>() > 100, "too few answers yet");
            ensure!(by.keys().eq([&format!("own-{number}")]), "lab {number} was answered by {by:?}");
            Ok(())
        })?;
    }
    Ok(format!("{address} is answered in each lab by its own pod alone"))
}

pub(crate) fn not_neighbours(_: &Bench) -> Result<String> {
    let lab = Setup::new("host-gw").routed().up()?;
    let pods = [server("near", "n1", "near")?, idle("client", "n1", "client")?, server("far", "n2", "far")?];
    lab.apply_objects(&pods)?;
    let told = eventually(|| {
        let status = lab.status()?;
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        ensure!(nodes.len() == 3, "{} of 3 agents answer", nodes.len());
        for node in &nodes {
            let others = ["n1", "n2", "n3"].into_iter().filter(|other| node["node"] != **other);
            for other in others {
                let named = |p: &&Value| p["code"].to_string().contains("2010") && p.to_string().contains(other);
                let problems = node["problems"].as_array().cloned().unwrap_or_default();
                ensure!(problems.iter().any(|p| named(&p)), "{} does not say that {other} is no neighbour: {problems:?}", node["node"]);
            }
            ensure!(node["state"] == "degraded", "{} is {}", node["node"], node["state"]);
        }
        Ok(nodes.len())
    })?;
    // The rest is alive: pods of one node, and the node itself.
    let near = cluster::pods(&lab, "app=near")?;
    let target = format!("{}:{PORT}", near.first().context("no pod")?.ip(false)?);
    let mut flow = Generator::in_pod(&lab, "client", &["datagrams", "near", "1000", &target])?;
    std::thread::sleep(Duration::from_millis(200));
    let answered = number(&flow.ask("?")?[0], "answered")?;
    ensure!(answered > 0, "pods of one node do not reach each other");
    let far = cluster::pods(&lab, "app=far")?;
    let url = lab::curl(far.first().context("no pod")?.ip(false)?, PORT);
    let out = lab.pod("client", &lab::words(&url))?;
    ensure!(!out.status.success(), "a pod across the router was reached though there is no way");
    Ok(format!("BW2010 on {told} nodes, each naming the two others; pods of one node go on"))
}

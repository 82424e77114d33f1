//! CNI ADD and DEL, Bowline's plugin and Debian's `bridge` with `host-local` in turn, called as executables on one node of a lab.
//!
//! Time runs from the start of the executable to its end, as a runtime waits. Bowline's includes the answer of its agent: the address
//! on disk, the link, and the pod's rules in the kernel.

use std::collections::VecDeque;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bowline_lab::handle::{Lab, Options};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::peers::CNI_PLUGINS;
use crate::report::{Row, Section, Target};
use crate::stats::{Samples, ratios};
use crate::{BOWLINE, Effort};

const CONFIGURATION: &str = "/etc/cni/net.d/05-bowline.conflist";
const PLUGINS: &str = "/opt/cni/bin";
const BLOCK: usize = 10;
const AT_ONCE: usize = 8;

/// What the part on the node found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    add_ms: Vec<f64>,
    del_ms: Vec<f64>,
    /// Pods a second with eight calls at once, by round.
    adds_per_s: Vec<f64>,
    dels_per_s: Vec<f64>,
    /// Milliseconds of an ADD among eight.
    add_among_ms: Vec<f64>,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    ensure!(
        std::path::Path::new(CNI_PLUGINS).join("bridge").exists(),
        "no {CNI_PLUGINS}/bridge: apt-get install containernetworking-plugins"
    );
    let name = format!("bench-cni-{}", std::process::id());
    let lab = Lab::up(Options { binary: Some(BOWLINE.into()), ..Options::new(&name, "--nodes 1") })?;
    let exe = std::env::current_exe()?.display().to_string();
    let mut words = vec![exe.as_str(), "--inside", "cni"];
    words.extend(effort.pick(Some("--quick"), None));
    let output = lab.node_exec("n1", &words)?;
    ensure!(output.status.success(), "on the node: {}", String::from_utf8_lossy(&output.stderr));
    let (ours, peer): (Found, Found) = serde_json::from_slice(&output.stdout).context("what the part on the node said")?;
    Ok(section(&ours, &peer))
}

fn section(ours: &Found, peer: &Found) -> Section {
    let mut section = Section::new("CNI: ADD and DEL by executable, beside bridge and host-local");
    let of = |values: &[f64]| Samples::new(values.to_vec());
    let both = |what: &str, unit: &'static str, ours: &[f64], peer: &[f64]| {
        Row::median(what, unit, &of(ours)).peer_ratios(of(peer).median(), &ratios(ours, peer))
    };
    let tail = |what: &str, ours: &[f64], peer: &[f64]| Row::new(what, "ms", of(ours).percentile(99)).peer(of(peer).percentile(99));
    let rate = |values: &[f64]| values.len() as f64 * 1e3 / values.iter().sum::<f64>();
    section.rows = vec![
        both("ADD, one after the other, p50", "ms", &ours.add_ms, &peer.add_ms).target(Target::AtMost(8.0)),
        tail("ADD, one after the other, p99", &ours.add_ms, &peer.add_ms).target(Target::AtMost(25.0)),
        Row::new("ADD, one after the other, rate", "pods/s", rate(&ours.add_ms)).peer(rate(&peer.add_ms)).target(Target::AtLeast(100.0)),
        both("ADD, 8 at once, rate", "pods/s", &ours.adds_per_s, &peer.adds_per_s).target(Target::AtLeast(100.0)),
        both("ADD, 8 at once, p50", "ms", &ours.add_among_ms, &peer.add_among_ms),
        tail("ADD, 8 at once, p99", &ours.add_among_ms, &peer.add_among_ms),
        both("DEL, one after the other, p50", "ms", &ours.del_ms, &peer.del_ms),
        tail("DEL, one after the other, p99", &ours.del_ms, &peer.del_ms),
        both("DEL, 8 at once, rate", "pods/s", &ours.dels_per_s, &peer.dels_per_s),
    ];
    let (pods, rounds) = (ours.add_ms.len(), ours.adds_per_s.len());
    section.notes.push(format!("{pods} pods in turn by {BLOCK}, then {pods} with {AT_ONCE} calls at once, {rounds} rounds in turn"));
    section.notes.push("Bowline's ADD writes the address to disk with fsync and returns with the pod's policy in the kernel".into());
    section
}

/// A plugin with its configuration.
struct Plugin {
    path: String,
    directory: &'static str,
    config: String,
    prefix: &'static str,
}

impl Plugin {
    fn bowline() -> Result<Plugin> {
        let text = std::fs::read_to_string(CONFIGURATION).context(CONFIGURATION)?;
        let list: serde_json::Value = serde_json::from_str(&text).context(CONFIGURATION)?;
        let mut config = list.pointer("/plugins/0").cloned().context("no plugin in the configuration")?;
        let fields = config.as_object_mut().context("a plugin that is no object")?;
        for key in ["name", "cniVersion"] {
            fields.insert(key.to_owned(), list.get(key).cloned().unwrap_or_default());
        }
        let kind = fields.get("type").and_then(|t| t.as_str()).unwrap_or_default();
        Ok(Plugin { path: format!("{PLUGINS}/{kind}"), directory: PLUGINS, config: config.to_string(), prefix: "ours" })
    }

    fn bridge() -> Plugin {
        let config = json!({
            "cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": "peer0", "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": "/run/peer-addresses",
                "ranges": [[{"subnet": "10.99.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        });
        Plugin { path: format!("{CNI_PLUGINS}/bridge"), directory: CNI_PLUGINS, config: config.to_string(), prefix: "peer" }
    }

    fn namespace(&self, pod: usize) -> String {
        format!("{}-{pod}", self.prefix)
    }

    /// Calls it for a pod; milliseconds.
    fn call(&self, command: &str, pod: usize) -> Result<f64> {
        let namespace = self.namespace(pod);
        let begun = Instant::now();
        let mut child = Command::new(&self.path)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", self.directory)
            .env("CNI_CONTAINERID", &namespace)
            .env("CNI_NETNS", format!("/run/netns/{namespace}"))
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.path.clone())?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(self.config.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("{} {command} of {namespace}: {}", self.path, String::from_utf8_lossy(&said));
        }
        Ok(took)
    }

    /// Makes or removes the namespaces of pods; not part of what is measured.
    fn namespaces(&self, verb: &str, pods: std::ops::Range<usize>) -> Result<()> {
        for pod in pods {
            let status = Command::new("ip").args(["netns", verb, &self.namespace(pod)]).status().context("ip netns")?;
            ensure!(status.success(), "ip netns {verb} {} failed", self.namespace(pod));
        }
        Ok(())
    }

    /// Calls it for pods with several callers at once; pods a second, and the milliseconds of each.
    fn call_at_once(&self, command: &str, pods: usize) -> Result<(f64, Vec<f64>)> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((0..pods).collect());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let caller = || -> Result<Vec<f64>> { std::iter::from_fn(next).map(|pod| self.call(command, pod)).collect() };
        let begun = Instant::now();
        let took: Vec<Result<Vec<f64>>> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(caller)).collect();
            callers.into_iter().map(|c| c.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let rate = pods as f64 / begun.elapsed().as_secs_f64();
        let took = took.into_iter().collect::<Result<Vec<_>>>()?.concat();
        Ok((rate, took))
    }
}

/// The part that runs on a lab's node: prints what it found as JSON.
pub(crate) fn inside(effort: Effort) -> Result<()> {
    let (pods, rounds) = effort.pick((20, 1), (100, 3));
    let plugins = [Plugin::bowline()?, Plugin::bridge()];
    let mut found = [Found::default(), Found::default()];
    for plugin in &plugins {
        // One pod before all, so that the bridge is there and executables are in the page cache.
        plugin.namespaces("add", pods..pods + 1)?;
        plugin.call("ADD", pods)?;
        plugin.namespaces("add", 0..pods)?;
    }
    for command in ["ADD", "DEL"] {
        for block in (0..pods).step_by(BLOCK) {
            for (plugin, found) in plugins.iter().zip(&mut found) {
                for pod in block..(block + BLOCK).min(pods) {
                    let took = plugin.call(command, pod)?;
                    if command == "ADD" { found.add_ms.push(took) } else { found.del_ms.push(took) }
                }
            }
        }
    }
    for _ in 0..rounds {
        for (plugin, found) in plugins.iter().zip(&mut found) {
            plugin.namespaces("del", 0..pods)?;
            plugin.namespaces("add", 0..pods)?;
            let (rate, took) = plugin.call_at_once("ADD", pods)?;
            found.adds_per_s.push(rate);
            found.add_among_ms.extend(took);
            found.dels_per_s.push(plugin.call_at_once("DEL", pods)?.0);
        }
    }
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

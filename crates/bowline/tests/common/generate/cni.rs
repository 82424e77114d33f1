//! Calls of the CNI plugin as a container runtime makes them, on a node: a namespace, ADD, DEL until it is taken, the namespace gone.
//!
//! A failed ADD is followed by DEL, as runtimes do; a DEL that fails is called again. An address that two namespaces hold at once is an error.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const CONFIG: &str = "/etc/cni/net.d/05-bowline.conflist";
const PLUGIN: &str = "/opt/cni/bin/bowline-cni";

/// Calls under way at once.
const LANES: usize = 4;

/// How long a call may be refused.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time before a refused call is repeated.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Seen {
    next: AtomicUsize,
    added: AtomicUsize,
    refused: AtomicUsize,
    repeated: AtomicUsize,
    held: Mutex<BTreeSet<String>>,
    refusal: Mutex<Option<String>>,
    wrong: Mutex<Vec<String>>,
}

impl Seen {
    fn report(&self) -> Value {
        json!({
            "begun": self.next.load(Ordering::Relaxed), "added": self.added.load(Ordering::Relaxed),
            "refused": self.refused.load(Ordering::Relaxed), "repeated": self.repeated.load(Ordering::Relaxed),
            "refusal": *self.refusal.lock().unwrap_or_else(PoisonError::into_inner),
            "wrong": *self.wrong.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// `count` pairs of granted calls; every other one in the name of one of `pods`, which the API knows.
pub(super) fn run(count: usize, pods: &[&str]) -> Result<()> {
    let config = configuration()?;
    let seen = Arc::new(Seen::default());
    let lanes: Vec<_> = (0..LANES)
        .map(|_| {
            let (seen, config) = (seen.clone(), config.clone());
            let pods: Vec<String> = pods.iter().map(|pod| (*pod).to_owned()).collect();
            std::thread::spawn(move || {
                loop {
                    let number = seen.next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let pod = pods.get(number % (2 * pods.len().max(1))).map(String::as_str);
                    if let Err(error) = run_pod(&seen, &config, number, pod) {
                        seen.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{number}: {error:#}"));
                    }
                }
            })
        })
        .collect();
    super::say("ready")?;
    for lane in lanes {
        let _ = lane.join();
    }
    super::say(&seen.report().to_string())
}

/// What the runtime would hand to the plugin.
fn configuration() -> Result<String> {
    let text = std::fs::read_to_string(CONFIG).context(CONFIG)?;
    let list: Value = serde_json::from_str(&text).context(CONFIG)?;
    let mut plugin = list["plugins"][0].clone();
    let fields = plugin.as_object_mut().context("no plugin in the configuration")?;
    fields.insert("name".into(), list["name"].clone());
    fields.insert("cniVersion".into(), list["cniVersion"].clone());
    Ok(plugin.to_string())
}

/// Begins anew after a refusal, with another namespace and id, as kubelets do.
fn run_pod(seen: &Seen, config: &str, number: usize, pod: Option<&str>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    for attempt in 0.. {
        if attach_and_detach(seen, config, number, attempt, pod)? {
            break;
        }
        ensure!(Instant::now() < end, "ADD is still refused after {attempt} attempts");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether ADD was granted; in any case nothing must be left.
fn attach_and_detach(seen: &Seen, config: &str, number: usize, attempt: u32, pod: Option<&str>) -> Result<bool> {
    let id = format!("fault-{number}-{attempt}");
    run_ip(&["netns", "add", &id])?;
    let added = call("ADD", config, &id, pod)?;
    let mut held = Vec::new();
    if added.status.success() {
        seen.added.fetch_add(1, Ordering::Relaxed);
        held = addresses(&added.stdout)?;
        let mut all = seen.held.lock().unwrap_or_else(PoisonError::into_inner);
        for address in &held {
            ensure!(all.insert(address.clone()), "{address} was given twice");
        }
    } else {
        seen.refused.fetch_add(1, Ordering::Relaxed);
        let why = String::from_utf8_lossy(&added.stdout).into_owned();
        seen.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
    {
        let mut all = seen.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().for_each(|address| _ = all.remove(address));
    }
    // Runtimes may have taken the namespace away before DEL is called.
    let gone_before = number.is_multiple_of(3);
    if gone_before {
        run_ip(&["netns", "del", &id])?;
    }
    detach(seen, config, &id, pod)?;
    if !gone_before {
        run_ip(&["netns", "del", &id])?;
    }
    Ok(added.status.success())
}

fn detach(seen: &Seen, config: &str, id: &str, pod: Option<&str>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let deleted = call("DEL", config, id, pod)?;
        if deleted.status.success() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "DEL still fails: {}", String::from_utf8_lossy(&deleted.stdout));
        seen.repeated.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

fn call(command: &str, config: &str, id: &str, pod: Option<&str>) -> Result<Output> {
    let mut process = Command::new(PLUGIN);
    process.env("CNI_COMMAND", command).env("CNI_CONTAINERID", id).env("CNI_NETNS", format!("/run/netns/{id}"));
    process.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/opt/cni/bin");
    if let Some(pod) = pod {
        process.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={id}"));
    }
    let mut child = process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context(PLUGIN)?;
    if let Some(mut input) = child.stdin.take() {
        // A plugin that ends without reading says why by itself.
        let _ = input.write_all(config.as_bytes());
    }
    Ok(child.wait_with_output()?)
}

fn addresses(result: &[u8]) -> Result<Vec<String>> {
    let result: Value = serde_json::from_slice(result).context("the result of ADD")?;
    let ips = result["ips"].as_array().context("no ips in the result of ADD")?;
    Ok(ips.iter().filter_map(|ip| ip["address"].as_str().map(str::to_owned)).collect())
}

fn run_ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("ip")?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

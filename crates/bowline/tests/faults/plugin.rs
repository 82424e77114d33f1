//! The CNI plugin called as a runtime calls it, while the agent is killed: in the end nothing is left of any call.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::common::generator::{Generator, number};
use crate::common::lab::{Lab, eventually};
use crate::common::node;
use crate::common::objects::idle;
use crate::common::rows::Bench;

/// Pods that the API knows and no kubelet runs: the calls are made in their names.
const NAMES: [&str; 4] = ["called-1", "called-2", "called-3", "called-4"];

fn pending(lab: &Lab) -> Result<()> {
    let mut pods = Vec::new();
    for name in NAMES {
        let mut pod = idle(name, "n1", "called")?;
        if let Some(spec) = pod["spec"].as_object_mut() {
            spec.remove("nodeName");
            spec.insert("nodeSelector".into(), json!({"no-node-has": "this"}));
        }
        pods.push(pod);
    }
    lab.apply_text(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string())
}

pub(crate) fn killed_between(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    pending(lab)?;
    lab.settled()?;
    let before = node::read(lab, "n1")?;
    let count = bench.figure(100, 1000);
    let words: Vec<String> = ["cni".to_owned(), count.to_string()].into_iter().chain(NAMES.map(str::to_owned)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let calls = Generator::on_node(lab, "n1", &words)?;
    let (mut kills, begun) = (0, Instant::now());
    let report = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| calls.finish_within(Duration::from_secs(30 + u64::try_from(count).unwrap_or(0))));
        while !waiting.is_finished() {
            kills += 1;
            lab.agent("kill", "n1")?;
            std::thread::sleep(Duration::from_millis(20 * (kills % 5)));
            lab.agent("start", "n1")?;
            // Killed at any time of its life: in its start, in its first calls, in the middle of many.
            if kills % 2 == 0 {
                lab.settled()?;
            }
            std::thread::sleep(Duration::from_millis(100 * (kills % 4)));
        }
        waiting.join().map_err(|_| anyhow::anyhow!("the waiting thread panicked"))?
    })?;
    ensure!(report["wrong"] == json!([]), "{}", report["wrong"]);
    let (added, refused) = (number(&report, "added")?, number(&report, "refused")?);
    ensure!(
        added > 0 && added + refused >= u64::try_from(count)?,
        "of {count} calls {added} were answered and {refused} refused: {}",
        report["refusal"]
    );
    lab.settled()?;
    eventually(|| node::same("n1", &before.ours, &node::read(lab, "n1")?.ours))?;
    let theirs = |kernel: &node::Kernel| kernel.theirs.clone();
    node::same("n1, not ours", &theirs(&before), &theirs(&node::read(lab, "n1")?))?;
    lab.delete("pod", &NAMES)?;
    let seconds = begun.elapsed().as_secs();
    Ok(format!(
        "{count} pairs in {seconds} s, {kills} kills, {refused} ADDs refused and {} DELs repeated: 0 left behind",
        report["repeated"]
    ))
}

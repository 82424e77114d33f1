//! Pods. Reference: the STATUS column's rules of kubectl 1.32.

use serde_json::{Value, json};

use super::{AGE, NAME, View, age, col, name, or, wide};
use crate::object::{is_terminating, items, text};

pub(super) const PODS: View = View {
    columns: &[
        NAME,
        col("Ready"),
        col("Status"),
        col("Restarts"),
        AGE,
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    row,
};

fn row(pod: &Value) -> Vec<Value> {
    let total = items(pod, "/spec/containers").len();
    let ready = items(pod, "/status/containerStatuses").filter(|one| one.get("ready") == Some(&Value::Bool(true))).count();
    vec![
        name(pod),
        json!(format!("{ready}/{total}")),
        json!(status(pod)),
        json!(restarts(pod)),
        age(pod),
        json!(or(text(pod, "/status/podIP"), "<none>")),
        json!(or(text(pod, "/spec/nodeName"), "<none>")),
        json!(or(text(pod, "/status/nominatedNodeName"), "<none>")),
        json!(gates(pod)),
    ]
}

/// The word that says best how a pod is: of its deletion, of a container in trouble, or its phase.
fn status(pod: &Value) -> String {
    let phase = text(pod, "/status/phase");
    let mut reason = or(text(pod, "/status/reason"), or(phase, "Unknown")).to_owned();
    let initialising = init_status(pod);
    if let Some(initial) = &initialising {
        reason.clone_from(initial);
    } else {
        let mut running = false;
        for container in items(pod, "/status/containerStatuses").rev() {
            if let Some(word) = trouble(container) {
                reason = word;
            } else if container.get("ready") == Some(&Value::Bool(true)) {
                running = true;
            }
        }
        if reason == "Completed" && running {
            reason = if is_ready(pod) { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if !is_terminating(pod) {
        return reason;
    }
    match (text(pod, "/status/reason"), phase) {
        ("NodeLost", _) => "Unknown".to_owned(),
        (_, "Succeeded" | "Failed") => reason,
        _ => "Terminating".to_owned(),
    }
}

fn is_ready(pod: &Value) -> bool {
    items(pod, "/status/conditions").any(|one| text(one, "/type") == "Ready" && text(one, "/status") == "True")
}

/// Why a container waits or how it ended.
fn trouble(container: &Value) -> Option<String> {
    let waiting = text(container, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let ended = container.pointer("/state/terminated")?;
    let number = |field: &str| ended.get(field).and_then(Value::as_i64).unwrap_or_default();
    Some(match (text(ended, "/reason"), number("signal"), number("exitCode")) {
        ("", 0, code) => format!("ExitCode:{code}"),
        ("", signal, _) => format!("Signal:{signal}"),
        (reason, _, _) => reason.to_owned(),
    })
}

fn init_status(pod: &Value) -> Option<String> {
    let total = items(pod, "/spec/initContainers").len();
    for (index, container) in items(pod, "/status/initContainerStatuses").enumerate() {
        let done = container.pointer("/state/terminated/exitCode").and_then(Value::as_i64) == Some(0);
        if done || container.get("started") == Some(&Value::Bool(true)) {
            continue;
        }
        return Some(match trouble(container).filter(|word| word != "PodInitializing") {
            Some(word) => format!("Init:{word}"),
            None => format!("Init:{index}/{total}"),
        });
    }
    None
}

fn restarts(pod: &Value) -> String {
    let statuses = || items(pod, "/status/containerStatuses").chain(items(pod, "/status/initContainerStatuses"));
    let total: i64 = statuses().filter_map(|one| one.get("restartCount").and_then(Value::as_i64)).sum();
    let last = statuses().map(|one| text(one, "/lastState/terminated/finishedAt")).max().unwrap_or_default();
    if total > 0 && !last.is_empty() { format!("{total} ({} ago)", super::age::since(last)) } else { total.to_string() }
}

fn gates(pod: &Value) -> String {
    let total = items(pod, "/spec/readinessGates").len();
    let met = |gate: &&Value| {
        let wanted = text(gate, "/conditionType");
        items(pod, "/status/conditions").any(|one| text(one, "/type") == wanted && text(one, "/status") == "True")
    };
    let met = items(pod, "/spec/readinessGates").filter(met).count();
    if total == 0 { "<none>".to_owned() } else { format!("{met}/{total}") }
}

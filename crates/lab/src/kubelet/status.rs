//! A pod's status, made from the states of its containers; pure but for the clock.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::env::Facts;

/// The time in the API's form.
pub(super) fn now() -> String {
    OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not running, to be run.
    Waiting {
        /// One word.
        reason: &'static str,
        /// More words.
        message: String,
    },
    /// Running.
    Running {
        /// Its process in the lab.
        pid: u32,
        /// Since when.
        since: String,
    },
    /// Not running, not to be run again for now.
    Ended(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exit {
    /// Its exit code; 128 and the number of a signal.
    pub(super) code: i32,
    /// When it began.
    pub(super) since: String,
    /// When it ended.
    pub(super) at: String,
}

/// A container's part of the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerStatus {
    /// Its name.
    pub(super) name: String,
    /// Its image.
    pub(super) image: String,
    /// Whether it is run to its end before the others begin.
    pub(super) init: bool,
    /// Whether it is declared among those that run first, but stays.
    pub(super) sidecar: bool,
    /// How it is.
    pub(super) state: State,
    /// How it ended before.
    pub(super) last: Option<Exit>,
    /// Whether it may be sent work.
    pub(super) ready: bool,
    /// How often it was started again.
    pub(super) restarts: i32,
    /// Whether it will be started again if it is not running.
    pub(super) comes_back: bool,
}

impl ContainerStatus {
    fn json(&self, container_id: &str) -> Value {
        let id = format!("lab://{container_id}-{}", self.name);
        let exit = |exit: &Exit| {
            json!({"exitCode": exit.code, "reason": if exit.code == 0 { "Completed" } else { "Error" },
                   "startedAt": exit.since, "finishedAt": exit.at, "containerID": id})
        };
        let state = match &self.state {
            State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            State::Running { since, .. } => json!({"running": {"startedAt": since}}),
            State::Ended(how) => json!({"terminated": exit(how)}),
        };
        let last = self.last.as_ref().map_or(json!({}), |last| json!({"terminated": exit(last)}));
        json!({
            "name": self.name, "image": self.image, "imageID": "", "containerID": id,
            "state": state, "lastState": last, "ready": self.ready, "restartCount": self.restarts,
            "started": matches!(self.state, State::Running { .. }),
        })
    }
}

/// What is known of a pod.
#[derive(Debug, Clone)]
pub(super) struct PodState<'a> {
    /// Its containers, those that run first first.
    pub(super) containers: &'a [ContainerStatus],
    /// Its addresses.
    pub(super) facts: &'a Facts,
    /// Since when it has been on this node.
    pub(super) since: &'a str,
    /// Its sandbox.
    pub(super) sandbox: &'a str,
}

impl PodState<'_> {
    fn phase(&self) -> &'static str {
        let main = || self.containers.iter().filter(|container| !container.init);
        let ended = |container: &ContainerStatus| matches!(container.state, State::Ended(_)) && !container.comes_back;
        let failed = |container: &ContainerStatus| matches!(&container.state, State::Ended(exit) if exit.code != 0);
        if self.containers.iter().any(|container| container.init && ended(container) && failed(container)) {
            return "Failed";
        }
        if main().all(ended) {
            return if main().any(failed) { "Failed" } else { "Succeeded" };
        }
        let begun = main().all(|c| !matches!(c.state, State::Waiting { reason: "ContainerCreating" | "PodInitializing", .. }));
        if begun { "Running" } else { "Pending" }
    }

    /// The status as the API has it. Conditions that did not change keep their time.
    pub(super) fn json(&self, pod: &Pod) -> Value {
        let phase = self.phase();
        let initialized = self.containers.iter().filter(|c| c.init).all(|c| matches!(&c.state, State::Ended(exit) if exit.code == 0));
        let all_ready = self.containers.iter().filter(|c| !c.init).all(|c| c.ready) && phase == "Running";
        let ready = all_ready && gates_are_open(pod);
        let condition = |kind: &str, good: bool, reason: Option<&str>| {
            let status = if good { "True" } else { "False" };
            let old = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == kind && c.status == status);
            let since = old.and_then(|old| serde_json::to_value(&old.last_transition_time).ok()).unwrap_or_else(|| json!(now()));
            json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason})
        };
        let not_ready = if phase == "Succeeded" { "PodCompleted" } else { "ContainersNotReady" };
        let reason = |good: bool, otherwise| (!good).then_some(if all_ready { otherwise } else { not_ready });
        let statuses = |first: bool| {
            self.containers.iter().filter(|c| (c.init || c.sidecar) == first).map(|c| c.json(self.sandbox)).collect::<Vec<_>>()
        };
        let addresses = |all: &[String]| all.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        let mut conditions = vec![
            condition("PodReadyToStartContainers", !self.facts.pod_ips.is_empty(), None),
            condition("Initialized", initialized, (!initialized).then_some("ContainersNotInitialized")),
            condition("Ready", ready, reason(ready, "ReadinessGatesNotReady")),
            condition("ContainersReady", all_ready, reason(all_ready, not_ready)),
            condition("PodScheduled", true, None),
        ];
        conditions.extend(conditions_of_others(pod).filter_map(|condition| serde_json::to_value(condition).ok()));
        json!({
            "phase": phase,
            "conditions": conditions,
            "hostIP": self.facts.host_ips.first(),
            "hostIPs": addresses(&self.facts.host_ips),
            "podIP": self.facts.pod_ips.first(),
            "podIPs": if self.facts.pod_ips.is_empty() { Value::Null } else { json!(addresses(&self.facts.pod_ips)) },
            "startTime": self.since,
            "initContainerStatuses": statuses(true),
            "containerStatuses": statuses(false),
            // Decided when the pod was made.
            "qosClass": pod.status.as_ref().and_then(|status| status.qos_class.as_deref()).unwrap_or("BestEffort"),
        })
    }
}

/// The conditions that a kubelet keeps.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Conditions that others keep: of disruption, of readiness gates.
fn conditions_of_others(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.filter(|condition| !OWN.contains(&condition.type_.as_str()))
}

/// Whether every condition is there that the pod's readiness waits for.
fn gates_are_open(pod: &Pod) -> bool {
    let open = |gate: &str| conditions_of_others(pod).any(|condition| condition.type_ == gate && condition.status == "True");
    pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten()).all(|gate| open(&gate.condition_type))
}

/// Whether the API has the conditions that were written: a node controller that misses a node's heartbeats calls its pods
/// not ready, and only their kubelet takes that back.
pub(super) fn still_stands(written: &Value, pod: &Pod) -> bool {
    let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let wanted = written.get("conditions").and_then(Value::as_array);
    wanted.into_iter().flatten().all(|wanted| {
        let all = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.into_iter().any(|found| found.type_ == text(wanted, "type") && found.status == text(wanted, "status"))
    })
}

/// A status without the times in it: two that differ in nothing else need not be written twice.
pub(super) fn without_times(body: &Value) -> Value {
    match body {
        Value::Object(fields) => Value::Object(
            fields.iter().filter(|(key, _)| !key.ends_with("Time")).map(|(key, value)| (key.clone(), without_times(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_times).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => body.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn container(state: State, ready: bool, comes_back: bool) -> ContainerStatus {
        ContainerStatus {
            name: "c".into(),
            image: "i".into(),
            init: false,
            sidecar: false,
            state,
            last: None,
            ready,
            restarts: 0,
            comes_back,
        }
    }

    fn ended(code: i32) -> State {
        State::Ended(Exit { code, since: now(), at: now() })
    }

    fn check(containers: &[ContainerStatus], phase: &str, ready: &str) {
        let facts = Facts { pod_ips: vec!["10.0.0.1".into()], host_ips: vec![] };
        let state = PodState { containers, facts: &facts, since: "", sandbox: "s" };
        let json = state.json(&Pod::default());
        assert_eq!(json["phase"], phase);
        let condition = json["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
        assert_eq!(condition["status"], ready);
    }

    #[test]
    fn phases() {
        let running = State::Running { pid: 1, since: now() };
        check(&[container(State::Waiting { reason: "ContainerCreating", message: String::new() }, false, true)], "Pending", "False");
        check(&[container(running.clone(), true, true)], "Running", "True");
        check(&[container(running.clone(), true, true), container(running, false, true)], "Running", "False");
        check(&[container(ended(1), false, true)], "Running", "False");
        check(&[container(ended(1), false, false)], "Failed", "False");
        check(&[container(ended(0), false, false)], "Succeeded", "False");
    }

    #[test]
    fn conditions_of_others_stay_and_gates_are_heeded() {
        let running = [container(State::Running { pid: 1, since: now() }, true, true)];
        let facts = Facts { pod_ips: vec!["10.0.0.1".into()], host_ips: vec![] };
        let status = |gate: &str| {
            let pod = serde_json::from_value(json!({
                "spec": {"containers": [], "readinessGates": [{"conditionType": "example.org/gate"}]},
                "status": {"qosClass": "Burstable", "conditions": [{"type": "example.org/gate", "status": gate}]}}));
            PodState { containers: &running, facts: &facts, since: "", sandbox: "s" }.json(&pod.unwrap())
        };
        let of = |status: &Value, kind: &str| {
            let all = status["conditions"].as_array().unwrap();
            all.iter().find(|condition| condition["type"] == kind).unwrap()["status"].clone()
        };
        let (closed, open) = (status("False"), status("True"));
        assert_eq!((of(&closed, "Ready"), of(&closed, "ContainersReady")), (json!("False"), json!("True")));
        assert_eq!((of(&open, "Ready"), of(&open, "example.org/gate")), (json!("True"), json!("True")));
        assert_eq!(open["qosClass"], "Burstable");
    }

    #[test]
    fn what_others_write_over_a_condition_is_seen() {
        let written = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let pod = |status: &str| serde_json::from_value(json!({"status": {"conditions": [{"type": "Ready", "status": status}]}})).unwrap();
        assert!(still_stands(&written, &pod("True")));
        assert!(!still_stands(&written, &pod("False")) && !still_stands(&written, &Pod::default()));
    }

    #[test]
    fn times_alone_are_no_change() {
        let a = json!({"x": [{"lastTransitionTime": "1", "status": "True"}]});
        let b = json!({"x": [{"lastTransitionTime": "2", "status": "True"}]});
        assert_eq!(without_times(&a), without_times(&b));
    }
}

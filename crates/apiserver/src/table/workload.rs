//! Kinds that make pods.

use serde_json::{Value, json};

use super::{AGE, NAME, View, age, col, containers, count, name, num, selector, wide};
use crate::object::{integer, items, text};

const TEMPLATE: &str = "/spec/template/spec/containers";

pub(super) const DEPLOYMENTS: View = View {
    columns: &[NAME, col("Ready"), num("Up-to-date"), num("Available"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    row: |deployment| {
        let (names, images) = containers(deployment, TEMPLATE);
        vec![
            name(deployment),
            ready(deployment),
            count(deployment, "/status/updatedReplicas"),
            count(deployment, "/status/availableReplicas"),
            age(deployment),
            names,
            images,
            selector(deployment, "/spec/selector"),
        ]
    },
};

pub(super) const REPLICA_SETS: View = View {
    columns: &[NAME, num("Desired"), num("Current"), num("Ready"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    row: |set| {
        let (names, images) = containers(set, TEMPLATE);
        vec![
            name(set),
            count(set, "/spec/replicas"),
            count(set, "/status/replicas"),
            count(set, "/status/readyReplicas"),
            age(set),
            names,
            images,
            selector(set, "/spec/selector"),
        ]
    },
};

pub(super) const DAEMON_SETS: View = View {
    columns: &[
        NAME,
        num("Desired"),
        num("Current"),
        num("Ready"),
        num("Up-to-date"),
        num("Available"),
        col("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |set| {
        let (names, images) = containers(set, TEMPLATE);
        vec![
            name(set),
            count(set, "/status/desiredNumberScheduled"),
            count(set, "/status/currentNumberScheduled"),
            count(set, "/status/numberReady"),
            count(set, "/status/updatedNumberScheduled"),
            count(set, "/status/numberAvailable"),
            selector(set, "/spec/template/spec/nodeSelector"),
            age(set),
            names,
            images,
            selector(set, "/spec/selector"),
        ]
    },
};

pub(super) const STATEFUL_SETS: View = View {
    columns: &[NAME, col("Ready"), AGE, wide("Containers"), wide("Images")],
    row: |set| {
        let (names, images) = containers(set, TEMPLATE);
        vec![name(set), ready(set), age(set), names, images]
    },
};

pub(super) const JOBS: View = View {
    columns: &[NAME, col("Status"), col("Completions"), col("Duration"), AGE, wide("Containers"), wide("Images"), wide("Selector")],
    row: |job| {
        let (names, images) = containers(job, TEMPLATE);
        let wanted = integer(job, "/spec/completions").or(integer(job, "/spec/parallelism")).unwrap_or(1);
        let done = integer(job, "/status/succeeded").unwrap_or_default();
        let (start, end) = (text(job, "/status/startTime"), text(job, "/status/completionTime"));
        let duration = match (start, end) {
            ("", _) => String::new(),
            (start, "") => super::age::since(start),
            (start, end) => super::age::between(start, end).unwrap_or_default(),
        };
        let completions = json!(format!("{done}/{wanted}"));
        vec![name(job), json!(job_status(job)), completions, json!(duration), age(job), names, images, selector(job, "/spec/selector")]
    },
};

fn ready(workload: &Value) -> Value {
    let number = |pointer| integer(workload, pointer).unwrap_or_default();
    json!(format!("{}/{}", number("/status/readyReplicas"), number("/spec/replicas")))
}

fn job_status(job: &Value) -> &'static str {
    let holds = |kind: &str| items(job, "/status/conditions").any(|one| text(one, "/type") == kind && text(one, "/status") == "True");
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if crate::object::is_terminating(job) => "Terminating",
        () if holds("Suspended") => "Suspended",
        () => "Running",
    }
}

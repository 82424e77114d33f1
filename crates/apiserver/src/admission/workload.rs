//! Defaults and rules of the kinds that make pods: Deployment, ReplicaSet, DaemonSet, StatefulSet, Job and
//! ReplicationController.
//!
//! Reference: apps/v1 and batch/v1 in the API reference of Kubernetes 1.32.

use serde_json::{Map, Value, json};

use super::pod;
use crate::error::Cause;
use crate::object::{as_map, child, integer, set_default};
use crate::selector::Selector;

/// Fills in the defaults of one of these kinds.
pub(super) fn default(plural: &str, workload: &mut Value) {
    let labels = workload.pointer("/spec/template/metadata/labels").cloned();
    if let (Some(labels), "replicationcontrollers") = (labels, plural) {
        set_default(child(workload, "spec"), "selector", labels.clone());
        let metadata = child(workload, "metadata");
        set_default(metadata, "labels", labels);
    }
    let spec = child(workload, "spec");
    if !matches!(plural, "daemonsets" | "jobs") {
        set_default(spec, "replicas", 1);
    }
    match plural {
        "deployments" => {
            set_default(spec, "progressDeadlineSeconds", 600);
            set_default(spec, "revisionHistoryLimit", 10);
            let rolling = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
            default_strategy(as_map(spec.entry("strategy").or_insert(Value::Null)), &rolling);
        }
        "daemonsets" => {
            set_default(spec, "revisionHistoryLimit", 10);
            let rolling = json!({"maxSurge": 0, "maxUnavailable": 1});
            default_strategy(as_map(spec.entry("updateStrategy").or_insert(Value::Null)), &rolling);
        }
        "statefulsets" => {
            set_default(spec, "revisionHistoryLimit", 10);
            set_default(spec, "podManagementPolicy", "OrderedReady");
            default_strategy(as_map(spec.entry("updateStrategy").or_insert(Value::Null)), &json!({"partition": 0}));
        }
        "jobs" => default_job(workload),
        _ => {}
    }
    let template = as_map(child(workload, "spec").entry("template").or_insert(Value::Null));
    pod::default_spec(as_map(template.entry("spec").or_insert(Value::Null)));
}

fn default_strategy(strategy: &mut Map<String, Value>, rolling: &Value) {
    set_default(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) != Some("RollingUpdate") {
        return;
    }
    let given = as_map(strategy.entry("rollingUpdate").or_insert(Value::Null));
    for (field, value) in rolling.as_object().into_iter().flatten() {
        set_default(given, field, value.clone());
    }
}

/// A job finds its pods by its own uid, unless it brings a selector.
fn default_job(job: &mut Value) {
    let uid = crate::object::uid(job).to_owned();
    let spec = child(job, "spec");
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        set_default(spec, "completions", 1);
    }
    for (field, value) in
        [("parallelism", json!(1)), ("backoffLimit", json!(6)), ("suspend", json!(false)), ("completionMode", json!("NonIndexed"))]
    {
        set_default(spec, field, value);
    }
    if spec.get("manualSelector") != Some(&Value::Bool(true)) && !spec.contains_key("selector") {
        let labels = json!({"batch.kubernetes.io/controller-uid": uid});
        spec.insert("selector".to_owned(), json!({"matchLabels": labels}));
        let template = as_map(spec.entry("template").or_insert(Value::Null));
        let metadata = as_map(template.entry("metadata").or_insert(Value::Null));
        let given = as_map(metadata.entry("labels").or_insert(Value::Null));
        given.insert("batch.kubernetes.io/controller-uid".to_owned(), json!(uid));
    }
}

/// Checks selector, template and counts.
pub(super) fn check(plural: &str, old: Option<&Value>, workload: &Value, causes: &mut Vec<Cause>) {
    if let Some(replicas) = workload.pointer("/spec/replicas")
        && integer(replicas, "").is_none_or(|count| count < 0)
    {
        causes.push(Cause::invalid("spec.replicas", replicas, "must be a whole number greater than or equal to 0"));
    }
    let selector = workload.pointer("/spec/selector").filter(|given| !given.is_null());
    let labels = workload.pointer("/spec/template/metadata/labels").cloned().unwrap_or_default();
    match selector {
        None => causes.push(Cause::required("spec.selector", "")),
        Some(selector) => {
            let parsed = match plural {
                "replicationcontrollers" => Ok(Selector::of_map(selector)),
                _ => Selector::of_object(selector),
            };
            match parsed {
                Err(fault) => causes.push(Cause::invalid("spec.selector", selector, &fault)),
                Ok(parsed) if parsed.is_empty() => {
                    causes.push(Cause::invalid("spec.selector", selector, "empty selector is invalid for this kind"));
                }
                Ok(parsed) if !parsed.matches_labels(&labels) => {
                    let hint = "`selector` does not match template `labels`";
                    causes.push(Cause::invalid("spec.template.metadata.labels", &labels, hint));
                }
                Ok(_) => {}
            }
        }
    }
    let before = old.and_then(|old| old.pointer("/spec/selector"));
    if plural != "replicationcontrollers" && before.is_some() && before != selector {
        causes.push(Cause::invalid("spec.selector", selector.unwrap_or(&Value::Null), "field is immutable"));
    }
    pod::check_spec(workload.pointer("/spec/template/spec"), "spec.template.spec", causes);
}

//! Defaults and rules of a pod, alone or as a template.
//!
//! Reference: `PodSpec` of core/v1 in the API reference of Kubernetes 1.32.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::names::is_dns_label;
use crate::error::Cause;
use crate::object::{as_map, child, integer, items, set_default, text};

/// Fills in the defaults of a pod's spec.
pub(super) fn default_spec(spec: &mut Map<String, Value>) {
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", json!({}));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for field in ["containers", "initContainers"] {
        for container in list_mut(spec, field) {
            default_container(as_map(container), host_network);
        }
    }
    for volume in list_mut(spec, "volumes") {
        for source in ["configMap", "secret", "projected", "downwardAPI"] {
            if let Some(Value::Object(source)) = volume.get_mut(source) {
                set_default(source, "defaultMode", 420);
            }
        }
    }
}

/// What only a pod itself gets, not a template.
pub(super) fn default_pod(pod: &mut Value) {
    let spec = child(pod, "spec");
    default_spec(spec);
    set_default(spec, "enableServiceLinks", true);
    set_default(spec, "serviceAccountName", "default");
    let account = spec.get("serviceAccountName").cloned().unwrap_or_default();
    set_default(spec, "serviceAccount", account);
    set_default(spec, "preemptionPolicy", "PreemptLowerPriority");
    set_default(spec, "priority", 0);
    let quality = quality_class(spec);
    let status = child(pod, "status");
    set_default(status, "phase", "Pending");
    set_default(status, "qosClass", quality);
}

fn list_mut<'a>(map: &'a mut Map<String, Value>, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn default_container(container: &mut Map<String, Value>, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let moving = !image.contains('@') && last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
    set_default(container, "imagePullPolicy", if moving { "Always" } else { "IfNotPresent" });
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    for port in list_mut(container, "ports") {
        let port = as_map(port);
        set_default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set_default(port, "hostPort", number);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = container.get_mut(probe) {
            default_probe(probe);
        }
    }
    for variable in list_mut(container, "env") {
        if let Some(Value::Object(reference)) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
    }
}

fn default_probe(probe: &mut Map<String, Value>) {
    for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
        set_default(probe, field, value);
    }
    if let Some(Value::Object(get)) = probe.get_mut("httpGet") {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
}

/// The class by which pods are evicted first, made from requests and limits.
fn quality_class(spec: &Map<String, Value>) -> &'static str {
    let containers: Vec<&Value> = spec.get("containers").and_then(Value::as_array).into_iter().flatten().collect();
    let has = |container: &Value, part: &str| {
        container.pointer(&format!("/resources/{part}")).and_then(Value::as_object).is_some_and(|map| !map.is_empty())
    };
    if !containers.iter().any(|one| has(one, "requests") || has(one, "limits")) {
        return "BestEffort";
    }
    let guaranteed = containers.iter().all(|one| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = one.pointer(&format!("/resources/limits/{resource}"));
            let request = one.pointer(&format!("/resources/requests/{resource}"));
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// Checks a pod's spec; `at` is its path, such as `spec.template.spec`.
pub(super) fn check_spec(spec: Option<&Value>, at: &str, causes: &mut Vec<Cause>) {
    let empty = Value::Null;
    let spec = spec.unwrap_or(&empty);
    if items(spec, "/containers").len() == 0 {
        causes.push(Cause::required(format!("{at}.containers"), ""));
    }
    let mut names = BTreeSet::new();
    for field in ["containers", "initContainers"] {
        for (index, container) in items(spec, &format!("/{field}")).enumerate() {
            let at = format!("{at}.{field}[{index}]");
            check_container(container, &at, causes);
            let name = text(container, "/name");
            if !name.is_empty() && !names.insert(name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &json!(name)));
            }
        }
    }
    let policy = text(spec, "/restartPolicy");
    if !["Always", "OnFailure", "Never"].contains(&policy) {
        causes.push(Cause::unsupported(format!("{at}.restartPolicy"), &json!(policy), &["Always", "OnFailure", "Never"]));
    }
}

fn check_container(container: &Value, at: &str, causes: &mut Vec<Cause>) {
    let name = text(container, "/name");
    if name.is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    } else if !is_dns_label(name) {
        causes.push(Cause::invalid(format!("{at}.name"), &json!(name), "must be a lowercase RFC 1123 label"));
    }
    if text(container, "/image").is_empty() {
        causes.push(Cause::required(format!("{at}.image"), ""));
    }
    for (index, port) in items(container, "/ports").enumerate() {
        let at = format!("{at}.ports[{index}]");
        check_port(port, "containerPort", &at, causes);
        check_protocol(port, &at, causes);
    }
}

/// Checks that a field holds a port number.
pub(super) fn check_port(port: &Value, field: &str, at: &str, causes: &mut Vec<Cause>) {
    match port.get(field) {
        None | Some(Value::Null) => causes.push(Cause::required(format!("{at}.{field}"), "")),
        Some(number) if !integer(number, "").is_some_and(|number| (1..=65535).contains(&number)) => {
            causes.push(Cause::invalid(format!("{at}.{field}"), number, "must be between 1 and 65535, inclusive"));
        }
        Some(_) => {}
    }
}

/// Checks that a port's protocol, if given, is one of the three.
pub(super) fn check_protocol(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    let known = ["SCTP", "TCP", "UDP"];
    if let Some(protocol) = port.get("protocol").filter(|given| !given.is_null())
        && !protocol.as_str().is_some_and(|given| known.contains(&given))
    {
        causes.push(Cause::unsupported(format!("{at}.protocol"), protocol, &known));
    }
}

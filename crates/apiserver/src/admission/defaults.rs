//! Defaults of all kinds but pods and workloads.
//!
//! Reference: the API reference of Kubernetes 1.32, and what kubectl and controllers count on in objects they read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{pod, workload};
use crate::kinds::Resource;
use crate::object::{self, as_map, child, items, set_default};

/// Fills in what the writer left out.
pub(crate) fn default(resource: &Resource, object: &mut Value, creating: bool) {
    match (resource.id.group.as_str(), resource.id.resource.as_str()) {
        ("", "namespaces") => default_namespace(object, creating),
        ("", "pods") => pod::default_pod(object),
        ("", "services") => default_service(object),
        ("", "secrets") => default_secret(object),
        ("", "endpoints") => {
            for subset in list_mut(object, "/subsets") {
                default_protocol(subset, "/ports");
            }
        }
        ("apps" | "batch", plural) | ("", plural @ "replicationcontrollers") => workload::default(plural, object),
        ("discovery.k8s.io", "endpointslices") => {
            default_protocol(object, "/ports");
            for port in list_mut(object, "/ports") {
                set_default(as_map(port), "name", "");
            }
        }
        ("networking.k8s.io", "networkpolicies") => default_policy(object),
        ("networking.k8s.io", "ingresses") => {
            set_default(child(object, "status"), "loadBalancer", json!({}));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => default_definition(object),
        _ => default_by_schema(resource, object),
    }
}

fn list_mut<'a>(object: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

fn default_protocol(object: &mut Value, pointer: &str) {
    for port in list_mut(object, pointer) {
        set_default(as_map(port), "protocol", "TCP");
    }
}

fn default_namespace(namespace: &mut Value, creating: bool) {
    let name = object::name(namespace).to_owned();
    let labels = object::metadata(namespace).entry("labels").or_insert(Value::Null);
    as_map(labels).insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    if creating {
        // Only the deletion of the namespace's content takes this finalizer away.
        set_default(child(namespace, "spec"), "finalizers", json!(["kubernetes"]));
    }
    set_default(child(namespace, "status"), "phase", "Active");
}

fn default_service(service: &mut Value) {
    let spec = child(service, "spec");
    set_default(spec, "type", "ClusterIP");
    set_default(spec, "sessionAffinity", "None");
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
        let config = as_map(spec.entry("sessionAffinityConfig").or_insert(Value::Null));
        set_default(as_map(config.entry("clientIP").or_insert(Value::Null)), "timeoutSeconds", 10_800);
    } else {
        spec.remove("sessionAffinityConfig");
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    } else if spec.get("externalIPs").is_none() {
        spec.remove("externalTrafficPolicy");
    }
    if kind == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in list_mut(service, "/spec/ports") {
        let port = as_map(port);
        set_default(port, "protocol", "TCP");
        // Clients in Go write it although nobody has set it.
        if port.get("targetPort").is_some_and(|target| *target == json!(0) || *target == json!("")) {
            port.remove("targetPort");
        }
        if let Some(number) = port.get("port").cloned() {
            set_default(port, "targetPort", number);
        }
    }
    set_default(child(service, "status"), "loadBalancer", json!({}));
}

/// `stringData` is for writing only: it is folded into `data`.
fn default_secret(secret: &mut Value) {
    let map = as_map(secret);
    set_default(map, "type", "Opaque");
    if let Some(Value::Object(plain)) = map.remove("stringData") {
        let data = as_map(map.entry("data").or_insert(Value::Null));
        for (key, value) in plain {
            data.insert(key, json!(STANDARD.encode(value.as_str().unwrap_or_default())));
        }
    }
}

fn default_policy(policy: &mut Value) {
    let spec = child(policy, "spec");
    set_default(spec, "podSelector", json!({}));
    let has_egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
    for direction in ["/spec/ingress", "/spec/egress"] {
        for rule in list_mut(policy, direction) {
            default_protocol(rule, "/ports");
        }
    }
}

fn default_definition(definition: &mut Value) {
    let spec = child(definition, "spec");
    set_default(spec, "conversion", json!({"strategy": "None"}));
    let names = as_map(spec.entry("names").or_insert(Value::Null));
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    set_default(names, "singular", kind.to_lowercase());
    set_default(names, "listKind", format!("{kind}List"));
    let accepted = Value::Object(names.clone());
    let stored: Vec<Value> = items(definition, "/spec/versions")
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .filter_map(|version| version.get("name").cloned())
        .collect();
    let status = child(definition, "status");
    status.insert("acceptedNames".to_owned(), accepted);
    set_default(status, "storedVersions", stored);
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": object::now()});
    set_default(
        status,
        "conditions",
        json!([
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ]),
    );
}

fn default_by_schema(resource: &Resource, object: &mut Value) {
    let version = object::text(object, "/apiVersion").rsplit('/').next().unwrap_or_default().to_owned();
    let entry = resource.custom_version(&version);
    if let Some(schema) = entry.and_then(|entry| entry.pointer("/schema/openAPIV3Schema")) {
        default_custom(schema, object);
    }
}

/// Fills in the `default`s of a schema.
fn default_custom(schema: &Value, value: &mut Value) {
    if let (Some(properties), Value::Object(map)) = (schema.get("properties").and_then(Value::as_object), &mut *value) {
        for (field, schema) in properties {
            default_field(map, field, schema);
        }
    }
    if let (Some(each), Value::Array(list)) = (schema.get("items"), &mut *value) {
        list.iter_mut().for_each(|item| default_custom(each, item));
    }
    if let (Some(each @ Value::Object(_)), Value::Object(map)) = (schema.get("additionalProperties"), value) {
        map.values_mut().for_each(|item| default_custom(each, item));
    }
}

fn default_field(map: &mut Map<String, Value>, field: &str, schema: &Value) {
    if let Some(default) = schema.get("default") {
        let nullable = schema.get("nullable") == Some(&Value::Bool(true));
        if !map.contains_key(field) || map.get(field) == Some(&Value::Null) && !nullable {
            map.insert(field.to_owned(), default.clone());
        }
    }
    if let Some(value) = map.get_mut(field) {
        default_custom(schema, value);
    }
}

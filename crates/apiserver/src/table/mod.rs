//! Tables: what `kubectl get` prints, made by the server.
//!
//! Invariant: a row has as many cells as there are columns; a cell of an object that lacks a field says so (`<none>`,
//! `<unknown>`) and never fails. Reference: `Table` of meta/v1; kubectl's columns of Kubernetes 1.32.

mod age;
mod cluster;
mod custom;
mod network;
mod pod;
mod workload;

use serde_json::{Value, json};

use crate::kinds::Resource;
use crate::object;

/// One column.
pub(super) struct Column {
    name: &'static str,
    /// 0 shows always, 1 with `-o wide`.
    priority: u8,
    ty: &'static str,
}

const fn col(name: &'static str) -> Column {
    Column { name, priority: 0, ty: "string" }
}

const fn wide(name: &'static str) -> Column {
    Column { name, priority: 1, ty: "string" }
}

const fn num(name: &'static str) -> Column {
    Column { name, priority: 0, ty: "integer" }
}

const NAME: Column = col("Name");
const AGE: Column = col("Age");

/// Makes an object's cells.
type Cells = Box<dyn Fn(&Value) -> Vec<Value>>;

/// How a kind is shown.
struct View {
    columns: &'static [Column],
    row: fn(&Value) -> Vec<Value>,
}

const PLAIN: View = View { columns: &[NAME, AGE], row: |object| vec![name(object), age(object)] };
const CREATED: View = View {
    columns: &[NAME, col("Created At")],
    row: |object| vec![name(object), json!(object::text(object, "/metadata/creationTimestamp"))],
};

fn view(resource: &Resource) -> View {
    match (resource.id.group.as_str(), resource.id.resource.as_str()) {
        ("", "pods") => pod::PODS,
        ("", "nodes") => cluster::NODES,
        ("", "namespaces") => cluster::NAMESPACES,
        ("", "configmaps") => cluster::CONFIG_MAPS,
        ("", "secrets") => cluster::SECRETS,
        ("", "serviceaccounts") => cluster::SERVICE_ACCOUNTS,
        ("", "events") => cluster::EVENTS,
        ("", "services") => network::SERVICES,
        ("", "endpoints") => network::ENDPOINTS,
        ("", "replicationcontrollers") | ("apps", "replicasets") => workload::REPLICA_SETS,
        ("apps", "deployments") => workload::DEPLOYMENTS,
        ("apps", "daemonsets") => workload::DAEMON_SETS,
        ("apps", "statefulsets") => workload::STATEFUL_SETS,
        ("batch", "jobs") => workload::JOBS,
        ("discovery.k8s.io", "endpointslices") => network::ENDPOINT_SLICES,
        ("networking.k8s.io", "networkpolicies") => network::NETWORK_POLICIES,
        ("networking.k8s.io", "ingresses") => network::INGRESSES,
        ("networking.k8s.io", "ingressclasses") => network::INGRESS_CLASSES,
        ("networking.k8s.io", "servicecidrs") => network::SERVICE_CIDRS,
        ("networking.k8s.io", "ipaddresses") => network::IP_ADDRESSES,
        ("coordination.k8s.io", "leases") => cluster::LEASES,
        ("apiextensions.k8s.io", "customresourcedefinitions") => CREATED,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => CREATED,
        ("rbac.authorization.k8s.io", _) => cluster::ROLE_BINDINGS,
        _ => PLAIN,
    }
}

/// A table of these objects. `include` says what each row brings of its object: `None`, `Object` or (otherwise) metadata.
pub(crate) fn table(resource: &Resource, version: &str, objects: &[&Value], include: &str, metadata: Value) -> Value {
    let (columns, cells): (Vec<Value>, Cells) = match resource.custom_version(version) {
        Some(entry) => custom::view(entry),
        None => {
            let view = view(resource);
            (view.columns.iter().map(definition).collect(), Box::new(view.row))
        }
    };
    let row = |object: &&Value| match include {
        "None" => json!({"cells": cells(object)}),
        "Object" => json!({"cells": cells(object), "object": object}),
        _ => json!({"cells": cells(object), "object": partial(object)}),
    };
    let rows: Vec<Value> = objects.iter().map(row).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

/// An object's metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")})
}

fn definition(column: &Column) -> Value {
    let format = if column.name == "Name" { "name" } else { "" };
    json!({"name": column.name, "type": column.ty, "format": format, "description": "", "priority": column.priority})
}

fn name(object: &Value) -> Value {
    json!(object::name(object))
}

fn age(object: &Value) -> Value {
    json!(age::since(object::text(object, "/metadata/creationTimestamp")))
}

/// A count; 0 where there is none.
fn count(object: &Value, pointer: &str) -> Value {
    json!(object::integer(object, pointer).unwrap_or_default())
}

/// Text, or `<none>`.
fn text_or_none(object: &Value, pointer: &str) -> Value {
    json!(or(object::text(object, pointer), "<none>"))
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

fn joined(parts: &[&str]) -> Value {
    json!(or(&parts.join(","), "<none>"))
}

/// Names and images of a pod's containers.
fn containers(object: &Value, pointer: &str) -> (Value, Value) {
    let each = |field: &str| {
        let all: Vec<&str> = object::items(object, pointer).map(|container| object::text(container, field)).collect();
        joined(&all)
    };
    (each("/name"), each("/image"))
}

fn selector(object: &Value, pointer: &str) -> Value {
    let text = crate::rest::selector_text(object.pointer(pointer).unwrap_or(&Value::Null));
    json!(or(&text, "<none>"))
}

#[cfg(test)]
mod tests;

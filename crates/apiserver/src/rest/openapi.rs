//! OpenAPI v3: as much as kubectl needs to apply, and to explain custom resources.
//!
//! Built-in kinds are described as objects of any form: kubectl then merges by its own knowledge of them. Reference:
//! OpenAPI 3.0; `x-kubernetes-group-version-kind` of the Kubernetes documents.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, full, json_answer};
use crate::error::ApiError;
use crate::kinds::{Catalog, Resource};

pub(super) fn answer(catalog: &Catalog, document: Option<&str>) -> Result<Answer, ApiError> {
    let body = match document {
        None => index(catalog),
        Some(path) => self::document(catalog, path)?,
    };
    Ok(json_answer(StatusCode::OK, &body))
}

/// A document of version 2 without definitions. A kubectl that knows no version 3 then checks nothing, instead of failing; one
/// that does asks for it when a kind is in no document of version 3, and goes on to say so.
pub(super) fn empty_v2(accept: &str) -> Answer {
    // The protobuf form of a document that says nothing is no bytes at all.
    if accept.contains("protobuf") {
        return full(StatusCode::OK, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "");
    }
    let info = json!({"title": "Kubernetes", "version": "v1.32.0"});
    json_answer(StatusCode::OK, &json!({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}}))
}

/// Each group and version that is served, as its path: `api/v1`, `apis/apps/v1`.
fn places(catalog: &Catalog) -> Vec<(String, String, &Arc<Resource>)> {
    let all = catalog.iter().flat_map(|resource| resource.versions.iter().map(move |version| (resource, version)));
    all.map(|(resource, version)| (place(&resource.id.group, version), version.clone(), resource)).collect()
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn index(catalog: &Catalog) -> Value {
    let mut paths = Map::new();
    for (place, _, _) in places(catalog) {
        let url = format!("/openapi/v3/{place}");
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn document(catalog: &Catalog, wanted: &str) -> Result<Value, ApiError> {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for (place, version, resource) in places(catalog).iter().filter(|(place, _, _)| place == wanted) {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let kind = json!({"group": resource.id.group, "version": version, "kind": resource.kind});
        let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        let parameters = json!([parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")]);
        let schema_name = format!("{}.{version}.{}", reversed(&resource.id.group), resource.kind);
        let reference = json!({"$ref": format!("#/components/schemas/{schema_name}")});
        let response = json!({"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}});
        let operation = |action: &str| {
            json!({
                "parameters": parameters, "responses": response,
                "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind,
            })
        };
        let collection = format!("/{place}{scope}/{}", resource.id.resource);
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation("get"), "put": operation("put"), "patch": operation("patch"), "delete": operation("delete"),
            }),
        );
        paths.insert(collection, json!({"get": operation("list"), "post": operation("post")}));
        schemas.insert(schema_name, schema(resource, version, &kind));
    }
    if paths.is_empty() {
        return Err(ApiError::NoSuchPath);
    }
    let info = json!({"title": "Kubernetes", "version": "v1.32.0"});
    Ok(json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}))
}

fn reversed(group: &str) -> String {
    if group.is_empty() {
        return "io.k8s.api.core".to_owned();
    }
    group.split('.').rev().collect::<Vec<_>>().join(".")
}

fn schema(resource: &Resource, version: &str, kind: &Value) -> Value {
    let own = resource.custom_version(version).and_then(|entry| entry.pointer("/schema/openAPIV3Schema"));
    let mut schema = own.cloned().unwrap_or_else(|| json!({"type": "object"}));
    let map = crate::object::as_map(&mut schema);
    let properties = crate::object::as_map(map.entry("properties").or_insert(Value::Null));
    let text = |description: &str| json!({"type": "string", "description": description});
    properties.entry("apiVersion").or_insert_with(|| text("Group and version of the object's form."));
    properties.entry("kind").or_insert_with(|| text("Name of the object's kind."));
    properties.entry("metadata").or_insert_with(
        || json!({"type": "object", "description": "Name, labels and annotations of the object, and what the server says of it."}),
    );
    if own.is_none() {
        for field in ["spec", "status"] {
            properties.insert(field.to_owned(), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        }
        map.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
    }
    map.insert("x-kubernetes-group-version-kind".to_owned(), json!([kind]));
    schema
}

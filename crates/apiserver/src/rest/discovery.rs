//! Discovery, in its plain and its aggregated form, with version and health.
//!
//! Reference: `APIGroupList` and `APIResourceList` of meta/v1; `APIGroupDiscoveryList` of apidiscovery.k8s.io/v2.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::target::Place;
use super::{Answer, full, json_answer};
use crate::error::ApiError;
use crate::kinds::{Catalog, Resource, group_version};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// What is answered without a token.
pub(super) fn open(path: &str) -> Result<Answer, ApiError> {
    match path {
        "version" => Ok(json_answer(
            StatusCode::OK,
            &json!({
                "major": "1", "minor": "32", "gitVersion": concat!("v1.32.0+bowline", env!("CARGO_PKG_VERSION")),
                "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "", "compiler": "rustc", "platform": "linux",
            }),
        )),
        "healthz" | "livez" | "readyz" | "healthz/ping" | "livez/ping" | "readyz/ping" => Ok(full(StatusCode::OK, "text/plain", "ok")),
        _ => Err(ApiError::NoSuchPath),
    }
}

/// Groups with their versions, the core group first (its name is empty); versions in order of preference.
type Groups<'a> = BTreeMap<&'a str, Vec<(&'a str, Vec<&'a Arc<Resource>>)>>;

fn groups(catalog: &Catalog) -> Groups<'_> {
    let mut groups = Groups::new();
    for resource in catalog.iter() {
        let versions = groups.entry(&resource.id.group).or_default();
        for version in &resource.versions {
            match versions.iter_mut().find(|(known, _)| known == version) {
                Some((_, resources)) => resources.push(resource),
                None => versions.push((version, vec![resource])),
            }
        }
    }
    groups
}

pub(super) fn answer(catalog: &Catalog, place: &Place, accept: &str) -> Result<Answer, ApiError> {
    let aggregated =
        accept.split(',').any(|range| range.contains("as=APIGroupDiscoveryList") && range.contains("v=v2") && !range.contains("v2beta1"));
    let groups = groups(catalog);
    let body = match place {
        Place::Core | Place::Groups if aggregated => {
            let core = *place == Place::Core;
            let items: Vec<Value> =
                groups.iter().filter(|(name, _)| name.is_empty() == core).map(|(name, versions)| aggregate(name, versions)).collect();
            let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
            return Ok(full(StatusCode::OK, AGGREGATED, list.to_string()));
        }
        Place::Core => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        Place::Groups => {
            let all: Vec<Value> =
                groups.iter().filter(|(name, _)| !name.is_empty()).map(|(name, versions)| group(name, versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
        }
        Place::Group(name) => {
            let versions = groups.get(name.as_str()).ok_or(ApiError::NoSuchPath)?;
            let mut one = group(name, versions);
            let map = crate::object::as_map(&mut one);
            map.insert("kind".to_owned(), json!("APIGroup"));
            map.insert("apiVersion".to_owned(), json!("v1"));
            one
        }
        Place::Version(name, version) => {
            let versions = groups.get(name.as_str()).ok_or(ApiError::NoSuchPath)?;
            let (_, resources) = versions.iter().find(|(known, _)| known == version).ok_or(ApiError::NoSuchPath)?;
            let list: Vec<Value> = resources.iter().flat_map(|resource| plain(resource)).collect();
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(name, version), "resources": list})
        }
        Place::Root => json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}),
    };
    Ok(json_answer(StatusCode::OK, &body))
}

fn group(name: &str, versions: &[(&str, Vec<&Arc<Resource>>)]) -> Value {
    let all: Vec<Value> =
        versions.iter().map(|(version, _)| json!({"groupVersion": group_version(name, version), "version": version})).collect();
    json!({"name": name, "versions": all, "preferredVersion": all.first()})
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The subresources of a kind: name, kind with group and version, verbs.
fn subresources(resource: &Resource) -> Vec<(&'static str, &'static str, String, Vec<&'static str>)> {
    let mut all = Vec::new();
    if resource.status {
        all.push(("status", "", resource.kind.clone(), vec!["get", "patch", "update"]));
    }
    if resource.scale.is_some() {
        all.push(("scale", "autoscaling", "Scale".to_owned(), vec!["get", "patch", "update"]));
    }
    if resource.id.is("", "pods") {
        all.push(("binding", "", "Binding".to_owned(), vec!["create"]));
        all.push(("exec", "", "PodExecOptions".to_owned(), vec!["create", "get"]));
        all.push(("portforward", "", "PodPortForwardOptions".to_owned(), vec!["create", "get"]));
        all.push(("eviction", "policy", "Eviction".to_owned(), vec!["create"]));
        all.push(("log", "", "Pod".to_owned(), vec!["get"]));
    }
    if resource.id.is("", "namespaces") {
        all.push(("finalize", "", "Namespace".to_owned(), vec!["update"]));
    }
    all
}

fn plain(resource: &Resource) -> Vec<Value> {
    let mut list = vec![json!({
        "name": resource.id.resource, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": VERBS, "shortNames": resource.short_names, "categories": resource.categories,
    })];
    for (name, group, kind, verbs) in subresources(resource) {
        let mut one = json!({
            "name": format!("{}/{name}", resource.id.resource), "singularName": "",
            "namespaced": resource.namespaced, "kind": kind, "verbs": verbs,
        });
        if !group.is_empty() {
            crate::object::as_map(&mut one).extend([("group".to_owned(), json!(group)), ("version".to_owned(), json!("v1"))]);
        }
        list.push(one);
    }
    list
}

fn aggregate(name: &str, versions: &[(&str, Vec<&Arc<Resource>>)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|(version, resources)| {
            let resources: Vec<Value> = resources.iter().map(|resource| aggregate_one(version, resource)).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
}

fn aggregate_one(version: &str, resource: &Resource) -> Value {
    let own = &resource.id.group;
    let parts: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|(name, group, kind, verbs)| {
            let (group, version) = if group.is_empty() { (own.as_str(), version) } else { (group, "v1") };
            json!({"subresource": name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": verbs})
        })
        .collect();
    json!({
        "resource": resource.id.resource, "responseKind": {"group": own, "version": version, "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": resource.singular,
        "verbs": VERBS, "shortNames": resource.short_names, "categories": resource.categories, "subresources": parts,
    })
}

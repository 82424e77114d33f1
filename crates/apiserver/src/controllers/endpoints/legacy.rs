//! The Endpoints object that a service should have: pure. One family, no terminating pods.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::member::Member;
use crate::object::{self, items, text};

/// The Endpoints of a service.
pub(super) fn of(service: &Value, members: &[Member]) -> Value {
    let v4 = items(service, "/spec/ipFamilies").next().and_then(Value::as_str) != Some("IPv6");
    let portless = items(service, "/spec/ports").len() == 0;
    let mut groups: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in members.iter().filter(|member| member.ip(v4).is_some() && !member.terminating) {
        if portless || !member.ports.is_empty() {
            groups.entry(Value::from(member.ports.clone()).to_string()).or_default().push(member);
        }
    }
    let subsets: Vec<Value> = groups.values().map(|group| subset(group, v4)).collect();
    let mut labels: Map<String, Value> = object::entries(service, "/metadata/labels").map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert("endpoints.kubernetes.io/managed-by".to_owned(), json!("endpoint-controller"));
    if text(service, "/spec/clusterIP") == "None" {
        labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
    }
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": object::name(service), "labels": labels}, "subsets": subsets})
}

fn subset(group: &[&Member], v4: bool) -> Value {
    let listed =
        |ready: bool| -> Vec<Value> { group.iter().filter(|member| member.ready == ready).map(|member| address(member, v4)).collect() };
    let mut subset = Map::new();
    for (field, addresses) in [("addresses", listed(true)), ("notReadyAddresses", listed(false))] {
        if !addresses.is_empty() {
            subset.insert(field.to_owned(), json!(addresses));
        }
    }
    let ports = group.first().map_or(&[][..], |member| member.ports.as_slice());
    if !ports.is_empty() {
        subset.insert("ports".to_owned(), json!(ports));
    }
    Value::Object(subset)
}

fn address(member: &Member, v4: bool) -> Value {
    let mut address = json!({"ip": member.ip(v4), "targetRef": member.target()});
    let map = object::as_map(&mut address);
    for (field, value) in [("nodeName", &member.node), ("hostname", &member.hostname)] {
        if let Some(value) = value {
            map.insert(field.to_owned(), json!(value));
        }
    }
    address
}

//! The EndpointSlices that a service should have: pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::super::facts::{controller_ref, fnv1a};
use super::member::Member;
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::object::{self, items, text};

/// Endpoints in one slice.
const MAX_ENDPOINTS: usize = 100;

/// Name of a service's slice of this family and number.
pub(super) fn name(service: &Value, family: &str, number: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = fnv1a(format!("{}/{family}/{number}", object::uid(service)).as_bytes());
    hash ^= hash >> 32;
    let mut name = format!("{}-", object::name(service));
    for _ in 0..5 {
        let index = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or_default();
        name.extend(ALPHABET.get(index).map(|byte| char::from(*byte)));
        hash /= ALPHABET.len() as u64;
    }
    name
}

/// The slices of a service, by family and number.
pub(super) fn of(service: &Value, members: &[Member]) -> Vec<Value> {
    let families: Vec<&str> = items(service, "/spec/ipFamilies").filter_map(Value::as_str).collect();
    let families = if families.is_empty() { vec!["IPv4"] } else { families };
    families.into_iter().flat_map(|family| of_family(service, members, family)).collect()
}

fn of_family(service: &Value, members: &[Member], family: &str) -> Vec<Value> {
    let portless = items(service, "/spec/ports").len() == 0;
    // Pods may differ in the number behind a port's name; a slice has one list of ports for all.
    let mut groups: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in members.iter().filter(|member| member.ip(family == "IPv4").is_some()) {
        if portless || !member.ports.is_empty() {
            groups.entry(Value::from(member.ports.clone()).to_string()).or_default().push(member);
        }
    }
    let mut slices = Vec::new();
    for group in groups.values() {
        for part in group.chunks(MAX_ENDPOINTS) {
            let ports = part.first().map_or(&[][..], |member| member.ports.as_slice());
            let endpoints: Vec<Value> = part.iter().map(|member| endpoint(service, member, family)).collect();
            slices.push(slice(service, family, slices.len(), &endpoints, ports));
        }
    }
    if slices.is_empty() {
        // An empty slice says that there is nobody, rather than that nobody has looked yet.
        slices.push(slice(service, family, 0, &[], &[]));
    }
    slices
}

fn slice(service: &Value, family: &str, number: usize, endpoints: &[Value], ports: &[Value]) -> Value {
    let mut labels: Map<String, Value> = object::entries(service, "/metadata/labels").map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert(SERVICE_NAME.to_owned(), json!(object::name(service)));
    labels.insert(MANAGED_BY.to_owned(), json!(MANAGER));
    if text(service, "/spec/clusterIP") == "None" {
        labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
    }
    let metadata = json!({"name": name(service, family, number), "generateName": format!("{}-", object::name(service)),
        "labels": labels, "ownerReferences": [controller_ref(service)]});
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": family,
        "endpoints": endpoints, "ports": ports})
}

fn endpoint(service: &Value, member: &Member, family: &str) -> Value {
    let mut endpoint = json!({
        "addresses": [member.ip(family == "IPv4")],
        "conditions": {"ready": member.ready, "serving": member.serving, "terminating": member.terminating},
        "targetRef": member.target(),
    });
    let map = object::as_map(&mut endpoint);
    for (field, value) in [("nodeName", &member.node), ("zone", &member.zone), ("hostname", &member.hostname)] {
        if let Some(value) = value {
            map.insert(field.to_owned(), json!(value));
        }
    }
    let near = matches!(text(service, "/spec/trafficDistribution"), "PreferClose" | "PreferSameZone");
    if let Some(zone) = member.zone.as_ref().filter(|_| near && member.ready) {
        map.insert("hints".to_owned(), json!({"forZones": [{"name": zone}]}));
    }
    endpoint
}

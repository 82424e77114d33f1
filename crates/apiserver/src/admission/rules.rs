//! Rules of all kinds but pods and workloads.
//!
//! Only what a person is likely to get wrong, or what would hurt those who read the object, is checked. Reference: the API
//! reference of Kubernetes 1.32.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::names::is_dns_label;
use super::{cluster_policy, pod, schema, workload};
use crate::error::Cause;
use crate::kinds::Resource;
use crate::object::{items, text};

/// Checks an object against the rules of its kind.
pub(super) fn check(resource: &Resource, old: Option<&Value>, object: &Value, causes: &mut Vec<Cause>) {
    match (resource.id.group.as_str(), resource.id.resource.as_str()) {
        ("", "pods") => pod::check_spec(object.get("spec"), "spec", causes),
        ("", "services") => check_service(object, causes),
        ("", "configmaps" | "secrets") => check_data(object, causes),
        ("apps" | "batch", plural) | ("", plural @ "replicationcontrollers") => {
            workload::check(plural, old, object, causes);
        }
        ("discovery.k8s.io", "endpointslices") => {
            check_choice(object, "addressType", &["IPv4", "IPv6", "FQDN"], true, "addressType", causes);
        }
        ("networking.k8s.io", "networkpolicies") => check_policy(object, causes),
        ("networking.k8s.io", "ingresses") => check_ingress(object, causes),
        ("apiextensions.k8s.io", "customresourcedefinitions") => check_definition(object, causes),
        ("policy.networking.k8s.io", "clusternetworkpolicies") => {
            check_custom(resource, object, causes);
            cluster_policy::check(object, causes);
        }
        _ => check_custom(resource, object, causes),
    }
}

fn check_custom(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let version = text(object, "/apiVersion").rsplit('/').next().unwrap_or_default();
    let entry = resource.custom_version(version);
    if let Some(schema) = entry.and_then(|entry| entry.pointer("/schema/openAPIV3Schema")) {
        schema::check(schema, object, "", causes);
    }
}

fn check_choice(at: &Value, field: &str, known: &[&str], required: bool, path: &str, causes: &mut Vec<Cause>) {
    match at.get(field) {
        None | Some(Value::Null) => {
            if required {
                causes.push(Cause::required(path, ""));
            }
        }
        Some(given) => {
            if !given.as_str().is_some_and(|given| known.contains(&given)) {
                causes.push(Cause::unsupported(path, given, known));
            }
        }
    }
}

fn check_service(service: &Value, causes: &mut Vec<Cause>) {
    let empty = Value::Null;
    let spec = service.get("spec").unwrap_or(&empty);
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check_choice(spec, "type", &types, false, "spec.type", causes);
    check_choice(spec, "sessionAffinity", &["ClientIP", "None"], false, "spec.sessionAffinity", causes);
    for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        check_choice(spec, field, &["Cluster", "Local"], false, &format!("spec.{field}"), causes);
    }
    let ports = items(spec, "/ports");
    let (external, headless) = (text(spec, "/type") == "ExternalName", text(spec, "/clusterIP") == "None");
    if external && text(spec, "/externalName").is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    }
    if ports.len() == 0 && !external && !headless {
        causes.push(Cause::required("spec.ports", ""));
    }
    let many = ports.len() > 1;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.enumerate() {
        let at = format!("spec.ports[{index}]");
        pod::check_port(port, "port", &at, causes);
        pod::check_protocol(port, &at, causes);
        check_target(port, &at, causes);
        let name = text(port, "/name");
        if many && name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !name.is_empty() && !is_dns_label(name) {
            causes.push(Cause::invalid(format!("{at}.name"), &json!(name), "must be a lowercase RFC 1123 label"));
        } else if many && !names.insert(name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &json!(name)));
        }
        let number = (text(port, "/protocol"), port.get("port").and_then(Value::as_i64));
        if number.1.is_some() && !numbers.insert(number) {
            causes.push(Cause::duplicate(at, &json!({"port": number.1, "protocol": number.0})));
        }
    }
}

fn check_target(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    let good = match port.get("targetPort") {
        None | Some(Value::Null) => true,
        Some(Value::String(name)) => is_dns_label(name) && name.len() <= 15,
        Some(number) => number.as_i64().is_some_and(|number| (1..=65535).contains(&number)),
    };
    if !good {
        let given = port.get("targetPort").unwrap_or(&Value::Null);
        causes.push(Cause::invalid(format!("{at}.targetPort"), given, "must be a port number or a port's name of at most 15 characters"));
    }
}

fn check_data(object: &Value, causes: &mut Vec<Cause>) {
    for field in ["data", "binaryData"] {
        let Some(data) = object.get(field).filter(|data| !data.is_null()) else { continue };
        let Some(map) = data.as_object() else {
            causes.push(Cause::invalid(field, data, "must be a map of strings"));
            continue;
        };
        for (key, value) in map {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if key.is_empty() || key.len() > 253 || !key.bytes().all(good) {
                let hint = "a key must consist of alphanumeric characters, '-', '_' or '.'";
                causes.push(Cause::invalid(field, &json!(key), hint));
            }
            if !value.is_string() {
                causes.push(Cause::invalid(format!("{field}[{key}]"), value, "must be a string"));
            }
        }
    }
}

fn check_policy(policy: &Value, causes: &mut Vec<Cause>) {
    for (index, kind) in items(policy, "/spec/policyTypes").enumerate() {
        if !matches!(kind.as_str(), Some("Ingress" | "Egress")) {
            causes.push(Cause::unsupported(format!("spec.policyTypes[{index}]"), kind, &["Ingress", "Egress"]));
        }
    }
    check_label_selector(policy.pointer("/spec/podSelector"), "spec.podSelector", causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(policy, &format!("/spec/{direction}")).enumerate() {
            let at = format!("spec.{direction}[{index}]");
            for (index, peer) in items(rule, &format!("/{peers}")).enumerate() {
                check_peer(peer, &format!("{at}.{peers}[{index}]"), causes);
            }
            for (index, port) in items(rule, "/ports").enumerate() {
                check_policy_port(port, &format!("{at}.ports[{index}]"), causes);
            }
        }
    }
}

fn check_label_selector(selector: Option<&Value>, at: &str, causes: &mut Vec<Cause>) {
    if let Some(selector) = selector
        && let Err(fault) = crate::selector::Selector::of_object(selector)
    {
        causes.push(Cause::invalid(at, selector, &fault));
    }
}

fn check_peer(peer: &Value, at: &str, causes: &mut Vec<Cause>) {
    let block = peer.get("ipBlock").filter(|block| !block.is_null());
    let selects = ["podSelector", "namespaceSelector"].iter().any(|field| peer.get(field).is_some_and(|given| !given.is_null()));
    match (block, selects) {
        (None, false) => causes.push(Cause::required(at, "must specify a peer")),
        (Some(_), true) => causes.push(Cause {
            reason: "FieldValueForbidden",
            field: at.to_owned(),
            message: "Forbidden: may not specify both ipBlock and another peer".to_owned(),
        }),
        (Some(block), false) => check_block(block, &format!("{at}.ipBlock"), causes),
        (None, true) => {
            check_label_selector(peer.get("podSelector"), &format!("{at}.podSelector"), causes);
            check_label_selector(peer.get("namespaceSelector"), &format!("{at}.namespaceSelector"), causes);
        }
    }
}

/// Address and prefix length of a CIDR.
fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn contains((outer, length): (IpAddr, u8), (inner, inner_length): (IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let same = outer.is_ipv4() == inner.is_ipv4();
    same && inner_length > length && (length == 0 || (bits(outer) ^ bits(inner)) >> (128 - u32::from(length)) == 0)
}

fn check_block(block: &Value, at: &str, causes: &mut Vec<Cause>) {
    let given = block.get("cidr").unwrap_or(&Value::Null);
    let Some(outer) = given.as_str().and_then(parse_cidr) else {
        causes.push(Cause::invalid(format!("{at}.cidr"), given, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
        return;
    };
    for (index, except) in items(block, "/except").enumerate() {
        let inside = except.as_str().and_then(parse_cidr).is_some_and(|inner| contains(outer, inner));
        if !inside {
            causes.push(Cause::invalid(format!("{at}.except[{index}]"), except, "must be a valid CIDR and a strict subset of `cidr`"));
        }
    }
}

fn check_policy_port(port: &Value, at: &str, causes: &mut Vec<Cause>) {
    pod::check_protocol(port, at, causes);
    check_target(&json!({"targetPort": port.get("port")}), at, causes);
    if let Some(end) = port.get("endPort").filter(|end| !end.is_null()) {
        let first = port.get("port").and_then(Value::as_i64);
        let good = first.zip(end.as_i64()).is_some_and(|(first, end)| first <= end && end <= 65535);
        if !good {
            causes.push(Cause::invalid(
                format!("{at}.endPort"),
                end,
                "must be greater than or equal to a numeric `port`, and at most 65535",
            ));
        }
    }
}

fn check_ingress(ingress: &Value, causes: &mut Vec<Cause>) {
    if items(ingress, "/spec/rules").len() == 0 && ingress.pointer("/spec/defaultBackend").is_none() {
        causes.push(Cause::invalid("spec", &json!({}), "either `defaultBackend` or `rules` must be specified"));
    }
    for (index, rule) in items(ingress, "/spec/rules").enumerate() {
        for (number, path) in items(rule, "/http/paths").enumerate() {
            let at = format!("spec.rules[{index}].http.paths[{number}]");
            let types = ["Exact", "ImplementationSpecific", "Prefix"];
            check_choice(path, "pathType", &types, true, &format!("{at}.pathType"), causes);
            let given = text(path, "/path");
            if !given.starts_with('/') && (!given.is_empty() || text(path, "/pathType") != "ImplementationSpecific") {
                causes.push(Cause::invalid(format!("{at}.path"), &json!(given), "must be an absolute path"));
            }
            if path.pointer("/backend/service/name").is_none() && path.pointer("/backend/resource").is_none() {
                causes.push(Cause::required(format!("{at}.backend"), "name a service or a resource"));
            }
        }
    }
}

fn check_definition(definition: &Value, causes: &mut Vec<Cause>) {
    let (group, plural) = (text(definition, "/spec/group"), text(definition, "/spec/names/plural"));
    for (field, given) in [("spec.group", group), ("spec.names.plural", plural), ("spec.names.kind", text(definition, "/spec/names/kind"))]
    {
        if given.is_empty() {
            causes.push(Cause::required(field, ""));
        }
    }
    let wanted = format!("{plural}.{group}");
    if crate::object::name(definition) != wanted {
        let hint = format!("must be spec.names.plural+\".\"+spec.group: {wanted}");
        causes.push(Cause::invalid("metadata.name", &json!(crate::object::name(definition)), &hint));
    }
    let spec = definition.get("spec").unwrap_or(&Value::Null);
    check_choice(spec, "scope", &["Cluster", "Namespaced"], true, "spec.scope", causes);
    let stored = items(spec, "/versions").filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
    if stored != 1 {
        let versions = spec.get("versions").unwrap_or(&Value::Null);
        causes.push(Cause::invalid("spec.versions", versions, "must have exactly one version marked as storage version"));
    }
}

//! Syntax of names, labels and annotations.
//!
//! Reference: RFC 1123 section 2.1, RFC 1035 section 2.3.1; "Object Names and IDs" and "Labels and Selectors" of Kubernetes.

use serde_json::Value;

use crate::error::Cause;
use crate::kinds::Resource;
use crate::object;

const LABEL_HINT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character, at most 63 of them";
const SUBDOMAIN_HINT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character, at most 253 of them";
const SERVICE_HINT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character, at most 63 of them";
const KEY_HINT: &str = "a key must be a name of alphanumeric characters, '-', '_' or '.', at most 63 of them, with an optional DNS subdomain and '/' before it";
const VALUE_HINT: &str = "a label's value must be empty or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, at most 63 of them";

/// Whether a name is a DNS label of RFC 1123, in lower case.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63 && !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether a name is a DNS subdomain of RFC 1123, in lower case.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    let part = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_service_name(name: &str) -> bool {
    is_dns_label(name) && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// The part of a label key after the slash, and a label's value when it is not empty.
fn is_qualified(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 63 && bytes.iter().all(|byte| inner(*byte)) && edge(bytes.first()) && edge(bytes.last())
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(&prefix.to_lowercase()) && is_qualified(name),
        None => is_qualified(key),
    }
}

/// Checks name, labels and annotations.
pub(super) fn check_metadata(resource: &Resource, object: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(object);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Some(hint) = name_fault(resource, name) {
        causes.push(Cause::invalid("metadata.name", &Value::from(name), hint));
    }
    for (what, field) in [("labels", "metadata.labels"), ("annotations", "metadata.annotations")] {
        let Some(given) = object.pointer(&format!("/metadata/{what}")).filter(|given| !given.is_null()) else { continue };
        let Some(map) = given.as_object() else {
            causes.push(Cause::invalid(field, given, "must be a map of strings"));
            continue;
        };
        for (key, value) in map {
            if !is_key(key) {
                causes.push(Cause::invalid(field, &Value::from(key.as_str()), KEY_HINT));
            }
            match value.as_str() {
                Some(value) if what == "annotations" || value.is_empty() || is_qualified(value) => {}
                Some(_) => causes.push(Cause::invalid(field, value, VALUE_HINT)),
                None => causes.push(Cause::invalid(format!("{field}.{key}"), value, "must be a string")),
            }
        }
    }
}

fn name_fault(resource: &Resource, name: &str) -> Option<&'static str> {
    match (resource.id.group.as_str(), resource.id.resource.as_str()) {
        ("", "services") => (!is_service_name(name)).then_some(SERVICE_HINT),
        ("", "namespaces") => (!is_dns_label(name)).then_some(LABEL_HINT),
        ("rbac.authorization.k8s.io", _) => {
            (name.contains(['/', '%']) || matches!(name, "." | "..")).then_some("may not contain '/' or '%', nor be '.' or '..'")
        }
        // An address is the name; those of IPv6 hold colons.
        ("networking.k8s.io", "ipaddresses") => {
            name.parse::<std::net::IpAddr>().is_err().then_some("must be an IP address in canonical form")
        }
        _ => (!is_dns_subdomain(name)).then_some(SUBDOMAIN_HINT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dns() {
        for good in ["a", "a-b", "0a", "x".repeat(63).as_str()] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "x".repeat(64).as_str()] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(is_dns_subdomain("a.b-c.d"));
        assert!(!is_dns_subdomain("a..b"));
        assert!(!is_service_name("0a"));
    }

    #[test]
    fn keys_may_have_a_prefix() {
        assert!(is_key("kubernetes.io/metadata.name"));
        assert!(is_key("access"));
        for bad in ["/x", "a/b/c", "", "a b", "exa mple/x", "-x"] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}

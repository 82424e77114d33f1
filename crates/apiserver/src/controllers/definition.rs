//! The CustomResourceDefinition of ClusterNetworkPolicy, which a cluster of this server has from its first second. Whoever applies another one
//! under the same name, such as that of a release of network-policy-api, replaces it.
//!
//! Reference: policy.networking.k8s.io/v1alpha2 as the experimental channel of network-policy-api v0.3 has it, beside a v1beta1 with the same
//! fields. What it says in CEL is in `admission`.

use serde_json::{Value, json};

/// Most rules of a direction, peers and protocols of a rule, networks and names of a peer.
const MOST: u32 = 25;

/// The definition, as whoever installs the kind would apply it.
#[must_use]
pub fn cluster_network_policies() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "clusternetworkpolicies.policy.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/347"},
        },
        "spec": {
            "group": "policy.networking.k8s.io",
            "scope": "Cluster",
            "names": {
                "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList",
                "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy", "shortNames": ["cnp"],
            },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Tier", "type": "string", "jsonPath": ".spec.tier"},
                    {"name": "Priority", "type": "string", "jsonPath": ".spec.priority"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["metadata", "spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec(),
                        "status": status(),
                    },
                }},
            }],
        },
    })
}

fn spec() -> Value {
    json!({
        "type": "object",
        "required": ["priority", "subject", "tier"],
        "properties": {
            "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
            "priority": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 1000},
            "subject": one_of(json!({"namespaces": selector(), "pods": pods()})),
            "ingress": {"type": "array", "maxItems": MOST, "items": rule("from", one_of(json!({"namespaces": selector(), "pods": pods()})))},
            "egress": {"type": "array", "maxItems": MOST, "items": rule("to", one_of(json!({
                "namespaces": selector(),
                "pods": pods(),
                "nodes": selector(),
                "networks": texts(json!({"type": "string", "maxLength": 43})),
                "domainNames": texts(json!({"type": "string"})),
            })))},
        },
    })
}

/// A section of which exactly one field is set.
fn one_of(properties: Value) -> Value {
    json!({"type": "object", "minProperties": 1, "maxProperties": 1, "properties": properties})
}

fn texts(item: Value) -> Value {
    json!({"type": "array", "minItems": 1, "maxItems": MOST, "items": item, "x-kubernetes-list-type": "set"})
}

fn rule(peers: &str, peer: Value) -> Value {
    json!({
        "type": "object",
        "required": ["action", peers],
        "properties": {
            "name": {"type": "string", "maxLength": 100},
            "action": {"type": "string", "enum": ["Accept", "Deny", "Pass"]},
            peers: {"type": "array", "minItems": 1, "maxItems": MOST, "items": peer},
            "protocols": {"type": "array", "minItems": 1, "maxItems": MOST, "items": one_of(json!({
                "tcp": ports(), "udp": ports(), "sctp": ports(), "destinationNamedPort": {"type": "string"},
            }))},
        },
    })
}

fn ports() -> Value {
    let number = json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535});
    let range = json!({"type": "object", "required": ["end", "start"], "properties": {"start": number, "end": number}});
    let port = one_of(json!({"number": number, "range": range}));
    json!({"type": "object", "minProperties": 1, "properties": {"destinationPort": port}})
}

fn pods() -> Value {
    json!({
        "type": "object",
        "required": ["podSelector"],
        "properties": {"namespaceSelector": selector(), "podSelector": selector()},
    })
}

fn selector() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {"type": "object", "additionalProperties": text},
            "matchExpressions": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {
                "type": "object",
                "required": ["key", "operator"],
                "properties": {
                    "key": text, "operator": text,
                    "values": {"type": "array", "items": text, "x-kubernetes-list-type": "atomic"},
                },
            }},
        },
    })
}

fn status() -> Value {
    json!({
        "type": "object",
        "required": ["conditions"],
        "properties": {"conditions": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["lastTransitionTime", "message", "reason", "status", "type"],
                "properties": {
                    "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": {"type": "string", "minLength": 1}, "message": {"type": "string"},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                },
            },
        }},
    })
}

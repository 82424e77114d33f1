//! What the definition of ClusterNetworkPolicy asks in CEL: networks in CIDR form, ranges that end after their start, and named ports only
//! where there are pods to name them.
//!
//! Reference: policy.networking.k8s.io/v1alpha2; `isCIDR` of Kubernetes' CEL library takes canonical texts without a zone; host bits are
//! refused since network-policy-api 0.2.1.

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::Cause;
use crate::object::{integer, items, text};

/// Collects what breaks them.
pub(super) fn check(policy: &Value, causes: &mut Vec<Cause>) {
    for direction in ["ingress", "egress"] {
        for (index, rule) in items(policy, &format!("/spec/{direction}")).enumerate() {
            let at = format!("spec.{direction}[{index}]");
            check_rule(rule, &at, causes);
        }
    }
}

fn check_rule(rule: &Value, at: &str, causes: &mut Vec<Cause>) {
    let mut nameless = false;
    for (index, peer) in items(rule, "/to").enumerate() {
        nameless |= ["nodes", "networks", "domainNames"].iter().any(|field| peer.get(field).is_some());
        for (place, network) in items(peer, "/networks").enumerate() {
            if network.as_str().and_then(|text| text.parse::<IpNet>().ok()).is_none_or(|net| net != net.trunc()) {
                causes.push(Cause::invalid(format!("{at}.to[{index}].networks[{place}]"), network, "Invalid CIDR format provided"));
            }
        }
    }
    for (index, protocol) in items(rule, "/protocols").enumerate() {
        let at = format!("{at}.protocols[{index}]");
        if nameless && !text(protocol, "/destinationNamedPort").is_empty() {
            let hint = "networks/nodes/domainNames peer cannot be set with namedPorts";
            causes.push(Cause::invalid(format!("{at}.destinationNamedPort"), &json!(text(protocol, "/destinationNamedPort")), hint));
        }
        for name in ["tcp", "udp", "sctp"] {
            let range = format!("/{name}/destinationPort/range");
            let (start, end) = (integer(protocol, &format!("{range}/start")), integer(protocol, &format!("{range}/end")));
            if let (Some(start), Some(end)) = (start, end)
                && start >= end
            {
                let hint = "Start port must be less than End port";
                causes.push(Cause::invalid(format!("{at}.{name}.destinationPort.range"), &json!({"start": start, "end": end}), hint));
            }
        }
    }
}

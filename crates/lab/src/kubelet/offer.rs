//! What a runtime offers to CNI plugins for a pod: host ports, bandwidth and addresses.
//!
//! Reference: the CNI conventions for `runtimeConfig`.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

/// The annotation of a pod that asks for addresses, with commas between them.
const ADDRESSES: &str = "bowline.lab/ips";

/// What a runtime offers to plugins: host ports, bandwidth and the addresses that are asked for.
pub(super) fn runtime_config(pod: &Pod) -> Result<Map<String, Value>> {
    let mut offered = Map::new();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mappings: Vec<Value> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
        .map(|port| {
            json!({
                "hostPort": port.host_port, "containerPort": port.container_port,
                "protocol": port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                "hostIP": port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect();
    if !mappings.is_empty() {
        offered.insert("portMappings".into(), Value::Array(mappings));
    }
    let mut bandwidth = Map::new();
    for (annotation, rate, burst) in [
        ("kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"),
        ("kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"),
    ] {
        if let Some(text) = pod.metadata.annotations.as_ref().and_then(|all| all.get(annotation)) {
            let bits = quantity(text).with_context(|| format!("annotation {annotation}"))?;
            bandwidth.insert(rate.into(), json!(bits));
            bandwidth.insert(burst.into(), json!(i32::MAX));
        }
    }
    if !bandwidth.is_empty() {
        offered.insert("bandwidth".into(), Value::Object(bandwidth));
    }
    if let Some(text) = pod.metadata.annotations.as_ref().and_then(|all| all.get(ADDRESSES)) {
        offered.insert("ips".into(), text.split(',').map(str::trim).collect());
    }
    Ok(offered)
}

/// A Kubernetes quantity of bits: `10M`, `1Gi`, `500k`.
fn quantity(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text.strip_prefix(digits).unwrap_or_default() {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => bail!("{text:?} is not a quantity: write 10M"),
    };
    let number: u64 = digits.parse().with_context(|| format!("{text:?} is not a quantity: write 10M"))?;
    number.checked_mul(factor).with_context(|| format!("{text:?} is too much"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn host_ports_bandwidth_and_addresses_are_offered() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"annotations": {"kubernetes.io/egress-bandwidth": "10M", ADDRESSES: "10.42.0.9, fd42::9"}},
            "spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]}
        }))
        .unwrap();
        let offered = runtime_config(&pod).unwrap();
        assert_eq!(offered["portMappings"], json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]));
        assert_eq!(offered["bandwidth"]["egressRate"], 10_000_000);
        assert_eq!(offered["ips"], json!(["10.42.0.9", "fd42::9"]));
        assert!(runtime_config(&Pod::default()).unwrap().is_empty());
    }

    #[test]
    fn quantities() {
        assert_eq!(quantity("1Ki").unwrap(), 1024);
        for bad in ["", "10X", "M", "-1", "$(x)"] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
    }
}

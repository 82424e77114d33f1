//! What a cluster has from its first second: the service `kubernetes` with its endpoints, the ServiceCIDR object, and the definition of
//! ClusterNetworkPolicy.
//!
//! Reference: the API server of Kubernetes publishes these itself, at the first address of the service range.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Config;
use super::definition;
use super::facts::{DEFINITIONS, ENDPOINTS, SERVICE_CIDRS, SERVICES, SLICES};
use crate::error::ApiError;
use crate::store::{GroupResource, Store};

/// The address of the service `kubernetes`: the first of the primary range.
pub(super) fn first_address(range: &IpNet) -> Option<std::net::IpAddr> {
    match range {
        IpNet::V4(net) => net.network().to_bits().checked_add(1).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpNet::V6(net) => net.network().to_bits().checked_add(1).map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// Creates what is missing, and brings the endpoints up to date.
pub(super) fn publish(store: &Store, config: &Config) {
    put(store, &DEFINITIONS, None, definition::cluster_network_policies());
    let Some(primary) = config.service_cidrs.first() else {
        tracing::warn!("no service range given: services get no addresses");
        return;
    };
    let cidrs: Vec<String> = config.service_cidrs.iter().map(ToString::to_string).collect();
    let range = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": crate::object::now()}]}});
    put(store, &SERVICE_CIDRS, None, range);
    let v4 = matches!(primary, IpNet::V4(_));
    let addresses: Vec<SocketAddr> = config.api_addresses.iter().copied().filter(|at| at.is_ipv4() == v4).collect();
    // One service port leads to one target port; the listeners of a lab share theirs.
    let port = addresses.first().map_or(443, SocketAddr::port);
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    put(
        store,
        &SERVICES,
        Some("default"),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {"clusterIP": first_address(primary), "type": "ClusterIP",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]}}),
    );
    if !addresses.is_empty() {
        publish_endpoints(store, &addresses, port, v4);
    }
}

fn publish_endpoints(store: &Store, addresses: &[SocketAddr], port: u16, v4: bool) {
    let mut ips: Vec<String> = addresses.iter().filter(|at| at.port() == port).map(|at| at.ip().to_string()).collect();
    ips.sort();
    ips.dedup();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    put(
        store,
        &SLICES,
        Some("default"),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": if v4 { "IPv4" } else { "IPv6" },
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "endpoints": endpoints, "ports": ports}),
    );
    let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    put(
        store,
        &ENDPOINTS,
        Some("default"),
        json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": listed, "ports": ports}]}),
    );
}

fn put(store: &Store, gr: &GroupResource, ns: Option<&str>, object: Value) {
    let name = crate::object::name(&object).to_owned();
    let outcome = match store.create(gr, ns, object.clone()) {
        Err(ApiError::AlreadyExists { .. }) => store.update(gr, ns, &name, object),
        other => other,
    };
    if let Err(error) = outcome {
        tracing::error!(resource = %gr, name, %error, "object of the cluster's start not written");
    }
}

//! Whether the API server that a lab was given goes with the lab's options.
//!
//! Services' networks must be the same on both sides: the agents take addresses in them for virtual ones. Reference: the
//! ServiceCIDR API of Kubernetes 1.33 and later; before that, the address of Service `kubernetes` is all there is to see.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow};
use bowline_model::checked::Problem;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api as KubeApi, ListParams};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::options::Options;
use crate::progress::ProblemError;
use crate::remote::Remote;

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the server what it is; what there is to say of it.
///
/// # Errors
/// A problem when it does not answer, does not let the lab in, or has other networks.
pub(super) async fn check(options: &Options, door: SocketAddr, remote: &Remote, client: &kube::Client) -> Result<String> {
    let refused = |why: String| {
        let fix = "see that it runs and that the kubeconfig is an administrator's: kubectl --kubeconfig FILE get nodes";
        ProblemError(Problem::new(1010, "the API server given does not answer", remote.url(), fix).because(why))
    };
    // By way of the relay there would be nothing but a reset to see.
    let reached = tokio::time::timeout(PATIENCE, TcpStream::connect((remote.host.as_str(), remote.port))).await;
    reached.map_err(|_| refused("no connection in time".to_owned()))?.map_err(|error| refused(format!("connect: {error}")))?;
    let version = match tokio::time::timeout(PATIENCE, client.apiserver_version()).await {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => return Err(refused(format!("{:#}", anyhow!(error))).into()),
        Err(_) => return Err(refused(format!("no answer within {} s", PATIENCE.as_secs())).into()),
    };
    let services: KubeApi<Service> = KubeApi::namespaced(client.clone(), "default");
    let kubernetes = services.get_opt("kubernetes").await.map_err(|error| refused(format!("{:#}", anyhow!(error))))?;
    let networks = service_networks(client).await;
    if let Some(why) = mismatch(&options.service_cidr.values().copied().collect::<Vec<_>>(), &networks, kubernetes.as_ref()) {
        let fix = "give --service-cidr (and --dual-stack) as the API server has --service-cluster-ip-range";
        return Err(ProblemError(Problem::new(1001, "the lab's options do not fit together", "--service-cidr", fix).because(why)).into());
    }
    let about = format!("{} at {}", version.git_version, remote.url());
    let advertised = endpoints(client).await;
    if !advertised.is_empty() && !advertised.contains(&door) {
        tracing::warn!(?advertised, %door, "pods do not reach the API: start the server with --advertise-address={}", door.ip());
        return Ok(format!("{about}; pods do not reach it: it advertises {}, not {door}", join(&advertised)));
    }
    Ok(about)
}

fn join<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The server's own service networks, where it tells of them.
async fn service_networks(client: &kube::Client) -> Vec<IpNet> {
    let path = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let Ok(request) = http::Request::get(path).body(Vec::new()) else { return Vec::new() };
    let found: Value = client.request(request).await.unwrap_or_default();
    let listed = found.pointer("/spec/cidrs").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

/// Where pods find the server.
async fn endpoints(client: &kube::Client) -> Vec<SocketAddr> {
    let slices: KubeApi<EndpointSlice> = KubeApi::namespaced(client.clone(), "default");
    let of_kubernetes = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let Ok(found) = slices.list(&of_kubernetes).await else { return Vec::new() };
    let mut addresses = Vec::new();
    for slice in found {
        let ports: Vec<u16> = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()).collect();
        let ips = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).filter_map(|ip| ip.parse::<IpAddr>().ok());
        addresses.extend(ips.flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port))));
    }
    addresses
}

/// Why the server's service networks are not the lab's.
fn mismatch(own: &[IpNet], networks: &[IpNet], kubernetes: Option<&Service>) -> Option<String> {
    if !networks.is_empty() {
        let same = networks.len() == own.len() && networks.iter().all(|network| own.contains(network));
        return (!same).then(|| format!("the API server has {}, the lab {}", join(networks), join(own)));
    }
    let address = kubernetes?.spec.as_ref()?.cluster_ip.as_deref()?.parse::<IpAddr>().ok()?;
    let inside = own.iter().any(|network| network.contains(&address));
    (!inside).then(|| format!("the API server's own Service has {address}, which is not in {}", join(own)))
}

/// Why a node's part of the pod network is not the lab's; pods there would be taken for strangers.
pub(super) fn pod_mismatch(options: &Options, node: &Node) -> Option<ProblemError> {
    let parts = node.spec.as_ref()?.pod_cidrs.as_deref()?;
    let inside = |part: &IpNet| options.pod_cidr.values().any(|network| network.contains(part));
    let foreign = parts.iter().filter_map(|part| part.parse::<IpNet>().ok()).find(|part| !inside(part))?;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let why = format!("node {name} has {foreign}, the lab {}", join(&options.pod_cidr.values().collect::<Vec<_>>()));
    let fix = "give --pod-cidr (and --dual-stack) as the controller manager has --cluster-cidr";
    Some(ProblemError(Problem::new(1001, "the lab's options do not fit together", "--pod-cidr", fix).because(why)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    fn nets(text: &[&str]) -> Vec<IpNet> {
        text.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn service_networks_must_be_the_same() {
        let own = nets(&["10.43.0.0/16", "fd43::/112"]);
        assert_eq!(mismatch(&own, &nets(&["fd43::/112", "10.43.0.0/16"]), None), None, "in any order");
        let why = mismatch(&own, &nets(&["10.43.0.0/16"]), None).unwrap();
        assert!(why.contains("10.43.0.0/16, the lab 10.43.0.0/16, fd43::/112"), "{why}");
        assert!(mismatch(&nets(&["10.43.0.0/16"]), &nets(&["10.96.0.0/12"]), None).is_some());
    }

    #[test]
    fn an_older_server_is_known_by_its_own_service() {
        let service = |ip: &str| serde_json::from_value::<Service>(json!({"spec": {"clusterIP": ip}})).unwrap();
        let own = nets(&["10.43.0.0/16"]);
        assert_eq!(mismatch(&own, &[], Some(&service("10.43.0.1"))), None);
        assert!(mismatch(&own, &[], Some(&service("10.96.0.1"))).unwrap().contains("10.96.0.1"));
        assert_eq!(mismatch(&own, &[], None), None);
    }
}

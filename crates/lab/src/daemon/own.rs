//! The lab's own Kubernetes API server and controllers. TLS, with tokens made at start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bowline_apiserver::{Config, Server, Store, controllers};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::api::PodCredentials;
use super::{Lab, exec, logs};
use crate::plan::{API_PORT, nth};

/// The server, with the tokens that it knows.
pub(super) struct Own {
    /// The server, which answers where it is told to.
    pub(super) server: Server,
    admin: String,
    node: String,
    pod: String,
}

impl Own {
    /// Makes the server and starts the controllers; nothing listens yet.
    pub(super) fn start(lab: &Arc<Lab>) -> Result<Own> {
        let [admin, node, pod] = [(); 3].map(|()| format!("{:032x}", rand::random::<u128>()));
        let store = Store::new();
        let config = Config {
            tokens: BTreeMap::from([
                (admin.clone(), "kubernetes-admin".to_owned()),
                (node.clone(), "system:node".to_owned()),
                (pod.clone(), "system:serviceaccount:default:default".to_owned()),
            ]),
            sans: names(lab),
            pod_logs: Some(logs::source(lab)),
            pod_exec: Some(exec::commands(lab)),
            pod_ports: Some(exec::ports(lab)),
            ..Config::default()
        };
        let server = Server::new(store.clone(), config)?;
        controllers::start(&store, cluster(lab, &server.ca_pem()), &CancellationToken::new());
        Ok(Own { server, admin, node, pod })
    }

    /// The file for kubectl.
    pub(super) fn admin_kubeconfig(&self, address: SocketAddr, context: &str) -> String {
        self.server.kubeconfig(&format!("https://{address}"), &self.admin, context)
    }

    /// The file for a node's agent.
    pub(super) fn node_kubeconfig(&self, address: SocketAddr, context: &str) -> String {
        self.server.kubeconfig(&format!("https://{address}"), &self.node, context)
    }

    /// What every pod is given.
    pub(super) fn pod_credentials(&self) -> PodCredentials {
        PodCredentials { token: self.pod.clone(), ca_pem: self.server.ca_pem() }
    }
}

/// Names and addresses under which the API is asked.
fn names(lab: &Lab) -> Vec<String> {
    let service = lab.options.service_cidr.values().filter_map(|network| nth(network, 1));
    let gateways = lab.plan.nodes.iter().flat_map(|node| node.gateway.values().map(IpNet::addr));
    let outside = lab.plan.outside_gateway.values().map(IpNet::addr);
    let mut names: Vec<String> = Config::default().sans;
    names.push("kubernetes.default.svc.cluster.local".to_owned());
    names.extend(service.chain(gateways).chain(outside).map(|ip| ip.to_string()));
    names.sort();
    names.dedup();
    names
}

fn cluster(lab: &Lab, ca_pem: &str) -> controllers::Config {
    let options = &lab.options;
    let (first, last) = options.node_port_range;
    controllers::Config {
        node_port_range: first..=last,
        dns_ip: options.dns_ip.first().copied(),
        api_addresses: lab.plan.api.iter().map(|ip| SocketAddr::new(*ip, API_PORT)).collect(),
        ca_pem: ca_pem.to_owned(),
        ..controllers::Config::new(options.service_cidr.values().copied().collect(), options.pod_cidr.values().copied().collect())
    }
}

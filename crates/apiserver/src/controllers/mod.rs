//! The controllers of the lab's cluster: what turns a manifest into pods, addresses and endpoints.
//!
//! Each is a task that watches the store and makes the cluster equal to what the objects say, starting from what is there
//! and not from what happened (level-triggered), so that a lost or repeated event does no harm. They use the store as any
//! client could, but for the allocation of service addresses and node ports, which is an admission hook: a Service is
//! never seen without its address.
//!
//! Covered as far as kubectl and the manifests of a network's users need it. Not here: volumes, quotas, autoscaling,
//! eviction from lost nodes.
//!
//! Reference: the concepts pages of Kubernetes 1.32 on each kind.

mod accounts;
mod bootstrap;
mod collector;
mod daemonset;
mod definition;
mod deployment;
mod endpoints;
mod facts;
mod fit;
mod job;
mod namespaces;
mod nodes;
mod replicas;
mod runtime;
mod scheduler;
mod services;
mod statefulset;

pub use definition::cluster_network_policies;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::Store;

/// What the controllers are told of the cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ranges of service addresses, the primary family's first; one of each family at most.
    pub service_cidrs: Vec<IpNet>,
    /// The pod network, of which each node gets a part; one range of each family at most.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 part.
    pub node_cidr_len_v4: u8,
    /// Prefix length of a node's IPv6 part.
    pub node_cidr_len_v6: u8,
    /// Ports that services of type NodePort and LoadBalancer get.
    pub node_port_range: RangeInclusive<u16>,
    /// The address kept free for the cluster's DNS service, which asks for it by name.
    pub dns_ip: Option<IpAddr>,
    /// Where the API listens: the endpoints of the service `kubernetes`.
    pub api_addresses: Vec<SocketAddr>,
    /// The API's certificate authority in PEM, published in each namespace as `kube-root-ca.crt`; empty for none.
    pub ca_pem: String,
}

impl Config {
    /// The usual lengths (24 and 64) and port range, with nothing else special.
    #[must_use]
    pub fn new(service_cidrs: Vec<IpNet>, pod_cidrs: Vec<IpNet>) -> Self {
        Self {
            service_cidrs,
            pod_cidrs,
            node_cidr_len_v4: 24,
            node_cidr_len_v6: 64,
            node_port_range: 30_000..=32_767,
            dns_ip: None,
            api_addresses: Vec::new(),
            ca_pem: String::new(),
        }
    }
}

/// Starts all controllers on the current tokio runtime. They end when `stop` is cancelled; the tracker then becomes empty.
pub fn start(store: &Store, config: Config, stop: &CancellationToken) -> TaskTracker {
    services::install(store, &config);
    bootstrap::publish(store, &config);
    let tracker = TaskTracker::new();
    let workloads = [replicas::Replicas::sets(store), replicas::Replicas::controllers(store)];
    for controller in workloads {
        tracker.spawn(runtime::run(controller, store.clone(), stop.clone()));
    }
    tracker.spawn(runtime::run(accounts::Accounts::new(store, &config), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(nodes::Nodes::new(store, &config), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(scheduler::Scheduler::new(store), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(deployment::Deployments::new(store), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(daemonset::DaemonSets::new(store), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(statefulset::StatefulSets::new(store), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(job::Jobs::new(store), store.clone(), stop.clone()));
    tracker.spawn(runtime::run(endpoints::Endpoints::new(store), store.clone(), stop.clone()));
    tracker.spawn(namespaces::run(store.clone(), stop.clone()));
    tracker.spawn(collector::run(store.clone(), stop.clone()));
    tracker.close();
    tracker
}

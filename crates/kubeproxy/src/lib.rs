//! kube-proxy's outer form: its configuration file, its health answers and its metrics, as other programs and people know them.
//!
//! Invariant: no clock, no I/O and no word of how services are served; time is an argument. Reference: kubeproxy.config.k8s.io/v1alpha1 and
//! kube-proxy as of Kubernetes 1.35.

mod book;
mod config;
mod fuzz;

pub use book::{Book, Changes, HEALTH_TIMEOUT, Health, Now, Sync};
pub use config::{Config, Conntrack, KubeProxyMode, MAX_BYTES, NodePortAddresses, address};
pub use fuzz::fuzz_config;

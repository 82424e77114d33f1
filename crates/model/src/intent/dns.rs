//! Names: what the cluster's DNS answers, and the messages by which the agent tells it.
//!
//! Invariant: only what is to be answered is here. An endpoint that is not ready is absent (unless its service publishes
//! such endpoints), so the server decides about names, never about readiness.
//! Reference: Kubernetes DNS-Based Service Discovery 1.1.0.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::{Protocol, ServiceName};

/// Names to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsIntent {
    /// Services by name.
    pub services: OrdMap<ServiceName, Arc<DnsService>>,
    /// Namespaces that exist; a name in any other does not exist.
    pub namespaces: OrdSet<Arc<str>>,
    /// The namespace of each pod address, for `pods verified`; may be empty where nobody asks for it.
    pub pods: OrdMap<IpAddr, Arc<str>>,
}

/// What a service's name means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsService {
    /// What its plain name is answered with.
    pub kind: DnsKind,
    /// Its ports, in the Service's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<DnsPort>,
    /// Its endpoints that are to be answered; needed for headless services and for reverse names of their hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<DnsEndpoint>,
}

/// The kinds of service that DNS tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DnsKind {
    /// Virtual addresses, of one family or both.
    ClusterIp(Vec<IpAddr>),
    /// No virtual address: the endpoints themselves.
    Headless,
    /// Another name, as the Service gives it (with or without the last dot).
    ExternalName(String),
}

/// A port of a service or of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DnsPort {
    /// Its name; only named ports have SRV names of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DnsEndpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its hostname, where the EndpointSlice gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The pod behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its ports (those of its EndpointSlice).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<DnsPort>,
}

/// A message from the agent to a DNS process: one JSON document a line.
///
/// A connection starts with one `Snapshot`; each `Change` after it applies to what went before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum DnsFeed {
    /// Everything.
    Snapshot(DnsSnapshot),
    /// What has changed since the last message.
    Change(DnsChange),
}

/// Everything there is to answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSnapshot {
    /// Counts the messages of the sender's life.
    pub revision: u64,
    /// All services.
    pub services: Vec<(ServiceName, Arc<DnsService>)>,
    /// All namespaces.
    pub namespaces: Vec<Arc<str>>,
    /// All pod addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<(IpAddr, Arc<str>)>,
}

/// A difference of two intents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsChange {
    /// Counts the messages of the sender's life.
    pub revision: u64,
    /// Services that are new or different.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(ServiceName, Arc<DnsService>)>,
    /// Services that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<ServiceName>,
    /// Namespaces that are new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_namespaces: Vec<Arc<str>>,
    /// Namespaces that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_namespaces: Vec<Arc<str>>,
    /// Pod addresses that are new or belong to another namespace now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_pods: Vec<(IpAddr, Arc<str>)>,
    /// Pod addresses that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_pods: Vec<IpAddr>,
}

impl DnsChange {
    /// Whether it changes nothing (its revision apart).
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
            && self.remove.is_empty()
            && self.add_namespaces.is_empty()
            && self.remove_namespaces.is_empty()
            && self.set_pods.is_empty()
            && self.remove_pods.is_empty()
    }
}

impl DnsIntent {
    /// All of it as a message.
    pub fn snapshot(&self, revision: u64) -> DnsSnapshot {
        DnsSnapshot {
            revision,
            services: self.services.iter().map(|(name, service)| (name.clone(), Arc::clone(service))).collect(),
            namespaces: self.namespaces.iter().cloned().collect(),
            pods: self.pods.iter().map(|(ip, namespace)| (*ip, Arc::clone(namespace))).collect(),
        }
    }

    /// What makes `self` equal to `new`.
    pub fn change_to(&self, new: &DnsIntent, revision: u64) -> DnsChange {
        use imbl::ordmap::DiffItem as MapDiff;
        use imbl::ordset::DiffItem as SetDiff;
        let mut change = DnsChange { revision, ..DnsChange::default() };
        for item in self.services.diff(&new.services) {
            match item {
                MapDiff::Add(name, service) | MapDiff::Update { new: (name, service), .. } => {
                    change.set.push((name.clone(), Arc::clone(service)));
                }
                MapDiff::Remove(name, _) => change.remove.push(name.clone()),
            }
        }
        for item in self.namespaces.diff(&new.namespaces) {
            match item {
                SetDiff::Add(name) => change.add_namespaces.push(Arc::clone(name)),

                SetDiff::Remove(name) => change.remove_namespaces.push(Arc::clone(name)),
            }
        }
        for item in self.pods.diff(&new.pods) {
            match item {
                MapDiff::Add(ip, namespace) | MapDiff::Update { new: (ip, namespace), .. } => {
                    change.set_pods.push((*ip, Arc::clone(namespace)));
                }
                MapDiff::Remove(ip, _) => change.remove_pods.push(*ip),
            }
        }
        change
    }

    /// Does what a message says; gives its revision.
    pub fn apply(&mut self, message: DnsFeed) -> u64 {
        match message {
            DnsFeed::Snapshot(snapshot) => {
                *self = DnsIntent {
                    services: snapshot.services.into_iter().collect(),
                    namespaces: snapshot.namespaces.into_iter().collect(),
                    pods: snapshot.pods.into_iter().collect(),
                };
                snapshot.revision
            }
            DnsFeed::Change(change) => {
                for name in &change.remove {
                    self.services.remove(name);
                }
                for name in &change.remove_namespaces {
                    self.namespaces.remove(name);
                }
                for ip in &change.remove_pods {
                    self.pods.remove(ip);
                }
                self.services.extend(change.set);
                self.namespaces.extend(change.add_namespaces);
                self.pods.extend(change.set_pods);
                change.revision
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn service(ip: &str) -> Arc<DnsService> {
        Arc::new(DnsService {
            kind: DnsKind::ClusterIp(vec![ip.parse().unwrap()]),
            ports: vec![DnsPort { name: None, protocol: Protocol::Tcp, port: 80 }],
            endpoints: vec![],
        })
    }

    #[test]
    fn a_change_leads_from_the_old_to_the_new() {
        let mut old = DnsIntent::default();
        old.services.insert(ServiceName::new("a", "stays"), service("10.0.0.1"));
        old.services.insert(ServiceName::new("a", "goes"), service("10.0.0.2"));
        old.services.insert(ServiceName::new("a", "moves"), service("10.0.0.3"));
        old.namespaces.insert("a".into());
        old.pods.insert("10.1.0.1".parse().unwrap(), "a".into());
        let mut new = old.clone();
        new.services.remove(&ServiceName::new("a", "goes"));
        new.services.insert(ServiceName::new("a", "moves"), service("fd00::3"));
        new.services.insert(ServiceName::new("b", "comes"), service("10.0.0.4"));
        new.namespaces.insert("b".into());
        new.namespaces.remove("a");
        new.pods.insert("10.1.0.1".parse().unwrap(), "b".into());

        let change = old.change_to(&new, 7);
        assert_eq!((change.set.len(), change.remove.len(), change.set_pods.len()), (2, 1, 1));
        let message = DnsFeed::Change(change);
        let mut followed = old.clone();
        assert_eq!(followed.apply(message), 7);
        assert_eq!(followed, new);
        assert!(new.change_to(&followed, 8).is_empty());

        let mut fresh = DnsIntent::default();
        fresh.apply(DnsFeed::Snapshot(new.snapshot(9)));
        assert_eq!(fresh, new);
    }
}

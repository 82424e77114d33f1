//! What is there at a moment, and the API's objects for it.

use std::collections::BTreeMap;

use bowline_model::Family;
use serde_json::{Value, json};

use super::{Action, Cast, Labels, Places, Port, TablePod, places};
use crate::world::Kind;

/// Namespaces, pods and policies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scene {
    /// Namespaces and their labels.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods by `namespace/name`.
    pub pods: BTreeMap<String, TablePod>,
    /// Specs of policies by `namespace/name`, with names for addresses.
    pub policies: BTreeMap<String, Value>,
    /// Specs of ClusterNetworkPolicies by name, likewise.
    pub cluster_policies: BTreeMap<String, Value>,
}

/// The API's objects, by kind and name; pods without a status.
pub type Objects = BTreeMap<(Kind, String), Value>;

impl Scene {
    pub(super) fn take(&mut self, action: &Action, cast: &Cast) {
        match action {
            Action::Policy(name, spec) => drop(self.policies.insert(name.clone(), spec.clone())),
            Action::ClusterPolicy(name, spec) => drop(self.cluster_policies.insert(name.clone(), spec.clone())),
            Action::Label(whom, changes) => {
                let labels = match self.pods.get_mut(whom) {
                    Some(pod) => &mut pod.labels,
                    None => self.namespaces.get_mut(whom).unwrap_or_else(|| panic!("who is {whom}?")),
                };
                for (key, value) in changes {
                    let old = match value {
                        Some(value) => labels.insert(key.clone(), value.clone()),
                        None => labels.remove(key),
                    };
                    assert!(old != *value, "{whom} has it so already: {key}");
                }
            }
            Action::Pod(name, pod) => {
                assert!(!cast.scene.pods.contains_key(name), "{name} is of the cast");
                self.pods.insert(name.clone(), pod.clone());
            }
            Action::Gone(name) if cast.scene.pods.contains_key(name) => panic!("{name} is of the cast, and stays"),
            Action::Gone(name) => {
                let policy = self.policies.remove(name).or_else(|| self.cluster_policies.remove(name));
                assert!(self.pods.remove(name).is_some() || policy.is_some(), "{name} was not there");
            }
        }
    }

    /// The objects. Whatever the cast serves, pods declare; ports without a name are only told of.
    pub fn objects(&self, cast: &Cast, places: &dyn Places) -> Objects {
        let mut objects = Objects::new();
        for (name, labels) in &self.namespaces {
            let mut labels = labels.clone();
            // Every API server sees to this one.
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
            let json = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            objects.insert((Kind::Namespace, name.clone()), json);
        }
        for (full, pod) in &self.pods {
            let port = |port: &Port| {
                let mut json = json!({"containerPort": port.number, "protocol": port.protocol.to_string()});
                if let Some((name, _)) = pod.names.iter().find(|(_, named)| named == port) {
                    json["name"] = json!(name);
                }
                json
            };
            let ports: Vec<Value> = cast.ports.iter().map(port).collect();
            let json = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata(full, &pod.labels),
                "spec": {
                    "nodeName": pod.node, "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "echo", "ports": ports}],
                },
            });
            objects.insert((Kind::Pod, full.clone()), json);
        }
        for (full, spec) in &self.policies {
            let json = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(full, &Labels::new()),
                "spec": places::with_addresses(spec, places),
            });
            objects.insert((Kind::NetworkPolicy, full.clone()), json);
        }
        for (name, spec) in &self.cluster_policies {
            let json = json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
                "spec": places::with_addresses(spec, places),
            });
            objects.insert((Kind::ClusterNetworkPolicy, name.clone()), json);
        }
        objects
    }

    /// A pod's status when it runs.
    pub fn status(name: &str, places: &dyn Places) -> Value {
        let ips: Vec<Value> = Family::BOTH.map(|family| json!({"ip": places.network(name, family).addr()})).to_vec();
        json!({"phase": "Running", "podIPs": ips})
    }
}

fn metadata(full: &str, labels: &Labels) -> Value {
    let (namespace, name) = full.split_once('/').unwrap();
    json!({"namespace": namespace, "name": name, "labels": labels})
}

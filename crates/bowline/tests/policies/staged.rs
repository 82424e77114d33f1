//! A table's scenes in a lab: objects made, changed and deleted, and the agents heard of.
//!
//! That an agent has heard of a change is known by marks: objects of the same kind that come after it, which the agent counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use bowline_compile::testing::policies::{Cast, Objects, Scene};
use bowline_compile::world::Kind;
use bowline_model::Family;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::common::lab::{Lab, eventually};
use crate::common::objects::NODES;

/// The kinds that scenes are made of, and their names in the status, which counts policies of both kinds together.
const KINDS: [(Kind, &str); 4] =
    [(Kind::Namespace, "namespaces"), (Kind::Pod, "pods"), (Kind::NetworkPolicy, "policies"), (Kind::ClusterNetworkPolicy, "policies")];

/// Where marks are: no pod of a table is there.
const MARKED: &str = "default";

/// A lab with a scene in it.
pub(crate) struct Staged<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) cast: &'a Cast,
    pub(crate) scene: Scene,
    objects: Objects,
    networks: BTreeMap<(String, Family), IpNet>,
    /// How many there are of each kind.
    counts: BTreeMap<Kind, u64>,
    /// Marks that were made so far.
    marks: usize,
}

impl<'a> Staged<'a> {
    /// Brings servers to the nodes, and then the cast.
    pub(crate) fn on(lab: &'a Lab, cast: &'a Cast) -> Result<Staged<'a>> {
        let ports: Vec<Value> =
            cast.ports.iter().map(|port| json!({"containerPort": port.number, "protocol": port.protocol.to_string()})).collect();
        let server = |node: &String| {
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": node},
                "spec": {"nodeName": node, "hostNetwork": true, "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "echo", "ports": ports}]},
            })
        };
        lab.apply_objects(&cast.nodes.iter().map(server).collect::<Vec<_>>())?;
        lab.settled()?;
        let mut staged = Staged {
            lab,
            cast,
            scene: Scene::default(),
            objects: Objects::new(),
            networks: BTreeMap::new(),
            counts: BTreeMap::new(),
            marks: 0,
        };
        staged.counts = staged.counted()?;
        staged.nodes()?;
        staged.lead()?;
        staged.go(&cast.scene)?;
        Ok(staged)
    }

    /// What there is of each kind, by the list of the API.
    fn counted(&self) -> Result<BTreeMap<Kind, u64>> {
        let one = |(kind, _): &(Kind, &str)| {
            let names = self.lab.kubectl(&["get", &kind.as_str().to_lowercase(), "--all-namespaces", "-o", "name"])?;
            Ok((*kind, u64::try_from(names.lines().count())?))
        };
        KINDS.iter().map(one).collect()
    }

    fn nodes(&mut self) -> Result<()> {
        let list: Value = serde_json::from_str(&self.lab.kubectl(&["get", "nodes", "-o", "json"])?)?;
        for node in list["items"].as_array().into_iter().flatten() {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            for net in node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                self.know(format!("{name}.pods"), net.parse()?);
            }
            for address in node["status"]["addresses"].as_array().into_iter().flatten().filter(|a| a["type"] == "InternalIP") {
                self.know(name.to_owned(), IpNet::from(address["address"].as_str().unwrap_or_default().parse::<IpAddr>()?));
            }
        }
        for address in ["203.0.113.10", "2001:db8:113::10"] {
            self.know("out".to_owned(), IpNet::from(address.parse::<IpAddr>()?));
        }
        Ok(())
    }

    /// Lets the host outside reach pods, each by its node.
    fn lead(&self) -> Result<()> {
        for node in &self.cast.nodes {
            for family in Family::BOTH {
                let (pods, via) = (self.network(&format!("{node}.pods"), family).to_string(), self.address(node, family).to_string());
                let output = self.lab.router(&["ip", "route", "replace", &pods, "via", &via])?;
                ensure!(output.status.success(), "{pods} via {via}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(())
    }

    fn know(&mut self, name: String, net: IpNet) {
        self.networks.insert((name, Family::of_prefix(&net)), net);
    }

    fn network(&self, name: &str, family: Family) -> IpNet {
        let known = self.networks.get(&(name.to_owned(), family)).copied();
        known.unwrap_or_else(|| panic!("where is {name} ({family})?"))
    }

    /// Somebody's address.
    pub(crate) fn address(&self, name: &str, family: Family) -> IpAddr {
        self.network(name, family).addr()
    }

    /// Everything becomes as it is in `scene`; comes back when every agent has that in its kernel.
    pub(crate) fn go(&mut self, scene: &Scene) -> Result<()> {
        let objects = scene.objects(self.cast, &|name: &str, family: Family| self.network(name, family));
        let gone: Vec<&Value> = self.objects.iter().filter(|(key, _)| !objects.contains_key(*key)).map(|(_, object)| object).collect();
        let set: Vec<(&(Kind, String), &Value)> = objects.iter().filter(|(key, object)| self.objects.get(*key) != Some(*object)).collect();
        let new: Vec<&String> = set
            .iter()
            .filter(|((kind, name), _)| *kind == Kind::Pod && !self.scene.pods.contains_key(name))
            .map(|((_, name), _)| name)
            .collect();
        let touched: BTreeSet<Kind> = self
            .objects
            .keys()
            .filter(|key| !objects.contains_key(*key))
            .chain(set.iter().map(|(key, _)| *key))
            .map(|(kind, _)| *kind)
            .collect();
        // As many marks as there are objects gone, and one: more of a kind than there ever were on the way.
        let mut marks = Vec::new();
        for kind in touched {
            let of = |keys: &Objects, others: &Objects| keys.keys().filter(|key| key.0 == kind && !others.contains_key(*key)).count();
            let (less, more) = (of(&self.objects, &objects), of(&objects, &self.objects));
            marks.extend((0..=less).map(|_| kind));
            *self.counts.entry(kind).or_default() += u64::try_from(more + 1)?;
        }
        let marks: Vec<Value> = marks.into_iter().map(|kind| mark(&mut self.marks, kind)).collect();
        if !gone.is_empty() {
            self.lab.delete_text(&list(gone.into_iter()))?;
        }
        // A policy is what its spec says: what the API filled in before is not to stay.
        let is_policy = |kind: Kind| matches!(kind, Kind::NetworkPolicy | Kind::ClusterNetworkPolicy);
        let (other, set): (Vec<_>, Vec<_>) = set.into_iter().partition(|(key, _)| is_policy(key.0) && self.objects.contains_key(*key));
        if !other.is_empty() {
            self.lab.replace_text(&list(other.into_iter().map(|(_, object)| object)))?;
        }
        let set = set.into_iter().map(|(_, object)| object);
        if new.is_empty() {
            self.lab.apply_text(&list(set.chain(&marks)))?;
        } else {
            self.lab.apply_text(&list(set))?;
            for name in new {
                self.meet(name)?;
            }
            // What pods became was heard after what they were to be.
            self.lab.apply_text(&list(marks.iter()))?;
        }
        (self.scene, self.objects) = (scene.clone(), objects);
        self.heard()
    }

    /// Waits for a new pod, and learns its addresses.
    fn meet(&mut self, full: &str) -> Result<()> {
        let (namespace, name) = full.split_once('/').context("a pod of no namespace")?;
        self.lab.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "-n", namespace, "pod", name])?;
        let pod: Value = serde_json::from_str(&self.lab.kubectl(&["get", "pod", name, "-n", namespace, "-o", "json"])?)?;
        for ip in pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|entry| entry["ip"].as_str()) {
            self.know(full.to_owned(), IpNet::from(ip.parse::<IpAddr>()?));
        }
        Ok(())
    }

    /// Waits until every agent knows of as many objects as there are, and has what follows from them in its kernel.
    fn heard(&self) -> Result<()> {
        let mut there: BTreeMap<&str, u64> = BTreeMap::new();
        for (kind, field) in KINDS {
            *there.entry(field).or_default() += self.counts.get(&kind).copied().unwrap_or_default();
        }
        eventually(|| {
            let status = self.lab.status()?;
            let nodes = status["nodes"].as_array().context("no nodes in the status")?;
            ensure!(nodes.len() == NODES.len(), "{} of {} agents answer", nodes.len(), NODES.len());
            for node in nodes {
                for (field, there) in &there {
                    let known = &node["cluster"][field];
                    ensure!(known.as_u64() == Some(*there), "{} knows {known} of {there} {field}", node["node"]);
                }
                let applied = node["synced"] == true && node["appliedRevision"] == node["revision"] && node["problems"] == json!([]);
                ensure!(
                    // A question from a port that was used in a step before would have the answer of that step until the cut is done.
                    applied && node["cutting"] == false,
                    "{} is at revision {} of {}, cutting {}: {}",
                    node["node"],
                    node["appliedRevision"],
                    node["revision"],
                    node["cutting"],
                    node["problems"]
                );
            }
            Ok(())
        })
    }
}

fn list<'v>(items: impl Iterator<Item = &'v Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()}).to_string()
}

/// An object that no table knows, and that changes nothing.
fn mark(marks: &mut usize, kind: Kind) -> Value {
    *marks += 1;
    let name = format!("mark-{marks}");
    match kind {
        Kind::Namespace => json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        Kind::Pod => json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": MARKED},
            "spec": {"nodeSelector": {"nobody": "here"}, "containers": [{"name": "c", "image": "echo"}]},
        }),
        Kind::ClusterNetworkPolicy => json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": name},
            "spec": {"tier": "Admin", "priority": 1000, "subject": {"namespaces": {"matchLabels": {"nobody": "here"}}}},
        }),
        Kind::NetworkPolicy | Kind::Node | Kind::Service | Kind::EndpointSlice | Kind::ServiceCidr => json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": MARKED},
            "spec": {"podSelector": {"matchLabels": {"nobody": "here"}}},
        }),
    }
}

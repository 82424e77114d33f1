//! DaemonSet: one pod on each node that takes it.
//!
//! Invariant: a node has at most one pod of the set that is not on its way out. Reference: "DaemonSet" in the Kubernetes
//! documentation; pods are bound by the scheduler, told by a node affinity which node is meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::{
    DAEMON_SETS, NODES, PODS, claim_pods, concern_controller, delete_pod, is_done, is_ready, key_of, merge_status, pod_from_template,
    scaled, template_hash, time_to_available, write_status,
};
use super::fit::{Patience, refusal};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, as_map, integer, items, text};
use crate::selector::Selector;
use crate::store::{Event, GroupResource, Store};

const HASH: &str = "controller-revision-hash";

/// Conditions of a node that pods of DaemonSets put up with.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Keeps the pods of DaemonSets.
pub(super) struct DaemonSets {
    store: Store,
}

#[derive(Default)]
struct Numbers {
    desired: i64,
    current: i64,
    misplaced: i64,
    updated: i64,
    ready: i64,
    available: i64,
    next: Option<std::time::Duration>,
}

impl DaemonSets {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    fn create(&self, set: &Value, node: &str, hash: &str) -> Result<(), ApiError> {
        let mut pod = pod_from_template(set, None, &[(HASH, hash)]);
        let spec = object::child(&mut pod, "spec");
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = tolerations.as_array_mut() {
            list.extend(TOLERATED.map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect})));
        }
        let affinity = as_map(spec.entry("affinity").or_insert(Value::Null));
        let nodes = as_map(affinity.entry("nodeAffinity").or_insert(Value::Null));
        let fields = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
        nodes.insert("requiredDuringSchedulingIgnoredDuringExecution".to_owned(), json!({"nodeSelectorTerms": [{"matchFields": fields}]}));
        self.store.create(&PODS, Some(object::namespace(set)), pod)?;
        Ok(())
    }

    /// Deletes pods of older templates, as many at once as the strategy allows to be unavailable.
    fn update(&self, set: &Value, placed: &BTreeMap<String, Vec<Arc<Value>>>, hash: &str, numbers: &Numbers) -> Result<(), ApiError> {
        if text(set, "/spec/updateStrategy/type") != "RollingUpdate" {
            return Ok(());
        }
        let limit = scaled(set.pointer("/spec/updateStrategy/rollingUpdate/maxUnavailable"), numbers.desired, true).max(1);
        let min_ready = integer(set, "/spec/minReadySeconds").unwrap_or(0);
        let mut may_go = limit - (numbers.desired - numbers.available);
        let old = placed.values().flatten().filter(|pod| object::label(pod, HASH) != Some(hash) && !object::is_terminating(pod));
        for pod in old {
            let serves = time_to_available(pod, min_ready).is_some_and(|left| left.is_zero());
            // A pod that serves nobody costs nothing.
            if !serves || may_go > 0 {
                delete_pod(&self.store, pod)?;
                may_go -= i64::from(serves);
            }
        }
        Ok(())
    }
}

/// The node that a pod is on, or is meant for.
fn node_of(pod: &Value) -> &str {
    let named = text(pod, "/spec/nodeName");
    if !named.is_empty() {
        return named;
    }
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let mut fields = items(pod, terms).flat_map(|term| items(term, "/matchFields"));
    fields.find_map(|field| items(field, "/values").next()?.as_str()).unwrap_or_default()
}

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "DaemonSet"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![DAEMON_SETS.clone(), PODS.clone(), NODES.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == *DAEMON_SETS {
            keys.insert(key_of(&event.object));
        } else if *gr == *PODS {
            concern_controller("DaemonSet", event, keys);
        } else if node_changed(event) {
            keys.extend(self.store.list(&DAEMON_SETS, None).items.iter().map(|set| key_of(set)));
        }
    }

    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError> {
        let set = self.store.get(&DAEMON_SETS, Some(&key.0), &key.1)?;
        if object::is_terminating(&set) {
            return Ok(Next::Done);
        }
        let selector = set.pointer("/spec/selector").map(Selector::of_object).and_then(Result::ok).unwrap_or_default();
        let template = set.pointer("/spec/template").cloned().unwrap_or_default();
        let (hash, spec) = (template_hash(&template, 0), template.get("spec").cloned().unwrap_or_default());
        let min_ready = integer(&set, "/spec/minReadySeconds").unwrap_or(0);
        let mut placed: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
        for pod in claim_pods(&self.store, &set, &selector)? {
            if is_done(&pod) && !object::is_terminating(&pod) {
                delete_pod(&self.store, &pod)?; // its place is taken by a new one
            } else {
                placed.entry(node_of(&pod).to_owned()).or_default().push(pod);
            }
        }
        let mut numbers = Numbers::default();
        for node in self.store.list(&NODES, None).items {
            let pods = placed.get(object::name(&node)).map_or(&[][..], Vec::as_slice);
            if refusal(&node, &spec, Patience::Daemon).is_some() {
                numbers.misplaced += i64::from(!pods.is_empty());
                pods.iter().filter(|pod| !object::is_terminating(pod)).try_for_each(|pod| delete_pod(&self.store, pod))?;
                continue;
            }
            numbers.desired += 1;
            numbers.count(pods, &hash, min_ready);
            if pods.is_empty() {
                self.create(&set, object::name(&node), &hash)?;
            }
            // A second pod on a node can only be left of an earlier life.
            let live = pods.iter().filter(|pod| !object::is_terminating(pod));
            live.skip(1).try_for_each(|pod| delete_pod(&self.store, pod))?;
        }
        numbers.write(&self.store, key, &set)?;
        self.update(&set, &placed, &hash, &numbers)?;
        Ok(numbers.next.map_or(Next::Done, Next::After))
    }
}

/// Whether a node's event can change where pods go; heartbeats do not.
fn node_changed(event: &Event) -> bool {
    let part = |pointer: &str| event.previous.as_ref().and_then(|node| node.pointer(pointer)) != event.object.pointer(pointer);
    event.previous.is_none() || event.kind == crate::store::EventKind::Deleted || part("/spec") || part("/metadata/labels")
}

impl Numbers {
    fn count(&mut self, pods: &[Arc<Value>], hash: &str, min_ready: i64) {
        let live: Vec<_> = pods.iter().filter(|pod| !object::is_terminating(pod)).collect();
        let Some(pod) = live.first() else { return };
        self.current += 1;
        self.updated += i64::from(object::label(pod, HASH) == Some(hash));
        self.ready += i64::from(is_ready(pod));
        match time_to_available(pod, min_ready) {
            Some(left) if left.is_zero() => self.available += 1,
            Some(left) => self.next = Some(self.next.map_or(left, |next| next.min(left))),
            None => {}
        }
    }

    fn write(&self, store: &Store, key: &Key, set: &Value) -> Result<(), ApiError> {
        write_status(store, &DAEMON_SETS, key, |object| {
            let fields = json!({"desiredNumberScheduled": self.desired, "currentNumberScheduled": self.current,
                "numberMisscheduled": self.misplaced, "updatedNumberScheduled": self.updated, "numberReady": self.ready,
                "numberAvailable": self.available, "numberUnavailable": self.desired - self.available,
                "observedGeneration": set.pointer("/metadata/generation")});
            merge_status(object, fields);
        })
    }
}

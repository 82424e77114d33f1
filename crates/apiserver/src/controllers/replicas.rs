//! ReplicaSet and ReplicationController: as many pods as asked for.
//!
//! Invariant: only pods that carry the set's controller reference are counted or deleted. Reference: ReplicaSet in the
//! Kubernetes documentation, also for the order in which surplus pods go.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::{
    PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Readiness, claim_pods, concern_controller, delete_pod, is_active, is_ready, key_of,
    merge_status, pod_from_template, write_status,
};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, integer, text};
use crate::selector::Selector;
use crate::store::{Event, GroupResource, Store};

/// Keeps the number of pods of one of the two kinds.
pub(super) struct Replicas {
    store: Store,
    gr: GroupResource,
    kind: &'static str,
}

impl Replicas {
    /// ReplicaSets.
    pub(super) fn sets(store: &Store) -> Self {
        Self { store: store.clone(), gr: REPLICA_SETS.clone(), kind: "ReplicaSet" }
    }

    /// ReplicationControllers.
    pub(super) fn controllers(store: &Store) -> Self {
        Self { store: store.clone(), gr: REPLICATION_CONTROLLERS.clone(), kind: "ReplicationController" }
    }

    fn selector(&self, set: &Value) -> Selector {
        let selector = set.pointer("/spec/selector").unwrap_or(&Value::Null);
        match self.kind {
            "ReplicaSet" => Selector::of_object(selector).unwrap_or_default(),
            _ => Selector::of_map(selector),
        }
    }

    fn adjust(&self, set: &Value, active: &[Arc<Value>], wanted: i64) -> Result<(), ApiError> {
        let wanted = usize::try_from(wanted).unwrap_or_default();
        for _ in active.len()..wanted {
            self.store.create(&PODS, Some(object::namespace(set)), pod_from_template(set, None, &[]))?;
        }
        if active.len() > wanted {
            let mut ranked: Vec<&Arc<Value>> = active.iter().collect();
            ranked.sort_by_cached_key(|pod| worth(pod));
            for pod in ranked.into_iter().take(active.len() - wanted) {
                delete_pod(&self.store, pod)?;
            }
        }
        Ok(())
    }
}

/// The pods of least worth go first: not placed, not running, not ready, then the youngest.
fn worth(pod: &Value) -> (bool, bool, bool, Reverse<u64>, Reverse<String>) {
    let placed = !text(pod, "/spec/nodeName").is_empty();
    let running = text(pod, "/status/phase") == "Running";
    let created = object::parse_timestamp(text(pod, "/metadata/creationTimestamp"));
    let age = created.map_or(0, |at| u64::try_from(at.unix_timestamp()).unwrap_or_default());
    (placed, running, is_ready(pod), Reverse(age), Reverse(object::name(pod).to_owned()))
}

impl Controller for Replicas {
    fn name(&self) -> &'static str {
        self.kind
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![self.gr.clone(), PODS.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == self.gr {
            keys.insert(key_of(&event.object));
            return;
        }
        concern_controller(self.kind, event, keys);
        // A pod of nobody may be somebody's by its labels.
        if super::facts::controller_of(&event.object).is_none() {
            let sets = self.store.list(&self.gr, Some(object::namespace(&event.object))).items;
            let fitting = |set: &&Arc<Value>| {
                let selector = self.selector(set);
                !selector.is_empty() && selector.matches(&event.object)
            };
            keys.extend(sets.iter().filter(fitting).map(|set| key_of(set)));
        }
    }

    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError> {
        let set = self.store.get(&self.gr, Some(&key.0), &key.1)?;
        if object::is_terminating(&set) {
            return Ok(Next::Done);
        }
        let pods = claim_pods(&self.store, &set, &self.selector(&set))?;
        let active: Vec<Arc<Value>> = pods.into_iter().filter(|pod| is_active(pod)).collect();
        let wanted = integer(&set, "/spec/replicas").unwrap_or(1).max(0);
        let readiness = Readiness::of(active.iter(), integer(&set, "/spec/minReadySeconds").unwrap_or(0));
        let labels = set.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
        let labelled = Selector::of_map(labels);
        let fully = active.iter().filter(|pod| labelled.matches(pod)).count();
        write_status(&self.store, &self.gr, key, |object| {
            let numbers = json!({"replicas": active.len(), "fullyLabeledReplicas": fully, "readyReplicas": readiness.ready,
                "availableReplicas": readiness.available, "observedGeneration": set.pointer("/metadata/generation")});
            merge_status(object, numbers);
        })?;
        self.adjust(&set, &active, wanted)?;
        Ok(readiness.next.map_or(Next::Done, Next::After))
    }
}

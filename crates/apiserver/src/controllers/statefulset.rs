//! StatefulSet: pods with lasting names, made and replaced in order.
//!
//! Invariant: no two pods of a name exist at once. Volumes are not served here. Reference: "StatefulSets" in the Kubernetes
//! documentation.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::{
    PODS, Readiness, STATEFUL_SETS, claim_pods, concern_controller, delete_pod, is_done, is_ready, key_of, merge_status, pod_from_template,
    template_hash, write_status,
};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, integer, text};
use crate::selector::Selector;
use crate::store::{Event, GroupResource, Store};

const HASH: &str = "controller-revision-hash";

/// Keeps the pods of StatefulSets.
pub(super) struct StatefulSets {
    store: Store,
}

/// A set and its pods by ordinal.
struct Picture {
    set: Arc<Value>,
    pods: BTreeMap<i64, Arc<Value>>,
    hash: String,
    first: i64,
    end: i64,
    in_order: bool,
}

impl StatefulSets {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    fn look(&self, key: &Key) -> Result<Picture, ApiError> {
        let set = self.store.get(&STATEFUL_SETS, Some(&key.0), &key.1)?;
        let selector = set.pointer("/spec/selector").map(Selector::of_object).and_then(Result::ok).unwrap_or_default();
        let ordinal = |pod: &Value| object::name(pod).strip_prefix(&format!("{}-", key.1))?.parse::<i64>().ok();
        let pods = claim_pods(&self.store, &set, &selector)?;
        let first = integer(&set, "/spec/ordinals/start").unwrap_or(0);
        Ok(Picture {
            pods: pods.into_iter().filter_map(|pod| Some((ordinal(&pod)?, pod))).collect(),
            hash: template_hash(set.pointer("/spec/template").unwrap_or(&Value::Null), 0),
            first,
            end: first + integer(&set, "/spec/replicas").unwrap_or(1).max(0),
            in_order: text(&set, "/spec/podManagementPolicy") != "Parallel",
            set,
        })
    }

    fn create(&self, picture: &Picture, ordinal: i64) -> Result<(), ApiError> {
        let name = format!("{}-{ordinal}", object::name(&picture.set));
        let index = ordinal.to_string();
        let labels =
            [("statefulset.kubernetes.io/pod-name", name.as_str()), ("apps.kubernetes.io/pod-index", &index), (HASH, &picture.hash)];
        let mut pod = pod_from_template(&picture.set, Some(&name), &labels);
        let spec = object::child(&mut pod, "spec");
        spec.insert("hostname".to_owned(), json!(name));
        let subdomain = text(&picture.set, "/spec/serviceName");
        if !subdomain.is_empty() {
            spec.insert("subdomain".to_owned(), json!(subdomain));
        }
        self.store.create(&PODS, Some(object::namespace(&picture.set)), pod)?;
        Ok(())
    }

    /// One step towards the wanted pods. In order, a step waits until the one before is through.
    fn step(&self, picture: &Picture) -> Result<(), ApiError> {
        for ordinal in picture.first..picture.end {
            match picture.pods.get(&ordinal) {
                None => self.create(picture, ordinal)?,
                Some(pod) if is_done(pod) && !object::is_terminating(pod) => delete_pod(&self.store, pod)?,
                Some(pod) if is_ready(pod) && !object::is_terminating(pod) => continue,
                Some(_) => {}
            }
            if picture.in_order {
                return Ok(());
            }
        }
        let surplus = picture.pods.iter().rev().filter(|(ordinal, _)| !(picture.first..picture.end).contains(ordinal));
        for (_, pod) in surplus {
            if !object::is_terminating(pod) {
                delete_pod(&self.store, pod)?;
            }
            if picture.in_order {
                return Ok(());
            }
        }
        self.update(picture)
    }

    /// Replaces pods of older templates from the highest ordinal down, one at a time.
    fn update(&self, picture: &Picture) -> Result<(), ApiError> {
        if text(&picture.set, "/spec/updateStrategy/type") == "OnDelete" {
            return Ok(());
        }
        let partition = integer(&picture.set, "/spec/updateStrategy/rollingUpdate/partition").unwrap_or(0);
        for pod in picture.pods.range(partition..).rev().map(|(_, pod)| pod) {
            if object::label(pod, HASH) != Some(&picture.hash) {
                return if object::is_terminating(pod) { Ok(()) } else { delete_pod(&self.store, pod) };
            }
            if !is_ready(pod) {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "StatefulSet"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![STATEFUL_SETS.clone(), PODS.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == *STATEFUL_SETS {
            keys.insert(key_of(&event.object));
        } else {
            concern_controller("StatefulSet", event, keys);
        }
    }

    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError> {
        let picture = self.look(key)?;
        if object::is_terminating(&picture.set) {
            return Ok(Next::Done);
        }
        let live: Vec<_> = picture.pods.values().filter(|pod| !object::is_terminating(pod)).collect();
        let readiness = Readiness::of(live.iter().copied(), integer(&picture.set, "/spec/minReadySeconds").unwrap_or(0));
        let updated = live.iter().filter(|pod| object::label(pod, HASH) == Some(&picture.hash)).count();
        write_status(&self.store, &STATEFUL_SETS, key, |object| {
            let revision = format!("{}-{}", key.1, picture.hash);
            let current = match updated == live.len() {
                true => json!(revision),
                false => object.pointer("/status/currentRevision").cloned().unwrap_or_else(|| json!(revision)),
            };
            let fields = json!({"replicas": picture.pods.len(), "readyReplicas": readiness.ready, "availableReplicas": readiness.available,
                "updatedReplicas": updated, "currentReplicas": if current == json!(revision) { updated } else { live.len() - updated },
                "currentRevision": current, "updateRevision": revision, "collisionCount": 0,
                "observedGeneration": picture.set.pointer("/metadata/generation")});
            merge_status(object, fields);
        })?;
        self.step(&picture)?;
        Ok(readiness.next.map_or(Next::Done, Next::After))
    }
}

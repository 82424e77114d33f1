//! Deployment: one ReplicaSet for each pod template, and the way from one to the next.
//!
//! Invariant: during a rolling update there are never more than `replicas + maxSurge` pods, nor fewer available ones than
//! `replicas - maxUnavailable` by our doing. Reference: "Deployments" in the Kubernetes documentation.

mod rollout;
mod status;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::facts::{
    DEPLOYMENTS, PODS, REPLICA_SETS, claim, concern_controller, controller_ref, controller_uid, key_of, scaled, template_hash,
    without_nulls,
};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, as_map, integer, text};
use crate::selector::Selector;
use crate::store::{DeleteOptions, Event, GroupResource, Store};

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";

/// Rolls Deployments out.
pub(super) struct Deployments {
    store: Store,
}

/// A Deployment with its ReplicaSets, as they are at one moment.
struct Picture {
    deployment: Arc<Value>,
    /// The set of the current template.
    new: Option<Arc<Value>>,
    /// The others, oldest first.
    old: Vec<Arc<Value>>,
    replicas: i64,
    max_surge: i64,
    max_unavailable: i64,
}

impl Picture {
    fn new(deployment: Arc<Value>, sets: Vec<Arc<Value>>) -> Self {
        let replicas = integer(&deployment, "/spec/replicas").unwrap_or(1).max(0);
        let rolling = |field: &str| deployment.pointer(&format!("/spec/strategy/rollingUpdate/{field}"));
        let (mut max_surge, mut max_unavailable) =
            (scaled(rolling("maxSurge"), replicas, true), scaled(rolling("maxUnavailable"), replicas, false));
        if text(&deployment, "/spec/strategy/type") == "Recreate" {
            (max_surge, max_unavailable) = (0, replicas);
        } else if max_surge == 0 && max_unavailable == 0 {
            max_unavailable = 1; // both round to nothing: without one of them nothing could ever move
        }
        let mut old = sets;
        old.sort_by_key(|set| (revision_of(set), object::name(set).to_owned()));
        let template = deployment.pointer("/spec/template");
        let place = old.iter().position(|set| template.is_some_and(|template| same_template(set, template)));
        let new = place.map(|place| old.remove(place));
        Self { deployment, new, old, replicas, max_surge, max_unavailable: max_unavailable.min(replicas.max(1)) }
    }

    fn sets(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.old.iter().chain(&self.new)
    }

    fn sum(&self, pointer: &str) -> i64 {
        self.sets().filter_map(|set| integer(set, pointer)).sum()
    }

    fn last_revision(&self) -> i64 {
        self.sets().map(|set| revision_of(set)).max().unwrap_or(0)
    }

    fn is_paused(&self) -> bool {
        self.deployment.pointer("/spec/paused") == Some(&Value::Bool(true))
    }
}

fn wanted(set: &Value) -> i64 {
    integer(set, "/spec/replicas").unwrap_or(0)
}

fn available(set: &Value) -> i64 {
    integer(set, "/status/availableReplicas").unwrap_or(0)
}

fn revision_of(set: &Value) -> i64 {
    set.pointer("/metadata/annotations")
        .and_then(|all| all.get(REVISION))
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn same_template(set: &Value, template: &Value) -> bool {
    let mut own = set.pointer("/spec/template").cloned().unwrap_or_default();
    if let Some(labels) = own.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    without_nulls(&own) == without_nulls(template)
}

impl Deployments {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    /// The set of the current template, made if it is missing, with the newest revision.
    fn ensure_new(&self, picture: &Picture) -> Result<Arc<Value>, ApiError> {
        let deployment = &picture.deployment;
        let ns = Some(object::namespace(deployment));
        let Some(new) = &picture.new else {
            return self.create_set(picture);
        };
        let last = picture.old.iter().map(|set| revision_of(set)).max().unwrap_or(0);
        if revision_of(new) > last {
            return Ok(Arc::clone(new));
        }
        // Rolled back to an older template: its set becomes the newest revision.
        self.store.modify(&REPLICA_SETS, ns, object::name(new), |set| {
            let annotations = as_map(object::metadata(set).entry("annotations").or_insert(Value::Null));
            annotations.insert(REVISION.to_owned(), json!((last + 1).to_string()));
        })
    }

    fn create_set(&self, picture: &Picture) -> Result<Arc<Value>, ApiError> {
        let deployment = &picture.deployment;
        let ns = Some(object::namespace(deployment));
        let mut salt = integer(deployment, "/status/collisionCount").unwrap_or(0);
        loop {
            let set = self.make_set(picture, salt);
            match self.store.create(&REPLICA_SETS, ns, set) {
                // Another template with the same hash, or somebody else's set under that name.
                Err(ApiError::AlreadyExists { .. }) if salt < 100 => salt += 1,
                other => return other,
            }
        }
    }

    fn make_set(&self, picture: &Picture, salt: i64) -> Value {
        let deployment = &picture.deployment;
        let mut template = deployment.pointer("/spec/template").cloned().unwrap_or_default();
        let hash = template_hash(&template, salt);
        let metadata = as_map(as_map(&mut template).entry("metadata").or_insert(Value::Null));
        let labels = as_map(metadata.entry("labels").or_insert(Value::Null));
        labels.insert(HASH.to_owned(), json!(hash));
        let labels = labels.clone();
        let mut selector = deployment.pointer("/spec/selector").cloned().unwrap_or_default();
        as_map(as_map(&mut selector).entry("matchLabels").or_insert(Value::Null)).insert(HASH.to_owned(), json!(hash));
        let mut annotations: Map<String, Value> = object::entries(deployment, "/metadata/annotations")
            .filter(|(name, _)| !matches!(name.as_str(), "kubectl.kubernetes.io/last-applied-configuration" | REVISION | DESIRED | MAXIMUM))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        annotations.insert(REVISION.to_owned(), json!((picture.last_revision() + 1).to_string()));
        annotations.insert(DESIRED.to_owned(), json!(picture.replicas.to_string()));
        annotations.insert(MAXIMUM.to_owned(), json!((picture.replicas + picture.max_surge).to_string()));
        let mut spec = json!({"replicas": rollout::first_size(picture), "selector": selector, "template": template});
        if let Some(seconds) = integer(deployment, "/spec/minReadySeconds") {
            as_map(&mut spec).insert("minReadySeconds".to_owned(), json!(seconds));
        }
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("{}-{hash}", object::name(deployment)), "labels": labels, "annotations": annotations,
                "ownerReferences": [controller_ref(deployment)]},
            "spec": spec})
    }

    fn resize(&self, picture: &Picture, set: &Value, replicas: i64) -> Result<(), ApiError> {
        let ns = Some(object::namespace(set));
        self.store.modify(&REPLICA_SETS, ns, object::name(set), |set| {
            object::child(set, "spec").insert("replicas".to_owned(), json!(replicas));
            let annotations = as_map(object::metadata(set).entry("annotations").or_insert(Value::Null));
            annotations.insert(DESIRED.to_owned(), json!(picture.replicas.to_string()));
            annotations.insert(MAXIMUM.to_owned(), json!((picture.replicas + picture.max_surge).to_string()));
        })?;
        Ok(())
    }

    fn show_revision(&self, picture: &Picture, new: &Value) -> Result<(), ApiError> {
        let revision = revision_of(new).to_string();
        let deployment = &picture.deployment;
        if revision_of(deployment).to_string() == revision {
            return Ok(());
        }
        self.store.modify(&DEPLOYMENTS, Some(object::namespace(deployment)), object::name(deployment), |deployment| {
            let annotations = as_map(object::metadata(deployment).entry("annotations").or_insert(Value::Null));
            annotations.insert(REVISION.to_owned(), json!(revision));
        })?;
        Ok(())
    }

    /// Deletes empty old sets beyond the wanted history.
    fn trim_history(&self, picture: &Picture) -> Result<(), ApiError> {
        let keep = integer(&picture.deployment, "/spec/revisionHistoryLimit").unwrap_or(10);
        let surplus = picture.old.len().saturating_sub(usize::try_from(keep).unwrap_or_default());
        let empty = |set: &&Arc<Value>| wanted(set) == 0 && integer(set, "/status/replicas").unwrap_or(0) == 0;
        for set in picture.old.iter().take(surplus).filter(empty) {
            let ns = Some(object::namespace(set));
            self.store.delete(&REPLICA_SETS, ns, object::name(set), &DeleteOptions::default())?;
        }
        Ok(())
    }

    fn look(&self, key: &Key) -> Result<Picture, ApiError> {
        let deployment = self.store.get(&DEPLOYMENTS, Some(&key.0), &key.1)?;
        let selector = deployment.pointer("/spec/selector").map(Selector::of_object).and_then(Result::ok).unwrap_or_default();
        let sets = claim(&self.store, &REPLICA_SETS, &deployment, &selector)?;
        Ok(Picture::new(deployment, sets.into_iter().filter(|set| !object::is_terminating(set)).collect()))
    }

    /// Whether pods of old sets are still there, terminating ones included: Recreate waits for them.
    fn old_pods_live(&self, picture: &Picture) -> bool {
        let old: Vec<&str> = picture.old.iter().map(|set| object::uid(set)).collect();
        let pods = self.store.list(&PODS, Some(object::namespace(&picture.deployment))).items;
        pods.iter().any(|pod| old.contains(&controller_uid(pod)) && !super::facts::is_done(pod))
    }
}

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "Deployment"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![DEPLOYMENTS.clone(), REPLICA_SETS.clone(), PODS.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == *DEPLOYMENTS {
            keys.insert(key_of(&event.object));
        } else if *gr == *REPLICA_SETS {
            concern_controller("Deployment", event, keys);
        } else if event.kind == crate::store::EventKind::Deleted {
            // Recreate waits for the last old pod.
            let mut sets = Keys::new();
            concern_controller("ReplicaSet", event, &mut sets);
            for (ns, name) in sets {
                if let Ok(set) = self.store.get(&REPLICA_SETS, Some(&ns), &name)
                    && let Some(owner) = super::facts::controller_of(&set)
                {
                    keys.insert((ns, text(owner, "/name").to_owned()));
                }
            }
        }
    }

    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError> {
        let mut picture = self.look(key)?;
        if object::is_terminating(&picture.deployment) {
            return Ok(Next::Done);
        }
        if !picture.is_paused() {
            let new = self.ensure_new(&picture)?;
            self.show_revision(&picture, &new)?;
            picture.new = Some(new);
        }
        let recreate = text(&picture.deployment, "/spec/strategy/type") == "Recreate";
        for (set, replicas) in rollout::step(&picture, recreate && self.old_pods_live(&picture)) {
            self.resize(&picture, &set, replicas)?;
        }
        let next = status::write(&self.store, key, &picture)?;
        if status::is_complete(&picture) {
            self.trim_history(&picture)?;
        }
        Ok(next)
    }
}

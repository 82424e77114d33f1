//! A Deployment's numbers and conditions, from which `kubectl rollout status` and `kubectl wait` tell how it goes.
//!
//! Reference: "Deployment status" in the Kubernetes documentation.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::facts::{DEPLOYMENTS, condition, merge_status, set_condition, write_status};
use super::super::runtime::{Key, Next};
use super::Picture;
use crate::error::ApiError;
use crate::object::{self, as_map, integer, text};
use crate::store::Store;

/// The reason that `kubectl rollout status` takes for a failure.
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

struct Numbers {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

fn numbers(picture: &Picture) -> Numbers {
    Numbers {
        replicas: picture.sum("/status/replicas"),
        updated: picture.new.as_ref().and_then(|set| integer(set, "/status/replicas")).unwrap_or(0),
        ready: picture.sum("/status/readyReplicas"),
        available: picture.sum("/status/availableReplicas"),
    }
}

/// Whether every pod is of the current template and available, and no other is left.
pub(super) fn is_complete(picture: &Picture) -> bool {
    let now = numbers(picture);
    now.updated == picture.replicas && now.replicas == picture.replicas && now.available == picture.replicas
}

/// Writes the status; says when to look again at a rollout that makes no progress.
pub(super) fn write(store: &Store, key: &Key, picture: &Picture) -> Result<Next, ApiError> {
    let now = numbers(picture);
    let mut next = Next::Done;
    write_status(store, &DEPLOYMENTS, key, |deployment| {
        let before = deployment.get("status").cloned().unwrap_or_default();
        let fields = json!({"replicas": now.replicas, "updatedReplicas": now.updated, "readyReplicas": now.ready,
            "availableReplicas": now.available, "unavailableReplicas": (picture.replicas - now.available).max(0),
            "observedGeneration": picture.deployment.pointer("/metadata/generation")});
        merge_status(deployment, fields);
        let enough = now.available >= picture.replicas - picture.max_unavailable;
        let (reason, message) = match enough {
            true => ("MinimumReplicasAvailable", "Deployment has minimum availability."),
            false => ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
        };
        set(deployment, "Available", enough, reason, message, false);
        next = show_progress(deployment, picture, &before);
    })?;
    Ok(next)
}

fn show_progress(deployment: &mut Value, picture: &Picture, before: &Value) -> Next {
    if picture.is_paused() {
        set(deployment, "Progressing", true, "DeploymentPaused", "Deployment is paused", false);
        return Next::Done;
    }
    let set_name = picture.new.as_ref().map_or("", |set| object::name(set));
    if is_complete(picture) {
        let message = format!("ReplicaSet {set_name:?} has successfully progressed.");
        set(deployment, "Progressing", true, "NewReplicaSetAvailable", &message, false);
        return Next::Done;
    }
    let grown = |field: &str| {
        let now = deployment.pointer("/status").and_then(|status| status.get(field)).and_then(Value::as_i64);
        now.unwrap_or(0) > before.get(field).and_then(Value::as_i64).unwrap_or(0)
    };
    let fewer_old = {
        let old = |status: &Value| integer(status, "/replicas").unwrap_or(0) - integer(status, "/updatedReplicas").unwrap_or(0);
        old(deployment.get("status").unwrap_or(&Value::Null)) < old(before)
    };
    let new_round = condition(deployment, "Progressing").is_none_or(|is| text(is, "/reason") == "NewReplicaSetAvailable");
    let changed = before.get("observedGeneration") != deployment.pointer("/status/observedGeneration");
    let moved = changed || new_round || fewer_old || ["updatedReplicas", "readyReplicas", "availableReplicas"].into_iter().any(grown);
    if !moved && condition(deployment, "Progressing").is_some_and(|is| text(is, "/reason") == TIMED_OUT) {
        return Next::Done;
    }
    let limit = integer(&picture.deployment, "/spec/progressDeadlineSeconds").unwrap_or(600);
    let since = condition(deployment, "Progressing").map_or("", |is| text(is, "/lastUpdateTime"));
    let since = object::parse_timestamp(since).filter(|_| !moved).unwrap_or_else(OffsetDateTime::now_utc);
    let left = since + time::Duration::seconds(limit) - OffsetDateTime::now_utc();
    if left.is_positive() {
        let message = format!("ReplicaSet {set_name:?} is progressing.");
        set(deployment, "Progressing", true, "ReplicaSetUpdated", &message, moved);
        return Duration::try_from(left).map_or(Next::Done, Next::After);
    }
    let message = format!("ReplicaSet {set_name:?} has timed out progressing.");
    set(deployment, "Progressing", false, TIMED_OUT, &message, false);
    Next::Done
}

/// A Deployment's conditions also say when they were last confirmed: progress restarts the deadline.
fn set(deployment: &mut Value, kind: &str, status: bool, reason: &str, message: &str, touch: bool) {
    let changed = set_condition(deployment, kind, status, reason, message);
    if !changed && !touch {
        return;
    }
    let conditions = deployment.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter(|condition| text(condition, "/type") == kind) {
        as_map(condition).insert("lastUpdateTime".to_owned(), json!(object::now()));
    }
}

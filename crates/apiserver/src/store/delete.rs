//! Deletion: at once, after finalizers, or in two steps with a grace period for pods.
//!
//! Invariant: an object with a finalizer never goes away; it is marked, and goes with the update that takes its last
//! finalizer. Reference: finalizers and garbage collection in the Kubernetes documentation; `DeleteOptions` of meta/v1.

use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{GroupResource, Key, Store};
use crate::error::ApiError;
use crate::object;

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after the owner, by the garbage collector.
    #[default]
    Background,
    /// They are deleted before the owner; here, as in the background.
    Foreground,
    /// They stay, without an owner.
    Orphan,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds a pod has to end; `None` takes its `terminationGracePeriodSeconds`; 0 removes at once.
    pub grace_period_seconds: Option<i64>,
    /// The dependents' fate.
    pub propagation: Propagation,
    /// Delete only the object of this uid.
    pub uid: Option<String>,
    /// Delete only at this resource version.
    pub resource_version: Option<String>,
    /// Check everything and delete nothing.
    pub dry_run: bool,
}

/// What a deletion did.
#[derive(Clone, Debug)]
pub enum Deletion {
    /// The object is gone; here is how it last was.
    Removed(Arc<Value>),
    /// The object is marked and waits for its finalizers or its grace period.
    Marked(Arc<Value>),
}

impl Deletion {
    /// The object after the call.
    #[must_use]
    pub fn object(&self) -> &Arc<Value> {
        match self {
            Self::Removed(object) | Self::Marked(object) => object,
        }
    }
}

impl Store {
    /// Deletes an object, or marks it for deletion: while it has finalizers (for namespaces also in `spec.finalizers`),
    /// and for a pod on a node until it is deleted again with a grace period of 0, as a kubelet does.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when a precondition does not hold; `Forbidden` for the namespaces that must stay.
    pub fn delete(&self, gr: &GroupResource, ns: Option<&str>, name: &str, options: &DeleteOptions) -> Result<Deletion, ApiError> {
        let _turn = self.take_turn();
        let old = self.get(gr, ns, name)?;
        check_preconditions(gr, &old, options)?;
        if gr.is("", "namespaces") && ["default", "kube-public", "kube-system"].contains(&name) {
            let message = "this namespace may not be deleted".to_owned();
            return Err(ApiError::Forbidden { resource: gr.clone(), name: name.to_owned(), message });
        }
        if options.dry_run {
            return Ok(Deletion::Marked(old));
        }
        if options.propagation == Propagation::Orphan {
            self.release_dependents(object::uid(&old));
        }
        let key = (object::namespace(&old).to_owned(), object::name(&old).to_owned());
        let grace = grace_seconds(gr, &old, options);
        let mut new = Value::clone(&old);
        mark(gr, &mut new, grace);
        if is_released(gr, &new) {
            return Ok(Deletion::Removed(self.remove(gr, &key, new)));
        }
        if new == *old {
            return Ok(Deletion::Marked(old));
        }
        Ok(Deletion::Marked(self.put(gr, key, new)))
    }

    /// Takes the owner of this uid out of every object's owner references. The caller has the turn.
    fn release_dependents(&self, owner: &str) {
        let owned = |reference: &Value| object::text(reference, "/uid") == owner;
        let dependents: Vec<(GroupResource, Key, Arc<Value>)> = {
            let state = self.read();
            let all = state.objects.iter().flat_map(|(gr, objects)| objects.iter().map(move |(key, one)| (gr, key, one)));
            all.filter(|(_, _, one)| object::items(one, "/metadata/ownerReferences").any(owned))
                .map(|(gr, key, one)| (gr.clone(), key.clone(), Arc::clone(one)))
                .collect()
        };
        for (gr, key, dependent) in dependents {
            let mut dependent = Value::clone(&dependent);
            if let Some(Value::Array(references)) = object::metadata(&mut dependent).get_mut("ownerReferences") {
                references.retain(|reference| !owned(reference));
            }
            self.put(&gr, key, dependent);
        }
    }
}

fn check_preconditions(gr: &GroupResource, old: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let checks = [
        ("UID", &options.uid, object::uid(old)),
        ("ResourceVersion", &options.resource_version, object::text(old, "/metadata/resourceVersion")),
    ];
    for (what, wanted, is) in checks {
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != is) {
            let message = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}");
            return Err(ApiError::Conflict { resource: gr.clone(), name: object::name(old).to_owned(), message });
        }
    }
    Ok(())
}

/// A pod that no node has seen yet, or that has ended, needs no grace. A shorter period overrides a running one.
fn grace_seconds(gr: &GroupResource, old: &Value, options: &DeleteOptions) -> i64 {
    let ended = matches!(object::text(old, "/status/phase"), "Succeeded" | "Failed");
    if !gr.is("", "pods") || object::text(old, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    let own = object::integer(old, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
    let wanted = options.grace_period_seconds.unwrap_or(own).max(0);
    object::integer(old, "/metadata/deletionGracePeriodSeconds").map_or(wanted, |running| running.min(wanted))
}

fn mark(gr: &GroupResource, object: &mut Value, grace: i64) {
    let first = !object::is_terminating(object);
    let shorter = object::integer(object, "/metadata/deletionGracePeriodSeconds").is_some_and(|running| grace < running);
    if first || shorter {
        let until = OffsetDateTime::now_utc() + time::Duration::seconds(grace);
        let metadata = object::metadata(object);
        metadata.insert("deletionTimestamp".to_owned(), json!(object::timestamp(until)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    }
    if first {
        let metadata = object::metadata(object);
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
            metadata.insert("generation".to_owned(), json!(generation + 1));
        }
    }
    if gr.is("", "namespaces") {
        object::child(object, "status").insert("phase".to_owned(), json!("Terminating"));
    }
}

/// Whether an object is marked and nothing holds it any more.
pub(super) fn is_released(gr: &GroupResource, object: &Value) -> bool {
    let held = object::items(object, "/metadata/finalizers").len() > 0
        || gr.is("", "namespaces") && object::items(object, "/spec/finalizers").len() > 0
        || gr.is("", "pods") && object::integer(object, "/metadata/deletionGracePeriodSeconds").is_some_and(|left| left > 0);
    object::is_terminating(object) && !held
}

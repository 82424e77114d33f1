//! Deletion of namespaces: pods first, everything else when the last pod is gone.
//!
//! Invariant: while a pod of the namespace runs, its network policies stay in force (CVE-2024-7598). Reference: KEP-5080,
//! ordered namespace deletion.

use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::facts::{NAMESPACES, PODS, delete_pod};
use crate::error::ApiError;
use crate::object;
use crate::store::{DeleteOptions, GroupResource, Store};

/// Empties namespaces that are being deleted, until told to stop.
pub(super) async fn run(store: Store, stop: CancellationToken) {
    let mut revisions = store.revisions();
    loop {
        revisions.mark_unchanged();
        for namespace in store.list(&NAMESPACES, None).items {
            if object::is_terminating(&namespace)
                && let Err(error) = empty(&store, &namespace)
            {
                tracing::warn!(namespace = object::name(&namespace), %error, "namespace not emptied");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

fn empty(store: &Store, namespace: &Value) -> Result<(), ApiError> {
    let name = object::name(namespace);
    let pods = store.list(&PODS, Some(name)).items;
    for pod in pods.iter().filter(|pod| !object::is_terminating(pod)) {
        delete_pod(store, pod)?;
    }
    if !store.list(&PODS, Some(name)).items.is_empty() {
        return Ok(()); // the last pod's deletion is an event
    }
    let mut left = 0;
    for (gr, object) in content(store, name) {
        if !object::is_terminating(&object) {
            match store.delete(&gr, Some(name), object::name(&object), &DeleteOptions::default()) {
                Ok(_) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        left += usize::from(store.get(&gr, Some(name), object::name(&object)).is_ok());
    }
    if left == 0 {
        let released = store.modify(&NAMESPACES, None, name, |namespace| {
            object::child(namespace, "spec").remove("finalizers");
        });
        match released {
            Ok(_) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Everything in the namespace, whatever its kind.
fn content(store: &Store, name: &str) -> Vec<(GroupResource, Arc<Value>)> {
    let catalog = store.catalog();
    let kinds = catalog.iter().filter(|resource| resource.namespaced);
    kinds.flat_map(|resource| store.list(&resource.id, Some(name)).items.into_iter().map(|object| (resource.id.clone(), object))).collect()
}

//! Garbage: objects whose owners are all gone.
//!
//! Invariant: an object with an owner that exists stays; the owner is looked up by its uid, so an object of the same name made
//! anew owns nothing of its predecessor's. Reference: "Garbage Collection" in the Kubernetes documentation.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::runtime::Key;
use crate::error::ApiError;
use crate::object::{self, items, text};
use crate::store::{DeleteOptions, Event, EventKind, GroupResource, Store, Watch};

type Item = (GroupResource, Key);

#[derive(Default)]
struct Collector {
    watches: BTreeMap<GroupResource, Watch>,
    /// Who names this uid as an owner.
    dependents: BTreeMap<String, BTreeSet<Item>>,
    suspects: BTreeSet<Item>,
}

/// Deletes garbage until told to stop.
pub(super) async fn run(store: Store, stop: CancellationToken) {
    let mut revisions = store.revisions();
    let mut collector = Collector::default();
    loop {
        revisions.mark_unchanged();
        collector.follow_catalog(&store);
        collector.read_events(&store);
        for (gr, key) in std::mem::take(&mut collector.suspects) {
            if let Err(error) = judge(&store, &gr, &key) {
                tracing::warn!(resource = %gr, namespace = key.0, name = key.1, %error, "garbage not collected");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

impl Collector {
    /// Custom kinds come and go.
    fn follow_catalog(&mut self, store: &Store) {
        let catalog = store.catalog();
        self.watches.retain(|gr, _| catalog.find(gr).is_some());
        for resource in catalog.iter() {
            if !self.watches.contains_key(&resource.id)
                && let Ok(watch) = store.watch(&resource.id, None, None)
            {
                self.watches.insert(resource.id.clone(), watch);
            }
        }
    }

    fn read_events(&mut self, store: &Store) {
        for (gr, watch) in &mut self.watches {
            while let Some(event) = watch.next_ready() {
                match event.kind {
                    EventKind::Added | EventKind::Modified => note(&mut self.dependents, &mut self.suspects, gr, &event),
                    EventKind::Deleted => {
                        self.suspects.extend(self.dependents.remove(object::uid(&event.object)).into_iter().flatten());
                        forget(&mut self.dependents, gr, &event);
                    }
                    EventKind::Bookmark => {}
                    EventKind::Error => {
                        // Fallen behind the history: all objects come again, and each one's owners are looked up.
                        match store.watch(gr, None, None) {
                            Ok(again) => *watch = again,
                            Err(_) => break,
                        }
                    }
                }
            }
        }
    }
}

fn item(gr: &GroupResource, object: &Value) -> Item {
    (gr.clone(), (object::namespace(object).to_owned(), object::name(object).to_owned()))
}

fn note(dependents: &mut BTreeMap<String, BTreeSet<Item>>, suspects: &mut BTreeSet<Item>, gr: &GroupResource, event: &Event) {
    let owners = event.object.pointer("/metadata/ownerReferences");
    let before = event.previous.as_ref().and_then(|previous| previous.pointer("/metadata/ownerReferences"));
    if owners == before {
        return;
    }
    for owner in items(&event.object, "/metadata/ownerReferences") {
        dependents.entry(text(owner, "/uid").to_owned()).or_default().insert(item(gr, &event.object));
        // It may have come after its owner went.
        suspects.insert(item(gr, &event.object));
    }
}

fn forget(dependents: &mut BTreeMap<String, BTreeSet<Item>>, gr: &GroupResource, event: &Event) {
    for owner in items(&event.object, "/metadata/ownerReferences") {
        let uid = text(owner, "/uid");
        if let Some(set) = dependents.get_mut(uid) {
            set.remove(&item(gr, &event.object));
            if set.is_empty() {
                dependents.remove(uid);
            }
        }
    }
}

/// Deletes the object if it has owners and none of them exists.
fn judge(store: &Store, gr: &GroupResource, key: &Key) -> Result<(), ApiError> {
    let ns = Some(key.0.as_str()).filter(|ns| !ns.is_empty());
    let Ok(object) = store.get(gr, ns, &key.1) else { return Ok(()) };
    let mut owners = items(&object, "/metadata/ownerReferences").peekable();
    if owners.peek().is_none() || object::is_terminating(&object) || owners.any(|owner| exists(store, ns, owner)) {
        return Ok(());
    }
    let options = DeleteOptions { uid: Some(object::uid(&object).to_owned()), ..DeleteOptions::default() };
    match store.delete(gr, ns, &key.1, &options) {
        Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn exists(store: &Store, ns: Option<&str>, owner: &Value) -> bool {
    let group = text(owner, "/apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    let catalog = store.catalog();
    let Some(resource) = catalog.of_kind(group, text(owner, "/kind")) else {
        return true; // an owner of a kind that is not known here is somebody else's to judge
    };
    let ns = ns.filter(|_| resource.namespaced);
    store.get(&resource.id, ns, text(owner, "/name")).is_ok_and(|found| object::uid(&found) == text(owner, "/uid"))
}

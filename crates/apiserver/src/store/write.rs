//! Create and update.
//!
//! Invariant: an update that changes nothing writes nothing and makes no event. Through the main resource of a kind with
//! a status subresource, `status` cannot change; through the subresource nothing else can. Reference: API conventions.

use std::sync::Arc;

use serde_json::{Value, json};

use super::watch::{EventKind, Record};
use super::{AdmissionOp, GroupResource, Key, State, Store, meta};
use crate::error::ApiError;
use crate::kinds::{Catalog, Resource};
use crate::{admission, object};

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All but `status`, where status is a subresource.
    #[default]
    Main,
    /// `status` alone (and managedFields).
    Status,
    /// Everything: for controllers inside the process.
    Whole,
}

/// How a write is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    /// Which part may change.
    pub scope: Scope,
    /// Go through everything and store nothing.
    pub dry_run: bool,
}

impl Store {
    /// Stores a new object and returns it as stored. `ns` must be given for namespaced kinds. A `status` that comes
    /// along is kept: the tests and the node agents of a lab create objects with one.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid`, `BadRequest`, `NotFound` for the namespace, `NoSuchPath` for an unknown resource, and
    /// what the admission hooks answer.
    pub fn create(&self, gr: &GroupResource, ns: Option<&str>, object: Value) -> Result<Arc<Value>, ApiError> {
        self.create_with(gr, ns, object, WriteOptions::default())
    }

    /// [`Store::create`] with options.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn create_with(
        &self,
        gr: &GroupResource,
        ns: Option<&str>,
        mut object: Value,
        options: WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let _turn = self.take_turn();
        let resource = self.resource(gr)?;
        meta::stamp_new(&resource, ns, &mut object)?;
        let key = (object::namespace(&object).to_owned(), object::name(&object).to_owned());
        self.check_namespace(&resource, &key)?;
        if self.read().objects.get(gr).is_some_and(|all| all.contains_key(&key)) {
            return Err(ApiError::AlreadyExists { resource: gr.clone(), name: key.1 });
        }
        admission::default(&resource, &mut object, true);
        self.admit(gr, AdmissionOp::Create, &mut object)?;
        admission::validate(&resource, None, &object)?;
        if options.dry_run {
            return Ok(Arc::new(object));
        }
        Ok(self.put(gr, key, object))
    }

    /// Replaces an object, all but its `status` where that is a subresource. When `metadata.resourceVersion` is given it
    /// must be the current one.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid`, `BadRequest`, and what the admission hooks answer.
    pub fn update(&self, gr: &GroupResource, ns: Option<&str>, name: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.write(gr, ns, name, WriteOptions::default(), |_| Ok(object))
    }

    /// Replaces an object's `status` by that of `object`.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `BadRequest`.
    pub fn update_status(&self, gr: &GroupResource, ns: Option<&str>, name: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.write(gr, ns, name, WriteOptions { scope: Scope::Status, dry_run: false }, |_| Ok(object))
    }

    /// Changes an object in place, status included, without a chance of a conflict. No event when nothing changes. The
    /// closure must not call the store.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, and what the admission hooks answer.
    pub fn modify(
        &self,
        gr: &GroupResource,
        ns: Option<&str>,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, ApiError> {
        self.write(gr, ns, name, WriteOptions { scope: Scope::Whole, dry_run: false }, |old| {
            let mut new = old.clone();
            change(&mut new);
            Ok(new)
        })
    }

    /// The general form of an update: `make` gives the new object for the current one.
    ///
    /// # Errors
    /// What `make` answers, and as [`Store::update`].
    pub fn write(
        &self,
        gr: &GroupResource,
        ns: Option<&str>,
        name: &str,
        options: WriteOptions,
        make: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        let _turn = self.take_turn();
        let resource = self.resource(gr)?;
        let old = self.get(gr, ns, name)?;
        let mut new = make(&old)?;
        meta::stamp_changed(&resource, &old, &mut new)?;
        if options.scope == Scope::Status {
            new = only_status(&old, new);
        } else {
            if options.scope == Scope::Main && resource.status {
                keep_status(&old, &mut new);
            }
            admission::default(&resource, &mut new, false);
            self.admit(gr, AdmissionOp::Update { old: &old }, &mut new)?;
            admission::validate(&resource, Some(&old), &new)?;
            meta::count_generation(&old, &mut new);
        }
        if options.dry_run {
            return Ok(Arc::new(new));
        }
        let key = (object::namespace(&old).to_owned(), object::name(&old).to_owned());
        if super::delete::is_released(gr, &new) {
            return Ok(self.remove(gr, &key, new));
        }
        if same_but_times(&old, &new) {
            return Ok(old);
        }
        Ok(self.put(gr, key, new))
    }

    fn check_namespace(&self, resource: &Resource, key: &Key) -> Result<(), ApiError> {
        if !resource.namespaced {
            return Ok(());
        }
        if key.0.is_empty() {
            return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
        }
        let namespace = self.get(&GroupResource::core("namespaces"), None, &key.0)?;
        if object::is_terminating(&namespace) {
            let message = format!("unable to create new content in namespace {} because it is being terminated", key.0);
            return Err(ApiError::Forbidden { resource: resource.id.clone(), name: key.1.clone(), message });
        }
        Ok(())
    }

    /// Stores under the next revision and tells the watchers. The caller has the turn.
    pub(super) fn put(&self, gr: &GroupResource, key: Key, object: Value) -> Arc<Value> {
        let mut state = self.write_state();
        let (revision, object) = state.number(object);
        let previous = state.objects.entry(gr.clone()).or_default().insert(key, Arc::clone(&object));
        let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
        let record = Record { revision, gr: gr.clone(), kind, object: Arc::clone(&object), previous };
        state.remember(record, self.inner.history_limit);
        drop(state);
        self.inner.revision.send_replace(revision);
        object
    }

    /// Removes under the next revision and tells the watchers. The caller has the turn.
    pub(super) fn remove(&self, gr: &GroupResource, key: &Key, object: Value) -> Arc<Value> {
        if gr.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.remove_instances(&object);
        }
        let mut state = self.write_state();
        let (revision, object) = state.number(object);
        let previous = state.objects.get_mut(gr).and_then(|all| all.remove(key));
        let record = Record { revision, gr: gr.clone(), kind: EventKind::Deleted, object: Arc::clone(&object), previous };
        state.remember(record, self.inner.history_limit);
        drop(state);
        self.inner.revision.send_replace(revision);
        object
    }
}

impl Store {
    /// Objects do not outlive the definition of their kind.
    fn remove_instances(&self, definition: &Value) {
        let custom = GroupResource::new(object::text(definition, "/spec/group"), object::text(definition, "/spec/names/plural"));
        for instance in self.list(&custom, None).items {
            let key = (object::namespace(&instance).to_owned(), object::name(&instance).to_owned());
            self.remove(&custom, &key, Value::clone(&instance));
        }
    }
}

impl State {
    fn number(&mut self, mut object: Value) -> (u64, Arc<Value>) {
        self.revision += 1;
        object::metadata(&mut object).insert("resourceVersion".to_owned(), json!(self.revision.to_string()));
        (self.revision, Arc::new(object))
    }

    fn remember(&mut self, record: Record, limit: usize) {
        if record.gr.is("apiextensions.k8s.io", "customresourcedefinitions") {
            let definitions = self.objects.get(&record.gr).into_iter().flatten().map(|(_, object)| object);
            self.catalog = Arc::new(Catalog::with_definitions(definitions));
        }
        self.history.push_back(Arc::new(record));
        while self.history.len() > limit {
            self.history.pop_front();
        }
    }
}

fn keep_status(old: &Value, new: &mut Value) {
    let map = object::as_map(new);
    match old.get("status") {
        Some(status) => map.insert("status".to_owned(), status.clone()),
        None => map.remove("status"),
    };
}

fn only_status(old: &Value, mut new: Value) -> Value {
    let mut result = old.clone();
    let status = object::as_map(&mut new).remove("status");
    let managed = object::metadata(&mut new).remove("managedFields");
    if let Some(managed) = managed {
        object::metadata(&mut result).insert("managedFields".to_owned(), managed);
    }
    match status {
        Some(status) => object::as_map(&mut result).insert("status".to_owned(), status),
        None => object::as_map(&mut result).remove("status"),
    };
    result
}

/// Whether nothing differs but the times in managedFields: such a write is none.
fn same_but_times(old: &Value, new: &Value) -> bool {
    if old == new {
        return true;
    }
    let strip = |object: &Value| {
        let mut object = object.clone();
        let managed = object::metadata(&mut object).get_mut("managedFields").and_then(Value::as_array_mut);
        for entry in managed.into_iter().flatten() {
            object::as_map(entry).remove("time");
        }
        object
    };
    old.pointer("/metadata/managedFields").is_some() && strip(old) == strip(new)
}

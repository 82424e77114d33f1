//! `metadata.managedFields`: who set which field.
//!
//! Invariant: a field that a write changed belongs to its writer alone, one that it left as it was stays with its owners.
//! Reference: "Field management" in the server-side apply page of the Kubernetes documentation.

use serde_json::{Value, json};

use super::fields::{FieldSet, value_at};
use crate::object::{self, text};

/// One manager's part of an object.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) manager: String,
    /// `Apply` or `Update`.
    pub(super) operation: String,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: FieldSet,
}

/// The writer of a change.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    /// The version in which it wrote.
    pub api_version: &'a str,
    /// The subresource that it wrote through, or `""`.
    pub subresource: &'a str,
}

impl Entry {
    pub(super) fn new(writer: Writer<'_>, operation: &str, fields: FieldSet) -> Self {
        Self {
            manager: writer.manager.to_owned(),
            operation: operation.to_owned(),
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: object::now(),
            fields,
        }
    }

    pub(super) fn is_of(&self, writer: Writer<'_>, operation: &str) -> bool {
        self.manager == writer.manager && self.operation == operation && self.subresource == writer.subresource
    }
}

/// Reads the entries of an object.
pub(super) fn read(object: &Value) -> Vec<Entry> {
    let read_one = |entry: &Value| Entry {
        manager: text(entry, "/manager").to_owned(),
        operation: text(entry, "/operation").to_owned(),
        api_version: text(entry, "/apiVersion").to_owned(),
        subresource: text(entry, "/subresource").to_owned(),
        time: text(entry, "/time").to_owned(),
        fields: FieldSet::parse(entry.get("fieldsV1").unwrap_or(&Value::Null)),
    };
    object::items(object, "/metadata/managedFields").map(read_one).collect()
}

/// Writes the entries to an object; those without a field go.
pub(super) fn write(object: &mut Value, entries: &[Entry]) {
    let write_one = |entry: &Entry| {
        let mut json = json!({
            "manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version,
            "time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": entry.fields.to_fields(),
        });
        if !entry.subresource.is_empty() {
            object::as_map(&mut json).insert("subresource".to_owned(), json!(entry.subresource));
        }
        json
    };
    let list: Vec<Value> = entries.iter().filter(|entry| !entry.fields.is_empty()).map(write_one).collect();
    let metadata = object::metadata(object);
    if list.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(list));
    }
}

/// An object without what no manager owns: its type, identity, and the server's fields.
pub(super) fn manageable(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(map) = rest.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
    }
    if let Some(metadata) = rest.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        for field in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "managedFields",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            metadata.remove(field);
        }
        if metadata.is_empty() {
            rest.as_object_mut().map(|map| map.remove("metadata"));
        }
    }
    rest
}

/// Records in `new` that `writer` made it out of `old` by a create, an update or a patch other than apply.
pub(crate) fn track_update(old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let explicit_reset = new.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|list| {
        // `[{}]` is the documented way to clear all ownership.
        list.len() == 1 && list.first().and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
    });
    let mut entries = match old {
        _ if explicit_reset => Vec::new(),
        // A writer that edits the entries themselves (kubectl, on its way to server-side apply) is taken at its word.
        Some(old) if new.pointer("/metadata/managedFields").is_none() => read(old),
        _ => read(new),
    };
    let empty = Value::Null;
    let (before, after) = (manageable(old.unwrap_or(&empty)), manageable(new));
    let changed = |path: &[String]| value_at(&before, path) != value_at(&after, path);
    let mut own = FieldSet::default();
    for path in FieldSet::of_value(&after).paths() {
        if old.is_none() || changed(&path) {
            own.insert(&path);
        }
    }
    for entry in &mut entries {
        for path in entry.fields.paths() {
            let theirs = !entry.is_of(writer, "Update");
            if value_at(&after, &path).is_none() || theirs && own.contains(&path) && changed(&path) {
                entry.fields.remove(&path);
            }
        }
    }
    if !own.is_empty() {
        match entries.iter_mut().find(|entry| entry.is_of(writer, "Update")) {
            Some(entry) => {
                own.paths().iter().for_each(|path| entry.fields.insert(path));
                entry.api_version = writer.api_version.to_owned();
                entry.time = object::now();
            }
            None => entries.push(Entry::new(writer, "Update", own)),
        }
    }
    write(new, &entries);
}

//! Server-side apply.
//!
//! Invariant: after an apply the manager owns exactly the fields that it sent; a field that it no longer sends goes away
//! unless another manager owns it; a value that another manager owns changes only by force.
//! Reference: the server-side apply page of the Kubernetes documentation; KEP-555.

use serde_json::Value;

use super::fields::{FieldSet, Path, describe, remove_at, value_at};
use super::keys::{ListKind, list_kind, same_element};
use super::managed::{self, Entry, Writer};
use crate::error::{ApiError, Cause};
use crate::object::as_map;

/// What an apply makes of an object.
pub type Applied = Result<Value, ApiError>;

/// Applies `config` to the object as it is (`None`: there is none yet).
///
/// # Errors
/// [`ApiError::ApplyConflict`] when other managers own fields with other values and `force` is not given; `BadRequest` for
/// a configuration that brings managedFields.
pub fn apply(live: Option<&Value>, config: &Value, writer: Writer<'_>, force: bool) -> Applied {
    if config.pointer("/metadata/managedFields").is_some_and(|given| given.as_array().is_none_or(|list| !list.is_empty())) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let empty = Value::Null;
    let live_value = live.unwrap_or(&empty);
    let wanted = managed::manageable(config);
    let sent = FieldSet::of_value(&wanted);
    let mut entries = managed::read(live_value);
    let mut conflicts: Vec<(usize, Path)> = Vec::new();
    for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.is_of(writer, "Apply")) {
        for path in sent.paths() {
            let differs = || value_at(&wanted, &path) != value_at(live_value, &path);
            let is_element = path.last().is_some_and(|step| step.starts_with("k:"));
            if !is_element && entry.fields.contains(&path) && differs() {
                conflicts.push((index, path));
            }
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(refuse(&entries, &conflicts));
    }
    for (index, path) in &conflicts {
        if let Some(entry) = entries.get_mut(*index) {
            entry.fields.remove(path);
        }
    }
    let mut result = live_value.clone();
    merge(&mut result, config, &mut Vec::new());
    prune(&mut result, &entries, &sent, writer);
    entries.retain(|entry| !entry.is_of(writer, "Apply"));
    entries.push(Entry::new(writer, "Apply", sent));
    managed::write(&mut result, &entries);
    Ok(result)
}

fn refuse(entries: &[Entry], conflicts: &[(usize, Path)]) -> ApiError {
    let mut causes = Vec::new();
    for (index, path) in conflicts {
        let Some(entry) = entries.get(*index) else { continue };
        let message = format!("conflict with {:?} using {}", entry.manager, entry.api_version);
        causes.push(Cause { reason: "FieldManagerConflict", field: describe(path), message });
    }
    let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    ApiError::ApplyConflict { causes, message: lines.join("; ") }
}

/// Takes out what the manager sent last time, does not send now, and nobody else owns.
fn prune(result: &mut Value, entries: &[Entry], sent: &FieldSet, writer: Writer<'_>) {
    let Some(before) = entries.iter().find(|entry| entry.is_of(writer, "Apply")) else { return };
    let others: Vec<&Entry> = entries.iter().filter(|entry| !entry.is_of(writer, "Apply")).collect();
    for path in before.fields.paths() {
        if sent.reaches(&path) || others.iter().any(|entry| entry.fields.reaches(&path)) {
            continue;
        }
        remove_at(result, &path);
    }
}

/// Merges as server-side apply does: maps by field, lists by their kind. A `null` stands for itself being unset.
fn merge(target: &mut Value, config: &Value, path: &mut Vec<String>) {
    match config {
        Value::Object(map) => {
            let target = as_map(target);
            for (field, value) in map {
                path.push(field.clone());
                if value.is_null() {
                    target.remove(field);
                } else {
                    merge(target.entry(field).or_insert(Value::Null), value, path);
                }
                path.pop();
            }
        }
        Value::Array(list) => merge_list(target, list, path),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => *target = config.clone(),
    }
}

fn merge_list(target: &mut Value, config: &[Value], path: &mut Vec<String>) {
    let kind = list_kind(path);
    let Value::Array(list) = target else {
        *target = Value::Array(config.to_vec());
        return;
    };
    match kind {
        ListKind::Atomic => *list = config.to_vec(),
        ListKind::Set => {
            for value in config {
                if !list.contains(value) {
                    list.push(value.clone());
                }
            }
        }
        ListKind::Map(keys) => {
            for element in config {
                match list.iter_mut().find(|old| same_element(keys, old, element)) {
                    Some(old) => merge(old, element, path),
                    None => list.push(element.clone()),
                }
            }
        }
    }
}

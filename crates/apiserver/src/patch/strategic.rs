//! Strategic merge patch: a merge patch that knows which lists are maps, with directives.
//!
//! Directives: `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/field`, `$deleteFromPrimitiveList/field`.
//! Invariant: no directive ever ends up in an object. Reference: strategic merge patch in the Kubernetes documentation,
//! "sig-api-machinery/strategic-merge-patch" in the community documents.

use serde_json::{Map, Value};

use super::keys::{ListKind, list_kind, same_element};
use crate::error::ApiError;
use crate::object::as_map;

const ORDER: &str = "$setElementOrder/";
const TAKE_OUT: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of a built-in kind.
///
/// # Errors
/// `BadRequest` when a list that merges by a key has elements without it, or a directive is unknown.
pub fn strategic(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("a strategic merge patch must be a JSON object"));
    };
    let mut result = object.clone();
    merge_map(as_map(&mut result), patch, &mut Vec::new())?;
    Ok(result)
}

/// Whether the map as a whole was asked to go.
fn merge_map(target: &mut Map<String, Value>, patch: &Map<String, Value>, path: &mut Vec<String>) -> Result<(), ApiError> {
    match patch.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = patch.iter().filter(|(field, _)| !field.starts_with('$')).map(|(f, v)| (f.clone(), v.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(ApiError::bad_request(format!("unknown $patch directive {other:?}"))),
    }
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|field, _| kept.iter().any(|one| one == field));
    }
    for (directive, values) in patch {
        if let Some(field) = directive.strip_prefix(TAKE_OUT)
            && let Some(Value::Array(list)) = target.get_mut(field)
        {
            let gone = values.as_array().map_or(&[][..], Vec::as_slice);
            list.retain(|value| !gone.contains(value));
        }
    }
    for (field, value) in patch.iter().filter(|(field, _)| !field.starts_with('$')) {
        path.push(field.clone());
        merge_field(target, field, value, path)?;
        path.pop();
    }
    for (directive, order) in patch {
        if let (Some(field), Some(order)) = (directive.strip_prefix(ORDER), order.as_array()) {
            path.push(field.to_owned());
            if let Some(Value::Array(list)) = target.get_mut(field) {
                reorder(list, order, list_kind(path));
            }
            path.pop();
        }
    }
    Ok(())
}

fn merge_field(target: &mut Map<String, Value>, field: &str, value: &Value, path: &mut Vec<String>) -> Result<(), ApiError> {
    match value {
        Value::Null => {
            target.remove(field);
        }
        Value::Object(patch) if patch.get("$patch").and_then(Value::as_str) == Some("delete") => {
            target.remove(field);
        }
        Value::Object(patch) => merge_map(as_map(target.entry(field).or_insert(Value::Null)), patch, path)?,
        Value::Array(patch) => {
            let slot = target.entry(field).or_insert(Value::Null);
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            if let Value::Array(list) = slot {
                merge_list(list, patch, path)?;
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            target.insert(field.to_owned(), value.clone());
        }
    }
    Ok(())
}

fn merge_list(list: &mut Vec<Value>, patch: &[Value], path: &mut Vec<String>) -> Result<(), ApiError> {
    let is_replace = |one: &Value| one.get("$patch").and_then(Value::as_str) == Some("replace");
    let kind = list_kind(path);
    if kind == ListKind::Atomic || patch.iter().any(is_replace) {
        *list = patch.iter().filter(|one| one.get("$patch").is_none()).cloned().collect();
        return Ok(());
    }
    let ListKind::Map(keys) = kind else {
        for value in patch {
            if !list.contains(value) {
                list.push(value.clone());
            }
        }
        return Ok(());
    };
    for element in patch {
        let Some(map) = element.as_object() else {
            return Err(ApiError::bad_request(format!("{}: the elements of this list must be objects", path.join("."))));
        };
        let keys = present(keys, element);
        if keys.is_empty() {
            let message = format!("{}: an element of the patch has no merge key {:?}", path.join("."), list_kind_key(path));
            return Err(ApiError::bad_request(message));
        }
        if map.get("$patch").and_then(Value::as_str) == Some("delete") {
            list.retain(|old| !same_element(&keys, old, element));
            continue;
        }
        match list.iter_mut().find(|old| same_element(&keys, old, element)) {
            Some(old) => merge_map(as_map(old), map, path)?,
            None => {
                let mut new = Map::new();
                merge_map(&mut new, map, path)?;
                list.push(Value::Object(new));
            }
        }
    }
    Ok(())
}

/// The keys by which an element of a patch is found: the first is needed, others count where they are given.
fn present<'a>(keys: &[&'a str], element: &Value) -> Vec<&'a str> {
    match keys.split_first() {
        Some((first, rest)) if element.get(first).is_some_and(|key| !key.is_null()) => {
            let rest = rest.iter().filter(|key| element.get(**key).is_some());
            std::iter::once(first).chain(rest).copied().collect()
        }
        _ => Vec::new(),
    }
}

fn list_kind_key(path: &[String]) -> &'static str {
    match list_kind(path) {
        ListKind::Map(keys) => keys.first().copied().unwrap_or_default(),
        ListKind::Atomic | ListKind::Set => "",
    }
}

/// Puts the listed elements in the order given; the others stay behind the element that they followed.
fn reorder(list: &mut Vec<Value>, order: &[Value], kind: ListKind) {
    let place = |value: &Value| {
        order.iter().position(|wanted| match kind {
            ListKind::Map(keys) => same_element(&present(keys, wanted), value, wanted) && !present(keys, wanted).is_empty(),
            ListKind::Atomic | ListKind::Set => value == wanted,
        })
    };
    let mut last = 0;
    let mut placed: Vec<(usize, Value)> = Vec::new();
    for value in std::mem::take(list) {
        last = place(&value).unwrap_or(last);
        placed.push((last, value));
    }
    placed.sort_by_key(|(at, _)| *at);
    list.extend(placed.into_iter().map(|(_, value)| value));
}

//! The server's part of metadata: what it fills in at creation, and keeps from the writer's reach afterwards.
//!
//! Invariant: uid, creationTimestamp, generation, name, namespace and deletion fields are the server's alone.
//! Reference: `ObjectMeta` of meta/v1.

use serde_json::{Value, json};

use super::GroupResource;
use crate::error::ApiError;
use crate::kinds::{Resource, group_version};
use crate::object;

/// Fields of metadata that a writer cannot change.
const KEPT: [&str; 7] = ["name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// Checks type and namespace of a new object, and fills in what the server says of it.
pub(super) fn stamp_new(resource: &Resource, ns: Option<&str>, object: &mut Value) -> Result<(), ApiError> {
    check_type(resource, object)?;
    let wanted = if resource.namespaced { ns.unwrap_or_default() } else { "" };
    let given = object::namespace(object);
    if !given.is_empty() && given != wanted {
        return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    if !object::text(object, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let has_spec = object.get("spec").is_some();
    let metadata = object::metadata(object);
    if metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty)
        && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str).filter(|prefix| !prefix.is_empty())
    {
        let name = format!("{}{}", prefix.get(..58).unwrap_or(prefix), object::name_suffix());
        metadata.insert("name".to_owned(), json!(name));
    }
    for field in ["namespace", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(field);
    }
    if !wanted.is_empty() {
        metadata.insert("namespace".to_owned(), json!(wanted));
    }
    metadata.insert("uid".to_owned(), json!(object::new_uid()));
    metadata.insert("creationTimestamp".to_owned(), json!(object::now()));
    if has_spec {
        metadata.insert("generation".to_owned(), json!(1));
    }
    Ok(())
}

/// Fills in apiVersion and kind where they are missing, and refuses those of another kind.
fn check_type(resource: &Resource, object: &mut Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the body is not a JSON object"));
    }
    let map = object::as_map(object);
    object::set_default(map, "apiVersion", resource.api_version());
    object::set_default(map, "kind", resource.kind.clone());
    let known = |given: &str| resource.versions.iter().any(|version| group_version(&resource.id.group, version) == given);
    let (given, kind) = (object::text(object, "/apiVersion"), object::text(object, "/kind"));
    if kind != resource.kind || !known(given) {
        let message = format!("{kind:?} in version {given:?} cannot be handled as {:?}", resource.kind);
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

/// Checks preconditions of an update and puts the server's fields back as they were.
pub(super) fn stamp_changed(resource: &Resource, old: &Value, new: &mut Value) -> Result<(), ApiError> {
    check_type(resource, new)?;
    let gr: &GroupResource = &resource.id;
    let given = object::text(new, "/metadata/resourceVersion");
    if !given.is_empty() && given != object::text(old, "/metadata/resourceVersion") {
        return Err(ApiError::modified(gr, object::name(old)));
    }
    let uid = object::uid(new);
    if !uid.is_empty() && uid != object::uid(old) {
        let message = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object::uid(old));
        return Err(ApiError::Conflict { resource: gr.clone(), name: object::name(old).to_owned(), message });
    }
    let name = object::name(new);
    if !name.is_empty() && name != object::name(old) {
        let message = format!("the name of the object ({name}) does not match the name on the URL ({})", object::name(old));
        return Err(ApiError::bad_request(message));
    }
    let namespace = object::namespace(new);
    if !namespace.is_empty() && namespace != object::namespace(old) {
        return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    let metadata = object::metadata(new);
    metadata.remove("selfLink");
    for field in KEPT {
        match old.pointer("/metadata").and_then(|kept| kept.get(field)) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    let version = object::text(old, "/metadata/resourceVersion");
    metadata.insert("resourceVersion".to_owned(), json!(version));
    Ok(())
}

/// Counts a change of anything but metadata and status in `metadata.generation`.
pub(super) fn count_generation(old: &Value, new: &mut Value) {
    let same = object::entries(old, "")
        .chain(object::entries(new, ""))
        .all(|(field, _)| matches!(field.as_str(), "metadata" | "status" | "apiVersion") || old.get(field) == new.get(field));
    if same {
        return;
    }
    if let Some(generation) = object::integer(old, "/metadata/generation") {
        object::metadata(new).insert("generation".to_owned(), json!(generation + 1));
    }
}

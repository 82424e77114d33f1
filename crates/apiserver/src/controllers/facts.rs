//! Facts about objects that several controllers need, and the small writes that they share.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::runtime::{Key, Keys};
use crate::error::ApiError;
use crate::object::{self, items, text};
use crate::selector::Selector;
use crate::store::{DeleteOptions, Event, GroupResource, Scope, Store, WriteOptions};

macro_rules! resource {
    ($name:ident, $group:expr, $plural:expr) => {
        pub(super) static $name: LazyLock<GroupResource> = LazyLock::new(|| GroupResource::new($group, $plural));
    };
}

resource!(NAMESPACES, "", "namespaces");
resource!(NODES, "", "nodes");
resource!(PODS, "", "pods");
resource!(SERVICES, "", "services");
resource!(ENDPOINTS, "", "endpoints");
resource!(ACCOUNTS, "", "serviceaccounts");
resource!(CONFIG_MAPS, "", "configmaps");
resource!(REPLICATION_CONTROLLERS, "", "replicationcontrollers");
resource!(REPLICA_SETS, "apps", "replicasets");
resource!(DEPLOYMENTS, "apps", "deployments");
resource!(DAEMON_SETS, "apps", "daemonsets");
resource!(STATEFUL_SETS, "apps", "statefulsets");
resource!(JOBS, "batch", "jobs");
resource!(SLICES, "discovery.k8s.io", "endpointslices");
resource!(SERVICE_CIDRS, "networking.k8s.io", "servicecidrs");
resource!(DEFINITIONS, "apiextensions.k8s.io", "customresourcedefinitions");

/// The key of an object.
pub(super) fn key_of(object: &Value) -> Key {
    (object::namespace(object).to_owned(), object::name(object).to_owned())
}

/// The owner reference that has `controller: true`.
pub(super) fn controller_of(object: &Value) -> Option<&Value> {
    items(object, "/metadata/ownerReferences").find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// The uid of the object's controller, or `""`.
pub(super) fn controller_uid(object: &Value) -> &str {
    controller_of(object).map_or("", |owner| text(owner, "/uid"))
}

/// The reference by which `owner` controls what carries it.
pub(super) fn controller_ref(owner: &Value) -> Value {
    json!({
        "apiVersion": text(owner, "/apiVersion"), "kind": text(owner, "/kind"), "name": object::name(owner),
        "uid": object::uid(owner), "controller": true, "blockOwnerDeletion": true,
    })
}

/// Adds the key of the controller of this kind, before and after the change.
pub(super) fn concern_controller(kind: &str, event: &Event, keys: &mut Keys) {
    for object in std::iter::once(&event.object).chain(&event.previous) {
        if let Some(owner) = controller_of(object).filter(|owner| text(owner, "/kind") == kind) {
            keys.insert((object::namespace(object).to_owned(), text(owner, "/name").to_owned()));
        }
    }
}

/// The condition of this type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").find(|condition| text(condition, "/type") == kind)
}

/// Whether the condition of this type is `True`.
pub(super) fn holds(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| text(condition, "/status") == "True")
}

/// Sets a condition; its transition time changes with its status only. Says whether anything but times changed.
pub(super) fn set_condition(object: &mut Value, kind: &str, status: bool, reason: &str, message: &str) -> bool {
    let status_text = if status { "True" } else { "False" };
    let conditions = object::child(object, "status").entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return false };
    let place = list.iter_mut().find(|condition| text(condition, "/type") == kind);
    let Some(place) = place else {
        list.push(json!({"type": kind, "status": status_text, "reason": reason, "message": message,
            "lastTransitionTime": object::now()}));
        return true;
    };
    let same_status = text(place, "/status") == status_text;
    if same_status && text(place, "/reason") == reason && text(place, "/message") == message {
        return false;
    }
    let map = object::as_map(place);
    if !same_status {
        map.insert("lastTransitionTime".to_owned(), json!(object::now()));
    }
    for (field, value) in [("status", status_text), ("reason", reason), ("message", message)] {
        map.insert(field.to_owned(), json!(value));
    }
    true
}

/// Changes an object's status alone; no write when nothing differs.
pub(super) fn write_status(store: &Store, gr: &GroupResource, key: &Key, change: impl FnOnce(&mut Value)) -> Result<(), ApiError> {
    let options = WriteOptions { scope: Scope::Status, dry_run: false };
    let ns = Some(key.0.as_str()).filter(|ns| !ns.is_empty());
    store.write(gr, ns, &key.1, options, |old| {
        let mut new = old.clone();
        change(&mut new);
        Ok(new)
    })?;
    Ok(())
}

/// Sets the given fields of `status` and leaves the others.
pub(super) fn merge_status(object: &mut Value, fields: Value) {
    let status = object::child(object, "status");
    if let Value::Object(fields) = fields {
        status.extend(fields);
    }
}

/// Whether the pod has ended for good.
pub(super) fn is_done(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether the pod counts for its controller: it has not ended and nobody asked for its end.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_done(pod) && !object::is_terminating(pod)
}

/// Whether the pod says that it is ready.
pub(super) fn is_ready(pod: &Value) -> bool {
    holds(pod, "Ready")
}

/// How long until the pod has been ready for this many seconds: zero if it has, nothing if it is not ready.
pub(super) fn time_to_available(pod: &Value, min_ready_seconds: i64) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    let since = condition(pod, "Ready").map_or("", |ready| text(ready, "/lastTransitionTime"));
    let ready_at = object::parse_timestamp(since).filter(|_| min_ready_seconds > 0);
    let left = ready_at.map(|at| at + time::Duration::seconds(min_ready_seconds) - OffsetDateTime::now_utc());
    Some(left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default())
}

/// A pod's share in the numbers of its controller.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    pub(super) ready: i64,
    pub(super) available: i64,
    /// When the next ready pod becomes available by mere waiting.
    pub(super) next: Option<Duration>,
}

impl Readiness {
    /// Counts these pods.
    pub(super) fn of<'a>(pods: impl Iterator<Item = &'a Arc<Value>>, min_ready_seconds: i64) -> Self {
        let mut sum = Self::default();
        for left in pods.filter_map(|pod| time_to_available(pod, min_ready_seconds)) {
            sum.ready += 1;
            if left.is_zero() {
                sum.available += 1;
            } else {
                sum.next = Some(sum.next.map_or(left, |next| next.min(left)));
            }
        }
        sum
    }
}

/// The pods that `owner` controls. Pods that match its selector and belong to nobody are taken over; pods that it controls
/// and that do not match any more are let go.
pub(super) fn claim_pods(store: &Store, owner: &Value, selector: &Selector) -> Result<Vec<Arc<Value>>, ApiError> {
    claim(store, &PODS, owner, selector)
}

/// [`claim_pods`] for objects of any kind.
pub(super) fn claim(store: &Store, gr: &GroupResource, owner: &Value, selector: &Selector) -> Result<Vec<Arc<Value>>, ApiError> {
    let (ns, uid) = (object::namespace(owner), object::uid(owner));
    let mut claimed = Vec::new();
    for object in store.list(gr, Some(ns)).items {
        let matches = !selector.is_empty() && selector.matches(&object);
        match controller_uid(&object) {
            own if own == uid && matches => claimed.push(object),
            own if own == uid => {
                store.modify(gr, Some(ns), object::name(&object), |object| release(object, uid))?;
            }
            "" if matches && !object::is_terminating(&object) => {
                let reference = controller_ref(owner);
                claimed.push(store.modify(gr, Some(ns), object::name(&object), |object| {
                    let owners = object::metadata(object).entry("ownerReferences").or_insert_with(|| json!([]));
                    if let Some(owners) = owners.as_array_mut() {
                        owners.push(reference);
                    }
                })?);
            }
            _ => {}
        }
    }
    Ok(claimed)
}

fn release(object: &mut Value, uid: &str) {
    if let Some(owners) = object::metadata(object).get_mut("ownerReferences").and_then(Value::as_array_mut) {
        owners.retain(|owner| text(owner, "/uid") != uid);
    }
}

/// A pod made from the template of `owner`, with these labels on top. Without a name it gets a generated one.
pub(super) fn pod_from_template(owner: &Value, name: Option<&str>, labels: &[(&str, &str)]) -> Value {
    let template = owner.pointer("/spec/template").cloned().unwrap_or_default();
    let mut metadata = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer("/metadata").and_then(|all| all.get(field)).filter(|value| !value.is_null()) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    match name {
        Some(name) => metadata.insert("name".to_owned(), json!(name)),
        None => metadata.insert("generateName".to_owned(), json!(format!("{}-", object::name(owner)))),
    };
    metadata.insert("ownerReferences".to_owned(), json!([controller_ref(owner)]));
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({}))});
    let own = object::as_map(object::metadata(&mut pod).entry("labels").or_insert_with(|| json!({})));
    for (label, value) in labels {
        own.insert((*label).to_owned(), json!(value));
    }
    pod
}

/// Asks for the end of a pod, with its own grace period. That it is gone already is a success.
pub(super) fn delete_pod(store: &Store, pod: &Value) -> Result<(), ApiError> {
    let options = DeleteOptions { uid: Some(object::uid(pod).to_owned()), ..DeleteOptions::default() };
    match store.delete(&PODS, Some(object::namespace(pod)), object::name(pod), &options) {
        Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A number, or a percentage of `total`, never below zero.
pub(super) fn scaled(value: Option<&Value>, total: i64, round_up: bool) -> i64 {
    let percent = |text: &str| -> Option<i64> {
        let part = text.strip_suffix('%')?.parse::<i64>().ok()?.checked_mul(total)?;
        Some(if round_up { part.div_euclid(100) + i64::from(part.rem_euclid(100) > 0) } else { part.div_euclid(100) })
    };
    let number = match value {
        Some(Value::String(text)) => percent(text),
        Some(other) => other.as_i64(),
        None => None,
    };
    number.unwrap_or(0).max(0)
}

/// A short, stable name for a pod template: what tells its revisions apart.
pub(super) fn template_hash(template: &Value, salt: i64) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = fnv1a(format!("{salt}/{}", without_nulls(template)).as_bytes());
    let mut name = String::new();
    for _ in 0..10 {
        let index = usize::try_from(hash % ALPHABET.len() as u64).unwrap_or_default();
        name.extend(ALPHABET.get(index).map(|byte| char::from(*byte)));
        hash /= ALPHABET.len() as u64;
    }
    name
}

/// The value without members that are null: clients write them for what they leave out.
pub(super) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let members = map.iter().filter(|(_, member)| !member.is_null());
            Value::Object(members.map(|(name, member)| (name.clone(), without_nulls(member))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(without_nulls).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// FNV-1a over 64 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

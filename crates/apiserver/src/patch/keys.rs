//! How the lists of the built-in kinds merge: by which keys of their elements.
//!
//! Told by the list's field name and the kind, which is enough for the kinds that are served. Two views differ: strategic
//! merge uses one key for each list (`patchMergeKey`), server-side apply may use several (`x-kubernetes-list-map-keys`).
//! Invariant: service ports are told apart by port and protocol in both, else 53/UDP would swallow 53/TCP.
//! Reference: the OpenAPI document of Kubernetes 1.32.

use serde_json::Value;

/// How a list merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListKind {
    /// As a whole: the new one replaces the old.
    Atomic,
    /// As a set of plain values.
    Set,
    /// As a map: elements with equal keys are one.
    Map(&'static [&'static str]),
}

/// The list kind of a field. `path` holds the field names from the root, list elements left out.
pub(super) fn list_kind(path: &[String]) -> ListKind {
    let field = path.last().map_or("", String::as_str);
    let parent = path.len().checked_sub(2).and_then(|at| path.get(at)).map_or("", String::as_str);
    match (parent, field) {
        (_, "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets") => ListKind::Map(&["name"]),
        ("containers" | "initContainers" | "ephemeralContainers", "ports") => ListKind::Map(&["containerPort", "protocol"]),
        ("spec", "ports") => ListKind::Map(&["port", "protocol"]),
        (_, "volumeMounts") => ListKind::Map(&["mountPath"]),
        (_, "volumeDevices") => ListKind::Map(&["devicePath"]),
        (_, "conditions") => ListKind::Map(&["type"]),
        ("status", "addresses") => ListKind::Map(&["type"]),
        (_, "podIPs" | "hostIPs") => ListKind::Map(&["ip"]),
        (_, "hostAliases") => ListKind::Map(&["ip"]),
        (_, "topologySpreadConstraints") => ListKind::Map(&["topologyKey", "whenUnsatisfiable"]),
        (_, "ownerReferences") => ListKind::Map(&["uid"]),
        ("metadata", "finalizers") => ListKind::Set,
        ("spec", "podCIDRs" | "finalizers") => ListKind::Set,
        _ => ListKind::Atomic,
    }
}

/// Whether two elements of a list have the same keys. A key that one of them leaves out counts as its default, or for
/// `protocol` as `TCP`; in a patch that leaves out all but the first key, the first alone decides.
pub(super) fn same_element(keys: &[&str], a: &Value, b: &Value) -> bool {
    let value = |element: &Value, key: &str| match element.get(key) {
        None | Some(Value::Null) if key == "protocol" => Value::from("TCP"),
        None => Value::Null,
        Some(value) => value.clone(),
    };
    keys.iter().all(|key| value(a, key) == value(b, key))
}

//! Reading and writing the common parts of an object: type, metadata, timestamps.
//!
//! Invariant: no function here panics on an object of the wrong shape; what is missing or of another type reads as
//! absent, and a writer replaces it. Reference: `ObjectMeta` of meta/v1.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::macros::format_description;

/// A string at a JSON pointer, or `""`.
#[must_use]
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An integer at a JSON pointer, or `None`.
#[must_use]
pub fn integer(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The elements of an array at a JSON pointer; nothing where there is no array.
pub fn items<'a>(object: &'a Value, pointer: &str) -> std::slice::Iter<'a, Value> {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter()
}

/// The entries of a JSON object at a pointer; nothing where there is none.
pub fn entries<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
    object.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

/// `metadata.name`, or `""`.
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`, or `""` for a cluster-scoped object.
#[must_use]
pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// `metadata.uid`, or `""`.
#[must_use]
pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// `metadata.resourceVersion` as the number that it is in this server.
#[must_use]
pub fn resource_version(object: &Value) -> Option<u64> {
    text(object, "/metadata/resourceVersion").parse().ok()
}

/// Whether deletion of the object has been asked for.
#[must_use]
pub fn is_terminating(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// One label's value.
#[must_use]
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str)
}

/// The JSON object inside `value`, made empty first when it is anything else.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("made an object above")
        }
    }
}

/// A field of a JSON object as a JSON object, both made on demand.
pub fn child<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    as_map(as_map(value).entry(field).or_insert(Value::Null))
}

/// `metadata`, made on demand.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// Sets `field` unless it holds something already.
pub fn set_default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let slot = map.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

/// A time as Kubernetes writes it: RFC 3339 in UTC, whole seconds.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

/// Now, as Kubernetes writes it.
#[must_use]
pub fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// Reads an RFC 3339 time.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()
}

/// A random version 4 UUID (RFC 9562), for `metadata.uid`.
#[must_use]
pub fn new_uid() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Five characters after which generated names end; vowels and look-alikes are left out.
#[must_use]
pub fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).filter_map(|_| ALPHABET.get(rand::random_range(0..ALPHABET.len())).map(|byte| char::from(*byte))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    #[test]
    fn uid_is_a_version_4_uuid() {
        for _ in 0..50 {
            let uid = new_uid();
            assert_eq!(uid.len(), 36, "{uid}");
            assert_eq!(uid.as_bytes()[14], b'4', "{uid}");
            assert!(b"89ab".contains(&uid.as_bytes()[19]), "{uid}");
        }
    }

    #[test]
    fn timestamps_are_read_back() {
        let now = now();
        assert_eq!(timestamp(parse_timestamp(&now).unwrap()), now);
        assert!(parse_timestamp("yesterday").is_none());
    }

    #[test]
    fn writers_replace_what_is_of_another_shape() {
        let mut object = json!({"metadata": "nonsense"});
        set_default(metadata(&mut object), "name", "a");
        set_default(metadata(&mut object), "name", "b");
        assert_eq!(name(&object), "a");
        assert_eq!(items(&object, "/metadata/name").count(), 0);
    }
}

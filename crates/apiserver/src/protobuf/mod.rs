//! The protobuf bodies that kubectl sends for what it creates from flags: `kubectl create namespace`, `configmap`,
//! `secret`, `serviceaccount`, `service`, `deployment`, `job`, `ingress`, `role` and `rolebinding`; and the options of deletions and evictions.
//!
//! Invariant: nothing is dropped silently: a field that is not known here and not empty refuses the whole body, with the
//! advice to send YAML. Reference: the "k8s" envelope in the Kubernetes API concepts; protobuf's encoding document.

mod messages;
mod wire;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use self::messages::{Field, Message, Type, message_of};
use self::wire::{Datum, Fault, Reader};
use crate::error::ApiError;
use crate::object::timestamp;

const MAGIC: &[u8] = b"k8s\0";

/// Decodes an object in its envelope.
///
/// # Errors
/// `BadRequest` when it is not well formed, `UnsupportedMediaType` when its kind, or a field of it, is not known here.
pub(crate) fn decode(body: &[u8]) -> Result<Value, ApiError> {
    let malformed = |what: &str| ApiError::bad_request(format!("the protobuf body is malformed: {what}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not begin with the Kubernetes mark"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for item in Reader::new(envelope) {
        match item.map_err(|fault| malformed(fault.0))? {
            (1, Datum::Bytes(meta)) => {
                for item in Reader::new(meta) {
                    match item.map_err(|fault| malformed(fault.0))? {
                        (1, Datum::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Datum::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Datum::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let unsupported = |what: String| ApiError::UnsupportedMediaType {
        message: format!("{what} cannot be read in protobuf by this server; write it to a file and use `kubectl apply -f`"),
    };
    let message = message_of(&kind).ok_or_else(|| unsupported(format!("kind {kind:?} ({api_version})")))?;
    let mut object = match decode_message(message, raw) {
        Ok(object) => object,
        Err(Stop::Malformed(what)) => return Err(malformed(what)),
        Err(Stop::Unknown(field)) => return Err(unsupported(format!("field {field} of {kind}"))),
    };
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(kind));
    Ok(Value::Object(object))
}

enum Stop {
    Malformed(&'static str),
    Unknown(String),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Malformed(fault.0)
    }
}

fn decode_message(message: &Message, bytes: &[u8]) -> Result<Map<String, Value>, Stop> {
    let mut object = Map::new();
    for item in Reader::new(bytes) {
        let (number, datum) = item?;
        let Some(field) = message.iter().find(|field| field.number == number) else {
            if datum.is_zero() {
                continue;
            }
            return Err(Stop::Unknown(format!("number {number}")));
        };
        if let (Type::Inline(message), Datum::Bytes(bytes)) = (field.ty, datum) {
            object.extend(decode_message(message, bytes)?);
            continue;
        }
        let Some(value) = decode_field(field, datum).map_err(|stop| inside(field, stop))? else { continue };
        if let (true, Value::Object(one)) = (field.ty.is_map(), &value) {
            let map = crate::object::as_map(object.entry(field.name).or_insert(Value::Null));
            map.extend(one.clone());
        } else if field.repeated {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
        } else {
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(object)
}

fn inside(field: &Field, stop: Stop) -> Stop {
    match stop {
        Stop::Unknown(path) => Stop::Unknown(format!("{}, {path}", field.name)),
        Stop::Malformed(what) => Stop::Malformed(what),
    }
}

/// The value of a field, or nothing where it says no more than being absent would.
fn decode_field(field: &Field, datum: Datum<'_>) -> Result<Option<Value>, Stop> {
    let wrong = || Stop::Malformed("a field has the wrong wire type");
    Ok(match (field.ty, datum) {
        (Type::Skip, _) => None,
        (Type::Integer, Datum::Varint(number)) => Some(json!(number.cast_signed())),
        (Type::PositiveInteger, Datum::Varint(number)) => (number != 0).then(|| json!(number.cast_signed())),
        (Type::Bool, Datum::Varint(number)) => Some(json!(number != 0)),
        (Type::Text, Datum::Bytes(bytes)) => text(bytes).filter(|text| field.repeated || !text.is_empty()).map(Value::from),
        (Type::Time, Datum::Bytes(bytes)) => time(bytes)?,
        (Type::IntOrString, Datum::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::TextMap | Type::BytesMap, Datum::Bytes(bytes)) => Some(entry(bytes, matches!(field.ty, Type::BytesMap))?),
        (Type::Message(message), Datum::Bytes(bytes)) => {
            let inner = decode_message(message, bytes)?;
            (field.repeated || !inner.is_empty()).then_some(Value::Object(inner))
        }
        (
            Type::Integer
            | Type::PositiveInteger
            | Type::Bool
            | Type::Text
            | Type::Time
            | Type::IntOrString
            | Type::TextMap
            | Type::BytesMap
            | Type::Message(_)
            | Type::Inline(_),
            _,
        ) => return Err(wrong()),
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn time(bytes: &[u8]) -> Result<Option<Value>, Stop> {
    for item in Reader::new(bytes) {
        if let (1, Datum::Varint(seconds)) = item? {
            let at = time::OffsetDateTime::from_unix_timestamp(seconds.cast_signed());
            return Ok(at.ok().map(|at| json!(timestamp(at))));
        }
    }
    Ok(None)
}

fn int_or_string(bytes: &[u8]) -> Result<Option<Value>, Stop> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for item in Reader::new(bytes) {
        match item? {
            (1, Datum::Varint(kind)) => is_text = kind == 1,
            (2, Datum::Varint(value)) => number = value.cast_signed(),
            (3, Datum::Bytes(bytes)) => string = text(bytes).unwrap_or_default(),
            _ => {}
        }
    }
    // An unset port reads as the number 0, which no port has.
    Ok(match (is_text, number) {
        (true, _) => Some(json!(string)),
        (false, 0) => None,
        (false, number) => Some(json!(number)),
    })
}

fn entry(bytes: &[u8], binary: bool) -> Result<Value, Stop> {
    let (mut key, mut value) = (String::new(), Value::from(""));
    for item in Reader::new(bytes) {
        match item? {
            (1, Datum::Bytes(bytes)) => key = text(bytes).unwrap_or_default(),
            (2, Datum::Bytes(bytes)) if binary => value = json!(STANDARD.encode(bytes)),
            (2, Datum::Bytes(bytes)) => value = json!(text(bytes)),
            _ => {}
        }
    }
    Ok(json!({key: value}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may fail loudly")]
    use super::*;

    /// A field of bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut all = vec![number << 3 | 2, bytes.len() as u8];
        all.extend(bytes);
        all
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn a_config_map_with_two_keys() {
        let metadata = [field(1, b"m"), field(2, b""), field(8, b"")].concat();
        let pair = |key: &[u8], value: &[u8]| field(2, &[field(1, key), field(2, value)].concat());
        let body = envelope("ConfigMap", &[field(1, &metadata), pair(b"a", b"1"), pair(b"b", b"")].concat());
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1", "b": ""}});
        assert_eq!(decode(&body).unwrap(), wanted);
    }

    #[test]
    fn a_service_port_by_number_and_name() {
        let port = |target: &[u8]| [vec![3 << 3, 80], field(4, target)].concat();
        let spec = [field(1, &port(&[1 << 3, 0, 2 << 3, 90])), field(1, &port(&[&[1 << 3, 1][..], &field(3, b"web")].concat()))].concat();
        let object = decode(&envelope("Service", &field(2, &spec))).unwrap();
        assert_eq!(object["spec"]["ports"], json!([{"port": 80, "targetPort": 90}, {"port": 80, "targetPort": "web"}]));
    }

    #[test]
    fn what_is_unknown_or_broken_is_refused() {
        let strange = decode(&envelope("Namespace", &field(1, &field(15, b"x")))).unwrap_err();
        assert_eq!(strange.code(), 415);
        assert!(strange.to_string().contains("field metadata, number 15 of Namespace"), "{strange}");
        assert_eq!(decode(&envelope("Gizmo", b"")).unwrap_err().code(), 415);
        assert_eq!(decode(b"{}").unwrap_err().code(), 400);
        assert_eq!(decode(&envelope("Namespace", &[1 << 3 | 2, 200, 1])).unwrap_err().code(), 400);
        for cut in 0..30 {
            let whole = envelope("Namespace", &field(1, &field(1, b"name")));
            let _ = decode(&whole[..cut.min(whole.len())]);
        }
    }
}

//! How objects are shown: as they are, as rows of a table, or by their metadata alone.
//!
//! Reference: "Receiving resources as Tables" and PartialObjectMetadata of the Kubernetes API concepts.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Call, json_answer};
use crate::object;
use crate::table;

/// The form that a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    Table,
    Metadata,
}

impl Form {
    /// The first form named in an Accept header that is known here; what is asked in protobuf is answered in JSON.
    pub(super) fn of_accept(accept: &str) -> Self {
        let known = accept.split(',').find_map(|range| {
            let parameter = |wanted: &str| range.split(';').skip(1).find_map(|part| part.trim().strip_prefix(wanted)?.strip_prefix('='));
            match parameter("as") {
                Some("Table") if parameter("v").is_none_or(|version| version == "v1") => Some(Self::Table),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
                Some(_) => None,
                None => Some(Self::Object),
            }
        });
        known.unwrap_or(Self::Object)
    }
}

/// One object, in the version and form asked for.
pub(super) fn one(call: &Call, object: &Value) -> Value {
    match Form::of_accept(&call.accept) {
        Form::Object => versioned(call, object),
        Form::Table => {
            let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            table::table(
                &call.resource,
                &call.target.version,
                &[object],
                call.query.text("includeObject"),
                json!({"resourceVersion": version}),
            )
        }
        Form::Metadata => metadata_only(object),
    }
}

/// A list of objects; `metadata` is that of the list.
pub(super) fn list(call: &Call, objects: &[&Value], metadata: Value) -> Value {
    match Form::of_accept(&call.accept) {
        Form::Object => {
            let items: Vec<Value> = objects.iter().map(|object| versioned(call, object)).collect();
            json!({"kind": call.resource.list_kind, "apiVersion": call.target.api_version(), "metadata": metadata, "items": items})
        }
        Form::Table => table::table(&call.resource, &call.target.version, objects, call.query.text("includeObject"), metadata),
        Form::Metadata => {
            let items: Vec<Value> = objects.iter().map(|object| metadata_only(object)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
        }
    }
}

/// An object that says no more than how far a watch is.
pub(super) fn bookmark(call: &Call, revision: u64, annotations: Value) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if annotations.is_object() {
        object::as_map(&mut metadata).insert("annotations".to_owned(), annotations);
    }
    let (kind, version) = match Form::of_accept(&call.accept) {
        Form::Object => (call.resource.kind.clone(), call.target.api_version()),
        Form::Table => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
        Form::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
    };
    let mut bookmark = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
    if kind == "Table" {
        object::as_map(&mut bookmark).extend([("columnDefinitions".to_owned(), Value::Null), ("rows".to_owned(), Value::Null)]);
    }
    bookmark
}

/// The answer that holds one object.
pub(super) fn answer(call: &Call, code: StatusCode, object: &Value) -> Answer {
    json_answer(code, &one(call, object))
}

/// Versions of one kind differ in nothing but their name here.
fn versioned(call: &Call, object: &Value) -> Value {
    let mut object = object.clone();
    object::as_map(&mut object).insert("apiVersion".to_owned(), json!(call.target.api_version()));
    object
}

fn metadata_only(object: &Value) -> Value {
    table::partial(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_form_counts() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Form::of_accept(kubectl), Form::Table);
        assert_eq!(Form::of_accept("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), Form::Metadata);
        assert_eq!(Form::of_accept("application/json;as=Novelty;v=v9,application/json"), Form::Object);
        assert_eq!(Form::of_accept(""), Form::Object);
    }
}

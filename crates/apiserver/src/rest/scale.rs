//! The scale subresource: replicas alone, whatever the kind. Reference: autoscaling/v1 Scale.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Call, Context, body, json_answer};
use crate::error::{ApiError, Cause};
use crate::kinds::ScalePaths;
use crate::object;
use crate::patch::{self, PatchKind, Writer};
use crate::store::{Scope, WriteOptions};

impl Context {
    pub(super) fn scale(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let paths = call.resource.scale.as_ref().ok_or(ApiError::NoSuchPath)?;
        let (gr, ns) = (&call.resource.id, call.target.namespace.as_deref());
        let name = call.target.name.as_deref().unwrap_or_default();
        if call.method == http::Method::GET {
            return Ok(json_answer(StatusCode::OK, &view(paths, &*self.store.get(gr, ns, name)?)));
        }
        let options = WriteOptions { scope: Scope::Main, dry_run: call.query.dry_run()? };
        let (manager, api_version) = (call.manager(), call.target.api_version());
        let writer = Writer { manager: &manager, api_version: &api_version, subresource: "scale" };
        let stored = self.store.write(gr, ns, name, options, |old| {
            let wanted = wanted_scale(call, body, &view(paths, old))?;
            let replicas = object::integer(&wanted, "/spec/replicas").unwrap_or_default();
            if replicas < 0 {
                let cause = Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
                let (group, kind) = ("autoscaling".to_owned(), "Scale".to_owned());
                return Err(ApiError::Invalid { group, kind, name: name.to_owned(), causes: vec![cause] });
            }
            let mut new = old.clone();
            set_integer(&mut new, &paths.spec_replicas, replicas);
            let version = wanted.pointer("/metadata/resourceVersion").cloned();
            if let Some(version) = version.filter(|version| !version.is_null()) {
                object::metadata(&mut new).insert("resourceVersion".to_owned(), version);
            }
            patch::track_update(Some(old), &mut new, writer);
            Ok(new)
        })?;
        Ok(json_answer(StatusCode::OK, &view(paths, &stored)))
    }
}

fn wanted_scale(call: &Call, body: &Bytes, old: &Value) -> Result<Value, ApiError> {
    if call.method == http::Method::PUT {
        return body::decode(&call.content_type, body);
    }
    let patch = body::decode(&call.content_type, body)?;
    match PatchKind::of_content_type(&call.content_type) {
        Some(PatchKind::Json) => patch::json(old, &patch),
        Some(PatchKind::Merge | PatchKind::Strategic | PatchKind::Apply) => {
            let mut new = old.clone();
            patch::merge(&mut new, &patch);
            Ok(new)
        }
        None => Err(ApiError::UnsupportedMediaType { message: format!("{:?} is no kind of patch", call.content_type) }),
    }
}

fn view(paths: &ScalePaths, object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer("/metadata").and_then(|all| all.get(field)) {
            object::as_map(&mut metadata).insert(field.to_owned(), value.clone());
        }
    }
    let selector = match paths.label_selector.as_str() {
        "" => selector_text(object.pointer("/spec/selector").unwrap_or(&Value::Null)),
        pointer => object::text(object, pointer).to_owned(),
    };
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object::integer(object, &paths.spec_replicas).unwrap_or_default()},
        "status": {"replicas": object::integer(object, &paths.status_replicas).unwrap_or_default(), "selector": selector},
    })
}

/// A label selector, in either of its JSON forms, in one line.
pub(crate) fn selector_text(selector: &Value) -> String {
    let grouped = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if grouped { "/matchLabels" } else { "" };
    let mut parts: Vec<String> =
        object::entries(selector, labels).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for expression in object::items(selector, "/matchExpressions") {
        let key = object::text(expression, "/key");
        let values: Vec<&str> = object::items(expression, "/values").filter_map(Value::as_str).collect();
        parts.push(match object::text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

fn set_integer(object: &mut Value, pointer: &str, number: i64) {
    let mut at = object;
    for step in pointer.split('/').skip(1) {
        at = object::as_map(at).entry(step).or_insert(Value::Null);
    }
    *at = json!(number);
}

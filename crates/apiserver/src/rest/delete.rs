//! DELETE of objects and collections, and the eviction of pods. Reference: `DeleteOptions` of meta/v1; policy/v1 Eviction.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Call, Context, body, json_answer, render, write};
use crate::error::ApiError;
use crate::object;
use crate::store::{DeleteOptions, Deletion, Propagation};

impl Context {
    pub(super) fn delete_one(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let options = options(call, body)?;
        let name = call.target.name.as_deref().unwrap_or_default();
        let deletion = self.store.delete(&call.resource.id, call.target.namespace.as_deref(), name, &options)?;
        Ok(match deletion {
            Deletion::Marked(object) => render::answer(call, StatusCode::OK, &object),
            Deletion::Removed(object) => json_answer(StatusCode::OK, &success(call, &object)),
        })
    }

    pub(super) fn delete_all(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let options = options(call, body)?;
        let (labels, fields) = call.query.selectors()?;
        let listing = self.store.list(&call.resource.id, call.target.namespace.as_deref());
        let mut deleted = Vec::new();
        for one in listing.items.iter().filter(|one| labels.matches(one) && fields.matches(one)) {
            let namespace = Some(object::namespace(one)).filter(|namespace| !namespace.is_empty());
            match self.store.delete(&call.resource.id, namespace, object::name(one), &options) {
                Ok(deletion) => deleted.push(Value::clone(deletion.object())),
                // Somebody else was faster.
                Err(ApiError::NotFound { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        let deleted: Vec<&Value> = deleted.iter().collect();
        let metadata = json!({"resourceVersion": self.store.revision().to_string()});
        Ok(json_answer(StatusCode::OK, &render::list(call, &deleted, metadata)))
    }

    pub(super) fn evict(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        write::only_pods(call)?;
        let eviction = if body.is_empty() { Value::Null } else { body::decode(&call.content_type, body)? };
        let mut options = read(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
        options.dry_run |= call.query.dry_run()?;
        let name = call.target.name.as_deref().unwrap_or_default();
        let deletion = self.store.delete(&call.resource.id, call.target.namespace.as_deref(), name, &options)?;
        Ok(json_answer(StatusCode::CREATED, &success(call, deletion.object())))
    }
}

fn success(call: &Call, object: &Value) -> Value {
    let details = json!({
        "name": object::name(object), "group": call.resource.id.group,
        "kind": call.resource.id.resource, "uid": object::uid(object),
    });
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The body counts, and where it says nothing the query.
fn options(call: &Call, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    let given = if body.is_empty() { Value::Null } else { body::decode(&call.content_type, body)? };
    let mut options = read(&given)?;
    if options.grace_period_seconds.is_none() {
        options.grace_period_seconds = call.query.number("gracePeriodSeconds")?.map(u64::cast_signed);
    }
    if given.get("propagationPolicy").is_none() {
        options.propagation = propagation(call.query.text("propagationPolicy"))?;
    }
    options.dry_run |= call.query.dry_run()?;
    Ok(options)
}

fn read(given: &Value) -> Result<DeleteOptions, ApiError> {
    let text = |pointer: &str| Some(object::text(given, pointer)).filter(|text| !text.is_empty()).map(str::to_owned);
    let orphan = given.get("orphanDependents") == Some(&Value::Bool(true));
    Ok(DeleteOptions {
        grace_period_seconds: object::integer(given, "/gracePeriodSeconds"),
        propagation: if orphan { Propagation::Orphan } else { propagation(object::text(given, "/propagationPolicy"))? },
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
        dry_run: object::items(given, "/dryRun").any(|value| value == "All"),
    })
}

fn propagation(given: &str) -> Result<Propagation, ApiError> {
    match given {
        "" | "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        "Orphan" => Ok(Propagation::Orphan),
        other => Err(ApiError::bad_request(format!("invalid propagationPolicy {other:?}; want Background, Foreground or Orphan"))),
    }
}

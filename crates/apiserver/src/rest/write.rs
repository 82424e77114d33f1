//! POST, PUT and PATCH of objects.
//!
//! Invariant: a patch is made inside the store's turn out of the object as it is then. Reference: the API concepts.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Call, Context, body, json_answer, render};
use crate::error::ApiError;
use crate::object;
use crate::patch::{self, PatchKind, Writer};
use crate::store::{GroupResource, Scope, WriteOptions};

impl Call {
    /// Who writes: the `fieldManager` parameter, else the program's name.
    pub(super) fn manager(&self) -> String {
        let default = if self.agent.is_empty() { "unknown" } else { &self.agent };
        self.query.given("fieldManager").unwrap_or(default).to_owned()
    }

    fn scope(&self) -> Scope {
        if self.target.subresource.as_deref() == Some("status") { Scope::Status } else { Scope::Main }
    }

    pub(super) fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or_default()
    }
}

impl Context {
    pub(super) fn create(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let mut object = body::decode(&call.content_type, body)?;
        if !object.is_object() {
            return Err(ApiError::bad_request("the body is not a JSON object"));
        }
        forget_status(call, &mut object);
        let (manager, api_version) = (call.manager(), call.target.api_version());
        patch::track_update(None, &mut object, Writer { manager: &manager, api_version: &api_version, subresource: "" });
        let options = WriteOptions { scope: Scope::Main, dry_run: call.query.dry_run()? };
        let made = self.store.create_with(&call.resource.id, call.target.namespace.as_deref(), object, options)?;
        Ok(render::answer(call, StatusCode::CREATED, &made))
    }

    pub(super) fn replace(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let object = body::decode(&call.content_type, body)?;
        let name = object::name(&object);
        if !name.is_empty() && name != call.name() {
            let message = format!("the name of the object ({name}) does not match the name on the URL ({})", call.name());
            return Err(ApiError::bad_request(message));
        }
        let finalize = call.target.subresource.as_deref() == Some("finalize");
        let stored = self.change(call, |old| {
            if finalize {
                let mut new = old.clone();
                let finalizers = object.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
                object::child(&mut new, "spec").insert("finalizers".to_owned(), finalizers);
                return Ok(new);
            }
            Ok(object)
        })?;
        Ok(render::answer(call, StatusCode::OK, &stored))
    }

    pub(super) fn patch(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let kind = PatchKind::of_content_type(&call.content_type).ok_or_else(|| ApiError::UnsupportedMediaType {
            message: format!("{:?} is no kind of patch that this server knows", call.content_type),
        })?;
        if kind == PatchKind::Strategic && call.resource.custom.is_some() {
            let message = "custom resources cannot be patched by strategic merge; use a merge patch (kubectl patch --type=merge)";
            return Err(ApiError::UnsupportedMediaType { message: message.to_owned() });
        }
        if kind == PatchKind::Apply {
            return self.apply(call, body);
        }
        let patch = body::decode_json(body)?;
        let stored = self.change(call, |old| patched(kind, old, &patch))?;
        Ok(render::answer(call, StatusCode::OK, &stored))
    }

    /// Writes what `make` makes of the object, and records who did.
    fn change(&self, call: &Call, make: impl FnOnce(&Value) -> Result<Value, ApiError>) -> Result<std::sync::Arc<Value>, ApiError> {
        let options = WriteOptions { scope: call.scope(), dry_run: call.query.dry_run()? };
        let (manager, api_version) = (call.manager(), call.target.api_version());
        let subresource = call.target.subresource.clone().unwrap_or_default();
        let writer = Writer { manager: &manager, api_version: &api_version, subresource: &subresource };
        self.store.write(&call.resource.id, call.target.namespace.as_deref(), call.name(), options, |old| {
            let mut new = make(old)?;
            if !new.is_object() {
                return Err(ApiError::bad_request("the result is not a JSON object"));
            }
            within_scope(call, old, &mut new);
            patch::track_update(Some(old), &mut new, writer);
            Ok(new)
        })
    }

    fn apply(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let Some(manager) = call.query.given("fieldManager") else {
            let message = "server-side apply needs the query parameter fieldManager";
            return Err(ApiError::bad_request(message));
        };
        let mut config = body::decode(&call.content_type, body)?;
        if !config.is_object() {
            return Err(ApiError::bad_request("the configuration is not a JSON object"));
        }
        let given = object::name(&config);
        if !given.is_empty() && given != call.name() {
            let message = format!("metadata.name {given:?} does not match the name on the URL ({})", call.name());
            return Err(ApiError::bad_request(message));
        }
        let api_version = call.target.api_version();
        if object::text(&config, "/apiVersion") != api_version || object::text(&config, "/kind") != call.resource.kind {
            let message = format!("apiVersion and kind must be set to {api_version} and {}", call.resource.kind);
            return Err(ApiError::bad_request(message));
        }
        object::metadata(&mut config).insert("name".to_owned(), json!(call.name()));
        let force = call.query.flag("force");
        let subresource = call.target.subresource.clone().unwrap_or_default();
        let writer = Writer { manager, api_version: &api_version, subresource: &subresource };
        let options = WriteOptions { scope: call.scope(), dry_run: call.query.dry_run()? };
        let (gr, ns) = (&call.resource.id, call.target.namespace.as_deref());
        if options.scope == Scope::Main {
            forget_status(call, &mut config);
        }
        let changed = self.store.write(gr, ns, call.name(), options, |old| patch::apply(Some(old), &config, writer, force));
        match changed {
            Err(ApiError::NotFound { ref resource, ref name }) if resource == gr && name == call.name() && options.scope == Scope::Main => {
                let object = patch::apply(None, &config, writer, force)?;
                let made = self.store.create_with(gr, ns, object, options)?;
                Ok(render::answer(call, StatusCode::CREATED, &made))
            }
            changed => Ok(render::answer(call, StatusCode::OK, &*changed?)),
        }
    }

    /// `pods/NAME/binding`: what a scheduler posts.
    pub(super) fn bind(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        only_pods(call)?;
        let binding = body::decode(&call.content_type, body)?;
        let node = object::text(&binding, "/target/name");
        if node.is_empty() {
            return Err(ApiError::bad_request("a binding needs target.name, the node's name"));
        }
        let pods = GroupResource::core("pods");
        let options = WriteOptions { scope: Scope::Whole, dry_run: call.query.dry_run()? };
        self.store.write(&pods, call.target.namespace.as_deref(), call.name(), options, |old| {
            let bound = object::text(old, "/spec/nodeName");
            if !bound.is_empty() {
                let message = format!("pod {} is already assigned to node {bound:?}", call.name());
                return Err(ApiError::Conflict { resource: pods.clone(), name: call.name().to_owned(), message });
            }
            let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now()});
            patch::strategic(old, &json!({"spec": {"nodeName": node}, "status": {"conditions": [condition]}}))
        })?;
        Ok(json_answer(
            StatusCode::CREATED,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        ))
    }
}

pub(super) fn only_pods(call: &Call) -> Result<(), ApiError> {
    if call.resource.id.is("", "pods") { Ok(()) } else { Err(ApiError::NoSuchPath) }
}

fn patched(kind: PatchKind, old: &Value, patch: &Value) -> Result<Value, ApiError> {
    match kind {
        PatchKind::Json => patch::json(old, patch),
        PatchKind::Merge => {
            let mut new = old.clone();
            patch::merge(&mut new, patch);
            Ok(new)
        }
        PatchKind::Strategic | PatchKind::Apply => patch::strategic(old, patch),
    }
}

/// Status comes through its subresource. Nodes bring theirs along when they register.
fn forget_status(call: &Call, object: &mut Value) {
    if call.resource.status && !call.resource.id.is("", "nodes") {
        object::as_map(object).remove("status");
    }
}

/// What the write may not change is not the writer's either.
fn within_scope(call: &Call, old: &Value, new: &mut Value) {
    if !call.resource.status {
        return;
    }
    let map = object::as_map(new);
    if call.scope() == Scope::Main {
        match old.get("status") {
            Some(status) => map.insert("status".to_owned(), status.clone()),
            None => map.remove("status"),
        };
        return;
    }
    let fields: Vec<String> = map.keys().cloned().collect();
    for field in fields.into_iter().filter(|field| !matches!(field.as_str(), "metadata" | "status" | "apiVersion" | "kind")) {
        map.remove(&field);
    }
    for (field, value) in object::entries(old, "") {
        if !matches!(field.as_str(), "metadata" | "status") {
            map.insert(field.clone(), value.clone());
        }
    }
}

//! What can go wrong in an API call, and the `Status` object that says so.
//!
//! Invariant: each variant maps to one HTTP code and one `reason`, those that Kubernetes uses, since kubectl and client
//! libraries decide by them. Reference: `Status`, `StatusReason` and `CauseType` of meta/v1.

use serde_json::{Value, json};

use crate::store::GroupResource;

/// One field that is wrong, inside [`ApiError::Invalid`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The kind of fault: `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueDuplicate`.
    pub reason: &'static str,
    /// Path of the field, such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong, in words.
    pub message: String,
}

impl Cause {
    /// A field that must be given.
    #[must_use]
    pub fn required(field: impl Into<String>, hint: &str) -> Self {
        let colon = if hint.is_empty() { "" } else { ": " };
        Self { reason: "FieldValueRequired", field: field.into(), message: format!("Required value{colon}{hint}") }
    }

    /// A field whose value is not acceptable.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, hint: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {value}: {hint}") }
    }

    /// A field whose value is none of the known ones.
    #[must_use]
    pub fn unsupported(field: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known = known.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value}: supported values: {known}");
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// A value that must be unique and is not.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { reason: "FieldValueDuplicate", field: field.into(), message: format!("Duplicate value: {value}") }
    }
}

/// Why an API call was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// 400: the request cannot be understood.
    #[error("{message}")]
    BadRequest {
        /// What is wrong with it.
        message: String,
    },
    /// 401: no bearer token, or an unknown one.
    #[error("Unauthorized")]
    Unauthorized,
    /// 403: understood, and refused.
    #[error("{resource} {name:?} is forbidden: {message}")]
    Forbidden {
        /// The resource that was asked for.
        resource: GroupResource,
        /// Name of the object.
        name: String,
        /// Why.
        message: String,
    },
    /// 404: no such object.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// The resource that was asked for.
        resource: GroupResource,
        /// Name of the object.
        name: String,
    },
    /// 404: no such resource or path.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// 405: the resource does not know this verb.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// 409: a create of something that is there.
    #[error("{resource} {name:?} already exists")]
    AlreadyExists {
        /// The resource that was asked for.
        resource: GroupResource,
        /// Name of the object.
        name: String,
    },
    /// 409: the object has changed since it was read, or another manager owns a field.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {message}")]
    Conflict {
        /// The resource that was asked for.
        resource: GroupResource,
        /// Name of the object.
        name: String,
        /// What it conflicts with.
        message: String,
    },
    /// 409: server-side apply met fields owned by other managers.
    #[error("Apply failed with {count} conflict{plural}: {message}", count = causes.len(), plural = if causes.len() == 1 { "" } else { "s" })]
    ApplyConflict {
        /// One cause for each field.
        causes: Vec<Cause>,
        /// Summary of the causes.
        message: String,
    },
    /// 410: the asked-for resource version or continue token is too old (or from another life of the server).
    #[error("{message}")]
    Expired {
        /// What has expired.
        message: String,
    },
    /// 415: a body in a form that is not read here.
    #[error("{message}")]
    UnsupportedMediaType {
        /// Which form, and what to do.
        message: String,
    },
    /// 422: a patch that does not fit the object.
    #[error("{message}")]
    Unprocessable {
        /// What does not fit.
        message: String,
    },
    /// 422: the object breaks a rule of its kind.
    #[error("{kind}{dot}{group} {name:?} is invalid: {message}", dot = if group.is_empty() { "" } else { "." }, message = summary(causes))]
    Invalid {
        /// The object's API group.
        group: String,
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Each fault.
        causes: Vec<Cause>,
    },
    /// 500: a fault of this server.
    #[error("Internal error occurred: {message}")]
    Internal {
        /// What failed.
        message: String,
    },
}

fn summary(causes: &[Cause]) -> String {
    let each: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    match each.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

impl ApiError {
    /// A 400 with this message.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest { message: message.into() }
    }

    /// A 409 that asks the writer to read again.
    #[must_use]
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        let message = "the object has been modified; please apply your changes to the latest version and try again";
        Self::Conflict { resource: resource.clone(), name: name.to_owned(), message: message.to_owned() }
    }

    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::BadRequest { .. } => 400,
            Self::Unauthorized => 401,
            Self::Forbidden { .. } => 403,
            Self::NotFound { .. } | Self::NoSuchPath => 404,
            Self::MethodNotAllowed => 405,
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::ApplyConflict { .. } => 409,
            Self::Expired { .. } => 410,
            Self::UnsupportedMediaType { .. } => 415,
            Self::Unprocessable { .. } | Self::Invalid { .. } => 422,
            Self::Internal { .. } => 500,
        }
    }

    /// The machine-readable reason.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::NotFound { .. } | Self::NoSuchPath => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict { .. } => "Conflict",
            Self::Expired { .. } => "Expired",
            Self::UnsupportedMediaType { .. } => "UnsupportedMediaType",
            Self::Unprocessable { .. } | Self::Invalid { .. } => "Invalid",
            Self::Internal { .. } => "InternalError",
        }
    }

    /// The `Status` object to answer with.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": self.reason(), "code": self.code(),
        });
        if let (Some(details), Value::Object(map)) = (self.details(), &mut status) {
            map.insert("details".to_owned(), details);
        }
        status
    }

    fn details(&self) -> Option<Value> {
        match self {
            Self::Forbidden { resource, name, .. }
            | Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Conflict { resource, name, .. } => Some(json!({"name": name, "group": resource.group, "kind": resource.resource})),
            Self::Invalid { group, kind, name, causes } => {
                Some(json!({"name": name, "group": group, "kind": kind, "causes": causes_json(causes)}))
            }
            Self::ApplyConflict { causes, .. } => Some(json!({"causes": causes_json(causes)})),
            Self::NoSuchPath => Some(json!({})),
            Self::BadRequest { .. }
            | Self::Unauthorized
            | Self::MethodNotAllowed
            | Self::Expired { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::Unprocessable { .. }
            | Self::Internal { .. } => None,
        }
    }
}

fn causes_json(causes: &[Cause]) -> Vec<Value> {
    causes.iter().map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field})).collect()
}

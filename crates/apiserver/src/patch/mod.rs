//! The four kinds of patch.
//!
//! Invariant: a patch is applied to the object as it is stored now, inside the store's turn, so it cannot lose another
//! writer's change. Reference: RFC 6902 (JSON), RFC 7396 (merge), the strategic merge patch and server-side apply of the
//! Kubernetes documentation.

mod apply;
mod fields;
mod keys;
mod managed;
mod merge;
mod strategic;

use serde_json::Value;

pub use self::apply::{Applied, apply};
pub use self::managed::Writer;
pub(crate) use self::managed::track_update;
pub use self::merge::merge;
pub use self::strategic::strategic;

use crate::error::ApiError;

/// The form of a patch, told by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`: server-side apply.
    Apply,
}

impl PatchKind {
    /// Reads a content type.
    #[must_use]
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies a JSON patch.
///
/// # Errors
/// `BadRequest` when it is none, `Invalid`-like `BadRequest` when it does not fit the object.
pub fn json(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|error| ApiError::bad_request(format!("not a JSON patch: {error}")))?;
    let mut result = object.clone();
    json_patch::patch(&mut result, &patch)
        .map_err(|error| ApiError::Unprocessable { message: format!("the JSON patch does not fit the object: {error}") })?;
    Ok(result)
}

#[cfg(test)]
mod tests;

//! Request bodies: JSON, YAML, and the protobuf that kubectl sends for some kinds.
//!
//! Invariant: a body is bounded before it is read. Reference: the media types of the Kubernetes API concepts.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::error::ApiError;
use crate::protobuf;

/// A real server's bound, too.
const LIMIT_BYTES: usize = 3 << 20;

/// Reads a body whole.
pub(super) async fn collect(body: Incoming) -> Result<Bytes, ApiError> {
    let collected = Limited::new(body, LIMIT_BYTES).collect().await;
    let collected = collected.map_err(|error| ApiError::bad_request(format!("the request's body cannot be read: {error}")))?;
    Ok(collected.to_bytes())
}

/// Decodes an object by its content type.
pub(super) fn decode(content_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body),
        "application/yaml" | "application/apply-patch+yaml" => decode_yaml(body),
        _ => decode_json(body),
    }
}

pub(super) fn decode_json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))
}

/// JSON is YAML, but most that claims to be YAML is JSON, which reads faster.
fn decode_yaml(body: &[u8]) -> Result<Value, ApiError> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|error| ApiError::bad_request(format!("the body is not UTF-8: {error}")))?;
    serde_saphyr::from_str(text).map_err(|error| ApiError::bad_request(format!("the body is not valid YAML: {error}")))
}

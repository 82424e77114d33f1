//! What the server itself does to an object before it is stored: defaults, then (after the hooks) rules.
//!
//! Invariant: defaulting is idempotent and never overrides what is given; a rule names the field that breaks it.
//! Reference: the API reference of Kubernetes 1.32.

mod cluster_policy;
mod defaults;
mod names;
mod pod;
mod rules;
mod schema;
mod workload;

pub use self::names::{is_dns_label, is_dns_subdomain};

use serde_json::Value;

use crate::error::ApiError;
use crate::kinds::Resource;
use crate::object;

pub(crate) use self::defaults::default;

/// Checks an object as it is about to be stored; `old` is what it replaces.
pub(crate) fn validate(resource: &Resource, old: Option<&Value>, object: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    names::check_metadata(resource, object, &mut causes);
    rules::check(resource, old, object, &mut causes);
    if causes.is_empty() {
        return Ok(());
    }
    let name = match object::name(object) {
        "" => object::text(object, "/metadata/generateName"),
        name => name,
    };
    let (group, kind) = (resource.id.group.clone(), resource.kind.clone());
    Err(ApiError::Invalid { group, kind, name: name.to_owned(), causes })
}

#[cfg(test)]
mod tests;

//! Checks a custom resource against the schema of its definition.
//!
//! Covered: type, required, enum, minimum, maximum, lengths, and int-or-string. Patterns, formats and CEL rules are not
//! evaluated: the owner of the kind checks what it reads anyway. Reference: structural schemas of apiextensions.k8s.io/v1.

use serde_json::Value;

use crate::error::Cause;
use crate::object::items;

/// Collects what in `value` breaks `schema`; `at` is the path of `value`.
pub(super) fn check(schema: &Value, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    if let Some(wanted) = schema.get("type").and_then(Value::as_str)
        && !has_type(schema, wanted, value)
    {
        causes.push(Cause::invalid(at, value, &format!("must be of type {wanted}")));
        return;
    }
    if let Some(known) = schema.get("enum").and_then(Value::as_array)
        && !known.contains(value)
    {
        let names: Vec<String> = known.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        causes.push(Cause::unsupported(at, value, &names));
    }
    check_bounds(schema, value, at, causes);
    let below = |field: &str| if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") };
    if let Some(map) = value.as_object() {
        for field in items(schema, "/required").filter_map(Value::as_str) {
            if map.get(field).is_none_or(Value::is_null) {
                causes.push(Cause::required(below(field), ""));
            }
        }
        for (field, value) in map {
            let own = schema.get("properties").and_then(|all| all.get(field));
            let other = schema.get("additionalProperties").filter(|schema| schema.is_object());
            if let Some(schema) = own.or(other).filter(|_| !value.is_null()) {
                check(schema, value, &below(field), causes);
            }
        }
    }
    if let (Some(schema), Some(list)) = (schema.get("items"), value.as_array()) {
        for (index, value) in list.iter().enumerate() {
            check(schema, value, &format!("{at}[{index}]"), causes);
        }
    }
}

fn has_type(schema: &Value, wanted: &str, value: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value.is_i64() || value.is_u64() || value.is_string();
    }
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn check_bounds(schema: &Value, value: &Value, at: &str, causes: &mut Vec<Cause>) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    if let Some(number) = value.as_f64() {
        if let Some(least) = bound("minimum").filter(|least| number < *least) {
            causes.push(Cause::invalid(at, value, &format!("should be greater than or equal to {least}")));
        }
        if let Some(most) = bound("maximum").filter(|most| number > *most) {
            causes.push(Cause::invalid(at, value, &format!("should be less than or equal to {most}")));
        }
    }
    let size = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
    let sizes = match value {
        Value::String(text) => Some((text.chars().count(), "minLength", "maxLength")),
        Value::Array(list) => Some((list.len(), "minItems", "maxItems")),
        Value::Object(map) => Some((map.len(), "minProperties", "maxProperties")),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    };
    if let Some((is, least, most)) = sizes
        && (size(least).is_some_and(|least| is < least) || size(most).is_some_and(|most| is > most))
    {
        let hint = format!("its size must lie between {least} and {most} of the schema");
        causes.push(Cause::invalid(at, value, &hint));
    }
}

//! Custom resources, by the printer columns of their definition.
//!
//! The paths are the small part of JSONPath that definitions use: fields, quoted fields, indexes, `[*]` and
//! `[?(@.field=="value")]`. Reference: `additionalPrinterColumns` of apiextensions.k8s.io/v1.

use serde_json::{Value, json};

use super::{Cells, age, name};
use crate::object::{items, text};

/// Column definitions and the way to fill them.
pub(super) fn view(entry: &Value) -> (Vec<Value>, Cells) {
    let mut columns = vec![json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0})];
    let own: Vec<Value> = items(entry, "/additionalPrinterColumns").cloned().collect();
    if own.is_empty() {
        columns.push(json!({"name": "Age", "type": "date", "format": "", "description": "", "priority": 0}));
        return (columns, Box::new(|object| vec![name(object), age(object)]));
    }
    for column in &own {
        columns.push(json!({
            "name": text(column, "/name"), "type": text(column, "/type"), "format": text(column, "/format"),
            "description": text(column, "/description"), "priority": column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
        }));
    }
    let cells = move |object: &Value| {
        let mut cells = vec![name(object)];
        cells.extend(own.iter().map(|column| cell(object, text(column, "/jsonPath"), text(column, "/type"))));
        cells
    };
    (columns, Box::new(cells))
}

fn cell(object: &Value, path: &str, ty: &str) -> Value {
    let found = find(object, path);
    match (found.as_slice(), ty) {
        ([], _) => Value::Null,
        ([one], "date") => json!(super::age::since(one.as_str().unwrap_or_default())),
        ([one], "integer" | "number" | "boolean") => (*one).clone(),
        ([one], _) => json!(plain(one)),
        (several, _) => json!(several.iter().map(|one| plain(one)).collect::<Vec<_>>().join(",")),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The values at a path.
pub(super) fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    for step in steps(path) {
        found = found.into_iter().flat_map(|value| take(value, &step)).collect();
    }
    found
}

/// `.a.b[0]['c.d']` as `a`, `b`, `[0]`, `c.d`.
fn steps(path: &str) -> Vec<String> {
    let (mut steps, mut rest) = (Vec::new(), path.trim());
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (inside, after) = inner.split_once(']').unwrap_or((inner, ""));
            let quoted = inside.trim_matches(['\'', '"']);
            steps.push(if quoted.len() < inside.len() && !inside.starts_with('?') { quoted.to_owned() } else { format!("[{inside}]") });
            rest = after;
        } else {
            rest = rest.trim_start_matches('.');
            let end = escaped_end(rest);
            let (field, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
            if !field.is_empty() {
                steps.push(field.replace("\\.", "."));
            }
            rest = after;
        }
    }
    steps
}

/// Where a field name ends: at a dot that is not escaped, or a bracket.
fn escaped_end(text: &str) -> usize {
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        if character == '[' || character == '.' && before != '\\' {
            return at;
        }
        before = character;
    }
    text.len()
}

fn take<'a>(value: &'a Value, step: &str) -> Vec<&'a Value> {
    let Some(inside) = step.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')) else {
        return value.get(step).into_iter().collect();
    };
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    if inside == "*" {
        return list.iter().collect();
    }
    if let Ok(index) = inside.parse::<usize>() {
        return list.get(index).into_iter().collect();
    }
    let filter = inside.strip_prefix("?(@").and_then(|filter| filter.strip_suffix(')')).and_then(|filter| filter.split_once("=="));
    let Some((path, wanted)) = filter else { return Vec::new() };
    let wanted = wanted.trim().trim_matches(['\'', '"']);
    list.iter().filter(|element| find(element, path.trim()).first().is_some_and(|value| plain(value) == wanted)).collect()
}

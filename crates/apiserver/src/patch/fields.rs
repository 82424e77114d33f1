//! Sets of fields, and their form in `managedFields`.
//!
//! A set is a tree whose steps are written as in FieldsV1: `f:name` a field, `k:{"name":"x"}` an element of a list that
//! is a map, `v:1` an element of a list that is a set. Invariant: a node is in the set itself (`here`), or has children,
//! or both. Reference: FieldsV1 of meta/v1; structured-merge-diff.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{ListKind, list_kind, same_element};

/// One step of a path, as in FieldsV1.
pub(super) type Path = Vec<String>;

/// A set of fields of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    here: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Every field that a value holds.
    pub(super) fn of_value(value: &Value) -> Self {
        Self::collect(value, &mut Vec::new())
    }

    fn collect(value: &Value, path: &mut Vec<String>) -> Self {
        let mut set = Self::default();
        match value {
            Value::Object(map) => {
                for (field, value) in map {
                    path.push(field.clone());
                    set.children.insert(format!("f:{field}"), Self::collect(value, path));
                    path.pop();
                }
            }
            Value::Array(list) => {
                let kind = list_kind(path);
                for element in list {
                    let mut below = match kind {
                        ListKind::Map(_) => Self::collect(element, path),
                        ListKind::Set | ListKind::Atomic => Self::default(),
                    };
                    below.here = true;
                    if let Some(step) = step_of(kind, element) {
                        set.children.insert(step, below);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        set.here = set.children.is_empty();
        set
    }

    /// Reads FieldsV1. What is not understood is left out.
    pub(super) fn parse(fields: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in fields.as_object().into_iter().flatten() {
            if step == "." {
                set.here = true;
            } else if step.starts_with("f:") || step.starts_with("k:") || step.starts_with("v:") {
                set.children.insert(step.clone(), Self::parse(below));
            }
        }
        set.here |= set.children.is_empty();
        set
    }

    /// Writes FieldsV1.
    pub(super) fn to_fields(&self) -> Value {
        let mut map = Map::new();
        if self.here && !self.children.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (step, below) in &self.children {
            map.insert(step.clone(), below.to_fields());
        }
        Value::Object(map)
    }

    /// Each path that is in the set itself, parents before children.
    pub(super) fn paths(&self) -> Vec<Path> {
        let mut all = Vec::new();
        self.walk(&mut Vec::new(), &mut all);
        all
    }

    fn walk(&self, path: &mut Path, all: &mut Vec<Path>) {
        if self.here && !path.is_empty() {
            all.push(path.clone());
        }
        for (step, below) in &self.children {
            path.push(step.clone());
            below.walk(path, all);
            path.pop();
        }
    }

    /// Adds a path.
    pub(super) fn insert(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.here = true,
            Some((step, rest)) => self.children.entry(step.clone()).or_default().insert(rest),
        }
    }

    /// Takes out a path; a node left with nothing goes too.
    pub(super) fn remove(&mut self, path: &[String]) {
        match path.split_first() {
            None => self.here = false,
            Some((step, rest)) => {
                if let Some(below) = self.children.get_mut(step) {
                    below.remove(rest);
                    if below.is_empty() {
                        self.children.remove(step);
                    }
                }
            }
        }
    }

    /// Whether a path is in the set itself.
    pub(super) fn contains(&self, path: &[String]) -> bool {
        self.node(path).is_some_and(|node| node.here)
    }

    /// Whether a path, or anything below it, is in the set.
    pub(super) fn reaches(&self, path: &[String]) -> bool {
        self.node(path).is_some_and(|node| !node.is_empty())
    }

    /// Whether nothing is in the set.
    pub(super) fn is_empty(&self) -> bool {
        !self.here && self.children.is_empty()
    }

    fn node(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| node.children.get(step))
    }
}

/// The step that leads to an element of a list, or nothing for a list that is one value.
fn step_of(kind: ListKind, element: &Value) -> Option<String> {
    match kind {
        ListKind::Atomic => None,
        ListKind::Set => Some(format!("v:{element}")),
        ListKind::Map(keys) => {
            let value = |key: &&str| match element.get(*key) {
                None | Some(Value::Null) if *key == "protocol" => Some(((*key).to_owned(), json!("TCP"))),
                other => other.map(|value| ((*key).to_owned(), value.clone())),
            };
            let found: Map<String, Value> = keys.iter().filter_map(value).collect();
            (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
        }
    }
}

/// The value at a path.
pub(super) fn value_at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step.split_at_checked(2)? {
        ("f:", field) => value.get(field),
        (kind, wanted) => {
            let wanted: Value = serde_json::from_str(wanted).ok()?;
            value.as_array()?.iter().find(|element| is_element(kind, &wanted, element))
        }
    })
}

/// Takes the value at a path out of an object.
pub(super) fn remove_at(value: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else { return };
    let Some((kind, wanted)) = step.split_at_checked(2) else { return };
    if kind == "f:" {
        match value.get_mut(wanted) {
            Some(below) if !rest.is_empty() => remove_at(below, rest),
            Some(_) => {
                value.as_object_mut().map(|map| map.remove(wanted));
            }
            None => {}
        }
        return;
    }
    let (Ok(wanted), Some(list)) = (serde_json::from_str::<Value>(wanted), value.as_array_mut()) else { return };
    if rest.is_empty() {
        list.retain(|element| !is_element(kind, &wanted, element));
    } else if let Some(element) = list.iter_mut().find(|element| is_element(kind, &wanted, element)) {
        remove_at(element, rest);
    }
}

fn is_element(kind: &str, wanted: &Value, element: &Value) -> bool {
    if kind == "v:" {
        return wanted == element;
    }
    let keys: Vec<&str> = wanted.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    same_element(&keys, element, wanted)
}

/// A path as people read it: `.spec.containers[name="c"].image`.
pub(super) fn describe(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        match step.split_at_checked(2) {
            Some(("f:", field)) => text.extend([".", field]),
            Some(("k:", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
            Some((_, value)) => text.push_str(&format!("[={value}]")),
            None => {}
        }
    }
    text
}

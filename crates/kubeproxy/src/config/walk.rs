//! Goes through a document once: types are checked, what says nothing is named, what is taken is laid out by path.

use std::collections::BTreeMap;

use bowline_model::Problem;

use super::WRONG;
use super::fields::{Field, Kind, Use, field, meant};
use super::parts::duration;
use super::tree::{Entry, Node, Value};

/// A field says nothing here, or is not known at all.
const IDLE: u16 = 1121;

/// The way through a document.
pub(super) struct Walk<'a> {
    file: &'a str,
    taken: BTreeMap<&'static str, &'a Node>,
    warnings: Vec<(u64, Problem)>,
    errors: Vec<(u64, Problem)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a str) -> Self {
        Walk { file, taken: BTreeMap::new(), warnings: Vec::new(), errors: Vec::new() }
    }

    /// Goes through a document.
    pub(super) fn document(&mut self, node: &'a Node) {
        self.section("", node);
    }

    /// The value of a field that is taken and is there.
    pub(super) fn get(&self, path: &'static str) -> Option<&'a Node> {
        self.taken.get(path).copied()
    }

    /// Something of a field is wrong.
    pub(super) fn wrong(&mut self, line: u64, path: &str, what: impl Into<String>, fix: impl Into<String>) {
        self.errors.push((line, Problem::new(WRONG, what, self.place(line, path), fix)));
    }

    /// Something of a field says nothing here.
    pub(super) fn idle(&mut self, line: u64, path: &str, what: impl Into<String>, why: impl Into<String>) {
        let fix = "nothing needs to be done; take the key out to be rid of this line";
        self.warnings.push((line, Problem::new(IDLE, what, self.place(line, path), fix).because(why)));
    }

    /// The warnings in the file's order.
    ///
    /// # Errors
    /// The first thing that is wrong, with the others as its cause.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Problem> {
        self.errors.sort();
        let mut errors = self.errors.into_iter().map(|(_, problem)| problem);
        if let Some(first) = errors.next() {
            let others: Vec<String> = errors.map(|other| format!("{} ({})", other.place, other.what)).collect();
            return Err(if others.is_empty() { first } else { first.because(format!("wrong as well: {}", others.join("; "))) });
        }
        self.warnings.sort();
        Ok(self.warnings.into_iter().map(|(_, problem)| problem).collect())
    }

    fn place(&self, line: u64, path: &str) -> String {
        format!("{}, line {line}: {path}", self.file)
    }

    fn section(&mut self, path: &str, node: &'a Node) {
        let Value::Map(entries) = &node.value else {
            self.wrong(node.line, path, format!("{} stands where fields are expected", node.value.words()), "write KEY: VALUE, one a line");
            return;
        };
        for entry in entries {
            let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            match field(&path) {
                Some(known) => self.field(known, entry),
                None => self.unknown(&path, entry.line),
            }
        }
    }

    fn unknown(&mut self, path: &str, line: u64) {
        let shown: String = path.chars().take(100).collect::<String>().escape_debug().to_string();
        let why = match meant(path) {
            Some(known) => format!("capitals count: `{known}` may be meant"),
            None => "KubeProxyConfiguration v1alpha1 has no such key".to_owned(),
        };
        self.idle(line, &shown, "a key that is not known is passed over", why);
    }

    fn field(&mut self, known: &'static Field, entry: &'a Entry) {
        let node = &entry.node;
        if matches!(node.value, Value::Null) {
            return;
        }
        if known.kind == Kind::Section {
            return self.section(known.path, node);
        }
        if !fits(known.kind, &node.value) {
            let what = format!("{} does not fit", node.value.words());
            return self.wrong(entry.line, known.path, what, format!("write {}", known.kind.wanted()));
        }
        match known.does {
            Use::Taken => {
                self.taken.insert(known.path, node);
            }
            Use::Idle { defaults, why } if says_something(&node.value, defaults) => {
                self.idle(entry.line, known.path, "this setting does nothing in Bowline", why);
            }
            Use::Idle { .. } => {}
        }
    }
}

fn fits(kind: Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Any, _)
        | (Kind::Bool, Value::Bool(_))
        | (Kind::Number | Kind::Pause, Value::Integer(_) | Value::Number(_))
        | (Kind::Text, Value::Text(_)) => true,
        (Kind::Integer, Value::Integer(number)) => i32::try_from(*number).is_ok(),
        (Kind::Duration | Kind::Pause, Value::Text(text)) => duration(text).is_some(),
        (Kind::Texts, Value::List(items)) => items.iter().all(|item| item.text().is_some()),
        (Kind::Switches, Value::Map(entries)) => entries.iter().all(|entry| matches!(entry.node.value, Value::Bool(_))),
        (Kind::Section, Value::Map(_)) => true,
        (_, Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_)) => false,
    }
}

/// Whether a value is neither empty nor one of the defaults.
fn says_something(value: &Value, defaults: &[&str]) -> bool {
    let other = |text: &str| !defaults.contains(&text);
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Integer(number) => *number != 0 && other(&number.to_string()),
        Value::Number(number) => *number != 0.0 && other(&number.to_string()),
        Value::Text(text) => !text.is_empty() && duration(text) != Some(std::time::Duration::ZERO) && other(text),
        Value::List(items) => !items.is_empty(),
        Value::Map(entries) => !entries.is_empty(),
    }
}

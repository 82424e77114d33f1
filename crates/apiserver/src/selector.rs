//! Label and field selectors.
//!
//! Invariant: a parsed selector decides on labels alone, without failing. Reference: "Labels and Selectors" and "Field
//! Selectors" of Kubernetes; `LabelSelector` of meta/v1.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::object;

/// One demand on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Demand {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// A label selector: all its demands must hold. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    demands: Vec<(String, Demand)>,
}

impl Selector {
    /// Reads the form of a query parameter: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// A sentence that says what cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut demands = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                demands.push(parse_demand(part)?);
            }
        }
        Ok(Self { demands })
    }

    /// Reads a `LabelSelector` with `matchLabels` and `matchExpressions`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn of_object(selector: &Value) -> Result<Self, String> {
        let labels = selector.get("matchLabels").unwrap_or(&Value::Null);
        let mut result = Self::of_map(labels);
        for expression in object::items(selector, "/matchExpressions") {
            let key = object::text(expression, "/key").to_owned();
            let values: BTreeSet<String> = object::items(expression, "/values").filter_map(Value::as_str).map(str::to_owned).collect();
            let demand = match (object::text(expression, "/operator"), values.is_empty()) {
                ("In", false) => Demand::In(values),
                ("NotIn", false) => Demand::NotIn(values),
                ("Exists", true) => Demand::Exists,
                ("DoesNotExist", true) => Demand::Absent,
                ("In" | "NotIn", true) => return Err(format!("values of {key:?} must be given for In and NotIn")),
                ("Exists" | "DoesNotExist", false) => {
                    return Err(format!("values of {key:?} may not be given for Exists and DoesNotExist"));
                }
                (other, _) => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            if key.is_empty() {
                return Err("an expression has no key".to_owned());
            }
            result.demands.push((key, demand));
        }
        Ok(result)
    }

    /// Reads a map of labels that must all be there, the selector of a Service.
    #[must_use]
    pub fn of_map(labels: &Value) -> Self {
        let one = |(key, value): (&String, &Value)| {
            let values = BTreeSet::from([value.as_str().unwrap_or_default().to_owned()]);
            (key.clone(), Demand::In(values))
        };
        Self { demands: object::entries(labels, "").map(one).collect() }
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.demands.is_empty()
    }

    /// Whether an object's labels satisfy it.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.demands.is_empty() || self.matches_labels(object.pointer("/metadata/labels").unwrap_or(&Value::Null))
    }

    /// Whether these labels satisfy it.
    #[must_use]
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.demands.iter().all(|(key, demand)| {
            let value = labels.get(key).and_then(Value::as_str);
            let number = || value.and_then(|value| value.parse::<i64>().ok());
            match demand {
                Demand::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
                Demand::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
                Demand::Exists => value.is_some(),
                Demand::Absent => value.is_none(),
                Demand::Greater(bound) => number().is_some_and(|value| value > *bound),
                Demand::Less(bound) => number().is_some_and(|value| value < *bound),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn parse_demand(part: &str) -> Result<(String, Demand), String> {
    let set = |text: &str| -> Option<BTreeSet<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let one = |text: &str| BTreeSet::from([text.trim().to_owned()]);
    let fault = || format!("unable to parse requirement: {part:?}");
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| fault());
    let (key, demand) = if let Some((key, values)) =
        part.split_once(" notin ").or_else(|| part.split_once(" notin(").map(|(key, _)| (key, after(part, "notin"))))
    {
        (key, Demand::NotIn(set(values).ok_or_else(fault)?))
    } else if let Some((key, values)) =
        part.split_once(" in ").or_else(|| part.split_once(" in(").map(|(key, _)| (key, after(part, " in"))))
    {
        (key, Demand::In(set(values).ok_or_else(fault)?))
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Demand::NotIn(one(value)))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Demand::In(one(value)))
    } else if let Some((key, value)) = part.split_once('>') {
        (key, Demand::Greater(number(value)?))
    } else if let Some((key, value)) = part.split_once('<') {
        (key, Demand::Less(number(value)?))
    } else if let Some(key) = part.strip_prefix('!') {
        (key, Demand::Absent)
    } else {
        (part, Demand::Exists)
    };
    let key = key.trim();
    let strange = |character: char| !(character.is_ascii_alphanumeric() || "-_./".contains(character));
    if key.is_empty() || key.contains(strange) {
        return Err(fault());
    }
    Ok((key.to_owned(), demand))
}

fn after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).map_or("", |(_, rest)| rest)
}

/// A field selector: paths such as `spec.nodeName` with the value that they must, or must not, have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    demands: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Reads `metadata.name=a,status.phase!=Running`. Any path of the object may be named, and is empty where absent.
    ///
    /// # Errors
    /// A sentence that says what cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut demands = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(format!("invalid field selector: {part:?}; want a path, '=' or '!=', and a value"));
            };
            demands.push((format!("/{}", path.trim().replace('.', "/")), equal, value.to_owned()));
        }
        Ok(Self { demands })
    }

    /// Whether an object satisfies it.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.demands.iter().all(|(pointer, equal, wanted)| {
            let is = match object.pointer(pointer) {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            };
            (is == *wanted) == *equal
        })
    }

    /// The name that it asks for, when it asks for one by `metadata.name=`.
    #[must_use]
    pub fn wanted_name(&self) -> Option<&str> {
        let named = self.demands.iter().find(|(pointer, equal, _)| pointer == "/metadata/name" && *equal);
        named.map(|(_, _, name)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    fn selects(selector: &str, labels: Value) -> bool {
        Selector::parse(selector).unwrap().matches(&json!({"metadata": {"labels": labels}}))
    }

    #[test]
    fn equality_and_sets() {
        let labels = json!({"app": "web", "tier": "front", "n": "7"});
        for yes in [
            "",
            "app=web",
            "app==web",
            "app!=db",
            "app in (web, db)",
            "app in(web)",
            "tier notin (back)",
            "app",
            "!x",
            "n>6,n<8",
            "x!=1",
            "x notin (a)",
            "app in (web),tier=front",
        ] {
            assert!(selects(yes, labels.clone()), "{yes}");
        }
        for no in ["app=db", "app!=web", "app in (db)", "tier notin (front,back)", "!app", "x", "n>7", "x=1", "app=web,tier=back"] {
            assert!(!selects(no, labels.clone()), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["a b", "a in b", "a>x", "=b", "!"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
        assert!(FieldSelector::parse("metadata.name").is_err());
        assert!(Selector::of_object(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})).is_err());
        assert!(Selector::of_object(&json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]})).is_err());
    }

    #[test]
    fn selectors_of_objects() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["2"]}, {"key": "c", "operator": "DoesNotExist"}]});
        let selector = Selector::of_object(&selector).unwrap();
        assert!(selector.matches_labels(&json!({"a": "1"})));
        assert!(!selector.matches_labels(&json!({"a": "1", "b": "2"})));
        assert!(!selector.matches_labels(&json!({"a": "1", "c": ""})));
    }

    #[test]
    fn fields_compare_as_text() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1", "hostNetwork": true}, "involvedObject": {"uid": "u"}});
        let matches = |selector: &str| FieldSelector::parse(selector).unwrap().matches(&pod);
        assert!(matches("spec.nodeName=n1,metadata.name=a,spec.hostNetwork=true"));
        assert!(matches("status.phase!=Running") && matches("status.phase="));
        assert!(!matches("spec.nodeName!=n1") && matches("involvedObject.uid=u"));
    }
}

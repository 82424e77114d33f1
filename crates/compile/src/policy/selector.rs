//! Label selectors in a canonical form: two that mean the same requirements are equal, whatever their order of writing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bowline_model::Problem;

use crate::codes;
use crate::world::{LabelRequirement, LabelSelector, Labels};

/// Requirements that must all hold; none chooses everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selector {
    requirements: BTreeSet<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: Arc<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    In(BTreeSet<Arc<str>>),
    NotIn(BTreeSet<Arc<str>>),
    Exists,
    DoesNotExist,
}

/// A selector as far as it could be read.
pub(crate) struct Parsed {
    /// All requirements that could be read.
    pub(crate) selector: Selector,
    /// Whether that is all of them.
    pub(crate) whole: bool,
}

impl Selector {
    /// Reads a selector; what cannot be read becomes a problem at `place`.
    pub(crate) fn parse(selector: &LabelSelector, place: &str, problems: &mut Vec<Problem>) -> Parsed {
        let exact = selector
            .match_labels
            .iter()
            .map(|(key, value)| Requirement { key: key.clone(), test: Test::In(BTreeSet::from([value.clone()])) });
        let mut requirements: BTreeSet<Requirement> = exact.collect();
        let mut whole = true;
        for (index, wanted) in selector.match_expressions.iter().enumerate() {
            match Requirement::parse(wanted) {
                Ok(requirement) => {
                    requirements.insert(requirement);
                }
                Err((what, field)) => {
                    whole = false;
                    let place = format!("{place}.matchExpressions[{index}].{field}");
                    let fix = "use In or NotIn with values, or Exists or DoesNotExist without";
                    problems.push(Problem::new(codes::BAD_SELECTOR, what, place, fix));
                }
            }
        }
        Parsed { selector: Selector { requirements }, whole }
    }

    /// Whether it chooses an object with these labels.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.holds(labels))
    }
}

/// A requirement that labels do not meet, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmet {
    /// What is wanted: `app=admin`.
    pub(crate) wants: String,
    /// What there is: `app=web`, `no app`.
    pub(crate) has: String,
    /// What would meet it, after a name: `had app=admin`.
    pub(crate) change: String,
}

impl Selector {
    /// Whether it wants nothing.
    pub(crate) fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// What it wants, for people: `app=admin, tier in (a, b)`.
    pub(crate) fn words(&self) -> String {
        let each: Vec<String> = self.requirements.iter().map(Requirement::words).collect();
        each.join(", ")
    }

    /// The requirements that these labels do not meet.
    pub(crate) fn unmet(&self, labels: &Labels) -> Vec<Unmet> {
        let unmet = self.requirements.iter().filter(|requirement| !requirement.holds(labels));
        unmet.map(|requirement| requirement.unmet(labels)).collect()
    }
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }

    fn words(&self) -> String {
        let key = self.key.escape_debug();
        let list = |values: &BTreeSet<Arc<str>>| values.iter().map(|value| value.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
        match &self.test {
            Test::In(values) if values.len() == 1 => format!("{key}={}", list(values)),
            Test::In(values) => format!("{key} in ({})", list(values)),
            Test::NotIn(values) => format!("{key} not in ({})", list(values)),
            Test::Exists => format!("any {key}"),
            Test::DoesNotExist => format!("no {key}"),
        }
    }

    fn unmet(&self, labels: &Labels) -> Unmet {
        let key = self.key.escape_debug();
        let has = labels.get(&self.key).map_or(format!("no {key}"), |value| format!("{key}={}", value.escape_debug()));
        let change = match &self.test {
            Test::In(_) | Test::Exists | Test::DoesNotExist => format!("had {}", self.words()),
            Test::NotIn(_) => format!("had another {key}"),
        };
        Unmet { wants: self.words(), has, change }
    }

    fn parse(wanted: &LabelRequirement) -> Result<Requirement, (String, &'static str)> {
        let values: BTreeSet<Arc<str>> = wanted.values.iter().cloned().collect();
        let operator = wanted.operator.escape_debug();
        if wanted.key.is_empty() {
            return Err(("a label requirement has no key".to_owned(), "key"));
        }
        let test = match (&*wanted.operator, values.is_empty()) {
            ("In", false) => Test::In(values),
            ("NotIn", false) => Test::NotIn(values),
            ("Exists", true) => Test::Exists,
            ("DoesNotExist", true) => Test::DoesNotExist,
            ("In" | "NotIn", true) => return Err((format!("operator {operator} has no values"), "values")),
            ("Exists" | "DoesNotExist", false) => return Err((format!("operator {operator} has values"), "values")),
            _ => return Err((format!("operator `{operator}` is unknown"), "operator")),
        };
        Ok(Requirement { key: wanted.key.clone(), test })
    }
}

/// The canonical text; keys and values are quoted, so that no text of theirs can imitate another selector.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Requirement { key, test } in &self.requirements {
            match test {
                Test::In(values) => write!(f, "{key:?} in {values:?};")?,
                Test::NotIn(values) => write!(f, "{key:?} notin {values:?};")?,
                Test::Exists => write!(f, "{key:?};")?,
                Test::DoesNotExist => write!(f, "!{key:?};")?,
            }
        }
        Ok(())
    }
}

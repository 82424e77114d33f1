//! A value in a JSON document together with where it stands, so that every complaint names its field.

use serde_json::Value;

use crate::error::{CniError, code};

/// A JSON value and its path from the root of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value) -> Field<'a> {
        Field { path: String::new(), value }
    }

    /// The member, if it is there and not null (which Go's encoders write for "nothing").
    pub(crate) fn get(&self, key: &str) -> Option<Field<'a>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(self.child(key, value))
    }

    /// The member by its name in any case, the exact one first: as Go reads them. containerd 1.x writes the fields of capabilities in capitals.
    pub(crate) fn get_any_case(&self, key: &str) -> Option<Field<'a>> {
        let other = || self.value.as_object()?.keys().find(|name| name.eq_ignore_ascii_case(key));
        self.get(key).or_else(|| self.get(other()?))
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn members(&self) -> Result<Vec<(&'a str, Field<'a>)>, CniError> {
        let map = self.value.as_object().ok_or_else(|| self.wrong("an object"))?;
        Ok(map.iter().map(|(key, value)| (key.as_str(), self.child(key, value))).collect())
    }

    pub(crate) fn items(&self) -> Result<Vec<Field<'a>>, CniError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        Ok(list.iter().enumerate().map(|(index, value)| Field { path: format!("{}[{index}]", self.path), value }).collect())
    }

    pub(crate) fn text(&self) -> Result<&'a str, CniError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(crate) fn texts(&self) -> Result<Vec<String>, CniError> {
        self.items()?.iter().map(|item| item.text().map(str::to_owned)).collect()
    }

    pub(crate) fn number(&self, low: u64, high: u64) -> Result<u64, CniError> {
        self.value.as_u64().filter(|n| (low..=high).contains(n)).ok_or_else(|| self.wrong(&format!("a whole number from {low} to {high}")))
    }

    /// The string, as whatever type reads it.
    pub(crate) fn parse<T: std::str::FromStr>(&self, want: &str) -> Result<T, CniError> {
        self.text()?.parse().map_err(|_| self.wrong(want))
    }

    /// The error for a value that is not what it should be.
    pub(crate) fn wrong(&self, want: &str) -> CniError {
        let msg = format!("{}: want {want}, got {}", self.path, self.shown());
        CniError::new(code::INVALID_CONFIG, msg)
    }

    /// The error for a field that cannot be honoured; it has to name key and value.
    pub(crate) fn unsupported(&self, why: &str) -> CniError {
        let msg = format!("unsupported field {}: {}", self.path, self.shown());
        CniError::new(code::UNSUPPORTED_FIELD, msg).details(why)
    }

    fn shown(&self) -> String {
        let text = self.value.to_string();
        match text.char_indices().nth(200) {
            Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
            None => text,
        }
    }

    fn child(&self, key: &str, value: &'a Value) -> Field<'a> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Field { path, value }
    }
}

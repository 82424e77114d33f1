//! Query parameters. Reference: RFC 3986 section 2.1 for percent-encoding.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::selector::{FieldSelector, Selector};

/// The parameters of a request; of a repeated one the last counts, but where all are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    values: BTreeMap<String, Vec<String>>,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in pairs {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(&key.replace('+', " "))).or_default().push(decode(&value.replace('+', " ")));
        }
        Self { values }
    }

    fn last(&self, key: &str) -> Option<&str> {
        self.all(key).last().map(String::as_str)
    }

    /// Every value of a parameter, in order.
    pub(crate) fn all(&self, key: &str) -> &[String] {
        self.values.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// A parameter, or `""`.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.last(key).unwrap_or_default()
    }

    /// A parameter that is there and not empty.
    pub(crate) fn given(&self, key: &str) -> Option<&str> {
        self.last(key).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is true; given without a value it is.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.last(key).is_some_and(is_true)
    }

    /// Whether a parameter is true, with what it is when it is not given.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        self.last(key).map_or(default, is_true)
    }

    /// A number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        let parse =
            |value: &str| value.parse().map_err(|_| ApiError::bad_request(format!("query parameter {key}={value:?} is not a number")));
        self.given(key).map(parse).transpose()
    }

    pub(crate) fn dry_run(&self) -> Result<bool, ApiError> {
        match self.given("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(ApiError::bad_request(format!("invalid dryRun {other:?}; the only value is \"All\""))),
        }
    }

    /// Label and field selector.
    pub(crate) fn selectors(&self) -> Result<(Selector, FieldSelector), ApiError> {
        let labels = Selector::parse(self.text("labelSelector")).map_err(ApiError::bad_request)?;
        let fields = FieldSelector::parse(self.text("fieldSelector")).map_err(ApiError::bad_request)?;
        Ok((labels, fields))
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "true" | "True" | "TRUE" | "t")
}

/// Undoes percent-encoding; a `%` without two hexadecimal digits stands for itself.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok()).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_undone() {
        assert_eq!(decode("a%2Cb%3dc"), "a,b=c");
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz%4"), "%zz%4");
        let query = Query::parse("labelSelector=a+in+%28b%29&watch&limit=x&dryRun=All");
        assert_eq!(query.text("labelSelector"), "a in (b)");
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!(query.number("limit").map_err(|fault| fault.code()), Err(400));
        assert!(query.dry_run().is_ok_and(|dry| dry));
        let query = Query::parse("command=sh&command=-c&command=echo+a%2Bb&stdout=false");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a+b"]);
        assert_eq!(query.text("command"), "echo a+b");
        assert!(query.flag_or("stderr", true) && !query.flag_or("stdout", true) && query.all("none").is_empty());
    }
}

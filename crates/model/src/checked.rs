//! Results that keep the good when some of the input is bad.
//!
//! Invariant: one bad object never drops the good ones; it becomes a [`Problem`] beside them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A problem's code (`BW` and four digits), never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BW{:04}", self.0)
    }
}

/// Something that a person must know of: what, where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The code under which `bowline help CODE` explains it.
    pub code: Code,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// Object, field, file and line, or node.
    pub place: String,
    /// The cause, as far as it is known; may be empty.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Problem {
    /// A problem without a known cause.
    pub fn new(code: u16, what: impl Into<String>, place: impl Into<String>, fix: impl Into<String>) -> Self {
        Problem { code: Code(code), what: what.into(), place: place.into(), why: String::new(), fix: fix.into() }
    }

    /// The same problem with its cause.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code, self.what)?;
        for (label, text) in [("where", &self.place), ("why", &self.why), ("fix", &self.fix)] {
            if !text.is_empty() {
                writeln!(f, " {:<7}{text}", format!("{label}:"))?;
            }
        }
        write!(f, " more:  bowline help {}", self.code)
    }
}

/// A total result: the value made from what was good, and the problems with what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked<T> {
    /// What could be made.
    pub value: T,
    /// What could not, in a stable order.
    pub problems: Vec<Problem>,
}

impl<T> Checked<T> {
    /// A value without a problem.
    pub fn good(value: T) -> Self {
        Checked { value, problems: Vec::new() }
    }

    /// The same problems with another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Checked<U> {
        Checked { value: f(self.value), problems: self.problems }
    }

    /// Takes the value and adds the problems to `sink`.
    pub fn into_value(self, sink: &mut Vec<Problem>) -> T {
        sink.extend(self.problems);
        self.value
    }
}

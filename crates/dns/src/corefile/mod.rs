//! The Corefile: server blocks of directives, read as CoreDNS reads it.
//!
//! Invariant: reading is pure but for [`Sources`]; every word keeps its file and line; imports are bounded, so that no
//! file makes the reader run or grow without end. Reference: CoreDNS's manual, "Corefile" (the Caddyfile grammar).

mod error;
mod lex;
mod parse;
mod sources;
mod zone;

pub use error::{CorefileError, Place};
pub use parse::parse;
pub use sources::{DiskSources, NoSources, Source, Sources};
pub use zone::{ServerKey, parse_key, parse_zones};

/// A Corefile, snippets and imports resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corefile {
    /// Its server blocks, in order.
    pub blocks: Vec<ServerBlock>,
}

/// A server block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerBlock {
    /// Zones and ports that it serves.
    pub keys: Vec<Word>,
    /// What it does there.
    pub directives: Vec<Directive>,
}

/// A line of a block, with the block that it may open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Its first word: a plugin's or an option's name.
    pub name: Word,
    /// The other words of the line.
    pub args: Vec<Word>,
    /// The lines between its braces.
    pub body: Vec<Directive>,
}

/// A word and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word, quotes taken off.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

impl Word {
    /// An error about this word.
    pub fn error(&self, what: impl Into<String>, fix: impl Into<String>) -> CorefileError {
        CorefileError { place: self.place.clone(), what: what.into(), fix: fix.into() }
    }
}

impl Directive {
    /// The arguments as text.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.args.iter().map(|word| word.text.as_str())
    }

    /// The only argument.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn one(&self, what: &str) -> Result<&Word, CorefileError> {
        match self.args.as_slice() {
            [word] => Ok(word),
            [] | [_, ..] => Err(self.count_error(what)),
        }
    }

    /// The only argument, if there is one.
    ///
    /// # Errors
    /// There is more than one.
    pub fn at_most_one(&self, what: &str) -> Result<Option<&Word>, CorefileError> {
        match self.args.as_slice() {
            [] => Ok(None),
            [word] => Ok(Some(word)),
            [_, _, ..] => Err(self.count_error(what)),
        }
    }

    /// Makes sure that there is no argument.
    ///
    /// # Errors
    /// There is one.
    pub fn none(&self) -> Result<(), CorefileError> {
        match self.args.first() {
            None => Ok(()),
            Some(word) => Err(word.error(format!("`{}` takes no argument here", self.name.text), "remove it")),
        }
    }

    /// Makes sure that there are no lines in braces.
    ///
    /// # Errors
    /// There are.
    pub fn no_body(&self) -> Result<(), CorefileError> {
        match self.body.first() {
            None => Ok(()),
            Some(line) => Err(line.name.error(format!("`{}` takes no options", self.name.text), "remove the braces and what is in them")),
        }
    }

    /// The error for an option that this directive does not have.
    pub fn unknown_option(&self, option: &Directive, known: &str) -> CorefileError {
        option.name.error(format!("`{}` has no option `{}`", self.name.text, option.name.text), format!("known are: {known}"))
    }

    /// The error for a wrong number of arguments.
    pub fn count_error(&self, what: &str) -> CorefileError {
        let got = self.args.len();
        self.name.error(format!("`{}` wants {what}, {got} arguments are given", self.name.text), "write it so")
    }
}

#[cfg(test)]
mod tests;

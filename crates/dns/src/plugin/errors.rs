//! `errors`: a line for each question that failed; those that a pattern fits may be counted and told together.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use domain::base::iana::OptRcode;
use regex::Regex;

use crate::corefile::{CorefileError, Directive};
use crate::name;
use crate::plugin::log::print;
use crate::plugin::read;
use crate::plugin::rewrite::read_regex;
use crate::wire::Query;

/// The plugin.
#[derive(Debug, Default)]
pub struct Errors {
    groups: Vec<Group>,
}

/// Failures that are told together.
#[derive(Debug)]
struct Group {
    pattern: Regex,
    period: Duration,
    level: &'static str,
    /// Failures since, none where none has been counted.
    counted: Mutex<Option<(Instant, u64)>>,
}

impl Errors {
    /// Reads `errors { consolidate DURATION PATTERN [LEVEL] }`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(directive: &Directive) -> Result<Errors, CorefileError> {
        directive.none()?;
        let mut errors = Errors::default();
        for option in &directive.body {
            match option.name.text.as_str() {
                "stacktrace" => option.none()?,
                "consolidate" => errors.groups.push(read_group(option)?),
                _ => return Err(directive.unknown_option(option, "consolidate, stacktrace")),
            }
        }
        Ok(errors)
    }

    /// Tells of a question that failed.
    pub fn tell(&self, query: &Query, why: &str) {
        for line in self.lines(query, why, Instant::now()) {
            print(line);
        }
    }

    /// The lines to be written now: of the failure itself, or of a group whose time is over.
    fn lines(&self, query: &Query, why: &str, now: Instant) -> Vec<String> {
        let text = format!("{} {} {}: {why}", OptRcode::SERVFAIL.to_int(), name::display(&query.name), query.rtype);
        let mut lines: Vec<String> = self.groups.iter().filter_map(|group| group.summary(now)).collect();
        match self.groups.iter().find(|group| group.pattern.is_match(&text)) {
            Some(group) => group.count(now),
            None => lines.push(format!("[ERROR] plugin/errors: {text}")),
        }
        lines
    }
}

impl Group {
    fn count(&self, now: Instant) {
        if let Ok(mut counted) = self.counted.lock() {
            let (_, count) = counted.get_or_insert((now, 0));
            *count += 1;
        }
    }

    fn summary(&self, now: Instant) -> Option<String> {
        let mut counted = self.counted.lock().ok()?;
        let (_, count) = counted.take_if(|(since, _)| now.saturating_duration_since(*since) >= self.period)?;
        let (level, period, pattern) = (self.level, self.period, &self.pattern);
        Some(format!("[{level}] plugin/errors: {count} errors like '{pattern}' occurred in last {period:?}"))
    }
}

fn read_group(option: &Directive) -> Result<Group, CorefileError> {
    let (period, pattern, level) = match option.args.as_slice() {
        [period, pattern] => (period, pattern, "ERROR"),
        [period, pattern, level] => {
            let known = ["error", "warning", "info", "debug"].into_iter().zip(["ERROR", "WARNING", "INFO", "DEBUG"]);
            let found = known.into_iter().find(|(name, _)| *name == level.text).map(|(_, level)| level);
            let unknown = || level.error(format!("`{}` is no level", level.text), "write error, warning, info or debug");
            (period, pattern, found.ok_or_else(unknown)?)
        }
        [] | [_] | [_, _, _, _, ..] => return Err(option.count_error("a length of time, a pattern and perhaps a level")),
    };
    Ok(Group { pattern: read_regex(pattern)?, period: read::duration(period)?, level, counted: Mutex::new(None) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use domain::base::iana::Rtype;

    use super::*;
    use crate::corefile::{NoSources, parse};

    fn errors(text: &str) -> Result<Errors, String> {
        let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
        Errors::read(&file.blocks[0].directives[0]).map_err(|error| error.to_string())
    }

    #[test]
    fn failures_are_told_singly_or_together() {
        let query = Query::new(name::parse("Example.org").unwrap(), Rtype::A);
        let errors = errors("errors {\nconsolidate 5m \".* in time$\" warning\n}").unwrap();
        let start = Instant::now();
        let lines = |why, second| errors.lines(&query, why, start + Duration::from_secs(second));
        assert_eq!(lines("refused", 0), ["[ERROR] plugin/errors: 2 example.org. A: refused"]);
        assert!(lines("no reply in time", 0).is_empty() && lines("no reply in time", 299).is_empty());
        let summary = "[WARNING] plugin/errors: 2 errors like '.* in time$' occurred in last 300s";
        assert_eq!(lines("no reply in time", 300), [summary]);
        assert!(lines("no reply in time", 301).is_empty());
    }

    #[test]
    fn bad_options_are_named() {
        assert!(errors("errors {\nconsolidate 5m\n}").unwrap_err().starts_with("f:3: `consolidate` wants a length of time"));
        assert!(errors("errors {\nconsolidate 5m x loud\n}").unwrap_err().starts_with("f:3: `loud` is no level"));
        assert!(errors("errors stdout").is_err() && errors("errors {\nfoo\n}").is_err());
    }
}

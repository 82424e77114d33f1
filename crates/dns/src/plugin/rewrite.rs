//! `rewrite`: questions are asked under another name or type; the answers come back under the name asked.

use domain::base::iana::Rtype;
use regex::Regex;

use crate::corefile::{CorefileError, Directive, Word};
use crate::name::{self, Name};
use crate::plugin::read;
use crate::wire::{Query, Reply};

/// One rule.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// Further rules are tried after this one has fitted.
    goes_on: bool,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    Name { matcher: Matcher, answer: Option<(Regex, String)> },
    Type { from: Rtype, to: Rtype },
}

#[derive(Debug, Clone)]
enum Matcher {
    Exact { from: Name, to: Name },
    Prefix { from: String, to: String },
    Suffix { from: String, to: String },
    Substring { from: String, to: String },
    Regex { from: Regex, to: String },
}

/// How an answer gets back the name that was asked.
#[derive(Debug, Clone)]
pub struct Revert {
    asked: Name,
    sent: Name,
    answer: Option<(Regex, String)>,
}

const SUPPORTED: &str = "supported are `rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer auto | answer name FROM TO]` \
                         and `rewrite type FROM TO`";

impl Rewrite {
    /// Reads one `rewrite`, written in a line or in braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(directive: &Directive) -> Result<Rewrite, CorefileError> {
        let mut words: Vec<Word> = directive.args.clone();
        for line in &directive.body {
            words.push(line.name.clone());
            words.extend(line.args.iter().cloned());
        }
        let mut rest = words.as_slice();
        let mut goes_on = false;
        if let Some((mode, after)) = rest.split_first().filter(|(word, _)| matches!(word.text.as_str(), "continue" | "stop")) {
            goes_on = mode.text == "continue";
            rest = after;
        }
        let change = match rest {
            [field, rest @ ..] if field.text == "name" => read_name(directive, rest)?,
            [field, from, to] if field.text == "type" => Change::Type { from: read::rtype(from)?, to: read::rtype(to)? },
            [field, from, to] if !is_field(&field.text) && to.text != "answer" => {
                read_name(directive, &[field.clone(), from.clone(), to.clone()])?
            }
            [from, to] if !is_field(&from.text) => read_name(directive, &[from.clone(), to.clone()])?,
            _ => return Err(directive.name.error("this kind of `rewrite` is not supported", SUPPORTED)),
        };
        Ok(Rewrite { goes_on, change })
    }

    /// Applies rules in order to a question; gives the way back.
    pub fn apply(rules: &[Rewrite], query: &mut Query) -> Vec<Revert> {
        let mut reverts = Vec::new();
        for rule in rules {
            let fitted = match &rule.change {
                Change::Type { from, to } => {
                    let fits = query.rtype == *from;
                    if fits {
                        query.rtype = *to;
                    }
                    fits
                }
                Change::Name { matcher, answer } => match matcher.rewrite(&query.name) {
                    None => false,
                    Some(sent) => {
                        let asked = std::mem::replace(&mut query.name, sent.clone());
                        reverts.push(Revert { asked, sent, answer: answer.clone() });
                        true
                    }
                },
            };
            if fitted && !rule.goes_on {
                break;
            }
        }
        reverts
    }

    /// Gives a reply the names back.
    pub fn revert(reverts: &[Revert], reply: &mut Reply) {
        for revert in reverts.iter().rev() {
            for record in reply.records_mut() {
                let back = revert.back(record.owner());
                if let Some(owner) = back {
                    *record = crate::wire::Record::new(owner, record.class(), record.ttl(), record.data().clone());
                }
            }
        }
    }
}

impl Revert {
    fn back(&self, owner: &Name) -> Option<Name> {
        if *owner == self.sent {
            return Some(self.asked.clone());
        }
        let (from, to) = self.answer.as_ref()?;
        let text = name::display(owner);
        let found = from.captures(&text)?;
        name::parse(&expand(to, &found))
    }
}

fn is_field(text: &str) -> bool {
    matches!(text, "name" | "type" | "class" | "edns0" | "ttl" | "cname" | "rcode")
}

fn read_name(directive: &Directive, words: &[Word]) -> Result<Change, CorefileError> {
    let (kind, rest) = match words.split_first() {
        Some((kind, rest)) if matches!(kind.text.as_str(), "exact" | "prefix" | "suffix" | "substring" | "regex") => {
            (kind.text.as_str(), rest)
        }
        Some(_) | None => ("exact", words),
    };
    let (from, to, rest) = match rest {
        [from, to, rest @ ..] => (from, to, rest),
        [] | [_] => return Err(directive.count_error("a name and its replacement")),
    };
    let bad_name = |word: &Word| word.error(format!("`{}` is no domain name", word.text), "write one, such as example.org");
    let dotted = |word: &Word| if word.text.ends_with('.') { word.text.to_ascii_lowercase() } else { word.text.to_ascii_lowercase() + "." };
    let matcher = match kind {
        "prefix" => Matcher::Prefix { from: from.text.to_ascii_lowercase(), to: to.text.clone() },
        "suffix" => Matcher::Suffix { from: dotted(from), to: dotted(to) },
        "substring" => Matcher::Substring { from: from.text.to_ascii_lowercase(), to: to.text.clone() },
        "regex" => Matcher::Regex { from: read_regex(from)?, to: to.text.clone() },
        _ => Matcher::Exact {
            from: name::parse(&from.text).ok_or_else(|| bad_name(from))?,
            to: name::parse(&to.text).ok_or_else(|| bad_name(to))?,
        },
    };
    let answer = match rest {
        [] => None,
        [answer, auto] if answer.text == "answer" && auto.text == "auto" => auto_answer(&matcher),
        [answer, name, from, to] if answer.text == "answer" && name.text == "name" => Some((read_regex(from)?, to.text.clone())),
        [word, ..] => return Err(word.error(format!("`{}` is out of place", word.text), SUPPORTED)),
    };
    Ok(Change::Name { matcher, answer })
}

/// The way back that a prefix or suffix implies for the other names of an answer.
fn auto_answer(matcher: &Matcher) -> Option<(Regex, String)> {
    let (pattern, replacement) = match matcher {
        Matcher::Prefix { from, to } => (format!("^{}(.*)$", regex::escape(to)), format!("{from}{{1}}")),
        Matcher::Suffix { from, to } => (format!("^(.*){}$", regex::escape(to)), format!("{{1}}{from}")),
        Matcher::Exact { .. } | Matcher::Substring { .. } | Matcher::Regex { .. } => return None,
    };
    Regex::new(&pattern).ok().map(|regex| (regex, replacement))
}

/// Compiles a regular expression; its size is bounded, its time linear in the name's length.
///
/// # Errors
/// It is none.
pub fn read_regex(word: &Word) -> Result<Regex, CorefileError> {
    let built = regex::RegexBuilder::new(&word.text).size_limit(1 << 20).build();
    built.map_err(|error| {
        word.error(format!("`{}` is no regular expression: {error}", word.text), "see the syntax of the Rust crate regex (RE2's)")
    })
}

/// Puts groups into a replacement: `{1}` and `{name}`.
fn expand(replacement: &str, found: &regex::Captures<'_>) -> String {
    let mut out = String::new();
    let mut rest = replacement;
    while let Some((text, after)) = rest.split_once('{') {
        out.push_str(text);
        let Some((group, next)) = after.split_once('}') else {
            out.push('{');
            rest = after;
            continue;
        };
        let value = group.parse::<usize>().map_or_else(|_| found.name(group), |number| found.get(number));
        out.push_str(value.map_or("", |value| value.as_str()));
        rest = next;
    }
    out + rest
}

impl Matcher {
    fn rewrite(&self, asked: &Name) -> Option<Name> {
        if let Matcher::Exact { from, to } = self {
            return (from == asked).then(|| to.clone());
        }
        let text = name::display(asked);
        let new = match self {
            Matcher::Exact { .. } => return None,
            Matcher::Prefix { from, to } => format!("{to}{}", text.strip_prefix(from.as_str())?),
            Matcher::Suffix { from, to } => {
                let head = text.strip_suffix(from.as_str())?;
                format!("{head}{to}")
            }
            Matcher::Substring { from, to } if text.contains(from.as_str()) => text.replacen(from.as_str(), to, 1),
            Matcher::Substring { .. } => return None,
            Matcher::Regex { from, to } => expand(to, &from.captures(&text)?),
        };
        name::parse(&new)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use domain::base::iana::Rcode;
    use domain::rdata::A;

    use super::*;
    use crate::corefile::{NoSources, parse};
    use crate::wire::record;

    fn rules(text: &str) -> Result<Vec<Rewrite>, String> {
        let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
        file.blocks[0].directives.iter().map(Rewrite::read).collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    /// What is sent for `asked`, and under which name an answer for `owner` comes back.
    fn check(text: &str, asked: &str, sent: &str, owner: &str, back: &str) {
        let mut query = Query::new(name::parse(asked).unwrap(), Rtype::A);
        let reverts = Rewrite::apply(&rules(text).unwrap(), &mut query);
        assert_eq!(name::display(&query.name), sent, "{text}");
        let mut reply = Reply::empty(Rcode::NOERROR);
        reply.answer.push(record(name::parse(owner).unwrap(), 5, A::new([10, 0, 0, 1].into())));
        Rewrite::revert(&reverts, &mut reply);
        assert_eq!(name::display(reply.answer[0].owner()), back, "{text}");
    }

    #[test]
    fn names_go_and_come_back() {
        check("rewrite name a.test b.test", "A.test", "b.test.", "b.test", "a.test.");
        check("rewrite name exact a.test b.test", "c.test", "c.test.", "c.test", "c.test.");
        check("rewrite name suffix .test .example answer auto", "a.test", "a.example.", "x.example", "x.test.");
        check("rewrite name prefix old- new-", "old-a.test", "new-a.test.", "new-a.test", "old-a.test.");
        check("rewrite name substring mid MID", "a.mid.test", "a.mid.test.", "other.test", "other.test.");
        check(
            "rewrite stop {\nname regex (.*)\\.foo\\.test {1}.svc.local\nanswer name (.*)\\.svc\\.local {1}.foo.test\n}",
            "a.foo.test",
            "a.svc.local.",
            "b.svc.local",
            "b.foo.test.",
        );
        check("rewrite continue name a.test b.test\nrewrite name b.test c.test", "a.test", "c.test.", "c.test", "a.test.");
        check("rewrite name a.test b.test\nrewrite name b.test c.test", "a.test", "b.test.", "b.test", "a.test.");
    }

    #[test]
    fn types_change() {
        let mut query = Query::new(name::parse("a.test").unwrap(), Rtype::ANY);
        Rewrite::apply(&rules("rewrite type ANY HINFO").unwrap(), &mut query);
        assert_eq!(query.rtype, Rtype::HINFO);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for (text, expected) in [
            ("rewrite ttl a 30", "f:2: this kind of `rewrite` is not supported; supported are"),
            ("rewrite name regex ( x", "f:2: `(` is no regular expression"),
            ("rewrite name a", "f:2: `rewrite` wants a name and its replacement"),
        ] {
            let error = rules(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}

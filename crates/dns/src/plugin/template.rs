//! `template`: answers made from the question by patterns.
//!
//! Of Go's templates the fields `.Name`, `.Type`, `.Class`, `.Zone`, `.Remote`, `.Question.Name`, `.Match`, `.Group.NAME` and their
//! `index` forms are known; anything else is refused when the Corefile is read.

use std::net::IpAddr;

use domain::base::iana::{Class, OptRcode, Rcode, Rtype};
use regex::{Captures, Regex};

use crate::corefile::{CorefileError, Directive, Word};
use crate::name::{self, Name};
use crate::plugin::rewrite::read_regex;
use crate::plugin::{Fallthrough, read, rrtext, zones_or};
use crate::wire::{Query, Record, Reply};

/// One template.
#[derive(Debug, Clone)]
pub struct Template {
    class: Option<Class>,
    /// Any type if absent.
    rtype: Option<Rtype>,
    zones: Vec<Name>,
    patterns: Vec<Regex>,
    answer: Vec<Text>,
    authority: Vec<Text>,
    additional: Vec<Text>,
    rcode: Rcode,
    fallthrough: Fallthrough,
}

/// A text with fields.
#[derive(Debug, Clone)]
struct Text(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Plain(String),
    Name,
    Type,
    Class,
    Zone,
    Remote,
    Group(usize),
    NamedGroup(String),
}

/// What a template says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateAnswer {
    /// Nothing: the next one is asked.
    Next,
    /// This.
    Reply(Reply),
}

impl Template {
    /// Reads `template CLASS TYPE [ZONES...] { match, answer, additional, authority, rcode, fallthrough }`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(directive: &Directive, block: &[Name]) -> Result<Template, CorefileError> {
        let [class, rtype, zones @ ..] = directive.args.as_slice() else {
            return Err(directive.count_error("a class and a type, such as `template IN A`"));
        };
        let mut template = Template {
            class: match class.text.to_ascii_uppercase().as_str() {
                "ANY" => None,
                "IN" => Some(Class::IN),
                _ => return Err(class.error(format!("`{}` is no class that is served", class.text), "write IN or ANY")),
            },
            rtype: if rtype.text.eq_ignore_ascii_case("ANY") { None } else { Some(read::rtype(rtype)?) },
            zones: zones_or(zones, block)?,
            patterns: Vec::new(),
            answer: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            rcode: Rcode::NOERROR,
            fallthrough: Fallthrough::default(),
        };
        for option in &directive.body {
            match option.name.text.as_str() {
                "match" => template.patterns.extend(option.args.iter().map(read_regex).collect::<Result<Vec<_>, _>>()?),
                "answer" => template.answer.extend(read_texts(option)?),
                "authority" => template.authority.extend(read_texts(option)?),
                "additional" => template.additional.extend(read_texts(option)?),
                "rcode" => template.rcode = read::rcode(option.one("a response code")?)?,
                "fallthrough" => template.fallthrough = Fallthrough::read(option)?,
                _ => return Err(directive.unknown_option(option, "match, answer, additional, authority, rcode, fallthrough")),
            }
        }
        if template.patterns.is_empty() {
            template.patterns.push(read_regex(&Word { text: ".*".to_owned(), place: directive.name.place.clone() })?);
        }
        Ok(template)
    }

    /// Answers a question.
    pub fn answer(&self, query: &Query, client: IpAddr) -> TemplateAnswer {
        let class_fits = self.class.is_none_or(|class| class == query.class);
        let type_fits = self.rtype.is_none_or(|rtype| rtype == query.rtype);
        let Some((_, zone)) = name::longest_zone(&self.zones, &query.name).filter(|_| class_fits && type_fits) else {
            return TemplateAnswer::Next;
        };
        let asked = name::display(&query.name);
        let Some(found) = self.patterns.iter().find_map(|pattern| pattern.captures(&asked)) else {
            if self.fallthrough.lets(&query.name) {
                return TemplateAnswer::Next;
            }
            // What is not matched is denied, as in CoreDNS.
            return TemplateAnswer::Reply(Reply { aa: true, ..Reply::empty(Rcode::NXDOMAIN) });
        };
        let fill = Fill { query, asked: &asked, zone, client, found: &found };
        let mut reply = Reply { aa: true, rcode: OptRcode::from(self.rcode), ..Reply::empty(self.rcode) };
        for (texts, section) in
            [(&self.answer, &mut reply.answer), (&self.authority, &mut reply.authority), (&self.additional, &mut reply.additional)]
        {
            for text in texts {
                let Some(record) = fill.record(text) else { return TemplateAnswer::Reply(Reply::empty(Rcode::SERVFAIL)) };
                section.push(record);
            }
        }
        TemplateAnswer::Reply(reply)
    }
}

fn read_texts(option: &Directive) -> Result<Vec<Text>, CorefileError> {
    if option.args.is_empty() {
        return Err(option.count_error("a record in quotes"));
    }
    option.args.iter().map(read_text).collect()
}

fn read_text(word: &Word) -> Result<Text, CorefileError> {
    let mut parts = Vec::new();
    let mut rest = word.text.as_str();
    while let Some((plain, after)) = rest.split_once("{{") {
        parts.push(Part::Plain(plain.to_owned()));
        let (field, next) = after.split_once("}}").ok_or_else(|| word.error("`{{` is not closed", "close it with `}}`"))?;
        parts.push(read_field(word, field.trim())?);
        rest = next;
    }
    parts.push(Part::Plain(rest.to_owned()));
    Ok(Text(parts))
}

fn read_field(word: &Word, field: &str) -> Result<Part, CorefileError> {
    let words: Vec<&str> = field.split_whitespace().collect();
    let part = match words.as_slice() {
        [".Name" | ".Question.Name"] => Some(Part::Name),
        [".Type"] => Some(Part::Type),
        [".Class"] => Some(Part::Class),
        [".Zone"] => Some(Part::Zone),
        [".Remote"] => Some(Part::Remote),
        [".Match"] => Some(Part::Group(0)),
        ["index", ".Match", number] => number.parse().ok().map(Part::Group),
        ["index", ".Group", name] => Some(group(name.trim_matches('"'))),
        [one] => one.strip_prefix(".Group.").map(group),
        _ => None,
    };
    part.ok_or_else(|| {
        word.error(
            format!("`{{{{ {field} }}}}` is not known"),
            "known are .Name .Type .Class .Zone .Remote .Match, `index .Match N`, .Group.NAME and `index .Group \"NAME\"`",
        )
    })
}

fn group(name: &str) -> Part {
    name.parse().map_or_else(|_| Part::NamedGroup(name.to_owned()), Part::Group)
}

struct Fill<'a> {
    query: &'a Query,
    asked: &'a str,
    zone: &'a Name,
    client: IpAddr,
    found: &'a Captures<'a>,
}

impl Fill<'_> {
    fn record(&self, text: &Text) -> Option<Record> {
        let mut out = String::new();
        for part in &text.0 {
            match part {
                Part::Plain(plain) => out.push_str(plain),
                Part::Name => out.push_str(self.asked),
                Part::Type => out.push_str(&self.query.rtype.to_string()),
                Part::Class => out.push_str(&self.query.class.to_string()),
                Part::Zone => out.push_str(&name::display(self.zone)),
                Part::Remote => out.push_str(&self.client.to_string()),
                Part::Group(number) => out.push_str(self.found.get(*number).map_or("", |group| group.as_str())),
                Part::NamedGroup(name) => out.push_str(self.found.name(name).map_or("", |group| group.as_str())),
            }
        }
        rrtext::parse(&out)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use crate::corefile::{NoSources, parse};

    fn check(text: &str, asked: &str, rtype: Rtype, expected: &str) {
        let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
        let got = match Template::read(&file.blocks[0].directives[0], &[Name::root_bytes()]) {
            Err(error) => error.to_string(),
            Ok(template) => match template.answer(&Query::new(name::parse(asked).unwrap(), rtype), "10.9.9.9".parse().unwrap()) {
                TemplateAnswer::Next => "next".to_owned(),
                TemplateAnswer::Reply(reply) if reply.answer.is_empty() => reply.rcode.to_string(),
                TemplateAnswer::Reply(reply) => reply.answer[0].to_string(),
            },
        };
        assert!(got.starts_with(expected), "{got} is not {expected}");
    }

    #[test]
    fn answers_are_made_from_the_question() {
        let ip = "template IN A example {\nmatch ^ip-(?P<a>\\d+)-(\\d+)[.]example[.]$\nanswer \"{{ .Name }} 60 IN A 10.0.{{ .Group.a }}.{{ index .Match 2 }}\"\nfallthrough b.example\n}";
        check(ip, "ip-1-2.Example", Rtype::A, "ip-1-2.example. 60 IN A 10.0.1.2");
        check(ip, "ip-1-999.example", Rtype::A, "SERVFAIL");
        check(ip, "x.example", Rtype::A, "NXDOMAIN");
        check(ip, "x.b.example", Rtype::A, "next");
        check(ip, "ip-1-2.example", Rtype::AAAA, "next");
        check("template ANY ANY invalid {\nrcode NXDOMAIN\n}", "a.invalid", Rtype::TXT, "NXDOMAIN");
        check("template IN A {\nanswer \"{{ .Name }} A {{ .Remote }}\"\n}", "a.b", Rtype::A, "a.b. 3600 IN A 10.9.9.9");
        check("template IN A {\nanswer \"{{ .Foo }}\"\n}", "a.b", Rtype::A, "f:3: `{{ .Foo }}` is not known; known are");
    }
}

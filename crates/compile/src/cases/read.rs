//! A file of policy cases.
//!
//! ```yaml
//! manifests:
//!   - shop.yaml                       # a path from this file, or a directory
//!   - {apiVersion: v1, kind: Pod, metadata: {name: probe}}
//! cases:
//!   - {name: web reaches the api, from: shop/web, to: shop/api, port: 8080, expect: pass}
//!   - {from: shop/web, to: pod/shop/api, protocol: icmp, expect: drop}
//! ```
//!
//! Invariant: what is not understood is an error that names file, case and field; nothing is passed over.

use bowline_model::{Family, Problem, Protocol};
use serde_json::{Map, Value};

use super::objects::{self, Sourced};
use crate::codes;
use crate::explain::{Outcome, PortAsked, Question, Sent, read_icmp, read_port, read_whom};

/// What a file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Manifests, in order.
    pub manifests: Vec<Manifest>,
    /// Cases, in order.
    pub cases: Vec<Case>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Manifest {
    /// A path, relative to the file's directory.
    Path(String),
    /// Objects that stand in the file itself.
    Inline(Vec<Sourced>),
}

/// A case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its place, for messages: `FILE, cases[2]`.
    pub place: String,
    /// What people call it; may be empty.
    pub name: String,
    /// `from` as it is written.
    pub from: String,
    /// `to` and `port` as they are written.
    pub to: String,
    /// What is asked.
    pub question: Question,
    /// What must come.
    pub expect: Outcome,
}

fn problem(what: impl Into<String>, place: String, fix: &str) -> Problem {
    Problem::new(codes::BAD_CASES, what, place, fix)
}

/// Values of another type, in a few words.
fn words(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a section",
    }
}

impl Suite {
    /// Reads a file's text. `place` names the file.
    ///
    /// # Errors
    /// BW4110 where something is not understood, BW4111 for an object in the file.
    pub fn read(text: &str, place: &str) -> Result<Suite, Problem> {
        let mut documents = objects::documents(text).map_err(|error| {
            let fix = "see what the line says; docs/guides/policy.md has an example";
            problem("the file is no YAML", place.to_owned(), fix).because(error.to_string())
        })?;
        let fix = "begin it with manifests: and cases:";
        let (Some(Value::Object(file)), true) = (documents.pop(), documents.is_empty()) else {
            return Err(problem("the file is not one document with manifests and cases", place.to_owned(), fix));
        };
        known_keys(&file, &["apiVersion", "kind", "family", "manifests", "cases"], place)?;
        for (key, wanted) in [("apiVersion", "bowline.io/v1"), ("kind", "PolicyTest")] {
            if file.get(key).is_some_and(|value| value != wanted) {
                return Err(problem(format!("{key} is not {wanted}"), format!("{place}, {key}"), "write it so, or leave it out"));
            }
        }
        let mut manifests = Vec::new();
        for (index, value) in list(&file, "manifests", place)?.iter().enumerate() {
            manifests.push(manifest(value, &format!("{place}, manifests[{index}]"))?);
        }
        let family = family(file.get("family"), &format!("{place}, family"))?;
        let cases = list(&file, "cases", place)?.iter().enumerate();
        let cases: Vec<Case> =
            cases.map(|(index, value)| case(value, family, &format!("{place}, cases[{index}]"))).collect::<Result<_, _>>()?;
        if cases.is_empty() {
            return Err(problem(
                "there is no case",
                format!("{place}, cases"),
                "write at least one: {from: shop/web, to: shop/api, port: 80, expect: pass}",
            ));
        }
        Ok(Suite { manifests, cases })
    }
}

fn known_keys(section: &Map<String, Value>, known: &[&str], place: &str) -> Result<(), Problem> {
    match section.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => {
            let what = format!("there is no field `{}`", key.escape_debug());
            Err(problem(what, place.to_owned(), &format!("the fields are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

fn list<'v>(file: &'v Map<String, Value>, key: &str, place: &str) -> Result<&'v [Value], Problem> {
    match file.get(key) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => Err(problem(
            format!("{key} is {}, and must be a list", words(other)),
            format!("{place}, {key}"),
            "begin each entry with a dash",
        )),
    }
}

fn manifest(value: &Value, place: &str) -> Result<Manifest, Problem> {
    match value {
        Value::String(path) if !path.is_empty() && !path.contains('\0') => Ok(Manifest::Path(path.clone())),
        Value::Object(_) => {
            let mut found = Vec::new();
            objects::flatten(value.clone(), place, &mut found)?;
            Ok(Manifest::Inline(found))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let what = format!("a manifest is {}", words(value));
            Err(problem(what, place.to_owned(), "write a path, or an object with its kind"))
        }
    }
}

fn case(value: &Value, of_all: Option<Family>, place: &str) -> Result<Case, Problem> {
    let Value::Object(case) = value else {
        let fix = "write {from: shop/web, to: shop/api, port: 80, expect: pass}";
        return Err(problem(format!("a case is {}, and must be a section", words(value)), place.to_owned(), fix));
    };
    known_keys(case, &["name", "from", "to", "port", "protocol", "family", "expect"], place)?;
    let at = |field: &str| format!("{place}.{field}");
    let text = |field: &str| match case.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        None | Some(Value::Null) => Err(problem(format!("{field} is missing"), at(field), "every case has from, to and expect")),
        Some(other) => Err(problem(format!("{field} is {}, and must be a text", words(other)), at(field), "put it in quotes")),
    };
    let ends = "write NAMESPACE/POD, NAMESPACE/SERVICE, a node's name or an address";
    let (from, to) = (text("from")?, text("to")?);
    let source = read_whom(&from, "default").map_err(|what| problem(what, at("from"), ends))?;
    let target = read_whom(&to, "default").map_err(|what| problem(what, at("to"), ends))?;
    let asked = port(case.get("port"), &at("port"))?;
    let said = if case.get("protocol").is_some_and(|value| !value.is_null()) { Some(text("protocol")?) } else { None };
    let AskedFor { port, sent, family: by_protocol, text: port_text } = with_protocol(asked, said.as_deref(), &at("protocol"))?;
    let own = family(case.get("family"), &at("family"))?;
    if own == Some(Family::V4) && by_protocol == Some(Family::V6) {
        return Err(problem("ICMPv6 is not of ipv4", at("family"), "write protocol: icmp, or family: ipv6"));
    }
    let family = by_protocol.or(own).or(of_all);
    let expect = match text("expect")?.as_str() {
        "pass" => Outcome::Pass,
        "drop" => Outcome::Drop,
        "reject" => Outcome::Reject,
        other => return Err(problem(format!("`{}` is no verdict", other.escape_debug()), at("expect"), "write pass, drop or reject")),
    };
    let name = if case.contains_key("name") { text("name")? } else { String::new() };
    let question = Question { from: source, to: target, port, sent, family };
    let to = to + &port_text;
    Ok(Case { place: place.to_owned(), name, from, to, question, expect })
}

/// The one family that is to be judged, if one is named.
fn family(value: Option<&Value>, place: &str) -> Result<Option<Family>, Problem> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if word == "ipv4" => Ok(Some(Family::V4)),
        Some(Value::String(word)) if word == "ipv6" => Ok(Some(Family::V6)),
        Some(_) => Err(problem("that is no family", place.to_owned(), "write ipv4 or ipv6; leave it out for both")),
    }
}

/// What `port` and `protocol` come to.
struct AskedFor {
    port: Option<PortAsked>,
    sent: Sent,
    /// That of ICMPv6, which is of one alone.
    family: Option<Family>,
    /// As it is shown after the end.
    text: String,
}

/// The port with the protocol that is said beside it: that of a transport, where the port does not say it itself, or ICMP, where there is no
/// port.
fn with_protocol(asked: Option<(PortAsked, Protocol, String)>, said: Option<&str>, place: &str) -> Result<AskedFor, Problem> {
    let fix = "write tcp, udp or sctp, or without a port icmp or icmpv6";
    match (asked, said.map(|word| (word, read_icmp(word)))) {
        (None, Some((word, Some(family)))) => Ok(AskedFor { port: None, sent: Sent::Icmp, family, text: format!("/{word}") }),
        (Some(_), Some((_, Some(_)))) => Err(problem("ICMP has no ports", place.to_owned(), "leave the port out")),
        (None, None) => Ok(AskedFor { port: None, sent: Sent::Tcp, family: None, text: String::new() }),
        (None, Some((word, None))) => {
            let what = format!("there is no port for protocol `{}`", word.escape_debug());
            Err(problem(what, place.to_owned(), fix))
        }
        (Some((port, protocol, text)), None) => {
            Ok(AskedFor { port: Some(port), sent: protocol.into(), family: None, text: format!(":{text}") })
        }
        (Some((port, protocol, text)), Some((word, None))) => {
            let said = word.parse::<Protocol>().map_err(|error| problem(error.to_string(), place.to_owned(), fix))?;
            if text.contains('/') && said != protocol {
                return Err(problem(format!("port says {protocol}, and protocol says {said}"), place.to_owned(), "say one of them"));
            }
            let text = if text.contains('/') { format!(":{text}") } else { format!(":{text}/{word}") };
            Ok(AskedFor { port: Some(port), sent: said.into(), family: None, text })
        }
    }
}

/// A port as `80`, `http`, `53/udp`; with its text.
fn port(value: Option<&Value>, place: &str) -> Result<Option<(PortAsked, Protocol, String)>, Problem> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => {
            return Err(problem(format!("port is {}", words(other)), place.to_owned(), "write a number, a name, or either with /udp"));
        }
    };
    let (port, protocol) = read_port(&text).map_err(|what| problem(what, place.to_owned(), "write 80, http, 53/udp or dns/udp"))?;
    Ok(Some((port, protocol, text)))
}

/// Entry for fuzzing: whatever a file holds, it is read and run, or refused with a reason and a place.
///
/// # Panics
/// If an explanation and the oracle differ: that is what fuzzers are to look for.
pub fn fuzz_cases(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let refused = |problem: &Problem| assert!(!problem.place.is_empty() && !problem.fix.is_empty(), "{problem}");
    let suite = match Suite::read(text, "f") {
        Ok(suite) => suite,
        Err(problem) => return refused(&problem),
    };
    let inline = suite.manifests.iter().filter_map(|manifest| match manifest {
        Manifest::Inline(objects) => Some(objects.clone()),
        Manifest::Path(_) => None,
    });
    match super::Cluster::of(inline.flatten().collect()) {
        Ok(cluster) => {
            for judged in super::run(&cluster, &suite.cases).iter().filter_map(|judged| judged.explained.as_ref().ok()) {
                assert!(judged.agrees(), "{judged:?}");
            }
        }
        Err(problem) => refused(&problem),
    }
}

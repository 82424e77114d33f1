//! Reading tables. A mistake in one is a mistake of whoever wrote it, and ends the test.

use bowline_model::Family;
use serde_json::{Map, Value, json};

use super::{Action, Case, Cast, Labels, Port, PortPattern, Row, Scene, Step, TablePod, Theme, tiers};

impl Cast {
    /// Reads the cast.
    pub fn read(text: &str) -> Cast {
        let mut cast = Cast { ports: Vec::new(), nodes: Vec::new(), scene: Scene::default() };
        for (verb, rest) in lines(text).iter().map(|line| line.split_once(' ').unwrap()) {
            match verb {
                "ports" => cast.ports = rest.split_whitespace().map(port).collect(),
                "node" => cast.nodes.push(rest.to_owned()),
                "ns" => {
                    let (name, labels) = rest.split_once(' ').unwrap_or((rest, ""));
                    cast.scene.namespaces.insert(name.to_owned(), pairs(labels));
                }
                "pod" => {
                    let (name, pod) = pod(rest);
                    cast.scene.pods.insert(name, pod);
                }
                other => panic!("no such line in the cast: {other} {rest}"),
            }
        }
        cast
    }
}

impl Theme {
    /// Reads a theme's file.
    pub fn read(name: &str, text: &str) -> Theme {
        let mut cases: Vec<Case> = Vec::new();
        for line in lines(text) {
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            if verb == "case" {
                cases.push(Case { title: rest.to_owned(), steps: vec![Step::new(rest)] });
                continue;
            }
            let case = cases.last_mut().unwrap_or_else(|| panic!("{name}: before the first case: {line}"));
            if verb == "then" {
                case.steps.push(Step::new(&format!("{}; then {rest}", case.title)));
                continue;
            }
            case.steps.last_mut().unwrap().line(verb, rest, &line);
        }
        Theme { name: name.to_owned(), cases }
    }
}

/// Lines without comments; one whose brackets are open goes on in the next.
fn lines(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut open = 0;
    for line in text.lines() {
        let line = if line.trim_start().starts_with('#') { "" } else { line.trim() };
        if line.is_empty() {
            continue;
        }
        match all.last_mut().filter(|_| open > 0) {
            Some(last) => *last = format!("{last} {line}"),
            None => all.push(line.to_owned()),
        }
        let count = |brackets: [char; 2]| line.matches(brackets).count();
        open = open + count(['{', '[']) - count(['}', ']']);
    }
    all
}

impl Step {
    fn new(title: &str) -> Step {
        // Whatever is true has to be said.
        Step { title: title.to_owned(), actions: Vec::new(), all: false, rows: Vec::new() }
    }

    fn line(&mut self, verb: &str, rest: &str, line: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        match verb {
            "policy" => {
                let (name, spec) = rest.split_once(' ').unwrap();
                self.actions.push(Action::Policy(name.to_owned(), spec_of(spec)));
            }
            "admin" | "baseline" => {
                let tier = if verb == "admin" { "Admin" } else { "Baseline" };
                let (name, spec) = tiers::policy(tier, rest, spec_of);
                self.actions.push(Action::ClusterPolicy(name, spec));
            }
            "label" => {
                let change = |word: &&str| match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word.strip_suffix('-').unwrap_or_else(|| panic!("which label? {line}")).to_owned(), None),
                };
                self.actions.push(Action::Label(words[0].to_owned(), words[1..].iter().map(change).collect()));
            }
            "pod" => {
                let (name, pod) = pod(rest);
                self.actions.push(Action::Pod(name, pod));
            }
            "gone" => self.actions.push(Action::Gone(rest.to_owned())),
            "all" => {
                assert!(self.rows.is_empty(), "{line} after rows in {}", self.title);
                self.rows.push(Row {
                    text: line.to_owned(),
                    family: None,
                    from: vec!["*".into()],
                    to: vec!["*".into()],
                    ports: Vec::new(),
                    passes: passes(rest),
                });
                self.all = passes(rest);
            }
            _ => self.rows.push(row(line)),
        }
    }
}

fn passes(word: &str) -> bool {
    match word {
        "pass" => true,
        "drop" => false,
        other => panic!("pass or drop, not {other}"),
    }
}

fn row(line: &str) -> Row {
    let (family, rest) = match line.split_once(": ") {
        Some(("4", rest)) => (Some(Family::V4), rest),
        Some(("6", rest)) => (Some(Family::V6), rest),
        _ => (None, line),
    };
    let (ends, verdict) = rest.rsplit_once(' ').unwrap_or_else(|| panic!("what becomes of it? {line}"));
    let (from, to) = ends.split_once(" -> ").unwrap_or_else(|| panic!("to whom? {line}"));
    let (to, ports) = to.split_once(':').map_or((to, ""), |(to, ports)| (to, ports));
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let ports = ports.split(',').filter(|word| !word.is_empty()).map(port_pattern).collect();
    Row { text: line.to_owned(), family, from: list(from), to: list(to), ports, passes: passes(verdict) }
}

fn port_pattern(word: &str) -> PortPattern {
    let (number, protocol) = match word.split_once('/') {
        None if word == "icmp" => return PortPattern::Ping,
        Some((number, protocol)) => (Some(number), Some(protocol)),
        None if word.starts_with(|c: char| c.is_ascii_digit()) => (Some(word), None),
        None => (None, Some(word)),
    };
    PortPattern::Port { number: number.map(|text| text.parse().unwrap()), protocol: protocol.map(|text| text.parse().unwrap()) }
}

fn port(text: &str) -> Port {
    let (number, protocol) = text.split_once('/').unwrap();
    Port { number: number.parse().unwrap(), protocol: protocol.parse().unwrap() }
}

fn pairs(text: &str) -> Labels {
    text.split_whitespace().map(|word| word.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// `x/a @n1 label=value name=8080/tcp`.
fn pod(text: &str) -> (String, TablePod) {
    let (mut words, mut node) = (text.split_whitespace(), "");
    let name = words.next().unwrap();
    let mut pod = TablePod { node: String::new(), labels: Labels::new(), names: Vec::new() };
    for word in words {
        match (word.strip_prefix('@'), word.split_once('=')) {
            (Some(at), _) => node = at,
            (None, Some((key, value))) if value.contains('/') => pod.names.push((key.to_owned(), port(value))),
            (None, Some((key, value))) => drop(pod.labels.insert(key.to_owned(), value.to_owned())),
            (None, None) => panic!("not of a pod: {word}"),
        }
    }
    pod.node = node.to_owned();
    (name.to_owned(), pod)
}

fn spec_of(text: &str) -> Value {
    selectors(serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

/// Selectors that are words, as the API has them.
fn selectors(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let field = |(key, value): (String, Value)| match (key.as_str(), value) {
                ("podSelector" | "namespaceSelector" | "namespaces" | "nodes", Value::String(words)) => (key, selector(&words)),
                ("pods", Value::String(words)) => (key, namespaced(&words)),
                (_, value) => (key, selectors(value)),
            };
            Value::Object(fields.into_iter().map(field).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(selectors).collect()),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

/// `NAMESPACES / PODS`, or pods of all namespaces.
fn namespaced(words: &str) -> Value {
    match words.split_once(" / ") {
        Some((namespaces, pods)) => json!({"namespaceSelector": selector(namespaces), "podSelector": selector(pods)}),
        None => json!({"podSelector": selector(words)}),
    }
}

fn selector(words: &str) -> Value {
    let (mut labels, mut expressions) = (Map::new(), Vec::new());
    for term in words.split(" & ") {
        let parts: Vec<&str> = term.split_whitespace().collect();
        let values = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        match (parts.as_slice(), term.split_once('=')) {
            (_, Some((key, value))) => drop(labels.insert(key.to_owned(), json!(value))),
            ([key, "in", list], _) => expressions.push(json!({"key": key, "operator": "In", "values": values(list)})),
            ([key, "notin", list], _) => expressions.push(json!({"key": key, "operator": "NotIn", "values": values(list)})),
            (["not", key], _) => expressions.push(json!({"key": key, "operator": "DoesNotExist"})),
            ([key], _) => expressions.push(json!({"key": key, "operator": "Exists"})),
            _ => panic!("no such selector: {words}"),
        }
    }
    let mut object = Map::new();
    if !labels.is_empty() {
        object.insert("matchLabels".to_owned(), Value::Object(labels));
    }
    if !expressions.is_empty() {
        object.insert("matchExpressions".to_owned(), Value::Array(expressions));
    }
    Value::Object(object)
}

//! What the reader takes and what it says of what it does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::BTreeMap;

use super::*;
use crate::name::display;

#[derive(Default)]
struct Memory {
    files: BTreeMap<&'static str, &'static str>,
    variables: BTreeMap<&'static str, &'static str>,
}

impl Sources for Memory {
    fn import(&self, _from: &str, pattern: &str) -> Result<Vec<Source>, String> {
        let text = self.files.get(pattern).ok_or_else(|| format!("{pattern}: no such file"))?;
        Ok(vec![Source { name: pattern.to_owned(), text: (*text).to_owned() }])
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| (*value).to_owned())
    }
}

fn show(directives: &[Directive]) -> String {
    let line = |d: &Directive| {
        let body = if d.body.is_empty() { String::new() } else { format!("{{{}}}", show(&d.body)) };
        [vec![d.name.text.as_str()], d.texts().collect()].concat().join(" ") + &body
    };
    directives.iter().map(line).collect::<Vec<_>>().join("; ")
}

fn check(text: &str, expected: &str) {
    let sources = Memory {
        files: [("own.conf", "log\nerrors"), ("self.conf", "import self.conf")].into(),
        variables: [("PORT", "1053"), ("EMPTY", "")].into(),
    };
    let got = match parse("Corefile", text, &sources) {
        Ok(file) => file
            .blocks
            .iter()
            .map(|b| format!("[{}] {}", b.keys.iter().map(|k| k.text.as_str()).collect::<Vec<_>>().join(" "), show(&b.directives)))
            .collect::<Vec<_>>()
            .join(" | "),
        Err(error) => error.to_string(),
    };
    assert_eq!(got, expected, "{text}");
}

#[test]
fn blocks_are_read() {
    check(".:53 {\n  errors\n  forward . 1.1.1.1 {\n    max_fails 3\n  }\n}\n", "[.:53] errors; forward . 1.1.1.1{max_fails 3}");
    check("a b, c,\nd {\n log\n}\ne {\n}", "[a b c d] log | [e] ");
    check(".\nerrors\nlog # talk", "[.] errors; log");
    check("# nothing\n", "");
    check(". {\n log . \"{remote} \\\"x\\\" a#b\"\n}", "[.] log . {remote} \"x\" a#b");
    check(".:{$PORT} {\n log {%PORT%}{$EMPTY}\n}", "[.:1053] log 1053");
    check(". { errors }", "[.] errors");
    check(". {\n template IN A {\n  answer \"{{ .Name }} A 1.2.3.4\"\n }\n}", "[.] template IN A{answer {{ .Name }} A 1.2.3.4}");
}

#[test]
fn imports_are_put_in_place() {
    check("(s) {\n cache 30\n loop\n}\n. {\n import s\n log\n}", "[.] cache 30; loop; log");
    check(". {\n import own.conf\n}", "[.] log; errors");
    check("import own.conf", "[log] errors");
}

#[test]
fn errors_name_their_line() {
    check(". {\n errors", "Corefile:2: a block is not closed; close the block with `}` on a line of its own");
    check("}", "Corefile:1: `}` without a zone before it; begin a server block with its zones, such as `.:53 {`");
    check(". {\n}\nb\n log", "Corefile:3: a server block has no `{`; put `{` at the end of the line with its zones");
    check(". {\n \"open\n}", "Corefile:2: a quote is opened and never closed; close it with `\"`");
    check(". {\n import\n}", "Corefile:2: `import` names nothing; name a file, a pattern or a snippet after it");
    check(
        ". {\n\n import gone.conf\n}",
        "Corefile:3: cannot import: gone.conf: no such file; define the snippet before its use, or make the file readable",
    );
    check(". {\n import self.conf\n}", "self.conf:1: too many imports; look for a file or snippet that imports itself");
    check("(a) {\n}\n(a) {\n}", "Corefile:3: the snippet (a) is defined twice; give one of them another name");
}

#[test]
fn keys_are_zones_and_ports() {
    let place = Place { file: "f".into(), line: 1 };
    let read = |text: &str| {
        parse_key(&Word { text: text.to_owned(), place: place.clone() })
            .map(|key| (key.zones.iter().map(display).collect::<Vec<_>>().join(" "), key.port))
            .map_err(|error| error.what)
    };
    assert_eq!(read(".:53"), Ok((".".to_owned(), Some(53))));
    assert_eq!(read("dns://Example.ORG"), Ok(("example.org.".to_owned(), None)));
    assert_eq!(read("192.168.0.0/16:1053"), Ok(("168.192.in-addr.arpa.".to_owned(), Some(1053))));
    assert_eq!(read("fd00::/8"), Ok(("d.f.ip6.arpa.".to_owned(), None)));
    assert_eq!(read("10.0.0.0/15").unwrap().0, "0.10.in-addr.arpa. 1.10.in-addr.arpa.");
    assert!(read("tls://.").unwrap_err().contains("tls"));
    assert!(read(".:0").is_err() && read("a..b").is_err() && read("10.0.0.0/33").is_err());
}

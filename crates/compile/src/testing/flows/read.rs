//! Reading a table. A mistake in it is a mistake of whoever wrote it, and ends the test.

use std::collections::BTreeMap;

use bowline_model::{Family, Protocol};

use super::{Answerer, Case, CastPod, Mode, Row, Table, Wanted};

impl Table {
    /// Reads a file.
    pub fn read(text: &str) -> Table {
        let mut table = Table { settings: BTreeMap::new(), nodes: BTreeMap::new(), pods: BTreeMap::new(), cases: Vec::new() };
        for line in text.lines() {
            let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (verb, table.cases.last_mut()) {
                ("", _) => {}
                ("case", _) => table.cases.push(Case::new(rest)),
                (_, Some(case)) => case.line(verb, rest, line),
                (_, None) => table.cast(verb, rest),
            }
        }
        table
    }

    fn cast(&mut self, verb: &str, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let value = |prefix: &str| words.iter().find_map(|word| word.strip_prefix(prefix)).map(str::to_owned);
        let name = words[0].to_owned();
        match verb {
            "set" => drop(self.settings.insert(name, words[1..].iter().map(|net| net.parse().unwrap()).collect())),
            "node" => drop(self.nodes.insert(name, value("zone="))),
            "pod" => {
                let ports = |text: String| text.split_once(':').map(|(host, own)| (host.parse().unwrap(), own.parse().unwrap()));
                let (node, host_port) = (value("@").unwrap(), value("port=").and_then(ports));
                self.pods.insert(name, CastPod { node, hostnet: words.contains(&"+hostnet"), host_port });
            }
            other => panic!("no such line before the cases: {other} {rest}"),
        }
    }
}

impl Case {
    fn new(title: &str) -> Case {
        Case { title: title.into(), objects: vec![], rows: vec![], health: vec![], problems: vec![], off_wire: None }
    }

    fn line(&mut self, verb: &str, rest: &str, line: &str) {
        match verb {
            "svc" | "slice" | "cidrs" => self.objects.push(line.to_owned()),
            "problems" => self.problems.extend(rest.split_whitespace().map(|code| code.parse::<u16>().unwrap())),
            "off-wire" => self.off_wire = Some(rest.to_owned()),
            "health" => {
                let (place, count) = rest.split_once(" = ").unwrap();
                let (node, port) = place.split_once(':').unwrap();
                self.health.push((node.to_owned(), port.parse().unwrap(), count.parse().unwrap()));
            }
            _ => self.rows.push(row(line)),
        }
    }
}

fn row(line: &str) -> Row {
    let (family, mode, rest) = match line.split_once(": ") {
        Some(("4", rest)) => (Some(Family::V4), None, rest),
        Some(("6", rest)) => (Some(Family::V6), None, rest),
        Some(("nftables", rest)) => (None, Some(Mode::Nftables), rest),
        Some(("ebpf", rest)) => (None, Some(Mode::Ebpf), rest),
        _ => (None, None, line),
    };
    let (packet, wanted) = rest.split_once(" = ").unwrap_or_else(|| panic!("what becomes of it? {line}"));
    let (from, to) = packet.split_once(" -> ").unwrap_or_else(|| panic!("to whom? {line}"));
    let (from, via) = from.split_once(" via ").map_or((from, None), |(from, via)| (from, Some(via.to_owned())));
    let (place, protocol) = to.split_once('/').unwrap_or_else(|| panic!("by what protocol? {line}"));
    let (to, port) = place.split_once(':').unwrap();
    let protocol: Protocol = protocol.parse().unwrap();
    let wanted = match wanted {
        "reject" => Wanted::Reject,
        "drop" => Wanted::Drop,
        "untouched" => Wanted::Untouched,
        several => answer(several),
    };
    Row { text: line.into(), family, mode, from: from.into(), via, to: to.into(), port: port.parse().unwrap(), protocol, wanted }
}

fn answer(text: &str) -> Wanted {
    let words = text.split_whitespace().filter(|word| *word != "kept");
    let one = |word: &str| {
        let (place, sees) = word.split_once('<').map_or((word, None), |(place, sees)| (place, Some(sees.to_owned())));
        let (pod, port) = place.split_once(':').unwrap_or_else(|| panic!("on which port? {text}"));
        Answerer { pod: pod.into(), port: port.parse().unwrap(), sees }
    };
    let mut by: Vec<Answerer> = words.map(one).collect();
    by.sort();
    Wanted::Answer { by, kept: text.ends_with(" kept") }
}

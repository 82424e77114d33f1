//! `log`: a line for each question, in CoreDNS's formats.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use domain::base::iana::OptRcode;

use crate::corefile::{CorefileError, Directive, parse_zones};
use crate::name::{self, Name};
use crate::server::Transport;
use crate::wire::Query;

/// CoreDNS's `{common}`.
const COMMON: &str =
    r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration}"#;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Everything.
    All,
    /// An answer.
    Success,
    /// The name or the record does not exist.
    Denial,
    /// SERVFAIL, REFUSED and the like.
    Error,
}

/// One `log` of a server block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRule {
    zones: Vec<Name>,
    format: String,
    classes: Vec<Class>,
}

/// What happened to a question.
#[derive(Debug, Clone)]
pub struct Outcome<'a> {
    /// The question.
    pub query: &'a Query,
    /// Who asked.
    pub client: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Result.
    pub rcode: OptRcode,
    /// The first four bytes of what was sent: id and flags.
    pub flags: [u8; 2],
    /// Length of what was sent.
    pub bytes: usize,
    /// Records in its answer section.
    pub answers: usize,
    /// From the question's arrival to the sending of the answer.
    pub elapsed: Duration,
}

impl Outcome<'_> {
    fn class(&self) -> Class {
        match self.rcode {
            OptRcode::NOERROR if self.answers > 0 => Class::Success,
            OptRcode::NOERROR | OptRcode::NXDOMAIN => Class::Denial,
            _ => Class::Error,
        }
    }
}

impl LogRule {
    /// Reads `log [NAMES...] [FORMAT] { class CLASSES... }`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(directive: &Directive, block: &[Name]) -> Result<LogRule, CorefileError> {
        let (zones, format) = match directive.args.as_slice() {
            [] => (block.to_vec(), COMMON.to_owned()),
            [zones @ .., format] if format.text.contains('{') => {
                let format = format.text.replace("{common}", COMMON).replace("{combined}", COMMON);
                (if zones.is_empty() { vec![Name::root_bytes()] } else { parse_zones(zones)? }, format)
            }
            zones => (parse_zones(zones)?, COMMON.to_owned()),
        };
        let mut rule = LogRule { zones, format, classes: Vec::new() };
        for option in &directive.body {
            if option.name.text != "class" || option.args.is_empty() {
                return Err(directive.unknown_option(option, "class all|success|denial|error ..."));
            }
            for word in &option.args {
                rule.classes.push(match word.text.as_str() {
                    "all" => Class::All,
                    "success" => Class::Success,
                    "denial" => Class::Denial,
                    "error" => Class::Error,
                    _ => return Err(word.error(format!("`{}` is no class", word.text), "write all, success, denial or error")),
                });
            }
        }
        if rule.classes.is_empty() {
            rule.classes.push(Class::All);
        }
        Ok(rule)
    }

    /// Whether a line is to be written.
    pub fn wants(&self, outcome: &Outcome<'_>) -> bool {
        let class = outcome.class();
        self.classes.iter().any(|wanted| *wanted == Class::All || *wanted == class) && name::in_any(&self.zones, &outcome.query.name)
    }

    /// The line, without its end.
    pub fn line(&self, outcome: &Outcome<'_>) -> String {
        let mut line = String::with_capacity(160);
        line.push_str("[INFO] ");
        let mut rest = self.format.as_str();
        while let Some((text, after)) = rest.split_once('{') {
            line.push_str(text);
            let Some((field, next)) = after.split_once('}') else {
                line.push('{');
                rest = after;
                continue;
            };
            push_field(&mut line, field, outcome);
            rest = next;
        }
        line.push_str(rest);
        line
    }
}

fn push_field(line: &mut String, field: &str, outcome: &Outcome<'_>) {
    let query = outcome.query;
    let _ = match field {
        "type" => write!(line, "{}", query.rtype),
        "name" => write!(line, "{}", name::display(&query.name)),
        "class" => write!(line, "{}", query.class),
        "proto" => write!(line, "{}", outcome.transport.name()),
        "remote" => match outcome.client {
            SocketAddr::V4(client) => write!(line, "{}", client.ip()),
            SocketAddr::V6(client) => write!(line, "[{}]", client.ip()),
        },
        "port" => write!(line, "{}", outcome.client.port()),
        "size" => write!(line, "{}", query.bytes),
        "rcode" => write!(line, "{}", outcome.rcode),
        "rsize" => write!(line, "{}", outcome.bytes),
        "duration" => write!(line, "{:.9}s", outcome.elapsed.as_secs_f64()),
        ">id" => write!(line, "{}", query.id),
        ">opcode" => write!(line, "{}", query.opcode.to_int()),
        ">do" => write!(line, "{}", query.dnssec_ok()),
        ">bufsize" => write!(line, "{}", query.udp_bytes()),
        ">rflags" => push_flags(line, outcome.flags),
        _ => write!(line, "-"),
    };
}

fn push_flags(line: &mut String, [high, low]: [u8; 2]) -> std::fmt::Result {
    let all = [
        (high, 0x80, "qr"),
        (high, 0x04, "aa"),
        (high, 0x02, "tc"),
        (high, 0x01, "rd"),
        (low, 0x80, "ra"),
        (low, 0x20, "ad"),
        (low, 0x10, "cd"),
    ];
    let set = all.into_iter().filter(|(byte, bit, _)| byte & bit != 0).map(|(_, _, name)| name);
    line.push_str(&set.collect::<Vec<_>>().join(","));
    Ok(())
}

/// Lines that wait to be written; further ones are dropped, for a slow reader of the log must not slow the answers.
const MAX_WAITING: usize = 8192;

/// Writes a line to standard output, from a thread of its own.
pub fn print(line: String) {
    static SENDER: OnceLock<SyncSender<String>> = OnceLock::new();
    let sender = SENDER.get_or_init(|| {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let spawned = std::thread::Builder::new().name("dns-log".to_owned()).spawn(move || write_lines(&receiver));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for the query log: nothing is logged");
        }
        sender
    });
    let _ = sender.try_send(line);
}

fn write_lines(receiver: &Receiver<String>) {
    while let Ok(line) = receiver.recv() {
        let mut text = line + "\n";
        while text.len() < 32_768
            && let Ok(line) = receiver.try_recv()
        {
            text.push_str(&line);
            text.push('\n');
        }
        if std::io::stdout().lock().write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use domain::base::iana::Rtype;

    use super::*;
    use crate::corefile::{NoSources, parse};

    fn check(log: &str, rcode: OptRcode, answers: usize, expected: Option<&str>) {
        let file = parse("f", &format!(". {{\n{log}\n}}"), &NoSources).unwrap();
        let rule = LogRule::read(&file.blocks[0].directives[0], &[Name::root_bytes()]).unwrap();
        let mut query = Query::new(name::parse("Example.org").unwrap(), Rtype::A);
        (query.id, query.bytes) = (4711, 41);
        let client = "[::1]:5353".parse().unwrap();
        let outcome = Outcome {
            query: &query,
            client,
            transport: Transport::Udp,
            rcode,
            flags: [0x85, 0x80],
            bytes: 97,
            answers,
            elapsed: Duration::from_micros(123),
        };
        let line = rule.wants(&outcome).then(|| rule.line(&outcome));
        assert_eq!(line.as_deref(), expected, "{log}");
    }

    #[test]
    fn lines_are_coredns_own() {
        let common = r#"[INFO] [::1]:5353 - 4711 "A IN example.org. udp 41 false 512" NOERROR qr,aa,rd,ra 97 0.000123000s"#;
        check("log", OptRcode::NOERROR, 1, Some(common));
        check("log . {common}", OptRcode::NOERROR, 1, Some(common));
        check("log \"{rcode} {name} {x}\"", OptRcode::NXDOMAIN, 0, Some("[INFO] NXDOMAIN example.org. -"));
    }

    #[test]
    fn classes_and_names_choose() {
        check("log example.com", OptRcode::NOERROR, 1, None);
        for (class, rcode, answers, logged) in [
            ("denial", OptRcode::NOERROR, 1, false),
            ("denial", OptRcode::NOERROR, 0, true),
            ("denial", OptRcode::NXDOMAIN, 0, true),
            ("error", OptRcode::NXDOMAIN, 0, false),
            ("error", OptRcode::SERVFAIL, 0, true),
            ("success error", OptRcode::NOERROR, 1, true),
        ] {
            check(&format!("log . x{{name}} {{\nclass {class}\n}}"), rcode, answers, logged.then_some("[INFO] xexample.org."));
        }
    }
}

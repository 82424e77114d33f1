//! `hosts`: names from a file in the format of /etc/hosts, and from the Corefile itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use domain::base::iana::{Rcode, Rtype};
use domain::rdata::{A, Aaaa, Ptr};

use crate::corefile::{CorefileError, Directive};
use crate::name::{self, Name, Reverse};
use crate::plugin::{Fallthrough, read, zones_or};
use crate::wire::{Data, Query, Reply, record};

/// The plugin.
pub struct Hosts {
    zones: Vec<Name>,
    fallthrough: Fallthrough,
    file: Option<PathBuf>,
    ttl_secs: u32,
    reverse: bool,
    reload: Duration,
    inline: String,
    state: Mutex<State>,
}

struct State {
    table: Arc<Table>,
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
}

#[derive(Debug, Default)]
struct Table {
    names: HashMap<Name, Vec<IpAddr>>,
    ips: HashMap<IpAddr, Vec<Name>>,
}

/// What the plugin says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostsAnswer {
    /// Nothing: the next plugin is asked.
    Next,
    /// This.
    Reply(Reply),
}

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 16 << 20;

impl Hosts {
    /// Reads `hosts [FILE [ZONES...]] { ENTRIES and OPTIONS }`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(directive: &Directive, block: &[Name]) -> Result<Hosts, CorefileError> {
        let (file, zones) = match directive.args.split_first() {
            Some((file, zones)) => (Some(PathBuf::from(&file.text)), zones),
            None => (None, [].as_slice()),
        };
        let mut hosts = Hosts {
            zones: zones_or(zones, block)?,
            fallthrough: Fallthrough::default(),
            file: Some(file.unwrap_or_else(|| PathBuf::from("/etc/hosts"))),
            ttl_secs: 3600,
            reverse: true,
            reload: Duration::from_secs(5),
            inline: String::new(),
            state: Mutex::new(State { table: Arc::default(), looked: None, stamp: None }),
        };
        for option in &directive.body {
            match option.name.text.as_str() {
                "fallthrough" => hosts.fallthrough = Fallthrough::read(option)?,
                "ttl" => hosts.ttl_secs = read::number(option.one("seconds")?, 1, 65_535)?,
                "reload" => hosts.reload = read::duration(option.one("a length of time")?)?,
                "no_reverse" => hosts.reverse = false,
                text if text.parse::<IpAddr>().is_ok() => {
                    let names: Vec<&str> = option.texts().collect();
                    hosts.inline.push_str(&format!("{text} {}\n", names.join(" ")));
                }
                _ => return Err(directive.unknown_option(option, "fallthrough, ttl, reload, no_reverse, and entries `ADDRESS NAMES...`")),
            }
        }
        // Entries in the Corefile stand alone unless a file is named beside them.
        if directive.args.is_empty() && !hosts.inline.is_empty() {
            hosts.file = None;
        }
        Ok(hosts)
    }

    /// Answers a question.
    pub fn answer(&self, query: &Query, now: Instant) -> HostsAnswer {
        let reverse = if self.reverse { name::reverse(&query.name) } else { Reverse::No };
        if !name::in_any(&self.zones, &query.name) && !matches!(reverse, Reverse::Address(_)) {
            return HostsAnswer::Next;
        }
        let table = self.table(now);
        if let (Reverse::Address(ip), Rtype::PTR) = (reverse, query.rtype) {
            let Some(names) = table.ips.get(&ip) else { return self.unknown(query) };
            return self.reply(query, names.iter().map(|target| Ptr::new(target.clone()).into()).collect());
        }
        let Some(ips) = table.names.get(&query.name) else { return self.unknown(query) };
        let data = ips.iter().filter_map(|ip| match (query.rtype, ip) {
            (Rtype::A, IpAddr::V4(ip)) => Some(A::new(*ip).into()),
            (Rtype::AAAA, IpAddr::V6(ip)) => Some(Aaaa::new(*ip).into()),
            _ => None,
        });
        self.reply(query, data.collect())
    }

    fn reply(&self, query: &Query, data: Vec<Data>) -> HostsAnswer {
        let mut reply = Reply { aa: true, ..Reply::empty(Rcode::NOERROR) };
        reply.answer = data.into_iter().map(|data| record(query.name.clone(), self.ttl_secs, data)).collect();
        HostsAnswer::Reply(reply)
    }

    /// Without an SOA a name cannot be denied; a failure at least says that something is wrong.
    fn unknown(&self, query: &Query) -> HostsAnswer {
        if self.fallthrough.lets(&query.name) || !name::in_any(&self.zones, &query.name) {
            return HostsAnswer::Next;
        }
        HostsAnswer::Reply(Reply::empty(Rcode::SERVFAIL))
    }

    /// The table as it is, the file read again if it is time and the file is another.
    fn table(&self, now: Instant) -> Arc<Table> {
        let Ok(mut state) = self.state.lock() else { return Arc::default() };
        let due = match state.looked {
            None => true,
            Some(looked) => !self.reload.is_zero() && now.saturating_duration_since(looked) >= self.reload,
        };
        if due {
            let first = state.looked.is_none();
            state.looked = Some(now);
            let stamp = self.stamp();
            if first || stamp != state.stamp {
                state.stamp = stamp;
                state.table = Arc::new(Table::read(&(self.content() + &self.inline)));
            }
        }
        Arc::clone(&state.table)
    }

    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let data = std::fs::metadata(self.file.as_ref()?).ok()?;
        Some((data.modified().ok()?, data.len()))
    }

    fn content(&self) -> String {
        let Some(file) = self.file.as_ref().filter(|_| self.stamp().is_some_and(|(_, length)| length <= MAX_FILE_BYTES)) else {
            return String::new();
        };
        let content =
            std::fs::read_to_string(file).inspect_err(|error| tracing::warn!(file = %file.display(), %error, "hosts file not read"));
        content.map(|content| content + "\n").unwrap_or_default()
    }
}

impl Table {
    fn read(text: &str) -> Table {
        let mut table = Table::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words.filter_map(name::parse) {
                let ips = table.names.entry(name.clone()).or_default();
                if !ips.contains(&ip) {
                    ips.push(ip);
                }
                table.ips.entry(ip).or_default().push(name);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use crate::corefile::{NoSources, parse};

    fn hosts(text: &str) -> Hosts {
        let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
        Hosts::read(&file.blocks[0].directives[0], &[Name::root_bytes()]).unwrap()
    }

    fn check(hosts: &Hosts, at: Instant, name: &str, rtype: Rtype, expected: &str) {
        let got = match hosts.answer(&Query::new(name::parse(name).unwrap(), rtype), at) {
            HostsAnswer::Next => "next".to_owned(),
            HostsAnswer::Reply(reply) if reply.answer.is_empty() => reply.rcode.to_string(),
            HostsAnswer::Reply(reply) => reply.answer.iter().map(|r| r.data().to_string()).collect::<Vec<_>>().join(" "),
        };
        assert_eq!(got, expected, "{name} {rtype}");
    }

    #[test]
    fn entries_answer_both_families_and_backwards() {
        let hosts = hosts("hosts {\n10.0.0.1 a.test A2.test\nfd00::1 a.test\nfallthrough b.test\n}");
        let now = Instant::now();
        check(&hosts, now, "A.test", Rtype::A, "10.0.0.1");
        check(&hosts, now, "a.test", Rtype::AAAA, "fd00::1");
        check(&hosts, now, "a2.test", Rtype::AAAA, "NOERROR");
        check(&hosts, now, "1.0.0.10.in-addr.arpa", Rtype::PTR, "a.test. A2.test.");
        check(&hosts, now, "x.b.test", Rtype::A, "next");
        check(&hosts, now, "x.test", Rtype::A, "SERVFAIL");
    }

    #[test]
    fn the_file_is_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        std::fs::write(&file, "10.0.0.1 a.test # c\nnonsense\n").unwrap();
        let hosts = hosts(&format!("hosts {} test {{\nfallthrough\nreload 5s\n}}", file.display()));
        let now = Instant::now();
        check(&hosts, now, "a.test", Rtype::A, "10.0.0.1");
        std::fs::write(&file, "10.0.0.200 a.test\n").unwrap();
        check(&hosts, now + Duration::from_secs(4), "a.test", Rtype::A, "10.0.0.1");
        check(&hosts, now + Duration::from_secs(5), "a.test", Rtype::A, "10.0.0.200");
        check(&hosts, now, "a.example", Rtype::A, "next");
    }
}

//! Asking a table's rows with real packets, and holding what comes back against them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_compile::testing::flows::{Mode, Row, Wanted};
use bowline_model::{Family, Protocol};
use serde_json::Value;

use crate::Tally;
use crate::common::generator::Generator;
use crate::staged::{Staged, is_service_address};

/// How long the agents and a busy machine may take until a row is true.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an answer may take, and how long silence must last to be believed.
const ANSWER_MS: u64 = 3000;
const SILENCE_MS: u64 = 700;

/// The senders of a table, and what they found.
pub(crate) struct Asked<'a> {
    staged: &'a Staged<'a>,
    senders: BTreeMap<String, Generator>,
    tally: Tally,
    skipped: usize,
}

impl<'a> Asked<'a> {
    /// Starts everyone who sends something.
    pub(crate) fn new(staged: &'a Staged<'a>) -> Result<Asked<'a>> {
        let names: BTreeSet<&String> = staged.cases().flat_map(|case| &case.rows).map(|row| &row.from).collect();
        let mut senders = BTreeMap::new();
        for name in names {
            let generator = match name.as_str() {
                "out" => Generator::outside(staged.lab, &["ask"])?,
                node if staged.table.nodes.contains_key(node) => Generator::on_node(staged.lab, node, &["ask"])?,
                pod => Generator::in_pod(staged.lab, pod, &["ask"])?,
            };
            senders.insert(name.clone(), generator);
        }
        Ok(Asked { staged, senders, tally: Tally::new(), skipped: 0 })
    }

    /// All rows of a family: first those who are answered, so that all services are known to stand when the others are asked.
    pub(crate) fn family(&mut self, v6: bool) -> Result<()> {
        let staged = self.staged;
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mode = if staged.lab.setup.is_ebpf() { Mode::Ebpf } else { Mode::Nftables };
        let rows: Vec<&Row> = staged.cases().flat_map(|case| &case.rows).filter(|row| row.is_of(family, mode)).collect();
        let (spoken, sctp): (Vec<&Row>, Vec<&Row>) = rows.into_iter().partition(|row| row.protocol != Protocol::Sctp);
        self.skipped += sctp.len();
        let (answered, others): (Vec<&Row>, Vec<&Row>) = spoken.into_iter().partition(|row| matches!(row.wanted, Wanted::Answer { .. }));
        for rows in [answered, others] {
            let ways: BTreeSet<Option<&String>> = rows.iter().map(|row| row.via.as_ref()).collect();
            for way in ways {
                let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.via.as_ref() == way).collect();
                self.by_way(&rows, way, family)?;
            }
        }
        Ok(())
    }

    /// Rows whose packets from outside come by one node.
    fn by_way(&mut self, rows: &[&Row], way: Option<&String>, family: Family) -> Result<()> {
        if let Some(node) = way {
            let names: BTreeSet<&String> = rows.iter().map(|row| &row.to).filter(|name| is_service_address(name)).collect();
            for name in names {
                self.staged.lead(name, family, node)?;
            }
        }
        let until = Instant::now() + PATIENCE;
        let mut pending = rows.to_vec();
        loop {
            let wrong = self.once(&pending, family)?;
            if wrong.is_empty() {
                break;
            }
            if Instant::now() > until {
                let texts: Vec<String> = wrong.iter().map(|(row, what)| format!("{family} {}: {what:#}", row.text)).collect();
                bail!("{} of {} rows: {}", texts.len(), rows.len(), texts.join("\n"));
            }
            pending = wrong.into_iter().map(|(row, _)| row).collect();
        }
        for row in rows {
            let kind = match row.wanted {
                Wanted::Answer { .. } => "answered",
                Wanted::Reject => "refused",
                Wanted::Drop => "dropped",
                Wanted::Untouched => "untouched",
            };
            *self.tally.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    /// Asks rows once, each sender all of its own together; those that came out wrong.
    fn once<'r>(&mut self, rows: &[&'r Row], family: Family) -> Result<Vec<(&'r Row, anyhow::Error)>> {
        let mut of: BTreeMap<&String, Vec<&Row>> = BTreeMap::new();
        for row in rows.iter().copied() {
            of.entry(&row.from).or_default().push(row);
        }
        let mut wrong = Vec::new();
        for (from, rows) in of {
            let questions: Vec<String> = rows.iter().map(|row| self.question(row, family)).collect();
            let sender = self.senders.get_mut(from).context("no such sender")?;
            let answers = sender.ask(&questions.join(";"))?;
            for (row, answer) in rows.into_iter().zip(answers.as_array().context("no answers")?) {
                if let Err(error) = judge(self.staged, row, family, answer) {
                    wrong.push((row, error));
                }
            }
        }
        Ok(wrong)
    }

    fn question(&self, row: &Row, family: Family) -> String {
        let to = SocketAddr::new(self.staged.address(&row.to, family), row.port);
        let (times, timeout_ms) = match &row.wanted {
            // Of three each in turn: one of them stays unasked by chance once in three million times.
            Wanted::Answer { by, kept: false } => ([3, 3, 24, 40][by.len().min(3)], ANSWER_MS),
            Wanted::Answer { kept: true, .. } => (8, ANSWER_MS),
            Wanted::Reject => (2, ANSWER_MS),
            Wanted::Drop | Wanted::Untouched => (1, SILENCE_MS),
        };
        format!("{} {to} {times} {timeout_ms}", row.protocol.to_string().to_lowercase())
    }

    /// What was seen.
    pub(crate) fn told(&self) -> String {
        let counts: Vec<String> = self.tally.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let off: Vec<&str> = self.staged.table.cases.iter().filter_map(|case| case.off_wire.as_deref()).collect();
        let mut told = format!("IPv4 and IPv6 rows: {}", counts.join(", "));
        if self.skipped > 0 {
            told.push_str(&format!("; skipped {} rows of SCTP: this kernel has no such sockets", self.skipped));
        }
        if !off.is_empty() {
            told.push_str(&format!("; skipped {} cases: {}", off.len(), off.join(", ")));
        }
        told
    }
}

/// Who answered, whose address it saw, and on which of its ports it was asked.
type Answer = (String, String, u64);

/// Holds an answer against its row.
fn judge(staged: &Staged<'_>, row: &Row, family: Family, answer: &Value) -> Result<()> {
    let refused = answer["refused"].as_u64().unwrap_or(0);
    let silent = answer["silent"].as_u64().unwrap_or(0);
    let got: BTreeSet<Answer> = serde_json::from_value(answer["answers"].clone())?;
    match &row.wanted {
        Wanted::Reject => ensure!(got.is_empty() && silent == 0 && refused > 0, "{answer} where a refusal is wanted"),
        Wanted::Drop => ensure!(got.is_empty() && refused == 0 && silent > 0, "{answer} where silence is wanted"),
        Wanted::Untouched => {
            let own = own_server(staged, row).map(str::to_owned);
            let by: BTreeSet<&String> = got.iter().map(|(who, _, _)| who).collect();
            ensure!(by.iter().copied().eq(own.iter()), "{answer} where {own:?} is to be reached");
        }
        Wanted::Answer { by, kept } => {
            ensure!(refused == 0 && silent == 0, "{answer} where an answer is wanted");
            let wanted: BTreeSet<Answer> = by
                .iter()
                .map(|one| {
                    let sees = staged.address(one.sees.as_ref().unwrap_or(&row.from), family).to_string();
                    let port = if row.protocol == Protocol::Udp { 0 } else { one.port };
                    (one.pod.clone(), sees, u64::from(port))
                })
                .collect();
            let got = if staged.lab.setup.is_ebpf() { as_by_rules(got, &wanted, row, &staged.address(&row.from, family)) } else { got };
            let right = if *kept { got.len() == 1 && got.is_subset(&wanted) } else { got == wanted };
            ensure!(right, "{got:?} where {wanted:?} is wanted");
        }
    }
    Ok(())
}

/// A pod that reaches itself does so with its own address where it is sent there at the socket; by the rules it sees the node's, and the table
/// speaks of those.
fn as_by_rules(got: BTreeSet<Answer>, wanted: &BTreeSet<Answer>, row: &Row, own: &std::net::IpAddr) -> BTreeSet<Answer> {
    let itself = |answer: Answer| match wanted.iter().find(|(who, _, _)| *who == row.from) {
        Some(by_rules) if answer.0 == row.from && answer.1 == own.to_string() => by_rules.clone(),
        _ => answer,
    };
    got.into_iter().map(itself).collect()
}

/// Who serves the address and port that a row is for, by its own.
fn own_server<'s>(staged: &'s Staged<'_>, row: &'s Row) -> Option<&'s str> {
    let pods = &staged.table.pods;
    match (row.to.as_str(), row.port) {
        ("alien", 80) => Some("client"),
        (node, 8090) => pods.iter().find(|(_, pod)| pod.hostnet && pod.node == node).map(|(name, _)| name.as_str()),
        (pod, 8080) if pods.contains_key(pod) => Some(pod),
        _ => None,
    }
}

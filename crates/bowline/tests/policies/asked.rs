//! Asking every cell with real packets, and holding what comes back against the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bowline_compile::testing::policies::Cell;
use bowline_model::Protocol;
use serde_json::Value;

use crate::common::generator::Generator;
use crate::common::lab::BOWLINE;
use crate::staged::Staged;

/// How long what is to pass may take to do so: datagrams can be lost on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer may take, and how long silence must last to be believed.
const ANSWER_MS: u64 = 3000;
const SILENCE_MS: u64 = 700;

/// Everybody who asks, and the server outside.
pub(crate) struct Asked {
    senders: BTreeMap<String, Generator>,
    _outside: Server,
}

/// A server that ends when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What became of a cell's question.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// The right one answered.
    Answer,
    Silence,
    /// Anything else, in words.
    Other(String),
}

impl Asked {
    /// Starts those who are always there.
    pub(crate) fn new(staged: &Staged<'_>) -> Result<Asked> {
        let mut senders = BTreeMap::from([("out".to_owned(), Generator::outside(staged.lab, &["ask"])?)]);
        for node in &staged.cast.nodes {
            senders.insert(node.clone(), Generator::on_node(staged.lab, node, &["ask"])?);
        }
        let mut asked = Asked { senders, _outside: outside(staged)? };
        asked.follow(staged)?;
        Ok(asked)
    }

    /// New pods ask as well; those that are gone do not.
    pub(crate) fn follow(&mut self, staged: &Staged<'_>) -> Result<()> {
        let pods = &staged.scene.pods;
        self.senders.retain(|name, _| !name.contains('/') || pods.contains_key(name));
        for full in pods.keys().filter(|name| !self.senders.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let (namespace, name) = full.split_once('/').context("a pod of no namespace")?;
            let generator = Generator::in_pod_of(staged.lab, namespace, name, &["ask"])?;
            self.senders.insert(full, generator);
        }
        Ok(())
    }

    /// Asks all cells; what is wrong. Only what is to pass is asked again.
    pub(crate) fn all(&mut self, staged: &Staged<'_>, cells: &[(Cell<'_>, bool)]) -> Result<Vec<String>> {
        let until = Instant::now() + PATIENCE;
        let mut pending = cells.to_vec();
        loop {
            let got = self.once(staged, &pending)?;
            let wrong: Vec<(&(Cell<'_>, bool), Got)> =
                pending.iter().zip(got).filter(|((_, passes), got)| *got != if *passes { Got::Answer } else { Got::Silence }).collect();
            let lost = |(asked, got): &(&(Cell<'_>, bool), Got)| asked.1 && *got == Got::Silence;
            if !wrong.iter().all(lost) || wrong.is_empty() || Instant::now() > until {
                return Ok(wrong.into_iter().map(|((cell, passes), got)| format!("{cell}: {passes} in the table, {got:?}")).collect());
            }
            pending = wrong.into_iter().map(|(asked, _)| *asked).collect();
        }
    }

    /// Asks cells once, all at the same time.
    fn once(&mut self, staged: &Staged<'_>, cells: &[(Cell<'_>, bool)]) -> Result<Vec<Got>> {
        let from: BTreeSet<&str> = cells.iter().map(|(cell, _)| cell.from).collect();
        for name in &from {
            let own = cells.iter().filter(|(cell, _)| cell.from == *name);
            let questions: Vec<String> = own.map(|(cell, passes)| question(staged, cell, *passes)).collect();
            self.senders.get_mut(*name).context("no such sender")?.say(&questions.join(";"))?;
        }
        let mut answers = BTreeMap::new();
        for name in &from {
            let heard = self.senders.get_mut(*name).context("no such sender")?.hear()?;
            answers.insert(*name, heard.as_array().context("no answers")?.clone().into_iter());
        }
        let one = |(cell, _): &(Cell<'_>, bool)| {
            let answer = answers.get_mut(cell.from).and_then(Iterator::next).context("an answer is missing")?;
            got(staged, cell, &answer)
        };
        cells.iter().map(one).collect()
    }
}

/// A server on the host outside, under the name `out`.
fn outside(staged: &Staged<'_>) -> Result<Server> {
    let ports: Vec<String> =
        staged.cast.ports.iter().map(|port| format!("{}/{}", port.protocol.to_string().to_lowercase(), port.number)).collect();
    // Its log is nobody's: a pipe that nobody reads would stop it.
    let script = "exec \"$0\" lab-echo \"$1\" > /dev/null";
    let argv = ["env", "BOWLINE_LAB_POD=out", "sh", "-c", script, BOWLINE, &ports.join(",")];
    Ok(Server(staged.lab.client_piped(&argv)?))
}

fn question(staged: &Staged<'_>, cell: &Cell<'_>, passes: bool) -> String {
    let to = SocketAddr::new(staged.address(cell.to, cell.family), cell.dst_port().unwrap_or_default());
    let timeout_ms = if passes { ANSWER_MS } else { SILENCE_MS };
    let protocol = cell.port.map_or_else(|| "icmp".to_owned(), |port| port.protocol.to_string().to_lowercase());
    format!("{protocol} {to} 1 {timeout_ms}")
}

/// Who answered must be who was asked, and have seen the sender's own address, but outside. A ping's answer says no more than that it came.
fn got(staged: &Staged<'_>, cell: &Cell<'_>, answer: &Value) -> Result<Got> {
    let answers: BTreeSet<(String, String, u16)> = serde_json::from_value(answer["answers"].clone())?;
    let Some((who, saw, port)) = answers.first() else {
        return Ok(if answer["silent"] == 1 { Got::Silence } else { Got::Other(answer.to_string()) });
    };
    let Some(asked) = cell.port else { return Ok(Got::Answer) };
    let name = cell.to.split_once('/').map_or(cell.to, |(_, name)| name);
    let own = staged.address(cell.from, cell.family).to_string();
    let right_port = asked.protocol == Protocol::Udp || *port == asked.number;
    let right = who == name && right_port && (cell.to == "out" || *saw == own);
    Ok(if right { Got::Answer } else { Got::Other(answer.to_string()) })
}

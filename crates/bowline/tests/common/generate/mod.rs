//! The side of the generators that runs inside: servers, streams, datagrams, probes and CNI calls, each a role of this very program.
//!
//! A role says `ready` once it is at work, answers each line of its standard input with one line of JSON, and after the end of its input
//! with a last one. So whoever drives it waits for events and never for time.

mod ask;
mod call;
mod cni;
mod datagrams;
mod dial;
mod fill;
mod follow;
mod frames;
mod haul;
mod letters;
mod parcels;
mod peer;
mod probe;
mod programs;
mod serve;
mod stream;
mod turn;

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Length of a message on a stream, in bytes.
const MESSAGE_BYTES: usize = 16;

/// What a client of `serve` asks for with its first byte.
const ECHO: u8 = b'e';
/// Messages, one after the other, unasked.
const PUSH: u8 = b'p';
/// How many datagrams came, by their tag.
const COUNTS: u8 = b'c';
/// Who serves.
const NAME: u8 = b'n';
/// The end of the server.
const END: u8 = b'x';
/// So many bytes for the server; then it answers with a message.
const TAKE: u8 = b't';
/// So many bytes from the server.
const GIVE: u8 = b'g';

/// Runs a role.
pub(crate) fn main(words: &[String]) -> ExitCode {
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generator {}: {error:#}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["idle"] => loop {
            std::thread::park();
        },
        ["ask"] => ask::run(),
        ["knock"] => ask::knock(),
        ["listen", address] => ask::listen(address.parse()?),
        ["serve", name] => serve::run(name, Duration::ZERO),
        ["serve", name, late_ms] => serve::run(name, Duration::from_millis(late_ms.parse()?)),
        ["counts"] => serve::ask(),
        ["end"] => serve::end(),
        ["stream", connections, targets @ ..] => stream::run(connections.parse()?, stream::PAUSE, &addresses(targets)?),
        ["streams", connections, pause_ms, targets @ ..] => {
            stream::run(connections.parse()?, Duration::from_millis(pause_ms.parse()?), &addresses(targets)?)
        }
        ["datagrams", tag, pause_us, targets @ ..] => datagrams::run(tag, pause_us.parse()?, &addresses(targets)?),
        ["flood", tag, targets @ ..] => datagrams::flood(tag, &addresses(targets)?),
        ["call", protocol, count, target] => call::run(protocol, count.parse()?, target.parse()?),
        ["haul", target] => haul::run(target.parse()?),
        ["parcels", target] => parcels::run(target.parse()?),
        ["letters", tag, count, target] => letters::run(tag, count.parse()?, target.parse()?),
        ["probe", targets @ ..] => probe::run(&addresses(targets)?),
        ["dial", targets @ ..] => dial::run(&addresses(targets)?),
        ["peer", target] => peer::run(target.parse()?),
        ["programs"] => programs::list(),
        ["programs", "off"] => programs::take_off(),
        ["fill"] => fill::run(),
        ["turn", service, endpoints @ ..] => turn::to(service.parse()?, &addresses(endpoints)?),
        ["follow", target] => follow::run(target.parse()?),
        ["frames"] => frames::send(),
        ["tap"] => frames::tap(),
        ["hear", ports @ ..] => frames::hear(ports),
        ["cni", count, pods @ ..] => cni::run(count.parse()?, pods),
        _ => bail!("no such generator"),
    }
}

fn addresses(words: &[&str]) -> Result<Vec<SocketAddr>> {
    words.iter().map(|word| word.parse().with_context(|| format!("address {word}"))).collect()
}

/// Says `ready`, and answers lines until the input ends.
fn converse(mut answer: impl FnMut(&str) -> Result<Value>) -> Result<()> {
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        let answered = answer(line?.trim())?;
        say(&answered.to_string())?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

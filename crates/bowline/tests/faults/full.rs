//! Connection tracking is full on a node, or the map in which rules remember clients: what policies deny stays denied, what a change closes is cut,
//! what was there lives on, and what is new comes again when there is room, or comes without being remembered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster::cluster_ip;
use crate::common::generator::{Generator, counts, number, once_in_pod};
use crate::common::lab::{Lab, eventually, said, within};
use crate::common::objects::{PORT, idle, ingress_policy, server, service};
use crate::common::rows::{Bench, Skipped};
use crate::restarts::{at, named, nothing_through};

/// The server talks every 20 ms, and datagrams are answered at once: this long without a word is the end.
pub(crate) const SILENCE_MS: u64 = 500;
/// Within which what is no longer allowed has to fall silent, on a node whose agent has a quarter of a million entries to look over.
const WITHIN: Duration = Duration::from_secs(15);
/// How it is told, and within which time it is over.
const FULL: u16 = 1222;
const OVER: Duration = Duration::from_secs(90);
/// Counts packets for whose connection there is no room.
const LOST: &str = "bowline_conntrack_dropped_packets_total";
/// Probes after which nothing that has come through will.
const ENOUGH: u64 = 300;

const PODS: [&str; 8] = ["full-server", "full-denied", "full-open", "full-client", "full-friend", "full-young", "prober1", "prober3"];

/// What fills whole tables of the kernel keeps a machine of two cores so busy that neither it nor what runs beside it keeps its times.
pub(crate) fn only_long(bench: &Bench) -> Result<()> {
    if bench.long { Ok(()) } else { Err(Skipped("takes the whole machine: only with --long (make long)".into()).into()) }
}

/// A stream and datagrams of one pod to the server.
pub(crate) struct Talk([Generator; 2]);

impl Talk {
    pub(crate) fn begin(lab: &Lab, pod: &str, at: &str) -> Result<Talk> {
        Ok(Talk([Generator::in_pod(lab, pod, &["follow", at])?, Generator::in_pod(lab, pod, &["datagrams", "full", "2000", at])?]))
    }

    /// Where its datagrams come from.
    fn port(&mut self) -> Result<u64> {
        number(&self.0[1].ask("?")?[0], "port")
    }

    /// Milliseconds since the server was heard by either way, and how often it was.
    pub(crate) fn heard(&mut self) -> Result<[(u64, u64); 2]> {
        let [stream, datagrams] = &mut self.0;
        let (stream, datagrams) = (stream.ask("?")?, datagrams.ask("?")?);
        let stream = (number(&stream, "sinceMs")?, number(&stream, "messages")?);
        Ok([stream, (number(&datagrams[0], "sinceAnswerMs")?, number(&datagrams[0], "answered")?)])
    }

    pub(crate) fn goes_on(&mut self) -> Result<()> {
        let before = self.heard()?;
        eventually(|| {
            let heard = self.heard()?;
            let more = heard.iter().zip(&before).all(|((_, count), (_, before))| count > &(before + 10));
            ensure!(more && heard.iter().all(|(since, _)| *since < SILENCE_MS), "not heard: {heard:?}, after {before:?}");
            Ok(())
        })
    }

    /// After the cut: on a node that has so much to do, silence before it may be a pause. That the node is full, by this code, is known.
    pub(crate) fn falls_silent(&mut self, lab: &Lab, full: u16) -> Result<[(u64, u64); 2]> {
        lab.cut_beside(&[full])?;
        eventually(|| {
            let heard = self.heard()?;
            ensure!(heard.iter().all(|(since, _)| *since > SILENCE_MS), "still heard: {heard:?}");
            Ok(heard)
        })
    }
}

pub(crate) fn of_connections(bench: &Bench) -> Result<String> {
    only_long(bench)?;
    let lab = bench.lab()?;
    lab.apply_objects(&[ingress_policy("full-denied", "full-denied", None)])?;
    lab.apply_objects(&[
        server("full-server", "n3", "full")?,
        server("full-denied", "n3", "full-denied")?,
        server("full-open", "n3", "full-open")?,
        idle("full-client", "n1", "full-client")?,
        idle("full-friend", "n1", "full-friend")?,
        idle("full-young", "n1", "full-young")?,
        idle("prober1", "n1", "prober")?,
        idle("prober3", "n3", "prober")?,
    ])?;
    lab.settled()?;
    let mut told = Vec::new();
    for round in 0..bench.figure(1, 6) {
        told.push(one_round(lab, round).with_context(|| format!("round {round}"))?);
    }
    is_over(lab)?;
    let arrived = counts(lab, "full-denied", "probe")?;
    ensure!(arrived == 0, "{arrived} datagrams arrived at the denied pod");
    lab.delete("pod", &PODS)?;
    lab.delete("networkpolicy", &["full-denied"])?;
    let (tried, slowest): (Vec<u64>, Vec<u128>) = told.iter().map(|round| (round.tried, round.silent.as_millis())).unzip();
    let last = told.last().context("no rounds")?;
    Ok(format!(
        "{} of {} entries on n3: 0 of {} denied datagrams and SYNs let through, what a change closed silent after {} ms at most{}, a friend's lived \
         on, and what is open was open again",
        last.entries,
        last.room,
        tried.iter().sum::<u64>(),
        slowest.iter().max().unwrap_or(&0),
        if last.young { " (a connection unknown to the table among it)" } else { "" },
    ))
}

struct Told {
    tried: u64,
    entries: u64,
    room: u64,
    silent: Duration,
    /// A connection that connection tracking knew nothing of was cut as well.
    young: bool,
}

fn one_round(lab: &Lab, round: usize) -> Result<Told> {
    let v6 = round % 2 == 1;
    let target = |app: &str, name: &str| at(&named(lab, app, name)?, v6);
    let (server, open, denied) =
        (target("full", "full-server")?, target("full-open", "full-open")?, named(lab, "full-denied", "full-denied")?);
    let denied = [at(&denied, false)?, at(&denied, true)?];
    let (mut client, mut friend) = (Talk::begin(lab, "full-client", &server)?, Talk::begin(lab, "full-friend", &server)?);
    client.goes_on().context("the client, before")?;
    friend.goes_on().context("the friend, before")?;
    are_assured(lab, &server, &[client.port()?, friend.port()?])?;
    let lost = lab.metric("n3", LOST)?;
    let words = ["probe", &denied[0], &denied[1]];
    let mut probes = [Generator::in_pod(lab, "prober1", &words)?, Generator::in_pod(lab, "prober3", &words)?];

    let mut filler = Generator::on_node(lab, "n3", &["fill"])?;
    let filled = filler.ask("+")?;
    // What nobody denies does not get in either: it is full indeed. Once in a while the kernel gives up the place of one that has no answer.
    for probe in &mut probes {
        eventually(|| {
            probe.ask(&format!("+{open}"))?;
            let tried = eventually(|| {
                let seen = &probe.ask("?")?[&open];
                ensure!(number(seen, "tried")? > ENOUGH, "too few probes yet: {seen}");
                Ok(())
            });
            let seen = probe.ask(&format!("-{open}"))?;
            ensure!(number(&seen, "through")? == 0, "there is room for new connections: {seen}");
            tried
        })?;
    }
    let mut young = if lab.setup.is_ebpf() { Some(unknown(lab, &server, &mut filler)?) } else { None };
    client.goes_on().context("the client, while it is full")?;
    is_told(lab)?;
    friend.goes_on().context("the friend, while it is full")?;

    lab.apply_objects(&[ingress_policy("full", "full", Some("full-friend"))])?;
    let begun = Instant::now();
    let last = client.falls_silent(lab, FULL)?;
    if let Some(young) = &mut young {
        eventually(|| {
            let seen = young.ask("?")?;
            ensure!(number(&seen, "sinceMs")? > SILENCE_MS, "a connection that the table does not know is still heard: {seen}");
            Ok(())
        })?;
    }
    let silent = begun.elapsed().saturating_sub(Duration::from_millis(SILENCE_MS));
    ensure!(silent < WITHIN, "silent only after {} ms", silent.as_millis());
    friend.goes_on().context("the friend, after the change")?;
    let still = filler.ask("?")?;

    filler.finish().context("emptying the table")?;
    // Not before: whoever asks a node that is full is a new connection as well.
    let counted = lab.metric("n3", LOST)? - lost;
    ensure!(counted > ENOUGH, "{counted} packets counted, fewer than there were probes");
    for probe in &mut probes {
        probe.ask(&format!("+{open}"))?;
        eventually(|| {
            let seen = &probe.ask("?")?[&open];
            ensure!(number(seen, "through")? > 10, "no new connection to a pod that is open, since there is room: {seen}");
            Ok(())
        })?;
        probe.ask(&format!("-{open}"))?;
    }
    friend.goes_on().context("the friend, when there is room")?;
    let again = client.heard()?;
    ensure!(again.map(|(_, count)| count) == last.map(|(_, count)| count), "heard again: {again:?}, after {last:?}");
    let mut tried = 0;
    for probe in probes {
        tried += nothing_through(&probe.finish()?)?;
    }
    ensure!(tried > ENOUGH, "only {tried} probes");
    drop((client, friend));
    lab.delete("networkpolicy", &["full"])?;
    lab.settled_beside(&[FULL])?;
    Ok(Told { tried, entries: number(&still, "entries")?, room: number(&filled, "room")?, silent, young: young.is_some() })
}

/// The kernel gives up the entry of a UDP flow for a new one until it has seen answers for two seconds, so that nobody could tell what ended it.
fn are_assured(lab: &Lab, server: &str, from: &[u64]) -> Result<()> {
    let server: SocketAddr = server.parse()?;
    let family = if server.is_ipv6() { "ipv6" } else { "ipv4" };
    let (address, port) = (server.ip().to_string(), server.port().to_string());
    let words = ["conntrack", "-L", "-f", family, "-p", "udp", "-d", address.as_str(), "--dport", port.as_str()];
    eventually(|| {
        let entries = said(&lab.node("n3", &words)?).context("the table of n3")?;
        let assured =
            |port: &&u64| entries.lines().any(|line| line.contains("[ASSURED]") && line.contains(&format!(" sport={port} dport=")));
        let count = from.iter().filter(assured).count();
        ensure!(count == from.len(), "{count} of the flows from {from:?} to the server are assured: {entries}");
        Ok(())
    })
}

/// Problems of n3.
fn problems(lab: &Lab) -> Result<Vec<Value>> {
    let status = lab.status()?;
    let node = status["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n3").context("n3 is silent")?;
    node["problems"].as_array().cloned().context("no problems")
}

/// The agent says that the table is full.
fn is_told(lab: &Lab) -> Result<()> {
    eventually(|| {
        let problems = problems(lab)?;
        let why = problems.iter().find(|problem| problem["code"] == FULL).and_then(|problem| problem["why"].as_str());
        let (entries, rest) = why.and_then(|why| why.split_once(" of ")).with_context(|| format!("it is not told: {problems:?}"))?;
        let max = rest.split(' ').next().unwrap_or_default();
        ensure!(entries.parse::<u64>()? >= max.parse()?, "{entries} of {max} entries where the table is full");
        Ok(())
    })
}

/// A minute after there is room again, it says so no more.
fn is_over(lab: &Lab) -> Result<()> {
    within(OVER, || {
        let problems = problems(lab)?;
        ensure!(problems.is_empty(), "still told: {problems:?}");
        Ok(())
    })
}

/// A connection that began without the stack, and that connection tracking of n3 had no room for when it was to be told of it.
fn unknown(lab: &Lab, server: &str, filler: &mut Generator) -> Result<Generator> {
    let own = named(lab, "full-young", "full-young")?.ip(server.starts_with('['))?;
    eventually(|| {
        // One like it, by the stack; then it, by the programs; then it is full again.
        filler.ask("-200")?;
        once_in_pod(lab, "full-young", &["call", "tcp", "3", server])?;
        let mut young = Generator::in_pod(lab, "full-young", &["follow", server])?;
        filler.ask("+")?;
        // The agent tells of what has lived for a second; here it cannot.
        eventually(|| {
            let seen = young.ask("?")?;
            ensure!(number(&seen, "messages")? > 100, "young yet: {seen}");
            Ok(())
        })?;
        let seen: Value = young.ask("?")?;
        let port = number(&seen, "port")?.to_string();
        let family = if own.is_ipv6() { "ipv6" } else { "ipv4" };
        let own = own.to_string();
        let words = ["conntrack", "-L", "-f", family, "-p", "tcp", "-s", own.as_str(), "--sport", port.as_str()];
        let entries = said(&lab.node("n3", &words)?).context("the table of n3")?;
        ensure!(entries.is_empty(), "it was told in time: {entries}");
        ensure!(number(&seen, "sinceMs")? < SILENCE_MS, "it does not go on: {seen}");
        Ok(young)
    })
}

/// Seconds for which clients are remembered: no other service has as many, so that the map is this row's.
const REMEMBERED_S: u32 = 4321;
/// Calls of which at least one goes to the other of two endpoints where nobody is remembered: but for one chance in 2^39.
const CALLS: &str = "40";

/// Adds clients of nobody (RFC 2544, RFC 5737) to a map until it takes none, and says how many there were.
const FILL: &str = r#"
    clients() { awk -v map=$1 -v first=$2 -v count=$3 'BEGIN {
        printf "add element inet bowline %s { ", map
        for (i = first; i < first + count; i++)
            printf "198.%d.%d.%d . 198.51.100.1 . udp . 9 : 198.51.100.2 . 9, ", 18 + int(i / 65536), int(i / 256) % 256, i % 256
        print "}" }'; }
    n=0
    for step in 16384 512 16 1; do
        while clients $1 $n $step | nft -f - 2>/dev/null; do n=$((n + step)); done
    done
    echo $n"#;

/// A service whose clients are remembered.
fn sticky(name: &str, app: &str) -> Value {
    let mut service = service(name, app, None);
    service["spec"]["sessionAffinity"] = json!("ClientIP");
    service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": REMEMBERED_S}});
    service
}

pub(crate) fn of_clients(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let pods = ["sticky-one", "sticky-two", "sticky-denied", "sticky-client", "sticky-late", "prober1", "prober3"];
    lab.apply_objects(&[
        ingress_policy("sticky-denied", "sticky-denied", None),
        sticky("sticky", "sticky"),
        sticky("sticky-denied", "sticky-denied"),
    ])?;
    lab.apply_objects(&[
        server("sticky-one", "n2", "sticky")?,
        server("sticky-two", "n3", "sticky")?,
        server("sticky-denied", "n3", "sticky-denied")?,
        idle("sticky-client", "n3", "sticky-client")?,
        idle("sticky-late", "n3", "sticky-late")?,
        idle("prober1", "n1", "prober")?,
        idle("prober3", "n3", "prober")?,
    ])?;
    lab.settled()?;
    let by_service = |name| anyhow::Ok(SocketAddr::new(cluster_ip(lab, name, "default", false)?, PORT).to_string());
    let (open, denied) = (by_service("sticky")?, by_service("sticky-denied")?);
    let endpoints = |pod| -> Result<usize> {
        let called = once_in_pod(lab, pod, &["call", "udp", CALLS, &open])?;
        Ok(called["by"].as_object().context("nobody answered")?.len())
    };
    ensure!(endpoints("sticky-client")? == 1, "clients are not remembered");
    let mut probes = [Generator::in_pod(lab, "prober1", &["probe", &denied])?, Generator::in_pod(lab, "prober3", &["probe", &denied])?];
    let mut made = Vec::new();
    for node in ["n1", "n3"] {
        let said = said(&lab.node(node, &["sh", "-c", FILL, "sh", &format!("aff4_{REMEMBERED_S}")])?).context("filling the map")?;
        made.push(said.trim().parse::<u64>().context(said)?);
    }
    // Who was remembered is, who comes late is not, and both are served.
    ensure!(endpoints("sticky-client")? == 1, "a client that was remembered is not any more");
    ensure!(endpoints("sticky-late")? == 2, "a client was remembered in a map that is full");
    // Probes from ports that were not used before, each for as long as it takes that something would come.
    let mut tried = 0;
    for probe in &mut probes {
        tried += nothing_through(&probe.ask("?")?)?;
        probe.ask(&format!("-{denied}"))?;
        probe.ask(&format!("+{denied}"))?;
        eventually(|| {
            let seen = &probe.ask("?")?[&denied];
            ensure!(number(seen, "tried")? > ENOUGH, "too few probes yet: {seen}");
            Ok(())
        })?;
        tried += nothing_through(&probe.ask("?")?)?;
    }
    let arrived = counts(lab, "sticky-denied", "probe")?;
    ensure!(arrived == 0, "{arrived} datagrams arrived at the denied pod");
    lab.delete("networkpolicy", &["sticky-denied"])?;
    for probe in &mut probes {
        eventually(|| {
            let seen = &probe.ask("?")?[&denied];
            ensure!(number(seen, "through")? > 10, "few probes of what nobody denies any more come through: {seen}");
            Ok(())
        })?;
    }
    // With its services the map goes, and what it held.
    lab.delete("service", &["sticky", "sticky-denied"])?;
    lab.delete("pod", &pods)?;
    lab.settled()?;
    Ok(format!(
        "{} clients and more in the map of n1 and of n3: 0 of {tried} denied datagrams and SYNs let through, one who came late served by both endpoints",
        made.iter().min().unwrap_or(&0)
    ))
}

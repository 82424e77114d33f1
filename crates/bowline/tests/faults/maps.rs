//! The BPF maps are full, all that can be: what policies deny stays denied, by a service that has no place in them as well, what a change closes is
//! cut, and what is allowed goes on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster::cluster_ip;
use crate::common::generator::{Generator, counts, number, unbroken};
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::{NODES, PORT, idle, ingress_policy, server, service, wide};
use crate::common::rows::Bench;
use crate::full::{Talk, only_long};
use crate::restarts::{at, named, nothing_through};

/// As small as they can be made; of connections that began without the stack there is room for half of `carried`.
const SMALL: &str = "{carried: 1024, frontends: 1024, endpoints: 1024, live: 1024, peers: 1024, flows: 1024}";
/// Services of so many ports: 2,000 frontends in two families. Three in five have two endpoints, 2,400 in all and 1,200 of them by UDP; the others have none.
const SERVICES: usize = 50;
const PORTS: u16 = 20;
/// Connections of each of two clients, three in four of them by a service, and milliseconds between two requests on each.
const CONNECTIONS: &str = "500";
const PAUSE_MS: &str = "1000";
/// How it is told that the maps are full.
const FULL: u16 = 1314;
/// Within which what is no longer allowed has to fall silent.
const WITHIN: Duration = Duration::from_secs(5);

const PODS: [&str; 9] =
    ["maps-one", "maps-two", "maps-denied", "maps-client", "maps-near", "maps-friend1", "maps-friend2", "prober1", "prober3"];

fn name(number: usize) -> String {
    format!("maps-{number:03}")
}

/// Starts all agents anew with maps of these sizes.
fn sizes(lab: &Lab, sizes: &str) -> Result<()> {
    let script = format!("sed -i -e '1i mapSizes: {sizes}' -e '/^mapSizes: /d' /etc/bowline/agent.yaml");
    for node in NODES {
        lab.agent("stop", node)?;
        said(&lab.node(node, &["sh", "-c", &script])?).context("the agent's settings")?;
        lab.agent("start", node)?;
    }
    Ok(())
}

pub(crate) fn all_full(bench: &Bench) -> Result<String> {
    only_long(bench)?;
    let lab = bench.lab()?;
    sizes(lab, SMALL)?;
    lab.settled()?;
    let seen = filled_up(lab, bench.figure(1, 5));
    // Whatever was found, the lab is left as it was.
    let services: Vec<String> = (0..SERVICES).map(name).chain(["maps".to_owned(), "maps-denied".to_owned()]).collect();
    let words = ["delete", "service", "--ignore-not-found", "--wait=false"];
    lab.kubectl(&words.into_iter().chain(services.iter().map(String::as_str)).collect::<Vec<_>>())?;
    lab.delete("networkpolicy", &["maps", "maps-denied"])?;
    lab.delete("pod", &PODS)?;
    sizes(lab, "{}")?;
    lab.settled()?;
    seen
}

fn filled_up(lab: &Lab, rounds: usize) -> Result<String> {
    lab.apply_objects(&[ingress_policy("maps-denied", "maps-denied", None), service("maps", "maps", None)])?;
    lab.apply_objects(&[
        server("maps-one", "n3", "maps")?,
        server("maps-two", "n1", "maps")?,
        server("maps-denied", "n3", "maps-denied")?,
        idle("maps-client", "n1", "maps-client")?,
        idle("maps-near", "n3", "maps-client")?,
        idle("maps-friend1", "n1", "maps-friend")?,
        idle("maps-friend2", "n1", "maps-friend")?,
        idle("prober1", "n1", "prober")?,
        idle("prober3", "n3", "prober")?,
    ])?;
    lab.settled()?;
    lab.apply_objects(
        &(0..SERVICES).map(|number| wide(&name(number), if number % 5 < 3 { "maps" } else { "nobody" }, PORTS)).collect::<Vec<_>>(),
    )?;
    let full = eventually(|| {
        let mut told = Vec::new();
        for node in NODES {
            for map in ["frontends", "endpoints", "live"] {
                let count = |what: &str| lab.metric(node, &format!("bowline_socket_map_entries{what}{{map=\"{map}\"}}"));
                let (entries, room) = (count("")?, count("_max")?);
                // Frontends whose endpoints do not fit stay out, so that not every one of these maps is full to the last place.
                ensure!(room == 1024 && entries > 900, "{node}: {entries} of {room} {map}");
                told.push(entries);
            }
            ensure!(lab.metric(node, "bowline_socket_frontends_left_out")? > 0, "{node}: all services fit");
        }
        Ok(told.iter().min().copied().unwrap_or(0))
    })?;
    // It came last, and has no place.
    lab.apply_objects(&[service("maps-denied", "maps-denied", None)])?;
    lab.settled_beside(&[FULL])?;
    let denied = named(lab, "maps-denied", "maps-denied")?;
    let mut targets = vec![at(&denied, false)?, at(&denied, true)?];
    for v6 in lab.families() {
        targets.push(SocketAddr::new(cluster_ip(lab, "maps-denied", "default", v6)?, PORT).to_string());
    }
    let words: Vec<&str> = ["probe"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let mut probes = [Generator::in_pod(lab, "prober1", &words)?, Generator::in_pod(lab, "prober3", &words)?];
    let (mut requests, mut slowest, mut known, mut no_room) = (0, Duration::ZERO, 0, 0);
    for _ in 0..rounds {
        let round = one_round(lab)?;
        (requests, slowest) = (requests + round.requests, slowest.max(round.silent));
        (known, no_room) = (known.max(round.known), no_room + round.no_room);
    }
    let mut tried = 0;
    for probe in &mut probes {
        tried += nothing_through(&probe.ask("?")?)?;
    }
    let arrived = counts(lab, "maps-denied", "probe")?;
    ensure!(arrived == 0, "{arrived} datagrams arrived at the denied pod");
    // Without the policy the same probes come through.
    lab.delete("networkpolicy", &["maps-denied"])?;
    for probe in &mut probes {
        eventually(|| {
            let seen = probe.ask("?")?;
            for target in &targets {
                ensure!(number(&seen[target], "through")? > 10, "few probes of {target} come through: {seen}");
            }
            Ok(())
        })?;
    }
    Ok(format!(
        "{full} of 1024 elements and more in each map of services, {known} of 1024 flows, {no_room} connections without room: 0 of {tried} denied \
         datagrams and SYNs let through, what a change closed silent after {} ms at most, 0 of {} connections broke ({requests} requests)",
        slowest.as_millis(),
        rounds * 2 * CONNECTIONS.parse::<usize>()?
    ))
}

struct Round {
    requests: u64,
    silent: Duration,
    /// Flows that the fast path knew of, at most, and connections that it had no room for.
    known: u64,
    no_room: u64,
}

fn one_round(lab: &Lab) -> Result<Round> {
    let direct = at(&named(lab, "maps", "maps-one")?, false)?;
    let by_service = |v6| anyhow::Ok(SocketAddr::new(cluster_ip(lab, "maps", "default", v6)?, PORT).to_string());
    let (v4, v6) = (by_service(false)?, by_service(true)?);
    let no_room = |node| lab.metric(node, "bowline_fastpath_no_room_total");
    let before = no_room("n1")? + no_room("n3")?;
    // Without agents nobody tells connection tracking of what begins without it: their map fills up.
    for node in ["n1", "n3"] {
        lab.agent("kill", node)?;
    }
    let mut talks = [Talk::begin(lab, "maps-client", &direct)?, Talk::begin(lab, "maps-near", &direct)?];
    let words = ["streams", CONNECTIONS, PAUSE_MS, &v4, &v6, &v4, &direct];
    let mut friends = [Generator::in_pod(lab, "maps-friend1", &words)?, Generator::in_pod(lab, "maps-friend2", &words)?];
    for node in ["n1", "n3"] {
        lab.agent("start", node)?;
    }
    lab.settled_beside(&[FULL])?;
    let (known, no_room) = eventually(|| {
        let known = lab.metric("n1", "bowline_fastpath_entries")?;
        let no_room = no_room("n1")? + no_room("n3")? - before;
        ensure!(no_room > 0 && known > 512, "{known} flows are known, {no_room} connections had no room");
        Ok((known, no_room))
    })?;
    for talk in &mut talks {
        talk.goes_on()?;
    }
    lab.apply_objects(&[ingress_policy("maps", "maps", Some("maps-friend"))])?;
    let begun = Instant::now();
    let mut last = Vec::new();
    for talk in &mut talks {
        last.push(talk.falls_silent(lab, FULL)?);
    }
    let silent = begun.elapsed().saturating_sub(Duration::from_millis(crate::full::SILENCE_MS));
    ensure!(silent < WITHIN, "silent only after {} ms", silent.as_millis());
    let count = |report: &Value| number(report, "requests");
    for friend in &mut friends {
        let there = count(&friend.ask("?")?)?;
        eventually(|| {
            let seen = friend.ask("?")?;
            ensure!(seen["broken"] == json!([]) && count(&seen)? > there + 1000, "a friend's connections: {seen}");
            Ok(())
        })?;
    }
    for (talk, last) in talks.iter_mut().zip(last) {
        let again = talk.heard()?;
        ensure!(again.map(|(_, count)| count) == last.map(|(_, count)| count), "heard again: {again:?}, after {last:?}");
    }
    let mut requests = 0;
    for friend in friends {
        requests += unbroken(&friend.finish()?)?.0;
    }
    lab.delete("networkpolicy", &["maps"])?;
    Ok(Round { requests, silent, known, no_room })
}

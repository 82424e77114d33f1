//! What policies deny is told with the names of both ends, the policy and the direction, and counted to the packet: real packets, a flood
//! among them, over a change of the policy and a kill of the agent.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::common::cluster;
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually, said, within};
use crate::common::objects::{PORT, cluster_policy, idle, ingress_policy, no_egress_policy, pods_of, server};
use crate::common::rows::Bench;
use crate::common::stations;
use crate::common::wire::{Ends, Mac, hex, udp};

/// A denied connection is told within this.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// Datagrams of the flood, and how many go between two questions whether they went: more at once would not pass the link.
const FLOOD: u64 = 20_000;
const AT_ONCE: u64 = 200;

/// Ports that are tried one after the other, each a flow.
const SCANNED: u64 = 500;

/// Lines that a flood of one flow may make: its first packet, and a sum every ten seconds.
const LINES_MAX: usize = 6;

const PODS: [&str; 3] = ["dn-server", "dn-client", "dn-friend"];

pub(crate) fn told_and_counted(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        server("dn-server", "n2", "dn-server")?,
        idle("dn-client", "n1", "dn-client")?,
        idle("dn-friend", "n1", "dn-friend")?,
    ])?;
    lab.apply_objects(&[ingress_policy("dn-in", "dn-server", Some("dn-friend"))])?;
    lab.settled()?;
    let mut slowest = Duration::ZERO;
    for v6 in lab.families() {
        let stage = Stage::set(lab, v6)?;
        slowest = slowest.max(stage.connections()?);
    }
    let stage = Stage::set(lab, false)?;
    let lines = stage.datagrams()?;
    stage.cluster_policy()?;
    stage.egress()?;
    lab.delete("pod", &PODS)?;
    let ms = slowest.as_millis();
    Ok(format!("told within {ms} ms by both names; 20 and {FLOOD} datagrams counted as that, the flood in {lines} lines; allowed: none"))
}

struct Stage<'l> {
    lab: &'l Lab,
    at: SocketAddr,
    client: IpAddr,
    /// Of the client's link: its own, and its node's.
    stations: (Mac, Mac),
}

/// The metric's series.
fn series(policy: &str, direction: &str, reason: &str) -> String {
    format!("bowline_policy_denied_packets_total{{policy=\"{policy}\",direction=\"{direction}\",reason=\"{reason}\"}} ")
}

fn count(lab: &Lab, node: &str, series: &str) -> Result<u64> {
    let page = lab.metrics(node)?;
    let found = page.lines().find_map(|line| line.strip_prefix(series)).with_context(|| format!("no {series} at {node}"))?;
    Ok(found.trim().parse()?)
}

/// Lines of all logs in which all of this is said.
fn lines(lab: &Lab, words: &[&str]) -> Result<Vec<String>> {
    let logs = said(&lab.run(&["lab", "logs"], &[])?).context("no logs")?;
    let told = logs.lines().filter(|line| line.contains(" denied ") && words.iter().all(|word| line.contains(word)));
    Ok(told.map(str::to_owned).collect())
}

/// Waits for a line beyond those that were there.
fn line_beyond(lab: &Lab, words: &[&str], before: usize) -> Result<String> {
    within(TOLD_WITHIN + Duration::from_secs(8), || {
        lines(lab, words)?.into_iter().nth(before).with_context(|| format!("no line says {words:?}"))
    })
}

impl<'l> Stage<'l> {
    fn set(lab: &'l Lab, v6: bool) -> Result<Stage<'l>> {
        let ip = |app: &str| cluster::pods(lab, &format!("app={app}"))?.first().map(|pod| pod.ip(v6)).transpose()?.context("a pod");
        let stations = (stations::of_pod(lab, "dn-client")?, stations::gateway_of(lab, "dn-client")?);
        Ok(Stage { lab, at: SocketAddr::new(ip("dn-server")?, PORT), client: ip("dn-client")?, stations })
    }

    /// A connection that is denied is told by its names; one that is allowed is not told at all.
    fn connections(&self) -> Result<Duration> {
        let lab = self.lab;
        let (mut client, mut friend) = (Generator::in_pod(lab, "dn-client", &["knock"])?, Generator::in_pod(lab, "dn-friend", &["knock"])?);
        eventually(|| {
            ensure!(friend.ask(&self.at.to_string())? == json!(true), "the friend does not get in");
            Ok(())
        })?;
        let (source, address) = ("source=\"default/dn-client\"", format!("source_address={} ", self.client));
        let began = Instant::now();
        client.say(&self.at.to_string())?;
        let line = line_beyond(lab, &[source, &address], 0)?;
        let took = began.elapsed();
        ensure!(client.hear()? == json!(false), "the client gets in");
        let to = format!("destination=\"default/dn-server\" destination_address={} port={PORT} protocol=\"TCP\"", self.at.ip());
        for words in ["direction=\"ingress\"", &to, "policy=\"default/dn-in\"", "reason=\"no rule allows it\"", "packets=1"] {
            ensure!(line.contains(words), "`{words}` is not in {line}");
        }
        ensure!(took < TOLD_WITHIN, "it took {} ms to tell", took.as_millis());
        ensure!(lines(lab, &["dn-friend"])?.is_empty(), "a connection that is allowed is told");
        Ok(took)
    }

    /// Counts are exact, whatever is told, and go on over a change of the policy and a kill of the agent; gives the lines of a flood.
    fn datagrams(&self) -> Result<usize> {
        let lab = self.lab;
        let counted = || count(lab, "n2", &series("default/dn-in", "ingress", "no-rule"));
        let is = |wanted: u64| {
            eventually(|| {
                let seen = counted()?;
                ensure!(seen == wanted, "counted {seen} instead of {wanted}");
                Ok(())
            })
        };
        let mut sender = self.sender()?;
        let start = counted()?;
        sender.send(20)?;
        is(start + 20)?;
        let flow = ["source=\"default/dn-client\"", "protocol=\"UDP\"", "policy=\"default/dn-in\""];
        sender.send(FLOOD)?;
        is(start + 20 + FLOOD)?;
        std::thread::sleep(Duration::from_secs(1));
        let told = lines(lab, &flow)?.len();
        ensure!((1..=LINES_MAX).contains(&told), "{told} lines for one flow");
        self.scan(&counted)?;
        let start = start + SCANNED;
        // Rules that are replaced, and an agent that begins anew.
        lab.apply_objects(&[ingress_policy("dn-in", "dn-server", Some("dn-nobody"))])?;
        lab.settled()?;
        is(start + 20 + FLOOD)?;
        sender.send(3)?;
        lab.agent("kill", "n2")?;
        sender.send(4)?;
        lab.agent("start", "n2")?;
        lab.settled()?;
        is(start + 27 + FLOOD)?;
        let status = lab.status()?;
        let n2 = status["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n2").context("no n2")?;
        let shown = json!({"policy": "default/dn-in", "direction": "ingress", "reason": "no-rule", "packets": start + 27 + FLOOD});
        ensure!(n2["denied"].as_array().is_some_and(|all| all.contains(&shown)), "not in the status: {}", n2["denied"]);
        Ok(told)
    }

    /// Many flows at once are counted to the packet as well, and few of them told.
    fn scan(&self, counted: &dyn Fn() -> Result<u64>) -> Result<()> {
        let (before, told_before) = (counted()?, lines(self.lab, &["policy=\"default/dn-in\""])?.len());
        let began = Instant::now();
        let mut sender = self.sender()?;
        for port in 10_000..10_000 + u16::try_from(SCANNED)? {
            sender.frame = self.frame(port);
            sender.send(1)?;
        }
        eventually(|| {
            let seen = counted()? - before;
            ensure!(seen == SCANNED, "counted {seen} of {SCANNED} ports");
            Ok(())
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let told = lines(self.lab, &["policy=\"default/dn-in\""])?.len() - told_before;
        let most = 60 + 5 * usize::try_from(began.elapsed().as_secs())?;
        ensure!((1..=most).contains(&told), "{told} lines for {SCANNED} flows, {most} at most");
        Ok(())
    }

    /// A rule of the Admin tier is named, and counted under its policy.
    fn cluster_policy(&self) -> Result<()> {
        let lab = self.lab;
        let rule = json!({"name": "no-client", "action": "Deny", "from": [{"pods": pods_of("dn-client")}]});
        let before = lines(lab, &["policy=\"dn-guard\""])?.len();
        lab.apply_objects(&[cluster_policy("dn-guard", ("Admin", 10), "dn-server", json!({"ingress": [rule]}))])?;
        lab.settled()?;
        let counted = || count(lab, "n2", &series("dn-guard", "ingress", "admin-tier"));
        ensure!(counted()? == 0, "counted before anything was sent");
        self.sender()?.send(20)?;
        eventually(|| {
            ensure!(counted()? == 20, "counted {} of 20", counted()?);
            Ok(())
        })?;
        let line = line_beyond(lab, &["policy=\"dn-guard\"", "source=\"default/dn-client\""], before)?;
        for words in
            ["rule=\"ingress[0] `no-client`\"", "reason=\"a rule of the Admin tier denies it\"", "destination=\"default/dn-server\""]
        {
            ensure!(line.contains(words), "`{words}` is not in {line}");
        }
        lab.delete("clusternetworkpolicy", &["dn-guard"])?;
        lab.delete("networkpolicy", &["dn-in"])
    }

    /// What a pod may not send is told and counted where it is sent.
    fn egress(&self) -> Result<()> {
        let lab = self.lab;
        // The generator looks for its link with a datagram of its own.
        let mut sender = self.sender()?;
        lab.apply_objects(&[no_egress_policy("dn-out", "dn-client")])?;
        lab.settled()?;
        sender.send(5)?;
        let line = line_beyond(lab, &["policy=\"default/dn-out\"", "source=\"default/dn-client\""], 0)?;
        ensure!(line.contains("direction=\"egress\"") && line.contains("destination=\"default/dn-server\""), "{line}");
        eventually(|| {
            let seen = count(lab, "n1", &series("default/dn-out", "egress", "no-rule"))?;
            ensure!(seen == 5, "counted {seen} of 5");
            Ok(())
        })?;
        lab.delete("networkpolicy", &["dn-out"])
    }

    /// Datagrams of the client to the server's port.
    fn sender(&self) -> Result<Sender> {
        Ok(Sender { frames: Generator::in_pod(self.lab, "dn-client", &["frames"])?, frame: self.frame(PORT) })
    }

    /// A datagram to a port of the server.
    fn frame(&self, port: u16) -> String {
        hex(&udp(
            Ends { station: self.stations.0, to_station: self.stations.1, src: self.client, dst: self.at.ip() },
            4444,
            port,
            b"denied",
        ))
    }
}

struct Sender {
    frames: Generator,
    frame: String,
}

impl Sender {
    fn send(&mut self, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let now = left.min(AT_ONCE);
            ensure!(self.frames.ask(&format!("{now} {}", self.frame))? == json!(now), "not sent");
            left -= now;
        }
        Ok(())
    }
}

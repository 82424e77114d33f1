//! Every way in which a change can close: a stream and datagrams that it no longer allows fall silent, those of a friend go on.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::cluster;
use crate::common::generator::{Generator, number};
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::{PORT, cluster_policy, idle, ingress_policy, no_egress_policy, pod, pods_of};
use crate::common::rows::Bench;

/// Milliseconds after which datagrams are answered: answers are always on their way.
const LATE_MS: u64 = 200;
/// The server talks every 20 ms: this long without a word is the end.
const SILENCE_MS: u64 = 700;
/// Within which what is no longer allowed has to fall silent.
const WITHIN: Duration = Duration::from_secs(2);
const PODS: [&str; 3] = ["cl-server", "cl-client", "cl-friend"];

/// What closes.
type Close = Box<dyn Fn(&Lab) -> Result<()>>;

/// One way to close: what is there before, and what closes.
struct Closing {
    name: &'static str,
    before: Vec<Value>,
    close: Close,
}

/// A policy about the server that lets in the friend, and whom this rule names.
fn policy(rule: Option<Value>) -> Value {
    let mut rules = vec![json!({"from": [{"podSelector": {"matchLabels": {"app": "cl-friend"}}}]})];
    rules.extend(rule);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "cl"},
        "spec": {"podSelector": {"matchLabels": {"app": "cl-server"}}, "policyTypes": ["Ingress"], "ingress": rules},
    })
}

fn tier(action: &str) -> Value {
    cluster_policy("cl", ("Admin", 7), "cl-server", json!({"ingress": [{"action": action, "from": [{"pods": pods_of("cl-client")}]}]}))
}

fn ports(port: Value) -> Vec<Value> {
    ["TCP", "UDP"].iter().map(|protocol| json!({"protocol": protocol, "port": port})).collect()
}

/// All ways, for a client with this address.
fn closings(client: std::net::IpAddr) -> Vec<Closing> {
    let by_pod = json!({"podSelector": {"matchLabels": {"app": "cl-client"}}});
    let block = |cidr: String, except: Vec<String>| json!({"from": [{"ipBlock": {"cidr": cidr, "except": except}}]});
    let (one, all) = if client.is_ipv4() { (32, "10.0.0.0/8") } else { (128, "fd00::/8") };
    let applied = |objects: Vec<Value>| -> Close { Box::new(move |lab| lab.apply_objects(&objects)) };
    let from = |peer: &Value| json!({"from": [peer]});
    vec![
        Closing { name: "a policy comes", before: vec![], close: applied(vec![policy(None)]) },
        Closing {
            name: "an egress policy of the client's comes",
            before: vec![],
            close: applied(vec![no_egress_policy("cl", "cl-client")]),
        },
        Closing {
            name: "a block goes",
            before: vec![policy(Some(block(format!("{client}/{one}"), vec![])))],
            close: applied(vec![policy(None)]),
        },
        Closing {
            name: "a block gets an exception",
            before: vec![policy(Some(block(all.into(), vec![])))],
            close: applied(vec![policy(Some(block(all.into(), vec![format!("{client}/{one}")])))]),
        },
        Closing {
            name: "a rule is for another port",
            before: vec![policy(Some(json!({"from": [by_pod], "ports": ports(json!(PORT))})))],
            close: applied(vec![policy(Some(json!({"from": [by_pod], "ports": ports(json!(PORT + 1))})))]),
        },
        Closing {
            name: "the client's label goes",
            before: vec![policy(Some(from(&by_pod)))],
            close: Box::new(|lab| lab.kubectl(&["label", "pod", "cl-client", "app=cl-stranger", "--overwrite"]).map(drop)),
        },
        Closing {
            name: "the namespace's label goes",
            before: vec![policy(Some(from(&json!({"namespaceSelector": {"matchLabels": {"cl": "in"}}}))))],
            close: Box::new(|lab| lab.kubectl(&["label", "namespace", "default", "cl-"]).map(drop)),
        },
        Closing { name: "an Admin Deny comes", before: vec![policy(Some(from(&by_pod)))], close: applied(vec![tier("Deny")]) },
        Closing {
            name: "an Admin Accept goes",
            before: vec![policy(None), tier("Accept")],
            close: Box::new(|lab| lab.delete("clusternetworkpolicy", &["cl"])),
        },
        Closing { name: "an Admin Accept passes on", before: vec![policy(None), tier("Accept")], close: applied(vec![tier("Pass")]) },
    ]
}

/// A stream and datagrams of one pod to the server.
struct Talk {
    stream: Generator,
    datagrams: Generator,
}

impl Talk {
    fn begin(lab: &Lab, pod: &str, at: &str) -> Result<Talk> {
        let (stream, datagrams) = (&["follow", at][..], &["datagrams", "closings", "2000", at][..]);
        Ok(Talk { stream: Generator::in_pod(lab, pod, stream)?, datagrams: Generator::in_pod(lab, pod, datagrams)? })
    }

    /// Milliseconds since the server was heard by either way, and how often it was.
    fn heard(&mut self) -> Result<[(u64, u64); 2]> {
        let (stream, datagrams) = (self.stream.ask("?")?, self.datagrams.ask("?")?);
        let stream = (number(&stream, "sinceMs")?, number(&stream, "messages")?);
        Ok([stream, (number(&datagrams[0], "sinceAnswerMs")?, number(&datagrams[0], "answered")?)])
    }

    /// Where its datagrams come from.
    fn port(&mut self) -> Result<u64> {
        number(&self.datagrams.ask("?")?[0], "port")
    }

    fn goes_on(&mut self) -> Result<()> {
        eventually(|| {
            let heard = self.heard()?;
            ensure!(heard.iter().all(|(since, count)| *since < SILENCE_MS && *count > 0), "not heard: {heard:?}");
            Ok(())
        })
    }
}

/// Closes in one way, and opens again; the client may get `only_answers`. Gives after how long the last word came.
fn once(lab: &Lab, at: &str, closing: &Closing, only_answers: bool) -> Result<Duration> {
    lab.kubectl(&["label", "namespace", "default", "cl=in", "--overwrite"])?;
    lab.kubectl(&["label", "pod", "cl-client", "app=cl-client", "--overwrite"])?;
    let mut before = closing.before.clone();
    if only_answers {
        // A flow that the server began would not get to the client.
        before.push(ingress_policy("cl-answers", "cl-client", None));
    }
    if !before.is_empty() {
        lab.apply_objects(&before)?;
    }
    lab.settled()?;
    let (mut client, mut friend) = (Talk::begin(lab, "cl-client", at)?, Talk::begin(lab, "cl-friend", at)?);
    client.goes_on().context("before it")?;
    friend.goes_on().context("the friend before it")?;
    let ports = [client.port()?, friend.port()?];
    let flows = flows(lab, at, &ports)?;
    ensure!(flows.len() == 2 && flows.iter().all(|flow| flow.contains(" to the server ")), "other flows than two: {flows:?}");
    (closing.close)(lab)?;
    let begun = Instant::now();
    // Silence before the cut may be a pause of the machine's.
    lab.cut()?;
    let last = eventually(|| {
        let heard = client.heard()?;
        ensure!(heard.iter().all(|(since, _)| *since > SILENCE_MS), "still heard: {heard:?}");
        Ok(heard)
    })?;
    let took = begun.elapsed().saturating_sub(Duration::from_millis(SILENCE_MS));
    ensure!(took < WITHIN, "silent only after {} ms", took.as_millis());
    friend.goes_on().context("the friend after it")?;
    // Both ends have talked on since: into what is cut, too.
    let again = client.heard()?;
    ensure!(again.map(|(_, count)| count) == last.map(|(_, count)| count), "heard again: {again:?}, after {last:?}");
    let of_friend = friend.stream.ask("?")?;
    ensure!(of_friend["ended"].is_null(), "the friend's stream was cut: {of_friend}");
    for (kind, name) in [("networkpolicy", "cl"), ("clusternetworkpolicy", "cl")] {
        lab.delete(kind, &[name])?;
    }
    // The client's socket has never paused, so its flow has been there all the while.
    let last = again[1].1;
    let heard_again = || {
        let [_, datagrams] = client.heard()?;
        ensure!(datagrams.1 > last && datagrams.0 < SILENCE_MS, "not heard: {datagrams:?}");
        Ok(())
    };
    eventually(heard_again).context("datagrams, open again")?;
    lab.cut()?;
    // One that an answer began would be the server's, and what the client sends its answers: nothing that closes would cut it.
    let after = self::flows(lab, at, &ports)?;
    ensure!(after == flows, "the flows are others than before: {after:?}, and {flows:?} before");
    lab.delete("networkpolicy", &["cl-answers"])?;
    Ok(took)
}

/// The UDP flows between the server and these ports of its clients, each with who began it and its server's node's number for it.
fn flows(lab: &Lab, at: &str, ports: &[u64]) -> Result<BTreeSet<String>> {
    let server: SocketAddr = at.parse()?;
    let family = if server.is_ipv6() { "ipv6" } else { "ipv4" };
    let output = lab.node("n2", &["conntrack", "-L", "-f", family, "-p", "udp", "-o", "id"])?;
    let table = said(&output).context("the table of n2")?;
    let of = |line: &str| {
        let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
        let (source, destination, id) = (field("src")?, field("dst")?, field("id")?);
        let own = server.ip().to_string();
        let (way, port) = if destination == own { ("to the server", field("sport")?) } else { ("from the server", field("dport")?) };
        let is_one = (source == own || destination == own) && ports.iter().any(|one| one.to_string() == port);
        is_one.then(|| format!("{source} {way} {destination}, {port}, {id}"))
    };
    Ok(table.lines().filter_map(of).collect())
}

pub(crate) fn every_way(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    lab.apply_objects(&[
        pod("cl-server", "n2", "cl-server", &["serve", "cl-server", &LATE_MS.to_string()])?,
        idle("cl-client", "n1", "cl-client")?,
        idle("cl-friend", "n3", "cl-friend")?,
    ])?;
    lab.settled()?;
    let (mut slowest, mut count) = (Duration::ZERO, 0);
    let ip_of =
        |app: &str, v6: bool| cluster::pods(lab, &format!("app={app}"))?.first().map(|pod| pod.ip(v6)).transpose()?.context("no pod");
    let (families, all) = (lab.families(), bench.figure(0, 1) == 1);
    for (turn, v6) in families.iter().enumerate() {
        let at = SocketAddr::new(ip_of("cl-server", *v6)?, PORT).to_string();
        for (number, closing) in closings(ip_of("cl-client", *v6)?).iter().enumerate() {
            // Each in one family on every change, in all of them in the long form.
            if all || number % families.len() == turn {
                slowest = slowest.max(once(lab, &at, closing, number % 4 < 2).with_context(|| format!("{} ({at})", closing.name))?);
                count += 1;
            }
        }
        lab.kubectl(&["label", "pod", "cl-client", "app=cl-client", "--overwrite"])?;
    }
    lab.kubectl(&["label", "namespace", "default", "cl-"])?;
    lab.delete("pod", &PODS)?;
    Ok(format!("{count} ways: a stream and datagrams silent after {} ms at most, a friend's go on", slowest.as_millis()))
}

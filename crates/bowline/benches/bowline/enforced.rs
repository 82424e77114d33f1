//! Policies as packets see them: from a change in the API until what it no longer allows is silent, and until what it allows passes.
//!
//! A lab of two nodes, 100 pods on the first, each in a namespace of its own that has a hundredth of the policies. A client on the other node
//! sends datagrams of one flow and bytes of one TCP connection to one of the pods all the while, and a policy of their own or the client's label
//! is changed to and fro: so the watch, what is compiled and written, and the cut of established flows are all in it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bowline_lab::handle::{Lab, Options};
use serde_json::{Value, json};

use crate::policies::{LOCAL, TARGET_MS, namespace, policy};
use crate::populate::{Populate, Sort};
use crate::proxies::now_ns;
use crate::report::{Row, Section, Target};
use crate::stats::Samples;
use crate::{BOWLINE, Effort};

/// Where the pod answers, by UDP and TCP.
const PORT: u16 = 7000;
/// Policies beside the one that is changed.
const POLICIES: [u32; 2] = [100, 10_000];
/// Between two datagrams, and between two bytes.
const EVERY: Duration = Duration::from_micros(250);
/// Without an answer for so long a flow is shut.
const SILENCE: Duration = Duration::from_millis(100);
/// And it stays so if it is silent for so long again.
const CALM: Duration = Duration::from_millis(200);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

const NAMESPACES: Sort = Sort("", "v1", "Namespace", "namespaces");
const PODS: Sort = Sort("", "v1", "Pod", "pods");
const NETWORK_POLICIES: Sort = Sort("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies");

/// What is changed.
#[derive(Debug, Clone, Copy)]
enum Event {
    Policy,
    Label,
}

impl Event {
    const BOTH: [Event; 2] = [Event::Policy, Event::Label];

    fn name(self) -> &'static str {
        match self {
            Event::Policy => "a policy's peer",
            Event::Label => "a peer's label",
        }
    }

    /// The object, and what it becomes.
    fn patch(self, open: bool) -> (Sort, &'static str, Value) {
        match self {
            Event::Policy => (NETWORK_POLICIES, "gate", json!({"spec": {"ingress": from(if open { "client" } else { "nobody" })}})),
            Event::Label => (PODS, "client", json!({"metadata": {"labels": {"who": if open { "client" } else { "stranger" }}}})),
        }
    }
}

/// What was measured of one event, in milliseconds.
#[derive(Default)]
struct Found {
    shut: Vec<f64>,
    open: Vec<f64>,
    api: Vec<f64>,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let mut section = Section::new(&format!("policies: from the API to packets, {LOCAL} pods on the node"));
    for mode in ["nftables", "ebpf"] {
        of_mode(mode, effort, &mut section).with_context(|| mode)?;
    }
    section.notes.push(format!(
        "a change is timed from before the request to the lab's API, whose own answer is given beside it, until the last answer by either of an \
         established UDP flow and TCP connection, or until the flow's first; one datagram and one byte each {} us",
        EVERY.as_micros()
    ));
    Ok(section)
}

fn of_mode(mode: &str, effort: Effort, section: &mut Section) -> Result<()> {
    let name = format!("bench-enforced-{}", std::process::id());
    let flags = format!("--nodes 2 --backend host-gw --service-mode {mode}");
    let lab = Lab::up(Options { binary: Some(BOWLINE.into()), ..Options::new(&name, &flags) })?;
    let api = Populate::connect(&lab.kubeconfig()?)?;
    let target = pods(&lab, &api)?;
    let mut made = 0;
    let mut client = Client::start(&lab, target)?;
    for policies in POLICIES.into_iter().take(effort.pick(1, POLICIES.len())) {
        eprintln!("  {mode}, {policies} policies");
        api.make(NETWORK_POLICIES, (made..policies).map(|n| of_kind("networking.k8s.io/v1", "NetworkPolicy", policy(n, 8000))))?;
        made = policies;
        settle(&lab, policies + 1)?;
        for event in Event::BOTH {
            let found = rounds(&api, &mut client, event, effort.pick(5, 100)).with_context(|| event.name())?;
            tell(section, &format!("{mode}, {policies} policies, {}", event.name()), found, Some(&policies) == POLICIES.last());
        }
    }
    Ok(())
}

fn tell(section: &mut Section, of: &str, found: Found, judged: bool) {
    for (what, samples) in [("shut", Samples::new(found.shut)), ("open", Samples::new(found.open))] {
        section.rows.push(Row::new(format!("{of}: {what}, p50"), "ms", samples.median()));
        let row = Row::new(format!("{of}: {what}, p99"), "ms", samples.percentile(99));
        section.rows.push(if judged { row.target(Target::AtMost(TARGET_MS)) } else { row });
    }
    section.rows.push(Row::new(format!("{of}: the API's own answer, p50"), "ms", Samples::new(found.api).median()));
}

/// An object as the API takes it: with its kind, and without a number of its own.
fn of_kind(version: &str, kind: &str, mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".into(), json!(version));
        fields.insert("kind".into(), json!(kind));
        fields.get_mut("metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("uid"));
    }
    object
}

/// Who gets in by the policy that is changed.
fn from(who: &str) -> Value {
    let ports = json!([{"protocol": "UDP", "port": PORT}, {"protocol": "TCP", "port": PORT}]);
    json!([{"from": [{"podSelector": {"matchLabels": {"who": who}}}], "ports": ports}])
}

fn pod(name: &str, namespace: &str, labels: &Value, node: &str, command: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "httpd", "command": command}]},
    })
}

/// Makes the pods and the policy that is changed; gives where the first pod answers.
fn pods(lab: &Lab, api: &Populate) -> Result<SocketAddr> {
    let exe = std::env::current_exe()?;
    let exe = exe.to_str().context("the bench's path")?;
    let idle = ["sleep", "infinity"];
    api.make(NAMESPACES, (0..LOCAL).map(|n| json!({"metadata": {"name": namespace(n)}})))?;
    let gate = json!({
        "metadata": {"name": "gate", "namespace": namespace(0)},
        "spec": {"podSelector": {"matchLabels": {"app": "local"}}, "policyTypes": ["Ingress"], "ingress": from("client")},
    });
    api.make(NETWORK_POLICIES, [gate])?;
    let local = json!({"app": "local"});
    let command = |n: u32| if n == 0 { vec![exe, "--inside", "echo"] } else { idle.to_vec() };
    let all = (0..LOCAL).map(|n| pod("local", &namespace(n), &local, "n1", &command(n)));
    api.make(PODS, all.chain([pod("client", &namespace(0), &json!({"who": "client"}), "n2", &idle)]))?;
    for n in 0..LOCAL {
        lab.kubectl(["wait", "-n", &namespace(n), "pod", "--all", "--for=condition=Ready", "--timeout=120s"])?;
    }
    let ip = lab.kubectl(["get", "-n", &namespace(0), "pod", "local", "-o", "jsonpath={.status.podIP}"])?;
    Ok(SocketAddr::new(ip.trim().parse::<IpAddr>()?, PORT))
}

/// Waits until both agents know so many policies and have written what they know.
fn settle(lab: &Lab, policies: u32) -> Result<()> {
    let begun = Instant::now();
    loop {
        let output = lab.bowline()?.args(["status", "-o", "json"]).output()?;
        let status: Value = serde_json::from_slice(&output.stdout).context("bowline status")?;
        let nodes = status.get("nodes").and_then(Value::as_array).context("no nodes")?;
        let settled = |node: &Value| {
            let knows = node.pointer("/cluster/policies").and_then(Value::as_u64) == Some(policies.into());
            let written = node.get("appliedRevision") == node.get("revision") && node.get("cutting") == Some(&json!(false));
            knows && written && node.get("problems").and_then(Value::as_array).is_some_and(Vec::is_empty)
        };
        if nodes.iter().all(settled) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the agents do not come to rest: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn rounds(api: &Populate, client: &mut Client, event: Event, count: usize) -> Result<Found> {
    let mut found = Found::default();
    client.is_open(now_ns())?;
    for _ in 0..count {
        for open in [false, true] {
            std::thread::sleep(SILENCE);
            let (sort, name, patch) = event.patch(open);
            let begun = now_ns();
            api.patch(sort, (&namespace(0), name), patch)?;
            found.api.push(ms(begun, now_ns()));
            match open {
                true => found.open.push(ms(begun, client.is_open(begun)?)),
                false => found.shut.push(ms(begun, client.is_shut()?)),
            }
        }
    }
    Ok(found)
}

fn ms(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// A flow, by its place among the client's.
const UDP: usize = 0;

/// What became of a flow, and when: its first answer, or its last.
#[derive(Debug, Clone, Copy)]
enum State {
    Open(u64),
    Shut(u64),
}

/// The client in its pod, from here.
struct Client {
    child: Child,
    lines: Receiver<(usize, State)>,
    flows: [State; 2],
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    fn start(lab: &Lab, target: SocketAddr) -> Result<Client> {
        let exe = std::env::current_exe()?;
        let mut command = lab.command(&["exec", "client", "-n", &namespace(0)]);
        command.arg("--").arg(exe).args(["--inside", "flows", "--target", &target.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the client")?;
        let output = child.stdout.take().context("no output")?;
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if told(&line).is_none_or(|told| to.send(told).is_err()) {
                    return;
                }
            }
        });
        Ok(Client { child, lines, flows: [State::Shut(0); 2] })
    }

    fn hear(&mut self, within: Duration) -> Result<bool> {
        match self.lines.recv_timeout(within) {
            Ok((flow, state)) => {
                *self.flows.get_mut(flow).context("no such flow")? = state;
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => bail!("the client is gone"),
        }
    }

    /// When the last answer of either came, once both are silent for good.
    fn is_shut(&mut self) -> Result<u64> {
        let begun = Instant::now();
        loop {
            let more = self.hear(CALM)?;
            match self.flows {
                [State::Shut(udp), State::Shut(tcp)] if !more => return Ok(udp.max(tcp)),
                _ => ensure!(begun.elapsed() < PATIENCE, "still answered: {:?}", self.flows),
            }
        }
    }

    /// When the flow's first answer since then came, once both are answered.
    fn is_open(&mut self, since: u64) -> Result<u64> {
        let begun = Instant::now();
        loop {
            match self.flows {
                [State::Open(udp), State::Open(_)] => return Ok(udp.max(since)),
                _ => ensure!(begun.elapsed() < PATIENCE, "not answered: {:?}", self.flows),
            }
            self.hear(CALM)?;
        }
    }
}

/// A line of the client: which flow, what became of it, and when.
fn told(line: &str) -> Option<(usize, State)> {
    let mut words = line.split(' ');
    let flow = if words.next()? == "udp" { UDP } else { UDP + 1 };
    let (what, when) = (words.next()?, words.next()?.parse().ok()?);
    Some((flow, if what == "open" { State::Open(when) } else { State::Shut(when) }))
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// In a pod: answers datagrams and bytes.
pub(crate) fn echo() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    let mut buffer = [0; 16];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // Who is not reached any more is told nothing.
        let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
    }
}

fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // One that was cut says nothing more, and nobody its end.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// In a pod: a flow of datagrams and a connection, and what becomes of them.
pub(crate) fn flows(target: SocketAddr) -> Result<()> {
    let tcp = std::thread::spawn(move || stream(target));
    let udp = datagrams(target);
    match tcp.join() {
        Ok(tcp) => udp.and(tcp),
        Err(_) => bail!("a thread panicked"),
    }
}

fn datagrams(target: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    let (mut last, mut open) = (0, false);
    let mut buffer = [0; 16];
    loop {
        match socket.send(b"?") {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            sent => drop(sent.context("a datagram")?),
        }
        while socket.recv(&mut buffer).is_ok() {
            last = now_ns();
            if !std::mem::replace(&mut open, true) {
                say(&format!("udp open {last}"))?;
            }
        }
        if open && u128::from(now_ns() - last) > SILENCE.as_nanos() {
            open = false;
            say(&format!("udp shut {last}"))?;
        }
        std::thread::sleep(EVERY);
    }
}

fn stream(target: SocketAddr) -> Result<()> {
    loop {
        let Ok(mut stream) = TcpStream::connect_timeout(&target, SILENCE / 5) else { continue };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context("SO_LINGER")?;
        let mut last = None;
        while stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok() {
            if last.replace(now_ns()).is_none() {
                say(&format!("tcp open {}", now_ns()))?;
            }
            std::thread::sleep(EVERY);
        }
        if let Some(last) = last {
            say(&format!("tcp shut {last}"))?;
        }
    }
}

//! Bowline's agent and kube-proxy as processes under one API with 10,000 services of ten endpoints: from the start until services are
//! served, and from a change of one endpoint in the API until new connections go there.
//!
//! What counts is what a client sees: one on the node connects to a service again and again and tells when another port of the node
//! answers. The four are started one after the other, each on a node of its own; the API and the client are the same for all.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_lab::handle::{Lab, Options};
use rustix::time::{ClockId, clock_gettime};

use crate::kubeproxy::{KubeProxy, Mode, node_address};
use crate::populate::Populate;
use crate::report::{Growth, Row, Section, Target};
use crate::stats::Samples;
use crate::{BOWLINE, Effort, machine, memory, peers};

/// Endpoints of each service.
const ENDPOINTS: u32 = 10;

/// The ports of the node between which its service moves.
const PORTS: [u16; 2] = [8081, 8082];

/// How long a process may take to serve, or to follow a change.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two changes, of Bowline's a tenth: kube-proxy writes at most once a second, so that each is written by itself.
const BETWEEN: Duration = Duration::from_millis(1100);

/// One changes no longer than this, however few changes that makes.
const CHANGES_FOR: Duration = Duration::from_secs(90);

/// How often the client asks while it is answered, and while it is not.
const ASK_EVERY: Duration = Duration::from_micros(100);
const TRY_EVERY: Duration = Duration::from_millis(5);

/// Who serves, on the node of the same place.
#[derive(Debug, Clone, Copy)]
enum Side {
    Bowline(&'static str),
    KubeProxy(Mode),
}

const SIDES: [Side; 4] =
    [Side::Bowline("nftables"), Side::Bowline("ebpf"), Side::KubeProxy(Mode::Iptables), Side::KubeProxy(Mode::Nftables)];

impl Side {
    fn name(self) -> String {
        match self {
            Side::Bowline(mode) => format!("Bowline {mode}"),
            Side::KubeProxy(mode) => format!("kube-proxy {}", mode.word()),
        }
    }
}

/// What was measured of one.
struct Found {
    serves_s: f64,
    /// What it says itself that its syncs took until then.
    syncs_s: f64,
    change_ms: Samples,
    memory_mb: f64,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    peers::kube_proxy()?;
    let services = effort.pick(1000, 10_000);
    let name = format!("bench-load-{}", std::process::id());
    let flags = format!("--agents none --no-wait --nodes {}", SIDES.len());
    let lab = Lab::up(Options { binary: Some(BOWLINE.into()), ..Options::new(&name, &flags) })?;
    let populate = Populate::connect(&lab.kubeconfig()?)?;
    eprintln!("  making {services} services of {ENDPOINTS} endpoints");
    populate.services(0..services, ENDPOINTS)?;
    let scratch = tempfile::tempdir()?;
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for (place, side) in SIDES.into_iter().enumerate() {
        eprintln!("  {}", side.name());
        let node = format!("n{}", place + 1);
        let one = Stand { lab: &lab, populate: &populate, node: &node, address: node_address(place)? };
        match one.measure(side, effort, scratch.path()) {
            Ok(figures) => found.push(Some(figures)),
            Err(error) if matches!(side, Side::KubeProxy(_)) => {
                notes.push(format!("{} was not measured: {error:#}", side.name()));
                found.push(None);
            }
            Err(error) => return Err(error.context(side.name())),
        }
    }
    let mut section = section(services, &found);
    section.notes.append(&mut notes);
    Ok(section)
}

fn section(services: u32, found: &[Option<Found>]) -> Section {
    let mut section = Section::new(&format!("services: {services} x {ENDPOINTS}, the agent beside kube-proxy, by what a client sees"));
    let best = |of: &dyn Fn(&Found) -> f64| found.iter().skip(2).flatten().map(of).fold(f64::INFINITY, f64::min);
    type Figure = (&'static str, &'static str, fn(&Found) -> f64, [Option<f64>; 2]);
    let figures: [Figure; 5] = [
        ("from the start until it serves", "s", |one| one.serves_s, [None, None]),
        ("its own syncs until then", "s", |one| one.syncs_s, [Some(2.0), Some(0.5)]),
        ("one endpoint, from the API to connections, p50", "ms", |one| one.change_ms.median(), [None, None]),
        ("one endpoint, from the API to connections, p99", "ms", |one| one.change_ms.percentile(99), [Some(5.0), Some(5.0)]),
        ("memory at most", "MB", |one| one.memory_mb, [None, None]),
    ];
    for (what, unit, of, targets) in figures {
        for ((side, one), target) in SIDES.into_iter().zip(found).zip(targets.into_iter().chain([None, None])) {
            let Some(one) = one else { continue };
            let row = Row::new(format!("{what}: {}", side.name()), unit, of(one));
            let peer = best(&of);
            let row = if matches!(side, Side::Bowline(_)) && peer.is_finite() { row.peer(peer) } else { row };
            section.rows.push(target.map_or(row.clone(), |limit| row.target(Target::AtMost(limit))));
        }
    }
    section.growth = Some(Growth {
        columns: SIDES.map(|side| side.name().replace(' ', "-").replace("kube-proxy", "kp")).to_vec(),
        rows: vec![(
            "changes of one endpoint".into(),
            found.iter().map(|one| one.as_ref().map_or(0.0, |one| one.change_ms.count() as f64)).collect(),
        )],
    });
    section.notes.push("peer: the better of kube-proxy's two modes".into());
    section.notes.push(format!(
        "a change is timed from before the request to the API until a connection of a client on the node, which makes one every {} us, goes there: the lab's API and its watch are in it",
        ASK_EVERY.as_micros()
    ));
    section
}

/// A node and what is needed there.
struct Stand<'a> {
    lab: &'a Lab,
    populate: &'a Populate,
    node: &'a str,
    address: Ipv4Addr,
}

/// What a side runs as; ends with it.
enum Process<'a> {
    Agent(&'a Stand<'a>),
    Proxy(KubeProxy),
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        if let Process::Agent(stand) = self {
            let _ = stand.lab.agent("kill", stand.node);
        }
    }
}

impl Process<'_> {
    fn pid(&self) -> Result<u32> {
        match self {
            Process::Agent(stand) => {
                let dirs = bowline_lab::agent_run_dirs(stand.lab.name())?;
                let (_, dir) = dirs.into_iter().find(|(node, _)| node == stand.node).context("no such node")?;
                memory::agent_pid(&dir)
            }
            Process::Proxy(proxy) => Ok(proxy.pid),
        }
    }
}

impl Stand<'_> {
    fn measure(&self, side: Side, effort: Effort, scratch: &Path) -> Result<Found> {
        let moving = format!("moving-{}", self.node);
        let service = self.populate.one(&moving, SocketAddr::new(IpAddr::V4(self.address), PORTS[0]))?;
        let client = Client::start(self.lab, self.node, SocketAddr::new(service, 80))?;
        let begun = now_ns();
        let process = match side {
            Side::Bowline(mode) => {
                let script = format!("s/^serviceMode: .*/serviceMode: {mode}/");
                let output = self.lab.node_exec(self.node, &["sed", "-i", &script, "/etc/bowline/agent.yaml"])?;
                ensure!(output.status.success(), "sed: {}", String::from_utf8_lossy(&output.stderr));
                self.lab.agent("start", self.node)?;
                Process::Agent(self)
            }
            Side::KubeProxy(mode) => {
                Process::Proxy(KubeProxy::start(self.lab, self.node, mode, &scratch.join(format!("{}.log", self.node)))?)
            }
        };
        let serves = client.answered_by(PORTS[0]).with_context(|| format!("it does not serve within {} s", PATIENCE.as_secs()))?;
        let serves_s = serves.saturating_sub(begun) as f64 / 1e9;
        let syncs_s = self.syncs()?;
        let mut change_ms = Vec::new();
        let (changes, between) = match side {
            Side::Bowline(_) => (effort.pick(10, 200), BETWEEN / 10),
            Side::KubeProxy(_) => (effort.pick(10, 40), BETWEEN),
        };
        let until = now_ns() + u64::try_from(CHANGES_FOR.as_nanos())?;
        for port in PORTS.into_iter().rev().cycle().take(changes).take_while(|_| now_ns() < until) {
            std::thread::sleep(between);
            let begun = now_ns();
            self.populate.change(&moving, port)?;
            change_ms.push(client.answered_by(port)?.saturating_sub(begun) as f64 / 1e6);
        }
        let memory_mb = machine::memory_mb(process.pid()?, "VmHWM")?;
        Ok(Found { serves_s, syncs_s, change_ms: Samples::new(change_ms), memory_mb })
    }

    /// Seconds that all syncs of IPv4 took by the process's own count, which both keep under the same name.
    fn syncs(&self) -> Result<f64> {
        let begun = now_ns();
        // A sync is counted when it has ended: a moment after what it wrote serves.
        loop {
            let output = self.lab.node_exec(self.node, &["curl", "-s", "--max-time", "60", "http://127.0.0.1:10249/metrics"])?;
            let page = String::from_utf8_lossy(&output.stdout).into_owned();
            let sums = page.lines().filter_map(|line| line.strip_prefix("kubeproxy_sync_proxy_rules_duration_seconds_sum"));
            let ipv4 = sums.filter(|rest| !rest.contains("IPv6")).filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
            match ipv4.reduce(f64::max).filter(|sum| *sum > 0.0) {
                Some(sum) => return Ok(sum),
                None => ensure!(u128::from(now_ns() - begun) < PATIENCE.as_nanos(), "no time of syncs among its metrics"),
            }
        }
    }
}

/// The client on the node, from here.
struct Client {
    child: Child,
    lines: Receiver<(u64, u16)>,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    fn start(lab: &Lab, node: &str, target: SocketAddr) -> Result<Client> {
        let exe = std::env::current_exe()?;
        let mut command = lab.command(&["node-exec", node]);
        command.arg("--").arg(exe).args(["--inside", "client", "--target", &target.to_string()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the client")?;
        let output = child.stdout.take().context("no output")?;
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let told = line.split_once(' ').and_then(|(when, port)| Some((when.parse().ok()?, port.parse().ok()?)));
                if told.is_none_or(|told| to.send(told).is_err()) {
                    return;
                }
            }
        });
        Ok(Client { child, lines })
    }

    /// When that port first answered since it was last asked for.
    fn answered_by(&self, port: u16) -> Result<u64> {
        loop {
            let (when, by) = self.lines.recv_timeout(PATIENCE).with_context(|| format!("port {port} does not answer"))?;
            if by == port {
                return Ok(when);
            }
        }
    }
}

/// Nanoseconds of the clock that all processes share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The client on the node: says when another port of it answers for the service.
pub(crate) fn inside(target: SocketAddr) -> Result<()> {
    let mut listeners = Vec::new();
    for port in PORTS {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        listener.set_nonblocking(true)?;
        listeners.push((port, listener));
    }
    let mut last = None;
    let mut out = std::io::stdout().lock();
    loop {
        let answered = ask(target, &listeners)?;
        if answered.is_some() && answered != last {
            writeln!(out, "{} {}", now_ns(), answered.unwrap_or(0))?;
            out.flush()?;
            last = answered;
        }
        std::thread::sleep(if answered.is_some() { ASK_EVERY } else { TRY_EVERY });
    }
}

/// Which port a connection came out at.
fn ask(target: SocketAddr, listeners: &[(u16, TcpListener)]) -> Result<Option<u16>> {
    let Ok(stream) = TcpStream::connect_timeout(&target, Duration::from_millis(50)) else { return Ok(None) };
    let port = listeners.iter().find_map(|(port, listener)| listener.accept().ok().map(|_| *port));
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context("SO_LINGER")?;
    Ok(port)
}

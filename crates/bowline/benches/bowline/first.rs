//! What a connection costs to begin, and a round trip on one that stays, from a pod to a pod of the same node, through a ClusterIP among
//! many: by Bowline's rules, at the socket, and by kube-proxy with iptables and with nftables.
//!
//! The pods are attached and the rules written as the agent does it; kube-proxy runs until it serves, and leaves its rules. Each size has a
//! node of its own; all are measured in turn in short slices, each against a direct connection on a node of its own side without services
//! in the same round. One thread holds both ends: with two, what is measured is who of them runs when.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_dataplane::HostFacts;
use bowline_kernel::netlink::{NetDriver, Netlink};
use bowline_kernel::netns::NetNs;
use bowline_kernel::pod::{self, PodLinkSpec};
use bowline_kernel::reconcile::{Reconciler, SyncMode};
use bowline_model::intent::Intent;
use bowline_model::intent::pods::PodIntent;
use bowline_model::intent::services::Endpoint;
use bowline_model::{Dual, MacAddr};
use ipnet::IpNet;

use crate::cluster;
use crate::kubeproxy::{self, Mode, Proxies};
use crate::report::{Growth, Row, Section, Target};
use crate::services::Loaded;
use crate::sockets::{self, Filled, Stage};
use crate::stats::{Samples, ratios};
use crate::{Effort, machine};

const PORT: u16 = 8080;

/// Sizes at which Bowline is measured, and those at which kube-proxy is: with 30,000 it takes many minutes to come up.
const SIZES: [u32; 5] = [1, 1000, 10_000, 30_000, 100_000];
const PEER_SIZES: [u32; 2] = [1000, 10_000];
/// The size that the target is about.
const TARGET_SIZE: u32 = 30_000;

/// Length of a slice of each kind.
const SLICE: Duration = Duration::from_millis(120);

/// Who serves services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Nobody, and there is no rule at all.
    Bare,
    /// Bowline's rules alone.
    ByRules,
    /// With hooks in front of the rules.
    AtSocket,
    /// kube-proxy.
    KubeProxy(Mode),
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Bare => "no rules at all",
            Side::ByRules => "Bowline nftables",
            Side::AtSocket => "Bowline ebpf",
            Side::KubeProxy(Mode::Iptables) => "kube-proxy iptables",
            Side::KubeProxy(Mode::Nftables) => "kube-proxy nftables",
        }
    }

    /// The side whose direct connection is the same path without a service.
    fn base(self) -> Side {
        if self == Side::AtSocket { Side::ByRules } else { self }
    }
}

/// A node with two pods, the client and the server.
struct Node {
    side: Side,
    /// How many services there are; none where the connection is direct.
    services: Option<u32>,
    /// What the client connects to, each with where that comes out.
    targets: Vec<(SocketAddr, TcpListener)>,
    next: Cell<usize>,
    client: NetNs,
    /// A connection that is there throughout.
    ends: (TcpStream, TcpStream),
    // What holds the namespaces, rules and hooks.
    _node: NetNs,
    _server: NetNs,
    _rules: Option<Loaded>,
    _hooks: Option<Filled>,
    /// Whose sockets the client's are.
    cgroup: PathBuf,
}

/// Microseconds of one node, slice by slice.
#[derive(Default)]
struct Times {
    connect: Vec<f64>,
    trip: Vec<f64>,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let mut section = Section::new("services: connect and close, and a round trip, pod to pod on one node");
    let stage = Stage::new()?;
    let mut nodes = vec![Node::bowline(&stage, Side::Bare, None)?, Node::bowline(&stage, Side::ByRules, None)?];
    for side in [Side::ByRules, Side::AtSocket] {
        for size in SIZES {
            nodes.push(Node::bowline(&stage, side, Some(size)).with_context(|| format!("{} {size}", side.name()))?);
        }
    }
    // Its lab holds the namespaces.
    let _proxies = match Proxies::start(effort.pick(&PEER_SIZES[..1], &PEER_SIZES[..])) {
        Ok(mut proxies) => {
            peers(&stage, &mut proxies, &mut nodes, &mut section)?;
            Some(proxies)
        }
        Err(error) => {
            section.notes.push(format!("kube-proxy was not measured: {error:#}"));
            None
        }
    };
    let rounds = effort.pick(5, 25);
    let mut times: Vec<Times> = nodes.iter().map(|_| Times::default()).collect();
    // One round to warm up, of which nothing is kept.
    for round in 0..=rounds {
        let mut failed = Vec::new();
        for (at, (node, kept)) in nodes.iter_mut().zip(&mut times).enumerate() {
            match node.slice() {
                Ok((connect, trip)) if round > 0 => {
                    kept.connect.push(connect);
                    kept.trip.push(trip);
                }
                Ok(_) => {}
                Err(error) => {
                    failed.push((at, error.context(format!("{} with {} services", node.side.name(), node.services.unwrap_or(0)))))
                }
            }
        }
        for (at, error) in failed.into_iter().rev() {
            if !matches!(nodes.remove(at).side, Side::KubeProxy(_)) {
                return Err(error);
            }
            times.remove(at);
            section.notes.push(format!("not measured any more in round {round}: {error:#}"));
        }
    }
    tell(&nodes, &times, &mut section);
    section.notes.push(format!(
        "peer: a direct connection on a node of the same side without services, for the round trip too; {rounds} rounds of {} s slices in turn",
        SLICE.as_secs_f64()
    ));
    Ok(section)
}

/// kube-proxy's nodes, as far as it comes up in time.
fn peers(stage: &Stage, proxies: &mut Proxies, nodes: &mut Vec<Node>, section: &mut Section) -> Result<()> {
    section.notes.push(proxies.what());
    while let Some(next) = proxies.next()? {
        let (mode, size) = (next.mode, next.services);
        eprintln!("  kube-proxy {} with {size} services", mode.word());
        match Node::kube_proxy(stage, next) {
            Ok(node) => nodes.push(node),
            Err(error) => section.notes.push(format!("kube-proxy {} with {size} services was not measured: {error:#}", mode.word())),
        }
    }
    Ok(())
}

fn tell(nodes: &[Node], times: &[Times], section: &mut Section) {
    let base = |node: &Node| {
        let found = nodes.iter().position(|other| other.side == node.side.base() && other.services.is_none());
        found.and_then(|at| times.get(at))
    };
    let sizes: Vec<u32> = SIZES.to_vec();
    let mut growth = Growth { columns: sizes.iter().map(u32::to_string).collect(), rows: Vec::new() };
    for (what, of) in [("connect", (|t: &Times| t.connect.clone()) as fn(&Times) -> Vec<f64>), ("round trip", |t: &Times| t.trip.clone())] {
        for (node, kept) in nodes.iter().zip(times) {
            let Some(base) = base(node) else { continue };
            let (kept, base) = (of(kept), of(base));
            let by = node.services.map_or("direct".to_owned(), |size| format!("a ClusterIP of {size}"));
            let row = Row::median(format!("{what}: {}, {by}", node.side.name()), "us", &Samples::new(kept.clone()));
            let row = row.peer_ratios(Samples::new(base.clone()).median(), &ratios(&kept, &base));
            let judged = what == "connect" && node.services == Some(TARGET_SIZE) && node.side.base() == Side::ByRules;
            section.rows.push(if judged { row.target(Target::RatioAtMost(1.05)) } else { row });
        }
        for side in [Side::ByRules, Side::AtSocket, Side::KubeProxy(Mode::Iptables), Side::KubeProxy(Mode::Nftables)] {
            let figure = |size: &u32| {
                let at = nodes.iter().position(|node| node.side == side && node.services == Some(*size));
                let of_node = at.and_then(|at| Some((of(times.get(at)?), of(base(nodes.get(at)?)?))));
                of_node.map_or(f64::NAN, |(kept, base)| ratios(&kept, &base).median())
            };
            growth.rows.push((format!("{what}: {}, ratio", side.name()), sizes.iter().map(figure).collect()));
        }
    }
    section.growth = Some(growth);
}

impl Node {
    /// A node of Bowline's; direct, and with rules for no service, where no number is given.
    fn bowline(stage: &Stage, side: Side, services: Option<u32>) -> Result<Node> {
        let node = NetNs::anonymous()?;
        let mut intent = cluster::intent(services.unwrap_or(0));
        if services.is_some() {
            let endpoint = Endpoint { ip: address(3), port: PORT };
            Arc::make_mut(&mut intent.services).services.insert(cluster::name(0), cluster::service(0, vec![endpoint]));
        }
        let ends = pods(&node, &mut intent)?;
        let place = stage.place(&format!("{}-{}", side.name(), services.unwrap_or(0)).replace(' ', "-"))?;
        let hooks = match side {
            Side::AtSocket => Some(node.run(|| Filled::load(&place, intent.clone()))??.0),
            Side::Bare | Side::ByRules | Side::KubeProxy(_) => None,
        };
        let rules = if side == Side::Bare { None } else { Some(Loaded::load(&node, intent)?.0) };
        let targets = vec![if services.is_some() { SocketAddr::new(cluster::vip(0), 80) } else { server() }];
        Node::open(side, services, (node, targets), ends, (rules, hooks), place.cgroup)
    }

    /// A node that kube-proxy has written its rules on; direct where there are no services.
    fn kube_proxy(stage: &Stage, next: kubeproxy::Next<'_>) -> Result<Node> {
        let (side, services) = (Side::KubeProxy(next.mode), (next.services > 0).then_some(next.services));
        let node = NetNs::open(&next.network)?;
        let ends = pods(&node, &mut cluster::intent_on(next.address))?;
        let targets: Vec<SocketAddr> = next.targets.iter().map(|ip| SocketAddr::new(*ip, 80)).collect();
        let listeners: Vec<TcpListener> = (0..targets.len()).map(|n| listen(&ends.1, n)).collect::<Result<_>>()?;
        // The client's sockets must not meet the hooks of another node.
        let place = stage.place(&format!("{}-{}", side.name(), next.services).replace(' ', "-"))?;
        sockets::enter(&place.cgroup)?;
        // The process ends with this; what it wrote stays.
        let _proxy = next.serve(&ends.0, &targets)?;
        drop(listeners);
        let targets = if services.is_some() { targets } else { vec![server()] };
        Node::open(side, services, (node, targets), ends, (None, None), place.cgroup)
    }

    fn open(
        side: Side,
        services: Option<u32>,
        (node, targets): (NetNs, Vec<SocketAddr>),
        (client, server_ns): (NetNs, NetNs),
        (rules, hooks): (Option<Loaded>, Option<Filled>),
        cgroup: PathBuf,
    ) -> Result<Node> {
        let listeners = (0..targets.len()).map(|n| listen(&server_ns, n)).collect::<Result<Vec<_>>>()?;
        let targets: Vec<(SocketAddr, TcpListener)> = targets.into_iter().zip(listeners).collect();
        let (first, listener) = targets.first().context("no target")?;
        sockets::enter(&cgroup)?;
        let near = client.run(|| TcpStream::connect_timeout(first, Duration::from_secs(3)))?.with_context(|| first.to_string())?;
        let (far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        Ok(Node {
            side,
            services,
            targets,
            next: Cell::new(0),
            client,
            ends: (near, far),
            _node: node,
            _server: server_ns,
            _rules: rules,
            _hooks: hooks,
            cgroup,
        })
    }

    /// Microseconds of a connection, and of a round trip on the one that stays, over a slice of time each.
    fn slice(&mut self) -> Result<(f64, f64)> {
        sockets::enter(&self.cgroup)?;
        let Node { client, targets, next, ends: (near, far), .. } = self;
        let targets = &*targets;
        let mut at = next.get();
        let outcome = client.run(|| -> Result<(f64, f64, usize)> {
            machine::pin(0)?;
            let connect = timed(|| {
                at += 1;
                let (target, listener) = targets.get(at % targets.len()).context("no target")?;
                connect(target, listener)
            })?;
            Ok((connect, timed(|| trip(near, far))?, at))
        })??;
        next.set(outcome.2);
        Ok((outcome.0, outcome.1))
    }
}

/// Microseconds of what is done again and again for a slice.
fn timed(mut each: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < SLICE {
        each()?;
        count += 1;
    }
    ensure!(count > 0, "nothing was done in {SLICE:?}");
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

/// Connects, accepts and closes; the client's end by a reset, so that no port is kept.
fn connect(target: &SocketAddr, listener: &TcpListener) -> Result<()> {
    let stream = TcpStream::connect_timeout(target, Duration::from_secs(3)).with_context(|| target.to_string())?;
    let (accepted, _) = listener.accept().context("accept")?;
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context("SO_LINGER")?;
    drop(stream);
    drop(accepted);
    Ok(())
}

fn trip(near: &mut TcpStream, far: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    near.write_all(&[1])?;
    far.read_exact(&mut byte)?;
    far.write_all(&[2])?;
    Ok(near.read_exact(&mut byte)?)
}

/// The server's address, on every node.
fn server() -> SocketAddr {
    endpoint(0)
}

/// Where target number `n` comes out. Each has a port of its own: with one for all, connections by two services from one port of the client could
/// not be told apart at the server.
pub(crate) fn endpoint(n: usize) -> SocketAddr {
    SocketAddr::new(address(3), PORT + u16::try_from(n).unwrap_or(0))
}

fn listen(server: &NetNs, n: usize) -> Result<TcpListener> {
    server.run(|| TcpListener::bind(endpoint(n)))?.with_context(|| endpoint(n).to_string())
}

/// Attaches a client and a server to a node, with forwarding and the like as the agent has it.
fn pods(node: &NetNs, intent: &mut Intent) -> Result<(NetNs, NetNs)> {
    let (client, server) = (NetNs::anonymous()?, NetNs::anonymous()?);
    let (a, b) = (pod_of("bwlclient", 2), pod_of("bwlserver", 3));
    attach(intent, &[&a, &b]);
    let mut netlink = Netlink::open_in(node)?;
    netlink.set_up("lo")?;
    if netlink.link("eth0")?.is_none() {
        for own in intent.routes.local.iter().flat_map(|local| local.internal.values()) {
            netlink.add_address("lo", IpNet::from(*own), true)?;
        }
    }
    pod::attach(&mut netlink, &client, &link(&a))?;
    pod::attach(&mut netlink, &server, &link(&b))?;
    write_net(node, intent)?;
    Ok((client, server))
}

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 42, 1, last))
}

fn pod_of(host_ifname: &str, last: u8) -> PodIntent {
    PodIntent {
        pod: None,
        host_ifname: host_ifname.into(),
        mac: MacAddr([2, 0, 0, 0, 1, last]),
        host_mac: MacAddr([2, 0, 0, 0, 2, last]),
        ips: Dual { v4: Some(address(last)), v6: None },
        host_ports: Vec::new(),
    }
}

fn link(pod: &PodIntent) -> PodLinkSpec {
    PodLinkSpec {
        host_ifname: pod.host_ifname.to_string(),
        host_mac: pod.host_mac,
        pod_ifname: "eth0".into(),
        pod_mac: pod.mac,
        ips: pod.ips,
        mtu_bytes: 1500,
    }
}

fn attach(intent: &mut Intent, pods: &[&PodIntent]) {
    for pod in pods {
        Arc::make_mut(&mut intent.policy).pods.insert(pod.host_ifname.clone(), Arc::default());
        Arc::make_mut(&mut intent.pods).pods.insert(pod.host_ifname.clone(), Arc::new((*pod).clone()));
    }
}

/// Forwarding and the like, as the agent has it.
fn write_net(node: &NetNs, intent: &Intent) -> Result<()> {
    let mut net = Reconciler::new(NetDriver::open_in(node)?);
    net.want(bowline_dataplane::lower(&Intent::default(), intent, &HostFacts::default()).value.net);
    let report = net.sync(SyncMode::Full, 0);
    let failure = report.failed.first().map(|f| format!("{:?}: {}", f.key, f.error));
    ensure!(report.is_clean(), "the kernel refused: {}", failure.or(report.read_error).unwrap_or_default());
    Ok(())
}

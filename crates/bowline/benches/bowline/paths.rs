//! What a round trip between two pods costs by each way that packets can go: on one node, and between two that share a link or a tunnel.
//!
//! One thread holds both ends and is pinned: with two, what is measured is who of them runs when. All paths are measured in turn, in short
//! slices, each against its floor in the same round: a bare veth for one node, the kernel's own host-gw and VXLAN without a rule for two.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path as File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_dataplane::{HostFacts, LinkFacts};
use bowline_kernel::bpf::{Count, Epoch, Fastpath, Sizes, Tally};
use bowline_kernel::netlink::{NetDriver, Netlink, VethSpec};
use bowline_kernel::netns::NetNs;
use bowline_kernel::nft::NftDriver;
use bowline_kernel::pod::{self, PodLinkSpec};
use bowline_kernel::reconcile::{Driver, Reconciler, SyncMode};
use bowline_model::intent::Intent;
use bowline_model::intent::pods::PodIntent;
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::{Dual, MacAddr};

use crate::report::{Row, Section, Target};
use crate::sockets::Stage;
use crate::stats::{Samples, ratios};
use crate::{Effort, cluster, machine};

const PORT: u16 = 8080;

/// How much of Bowline is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Routes and devices, as anybody makes them by hand.
    Bare,
    /// The rules as well: guards, policy, services, connection tracking.
    Rules,
    /// And the fast path.
    Fast,
}

/// Two pods, and whatever lies between.
struct Path {
    name: &'static str,
    floor: usize,
    targets: [Option<f64>; 2],
    client: NetNs,
    listener: TcpListener,
    /// A connection that is there throughout.
    ends: (TcpStream, TcpStream),
    nodes: Vec<Node>,
    // What holds the other namespace.
    _server: NetNs,
}

/// A node's namespace and what was written there.
struct Node {
    name: NetNs,
    netlink: Netlink,
    tally: Option<Tally>,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let stage = Stage::new()?;
    let vxlan = || BackendConf::default();
    let mut paths = vec![
        bare_veth()?,
        bridge()?,
        one_node(&stage, "one node, routed without a rule", Level::Bare, [None; 2])?,
        one_node(&stage, "one node, Bowline's rules", Level::Rules, [None; 2])?,
        one_node(&stage, "one node, and the fast path", Level::Fast, [Some(1.08), Some(1.12)])?,
    ];
    for (names, backend, targets) in [
        (
            ["host-gw by the kernel", "host-gw, Bowline's rules", "host-gw, and the fast path"],
            BackendConf::HostGw,
            [Some(0.95), Some(0.92)],
        ),
        (["VXLAN by the kernel", "vxlan, Bowline's rules", "vxlan, and the fast path"], vxlan(), [Some(1.0), None]),
    ] {
        let floor = paths.len();
        for (name, level) in names.into_iter().zip([Level::Bare, Level::Rules, Level::Fast]) {
            let targets = if level == Level::Fast { targets } else { [None; 2] };
            paths.push(two_nodes(&stage, name, &backend, level, (floor, targets)).with_context(|| name)?);
        }
    }
    let rounds = effort.pick(3, 15);
    let mut trips: Vec<Vec<f64>> = paths.iter().map(|_| Vec::new()).collect();
    let mut connections = trips.clone();
    // One round to warm up, of which nothing is kept.
    for round in 0..=rounds {
        for (path, (trips, connections)) in paths.iter_mut().zip(trips.iter_mut().zip(&mut connections)) {
            let (trip, connection) = path.slice(Duration::from_millis(150))?;
            if round > 0 {
                trips.push(trip);
                connections.push(connection);
            }
        }
    }
    let mut section = Section::new("paths: a round trip between two pods, and a whole connection with one in it");
    for (samples, what, place) in [(&trips, "round trip", 0), (&connections, "connection", 1)] {
        for (path, kept) in paths.iter().zip(samples.iter()) {
            let floor = samples.get(path.floor).cloned().unwrap_or_default();
            let base = Samples::new(floor.clone()).median();
            let row = Row::median(format!("{what}: {}", path.name), "us", &Samples::new(kept.clone()));
            let row = row.peer_ratios(base, &ratios(kept, &floor));
            let target = path.targets.get(place).copied().flatten();
            section.rows.push(match target {
                Some(target) => row.target(Target::RatioAtMost(target)),
                None => row,
            });
        }
    }
    for path in &paths {
        for node in path.nodes.iter().filter_map(|node| node.tally.as_ref()) {
            ensure!(node.get(Count::Packets) > 1000, "{}: nothing was carried", path.name);
        }
    }
    section.notes.push(format!(
        "peer: for one node a bare veth, for two the kernel's own way without a rule; {rounds} rounds of 0.15 s slices in turn, one pinned thread"
    ));
    Ok(section)
}

impl Path {
    /// Opens the connection that stays.
    fn open(name: &'static str, floor: (usize, [Option<f64>; 2]), ends: (NetNs, NetNs), to: SocketAddr, nodes: Vec<Node>) -> Result<Path> {
        let (client, server) = ends;
        let listener = server.run(|| TcpListener::bind(to))?.with_context(|| to.to_string())?;
        let near = client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))?.with_context(|| format!("{name}: {to}"))?;
        let (far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        Ok(Path { name, floor: floor.0, targets: floor.1, client, listener, ends: (near, far), nodes, _server: server })
    }

    /// Microseconds of a round trip on the connection that stays, and of a connection of its own with one.
    fn slice(&mut self, length: Duration) -> Result<(f64, f64)> {
        let Path { client, listener, ends: (near, far), .. } = self;
        client.run(|| -> Result<(f64, f64)> {
            machine::pin(0)?;
            let trips = timed(length, || trip(near, far))?;
            let to = listener.local_addr()?;
            let connections = timed(length, || {
                let mut near = TcpStream::connect(to)?;
                let (mut far, _) = listener.accept()?;
                trip(&mut near, &mut far)?;
                // By a reset, so that no port is kept.
                Ok(rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO))?)
            })?;
            Ok((trips, connections))
        })?
    }
}

fn trip(near: &mut TcpStream, far: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    near.write_all(&[1])?;
    far.read_exact(&mut byte)?;
    far.write_all(&[2])?;
    Ok(near.read_exact(&mut byte)?)
}

fn timed(length: Duration, mut each: impl FnMut() -> Result<()>) -> Result<f64> {
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < length {
        each()?;
        count += 1;
    }
    ensure!(count > 0, "nothing was done in {length:?}");
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
}

fn pod_address(node: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, node, last)
}

fn server_of(node: u8, last: u8) -> SocketAddr {
    SocketAddr::new(pod_address(node, last).into(), PORT)
}

/// A veth from one pod straight to the other.
fn bare_veth() -> Result<Path> {
    let (client, server) = (NetNs::anonymous()?, NetNs::anonymous()?);
    let mut netlink = Netlink::open_in(&client)?;
    netlink.create_veth(&VethSpec { name: "eth0", peer_name: "eth0", peer_ns: Some(&server), ..VethSpec::default() })?;
    up(&mut netlink, pod_address(1, 2))?;
    up(&mut Netlink::open_in(&server)?, pod_address(1, 3))?;
    Path::open("one node, a bare veth", (0, [None; 2]), (client, server), server_of(1, 3), Vec::new())
}

/// A bridge with a veth to each pod.
fn bridge() -> Result<Path> {
    let (node, client, server) = (NetNs::anonymous()?, NetNs::anonymous()?, NetNs::anonymous()?);
    let mut netlink = Netlink::open_in(&node)?;
    netlink.create_bridge("br0")?;
    for (name, pod, last) in [("va", &client, 2), ("vb", &server, 3)] {
        netlink.create_veth(&VethSpec { name, peer_name: "eth0", peer_ns: Some(pod), ..VethSpec::default() })?;
        netlink.set_master(name, Some("br0"))?;
        netlink.set_up(name)?;
        up(&mut Netlink::open_in(pod)?, pod_address(1, last))?;
    }
    netlink.set_up("br0")?;
    let node = Node { name: node, netlink, tally: None };
    Path::open("one node, a Linux bridge", (0, [None; 2]), (client, server), server_of(1, 3), vec![node])
}

fn up(netlink: &mut Netlink, address: Ipv4Addr) -> Result<()> {
    netlink.add_address("eth0", format!("{address}/24").parse()?, true)?;
    netlink.set_up("lo")?;
    Ok(netlink.set_up("eth0")?)
}

fn one_node(stage: &Stage, name: &'static str, level: Level, targets: [Option<f64>; 2]) -> Result<Path> {
    let (client, server) = (NetNs::anonymous()?, NetNs::anonymous()?);
    let intent = with_pods(cluster::intent(0), 1, &[2, 3]);
    let mut node = Node::new()?;
    node.attach(&intent, &[&client, &server])?;
    node.write(&intent, &HostFacts::default(), level, stage.place(&name.replace(' ', "-"))?.bpffs.as_path())?;
    Path::open(name, (0, targets), (client, server), server_of(1, 3), vec![node])
}

fn two_nodes(stage: &Stage, name: &'static str, backend: &BackendConf, level: Level, floor: (usize, [Option<f64>; 2])) -> Result<Path> {
    let (client, server) = (NetNs::anonymous()?, NetNs::anonymous()?);
    let (mut near, mut far) = (Node::new()?, Node::new()?);
    near.netlink.create_veth(&VethSpec {
        name: "eth0",
        mac: Some(wire_mac(1)),
        peer_name: "eth0",
        peer_mac: Some(wire_mac(2)),
        peer_ns: Some(&far.name),
        ..VethSpec::default()
    })?;
    for (node, number) in [(&mut near, 1), (&mut far, 2)] {
        up(&mut node.netlink, internal(number))?;
    }
    for (node, number, pod, last) in [(&mut near, 1, &client, 2), (&mut far, 2, &server, 3)] {
        let mut intent = cluster::intent(0);
        let routes = Arc::make_mut(&mut intent.routes);
        routes.backend = backend.clone();
        routes.local = Some(fabric_node(number));
        let peer = fabric_node(3 - number);
        routes.peers.insert(peer.name.clone(), peer);
        let intent = with_pods(intent, number, &[last]);
        node.attach(&intent, &[pod])?;
        let link = LinkFacts {
            name: "eth0".into(),
            index: node.netlink.index_of("eth0")?,
            mtu_bytes: 1500,
            addresses: vec![format!("{}/24", internal(number)).parse()?],
        };
        let macs = Dual { v4: Some(wire_mac(3 - number)), v6: None };
        let peer_macs = [(format!("n{}", 3 - number).as_str().into(), macs)].into();
        let host = HostFacts { links: vec![link], default_link: Some("eth0".into()), peer_macs, ..HostFacts::default() };
        let place = stage.place(&format!("{}-{number}", name.replace(' ', "-")))?;
        node.write(&intent, &host, level, &place.bpffs)?;
    }
    Path::open(name, floor, (client, server), server_of(2, 3), vec![near, far])
}

fn internal(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 200, 10 + node)
}

fn wire_mac(node: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0xee, node])
}

fn fabric_node(number: u8) -> Arc<FabricNode> {
    Arc::new(FabricNode {
        name: format!("n{number}").as_str().into(),
        internal: Dual { v4: Some(IpAddr::V4(internal(number))), v6: None },
        pod_cidrs: format!("10.42.{number}.0/24").parse().into_iter().collect(),
        id: u16::from(number),
        vtep_mac: MacAddr([2, 0, 0, 0, 0xff, number]),
    })
}

fn with_pods(mut intent: Intent, node: u8, pods: &[u8]) -> Intent {
    for last in pods {
        let pod = PodIntent {
            pod: None,
            host_ifname: format!("bwl{last}").as_str().into(),
            mac: MacAddr([2, 0, 0, 0, 1, *last]),
            host_mac: MacAddr([2, 0, 0, 0, 2, *last]),
            ips: Dual { v4: Some(pod_address(node, *last).into()), v6: None },
            host_ports: Vec::new(),
        };
        Arc::make_mut(&mut intent.policy).pods.insert(pod.host_ifname.clone(), Arc::default());
        Arc::make_mut(&mut intent.pods).pods.insert(pod.host_ifname.clone(), Arc::new(pod));
    }
    intent
}

impl Node {
    /// An empty namespace.
    fn new() -> Result<Node> {
        let name = NetNs::anonymous()?;
        let mut netlink = Netlink::open_in(&name)?;
        netlink.set_up("lo")?;
        Ok(Node { name, netlink, tally: None })
    }

    fn attach(&mut self, intent: &Intent, namespaces: &[&NetNs]) -> Result<()> {
        for (pod, namespace) in intent.pods.pods.values().zip(namespaces) {
            let spec = PodLinkSpec {
                host_ifname: pod.host_ifname.to_string(),
                host_mac: pod.host_mac,
                pod_ifname: "eth0".into(),
                pod_mac: pod.mac,
                ips: pod.ips,
                mtu_bytes: 1450,
            };
            pod::attach(&mut self.netlink, namespace, &spec)?;
        }
        Ok(())
    }

    /// Writes what the agent would, up to a level.
    fn write(&mut self, intent: &Intent, host: &HostFacts, level: Level, bpffs: &File) -> Result<()> {
        // The node's own address is on loopback where no link has it.
        if self.netlink.link("eth0")?.is_none() {
            self.netlink.add_address("lo", format!("{}/32", internal(1)).parse()?, true)?;
        }
        let host = HostFacts { fast_path: level == Level::Fast, ..host.clone() };
        let delta = bowline_dataplane::lower(&Intent::default(), intent, &host).value;
        if level != Level::Bare {
            sync(NftDriver::open_in(&self.name)?, delta.nft.set)?;
        }
        sync(NetDriver::open_in(&self.name)?, delta.net.set)?;
        if level == Level::Fast {
            let epoch = Epoch::default();
            let hooks = delta.hooks.set;
            self.tally = Some(self.name.run(|| -> Result<Tally> {
                let Fastpath { driver, tally } = Fastpath::open_at(bpffs, &epoch, Sizes::default())?;
                sync(driver, hooks)?;
                Ok(tally)
            })??);
        }
        Ok(())
    }
}

/// Makes the kernel equal to all of it.
fn sync<D: Driver>(driver: D, set: std::collections::BTreeMap<D::Key, D::Value>) -> Result<()> {
    let mut all = Reconciler::new(driver);
    all.want(bowline_model::Delta { set, remove: Default::default() });
    let report = all.sync(SyncMode::Full, 0);
    let failure = report.failed.first().map(|f| format!("{:?}: {}", f.key, f.error));
    ensure!(report.is_clean(), "the kernel refused: {}", failure.or(report.read_error).unwrap_or_default());
    Ok(())
}

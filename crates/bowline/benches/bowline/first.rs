//! What a connection costs to begin: connect and close, from a pod to a pod of the same node, through a ClusterIP among many.
//!
//! The pods are attached and the rules written as the agent does it. Each size has a node of its own; the sizes are measured in turn in
//! short slices, and each is compared with a direct connection on a node without services in the same round. One thread connects, accepts and
//! closes both ends: with two, what is measured is who of them runs when.

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
use crate::report::{Growth, Row, Section, Target};
use crate::services::Loaded;
use crate::sockets::{self, Filled, Stage};
use crate::stats::{Samples, ratios};
use crate::{Effort, machine};

const PORT: u16 = 8080;

/// How a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the endpoint itself.
    Direct,
    /// To a service, with the rules alone.
    ByRules,
    /// To a service, with hooks in front of the rules.
    AtSocket,
}

/// A node with two pods, the client and the server.
struct Node {
    name: &'static str,
    services: f64,
    target: SocketAddr,
    client: NetNs,
    listener: TcpListener,
    // What holds the namespaces and rules.
    _node: NetNs,
    _server: NetNs,
    _rules: Option<Loaded>,
    hooks: Option<Filled>,
    /// Whose sockets the client's are.
    cgroup: PathBuf,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let kinds: [(&'static str, Option<u32>, Way); 8] = [
        ("no services, direct", Some(0), Way::Direct),
        ("no rules of Bowline's at all, direct", None, Way::Direct),
        ("through the ClusterIP of 1 service", Some(1), Way::ByRules),
        ("through a ClusterIP of 10000", Some(10_000), Way::ByRules),
        ("through a ClusterIP of 30000", Some(30_000), Way::ByRules),
        ("at the socket, the ClusterIP of 1 service", Some(1), Way::AtSocket),
        ("at the socket, a ClusterIP of 10000", Some(10_000), Way::AtSocket),
        ("at the socket, a ClusterIP of 30000", Some(30_000), Way::AtSocket),
    ];
    let stage = Stage::new()?;
    let mut nodes = Vec::new();
    for (name, services, way) in kinds {
        nodes.push(Node::new(&stage, name, services, way).with_context(|| name)?);
    }
    let rounds = effort.pick(5, 25);
    let mut samples: Vec<Vec<f64>> = nodes.iter().map(|_| Vec::new()).collect();
    // One round to warm up, of which nothing is kept.
    for round in 0..=rounds {
        for (node, kept) in nodes.iter().zip(&mut samples) {
            let microseconds = node.slice(Duration::from_millis(150))?;
            if round > 0 {
                kept.push(microseconds);
            }
        }
    }
    let mut section = Section::new("first packet: connect and close, pod to pod on one node");
    let base = samples.first().cloned().unwrap_or_default();
    let base_median = Samples::new(base.clone()).median();
    let mut growth =
        Growth { columns: Vec::new(), rows: vec![("connect and close, us".into(), vec![]), ("ratio to no services".into(), vec![])] };
    for (node, kept) in nodes.iter().zip(&samples) {
        let over = ratios(kept, &base);
        let row = Row::median(node.name, "us", &Samples::new(kept.clone())).peer_ratios(base_median, &over);
        section.rows.push(if node.services >= 30_000.0 { row.target(Target::RatioAtMost(1.05)) } else { row });
        if let [times, all] = growth.rows.as_mut_slice()
            && node.services >= 0.0
            && node.hooks.is_none()
        {
            growth.columns.push(format!("{}", node.services));
            times.1.push(Samples::new(kept.clone()).median());
            all.1.push(over.median());
        }
    }
    section.growth = Some(growth);
    section.notes.push(format!("peer: a direct connection with Bowline's rules and no services; {rounds} rounds of 0.15 s slices in turn"));
    Ok(section)
}

impl Node {
    fn new(stage: &Stage, name: &'static str, services: Option<u32>, way: Way) -> Result<Node> {
        let through = way != Way::Direct;
        let (node, client, server) = (NetNs::anonymous()?, NetNs::anonymous()?, NetNs::anonymous()?);
        let (a, b) = (pod_of("bwlclient", 2), pod_of("bwlserver", 3));
        let server_address = SocketAddr::new(address(3), PORT);
        let mut intent = cluster::intent(services.unwrap_or(0));
        attach(&mut intent, &[&a, &b]);
        if through {
            let endpoint = Endpoint { ip: server_address.ip(), port: PORT };
            Arc::make_mut(&mut intent.services).services.insert(cluster::name(0), cluster::service(0, vec![endpoint]));
        }
        let mut netlink = Netlink::open_in(&node)?;
        netlink.set_up("lo")?;
        for own in intent.routes.local.iter().flat_map(|local| local.internal.values()) {
            netlink.add_address("lo", IpNet::from(*own), true)?;
        }
        pod::attach(&mut netlink, &client, &link(&a))?;
        pod::attach(&mut netlink, &server, &link(&b))?;
        write_net(&node, &intent)?;
        let place = stage.place(&name.replace(' ', "-"))?;
        let hooks = match way {
            Way::Direct | Way::ByRules => None,
            Way::AtSocket => Some(node.run(|| Filled::load(&place, intent.clone()))??.0),
        };
        let rules = match services {
            None => None,
            Some(_) => Some(Loaded::load(&node, intent)?.0),
        };
        let target = if through { SocketAddr::new(cluster::vip(0), 80) } else { server_address };
        let listener = server.run(|| TcpListener::bind(server_address))?.with_context(|| server_address.to_string())?;
        let services = services.map_or(-1.0, f64::from);
        Ok(Node { name, services, target, client, listener, _node: node, _server: server, _rules: rules, hooks, cgroup: place.cgroup })
    }

    /// Microseconds of a connection, over a slice of time.
    fn slice(&self, length: Duration) -> Result<f64> {
        sockets::enter(&self.cgroup)?;
        self.client.run(|| -> Result<f64> {
            machine::pin(0)?;
            let (begun, mut count) = (Instant::now(), 0_u32);
            while begun.elapsed() < length {
                self.connect()?;
                count += 1;
            }
            ensure!(count > 0, "no connection in {length:?}");
            Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(count))
        })?
    }

    /// Connects, accepts and closes; the client's end by a reset, so that no port is kept.
    fn connect(&self) -> Result<()> {
        let stream = TcpStream::connect_timeout(&self.target, Duration::from_secs(3)).with_context(|| self.target.to_string())?;
        let (accepted, _) = self.listener.accept().context("accept")?;
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).context("SO_LINGER")?;
        drop(stream);
        drop(accepted);
        Ok(())
    }
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

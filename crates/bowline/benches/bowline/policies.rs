//! Policies: from an event of the API to the rules in the kernel, by the agent's own path: world, compile, lowering, nftables driver, in a
//! namespace of the bench's own. The watch before it and the cut of connections after it are not in it: `enforced` has these.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use bowline_compile::world::Change;
use bowline_compile::{Attached, Compiler, Kind, Object, Settings, Touched, World};
use bowline_kernel::netns::NetNs;
use bowline_model::intent::pods::PodIntent;
use bowline_model::{Dual, MacAddr, PodName};
use serde_json::{Value, json};

use crate::Effort;
use crate::report::{Growth, Row, Section, Target};
use crate::services::Loaded;
use crate::stats::Samples;

/// Pods of the node, each in a namespace of its own, and selected by each policy there.
pub(crate) const LOCAL: u32 = 100;
/// Sizes with few and many policies, and with few and many pods elsewhere that a policy names.
const POLICIES: [u32; 3] = [100, 1000, 10_000];
const PEERS: [u32; 3] = [1000, 10_000, 100_000];
/// Pods elsewhere while the number of policies grows.
const USUAL_PEERS: u32 = 10_000;
/// What the target is about, and within how many milliseconds.
const TARGET_SIZE: u32 = 10_000;
pub(crate) const TARGET_MS: f64 = 50.0;
/// Values of the label by which policies tell pods.
const ROLES: u32 = 10;

/// A cluster as one node's agent knows it, and its rules.
struct Cluster {
    world: World,
    compiler: Compiler,
    touched: Touched,
    loaded: Option<Loaded>,
    revision: u64,
}

/// What was measured at one size.
struct Size {
    count: u32,
    load_s: f64,
    events: Vec<(&'static str, Samples)>,
    rules: usize,
    elements: usize,
}

/// The bench.
pub(crate) fn measure(effort: Effort) -> Result<Section> {
    let mut section = Section::new(&format!("policies: from an event to the kernel, {LOCAL} pods on the node"));
    let (mut by_policies, mut by_peers) = (Vec::new(), Vec::new());
    for policies in POLICIES.into_iter().take(effort.pick(2, POLICIES.len())) {
        eprintln!("  {policies} policies");
        by_policies.push(size(policies, policies, USUAL_PEERS, effort)?);
    }
    for peers in PEERS.into_iter().take(effort.pick(2, PEERS.len())) {
        eprintln!("  {peers} pods elsewhere");
        by_peers.push(size(peers, LOCAL, peers, effort)?);
    }
    for (sizes, what) in [(&by_policies, "policies"), (&by_peers, "pods elsewhere")] {
        for one in sizes {
            let of = format!("{} {what}", one.count);
            section.rows.push(Row::new(format!("load, {of}"), "s", one.load_s));
            for (event, samples) in &one.events {
                section.rows.push(Row::new(format!("{event}, {of}, p50"), "ms", samples.median()));
                let row = Row::new(format!("{event}, {of}, p99"), "ms", samples.percentile(99));
                let judged = what == "policies" && one.count == TARGET_SIZE;
                section.rows.push(if judged { row.target(Target::AtMost(TARGET_MS)) } else { row });
            }
        }
    }
    section.growth = Some(growth(&by_policies, &by_peers));
    section.notes.push(format!(
        "policies are spread over {LOCAL} namespaces with a pod of the node each; {USUAL_PEERS} pods elsewhere; one port and one selector of pods \
         a policy. With pods elsewhere growing there are {LOCAL} policies"
    ));
    Ok(section)
}

fn growth(by_policies: &[Size], by_peers: &[Size]) -> Growth {
    let all: Vec<&Size> = by_policies.iter().chain(by_peers).collect();
    let columns = by_policies.iter().map(|s| format!("{} policies", s.count)).chain(by_peers.iter().map(|s| format!("{} pods", s.count)));
    let mut rows = vec![
        ("load, s".to_owned(), all.iter().map(|size| size.load_s).collect()),
        ("rules".to_owned(), all.iter().map(|size| size.rules as f64).collect()),
        ("elements of sets and maps".to_owned(), all.iter().map(|size| size.elements as f64).collect()),
    ];
    for (at, (event, _)) in all.first().map(|size| size.events.as_slice()).unwrap_or_default().iter().enumerate() {
        let p99 = |size: &&Size| size.events.get(at).map_or(f64::NAN, |(_, samples)| samples.percentile(99));
        rows.push((format!("{event}, p99, ms"), all.iter().map(p99).collect()));
    }
    Growth { columns: columns.map(|column| column.replace(' ', "-")).collect(), rows }
}

fn size(count: u32, policies: u32, peers: u32, effort: Effort) -> Result<Size> {
    let ns = NetNs::anonymous()?;
    let mut cluster = Cluster::new(policies, peers)?;
    let begun = Instant::now();
    let intent = cluster.compile();
    let loaded = Loaded::load(&ns, intent)?.0;
    let load_s = begun.elapsed().as_secs_f64();
    let (rules, elements) = loaded.counts();
    cluster.loaded = Some(loaded);
    let rounds = effort.pick(20, 200);
    let spread = |n: u32, of: u32| n.wrapping_mul(7919) % of;
    let mut events = Vec::new();
    // Of those of the first role, which is named by a policy whatever the number of these; a label that was changed is changed back later.
    let first = peers / ROLES;
    let named = |n: u32| (n / LOCAL) * LOCAL * ROLES + n % LOCAL;
    let label = |n: u32| upsert(Kind::Pod, peer(named(n % first), u32::from((n / first).is_multiple_of(2))));
    events.push(("a label of a pod elsewhere", cluster.events(rounds, label).context("labels of pods elsewhere")?));
    events.push((
        "a policy's port",
        cluster.events(rounds, |n| upsert(Kind::NetworkPolicy, policy(spread(n, policies), 9000 + n))).context("ports")?,
    ));
    let made = |n: u32| policies + n;
    events
        .push(("a policy made", cluster.events(rounds, |n| upsert(Kind::NetworkPolicy, policy(made(n), 8000))).context("policies made")?));
    let gone = |n: u32| Change::Delete(bowline_compile::ObjectKey::new(Kind::NetworkPolicy, namespace(made(n)), policy_name(made(n))));
    events.push(("a policy deleted", cluster.events(rounds, |n| Ok(gone(n))).context("policies deleted")?));
    // The policies of its namespace select the pod no more, and then again.
    let local = |n: u32| local_pod(spread(n / 2, LOCAL), if n.is_multiple_of(2) { "other" } else { "local" });
    events.push((
        "a label of a pod of the node",
        cluster.events(rounds, |n| upsert(Kind::Pod, local(n))).context("labels of pods of the node")?,
    ));
    cluster.loaded.as_mut().context("no rules")?.is_in_the_kernel()?;
    Ok(Size { count, load_s, events, rules, elements })
}

impl Cluster {
    fn new(policies: u32, peers: u32) -> Result<Cluster> {
        let mut settings = Settings::new("n1");
        settings.cluster_cidrs = vec!["10.42.0.0/16".parse()?, "10.64.0.0/12".parse()?];
        settings.service_cidrs = vec!["10.43.0.0/16".parse()?];
        let mut cluster =
            Cluster { world: World::new(settings), compiler: Compiler::default(), touched: Touched::default(), loaded: None, revision: 0 };
        for (name, pods, own) in [("n1", "10.42.1.0/24", "192.168.200.11"), ("n2", "10.64.0.0/12", "192.168.200.12")] {
            cluster.apply(upsert(
                Kind::Node,
                json!({
                    "metadata": {"name": name, "uid": name}, "spec": {"podCIDR": pods, "podCIDRs": [pods]},
                    "status": {"addresses": [{"type": "InternalIP", "address": own}]},
                }),
            )?);
        }
        for n in 0..LOCAL {
            cluster.apply(upsert(Kind::Namespace, json!({"metadata": {"name": namespace(n), "uid": namespace(n)}}))?);
            cluster.apply(upsert(Kind::Pod, local_pod(n, "local"))?);
            cluster.apply(Change::Attached(Box::new(attached(n)?)));
        }
        for n in 0..peers {
            cluster.apply(upsert(Kind::Pod, peer(n, 0))?);
        }
        for n in 0..policies {
            cluster.apply(upsert(Kind::NetworkPolicy, policy(n, 8000))?);
        }
        for kind in Kind::ALL {
            cluster.apply(Change::Synced(kind));
        }
        let problems: Vec<String> = cluster.world.problems().map(ToString::to_string).collect();
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(cluster)
    }

    fn apply(&mut self, change: Change) {
        self.touched.merge(self.world.apply(change).value);
    }

    fn compile(&mut self) -> bowline_model::intent::Intent {
        let mut intent = self.compiler.turn(&self.world, &std::mem::take(&mut self.touched)).value;
        self.revision += 1;
        intent.revision = self.revision;
        intent
    }

    /// Milliseconds of each of so many events, from the change of the world until the kernel has it.
    fn events(&mut self, count: u32, of: impl Fn(u32) -> Result<Change>) -> Result<Samples> {
        let mut took = Vec::new();
        for n in 0..count {
            let change = of(n)?;
            let begun = Instant::now();
            self.apply(change);
            let intent = self.compile();
            let loaded = self.loaded.as_mut().context("no rules")?;
            loaded.change(intent).with_context(|| format!("event {n}"))?;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Samples::new(took))
    }
}

fn upsert(kind: Kind, object: Value) -> Result<Change> {
    let read = Object::decode(kind, object).map_err(|unreadable| anyhow!("{}", unreadable.problem))?;
    Ok(Change::Upsert(read))
}

/// The namespace of policy `n`, and of the node's pod `n`.
pub(crate) fn namespace(n: u32) -> String {
    format!("ns-{}", n % LOCAL)
}

fn pod(name: &str, namespace: &str, labels: &Value, node: &str, ip: Ipv4Addr) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}"), "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    })
}

fn local_address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be_bytes([10, 42, 1, 2]) + n)
}

fn local_pod(n: u32, app: &str) -> Value {
    pod("local", &namespace(n), &json!({"app": app}), "n1", local_address(n))
}

/// Pod number `n` elsewhere; its role follows from its number, and goes on by one with each turn.
fn peer(n: u32, turn: u32) -> Value {
    let role = (n / LOCAL + turn) % ROLES;
    let ip = Ipv4Addr::from(u32::from_be_bytes([10, 64, 0, 0]) + n + 1);
    pod(&format!("peer-{n}"), &namespace(n), &json!({"role": format!("r{role}")}), "n2", ip)
}

fn policy_name(n: u32) -> String {
    format!("policy-{n}")
}

/// Pods of one role in the namespace may reach the node's pod there on one port.
pub(crate) fn policy(n: u32, port: u32) -> Value {
    let role = format!("r{}", n / LOCAL % ROLES);
    json!({
        "metadata": {"name": policy_name(n), "namespace": namespace(n), "uid": policy_name(n)},
        "spec": {
            "podSelector": {"matchLabels": {"app": "local"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": role}}}], "ports": [{"protocol": "TCP", "port": port}]}],
        },
    })
}

fn attached(n: u32) -> Result<Attached> {
    let byte = u8::try_from(n)?;
    let name = PodName::new(namespace(n), "local");
    Ok(Attached {
        container_id: format!("c{n}").into(),
        ifname: "eth0".into(),
        pod_uid: Some(format!("{}/local", namespace(n)).into()),
        intent: PodIntent {
            pod: Some(name),
            host_ifname: Arc::from(format!("bwl{n}")),
            mac: MacAddr([2, 0, 0, 0, 1, byte]),
            host_mac: MacAddr([2, 0, 0, 0, 2, byte]),
            ips: Dual { v4: Some(IpAddr::V4(local_address(n))), v6: None },
            host_ports: Vec::new(),
        },
    })
}

//! The fields that are taken, from what was written to what is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::tree::{Node, Value};
use super::walk::Walk;
use super::{Config, Conntrack, HEALTHZ_PORT, KubeProxyMode, METRICS_PORT, NodePortAddresses, default_addresses};

/// A text with the line that it is on.
type Text<'a> = (&'a str, u64);

/// Puts the fields together; what is wrong is said to the walk.
pub(super) fn build(walk: &mut Walk<'_>) -> Config {
    let mode = mode(walk);
    detection(walk);
    let bind = bind(walk);
    let (healthz, metrics) = default_addresses(bind);
    Config {
        mode,
        cluster_cidrs: cluster_cidrs(walk),
        node_port_addresses: node_port_addresses(walk, mode),
        node_name: text(walk, "hostnameOverride").map(|(name, _)| name.trim().to_lowercase()).filter(|name| !name.is_empty()),
        kubeconfig: text(walk, "clientConnection.kubeconfig").map(|(path, _)| path.into()),
        healthz: listening(walk, "healthzBindAddress", HEALTHZ_PORT).unwrap_or(healthz),
        metrics: listening(walk, "metricsBindAddress", METRICS_PORT).unwrap_or(metrics),
        bind_hard_fail: flag(walk, "bindAddressHardFail"),
        conntrack: conntrack(walk),
        oom_score_adj: integer(walk, "oomScoreAdj", -1000..=1000),
    }
}

/// A text that is not empty.
fn text<'a>(walk: &Walk<'a>, path: &'static str) -> Option<Text<'a>> {
    let node = walk.get(path)?;
    node.text().filter(|text| !text.is_empty()).map(|text| (text, node.line))
}

fn flag(walk: &Walk<'_>, path: &'static str) -> bool {
    matches!(walk.get(path).map(|node| &node.value), Some(Value::Bool(true)))
}

fn integer(walk: &mut Walk<'_>, path: &'static str, range: std::ops::RangeInclusive<i32>) -> Option<i32> {
    let Some(Node { line, value: Value::Integer(number) }) = walk.get(path) else { return None };
    match i32::try_from(*number).ok().filter(|number| range.contains(number)) {
        Some(number) => Some(number),
        None => {
            walk.wrong(*line, path, format!("{number} is out of range"), format!("write {} to {}", range.start(), range.end()));
            None
        }
    }
}

fn mode(walk: &mut Walk<'_>) -> KubeProxyMode {
    let Some((word, line)) = text(walk, "mode") else { return KubeProxyMode::Default };
    match KubeProxyMode::of(word) {
        Some(mode) => mode,
        None => {
            let what = format!("kube-proxy has no mode `{}` on Linux", word.escape_debug());
            walk.wrong(
                line,
                "mode",
                what,
                "write nftables, iptables, ipvs or nothing; Bowline's own modes are chosen by serviceMode in its settings",
            );
            KubeProxyMode::Default
        }
    }
}

fn detection(walk: &mut Walk<'_>) {
    let Some((word, line)) = text(walk, "detectLocalMode") else { return };
    match word {
        // What it is for is the case anyhow.
        "ClusterCIDR" => {}
        "NodeCIDR" | "BridgeInterface" | "InterfaceNamePrefix" => {
            let why = "a pod's traffic is told by the pod's own interface, not by address, bridge or name";
            walk.idle(line, "detectLocalMode", "this setting does nothing in Bowline", why);
        }
        other => {
            let what = format!("kube-proxy has no way `{}` of telling local traffic", other.escape_debug());
            walk.wrong(line, "detectLocalMode", what, "write ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix");
        }
    }
}

fn bind(walk: &mut Walk<'_>) -> IpAddr {
    let default = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let Some((word, line)) = text(walk, "bindAddress") else { return default };
    match word.parse::<IpAddr>() {
        Ok(ip) => {
            if !ip.is_unspecified() {
                let why =
                    "the node's addresses are those of its Node object; of this one only the family counts, for the two addresses below";
                walk.idle(line, "bindAddress", "this address says less than to kube-proxy", why);
            }
            ip
        }
        Err(_) => {
            walk.wrong(line, "bindAddress", format!("`{}` is no IP address", word.escape_debug()), "write an address, 0.0.0.0 or \"::\"");
            default
        }
    }
}

fn listening(walk: &mut Walk<'_>, path: &'static str, port: u16) -> Option<SocketAddr> {
    let (word, line) = text(walk, path)?;
    let found = address(word, port);
    if found.is_none() {
        let what = format!("`{}` is no address to listen on", word.escape_debug());
        walk.wrong(line, path, what, format!("write ADDRESS or ADDRESS:PORT, e.g. 0.0.0.0:{port} or \"[::]:{port}\""));
    }
    found
}

/// An address to listen on, with the port that is meant if it names none. Port 0 is none.
pub fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, port)));
    text.parse::<SocketAddr>().ok().or_else(alone).filter(|address| address.port() != 0)
}

/// A network as Go reads it: bits behind the prefix are dropped.
fn network(text: &str) -> Option<IpNet> {
    text.trim().parse::<IpNet>().ok().map(|net| net.trunc())
}

fn cluster_cidrs(walk: &mut Walk<'_>) -> Vec<IpNet> {
    let Some((word, line)) = text(walk, "clusterCIDR") else { return Vec::new() };
    let mut found: Vec<IpNet> = Vec::new();
    let fix = "write one network, or one of each family with a comma between: 10.244.0.0/16,fd42::/56";
    for part in word.split(',') {
        let Some(net) = network(part) else {
            walk.wrong(line, "clusterCIDR", format!("`{}` is no network", part.escape_debug()), fix);
            return Vec::new();
        };
        if found.iter().any(|other| other.addr().is_ipv4() == net.addr().is_ipv4()) {
            walk.wrong(line, "clusterCIDR", format!("`{part}` is a second network of its family"), fix);
            return Vec::new();
        }
        found.push(net);
    }
    found
}

fn node_port_addresses(walk: &mut Walk<'_>, mode: KubeProxyMode) -> NodePortAddresses {
    const PATH: &str = "nodePortAddresses";
    const PRIMARY: &str = "primary";
    let items: &[Node] = match walk.get(PATH).map(|node| &node.value) {
        Some(Value::List(items)) => items,
        Some(Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Number(_) | Value::Text(_) | Value::Map(_)) | None => &[],
    };
    // kube-proxy's own default in this mode, and in no other.
    if items.is_empty() && mode == KubeProxyMode::Nftables {
        return NodePortAddresses::Primary;
    }
    if items.len() == 1 && items.iter().all(|item| item.text() == Some(PRIMARY)) {
        return NodePortAddresses::Primary;
    }
    let mut networks = Vec::new();
    for item in items {
        let word = item.text().unwrap_or_default();
        match network(word) {
            Some(net) => networks.push(net),
            None if word == PRIMARY => {
                walk.wrong(item.line, PATH, "`primary` stands beside networks", "write `primary` alone, or networks")
            }
            None => {
                let fix = "write networks such as 192.168.0.0/16, or the one word primary";
                walk.wrong(item.line, PATH, format!("`{}` is no network", word.escape_debug()), fix);
            }
        }
    }
    NodePortAddresses::Networks(networks)
}

fn conntrack(walk: &mut Walk<'_>) -> Conntrack {
    let defaults = Conntrack::default();
    let mut number = |path, default: u32| integer(walk, path, 0..=i32::MAX).map_or(default, i32::unsigned_abs);
    let max_per_core = number("conntrack.maxPerCore", defaults.max_per_core);
    let min = number("conntrack.min", defaults.min);
    let time = |path, default| text(walk, path).and_then(|(text, _)| duration(text)).unwrap_or(default);
    Conntrack {
        max_per_core,
        min,
        tcp_established: time("conntrack.tcpEstablishedTimeout", defaults.tcp_established),
        tcp_close_wait: time("conntrack.tcpCloseWaitTimeout", defaults.tcp_close_wait),
        tcp_be_liberal: flag(walk, "conntrack.tcpBeLiberal"),
        udp: time("conntrack.udpTimeout", defaults.udp),
        udp_stream: time("conntrack.udpStreamTimeout", defaults.udp_stream),
    }
}

/// A time as Go writes it: numbers, whole or not, each with its unit (`1h30m`, `1.5s`, `0`). None if it is negative, as no field may be.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    // Go's own times end at 292 years.
    Duration::try_from_secs_f64(seconds).ok().filter(|time| time.as_nanos() <= i64::MAX.unsigned_abs().into())
}

//! Giving a table's names their addresses.

use std::net::IpAddr;

use bowline_model::intent::pods::HostPort;
use bowline_model::{Family, NodeName, Protocol};
use serde_json::Value;

use super::super::notation;
use super::{Case, Table};
use crate::world::{Change, Kind, Settings, World};

/// Who has which address.
pub trait Places {
    /// The address of somebody in a family.
    fn address(&self, name: &str, family: Family) -> IpAddr;
}

impl<F: Fn(&str, Family) -> IpAddr> Places for F {
    fn address(&self, name: &str, family: Family) -> IpAddr {
        self(name, family)
    }
}

/// Addresses of those that are the same wherever the table is run:
///
/// | name | whom |
/// |---|---|
/// | v1, v2, … | cluster addresses of services |
/// | w1, w2, … | cluster addresses in networks that a ServiceCIDR adds |
/// | free | a cluster address that no service has |
/// | dns | the cluster DNS |
/// | e1, e2, … | addresses that services may claim from outside |
/// | alien | an address of the world that nobody may claim (8.8.8.8) |
pub fn place(name: &str, family: Family) -> Option<IpAddr> {
    let number = || name.get(1..)?.parse::<u16>().ok();
    let (v4, v6) = match (name.as_bytes().first()?, name) {
        (_, "free") => ("10.43.7.250".to_owned(), "fd43::7fa".to_owned()),
        (_, "dns") => ("10.43.0.10".to_owned(), "fd43::a".to_owned()),
        (_, "alien") => ("8.8.8.8".to_owned(), "2001:4860:4860::8888".to_owned()),
        (b'v', _) => (format!("10.43.7.{}", number()?), format!("fd43::{:x}", 0x700 + number()?)),
        (b'w', _) => (format!("10.44.7.{}", number()?), format!("fd44::{:x}", 0x700 + number()?)),
        (b'e', _) => (format!("198.51.100.{}", number()?), format!("2001:db8:51::{:x}", number()?)),
        _ => return None,
    };
    Some(if family == Family::V4 { v4 } else { v6 }.parse().unwrap())
}

/// Addresses of everyone where nothing is real: nodes 192.168.200.11 and upwards with 172.16.1.1 beside it (`n1b`), pods
/// on 10.42.1.0/24 and upwards, the client outside 203.0.113.10, and those of [`place`].
pub fn plain(table: &Table) -> impl Fn(&str, Family) -> IpAddr + use<> {
    let pods: Vec<(String, String)> = table.pods.iter().map(|(name, pod)| (name.clone(), pod.node.clone())).collect();
    let nodes: Vec<String> = table.nodes.keys().cloned().collect();
    move |name, family| {
        let number = |node: &str| node[1..].parse::<u16>().unwrap();
        let v4 = family == Family::V4;
        let text = if let Some(at) = pods.iter().position(|(pod, _)| pod == name) {
            let node = number(&pods[at].1);
            if v4 { format!("10.42.{node}.{}", at + 11) } else { format!("fd42:0:0:{node}::{:x}", at + 11) }
        } else if nodes.iter().any(|node| node == name) {
            let end = number(name) + 10;
            if v4 { format!("192.168.200.{end}") } else { format!("fd00:200::{end:x}") }
        } else if let Some(node) = name.strip_suffix('b').filter(|node| nodes.iter().any(|known| known == node)) {
            if v4 { format!("172.16.{}.1", number(node)) } else { format!("fd16:{}::1", number(node)) }
        } else {
            match (name, v4) {
                ("out", true) => "203.0.113.10".into(),
                ("out", false) => "2001:db8:113::10".into(),
                ("lo", true) => "127.0.0.1".into(),
                ("lo", false) => "::1".into(),
                _ => return place(name, family).unwrap_or_else(|| panic!("who is {name}?")),
            }
        };
        text.parse().unwrap()
    }
}

impl Case {
    /// The objects, with addresses for names, in the notation.
    pub fn lines(&self, table: &Table, places: &dyn Places, families: &[Family]) -> Vec<String> {
        self.objects.iter().flat_map(|line| expand(table, line, places, families)).collect()
    }

    /// The objects as the API has them.
    pub fn json(&self, table: &Table, places: &dyn Places, families: &[Family]) -> Vec<(Kind, Value)> {
        self.lines(table, places, families).iter().filter_map(|line| notation::object(line)).collect()
    }
}

impl Table {
    /// What the agent of a node is told.
    pub fn settings(&self, node: &str) -> Settings {
        let mut settings = Settings { node_name: NodeName::from(node), ..notation::settings() };
        for (key, networks) in &self.settings {
            match key.as_str() {
                "externalIPs" => settings.external_ips.clone_from(networks),
                "loadBalancerIPs" => settings.load_balancer_ips.clone_from(networks),
                "nodePortAddresses" => settings.node_port_addresses.clone_from(networks),
                other => panic!("no such setting: {other}"),
            }
        }
        settings
    }

    /// The world of a node with the cast and the objects of some cases; pods of the node are attached.
    pub fn world(&self, node: &str, cases: &[&Case], places: &dyn Places) -> World {
        let mut world = World::new(self.settings(node));
        for kind in Kind::ALL {
            world.apply(Change::Synced(kind));
        }
        let objects = cases.iter().flat_map(|case| case.lines(self, places, &Family::BOTH));
        for mut change in self.cast_lines(node, places).into_iter().chain(objects).flat_map(|line| notation::changes(&line)) {
            if let Change::Attached(attached) = &mut change {
                let name = attached.intent.pod.as_ref().map(|pod| pod.name.to_string()).unwrap_or_default();
                let ports = self.pods[&name].host_port.iter();
                attached.intent.host_ports.extend(ports.map(|(host_port, container_port)| HostPort {
                    host_ip: None,
                    host_port: *host_port,
                    container_port: *container_port,
                    protocol: Protocol::Tcp,
                }));
            }
            world.apply(change);
        }
        world
    }

    fn cast_lines(&self, node: &str, places: &dyn Places) -> Vec<String> {
        let both = |name: &str| Family::BOTH.map(|family| self.address(places, name, family).to_string()).join(" ");
        let mut lines = Vec::new();
        for (name, zone) in &self.nodes {
            let zone = zone.as_ref().map(|zone| format!(" zone={zone}")).unwrap_or_default();
            let number = &name[1..];
            lines.push(format!("node {name} {} cidr=10.42.{number}.0/24 cidr=fd42:0:0:{number}::/64{zone}", both(name)));
        }
        for (name, pod) in &self.pods {
            let flag = match (pod.hostnet, pod.node == node) {
                (true, _) => " +hostnet",
                (false, true) => " +attached",
                (false, false) => "",
            };
            lines.push(format!("pod default/{name} {} @{}{flag}", both(name), pod.node));
        }
        lines
    }
}

/// A line of an object with addresses for its names.
fn expand(table: &Table, line: &str, places: &dyn Places, families: &[Family]) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (verb, name, rest) = (words[0], words[1], &words[2..]);
    match verb {
        "slice" => {
            let of = |family: &Family| {
                let rest: Vec<String> = rest.iter().flat_map(|word| endpoint(table, word, places, *family)).collect();
                format!("slice default/{name}-{family} of={} {}", name.split('.').next().unwrap(), rest.join(" ")).to_lowercase()
            };
            families.iter().map(of).collect()
        }
        "svc" | "cidrs" => {
            let rest: Vec<String> = rest.iter().flat_map(|word| both(table, word, places, families)).collect();
            let space = if verb == "svc" { "default/" } else { "" };
            vec![format!("{verb} {space}{name} {}", rest.join(" "))]
        }
        other => panic!("no such object: {other}"),
    }
}

/// A word with a name, once for each of its families; any other as it is.
fn both(table: &Table, word: &str, places: &dyn Places, families: &[Family]) -> Vec<String> {
    let Some((before, name)) = word.split_once('$') else { return vec![word.to_owned()] };
    let (name, only) = name.split_once('/').unwrap_or((name, ""));
    let of = |family: &&Family| only.is_empty() || only == if **family == Family::V4 { "4" } else { "6" };
    families.iter().filter(of).map(|family| format!("{before}{}", table.address(places, name, *family))).collect()
}

/// An endpoint `$a`, on its pod's node unless another is said, with its state and hints.
fn endpoint(table: &Table, word: &str, places: &dyn Places, family: Family) -> Option<String> {
    let Some(rest) = word.strip_prefix('$') else { return Some(word.to_owned()) };
    let end = rest.find(['@', '!', '~', '/']).unwrap_or(rest.len());
    let (name, mut rest) = rest.split_at(end);
    if let Some(only) = rest.strip_prefix('/') {
        let (digit, after) = only.split_at(1);
        if digit != if family == Family::V4 { "4" } else { "6" } {
            return None;
        }
        rest = after;
    }
    let node = match table.pods.get(name) {
        Some(pod) if !rest.starts_with('@') => format!("@{}", pod.node),
        Some(_) | None => String::new(),
    };
    Some(format!("{}{node}{rest}", table.address(places, name, family)))
}

//! What a lab is made with: the flags of `lab up`, checked and filled in.
//!
//! Invariant: [`Options`] holds no defaults that depend on anything outside itself; the same options make the same lab.

use std::net::IpAddr;
use std::path::PathBuf;

use bowline_model::checked::Problem;
use bowline_model::net::{Dual, Family};
use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::image::Image;
use crate::remote::Remote;

/// Most nodes that a lab may have: node addresses end in .11 and upwards.
const MOST_NODES: u16 = 200;

/// The way packets travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A VXLAN tunnel.
    Vxlan,
    /// Plain routes by way of the other node, which must be a neighbour.
    HostGw,
}

impl Backend {
    /// The word for it in the agent's configuration.
    pub fn word(self) -> &'static str {
        match self {
            Backend::Vxlan => "vxlan",
            Backend::HostGw => "host-gw",
        }
    }
}

/// How agents serve services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ServiceMode {
    /// At the socket where the kernel has what that needs.
    #[default]
    Auto,
    /// In nftables alone.
    Nftables,
    /// At the socket where there is one, in nftables otherwise.
    Ebpf,
}

impl ServiceMode {
    /// The word for it in the agent's configuration.
    pub fn word(self) -> &'static str {
        match self {
            ServiceMode::Auto => "auto",
            ServiceMode::Nftables => "nftables",
            ServiceMode::Ebpf => "ebpf",
        }
    }
}

/// What lies between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Underlay {
    /// One LAN.
    Lan,
    /// A subnet for each node, with a router between them.
    Routed,
}

/// Whether the lab starts agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Agents {
    /// One on each node.
    Bowline,
    /// None: nodes stay NotReady until someone starts a network of another kind.
    None,
}

/// What a lab is made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Options {
    /// Its name: a DNS label.
    pub name: String,
    /// How many nodes.
    pub nodes: u16,
    /// The backend.
    pub backend: Backend,
    /// With vxlan: plain routes between nodes on one LAN.
    pub direct_routing: bool,
    /// How services are served.
    #[serde(default)]
    pub service_mode: ServiceMode,
    /// What lies between the nodes.
    pub underlay: Underlay,
    /// Pod networks.
    pub pod_cidr: Dual<IpNet>,
    /// Service networks.
    pub service_cidr: Dual<IpNet>,
    /// Networks of the nodes' own addresses (the first of them on a routed underlay).
    pub node_cidr: Dual<IpNet>,
    /// The cluster DNS's service addresses.
    pub dns_ip: Vec<IpAddr>,
    /// Contents of the Corefile, if another than the lab's own is wanted.
    pub corefile: Option<String>,
    /// First and last port for NodePort services.
    pub node_port_range: (u16, u16),
    /// More addresses of the outside client.
    pub outside_addresses: Vec<IpAddr>,
    /// Whether agents are started.
    pub agents: Agents,
    /// Machines and what lies between them, and nothing on them: no API, no kubelets, no agents, no DNS.
    #[serde(default)]
    pub bare: bool,
    /// Kubeconfig of an API server outside, in place of the lab's own.
    #[serde(default)]
    pub apiserver: Option<PathBuf>,
    /// Programs that stand for images.
    #[serde(default)]
    pub images: Vec<Image>,
    /// Go on when `lab up` is gone.
    pub detached: bool,
    /// End when the process ends of which standard input is a descriptor.
    pub leashed: bool,
}

impl Options {
    /// The families in use, the primary one first.
    pub fn families(&self) -> Vec<Family> {
        Family::BOTH.into_iter().filter(|family| self.pod_cidr.get(*family).is_some()).collect()
    }
}

/// Flags of `lab up`.
#[derive(Debug, Clone, clap::Args)]
pub struct UpArgs {
    /// Name of the lab; several can be up side by side
    #[arg(long, default_value = "default", env = "BOWLINE_LAB")]
    pub name: String,
    /// How many nodes
    #[arg(long, default_value_t = 3)]
    pub nodes: u16,
    /// How packets travel between nodes
    #[arg(long, value_enum, default_value_t = Backend::Vxlan)]
    pub backend: Backend,
    /// With vxlan: plain routes between nodes that are neighbours
    #[arg(long)]
    pub direct_routing: bool,
    /// How services are served
    #[arg(long, value_enum, default_value_t = ServiceMode::Auto)]
    pub service_mode: ServiceMode,
    /// What lies between the nodes: one LAN, or a router with a subnet for each
    #[arg(long, value_enum, default_value_t = Underlay::Lan)]
    pub underlay: Underlay,
    /// Pod network; once for each family [default: 10.42.0.0/16, fd42::/56]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub pod_cidr: Vec<IpNet>,
    /// Service network; once for each family [default: 10.43.0.0/16, fd43::/112]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Network of the nodes' own addresses; once for each family [default: 192.168.200.0/24, fd00:200::/64]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub node_cidr: Vec<IpNet>,
    /// IPv4 and IPv6
    #[arg(long, conflicts_with = "ipv6")]
    pub dual_stack: bool,
    /// IPv6 only
    #[arg(long)]
    pub ipv6: bool,
    /// Address of the cluster DNS [default: the tenth of the service network]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub dns_ip: Vec<IpAddr>,
    /// Corefile for the cluster DNS, instead of the lab's own
    #[arg(long, value_name = "FILE")]
    pub corefile: Option<PathBuf>,
    /// Ports for services of type NodePort
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub node_port_range: String,
    /// One more address of the client outside; repeatable
    #[arg(long, value_name = "ADDRESS")]
    pub outside_address: Vec<IpAddr>,
    /// How long to wait until all is ready (30s, 2m)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub wait: std::time::Duration,
    /// Come back as soon as the API answers
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// Take the lab down when the process of this number ends
    #[arg(long, value_name = "PID", hide = true)]
    pub leash: Option<i32>,
    /// What runs on the nodes
    #[arg(long, value_enum, default_value_t = Agents::Bowline, hide = true)]
    pub agents: Agents,
    /// Make the machines and what lies between them, and put nothing on them: no API, no kubelets, no agents
    #[arg(long, hide = true)]
    pub bare: bool,
    /// Use the Kubernetes API server of this kubeconfig instead of the lab's own
    #[arg(long, value_name = "KUBECONFIG", conflicts_with = "bare")]
    pub apiserver: Option<PathBuf>,
    /// Run this program in containers of the image NAME, where it is seen as /FILE; repeatable
    #[arg(long, value_name = "NAME=FILE")]
    pub image: Vec<Image>,
}

/// Reads `90s`, `2m`, `1m30s` or a plain number of seconds.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is not a duration: write 30s or 2m");
    let (mut total, mut digits) = (0_u64, String::new());
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' => {
                digits.push(letter);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        total = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)?.checked_add(total)).ok_or_else(wrong)?;
        digits.clear();
    }
    if !digits.is_empty() {
        total = digits.parse::<u64>().ok().filter(|_| total == 0).ok_or_else(wrong)?;
    } else if text.is_empty() {
        return Err(wrong());
    }
    Ok(std::time::Duration::from_secs(total))
}

/// Says which flag is wrong, why, and what would be right.
fn wrong(flag: &str, why: impl Into<String>, fix: &str) -> Problem {
    Problem::new(1001, "the lab's options do not fit together", flag, fix).because(why)
}

impl UpArgs {
    /// The options that these flags mean.
    ///
    /// # Errors
    /// A problem that names the flag. Nothing has been touched but the Corefile, which is read.
    pub fn options(&self) -> Result<Options, Problem> {
        check_name(&self.name)?;
        if self.nodes == 0 || self.nodes > MOST_NODES {
            return Err(wrong("--nodes", format!("{} nodes", self.nodes), "choose from 1 to 200"));
        }
        let families: &[Family] = match (self.dual_stack, self.ipv6) {
            (true, _) => &Family::BOTH,
            (false, true) => &[Family::V6],
            (false, false) => &[Family::V4],
        };
        let pod_cidr = networks("--pod-cidr", &self.pod_cidr, ["10.42.0.0/16", "fd42::/56"], families)?;
        let service_cidr = networks("--service-cidr", &self.service_cidr, ["10.43.0.0/16", "fd43::/112"], families)?;
        let node_cidr = networks("--node-cidr", &self.node_cidr, ["192.168.200.0/24", "fd00:200::/64"], families)?;
        check_node_cidr(&node_cidr, self.nodes)?;
        check_pod_cidr(&pod_cidr, self.nodes)?;
        check_overlap(&[("--pod-cidr", &pod_cidr), ("--service-cidr", &service_cidr), ("--node-cidr", &node_cidr)])?;
        if self.direct_routing && self.backend != Backend::Vxlan {
            return Err(wrong("--direct-routing", "only the vxlan backend has it", "leave it out: host-gw always routes"));
        }
        Ok(Options {
            name: self.name.clone(),
            nodes: self.nodes,
            backend: self.backend,
            service_mode: self.service_mode,
            direct_routing: self.direct_routing,
            underlay: self.underlay,
            dns_ip: dns_addresses(&self.dns_ip, &service_cidr)?,
            pod_cidr,
            service_cidr,
            node_cidr,
            corefile: self.corefile.as_deref().map(read_corefile).transpose()?,
            node_port_range: port_range(&self.node_port_range)?,
            outside_addresses: self.outside_address.clone(),
            agents: if self.bare { Agents::None } else { self.agents },
            bare: self.bare,
            apiserver: self.apiserver.as_deref().map(check_apiserver).transpose()?,
            images: self.image.clone(),
            detached: self.no_wait,
            leashed: self.leash.is_some(),
        })
    }
}

fn read_corefile(path: &std::path::Path) -> Result<String, Problem> {
    std::fs::read_to_string(path)
        .map_err(|error| wrong("--corefile", format!("{}: {error}", path.display()), "give the path of a readable Corefile"))
}

/// The daemon reads the file again: it must not depend on where `lab up` was called.
fn check_apiserver(path: &std::path::Path) -> Result<PathBuf, Problem> {
    let refused =
        |why: String| wrong("--apiserver", format!("{}: {why}", path.display()), "give the path of an administrator's kubeconfig");
    Remote::read(path).map_err(|error| refused(format!("{error:#}")))?;
    std::path::absolute(path).map_err(|error| refused(error.to_string()))
}

/// A lab's name becomes the name of a directory and a cgroup.
pub(crate) fn check_name(name: &str) -> Result<(), Problem> {
    let good = (1..=40).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(wrong("--name", format!("{name:?}"), "use up to 40 small letters, digits and inner hyphens"))
}

/// The networks given, with defaults for the families that lack one.
fn networks(flag: &str, given: &[IpNet], defaults: [&str; 2], families: &[Family]) -> Result<Dual<IpNet>, Problem> {
    let mut found = Dual::default();
    for network in given {
        let family = Family::of_prefix(network);
        if !families.contains(&family) {
            return Err(wrong(flag, format!("{network} is {family}, which this lab has not"), "add --dual-stack or --ipv6"));
        }
        if network.trunc() != *network {
            return Err(wrong(flag, format!("{network} has host bits set"), &format!("write {}", network.trunc())));
        }
        if found.get(family).is_some() {
            return Err(wrong(flag, format!("{network} is a second one of {family}"), "give one for each family"));
        }
        *found.get_mut(family) = Some(*network);
    }
    for (family, default) in Family::BOTH.into_iter().zip(defaults) {
        if families.contains(&family) && found.get(family).is_none() {
            *found.get_mut(family) = default.parse().ok();
        }
    }
    Ok(found)
}

fn check_node_cidr(cidr: &Dual<IpNet>, nodes: u16) -> Result<(), Problem> {
    for (_, network) in cidr.iter() {
        let host_bits = network.max_prefix_len() - network.prefix_len();
        if host_bits < 16 && (1_u32 << host_bits) < u32::from(nodes) + 12 {
            return Err(wrong("--node-cidr", format!("{network} is too small for {nodes} nodes"), "give a /24 (IPv6: /64)"));
        }
    }
    Ok(())
}

fn check_pod_cidr(cidr: &Dual<IpNet>, nodes: u16) -> Result<(), Problem> {
    for (family, network) in cidr.iter() {
        let node_bits = match family {
            Family::V4 => 24,
            Family::V6 => 64,
        };
        let bits = node_bits - i16::from(network.prefix_len());
        if bits < 0 || (bits < 16 && (1_i32 << bits) < i32::from(nodes)) {
            let why = format!("{network} has no /{node_bits} for each of {nodes} nodes");
            return Err(wrong("--pod-cidr", why, "give a shorter prefix"));
        }
    }
    Ok(())
}

fn check_overlap(all: &[(&str, &Dual<IpNet>)]) -> Result<(), Problem> {
    for (index, (flag, networks)) in all.iter().enumerate() {
        for (other_flag, others) in all.iter().take(index) {
            for (a, b) in networks.values().flat_map(|a| others.values().map(move |b| (a, b))) {
                if a.contains(b) || b.contains(a) {
                    // A node network inside the service range occurs in the wild, but nothing can work so.
                    return Err(wrong(flag, format!("{a} overlaps with {b} of {other_flag}"), "choose others"));
                }
            }
        }
    }
    Ok(())
}

fn dns_addresses(given: &[IpAddr], services: &Dual<IpNet>) -> Result<Vec<IpAddr>, Problem> {
    for address in given {
        if !services.values().any(|network| network.contains(address)) {
            let why = format!("{address} is not in the service network");
            return Err(wrong("--dns-ip", why, "choose one of --service-cidr"));
        }
    }
    let mut addresses = given.to_vec();
    for (family, network) in services.iter() {
        if !given.iter().any(|address| Family::of(address) == family) {
            addresses.extend(crate::plan::nth(network, 10));
        }
    }
    Ok(addresses)
}

fn port_range(text: &str) -> Result<(u16, u16), Problem> {
    let parsed = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    parsed
        .filter(|(first, last): &(u16, u16)| first <= last && *first > 0)
        .ok_or_else(|| wrong("--node-port-range", format!("{text:?}"), "write it as 30000-32767"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UpArgs,
    }

    fn parse(line: &str) -> Result<Options, Problem> {
        Line::try_parse_from(std::iter::once("up").chain(line.split_whitespace())).unwrap().args.options()
    }

    #[test]
    fn defaults_are_one_family() {
        let options = parse("").unwrap();
        assert_eq!(options.families(), [Family::V4]);
        assert_eq!(options.dns_ip, ["10.43.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(options.node_port_range, (30000, 32767));
    }

    #[test]
    fn families_follow_the_flags() {
        assert_eq!(parse("--dual-stack").unwrap().families(), Family::BOTH);
        let six = parse("--ipv6").unwrap();
        assert_eq!(six.families(), [Family::V6]);
        assert_eq!(six.dns_ip, ["fd43::a".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, flag, word) in [
            ("--nodes 0", "--nodes", "0 nodes"),
            ("--name ../x", "--name", "../x"),
            ("--pod-cidr fd42::/56", "--pod-cidr", "IPv6"),
            ("--pod-cidr 10.42.1.0/16", "--pod-cidr", "host bits"),
            ("--pod-cidr 10.42.0.0/24", "--pod-cidr", "no /24"),
            ("--pod-cidr 10.43.0.0/16", "--service-cidr", "overlaps"),
            ("--dns-ip 10.9.9.9", "--dns-ip", "10.9.9.9"),
            ("--node-port-range 9-1", "--node-port-range", "9-1"),
            ("--backend host-gw --direct-routing", "--direct-routing", "vxlan"),
            ("--node-cidr 192.168.7.0/29", "--node-cidr", "too small"),
            ("--apiserver /nonexistent/kubeconfig", "--apiserver", "/nonexistent/kubeconfig"),
        ] {
            let problem = parse(line).unwrap_err();
            assert_eq!(problem.place, flag, "{line}");
            assert!(problem.why.contains(word), "{line}: {problem}");
        }
    }

    #[test]
    fn settings_of_the_scenarios_are_taken() {
        let line = "--pod-cidr 172.7.0.0/16 --service-cidr 192.168.0.0/16 --node-cidr 10.4.7.0/24 \
                    --dns-ip 192.168.0.2 --node-port-range 30000-33999 --outside-address 10.4.8.11";
        let options = parse(line).unwrap();
        assert_eq!(options.dns_ip, ["192.168.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(options.outside_addresses.len(), 1);
    }

    #[test]
    fn a_kubeconfig_is_remembered_by_its_whole_path() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubeconfig");
        let text = r#"{"current-context": "c", "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443"}}],
            "users": [{"name": "u", "user": {"token": "t"}}], "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}]}"#;
        std::fs::write(&file, text).unwrap();
        assert_eq!(check_apiserver(&file).unwrap(), file);
        std::fs::write(&file, text.replace("https", "http")).unwrap();
        assert!(check_apiserver(&file).unwrap_err().why.contains("http://127.0.0.1:6443"));
        assert!(Line::try_parse_from(["up", "--bare", "--apiserver", "x"]).is_err(), "bare machines use no API");
    }

    #[test]
    fn bare_machines_have_no_agents() {
        let options = parse("--bare").unwrap();
        assert!(options.bare && options.agents == Agents::None);
        assert!(!parse("--agents none").unwrap().bare);
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1m30s").unwrap().as_secs(), 90);
        assert_eq!(parse_duration("45").unwrap().as_secs(), 45);
        for bad in ["", "s", "5x", "m5s", "-1s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

//! A KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1), taken as it is.
//!
//! What kube-proxy would refuse is refused here, with file, line and key. What says nothing to Bowline is named once each and passed over;
//! so is a key that v1alpha1 does not know, as kube-proxy itself does it.

mod fields;
mod parts;
#[cfg(test)]
mod tests;
mod tree;
mod walk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bowline_model::{Checked, Problem};
use ipnet::IpNet;

use tree::Node;
use walk::Walk;

pub use parts::address;

/// The file, or something in it, is wrong.
const WRONG: u16 = 1120;

/// A longer file is refused unread.
pub const MAX_BYTES: usize = 1 << 20;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// The port of `/healthz` where none is named.
const HEALTHZ_PORT: u16 = 10_256;
/// The port of `/metrics` where none is named.
const METRICS_PORT: u16 = 10_249;

/// How the file wants services to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KubeProxyMode {
    /// Whatever is best.
    #[default]
    Default,
    /// By nftables.
    Nftables,
    /// By iptables.
    Iptables,
    /// By IPVS.
    Ipvs,
    /// By a process that copies bytes.
    Userspace,
}

impl KubeProxyMode {
    /// The word for it in a file or a flag.
    pub fn word(self) -> &'static str {
        match self {
            KubeProxyMode::Default => "",
            KubeProxyMode::Nftables => "nftables",
            KubeProxyMode::Iptables => "iptables",
            KubeProxyMode::Ipvs => "ipvs",
            KubeProxyMode::Userspace => "userspace",
        }
    }

    /// The mode of a word.
    pub fn of(word: &str) -> Option<KubeProxyMode> {
        use KubeProxyMode::{Default, Iptables, Ipvs, Nftables, Userspace};
        [Default, Nftables, Iptables, Ipvs, Userspace].into_iter().find(|mode| mode.word() == word)
    }
}

/// Which addresses of the node take NodePort traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The first InternalIP of each family in the Node's status.
    Primary,
    /// Those in one of these networks; all if empty.
    Networks(Vec<IpNet>),
}

/// Settings of connection tracking, as kube-proxy makes sysctls of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries for each CPU, 0 to leave the limit alone.
    pub max_per_core: u32,
    /// Entries at least, if there is a limit.
    pub min: u32,
    /// How long an idle connection is kept; zero leaves the sysctl alone, here and below.
    pub tcp_established: Duration,
    /// How long a connection whose peer has closed is kept.
    pub tcp_close_wait: Duration,
    /// Whether packets outside of the window pass.
    pub tcp_be_liberal: bool,
    /// How long a flow that was never answered is kept.
    pub udp: Duration,
    /// How long an answered flow is kept.
    pub udp_stream: Duration,
}

impl Default for Conntrack {
    fn default() -> Self {
        Conntrack {
            max_per_core: 32 * 1024,
            min: 128 * 1024,
            tcp_established: Duration::from_secs(24 * 3600),
            tcp_close_wait: Duration::from_secs(3600),
            tcp_be_liberal: false,
            udp: Duration::ZERO,
            udp_stream: Duration::ZERO,
        }
    }
}

impl Conntrack {
    /// Sysctls below `/proc/sys` and their values, for a machine of so many CPUs.
    pub fn sysctls(&self, cpus: u32) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if self.max_per_core > 0 {
            let max = u64::from(self.max_per_core).saturating_mul(u64::from(cpus)).max(u64::from(self.min));
            all.push(("net/netfilter/nf_conntrack_max", max.min(i32::MAX.unsigned_abs().into()).to_string()));
        }
        for (key, time) in [
            ("net/netfilter/nf_conntrack_tcp_timeout_established", self.tcp_established),
            ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", self.tcp_close_wait),
            ("net/netfilter/nf_conntrack_udp_timeout", self.udp),
            ("net/netfilter/nf_conntrack_udp_timeout_stream", self.udp_stream),
        ] {
            if !time.is_zero() {
                all.push((key, time.as_secs().to_string()));
            }
        }
        if self.tcp_be_liberal {
            all.push(("net/netfilter/nf_conntrack_tcp_be_liberal", "1".to_owned()));
        }
        all
    }
}

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `mode`.
    pub mode: KubeProxyMode,
    /// `clusterCIDR`: one network, or one of each family; empty if not said.
    pub cluster_cidrs: Vec<IpNet>,
    /// `nodePortAddresses`; the primary ones where the mode is nftables and nothing is said.
    pub node_port_addresses: NodePortAddresses,
    /// `hostnameOverride`, as kube-proxy makes a node's name of it.
    pub node_name: Option<String>,
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// Where `/healthz` and `/livez` answer.
    pub healthz: SocketAddr,
    /// Where `/metrics` and `/proxyMode` answer.
    pub metrics: SocketAddr,
    /// Whether an address that cannot be opened ends the process.
    pub bind_hard_fail: bool,
    /// `conntrack`.
    pub conntrack: Conntrack,
    /// `oomScoreAdj`, if said.
    pub oom_score_adj: Option<i32>,
}

impl Config {
    /// Where `/healthz` answers if nobody says otherwise: every address, port 10256.
    pub fn default_healthz() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, HEALTHZ_PORT))
    }

    /// Where `/metrics` answers if nobody says otherwise: loopback, port 10249.
    pub fn default_metrics() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))
    }

    /// Reads the text of `file`, whose name is only for messages.
    ///
    /// The text may be YAML or JSON. Of several documents the one of kind KubeProxyConfiguration is taken, so that a kubeadm file serves too.
    /// The problems beside the value are warnings: one for each field that says nothing here.
    ///
    /// # Errors
    /// What kube-proxy would refuse: a wrong type, version or kind, or a value out of range; all of them in one problem.
    pub fn read(file: &str, text: &str) -> Result<Checked<Config>, Problem> {
        if text.len() > MAX_BYTES {
            return Err(Problem::new(WRONG, "the kube-proxy configuration is too long", file, format!("keep it below {MAX_BYTES} bytes")));
        }
        let documents = tree::read(text).map_err(|error| {
            let place = error.location().map_or(file.to_owned(), |at| format!("{file}, line {}", at.line()));
            let fix = "correct the YAML on that line; `kubectl -n kube-system get configmap kube-proxy -o yaml` shows one that is right";
            Problem::new(WRONG, "the kube-proxy configuration cannot be read", place, fix).because(error.without_snippet().to_string())
        })?;
        let document = the_one(file, &documents)?;
        let mut walk = Walk::new(file);
        walk.document(document);
        let config = parts::build(&mut walk);
        walk.finish().map(|warnings| Checked { value: config, problems: warnings })
    }
}

/// The document that is kube-proxy's.
fn the_one<'a>(file: &str, documents: &'a [Node]) -> Result<&'a Node, Problem> {
    let wrong = |what: String, line: u64, key: &str, fix: String| {
        let place = if key.is_empty() { file.to_owned() } else { format!("{file}, line {line}: {key}") };
        Problem::new(WRONG, what, place, fix)
    };
    let is_it = |node: &&Node| node.get("kind").and_then(Node::text) == Some(KIND);
    let mut found = documents.iter().filter(is_it);
    let Some(document) = found.next() else {
        let fix = format!("begin it with `apiVersion: {API_VERSION}` and `kind: {KIND}`");
        let Some(first) = documents.first() else {
            return Err(wrong("the kube-proxy configuration is empty".to_owned(), 1, "", fix));
        };
        let kind = first.get("kind");
        let what = kind.map_or("it has no kind".to_owned(), |kind| format!("{} is not a kind that is taken", kind.value.words()));
        return Err(wrong(what, kind.map_or(first.line, |kind| kind.line), "kind", fix));
    };
    if let Some(second) = found.next() {
        let what = format!("there are two documents of kind {KIND}");
        return Err(wrong(what, second.line, "kind", "leave one of them in the file".to_owned()));
    }
    match document.get("apiVersion") {
        Some(version) if version.text() == Some(API_VERSION) => Ok(document),
        other => {
            let what =
                other.map_or("it has no apiVersion".to_owned(), |other| format!("{} is not a version that is known", other.value.words()));
            let line = other.map_or(document.line, |other| other.line);
            Err(wrong(what, line, "apiVersion", format!("write `apiVersion: {API_VERSION}`, the only one that kube-proxy has")))
        }
    }
}

/// The defaults of healthz and metrics for kube-proxy's `bindAddress`.
fn default_addresses(bind: IpAddr) -> (SocketAddr, SocketAddr) {
    match bind {
        IpAddr::V4(_) => (Config::default_healthz(), Config::default_metrics()),
        IpAddr::V6(_) => (SocketAddr::from((Ipv6Addr::UNSPECIFIED, HEALTHZ_PORT)), SocketAddr::from((Ipv6Addr::LOCALHOST, METRICS_PORT))),
    }
}

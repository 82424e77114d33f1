//! The agent's settings: one file, flags and environment alike.
//!
//! A flag wins over its environment variable (`BOWLINE_...`), that over the file, that over a KubeProxyConfiguration, that over the default. Unknown keys in the file are
//! errors: a misspelt setting that is silently ignored is worse than a start that is refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bowline_kernel::bpf::Sizes;
use bowline_kubeproxy::{Config, Conntrack};
use bowline_model::Problem;
use bowline_model::intent::routes::BackendConf;
use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;

use super::kube_proxy::{Layer, NodePortAddress, listening};

/// What the settings file may hold, for `bowline help agent`.
const KEYS: &str = "\
Keys of the settings file (YAML); an unknown key is an error:
  nodeName            this node's name in the cluster
  kubeconfig          file; without it, the pod's service account
  apiServer           https://HOST:PORT of the API server, in place of the kubeconfig's or of KUBERNETES_SERVICE_HOST: wanted where
                      nobody but Bowline serves the kubernetes service, since the agent needs the API before it can serve it; a list
                      of several is tried in its order, the next whenever one does not serve
  backend             {type: vxlan, vni: 1, port: 8472, directRouting: false} or {type: host-gw}
  serviceMode         nftables, or ebpf: what the node's and its pods' own programs connect to is translated at the socket, the rest by
                      nftables; where the kernel lacks something, nftables alone
  fastPath            with serviceMode ebpf: packets of TCP and UDP between pods pass the node without its stack once that has let their
                      connection through; false keeps them all there (true)
  mapSizes            with serviceMode ebpf: elements that the BPF maps have room for, each 1024 to 16777216; what does not fit costs
                      speed alone: {carried: 131072} flows of the fast path, each direction by itself; {frontends: 262144} addresses
                      and ports of services; {endpoints: 2097152} in their lists, {live: 1048576} of them by UDP; {peers: 65536}
                      sockets that were translated, {flows: 65536} of them by datagrams
  clusterCIDRs        list of the networks that pods have addresses in
  serviceCIDRs        list of the service networks, beside those that ServiceCIDR objects name
  nodePortAddresses   list of networks whose addresses of the node take NodePort traffic, or the word primary: the node's first
                      address of each family; all if empty
  kubeProxyConfig     a KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1), for what is not said here
  healthzBindAddress  ADDRESS[:PORT] for kube-proxy's /healthz and /livez (0.0.0.0:10256), or none
  metricsBindAddress  ADDRESS[:PORT] for kube-proxy's /metrics and /proxyMode (127.0.0.1:10249), or none
  noMasquerade        list of networks that pods reach with their own address, beside the cluster's
  externalIPs         list of networks in which the externalIPs of services may lie; none if empty
  loadBalancerIPs     list of networks in which load balancer addresses of services may lie; none if empty
  dnsPods             true if the Corefile says `pods verified`: DNS is then told of every pod's address (false)
  iface               link that the other nodes are reached by; the default route's if absent
  runDir, stateDir    directories of sockets (/run/bowline) and of state (/var/lib/bowline)
  dnsSocket           the socket that feeds DNS, if another than dns.sock in runDir, which is for root alone: whoever can reach the
                      directory of one named here may connect
  cgroupRoot          where this machine's cgroup tree is mounted, for a container that is to have serviceMode ebpf: its own
                      /sys/fs/cgroup is not the node's
  procSys             where this machine's /proc/sys is mounted, for a container, whose own is read-only
  cniConfDir          where the runtime reads CNI configuration (/etc/cni/net.d)
  cniBinDir           where the runtime looks for plugins (/opt/cni/bin)
  cniInstall          copy, symlink or none: how the plugin gets there
  healthAddress       ADDRESS:PORT for /healthz, /livez, /readyz and /metrics; nowhere if absent";

/// Flags of `bowline agent`; each has an environment variable and a key in the file.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = KEYS)]
pub(crate) struct AgentArgs {
    /// Settings file (YAML); flags and environment variables win over it
    #[arg(long, env = "BOWLINE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// This node's name in the cluster [file: nodeName]
    #[arg(long, env = "BOWLINE_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Kubeconfig for the API server; without it, the pod's service account [file: kubeconfig]
    #[arg(long, env = "BOWLINE_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The API server as https://HOST:PORT, in place of the kubeconfig's or of KUBERNETES_SERVICE_HOST; several, comma-separated, are tried
    /// in turn [file: apiServer]
    #[arg(long = "api-server", env = "BOWLINE_API_SERVER", value_name = "URL", value_delimiter = ',')]
    pub(crate) api_servers: Vec<String>,
    /// Node-to-node backend, in one word: vxlan or host-gw [file: backend.type]
    #[arg(long, env = "BOWLINE_BACKEND", value_name = "WORD")]
    pub(crate) backend: Option<String>,
    /// All networks that pods have addresses in, comma-separated [file: clusterCIDRs]
    #[arg(long, env = "BOWLINE_CLUSTER_CIDRS", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// The service networks, comma-separated [file: serviceCIDRs]
    #[arg(long, env = "BOWLINE_SERVICE_CIDRS", value_name = "CIDR", value_delimiter = ',')]
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Directory of sockets [file: runDir]
    #[arg(long, env = "BOWLINE_RUN_DIR", value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Directory of state that outlives a reboot [file: stateDir]
    #[arg(long, env = "BOWLINE_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where the runtime reads CNI configuration [file: cniConfDir]
    #[arg(long, env = "BOWLINE_CNI_CONF_DIR", value_name = "DIR")]
    pub(crate) cni_conf_dir: Option<PathBuf>,
    /// Where the runtime looks for CNI plugins [file: cniBinDir]
    #[arg(long, env = "BOWLINE_CNI_BIN_DIR", value_name = "DIR")]
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// Link that the other nodes are reached by; the default route's if absent [file: iface]
    #[arg(long, env = "BOWLINE_IFACE", value_name = "LINK")]
    pub(crate) iface: Option<String>,
    /// A KubeProxyConfiguration file; all that is said elsewhere wins over it [file: kubeProxyConfig]
    #[arg(long, env = "BOWLINE_KUBE_PROXY_CONFIG", value_name = "FILE")]
    pub(crate) kube_proxy_config: Option<PathBuf>,
    /// How services are served: auto, ebpf or nftables; iptables, ipvs and userspace are taken and nftables serves [file: serviceMode]
    #[arg(long, env = "BOWLINE_PROXY_MODE", value_name = "WORD")]
    pub(crate) proxy_mode: Option<String>,
    /// Where kube-proxy's /healthz and /livez answer, or none [file: healthzBindAddress]
    #[arg(long, env = "BOWLINE_HEALTHZ_BIND_ADDRESS", value_name = "ADDRESS")]
    pub(crate) healthz_bind_address: Option<String>,
    /// Where kube-proxy's /metrics and /proxyMode answer, or none [file: metricsBindAddress]
    #[arg(long, env = "BOWLINE_METRICS_BIND_ADDRESS", value_name = "ADDRESS")]
    pub(crate) metrics_bind_address: Option<String>,
}

/// How services are served: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ServiceMode {
    /// As [`ServiceMode::Ebpf`] as far as the kernel has what that needs; what it lacks is said and is no problem.
    #[default]
    Auto,
    /// A few named maps in nftables.
    Nftables,
    /// At the socket by BPF programs where there is one, in nftables otherwise.
    Ebpf,
}

impl ServiceMode {
    /// The mode in one word, as it is chosen.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ServiceMode::Auto => "auto",
            ServiceMode::Nftables => "nftables",
            ServiceMode::Ebpf => "ebpf",
        }
    }

    /// Whether BPF programs are to be used where they can be.
    pub(crate) fn wants_programs(self) -> bool {
        self != ServiceMode::Nftables
    }

    /// Whether it is a problem where they cannot be.
    pub(crate) fn insists(self) -> bool {
        self == ServiceMode::Ebpf
    }
}

/// How the plugin's executable gets into the runtime's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CniInstall {
    /// A copy, renamed into place: for an agent in a container.
    #[default]
    Copy,
    /// A symbolic link to the running executable.
    Symlink,
    /// Somebody else puts it there.
    None,
}

/// Sizes of maps, as far as they are said.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct MapSizes {
    carried: Option<u32>,
    frontends: Option<u32>,
    endpoints: Option<u32>,
    live: Option<u32>,
    peers: Option<u32>,
    flows: Option<u32>,
}

impl MapSizes {
    fn checked(self) -> Result<Sizes, Problem> {
        let usual = Sizes::default();
        let sizes = Sizes {
            carried: self.carried.unwrap_or(usual.carried),
            frontends: self.frontends.unwrap_or(usual.frontends),
            endpoints: self.endpoints.unwrap_or(usual.endpoints),
            live: self.live.unwrap_or(usual.live),
            peers: self.peers.unwrap_or(usual.peers),
            flows: self.flows.unwrap_or(usual.flows),
        };
        match sizes.each().into_iter().find(|(_, size)| !Sizes::BOUNDS.contains(size)) {
            Some((map, size)) => {
                let fix = format!("choose a number from {} to {}, or leave it out", Sizes::BOUNDS.start(), Sizes::BOUNDS.end());
                Err(Problem::new(1106, format!("a BPF map cannot have room for {size} elements"), format!("mapSizes.{map}"), fix))
            }
            None => Ok(sizes),
        }
    }
}

/// The settings file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FileConfig {
    node_name: Option<String>,
    kubeconfig: Option<PathBuf>,
    #[serde(rename = "apiServer", deserialize_with = "one_or_more")]
    api_servers: Vec<String>,
    backend: Option<BackendConf>,
    service_mode: Option<ServiceMode>,
    fast_path: Option<bool>,
    map_sizes: MapSizes,
    kube_proxy_config: Option<PathBuf>,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    #[serde(rename = "clusterCIDRs")]
    cluster_cidrs: Vec<IpNet>,
    #[serde(rename = "serviceCIDRs")]
    service_cidrs: Vec<IpNet>,
    node_port_addresses: Option<Vec<NodePortAddress>>,
    no_masquerade: Vec<IpNet>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<IpNet>,
    #[serde(rename = "loadBalancerIPs")]
    load_balancer_ips: Vec<IpNet>,
    dns_pods: bool,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    dns_socket: Option<PathBuf>,
    proc_sys: Option<PathBuf>,
    cgroup_root: Option<PathBuf>,
    cni_conf_dir: Option<PathBuf>,
    cni_bin_dir: Option<PathBuf>,
    cni_install: CniInstall,
    iface: Option<String>,
    health_address: Option<SocketAddr>,
}

/// The settings that the agent runs with.
#[derive(Debug, Clone)]
pub(crate) struct AgentConfig {
    /// This node's name.
    pub(crate) node_name: String,
    /// Kubeconfig file; none means the pod's service account.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The API server's addresses in the order in which they are tried, if not the kubeconfig's or the environment's is meant.
    pub(crate) api_servers: Vec<String>,
    /// Node-to-node backend.
    pub(crate) backend: BackendConf,
    /// How services are served.
    pub(crate) service_mode: ServiceMode,
    /// Whether packets of pods may pass the node without its stack.
    pub(crate) fast_path: bool,
    /// How many elements the BPF maps have room for.
    pub(crate) map_sizes: Sizes,
    /// All pod networks.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// Service networks.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Networks whose addresses of the node take NodePort traffic; empty means all.
    pub(crate) node_port_addresses: Vec<IpNet>,
    /// In place of those networks: the node's first address of each family.
    pub(crate) node_port_primary: bool,
    /// Where kube-proxy's `/healthz` answers.
    pub(crate) healthz_bind_address: Option<SocketAddr>,
    /// Where kube-proxy's `/metrics` answers.
    pub(crate) metrics_bind_address: Option<SocketAddr>,
    /// Whether one of these two that cannot be opened is the end.
    pub(crate) bind_hard_fail: bool,
    /// Sysctls of connection tracking, where a KubeProxyConfiguration is given.
    pub(crate) conntrack: Option<Conntrack>,
    /// This process's standing when memory runs out.
    pub(crate) oom_score_adj: Option<i32>,
    /// What was asked for and does nothing here, or not yet.
    pub(crate) warnings: Vec<Problem>,
    /// Destinations that pods reach with their own address, beside the cluster's.
    pub(crate) no_masquerade: Vec<IpNet>,
    /// Networks in which `externalIPs` may lie.
    pub(crate) external_ips: Vec<IpNet>,
    /// Networks in which load balancer addresses may lie.
    pub(crate) load_balancer_ips: Vec<IpNet>,
    /// Whether DNS is told the namespace of every pod address.
    pub(crate) dns_pods: bool,
    /// Directory of sockets.
    pub(crate) run_dir: PathBuf,
    /// Directory of state.
    pub(crate) state_dir: PathBuf,
    /// The socket that feeds DNS, if another than `dns.sock` in [`Self::run_dir`].
    pub(crate) dns_socket: Option<PathBuf>,
    /// Where this machine's /proc/sys is, if not there.
    pub(crate) proc_sys: Option<PathBuf>,
    /// Where this machine's cgroup tree is, if not where this process sees one.
    pub(crate) cgroup_root: Option<PathBuf>,
    /// The runtime's configuration directory.
    pub(crate) cni_conf_dir: PathBuf,
    /// The runtime's plugin directory.
    pub(crate) cni_bin_dir: PathBuf,
    /// How the plugin gets there.
    pub(crate) cni_install: CniInstall,
    /// Underlay link, if the default route's is not meant.
    pub(crate) iface: Option<String>,
    /// Where /healthz, /readyz and /metrics answer; nowhere if absent.
    pub(crate) health_address: Option<SocketAddr>,
}

impl AgentConfig {
    /// Puts file, environment and flags together.
    ///
    /// # Errors
    /// A problem (BW11xx) that names the file and line, or the flag, and what to write instead.
    pub(crate) fn load(args: &AgentArgs) -> Result<Self, Problem> {
        let file = match &args.config {
            Some(path) => read_file(path)?,
            None => FileConfig::default(),
        };
        AgentConfig::merge(args, file)
    }

    fn merge(args: &AgentArgs, file: FileConfig) -> Result<Self, Problem> {
        let backend = match &args.backend {
            Some(word) => backend_by_word(word, file.backend)?,
            None => file.backend.unwrap_or_default(),
        };
        let mut below = Layer::read(args.kube_proxy_config.as_deref().or(file.kube_proxy_config.as_deref()))?;
        let service_mode = below.mode(args.proxy_mode.as_deref(), file.service_mode)?;
        let (node_port_addresses, node_port_primary) = below.node_ports(file.node_port_addresses);
        let Layer { config: below, warnings } = below;
        let below = below.as_ref();
        let healthz = args.healthz_bind_address.as_deref().or(file.healthz_bind_address.as_deref());
        let metrics = args.metrics_bind_address.as_deref().or(file.metrics_bind_address.as_deref());
        let named = args.node_name.clone().or(file.node_name).or_else(|| below?.node_name.clone());
        let node_name = named.or_else(host_name).ok_or_else(|| {
            Problem::new(1102, "this node's name is not known", "nodeName", "give --node-name, BOWLINE_NODE_NAME or nodeName in the file")
        })?;
        let path = |flag: &Option<PathBuf>, file: Option<PathBuf>, default: &str| flag.clone().or(file).unwrap_or_else(|| default.into());
        let first = |lists: [Vec<IpNet>; 3]| lists.into_iter().find(|list| !list.is_empty()).unwrap_or_default();
        let below_cidrs = below.map(|below| below.cluster_cidrs.clone()).unwrap_or_default();
        let config = AgentConfig {
            node_name,
            kubeconfig: args.kubeconfig.clone().or(file.kubeconfig).or_else(|| below?.kubeconfig.clone()),
            api_servers: servers(if args.api_servers.is_empty() { file.api_servers } else { args.api_servers.clone() })?,
            backend,
            service_mode,
            fast_path: file.fast_path.unwrap_or(true),
            map_sizes: file.map_sizes.checked()?,
            cluster_cidrs: first([args.cluster_cidrs.clone(), file.cluster_cidrs, below_cidrs]),
            service_cidrs: first([args.service_cidrs.clone(), file.service_cidrs, Vec::new()]),
            node_port_addresses,
            node_port_primary,
            healthz_bind_address: listening(healthz, "healthzBindAddress", Config::default_healthz(), below.map(|b| b.healthz))?,
            metrics_bind_address: listening(metrics, "metricsBindAddress", Config::default_metrics(), below.map(|b| b.metrics))?,
            bind_hard_fail: below.is_some_and(|below| below.bind_hard_fail),
            conntrack: below.map(|below| below.conntrack.clone()),
            oom_score_adj: below.and_then(|below| below.oom_score_adj),
            warnings,
            no_masquerade: file.no_masquerade,
            external_ips: file.external_ips,
            load_balancer_ips: file.load_balancer_ips,
            dns_pods: file.dns_pods,
            run_dir: path(&args.run_dir, file.run_dir, "/run/bowline"),
            state_dir: path(&args.state_dir, file.state_dir, "/var/lib/bowline"),
            dns_socket: file.dns_socket,
            proc_sys: file.proc_sys,
            cgroup_root: file.cgroup_root,
            cni_conf_dir: path(&args.cni_conf_dir, file.cni_conf_dir, "/etc/cni/net.d"),
            cni_bin_dir: path(&args.cni_bin_dir, file.cni_bin_dir, "/opt/cni/bin"),
            cni_install: file.cni_install,
            iface: args.iface.clone().or(file.iface),
            health_address: file.health_address,
        };
        if config.cluster_cidrs.is_empty() {
            let fix = "give --cluster-cidrs or clusterCIDRs: the networks that the nodes' pod subnets are taken from, e.g. 10.42.0.0/16";
            return Err(Problem::new(1103, "the pod network is not known", "clusterCIDRs", fix));
        }
        Ok(config)
    }
}

/// A string, or a list of them.
fn one_or_more<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct OneOrMore;
    impl<'de> serde::de::Visitor<'de> for OneOrMore {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("https://HOST:PORT, or a list of such")
        }

        fn visit_str<E>(self, one: &str) -> Result<Vec<String>, E> {
            Ok(vec![one.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    from.deserialize_any(OneOrMore)
}

/// The servers' addresses, each once.
fn servers(urls: Vec<String>) -> Result<Vec<String>, Problem> {
    let mut all = Vec::new();
    for url in urls {
        let one = server(url)?;
        if !all.contains(&one) {
            all.push(one);
        }
    }
    Ok(all)
}

/// A token goes to nobody but a server that proves who it is: so only https, and nothing after the port.
fn server(url: String) -> Result<String, Problem> {
    let trimmed = url.trim_end_matches('/');
    let host = trimmed.strip_prefix("https://").filter(|host| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']));
    match host {
        Some(_) => Ok(trimmed.to_owned()),
        None => {
            let fix = "write it as https://HOST:PORT, e.g. https://192.0.2.1:6443 or https://[2001:db8::1]:6443";
            Err(Problem::new(1105, format!("`{url}` is no address of an API server"), "apiServer", fix))
        }
    }
}

fn read_file(path: &Path) -> Result<FileConfig, Problem> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| {
        Problem::new(1101, "the settings file cannot be read", place.clone(), "check the path and its permissions").because(e.to_string())
    })?;
    parse(&text, place)
}

fn parse(text: &str, place: String) -> Result<FileConfig, Problem> {
    serde_saphyr::from_str(text).map_err(|e| {
        Problem::new(1101, "the settings file is not understood", place, "correct the line named; `bowline help agent` lists the keys")
            .because(e.to_string())
    })
}

fn backend_by_word(word: &str, from_file: Option<BackendConf>) -> Result<BackendConf, Problem> {
    match (word, from_file) {
        ("vxlan", Some(conf @ BackendConf::Vxlan { .. })) => Ok(conf),
        ("vxlan", _) => Ok(BackendConf::default()),
        ("host-gw", _) => Ok(BackendConf::HostGw),
        (other, _) => Err(Problem::new(1104, format!("no backend is called `{other}`"), "--backend", "use vxlan or host-gw")),
    }
}

fn host_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().filter(|n| !n.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, args: AgentArgs) -> Result<AgentConfig, Problem> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.yaml");
        std::fs::write(&path, text).unwrap();
        AgentConfig::load(&AgentArgs { config: Some(path), ..args })
    }

    const GOOD: &str = "nodeName: n1\nclusterCIDRs: [10.42.0.0/16, 'fd42::/56']\nbackend: {type: vxlan, vni: 7, directRouting: true}\n";

    #[test]
    fn flags_win_over_the_file() {
        let config = load(GOOD, AgentArgs { node_name: Some("n9".into()), ..AgentArgs::default() }).unwrap();
        assert_eq!(config.node_name, "n9");
        assert_eq!(config.cluster_cidrs.len(), 2);
        assert_eq!(config.backend, BackendConf::Vxlan { vni: 7, port: 8472, direct_routing: true });
        let config = load(GOOD, AgentArgs { backend: Some("vxlan".into()), ..AgentArgs::default() }).unwrap();
        assert_eq!(config.backend, BackendConf::Vxlan { vni: 7, port: 8472, direct_routing: true });
        let config = load(GOOD, AgentArgs { backend: Some("host-gw".into()), ..AgentArgs::default() }).unwrap();
        assert_eq!(config.backend, BackendConf::HostGw);
    }

    #[test]
    fn the_api_server_is_an_https_address_and_nothing_more() {
        let with = |url: &str| load(GOOD, AgentArgs { api_servers: vec![url.into()], ..AgentArgs::default() });
        for good in ["https://192.0.2.1:6443", "https://192.0.2.1:6443/", "https://[2001:db8::1]:6443", "https://api.example:443"] {
            assert_eq!(with(good).unwrap().api_servers, [good.trim_end_matches('/')]);
        }
        for bad in ["192.0.2.1:6443", "http://192.0.2.1:6443", "https://", "https://user@host", "https://host/path"] {
            assert_eq!(with(bad).unwrap_err().code.0, 1105, "{bad}");
        }
        let from_file = |value: &str| load(&format!("{GOOD}apiServer: {value}\n"), AgentArgs::default());
        assert_eq!(from_file("https://192.0.2.9:6443").unwrap().api_servers, ["https://192.0.2.9:6443"]);
        let several = from_file("[https://192.0.2.9:6443/, 'https://[2001:db8::1]:6443', https://192.0.2.9:6443]").unwrap();
        assert_eq!(several.api_servers, ["https://192.0.2.9:6443", "https://[2001:db8::1]:6443"], "in their order, each once");
        assert_eq!(from_file("[https://192.0.2.9:6443, 192.0.2.8]").unwrap_err().code.0, 1105);
        assert_eq!(from_file("7").unwrap_err().code.0, 1101);
    }

    const KUBE_PROXY: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\nclusterCIDR: 10.7.0.0/16\n\
         hostnameOverride: n7\nclientConnection: {kubeconfig: /etc/kube-proxy.conf}\nnodePortAddresses: [primary]\n\
         healthzBindAddress: 127.0.0.1:7777\noomScoreAdj: -5\nconntrack: {maxPerCore: 7}\nportRange: 1-2\n";

    #[test]
    fn a_kube_proxy_file_lies_below_all_that_is_the_agents_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.conf");
        std::fs::write(&path, KUBE_PROXY).unwrap();
        let named = format!("kubeProxyConfig: {}\n", path.display());
        let alone = load(&named, AgentArgs::default()).unwrap();
        assert_eq!((alone.node_name.as_str(), alone.service_mode), ("n7", ServiceMode::Nftables), "what serves for ipvs");
        assert_eq!(alone.cluster_cidrs, ["10.7.0.0/16".parse().unwrap()]);
        assert_eq!(alone.kubeconfig.as_deref(), Some(Path::new("/etc/kube-proxy.conf")));
        assert!(alone.node_port_primary && alone.node_port_addresses.is_empty());
        assert_eq!(alone.healthz_bind_address.unwrap().to_string(), "127.0.0.1:7777");
        assert_eq!(alone.metrics_bind_address, Some(Config::default_metrics()));
        assert_eq!((alone.oom_score_adj, alone.conntrack.unwrap().max_per_core), (Some(-5), 7));
        let codes: Vec<u16> = alone.warnings.iter().map(|warning| warning.code.0).collect();
        assert_eq!(codes, [1121, 1122], "portRange, and the mode");

        let own = "serviceMode: nftables\nkubeconfig: /own\nnodePortAddresses: [10.0.0.0/8]\nhealthzBindAddress: none\nmetricsBindAddress: '::'\n";
        let both = load(&format!("{GOOD}{named}{own}"), AgentArgs::default()).unwrap();
        assert_eq!((both.node_name.as_str(), both.cluster_cidrs.len()), ("n1", 2));
        assert_eq!(both.kubeconfig.as_deref(), Some(Path::new("/own")));
        assert_eq!((both.node_port_primary, both.node_port_addresses.len()), (false, 1));
        assert_eq!((both.healthz_bind_address, both.metrics_bind_address), (None, Some("[::]:10249".parse().unwrap())));
        assert_eq!(both.warnings.len(), 1, "the mode is the agent's own");

        let flags = AgentArgs {
            proxy_mode: Some("userspace".into()),
            healthz_bind_address: Some("127.0.0.1".into()),
            kube_proxy_config: Some("/nowhere".into()),
            ..AgentArgs::default()
        };
        assert_eq!(load(&format!("{GOOD}{named}{own}"), flags.clone()).unwrap_err().code.0, 1120, "the flag's file");
        let flags = load(&format!("{GOOD}{own}"), AgentArgs { kube_proxy_config: Some(path), ..flags }).unwrap();
        assert_eq!(flags.healthz_bind_address.unwrap().to_string(), "127.0.0.1:10256");
        assert!(flags.warnings[1].what.contains("userspace") && flags.warnings[1].place == "--proxy-mode");
    }

    #[test]
    fn without_a_kube_proxy_file_its_addresses_are_its_defaults() {
        let config = load(GOOD, AgentArgs::default()).unwrap();
        assert_eq!(config.healthz_bind_address.unwrap().to_string(), "0.0.0.0:10256");
        assert_eq!(config.metrics_bind_address.unwrap().to_string(), "127.0.0.1:10249");
        assert!(config.conntrack.is_none() && config.oom_score_adj.is_none() && config.warnings.is_empty());
        assert_eq!(config.service_mode, ServiceMode::Auto);
        let primary = load(&format!("{GOOD}nodePortAddresses: [primary]\n"), AgentArgs::default()).unwrap();
        assert!(primary.node_port_primary && primary.node_port_addresses.is_empty());
        let wrong = load(&format!("{GOOD}nodePortAddresses: [first]\n"), AgentArgs::default()).unwrap_err();
        assert!(wrong.why.contains("primary"), "{wrong}");
        let wrong = load(&format!("{GOOD}metricsBindAddress: here\n"), AgentArgs::default()).unwrap_err();
        assert_eq!(wrong.code.0, 1123);
        let wrong = load(GOOD, AgentArgs { proxy_mode: Some("magic".into()), ..AgentArgs::default() }).unwrap_err();
        assert!(wrong.code.0 == 1122 && wrong.fix.contains("nftables"), "{wrong}");
    }

    #[test]
    fn sizes_of_maps_have_bounds() {
        let with = |sizes: &str| load(&format!("{GOOD}mapSizes: {sizes}\n"), AgentArgs::default());
        let sizes = with("{carried: 1024, endpoints: 16777216}").unwrap().map_sizes;
        assert_eq!(sizes, Sizes { carried: 1024, endpoints: 16_777_216, ..Sizes::default() });
        assert_eq!(load(GOOD, AgentArgs::default()).unwrap().map_sizes, Sizes::default());
        for wrong in ["{carried: 1023}", "{flows: 16777217}", "{live: 0}"] {
            let problem = with(wrong).unwrap_err();
            assert!(problem.code.0 == 1106 && problem.place.starts_with("mapSizes.") && problem.fix.contains("1024"), "{problem}");
        }
        for unreadable in ["{carried: -1}", "{carried: many}", "{carriage: 2048}"] {
            assert_eq!(with(unreadable).unwrap_err().code.0, 1101, "{unreadable}");
        }
    }

    #[test]
    fn wrong_settings_say_what_and_where() {
        let unknown = load("nodeName: n1\nclusterCIDR: [10.42.0.0/16]\n", AgentArgs::default()).unwrap_err();
        assert!(unknown.why.contains("clusterCIDR") && unknown.why.contains('2'), "{unknown}");
        let word = load(GOOD, AgentArgs { backend: Some("vlan".into()), ..AgentArgs::default() }).unwrap_err();
        assert!(word.to_string().contains("`vlan`") && word.fix.contains("host-gw"), "{word}");
        let missing = load("nodeName: n1\n", AgentArgs::default()).unwrap_err();
        assert_eq!(missing.code.0, 1103);
    }
}

//! A KubeProxyConfiguration file as a layer of the agent's settings: below the agent's own file, above the defaults.

use std::net::SocketAddr;
use std::path::Path;

use bowline_kubeproxy::{Config, KubeProxyMode, NodePortAddresses, address};
use bowline_model::Problem;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use super::config::ServiceMode;

/// The layer; empty where no file is given.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// What the file says.
    pub(super) config: Option<Config>,
    /// What of it says nothing here.
    pub(super) warnings: Vec<Problem>,
}

impl Layer {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// When it cannot be read, or kube-proxy would not take it.
    pub(super) fn read(path: Option<&Path>) -> Result<Layer, Problem> {
        let Some(path) = path else { return Ok(Layer::default()) };
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let fix = "check --kube-proxy-config (kubeProxyConfig) and the file's permissions";
            Problem::new(1120, "the kube-proxy configuration cannot be read", place.clone(), fix).because(error.to_string())
        })?;
        let read = Config::read(&place, &text)?;
        Ok(Layer { config: Some(read.value), warnings: read.problems })
    }

    /// How services are served: a flag before the agent's own file, that before kube-proxy's.
    ///
    /// # Errors
    /// When the flag's word is no mode at all.
    pub(super) fn mode(&mut self, flag: Option<&str>, own: Option<ServiceMode>) -> Result<ServiceMode, Problem> {
        let asked = match (flag, own) {
            (Some(word), _) => match (by_word(word), KubeProxyMode::of(word)) {
                (Some(mode), _) => return Ok(mode),
                (None, Some(mode)) => mode,
                (None, None) => {
                    let fix = "use auto, ebpf or nftables, or leave the flag out; iptables, ipvs and userspace are not there yet";
                    return Err(Problem::new(1122, format!("no mode is called `{word}`"), "--proxy-mode", fix));
                }
            },
            (None, Some(own)) => return Ok(own),
            (None, None) => self.config.as_ref().map(|config| config.mode).unwrap_or_default(),
        };
        match asked {
            KubeProxyMode::Default => Ok(ServiceMode::default()),
            KubeProxyMode::Nftables => Ok(ServiceMode::Nftables),
            KubeProxyMode::Iptables | KubeProxyMode::Ipvs | KubeProxyMode::Userspace => {
                let what = format!("mode {} is not there yet; nftables serves the services", asked.word());
                let place = if flag.is_some() { "--proxy-mode" } else { "mode of the kube-proxy configuration" };
                let why = "what clients see is the same but for IPVS's schedulers";
                self.warnings.push(Problem::new(1122, what, place, "write nftables to be rid of this line").because(why));
                Ok(ServiceMode::Nftables)
            }
        }
    }

    /// Which addresses take NodePort traffic, as networks and whether only the primary ones do.
    pub(super) fn node_ports(&self, own: Option<Vec<NodePortAddress>>) -> (Vec<IpNet>, bool) {
        match (own, self.config.as_ref().map(|config| &config.node_port_addresses)) {
            (Some(own), _) => {
                let primary = own.contains(&NodePortAddress::Primary);
                let networks = own.into_iter().filter_map(|address| match address {
                    NodePortAddress::Network(network) => Some(network),
                    NodePortAddress::Primary => None,
                });
                (networks.collect(), primary)
            }
            (None, Some(NodePortAddresses::Primary)) => (Vec::new(), true),
            (None, Some(NodePortAddresses::Networks(networks))) => (networks.clone(), false),
            (None, None) => (Vec::new(), false),
        }
    }
}

/// A mode of the agent's own by its word, whichever there are.
fn by_word(word: &str) -> Option<ServiceMode> {
    let words: StrDeserializer<'_, Error> = word.into_deserializer();
    ServiceMode::deserialize(words).ok()
}

/// An entry of `nodePortAddresses`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum NodePortAddress {
    /// The node's first address of each family.
    Primary,
    /// Those in a network.
    Network(IpNet),
}

impl TryFrom<String> for NodePortAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "primary" => Ok(NodePortAddress::Primary),
            network => match network.parse() {
                Ok(network) => Ok(NodePortAddress::Network(network)),
                Err(_) => Err(format!("`{}` is neither a network nor the word primary", network.escape_debug())),
            },
        }
    }
}

/// Where something listens: an address, or none; what kube-proxy's file says where the agent's own settings say nothing.
///
/// # Errors
/// When the text is neither an address nor `none`.
pub(super) fn listening(
    own: Option<&str>,
    key: &str,
    default: SocketAddr,
    below: Option<SocketAddr>,
) -> Result<Option<SocketAddr>, Problem> {
    match own {
        None => Ok(Some(below.unwrap_or(default))),
        Some("none") => Ok(None),
        Some(text) => match address(text, default.port()) {
            Some(found) => Ok(Some(found)),
            None => {
                let fix = format!("write ADDRESS, ADDRESS:PORT or none, e.g. {default}");
                Err(Problem::new(1123, format!("`{}` is no address to listen on", text.escape_debug()), key, fix))
            }
        },
    }
}

//! Plugins: what a server block can do, one file each where there is code.
//!
//! Invariant: the order in which they act is CoreDNS's own and stands in [`crate::chain`], never that of the file.
//! Reference: CoreDNS's manual, one page a plugin.

pub mod acl;
pub mod cache;
pub mod errors;
pub mod forward;
pub mod hosts;
pub mod kubernetes;
pub mod listen;
pub mod log;
pub mod loopcheck;
pub mod read;
pub mod rewrite;
pub mod rrtext;
pub mod template;

use crate::corefile::{CorefileError, Directive, parse_zones};
use crate::name::{self, Name};

/// Plugins that a Corefile may name.
pub const KNOWN: &[&str] = &[
    "acl",
    "any",
    "bind",
    "bufsize",
    "cache",
    "cancel",
    "debug",
    "errors",
    "forward",
    "health",
    "hosts",
    "kubernetes",
    "loadbalance",
    "log",
    "loop",
    "prometheus",
    "ready",
    "reload",
    "rewrite",
    "template",
];

/// Plugins of CoreDNS that are not here: their error says so.
pub const ELSEWHERE: &[&str] = &[
    "auto",
    "autopath",
    "azure",
    "chaos",
    "clouddns",
    "dns64",
    "dnssec",
    "dnstap",
    "erratic",
    "etcd",
    "file",
    "geoip",
    "grpc",
    "grpc_server",
    "header",
    "https",
    "https3",
    "k8s_external",
    "local",
    "metadata",
    "minimal",
    "multisocket",
    "nomad",
    "nsid",
    "pprof",
    "quic",
    "root",
    "route53",
    "secondary",
    "sign",
    "timeouts",
    "tls",
    "trace",
    "transfer",
    "tsig",
    "view",
    "whoami",
];

/// Who answered, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answerer {
    /// Nobody: the server itself refused.
    Server,
    /// `acl`.
    Acl,
    /// `any`.
    Any,
    /// `template`.
    Template,
    /// `hosts`.
    Hosts,
    /// `kubernetes`.
    Kubernetes,
    /// `cache`.
    Cache,
    /// `forward`.
    Forward,
}

impl Answerer {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// All, in the order of [`Answerer::index`].
    pub const ALL: [Answerer; Answerer::COUNT] = [
        Answerer::Server,
        Answerer::Acl,
        Answerer::Any,
        Answerer::Template,
        Answerer::Hosts,
        Answerer::Kubernetes,
        Answerer::Cache,
        Answerer::Forward,
    ];

    /// Its place in a table.
    pub fn index(self) -> usize {
        match self {
            Answerer::Server => 0,
            Answerer::Acl => 1,
            Answerer::Any => 2,
            Answerer::Template => 3,
            Answerer::Hosts => 4,
            Answerer::Kubernetes => 5,
            Answerer::Cache => 6,
            Answerer::Forward => 7,
        }
    }

    /// The plugin's name.
    pub fn name(self) -> &'static str {
        match self {
            Answerer::Server => "",
            Answerer::Acl => "acl",
            Answerer::Any => "any",
            Answerer::Template => "template",
            Answerer::Hosts => "hosts",
            Answerer::Kubernetes => "kubernetes",
            Answerer::Cache => "cache",
            Answerer::Forward => "forward",
        }
    }
}

/// For which names a plugin that knows no answer lets the next one try.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fallthrough {
    zones: Vec<Name>,
}

impl Fallthrough {
    /// Reads `fallthrough [ZONES...]`: without zones it holds for all names.
    ///
    /// # Errors
    /// A zone that is none.
    pub fn read(option: &Directive) -> Result<Fallthrough, CorefileError> {
        let zones = parse_zones(&option.args)?;
        Ok(Fallthrough { zones: if zones.is_empty() { vec![Name::root_bytes()] } else { zones } })
    }

    /// Whether the next plugin may try.
    pub fn lets(&self, asked: &Name) -> bool {
        name::in_any(&self.zones, asked)
    }
}

/// The zones of a plugin: those that it names, or those of its server block.
///
/// # Errors
/// A zone that is none.
pub fn zones_or<'a>(words: impl IntoIterator<Item = &'a crate::corefile::Word>, block: &[Name]) -> Result<Vec<Name>, CorefileError> {
    let zones = parse_zones(words)?;
    Ok(if zones.is_empty() { block.to_vec() } else { zones })
}

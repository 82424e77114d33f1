//! The process: options, start, reload, signals, end.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::chain::{Block, Known};
use crate::config::{Config, Surroundings};
use crate::corefile::{Corefile, CorefileError, DiskSources, Place, parse};
use crate::error::DnsError;
use crate::feed;
use crate::metrics::Metrics;
use crate::name::display;
use crate::plugin::listen::Reload;
use crate::plugin::loopcheck::LoopCheck;
use crate::server::{Limits, Runtime, Transport};

/// Answer the cluster's names on this node.
///
/// Reads a Corefile as CoreDNS does, learns the services from the node's agent through a local socket, and goes on
/// answering the last it knew while the agent is gone.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The Corefile
    #[arg(long, value_name = "PATH", default_value = "/etc/coredns/Corefile", env = "BOWLINE_DNS_CONF")]
    pub conf: PathBuf,
    /// The agent's socket, from which the services are learnt
    #[arg(long, value_name = "SOCKET", default_value = "/run/bowline/dns.sock", env = "BOWLINE_DNS_FEED")]
    pub feed: PathBuf,
    /// Port of the server blocks that name none
    #[arg(short, long, visible_alias = "dns.port", value_name = "PORT", default_value_t = 53)]
    pub port: u16,
}

/// How often `loop`'s verdict is looked at, and for how long.
const LOOP_LOOKS: (Duration, u32) = (Duration::from_millis(100), 300);

/// Runs until TERM or INT, or until a loop is found.
///
/// # Errors
/// The Corefile is wrong, an address is taken, or questions come back to where they were sent from.
pub async fn run(args: Args) -> Result<(), DnsError> {
    let files = raise_file_limit();
    let metrics = Arc::new(Metrics::default());
    let (text, mut config) = load(&args, &metrics)?;
    let (sender, known) = watch::channel(Known::default());
    let mut runtime = Runtime::new(Limits::new(files, Arc::clone(&metrics)), known);
    runtime.apply(&config)?;
    let feed_path = args.feed.clone();
    let following = tokio::spawn(async move { feed::follow(&feed_path, sender).await });
    let mut signals = Signals::new()?;
    let mut loop_check = check_for_loops(&runtime);
    let mut last = text;
    let ended = loop {
        let wait = next_look(config.reload);
        let looked = tokio::select! {
            zone = &mut loop_check => break Err(DnsError::Loop { zone }),
            ask = signals.next() => match ask {
                Ask::Stop => break Ok(()),
                Ask::Reload => true,
            },
            () = wait => true,
        };
        if looked && let Some((text, new)) = reload(&args, &metrics, &last) {
            match runtime.apply(&new) {
                Ok(()) => {
                    tracing::info!(file = %args.conf.display(), "Corefile reloaded");
                    (last, config) = (text, new);
                    loop_check = check_for_loops(&runtime);
                }
                Err(error) => refuse(&metrics, &error),
            }
        }
    };
    if ended.is_ok() && !config.lameduck.is_zero() {
        tracing::info!(seconds = config.lameduck.as_secs(), "going on for the time of lameduck, then stopping");
        // A second signal ends it at once.
        tokio::select! {
            () = tokio::time::sleep(config.lameduck) => {}
            _ = signals.next() => {}
        }
    }
    following.abort();
    runtime.shut_down().await;
    ended
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Stop,
    Reload,
}

struct Signals {
    term: Signal,
    int: Signal,
    usr1: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> Result<Signals, DnsError> {
        let listen = |kind| signal(kind).map_err(|source| DnsError::Signals { source });
        Ok(Signals {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            usr1: listen(SignalKind::user_defined1())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.term.recv() => Ask::Stop,
            _ = self.int.recv() => Ask::Stop,
            _ = self.usr1.recv() => Ask::Reload,
            _ = self.hup.recv() => Ask::Reload,
        }
    }
}

/// Lets the process open as many files as it may, and says how many that is.
fn raise_file_limit() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.and_then(|current| usize::try_from(current).ok()).unwrap_or(1024)
}

/// Reads the Corefile and all that it names.
fn load(args: &Args, metrics: &Metrics) -> Result<(Corefile, Config), DnsError> {
    let path: &Path = &args.conf;
    let text = std::fs::read_to_string(path).map_err(|source| DnsError::Unreadable { path: path.to_owned(), source })?;
    let file = parse(&path.display().to_string(), &text, &DiskSources)?;
    let around = Surroundings {
        default_port: args.port,
        metrics,
        read_file: &|path| std::fs::read_to_string(path),
        interface: &interface_addresses,
    };
    let config = Config::read(&file, around)?;
    if config.ports.is_empty() {
        let place = Place { file: path.display().to_string().into(), line: 1 };
        let fix = "write at least `. { kubernetes cluster.local }`".to_owned();
        return Err(CorefileError { place, what: "the Corefile holds no server block".to_owned(), fix }.into());
    }
    Ok((file, config))
}

fn interface_addresses(name: &str) -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let of_it = interfaces.filter(|interface| interface.interface_name == name);
    let addresses = of_it.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        // A link-local address cannot be bound to without its link.
        let v6 = address.as_sockaddr_in6().map(|address| address.ip()).filter(|ip| !ip.is_unicast_link_local());
        v4.or(v6.map(IpAddr::from))
    });
    addresses.collect()
}

/// The new configuration, if there is one and it can be read.
fn reload(args: &Args, metrics: &Metrics, last: &Corefile) -> Option<(Corefile, Config)> {
    match load(args, metrics) {
        Ok((file, _)) if file == *last => None,
        Ok(new) => Some(new),
        Err(error) => {
            refuse(metrics, &error);
            None
        }
    }
}

fn refuse(metrics: &Metrics, error: &DnsError) {
    metrics.reload_failures.fetch_add(1, Ordering::Relaxed);
    tracing::error!(%error, "the new Corefile is not taken, the old one stays in force");
}

async fn next_look(reload: Option<Reload>) {
    let Some(reload) = reload else { return std::future::pending().await };
    let jitter = reload.jitter.mul_f64(rand::random_range(-1.0..=1.0_f64).abs());
    let wait = if rand::random() { reload.interval + jitter } else { reload.interval.saturating_sub(jitter) };
    tokio::time::sleep(wait).await;
}

/// Sends the question of each `loop` upstream; gives the zone for which it comes back, and never ends otherwise.
fn check_for_loops(runtime: &Runtime) -> Pin<Box<dyn Future<Output = String> + Send>> {
    let blocks: Vec<Arc<Block>> = runtime.ports().iter().flat_map(|port| port.blocks.clone()).collect();
    let checked: Vec<Arc<Block>> = blocks.into_iter().filter(|block| block.loop_check.is_some()).collect();
    for block in &checked {
        let block = Arc::clone(block);
        tokio::spawn(async move { send_probe(&block).await });
    }
    Box::pin(async move {
        let (pause, looks) = LOOP_LOOKS;
        for _ in 0..looks {
            tokio::time::sleep(pause).await;
            let looped = checked.iter().find(|block| block.looped.load(Ordering::Relaxed));
            if let Some(check) = looped.and_then(|block| block.loop_check.as_ref()) {
                return display(check.zone());
            }
        }
        std::future::pending().await
    })
}

/// An upstream may not be there yet: a few tries are made.
async fn send_probe(block: &Block) {
    let Some(probe) = block.loop_check.as_ref().map(LoopCheck::probe) else { return };
    let Some(forward) = block.forwards.iter().find(|forward| forward.takes(&probe.name)) else { return };
    for _ in 0..3 {
        if forward.exchange(&probe, Transport::Udp).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Turns options as Go's programs write them (`-conf`, `-dns.port=53`) into ours, so that CoreDNS's command lines work.
pub fn from_go_style(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let convert = |arg: OsString| {
        let Some(text) = arg.to_str() else { return arg };
        let name = text.split('=').next().unwrap_or_default();
        if matches!(name, "-conf" | "-dns.port" | "-feed" | "-port") { OsString::from(format!("-{text}")) } else { arg }
    };
    args.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_coredns_are_understood() {
        let given = ["-conf", "/x", "-dns.port=1053", "-p", "53", "--feed", "-c"].map(OsString::from);
        let expected = ["--conf", "/x", "--dns.port=1053", "-p", "53", "--feed", "-c"].map(OsString::from);
        assert_eq!(from_go_style(given), expected);
    }
}

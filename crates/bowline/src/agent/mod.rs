//! `bowline agent`: what runs on each node.
//!
//! Watch, turn, kernel thread, CNI, DNS feed and status, wired together; each owns its state and talks by channels. Liveness never depends on
//! the API server: without it everything goes on as it was.

pub(crate) mod api;
mod apply;
mod attachments;
mod cni_server;
mod config;
pub(crate) mod denials;
#[cfg(test)]
mod deployed;
pub(crate) mod explain;
mod fastpath;
mod front;
mod guard;
mod health;
mod host;
mod http;
pub(crate) mod install;
mod kube_proxy;
mod ledger;
mod network;
mod reap;
mod reaper;
mod resting;
mod service_health;
mod sockets;
pub(crate) mod status;
mod tracking;
mod tries;
mod tune;
mod turn;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use bowline_compile::world::Settings;
use bowline_dns::FeedServer;
use bowline_kernel::bpf::Tally;
use bowline_kernel::watch::ForeignChanges;
use bowline_model::Problem;
use bowline_model::intent::dns::DnsIntent;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use config::{AgentArgs, AgentConfig};

use apply::{Applied, Applier, Foreign, Wakes};
use cni_server::{Channels, CniServer};
use ledger::Ledger;
use status::{House, Teller, Topic};
use turn::{CHANNEL_CHANGES, Published, Turn};

/// How often attachments are looked over for containers that are gone.
const COLLECT_EVERY: Duration = Duration::from_secs(30);

/// The same where there may be something to collect.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long tasks may take to end once the agent is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// Runs the agent until TERM or INT.
///
/// # Errors
/// When settings, sockets or the kernel's own sockets cannot be used; everything later is tried again instead.
pub(crate) async fn run(args: AgentArgs) -> anyhow::Result<()> {
    let config = AgentConfig::load(&args).map_err(anyhow::Error::msg)?;
    let started = Instant::now();
    tracing::info!(node = config.node_name, backend = config.backend.word(), version = env!("CARGO_PKG_VERSION"), "agent started");
    prepare(&config);
    make_directories(&config)?;
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (changes, heard) = mpsc::channel(CHANNEL_CHANGES);
    let (published_to, published) = watch::channel(Published::default());
    let (names_to, names) = watch::channel(None);
    let (applied_to, applied) = watch::channel(Applied::default());

    let ledger = Ledger::open(&config.cluster_cidrs);
    let (worlds, onlookers) = mpsc::channel(1);
    let turn = Turn::new(settings(&config), heard, onlookers, published_to, names_to, ledger.clone());
    let guards = crate::watch::Guards::new(Some(&config.state_dir));
    let channels = Channels { changes: changes.clone(), published: published.clone(), applied: applied.clone(), unheard: guards.unheard() };
    let cni = Arc::new(CniServer::open(&config.state_dir, channels).await.with_context(|| config.state_dir.display().to_string())?);
    // Others hold senders of changes for as long as the process lives, so the turn does not end by itself.
    tasks.spawn(until(stop.clone(), turn.run()));
    tasks.spawn(service_health::serve(applied.clone(), ledger.clone(), stop.clone()));

    let (kernel, tally) = start_kernel_thread(&config, applied_to, published.clone(), ledger.clone(), &stop)?;
    let teller = Teller {
        node: config.node_name.clone(),
        backend: config.backend.clone(),
        published,
        applied,
        house: Arc::default(),
        tally,
        warnings: config.warnings.clone().into(),
        started,
    };
    let status_socket = listen(&config.run_dir.join("agent.sock"))?;
    tokio::spawn(teller.clone().serve(tokio::net::UnixListener::from_std({
        status_socket.set_nonblocking(true)?;
        status_socket
    })?));
    denials::Telling { worlds: worlds.clone(), applied: teller.applied.clone() }.start(stop.clone())?;
    let explaining = explain::Explaining { node: config.node_name.clone(), worlds, applied: teller.applied.clone() };
    tokio::spawn(explaining.serve(explain::listen(&config.run_dir)?));
    serve_names(&config, names, &stop, &tasks)?;
    serve_cni(&config, &cni)?;
    // Deletions that came while no agent was there; the collector takes up what cannot be finished yet.
    let server = cni.clone();
    tasks.spawn_blocking(move || server.replay_journal());
    if let Some(address) = config.health_address {
        health::serve(address, teller.clone(), &stop, &tasks).await?;
    }
    front::serve(&config, &ledger, &teller, &stop, &tasks).await?;
    if let Some(conntrack) = config.conntrack.clone() {
        tasks.spawn(until(stop.clone(), tune::conntrack(conntrack, teller.clone())));
    }

    tasks.spawn(until(stop.clone(), tracking::watch(teller.clone())));

    let access = api::access(&config).await?;
    let url = api::named(&access);
    tracing::info!(server = url, "API server chosen");
    let client = crate::watch::client(access)?;
    let outage = crate::watch::start(&client, &config.node_name, (&changes, &guards), &tasks, &stop);
    drop(changes);
    tasks.spawn(until(stop.clone(), api::tell_of_trouble(client.clone(), outage, url, teller.clone())));
    tasks.spawn(until(stop.clone(), network::tell_node(client, teller.clone())));
    tasks.spawn(keep_house(config.clone(), teller, cni, stop.clone()));

    wait_for_signal().await?;
    tracing::info!("agent stopping; what is in force stays");
    stop.cancel();
    tasks.close();
    let _ = tokio::time::timeout(STOP_WITHIN, tasks.wait()).await;
    let _ = tokio::task::spawn_blocking(move || kernel.join()).await;
    Ok(())
}

/// Says what of the settings does nothing, and does what comes before everything else.
fn prepare(config: &AgentConfig) {
    for warning in &config.warnings {
        tracing::warn!(place = warning.place, why = warning.why, fix = warning.fix, "{}: {}", warning.code, warning.what);
    }
    config.oom_score_adj.into_iter().for_each(tune::oom_score);
    if let Some(directory) = &config.proc_sys {
        bowline_kernel::sysctl::use_root(directory);
    }
}

/// Runs a task that has no end of its own.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = task => {}
    }
}

fn settings(config: &AgentConfig) -> Settings {
    Settings {
        backend: config.backend.clone(),
        cluster_cidrs: config.cluster_cidrs.clone(),
        service_cidrs: config.service_cidrs.clone(),
        node_port_addresses: config.node_port_addresses.clone(),
        node_port_primary: config.node_port_primary,
        no_masquerade: config.no_masquerade.clone(),
        external_ips: config.external_ips.clone(),
        load_balancer_ips: config.load_balancer_ips.clone(),
        dns_pods: config.dns_pods,
        ..Settings::new(config.node_name.as_str())
    }
}

/// Makes the agent's own directories, for root alone: a socket inside that others may use is reached by a mount of its own directory.
fn make_directories(config: &AgentConfig) -> anyhow::Result<()> {
    for dir in [&config.run_dir, &config.state_dir] {
        let made = std::fs::create_dir_all(dir).and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)));
        made.map_err(|error| {
            let problem = Problem::new(
                1202,
                "a directory of the agent cannot be made",
                dir.display().to_string(),
                "run the agent as root, or name another directory",
            );
            anyhow::Error::msg(problem.because(error.to_string()))
        })?;
    }
    Ok(())
}

/// A listening socket that only root can connect to; one that a former life left behind is replaced.
fn listen(path: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    let made = (|| {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    })();
    made.map_err(|error| {
        let problem = Problem::new(
            1202,
            "a socket of the agent cannot be made",
            path.display().to_string(),
            "run the agent as root, or name another runDir",
        );
        anyhow::Error::msg(problem.because(error.to_string()))
    })
}

fn start_kernel_thread(
    config: &AgentConfig,
    applied: watch::Sender<Applied>,
    published: watch::Receiver<Published>,
    ledger: Arc<Ledger>,
    stop: &CancellationToken,
) -> anyhow::Result<(std::thread::JoinHandle<()>, Arc<OnceLock<Tally>>)> {
    let foreign = Arc::<Foreign>::default();
    // First, since what a former mode's programs have begun is in maps that go with the hooks at sockets.
    let fastpath = fastpath::Fastpath::open(config);
    let sockets = sockets::Sockets::open(config);
    let tally = fastpath.tally();
    let mut applier = Applier::open(config.iface.clone(), (sockets, fastpath), applied, ledger).context("netlink")?;
    listen_to_kernel(foreign.clone(), &applier.own_ports(), stop.clone())?;
    let wakes = Wakes { published, foreign, stop: stop.clone() };
    let runtime = tokio::runtime::Handle::current();
    Ok((std::thread::Builder::new().name("kernel".into()).spawn(move || applier.run(&runtime, wakes))?, tally))
}

/// Feeds the DNS process, from the first names on.
fn serve_names(
    config: &AgentConfig,
    mut names: watch::Receiver<Option<Arc<DnsIntent>>>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> anyhow::Result<()> {
    let server = match &config.dns_socket {
        None => FeedServer::bind(&config.run_dir.join("dns.sock"))?,
        Some(path) => FeedServer::bind_for_all(path)?,
    };
    let stop = stop.clone();
    tasks.spawn(async move {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            first = names.wait_for(Option::is_some) => match first {
                Ok(first) => first.clone().unwrap_or_default(),
                Err(_) => return,
            },
        };
        let (to, from) = watch::channel(first);
        let served = tokio::spawn(server.serve(from, stop.clone()));
        while let Ok(()) = tokio::select! {
            () = stop.cancelled() => return,
            changed = names.changed() => changed,
        } {
            let newest = names.borrow_and_update().clone();
            to.send_replace(newest.unwrap_or_default());
        }
        let _ = served.await;
    });
    Ok(())
}

fn serve_cni(config: &AgentConfig, cni: &Arc<CniServer>) -> anyhow::Result<()> {
    let listener = listen(&config.run_dir.join("cni.sock"))?;
    let server = cni.clone();
    std::thread::Builder::new().name("cni-accept".into()).spawn(move || server.serve(&listener))?;
    Ok(())
}

/// Once the node serves: writes the runtime's configuration and sees that it stays, replays deletions, and collects what nobody deleted.
async fn keep_house(config: AgentConfig, teller: Teller, cni: Arc<CniServer>, stop: CancellationToken) {
    let mut applied = teller.applied.clone();
    tokio::select! {
        () = stop.cancelled() => return,
        ready = applied.wait_for(|a| a.intent.revision > 0 && a.intent.routes.local.is_some()) => if ready.is_err() { return },
    }
    let mut gone = std::collections::BTreeMap::new();
    let config = Arc::new(config);
    loop {
        let (server, before, house, config) = (cni.clone(), std::mem::take(&mut gone), teller.house.clone(), config.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let mut gone = before;
            keep_installed(&config, &house);
            server.replay_journal();
            server.collect(&mut gone);
            gone
        });
        gone = looked.await.unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if gone.is_empty() { COLLECT_EVERY } else { LOOK_AGAIN }) => {}
        }
    }
}

/// Installs the plugin and the runtime's configuration where they are not as they should be.
fn keep_installed(config: &AgentConfig, house: &House) {
    match install::install(config, house.is_installed()) {
        Ok(wrote) => {
            if wrote {
                tracing::info!(dir = %config.cni_conf_dir.display(), "CNI plugin and configuration written");
            }
            house.set_installed();
            house.clear(Topic::Install);
        }
        Err(error) => {
            let place = format!("{} and {}", config.cni_conf_dir.display(), config.cni_bin_dir.display());
            let fix = "let the agent write there: check the mounts of its container, or set cniConfDir and cniBinDir";
            let problem = Problem::new(1208, "the runtime's CNI configuration or plugin cannot be written", place, fix);
            house.set(Topic::Install, problem.because(error.to_string()));
        }
    }
}

/// Waits on the kernel's notifications on a thread of its own; each is only a hint to read back.
fn listen_to_kernel(foreign: Arc<Foreign>, own_ports: &[u32], stop: CancellationToken) -> anyhow::Result<()> {
    let mut changes = ForeignChanges::open().context("netlink notifications")?;
    own_ports.iter().for_each(|port| changes.ignore_port(*port));
    std::thread::Builder::new().name("kernel-watch".into()).spawn(move || {
        while !stop.is_cancelled() {
            match changes.wait(Duration::from_secs(1)) {
                Ok(changed) if changed.any() => {
                    foreign.net.fetch_or(changed.net, Ordering::Relaxed);
                    foreign.nft.fetch_or(changed.nft, Ordering::Relaxed);
                    foreign.bell.notify_one();
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "kernel notifications ended; the slow timer goes on");
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// Waits for TERM or INT.
///
/// # Errors
/// When the signals cannot be listened to.
pub(crate) async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

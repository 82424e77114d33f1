//! Services at the socket, as far as the settings want them and the kernel has what they need; without them the rules serve alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};

use bowline_dataplane::objects::sockets::{SocketKey, SocketValue};
use bowline_kernel::bpf::{BpfError, Hooks, Place, SocketDriver, Sweeper};
use bowline_kernel::netns::NetNs;
use bowline_kernel::reconcile::{Reconciler, SyncMode, SyncReport};
use bowline_model::{Delta, Problem};

use super::attachments::Records;
use super::config::{AgentConfig, ServiceMode};

/// How often the agent looks whether its programs are still where they belong, since nobody tells of that.
const LOOK_EVERY_MS: u64 = 500;

/// How often it tries again what the kernel refused.
const TRY_EVERY_MS: u64 = 60_000;

/// The programs and what they look into.
pub(crate) struct Sockets {
    wanted: bool,
    used: Option<Used>,
    /// Why they are not used, or why a repair failed.
    error: Option<BpfError>,
    look_at_ms: u64,
    nothing: BTreeMap<SocketKey, SocketValue>,
    /// Where it is written down which namespaces there are.
    records: Option<Records>,
    cgroup: Cgroup,
}

/// Whose processes meet the hooks.
enum Cgroup {
    /// Those of the tree that this process sees.
    Own,
    /// Those of this one.
    At(PathBuf),
    /// Nobody has said, and this process sees another than the node's.
    Unknown,
}

impl Cgroup {
    fn of(config: &AgentConfig) -> Cgroup {
        match (&config.cgroup_root, &config.proc_sys) {
            (Some(root), _) => Cgroup::At(root.clone()),
            (None, None) => Cgroup::Own,
            // It is told where the node's /proc/sys is because it is in a container.
            (None, Some(_)) => Cgroup::Unknown,
        }
    }

    fn place(&self) -> Result<Place, BpfError> {
        match self {
            Cgroup::Own => Place::of_machine(),
            Cgroup::At(root) => Place::with_cgroup(root),
            Cgroup::Unknown => Err(BpfError::Contained),
        }
    }
}

struct Used {
    hooks: Hooks,
    maps: Reconciler<SocketDriver>,
    /// Other builds' programs are gone.
    alone: bool,
    /// Rings when sockets may have lost their endpoint.
    sweep: SyncSender<()>,
    /// Some have, perhaps: those from before the start.
    to_sweep: bool,
}

impl Sockets {
    /// Attaches the programs in the network namespace of the calling thread if the mode wants them; takes off what a former mode left.
    pub(crate) fn open(config: &AgentConfig) -> Sockets {
        let wanted = config.service_mode == ServiceMode::Ebpf;
        let mut sockets = Sockets {
            wanted,
            used: None,
            error: None,
            look_at_ms: 0,
            nothing: BTreeMap::new(),
            records: Records::open(&config.state_dir).ok(),
            cgroup: Cgroup::of(config),
        };
        if wanted {
            sockets.attach();
        } else {
            match Hooks::uninstall() {
                Ok(false) => {}
                Ok(true) => tracing::info!("socket hooks of a former mode taken off"),
                Err(error) => sockets.error = Some(error),
            }
        }
        sockets
    }

    fn attach(&mut self) {
        match self.cgroup.place().and_then(|place| Hooks::open_at(&place)).and_then(|hooks| Ok((hooks.driver()?, hooks.sweeper()?, hooks)))
        {
            Ok((driver, sweeper, hooks)) => {
                tracing::info!("services are translated at the socket");
                let sweep = start_sweeping(sweeper, self.records.clone());
                self.used = Some(Used { hooks, maps: Reconciler::new(driver), alone: false, sweep, to_sweep: true });
                self.error = None;
            }
            Err(error) => {
                tracing::warn!(%error, "services are served by nftables alone");
                self.error = Some(error);
            }
        }
    }

    /// Whether the programs are at their hooks.
    pub(crate) fn are_used(&self) -> bool {
        self.used.is_some()
    }

    /// What is wanted of the maps.
    pub(crate) fn wanted(&self) -> &BTreeMap<SocketKey, SocketValue> {
        self.used.as_ref().map_or(&self.nothing, |used| used.maps.wanted())
    }

    /// Changes what is wanted of the maps; removal is allowed, since every input has been listed when something is lowered.
    pub(crate) fn want(&mut self, delta: Delta<SocketKey, SocketValue>) {
        if let Some(used) = &mut self.used {
            used.to_sweep |= delta.remove.iter().any(|key| matches!(key, SocketKey::Live(_)));
            used.maps.want(delta);
            used.maps.allow_removal();
        }
    }

    /// What the kernel did not take, with the reason.
    pub(crate) fn failing(&self) -> impl Iterator<Item = (&SocketKey, &str)> {
        self.used.iter().flat_map(|used| used.maps.failing())
    }

    /// When to look again.
    pub(crate) fn next_retry_ms(&self, now_ms: u64) -> Option<u64> {
        let maps = self.used.as_ref().and_then(|used| used.maps.next_retry_ms());
        let look = self.wanted.then_some(self.look_at_ms.max(now_ms));
        maps.into_iter().chain(look).min()
    }

    /// Looks whether the programs are where they belong, puts back those that are not, and makes the maps equal to what is wanted.
    pub(crate) fn sync(&mut self, how: SyncMode, now_ms: u64) -> SyncReport<SocketKey> {
        if !self.wanted {
            return SyncReport::default();
        }
        let (mut how, mut put_back) = (how, false);
        if now_ms >= self.look_at_ms {
            let were_there = self.used.is_some();
            self.look_at_ms = now_ms + if were_there { LOOK_EVERY_MS } else { TRY_EVERY_MS };
            if self.look() {
                (how, put_back) = (SyncMode::Full, were_there);
            }
        }
        let Some(used) = &mut self.used else { return SyncReport::default() };
        let mut report = used.maps.sync(how, now_ms);
        report.foreign += usize::from(put_back);
        if report.is_clean() && std::mem::take(&mut used.to_sweep) {
            // One that is rung already has not begun.
            let _ = used.sweep.try_send(());
        }
        if report.is_clean() && !used.alone {
            match used.hooks.retire_others() {
                Ok(()) => used.alone = true,
                Err(error) => self.error = Some(error),
            }
        }
        report
    }

    /// Says whether anything was put back.
    fn look(&mut self) -> bool {
        let Some(used) = &mut self.used else {
            self.attach();
            return self.used.is_some();
        };
        let repaired = used.hooks.repair().and_then(|repaired| {
            if repaired {
                // With the pins the maps may have gone.
                *used.maps.driver() = used.hooks.driver()?;
                used.sweep = start_sweeping(used.hooks.sweeper()?, self.records.clone());
                used.to_sweep = true;
            }
            Ok(repaired)
        });
        match repaired {
            Ok(false) => false,
            Ok(true) => {
                tracing::warn!("someone detached programs of ours from their hooks; they are back");
                self.error = None;
                true
            }
            Err(error) => {
                self.error = Some(error);
                false
            }
        }
    }

    /// What keeps services from being translated at the socket.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let error = self.error.as_ref()?;
        let what = if self.wanted { "services are served by nftables alone" } else { "programs of a former service mode are still there" };
        Some(Problem::new(1311, what, "serviceMode", error.fix()).because(error.to_string()))
    }
}

/// Destroys sockets that have lost their endpoint, in all namespaces of this node, whenever the bell that it gives is rung; ends with it. A
/// thread of its own: a node may have many sockets, and the kernel thread must not wait for them.
fn start_sweeping(sweeper: Sweeper, records: Option<Records>) -> SyncSender<()> {
    let (sweep, rung) = sync_channel(1);
    let node = NetNs::current();
    let work = move || {
        while rung.recv().is_ok() {
            let pods = records.iter().flat_map(Records::namespaces).filter_map(|path| NetNs::open(path).ok());
            for namespace in node.iter().map(NetNs::try_clone).filter_map(Result::ok).chain(pods) {
                match sweeper.sweep(&namespace) {
                    Ok(0) => {}
                    Ok(destroyed) => tracing::info!(destroyed, "datagram sockets destroyed whose endpoint is gone"),
                    Err(error) => tracing::debug!(%error, "sockets of a namespace cannot be looked over"),
                }
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("sockets".into()).spawn(work) {
        tracing::warn!(%error, "no thread for datagram sockets whose endpoint is gone");
    }
    sweep
}

//! Services at the socket, as far as the settings want them and the kernel has what they need; without them the rules serve alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_dataplane::objects::sockets::{SocketKey, SocketValue};
use bowline_kernel::bpf::{BpfError, Fill, Hooks, Lookup, Place, Sizes, SocketDriver, Sweeper, is_full};
use bowline_kernel::netns::NetNs;
use bowline_kernel::reconcile::{Reconciler, SyncMode, SyncReport};
use bowline_metrics::Page;
use bowline_model::{Delta, Problem};

use super::attachments::Records;
use super::config::AgentConfig;
use super::tries::Tries;

/// How often the agent looks whether its programs are still where they belong, since nobody tells of that.
const LOOK_EVERY_MS: u64 = 500;

/// The programs and what they look into.
pub(crate) struct Sockets {
    wanted: bool,
    insists: bool,
    used: Option<Used>,
    /// Why they are not used, or why a repair failed.
    error: Option<BpfError>,
    look_at_ms: u64,
    tries: Tries,
    sizes: Sizes,
    /// For who asks what is in the maps.
    readers: SocketReaders,
    /// Something does not fit; the log has it.
    full: bool,
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
    /// How much is wanted of each map.
    wanted: [usize; 3],
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
        let wanted = config.service_mode.wants_programs();
        let mut sockets = Sockets {
            wanted,
            insists: config.service_mode.insists(),
            used: None,
            error: None,
            look_at_ms: 0,
            tries: Tries::default(),
            sizes: config.map_sizes,
            readers: SocketReaders::default(),
            full: false,
            nothing: BTreeMap::new(),
            records: Records::open(&config.state_dir).ok(),
            cgroup: Cgroup::of(config),
        };
        if wanted {
            sockets.attach(0);
        } else {
            match Hooks::uninstall() {
                Ok(false) => {}
                Ok(true) => tracing::info!("socket hooks of a former mode taken off"),
                Err(error) => sockets.error = Some(error),
            }
        }
        sockets
    }

    fn attach(&mut self, now_ms: u64) {
        let opened = self.cgroup.place().and_then(|place| Hooks::open_at(&place, self.sizes));
        match opened.and_then(|hooks| Ok((hooks.driver()?, hooks.sweeper()?, Readers::open(&hooks)?, hooks))) {
            Ok((driver, sweeper, readers, hooks)) => {
                tracing::info!("services are translated at the socket");
                let sweep = start_sweeping(sweeper, self.records.clone());
                self.readers.set(readers);
                self.used = Some(Used { hooks, maps: Reconciler::new(driver), wanted: [0; 3], alone: false, sweep, to_sweep: true });
                self.error = None;
            }
            Err(error) => {
                // Said once for as long as it is the same.
                if self.error.as_ref().is_none_or(|before| before.to_string() != error.to_string()) {
                    tracing::warn!(%error, "services are served by nftables alone");
                }
                self.error = Some(error);
                self.look_at_ms = now_ms + self.tries.failed();
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
            let Used { maps, wanted, .. } = used;
            let known = maps.wanted();
            for key in delta.set.keys().filter(|key| !known.contains_key(key)) {
                wanted.get_mut(place(key)).into_iter().for_each(|count| *count += 1);
            }
            for key in delta.remove.iter().filter(|key| known.contains_key(key) && !delta.set.contains_key(key)) {
                wanted.get_mut(place(key)).into_iter().for_each(|count| *count -= 1);
            }
            maps.want(delta);
            maps.allow_removal();
        }
    }

    /// What the kernel did not take, with the reason. What does not fit is not among it ([`Sockets::full`]).
    pub(crate) fn failing(&self) -> impl Iterator<Item = (&SocketKey, &str)> {
        self.used.iter().flat_map(|used| used.maps.failing()).filter(|(_, error)| !is_full(error))
    }

    /// How full the maps are.
    pub(crate) fn maps(&mut self) -> SocketMaps {
        let readers = self.readers.clone();
        let Some(used) = &mut self.used else { return SocketMaps { readers, ..SocketMaps::default() } };
        let (left_out, missing, refused) = used.maps.driver().left_out();
        let of = |key: &SocketKey, error: &str| (is_full(error) && place(key) < 2).then_some(place(key));
        let mut absent = [0, 0, left_out];
        if missing > 0 {
            for at in used.maps.failing().filter_map(|(key, error)| of(key, error)) {
                absent.get_mut(at).into_iter().for_each(|count| *count += 1);
            }
        }
        let [frontends, endpoints, live] = used.maps.driver().room();
        let maps = [endpoints, live, frontends].into_iter().zip(used.wanted.into_iter().zip(absent));
        let entries = maps.map(|((map, room), (wanted, absent))| (map, wanted.saturating_sub(absent), room)).collect();
        SocketMaps { entries, left_out, refused, readers }
    }

    /// What does not fit into the maps; said in the log when it begins and when it is over.
    pub(crate) fn full(&mut self, maps: &SocketMaps) -> Option<Problem> {
        let full = maps.left_out > 0;
        if full && !self.full {
            tracing::warn!(frontends = maps.left_out, "maps of services are full: nftables serves what does not fit");
        } else if self.full && !full {
            tracing::info!("all services fit into their maps again");
        }
        self.full = full;
        let what = "some services are served by nftables alone, since the maps of the others are full";
        let fills: Vec<String> = maps.entries.iter().map(|(map, entries, room)| format!("{map} {entries} of {room}")).collect();
        let fix = "raise the sizes under mapSizes in the agent's settings, and restart the agent";
        full.then(|| Problem::new(1314, what, "mapSizes", fix).because(fills.join(", ")))
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
            if self.look(now_ms) {
                (how, put_back) = (SyncMode::Full, were_there);
            }
        }
        let Some(used) = &mut self.used else { return SyncReport::default() };
        let mut report = used.maps.sync(how, now_ms);
        report.foreign += usize::from(put_back);
        // What does not fit the rules serve: nothing waits for it.
        let done = report.read_error.is_none() && report.failed.iter().all(|failure| is_full(&failure.error));
        if done && std::mem::take(&mut used.to_sweep) {
            // One that is rung already has not begun.
            let _ = used.sweep.try_send(());
        }
        if done && !used.alone {
            match used.hooks.retire_others() {
                Ok(()) => used.alone = true,
                Err(error) => self.error = Some(error),
            }
        }
        report
    }

    /// Says whether anything was put back.
    fn look(&mut self, now_ms: u64) -> bool {
        self.look_at_ms = now_ms + LOOK_EVERY_MS;
        let Some(used) = &mut self.used else {
            self.attach(now_ms);
            return self.used.is_some();
        };
        let repaired = used.hooks.repair().and_then(|repaired| {
            if repaired {
                // With the pins the maps may have gone.
                *used.maps.driver() = used.hooks.driver()?;
                self.readers.set(Readers::open(&used.hooks)?);
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

    /// Whether the kernel lacks what the mode would use if it could, so that the next best is what the settings ask for.
    pub(crate) fn makes_do(&self) -> bool {
        self.wanted && !self.insists && self.used.is_none()
    }

    /// What keeps services from being translated at the socket.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let error = self.error.as_ref()?;
        let what = if self.wanted { "services are served by nftables alone" } else { "programs of a former service mode are still there" };
        Some(Problem::new(1311, what, "serviceMode", error.fix()).because(error.to_string()))
    }
}

/// What reads the maps where the programs are used, for threads other than the one that writes them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SocketReaders(Arc<Mutex<Option<Readers>>>);

/// What reads the maps.
#[derive(Debug)]
pub(crate) struct Readers {
    /// How much the programs remember of sockets.
    fill: Fill,
    /// What they find by an address.
    pub(crate) lookup: Lookup,
}

impl Readers {
    fn open(hooks: &Hooks) -> Result<Readers, BpfError> {
        Ok(Readers { fill: hooks.fill()?, lookup: hooks.lookup()? })
    }
}

impl SocketReaders {
    fn set(&self, readers: Readers) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(readers);
    }

    /// What they say; nothing where no programs are used.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Readers) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(question)
    }
}

/// How full the maps of services are.
#[derive(Debug, Clone, Default)]
pub(crate) struct SocketMaps {
    /// Each map that the agent fills: its elements, and how many it has room for.
    entries: Vec<(&'static str, usize, u32)>,
    /// Frontends that are left to the rules.
    left_out: usize,
    /// Elements that a map had no room for, each as often as it was tried.
    refused: u64,
    /// For what only the kernel knows.
    pub(crate) readers: SocketReaders,
}

impl SocketMaps {
    /// Writes it on a page, where there are maps.
    pub(crate) fn metrics(&self, page: &mut Page) {
        if self.entries.is_empty() {
            return;
        }
        let mut maps = self.entries.clone();
        if let Some(Ok(more)) = self.readers.ask(|readers| readers.fill.read()) {
            maps.extend(more);
        }
        page.head("bowline_socket_map_entries", "gauge", "Elements of the maps of services at the socket.");
        maps.iter().for_each(|(map, entries, _)| page.sample("bowline_socket_map_entries", &[("map", map)], entries));
        page.head("bowline_socket_map_entries_max", "gauge", "Elements that each has room for.");
        maps.iter().for_each(|(map, _, room)| page.sample("bowline_socket_map_entries_max", &[("map", map)], room));
        let left_out = "Addresses of services that nftables serves alone, because a map is full.";
        page.single("bowline_socket_frontends_left_out", "gauge", left_out, self.left_out);
        let refused = "Elements that a full map did not take, each as often as it was tried.";
        page.single("bowline_socket_map_full_total", "counter", refused, self.refused);
    }
}

/// The place of a key's map among what is wanted: the order in which they are filled.
fn place(key: &SocketKey) -> usize {
    match key {
        SocketKey::Endpoint(_) => 0,
        SocketKey::Live(_) => 1,
        SocketKey::Frontend(_) => 2,
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

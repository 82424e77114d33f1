//! The fast path, as far as the settings want it and the kernel has what it needs; without it every packet takes the kernel's own way.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bowline_dataplane::fastpath::LIBERAL;
use bowline_dataplane::objects::hooks::{HookKey, Side};
use bowline_dataplane::objects::net::NetKey;
use bowline_kernel::bpf::{BpfError, Count, Epoch, Fastpath as Programs, HookDriver, Sizes, Tally};
use bowline_kernel::reconcile::{Reconciler, SyncMode, SyncReport};
use bowline_metrics::Page;
use bowline_model::{Delta, Problem};

use super::config::AgentConfig;
use super::tries::Tries;

/// How often the agent looks whether its programs are still where they belong, since nobody tells of that.
const LOOK_EVERY_MS: u64 = 1_000;

/// The programs at links.
pub(crate) struct Fastpath {
    wanted: bool,
    insists: bool,
    sizes: Sizes,
    used: Option<Reconciler<HookDriver>>,
    tally: Arc<OnceLock<Tally>>,
    /// Why they are not used though they are wanted, or why their maps are not pinned.
    error: Option<BpfError>,
    epoch: Epoch,
    look_at_ms: u64,
    tries: Tries,
    nothing: BTreeMap<HookKey, Side>,
}

impl Fastpath {
    /// Loads the programs in the network namespace of the calling thread if the settings want them; takes off what a former mode left.
    pub(crate) fn open(config: &AgentConfig) -> Fastpath {
        let mut fastpath = Fastpath {
            wanted: config.service_mode.wants_programs() && config.fast_path,
            insists: config.service_mode.insists(),
            sizes: config.map_sizes,
            used: None,
            tally: Arc::default(),
            error: None,
            epoch: Epoch::default(),
            look_at_ms: 0,
            tries: Tries::default(),
            nothing: BTreeMap::new(),
        };
        if fastpath.wanted {
            fastpath.load(0);
        } else {
            match Programs::uninstall() {
                Ok(0) => {}
                Ok(programs) => tracing::info!(programs, "programs of a former mode taken off their links"),
                // An agent that may not even ask has never attached anything.
                Err(error) => tracing::debug!(%error, "links cannot be asked for programs of a former mode"),
            }
        }
        fastpath
    }

    /// Loads the programs; what hinders it may be gone at the next try.
    fn load(&mut self, now_ms: u64) {
        match Programs::open(&self.epoch, self.sizes) {
            Ok(Programs { driver, tally }) => {
                if self.error.take().is_some() {
                    tracing::info!("packets of pods can be carried now");
                }
                self.used = Some(Reconciler::new(driver));
                let _ = self.tally.set(tally);
            }
            Err(error) => {
                // Said once for as long as it is the same.
                if self.error.as_ref().is_none_or(|before| before.to_string() != error.to_string()) {
                    tracing::warn!(%error, "packets of pods take the kernel's own way");
                }
                self.error = Some(error);
                self.look_at_ms = now_ms + self.tries.failed();
            }
        }
    }

    /// Whether there are programs.
    pub(crate) fn is_used(&self) -> bool {
        self.used.is_some()
    }

    /// What makes void what the programs know.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch.clone()
    }

    /// What the programs count, once there are any.
    pub(crate) fn tally(&self) -> Arc<OnceLock<Tally>> {
        self.tally.clone()
    }

    /// What is wanted of the links.
    pub(crate) fn wanted(&self) -> &BTreeMap<HookKey, Side> {
        self.used.as_ref().map_or(&self.nothing, Reconciler::wanted)
    }

    /// Changes what is wanted of the links; removal is allowed, since every input has been listed when something is lowered.
    pub(crate) fn want(&mut self, delta: Delta<HookKey, Side>) {
        if let Some(used) = &mut self.used {
            used.want(delta);
            used.allow_removal();
        }
    }

    /// What the kernel did not take, with the reason.
    pub(crate) fn failing(&self) -> impl Iterator<Item = (&HookKey, &str)> {
        self.used.iter().flat_map(Reconciler::failing)
    }

    /// When to look again.
    pub(crate) fn next_retry_ms(&self, now_ms: u64) -> Option<u64> {
        let retry = self.used.as_ref().and_then(Reconciler::next_retry_ms);
        retry.into_iter().chain(self.wanted.then_some(self.look_at_ms.max(now_ms))).min()
    }

    /// Makes the links equal to what is wanted, unless what `failed` of the network's objects forbids it: a connection that connection tracking
    /// would lose sight of must not be carried.
    pub(crate) fn sync(&mut self, how: SyncMode, now_ms: u64, failed: impl Fn(&NetKey) -> bool) -> SyncReport<HookKey> {
        if self.wanted && self.used.is_none() && now_ms >= self.look_at_ms {
            // What is wanted of the links is lowered with the next turn.
            self.load(now_ms);
            return SyncReport::default();
        }
        let Some(used) = &mut self.used else { return SyncReport::default() };
        if failed(&NetKey::Sysctl(LIBERAL.into())) {
            return SyncReport::default();
        }
        let mut taken = 0;
        if how == SyncMode::Full || now_ms >= self.look_at_ms {
            self.look_at_ms = now_ms + LOOK_EVERY_MS;
            taken = used.driver().robbed();
            match used.driver().keep_pins() {
                Ok(gone) => {
                    taken += usize::from(gone);
                    if taken > 0 {
                        self.error = None;
                    }
                }
                Err(error) => self.error = Some(error),
            }
        }
        let to_read = taken > 0 || used.driver().is_due();
        let mut report = used.sync(if to_read { SyncMode::Full } else { how }, now_ms);
        // Beside what was taken a look finds links that are new: they are nobody's doing.
        report.foreign = taken;
        if taken > 0 {
            tracing::warn!(taken, "someone took programs of ours off their links, or removed their maps' pins; they are put back");
        }
        report
    }

    /// Voids what the programs know: they learn it again from the stack.
    pub(crate) fn forget(&self) {
        if let Err(error) = self.epoch.advance() {
            tracing::warn!(%error, "the fast path cannot be told of a change");
        }
    }

    /// Whether the kernel lacks what the mode would use if it could, so that the next best is what the settings ask for.
    pub(crate) fn makes_do(&self) -> bool {
        self.wanted && !self.insists && self.used.is_none()
    }

    /// What keeps packets from being carried, now or after the next start. It is tried again.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let error = self.error.as_ref()?;
        let fix = format!("{}; the agent tries again; or set fastPath: false", error.fix());
        Some(Problem::new(1312, "packets of pods take the kernel's own way", "fastPath", fix).because(error.to_string()))
    }
}

/// What the programs have counted.
pub(crate) fn metrics(tally: &Tally, page: &mut Page) {
    let packets = "Packets of pods that were carried past the stack; a batch of segments is one.";
    page.single("bowline_fastpath_packets_total", "counter", packets, tally.get(Count::Packets));
    page.single("bowline_fastpath_bytes_total", "counter", "Bytes in them, with Ethernet headers.", tally.get(Count::Bytes));
    let flows = "Flows that began to be carried, each direction by itself.";
    page.single("bowline_fastpath_flows_total", "counter", flows, tally.get(Count::Confirmed));
    let too_big = "Packets left to the stack because the link takes less.";
    page.single("bowline_fastpath_too_big_total", "counter", too_big, tally.get(Count::TooBig));
    let begun = "TCP connections that began without the stack, after the like of one that it had let begin.";
    page.single("bowline_fastpath_connections_total", "counter", begun, tally.get(Count::Begun));
    let no_room = "TCP connections whose beginning was left to the stack because there was no room for one more.";
    page.single("bowline_fastpath_no_room_total", "counter", no_room, tally.get(Count::NoRoom));
    if let Ok((young, room)) = tally.begun() {
        let help = "TCP connections that connection tracking does not know yet.";
        page.single("bowline_fastpath_connections", "gauge", help, young);
        page.single("bowline_fastpath_connections_max", "gauge", "TCP connections of that kind that there is room for.", room);
    }
    if let Ok((known, room)) = tally.fill() {
        page.single("bowline_fastpath_entries", "gauge", "Flows that the fast path knows of, each direction by itself.", known);
        page.single("bowline_fastpath_entries_max", "gauge", "Flows that it has room for.", room);
    }
}

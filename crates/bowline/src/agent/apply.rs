//! The kernel thread: lowers each intent and makes the kernel equal to it.
//!
//! Sets, elements and chains go first, links and routes after them, so that a packet never finds a way before its rules. What fails stays
//! dirty and is tried again with growing pauses while the rest goes on. Notifications from the kernel are hints; what is read back is the truth.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bowline_dataplane::objects::hooks::HookKey;
use bowline_dataplane::objects::net::NetKey;
use bowline_dataplane::objects::nft::{NftKey, TableFamily};
use bowline_dataplane::objects::sockets::SocketKey;
use bowline_dataplane::{DenialFacts, HostFacts};
use bowline_kernel::netlink::NetDriver;
use bowline_kernel::nft::NftDriver;
use bowline_kernel::reconcile::{Reconciler, SyncMode, SyncReport};
use bowline_model::Problem;
use bowline_model::intent::Intent;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::fastpath::Fastpath;
use super::host;
use super::ledger::Ledger;
use super::reap::Work;
use super::reaper::Reaper;
use super::sockets::{SocketMaps, Sockets};
use super::turn::Published;

/// The kernel is read back this often even when nothing seems to have happened.
const READ_BACK_EVERY: Duration = Duration::from_secs(60);

/// A hint from the kernel is followed by a look after this long, so that a burst of them costs one look.
const HINT_SETTLES: Duration = Duration::from_secs(1);

/// What is in the kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    /// The newest intent that was written; revision 0 before the first.
    pub(crate) intent: Arc<Intent>,
    /// The machine that it was lowered for.
    pub(crate) host: Arc<HostFacts>,
    /// MTU for new pods, in bytes.
    pub(crate) pod_mtu_bytes: u32,
    /// Objects that the kernel does not take, and what else is wrong on this node.
    pub(crate) problems: Arc<Vec<Problem>>,
    /// What the settings would use and the kernel lacks; all is well nevertheless.
    pub(crate) notices: Arc<Vec<Problem>>,
    /// Chains and sets that are not as they should be: pods are not opened while there are any.
    pub(crate) rules_failed: bool,
    /// Services are translated at the socket where they can be.
    pub(crate) socket_hooks: bool,
    /// Packets of pods are carried past the stack once it has let their connection through.
    pub(crate) fast_path: bool,
    /// How full the maps of services are.
    pub(crate) socket_maps: SocketMaps,
    /// The tunnel is not there, or the kernel does not forward.
    pub(crate) fabric_failed: bool,
    /// Links of pods that are gone while connections of theirs may live on: their addresses are nobody's yet.
    pub(crate) uncut: Arc<BTreeSet<Arc<str>>>,
    /// Connections are still looked over that the intent may no longer allow.
    pub(crate) cutting: bool,
    /// How long the last lowering and writing took, in microseconds.
    pub(crate) last_us: u64,
    /// Objects that the last sync wrote or removed.
    pub(crate) last_written: usize,
    /// Objects written or removed since the start.
    pub(crate) written_total: u64,
    /// How often others' changes of ours were undone.
    pub(crate) repairs: Repairs,
}

/// How often something of ours that others had changed or taken away was put back, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    /// In the packet filter.
    pub(crate) rules: u64,
    /// At sockets: programs, or elements of their maps.
    pub(crate) sockets: u64,
    /// Programs at links, or the pins of their maps.
    pub(crate) links: u64,
}

impl Applied {
    /// Whether the pod's policy is in force.
    pub(crate) fn holds_pod(&self, host_ifname: &str) -> bool {
        !self.rules_failed && self.intent.pods.pods.contains_key(host_ifname) && self.intent.policy.pods.contains_key(host_ifname)
    }

    /// Whether nothing of the pod is in force any more.
    pub(crate) fn lets_go_of(&self, host_ifname: &str) -> bool {
        !self.rules_failed && !self.intent.pods.pods.contains_key(host_ifname) && !self.uncut.contains(host_ifname)
    }
}

/// The thread's state.
pub(crate) struct Applier {
    nft: Reconciler<NftDriver>,
    /// The table of ARP. Pods do not wait for it: what it keeps out could reach the node alone, and nothing of other pods.
    arp: Reconciler<NftDriver>,
    net: Reconciler<NetDriver>,
    sockets: Sockets,
    fastpath: Fastpath,
    lowered: Arc<Intent>,
    /// The newest intent whose rules were all written: what it allows is all that is let through.
    reaped: Arc<Intent>,
    reaper: Reaper,
    /// How many generations of rules others had begun when the rules were as wanted and read back last.
    others: Option<u32>,
    host: HostFacts,
    iface: Option<String>,
    /// How the kernel can tell of denials, as it said at the start.
    denials: DenialFacts,
    lowering_problems: Vec<Problem>,
    started: Instant,
    applied: watch::Sender<Applied>,
    ledger: Arc<Ledger>,
}

/// What the kernel told of others' changes since the last look.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// Of links, addresses, routes, neighbours or routing rules.
    pub(crate) net: AtomicBool,
    /// Of nftables objects.
    pub(crate) nft: AtomicBool,
    /// Rings after either.
    pub(crate) bell: Notify,
}

impl Foreign {
    /// How the two drivers should look: at the kernel where something was told of, else at the shadow.
    fn take(&self) -> Looks {
        let look = |flag: &AtomicBool| if flag.swap(false, Ordering::Relaxed) { SyncMode::Full } else { SyncMode::Shadow };
        let nft = look(&self.nft);
        Looks { nft, sockets: nft, net: look(&self.net) }
    }
}

/// What a turn came to.
struct Looked<'a> {
    rules: &'a SyncReport<NftKey>,
    arp: &'a SyncReport<NftKey>,
    sockets: &'a SyncReport<SocketKey>,
    routes: &'a SyncReport<NetKey>,
    hooks: &'a SyncReport<HookKey>,
    /// The rules were read back.
    full: bool,
}

/// How a turn looks at each driver's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looks {
    nft: SyncMode,
    sockets: SyncMode,
    net: SyncMode,
}

impl Looks {
    const FULL: Looks = Looks { nft: SyncMode::Full, sockets: SyncMode::Full, net: SyncMode::Full };
    const SHADOW: Looks = Looks { nft: SyncMode::Shadow, sockets: SyncMode::Shadow, net: SyncMode::Shadow };
}

/// What wakes the thread.
pub(crate) struct Wakes {
    /// New intents.
    pub(crate) published: watch::Receiver<Published>,
    /// Somebody else changed something.
    pub(crate) foreign: Arc<Foreign>,
    /// The end.
    pub(crate) stop: CancellationToken,
}

impl Applier {
    /// Opens the drivers in the namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub(crate) fn open(
        iface: Option<String>,
        (sockets, fastpath): (Sockets, Fastpath),
        applied: watch::Sender<Applied>,
        ledger: Arc<Ledger>,
    ) -> anyhow::Result<Applier> {
        let mut nft = NftDriver::open()?;
        let denials = ask_of_denials(&mut nft);
        Ok(Applier {
            nft: Reconciler::new(nft),
            arp: Reconciler::new(NftDriver::open_of(TableFamily::Arp)?),
            net: Reconciler::new(NetDriver::open()?),
            sockets,
            lowered: Arc::default(),
            reaped: Arc::default(),
            reaper: Reaper::start(applied.clone(), fastpath.epoch())?,
            others: None,
            fastpath,
            host: HostFacts::default(),
            iface,
            denials,
            lowering_problems: Vec::new(),
            started: Instant::now(),
            applied,
            ledger,
        })
    }

    /// The ports under which the kernel tells of what this thread itself changes.
    pub(crate) fn own_ports(&mut self) -> [u32; 3] {
        [self.nft.driver().port(), self.arp.driver().port(), self.net.driver().netlink().port()]
    }

    /// Works until the end is called. Blocks; belongs on a thread of its own.
    pub(crate) fn run(mut self, runtime: &tokio::runtime::Handle, mut wakes: Wakes) {
        let mut read_back_at = self.now_ms() + ms(READ_BACK_EVERY);
        let mut hint_at: Option<u64> = None;
        let mut looks = Looks::FULL;
        loop {
            let published = wakes.published.borrow_and_update().clone();
            if published.synced {
                if looks != Looks::SHADOW || !self.nothing_but_hooks_to_look_at(&published.intent) {
                    self.turn(&published.intent, looks);
                }
                looks = Looks::SHADOW;
            }
            let hooks = [self.sockets.next_retry_ms(self.now_ms()), self.fastpath.next_retry_ms(self.now_ms())];
            let retries = [self.nft.next_retry_ms(), self.arp.next_retry_ms(), self.net.next_retry_ms(), hint_at].into_iter().chain(hooks);
            let retry_at = retries.flatten().min();
            let until = retry_at.map_or(read_back_at, |at| at.min(read_back_at));
            let pause = Duration::from_millis(until.saturating_sub(self.now_ms()));
            let woken = runtime.block_on(async {
                tokio::select! {
                    () = wakes.stop.cancelled() => None,
                    changed = wakes.published.changed() => changed.ok().map(|()| false),
                    () = wakes.foreign.bell.notified() => Some(true),
                    () = tokio::time::sleep(pause) => Some(false),
                }
            });
            match woken {
                None => return,
                // One look a second serves a burst of hints.
                Some(true) => hint_at = hint_at.or(Some(self.now_ms() + ms(HINT_SETTLES))),
                Some(false) => {}
            }
            let now = self.now_ms();
            if now >= read_back_at {
                // Many rules take long to read, and a change that comes meanwhile waits; nobody else has written any.
                let nft = if self.rules_are_as_left() { SyncMode::Shadow } else { SyncMode::Full };
                (looks, read_back_at, hint_at) = (Looks { nft, ..Looks::FULL }, now + ms(READ_BACK_EVERY), None);
            } else if published.synced && hint_at.is_some_and(|at| now >= at) {
                (looks, hint_at) = (wakes.foreign.take(), None);
            }
        }
    }

    /// Looks after the programs at sockets and links; says whether that was all there was to do.
    fn nothing_but_hooks_to_look_at(&mut self, intent: &Arc<Intent>) -> bool {
        let waits = self.nft.next_retry_ms().or(self.arp.next_retry_ms()).or(self.net.next_retry_ms()).is_some();
        let programs = (self.host.socket_hooks, self.host.fast_path) != (self.sockets.are_used(), self.fastpath.is_used());
        if waits || programs || !Arc::ptr_eq(&self.lowered, intent) {
            return false;
        }
        let before = self.now_us();
        let sockets = self.sockets.sync(SyncMode::Shadow, self.now_ms());
        let hooks = self.sync_hooks(SyncMode::Shadow);
        let quiet = sockets.written + sockets.removed + sockets.foreign + hooks.written + hooks.removed + hooks.foreign == 0;
        if !quiet || !sockets.is_clean() || !hooks.is_clean() {
            let (rules, routes) = (SyncReport::default(), SyncReport::default());
            let arp = SyncReport::default();
            self.tell(Looked { rules: &rules, arp: &arp, sockets: &sockets, routes: &routes, hooks: &hooks, full: false }, before);
        }
        true
    }

    fn sync_hooks(&mut self, how: SyncMode) -> SyncReport<HookKey> {
        let now = self.now_ms();
        let report = self.fastpath.sync(how, now, |key| self.net.dirty().contains(key));
        if report.written + report.removed > 0 {
            // A link may have lost its programs, and what is carried to it would go on.
            self.fastpath.forget();
        }
        report
    }

    fn turn(&mut self, intent: &Arc<Intent>, looks: Looks) {
        let before = self.now_us();
        self.want(intent, looks.net);
        let now = self.now_ms();
        self.reaper.expect(intent);
        // Asked before they are read: what comes between is one more than was counted.
        let others = if looks.nft == SyncMode::Full { self.generations_of_others() } else { self.others };
        let rules = self.nft.sync(looks.nft, now);
        let arp = self.arp.sync(looks.nft, now);
        let good = rules.is_clean() && arp.is_clean() && self.nft.dirty().is_empty() && self.arp.dirty().is_empty();
        self.others = others.filter(|_| good);
        // After the rules, which serve what these maps lack.
        let sockets = self.sockets.sync(looks.sockets, now);
        // Links and routes after the rules that guard them.
        let routes = self.net.sync(looks.net, now);
        // What went another way, or might, is to be asked for again.
        if routes.written + routes.removed > 0 || looks.net == SyncMode::Full {
            self.fastpath.forget();
            self.reaper.forget();
        }
        let hooks = self.sync_hooks(looks.net);
        // What a link takes may be another, by which nothing has been learnt yet.
        if hooks.written > 0 {
            self.reaper.forget();
        }
        let old = std::mem::replace(&mut self.lowered, intent.clone());
        let repaired = old.revision == intent.revision && rules.written + rules.removed > 0;
        let work = Work::between(&self.reaped, intent, repaired);
        // Before the revision is told of: nothing more begins by the rules of before, however long the reaper is at what it has.
        if work.as_ref().is_some_and(|work| !work.only_opens()) {
            self.fastpath.forget();
        }
        // What is cut before its rules are there would come up again by those of before.
        self.reaper.post(work);
        if rules.is_clean() {
            self.reaped = intent.clone();
        }
        let full = looks.nft == SyncMode::Full;
        self.tell(Looked { rules: &rules, arp: &arp, sockets: &sockets, routes: &routes, hooks: &hooks, full }, before);
    }

    /// How many generations of rules others have begun in this namespace, but for a number that stays the same.
    fn generations_of_others(&mut self) -> Option<u32> {
        let own = self.nft.driver().commits().wrapping_add(self.arp.driver().commits());
        match self.nft.driver().generation() {
            Ok(generation) => Some(generation.wrapping_sub(own)),
            Err(error) => {
                tracing::debug!(%error, "the generation of rules cannot be had");
                None
            }
        }
    }

    /// Whether all rules in this namespace, ours among them, are as they were when ours were read back last, but for what this thread has changed.
    fn rules_are_as_left(&mut self) -> bool {
        let now = self.generations_of_others();
        now.is_some() && now == self.others
    }

    /// Turns the intent into wanted objects: the difference, or everything anew where the host itself has changed.
    fn want(&mut self, intent: &Arc<Intent>, look: SyncMode) {
        let mut host_problems = Vec::new();
        let host = if look == SyncMode::Full || self.lowered.routes != intent.routes {
            host::read(self.iface.as_deref(), &intent.routes, &self.host).into_value(&mut host_problems)
        } else {
            self.host.clone()
        };
        let host = HostFacts { socket_hooks: self.sockets.are_used(), fast_path: self.fastpath.is_used(), denials: self.denials, ..host };
        let lowered = if host == self.host {
            bowline_dataplane::lower(&self.lowered, intent, &host)
        } else {
            let empty = Intent::default();
            let mut delta = bowline_dataplane::lower(&empty, intent, &host);
            let nft = delta.value.nft.set;
            delta.value.nft = bowline_model::Delta::between(self.nft.wanted(), &nft);
            let arp = delta.value.arp.set;
            delta.value.arp = bowline_model::Delta::between(self.arp.wanted(), &arp);
            let net = delta.value.net.set;
            delta.value.net = bowline_model::Delta::between(self.net.wanted(), &net);
            let sockets = delta.value.sockets.set;
            delta.value.sockets = bowline_model::Delta::between(self.sockets.wanted(), &sockets);
            let hooks = delta.value.hooks.set;
            delta.value.hooks = bowline_model::Delta::between(self.fastpath.wanted(), &hooks);
            self.host = host;
            delta
        };
        self.nft.want(lowered.value.nft);
        self.arp.want(lowered.value.arp);
        self.net.want(lowered.value.net);
        self.sockets.want(lowered.value.sockets);
        self.fastpath.want(lowered.value.hooks);
        self.nft.allow_removal();
        self.arp.allow_removal();
        self.net.allow_removal();
        self.lowering_problems = lowered.problems;
        self.lowering_problems.extend(host_problems);
    }

    fn tell(&mut self, looked: Looked<'_>, before: u64) {
        let Looked { rules, arp, sockets, routes, hooks, full } = looked;
        let mut problems = self.lowering_problems.clone();
        // Of this sync, and those of before that wait to be tried again.
        problems.extend(self.nft.failing().map(|(key, error)| refused(format!("{key:?}"), error)));
        problems.extend(self.arp.failing().map(|(_, error)| unguarded(error)).chain(arp.read_error.as_deref().map(unguarded)));
        problems.extend(self.sockets.failing().map(|(key, error)| refused(format!("{key:?}"), error)));
        let mut notices = Vec::new();
        for (lacking, makes_do) in [(self.sockets.problem(), self.sockets.makes_do()), (self.fastpath.problem(), self.fastpath.makes_do())]
        {
            if makes_do { &mut notices } else { &mut problems }.extend(lacking);
        }
        let socket_maps = self.sockets.maps();
        problems.extend(self.sockets.full(&socket_maps));
        problems.extend(self.fastpath.failing().map(|(key, error)| refused(format!("{key:?}"), error)));
        problems.extend(self.net.failing().map(|(key, error)| refused(format!("{key:?}"), error)));
        for error in [&rules.read_error, &sockets.read_error, &routes.read_error, &hooks.read_error].into_iter().flatten() {
            problems.push(refused("reading back".to_owned(), error));
        }
        let unique: BTreeSet<Problem> = problems.into_iter().collect();
        let written = rules.written + rules.removed + sockets.written + sockets.removed + routes.written + routes.removed;
        let written = written + hooks.written + hooks.removed + arp.written + arp.removed;
        let took = self.now_us().saturating_sub(before);
        if written > 0 {
            tracing::debug!(revision = self.lowered.revision, written, elapsed_us = took, "kernel made equal");
        }
        if rules.foreign > 0 {
            tracing::warn!(objects = rules.foreign, "someone changed or removed rules of ours; they are put back");
        }
        // What waits to be tried again has failed as well.
        let rules_failed = !rules.is_clean() || !self.nft.dirty().is_empty();
        let fabric_failed = routes.read_error.is_some() || self.net.dirty().iter().any(concerns_all);
        let (revision, took_time) = (self.lowered.revision, Duration::from_micros(took));
        self.ledger.synced(bowline_kubeproxy::Sync { revision, took: took_time, full, good: !rules_failed });
        let pod_mtu_bytes = bowline_dataplane::pod::mtu(&self.lowered.routes, &self.host);
        let (socket_hooks, fast_path) = (self.sockets.are_used(), self.fastpath.is_used());
        self.applied.send_modify(|applied| {
            applied.intent = self.lowered.clone();
            if *applied.host != self.host {
                applied.host = Arc::new(self.host.clone());
            }
            applied.pod_mtu_bytes = pod_mtu_bytes;
            applied.socket_hooks = socket_hooks;
            applied.fast_path = fast_path;
            applied.socket_maps = socket_maps;
            (applied.uncut, applied.cutting) = (self.reaper.uncut(), self.reaper.is_cutting());
            applied.problems = Arc::new(unique.into_iter().collect());
            applied.notices = Arc::new(notices);
            applied.rules_failed = rules_failed;
            applied.fabric_failed = fabric_failed;
            applied.last_us = took;
            applied.last_written = written;
            applied.written_total += written as u64;
            applied.repairs.rules += u64::from(rules.foreign > 0);
            applied.repairs.sockets += u64::from(sockets.foreign > 0);
            applied.repairs.links += u64::from(hooks.foreign > 0);
        });
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }
}

/// How the kernel can tell of denials. What it lacks is said once, and left out of the rules.
fn ask_of_denials(nft: &mut NftDriver) -> DenialFacts {
    let facts = nft.denial_facts().unwrap_or_else(|error| {
        tracing::warn!(%error, "the kernel was asked how it can tell of denials");
        DenialFacts::default()
    });
    let DenialFacts { counted, logged } = facts;
    if !(counted && logged) {
        tracing::warn!(counted, logged, "the kernel lacks nft_objref, nft_limit or nfnetlink_log; denials are in force all the same");
    }
    facts
}

/// Whether no pod of this node could do without it: our tunnels, and forwarding.
fn concerns_all(key: &NetKey) -> bool {
    match key {
        NetKey::Link(_) => true,
        NetKey::Sysctl(path) => matches!(&**path, "net/ipv4/ip_forward" | "net/ipv6/conf/all/forwarding"),
        NetKey::Address { .. } | NetKey::Neighbour { .. } | NetKey::Forwarding { .. } | NetKey::Route { .. } | NetKey::Rule { .. } => false,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unguarded(error: &str) -> Problem {
    let fix = "use a kernel with CONFIG_NF_TABLES_ARP; the agent tries again";
    Problem::new(1313, "ARP of pods is not looked at", "table arp bowline", fix).because(error)
}

fn refused(place: String, error: &str) -> Problem {
    Problem::new(1301, "the kernel refused an object", place, "the agent tries again; see `bowline help BW1301`").because(error)
}

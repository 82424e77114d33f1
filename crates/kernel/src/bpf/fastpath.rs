//! The fast path's programs at links: the driver that keeps them there, the epoch by which what they know is made void, and their counts.
//!
//! A program stays at a link for as long as the link is there, whoever holds it; ours are told by their names. Only the maps are pinned, so
//! that a restarted agent finds the flows again, and programs that it need not touch: those with its own instructions and these very maps.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use bowline_bpf::abi::{self, Count};
use bowline_dataplane::objects::hooks::{HookKey, Side};
use bowline_model::Delta;

use super::attach::How;
use super::epoch::{Connections, Epoch, Which};
use super::features;
use super::hooks::{self, BpfError};
use super::maps::{Pins, Table};
use super::sizes::Sizes;
use crate::netlink::{Discipline, LinkInfo, Netlink};
use crate::reconcile::{ApplyError, Driver, Failure, Report};
use crate::sys::tcx::{self, Hook};

/// Begins the names of our programs.
const OUR_NAMES: &str = "bowline_";

/// `ARPHRD_ETHER` of linux/if_arp.h: the programs read and write Ethernet headers.
const ETHERNET: u16 = 1;

/// `ARPHRD_LOOPBACK`.
const LOOPBACK: u16 = 772;

/// The maps, each by the name of its pin.
const MAPS: [&str; 7] = ["carried", "openings", "direct", "entered", "epoch", "mtus", "counts"];

/// How long a pod's link is left to the rest of its CNI chain before a place for classifiers is made there: with one, the plugin `bandwidth`
/// could not make the queueing discipline that it limits what a pod sends by. tcx needs no such place.
const CHAIN_ENDS: Duration = Duration::from_secs(5);

/// Bytes of an index, of a link's MTU.
const WORD: usize = 4;
/// Bytes of a count.
const LONG: usize = 8;

/// What is read back of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookSeen {
    /// Programs of ours are at it.
    Has(Found),
    /// It carries no Ethernet, or there is no such link: nothing can be there, and nothing is missed.
    Unfit,
}

/// Programs of ours at a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    index: u32,
    ingress: Vec<Ours>,
    egress: Vec<Ours>,
    /// The programs know how much it takes.
    mtu_known: bool,
    /// Somebody limits, counts or diverts what passes it, which packets that are carried would not meet.
    shaped: bool,
}

/// A program of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ours {
    /// The kernel's number for it.
    id: u32,
    /// What it is for; none for another build's, or one with other maps.
    role: Option<Role>,
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Enter,
    ToPod,
    ToNode,
}

impl Role {
    const ALL: [Role; 3] = [Role::Enter, Role::ToPod, Role::ToNode];

    fn name(self) -> &'static str {
        match self {
            Role::Enter => bowline_bpf::ENTER,
            Role::ToPod => bowline_bpf::TO_POD,
            Role::ToNode => bowline_bpf::TO_NODE,
        }
    }

    /// The program at the egress.
    fn to(side: Side) -> Role {
        match side {
            Side::Pod => Role::ToPod,
            Side::Nodes => Role::ToNode,
        }
    }
}

/// A loaded program.
#[derive(Debug)]
struct Loaded {
    role: Role,
    fd: OwnedFd,
    is: tcx::Program,
}

/// Keeps the programs at the links of the network namespace that it was opened in.
#[derive(Debug)]
pub struct HookDriver {
    how: How,
    netlink: Netlink,
    programs: Vec<Loaded>,
    mtus: Table,
    pins: Pins,
    /// What was there when it was last looked, to see at little cost whether it is there still.
    known: BTreeMap<HookKey, Found>,
    /// Links by index that are left to others first, and since when; nothing once that is over.
    young: BTreeMap<u32, Option<Instant>>,
    /// How long they are.
    grows_up: Duration,
}

/// Reads what the programs count.
#[derive(Debug)]
pub struct Tally {
    counts: Table,
    carried: Table,
    direct: Table,
}

/// The programs and all that belongs to them.
#[derive(Debug)]
pub struct Fastpath {
    /// Keeps them where they belong.
    pub driver: HookDriver,
    /// What they have counted.
    pub tally: Tally,
}

impl Fastpath {
    /// Loads the programs, for the links of the calling thread's network namespace. From then on `epoch` is theirs.
    ///
    /// # Errors
    /// When the kernel lacks something, or the agent a right.
    pub fn open(epoch: &Epoch, sizes: Sizes) -> Result<Fastpath, BpfError> {
        Fastpath::open_at(&hooks::bpffs()?, epoch, sizes)
    }

    /// The same with the maps in this BPF file system.
    ///
    /// # Errors
    /// As [`Fastpath::open`].
    pub fn open_at(bpffs: &Path, epoch: &Epoch, sizes: Sizes) -> Result<Fastpath, BpfError> {
        Fastpath::open_as(None, bpffs, epoch, sizes)
    }

    /// The same by one of the two ways, or by the better that the kernel has.
    pub(super) fn open_as(how: Option<How>, bpffs: &Path, epoch: &Epoch, sizes: Sizes) -> Result<Fastpath, BpfError> {
        Fastpath::loaded(how, bpffs, epoch, sizes).map_err(|error| features::explained(error, features::OF_LINKS))
    }

    fn loaded(how: Option<How>, bpffs: &Path, epoch: &Epoch, sizes: Sizes) -> Result<Fastpath, BpfError> {
        let failed = |reason: String| BpfError::Load { reason };
        let mut netlink = Netlink::open().map_err(|error| failed(error.to_string()))?;
        let links = netlink.links().map_err(|error| failed(error.to_string()))?;
        let better = How::of_kernel(probe(&links)).map_err(|error| failed(format!("links cannot be asked for their programs: {error}")))?;
        let grows_up = if how.is_none() && better == How::Clsact { CHAIN_ENDS } else { Duration::ZERO };
        let how = how.unwrap_or(better);
        let maps = bpffs.join(hooks::DIRECTORY).join(sizes.directory());
        fs::create_dir_all(&maps).map_err(hooks::at(&maps))?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&maps);
        for (map, size) in sizes.of_fastpath() {
            loader.map_max_entries(map, size);
        }
        let mut object = loader.load(bowline_bpf::fastpath()).map_err(|error| failed(hooks::chain(&error)))?;
        let programs = Role::ALL.into_iter().map(|role| load(&mut object, role)).collect::<Result<Vec<_>, _>>()?;
        let pins = Pins::open(&maps, &MAPS)?;
        epoch.hold(&maps)?;
        let processors = aya::util::nr_cpus().map_err(|(what, error)| failed(format!("{what}: {error}")))?;
        Ok(Fastpath {
            driver: HookDriver {
                how,
                netlink,
                programs,
                mtus: Table::open(&maps, "mtus", WORD, WORD)?,
                pins,
                known: BTreeMap::new(),
                young: BTreeMap::new(),
                grows_up,
            },
            tally: Tally {
                counts: Table::open(&maps, "counts", WORD, LONG * processors)?,
                carried: Table::open(&maps, "carried", abi::CARRIED_KEY, abi::CARRIED)?,
                direct: Table::open(&maps, "direct", abi::CARRIED_KEY, abi::DIRECT)?,
            },
        })
    }

    /// Takes our programs off all links of the calling thread's network namespace; says how many there were.
    ///
    /// # Errors
    /// When the links cannot be listed or a program not be taken off.
    pub fn uninstall() -> Result<usize, BpfError> {
        let mut found = everywhere()?;
        // Before, so that no connection is without either; and after, for those that have begun meanwhile.
        hand_over_to_the_stack(&found);
        for (link, hook, id) in &found.programs {
            let taken = found.how.detach(&mut found.netlink, *id, link.index, *hook);
            taken.map_err(|error| BpfError::Attach { hook: "link", reason: format!("{}: {error}", link.name) })?;
        }
        hand_over_to_the_stack(&found);
        Ok(found.programs.len())
    }

    /// Links with programs of ours, one entry for each program.
    ///
    /// # Errors
    /// When the links cannot be listed.
    pub fn left() -> Result<Vec<String>, BpfError> {
        let found = everywhere()?.programs.into_iter();
        Ok(found.map(|(link, hook, id)| format!("BPF program {id} at link {} ({hook:?})", link.name)).collect())
    }
}

/// Makes connection tracking know what the programs have begun; what it cannot be told of is judged as if nobody had known it.
fn hand_over_to_the_stack(found: &Everywhere) {
    if found.programs.is_empty() {
        return;
    }
    let connections = hooks::bpffs().and_then(|bpffs| Connections::open(&bpffs.join(hooks::DIRECTORY)));
    match connections.map(|mut connections| connections.hand_over(Which::All)) {
        Ok(Ok(done)) => tracing::debug!(?done, "connections handed over to the stack"),
        Ok(Err(error)) => tracing::warn!(%error, "connections cannot be handed over to the stack"),
        Err(error) => tracing::warn!(%error, "connections cannot be handed over to the stack"),
    }
}

fn load(object: &mut Ebpf, role: Role) -> Result<Loaded, BpfError> {
    let failed = |reason: String| BpfError::Load { reason: format!("{}: {reason}", role.name()) };
    let program = object.program_mut(role.name()).ok_or_else(|| failed("not in the object".to_owned()))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|error| failed(hooks::chain(&error)))?;
    program.load().map_err(|error| failed(hooks::chain(&error)))?;
    let fd = program.fd().map_err(|error| failed(hooks::chain(&error)))?.as_fd().try_clone_to_owned();
    let fd = fd.map_err(|error| failed(error.to_string()))?;
    let is = tcx::describe(fd.as_fd()).map_err(|error| failed(error.to_string()))?;
    Ok(Loaded { role, fd, is })
}

/// Programs with our names at the links of a namespace.
struct Everywhere {
    how: How,
    netlink: Netlink,
    programs: Vec<(LinkInfo, Hook, u32)>,
}

fn everywhere() -> Result<Everywhere, BpfError> {
    let failed = |reason: String| BpfError::Load { reason };
    let mut netlink = Netlink::open().map_err(|error| failed(hooks::chain(&error)))?;
    let links = netlink.links().map_err(|error| failed(hooks::chain(&error)))?;
    let how = How::of_kernel(probe(&links)).map_err(|error| failed(format!("links cannot be asked for their programs: {error}")))?;
    let mut programs = Vec::new();
    for link in links.into_iter().filter(|link| link.arphrd == ETHERNET) {
        for hook in [Hook::Ingress, Hook::Egress] {
            let there = how.attached(&mut netlink, link.index, hook);
            for id in there.map_err(|error| failed(format!("{}: its programs cannot be listed: {error}", link.name)))? {
                if tcx::program(id).is_ok_and(|program| program.name.starts_with(OUR_NAMES)) {
                    programs.push((link.clone(), hook, id));
                }
            }
        }
    }
    Ok(Everywhere { how, netlink, programs })
}

/// A link that is there, to ask the kernel about.
fn probe(links: &[LinkInfo]) -> u32 {
    links.iter().find(|link| link.arphrd == LOOPBACK).map_or(1, |link| link.index)
}

impl Tally {
    /// What was counted since the maps were made, over all processors.
    pub fn get(&self, count: Count) -> u64 {
        let at = Count::ALL.iter().position(|c| *c == count).and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        let values = self.counts.elements().get(&at.to_ne_bytes()).ok().flatten().unwrap_or_default();
        values.chunks_exact(LONG).filter_map(|one| one.try_into().ok()).map(u64::from_ne_bytes).fold(0, u64::wrapping_add)
    }

    /// How many flows the programs know of, each direction by itself, and how many they have room for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill(&self) -> io::Result<(usize, u32)> {
        fill(&self.carried)
    }

    /// How many connections there are that began without the stack and that connection tracking does not know yet, and how many there may be.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begun(&self) -> io::Result<(usize, u32)> {
        fill(&self.direct)
    }
}

fn fill(table: &Table) -> io::Result<(usize, u32)> {
    let mut elements = 0;
    table.elements().read(|_, _| elements += 1)?;
    Ok((elements, table.room()))
}

impl HookDriver {
    /// How many links that are still there lack a program that was there when it was last looked. Costs two calls a link.
    pub fn robbed(&mut self) -> usize {
        let HookDriver { how, netlink, known, .. } = self;
        let lacks = |found: &&Found| {
            let mut lacks = |hook, wanted: &[Ours]| {
                how.attached(netlink, found.index, hook).is_ok_and(|ids| wanted.iter().any(|ours| !ids.contains(&ours.id)))
            };
            lacks(Hook::Ingress, &found.ingress) || lacks(Hook::Egress, &found.egress)
        };
        let lacking: Vec<u32> = known.values().filter(lacks).map(|found| found.index).collect();
        if lacking.is_empty() {
            return 0;
        }
        // A link that went has taken its programs with it.
        let links = netlink.links().unwrap_or_default();
        links.iter().filter(|link| lacking.contains(&link.index)).count()
    }

    /// Whether a link that was left to others first is to get its programs now.
    pub fn is_due(&self) -> bool {
        self.young.values().flatten().any(|since| since.elapsed() >= self.grows_up)
    }

    #[cfg(test)]
    pub(super) fn leave_new_links_for(&mut self, time: Duration) {
        self.grows_up = time;
    }

    /// Whether a link without programs of ours is to be left to others for now.
    fn waits(&mut self, found: &Found) -> bool {
        if self.grows_up.is_zero() || !found.ingress.is_empty() || !found.egress.is_empty() {
            return false;
        }
        let since = self.young.entry(found.index).or_insert_with(|| Some(Instant::now()));
        let waits = since.is_some_and(|since| since.elapsed() < self.grows_up);
        if !waits {
            *since = None;
        }
        waits
    }

    /// Pins again the maps whose pins someone removed. Says whether any was.
    ///
    /// # Errors
    /// When the BPF file system does not take one.
    pub fn keep_pins(&self) -> Result<bool, BpfError> {
        self.pins.keep()
    }

    /// Programs of ours at one hook of a link.
    fn ours_at(&mut self, index: u32, hook: Hook, cache: &mut BTreeMap<u32, Option<Ours>>) -> Vec<Ours> {
        let ids = self.how.attached(&mut self.netlink, index, hook).unwrap_or_default();
        ids.into_iter().filter_map(|id| *cache.entry(id).or_insert_with(|| self.recognize(id))).collect()
    }

    fn recognize(&self, id: u32) -> Option<Ours> {
        let program = tcx::program(id).ok().filter(|program| program.name.starts_with(OUR_NAMES))?;
        let alike = |own: &&Loaded| own.is.name == program.name && own.is.tag == program.tag && own.is.maps == program.maps;
        Some(Ours { id, role: self.programs.iter().find(alike).map(|own| own.role) })
    }

    fn mtu_is_known(&self, link: &LinkInfo) -> bool {
        let known = self.mtus.elements().get(&link.index.to_ne_bytes()).ok().flatten();
        known.is_some_and(|mtu| mtu == link.mtu_bytes.to_ne_bytes())
    }

    fn find(&mut self, link: &LinkInfo, shapes: &[Discipline], cache: &mut BTreeMap<u32, Option<Ours>>) -> Found {
        Found {
            index: link.index,
            ingress: self.ours_at(link.index, Hook::Ingress, cache),
            egress: self.ours_at(link.index, Hook::Egress, cache),
            mtu_known: self.mtu_is_known(link),
            shaped: self.is_shaped(link.index, shapes),
        }
    }

    /// The queueing disciplines of all links; none where the kernel does not say.
    fn shapes(&mut self) -> Vec<Discipline> {
        self.netlink.disciplines().unwrap_or_else(|error| {
            tracing::debug!(%error, "limits of links cannot be read");
            Vec::new()
        })
    }

    /// Whether a link has a queueing discipline that acts, or classifiers that are not ours.
    fn is_shaped(&mut self, index: u32, shapes: &[Discipline]) -> bool {
        let mut hooks = false;
        for shape in shapes.iter().filter(|shape| shape.link == index) {
            if shape.acts() {
                return true;
            }
            hooks |= shape.is_clsact();
        }
        hooks && [Hook::Ingress, Hook::Egress].into_iter().any(|hook| self.has_others(index, hook))
    }

    fn has_others(&mut self, index: u32, hook: Hook) -> bool {
        let all = self.netlink.count_classifiers(index, hook).unwrap_or_default();
        let bpf = self.netlink.classifiers(index, hook).unwrap_or_default();
        all > bpf.into_iter().filter(|one| self.recognize(one.program).is_some()).count()
    }

    fn set(&mut self, key: &HookKey, side: Side, links: &BTreeMap<&str, &LinkInfo>, shapes: &[Discipline]) -> io::Result<()> {
        let link = links.get(&*key.0).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        if link.arphrd != ETHERNET {
            return Ok(());
        }
        self.mtus.elements().update(&link.index.to_ne_bytes(), &link.mtu_bytes.to_ne_bytes()).map_err(|(_, error)| error)?;
        let found = self.find(link, shapes, &mut BTreeMap::new());
        if side == Side::Pod && self.waits(&found) {
            return Ok(());
        }
        if side == Side::Pod && found.shaped {
            for hook in [Hook::Ingress, Hook::Egress] {
                self.take_off(link.index, hook, |_| true)?;
            }
            self.known.remove(key);
            return Ok(());
        }
        for (hook, there, role) in [(Hook::Egress, &found.egress, Role::to(side)), (Hook::Ingress, &found.ingress, Role::Enter)] {
            if !there.iter().any(|ours| ours.role == Some(role)) {
                let HookDriver { how, netlink, programs, .. } = self;
                let program = programs.iter().find(|program| program.role == role).ok_or(io::ErrorKind::NotFound)?;
                how.attach(netlink, program.fd.as_fd(), link.index, hook, role.name())?;
            }
            // After it, so that at no time is there none.
            self.take_off(link.index, hook, |ours| ours.role != Some(role))?;
        }
        let found = self.find(link, shapes, &mut BTreeMap::new());
        self.known.insert(key.clone(), found);
        Ok(())
    }

    /// Takes off those of ours that are chosen.
    fn take_off(&mut self, index: u32, hook: Hook, chosen: impl Fn(Ours) -> bool) -> io::Result<()> {
        for id in self.how.attached(&mut self.netlink, index, hook)? {
            if self.recognize(id).is_some_and(&chosen) {
                self.how.detach(&mut self.netlink, id, index, hook)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &HookKey, links: &BTreeMap<&str, &LinkInfo>) -> io::Result<()> {
        let known = self.known.remove(key);
        let index = links.get(&*key.0).map(|link| link.index).or(known.map(|found| found.index));
        let Some(index) = index else { return Ok(()) };
        for hook in [Hook::Ingress, Hook::Egress] {
            self.take_off(index, hook, |_| true)?;
        }
        match self.mtus.elements().delete(&index.to_ne_bytes()) {
            Err((_, error)) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Driver for HookDriver {
    type Key = HookKey;
    type Value = Side;
    type Seen = HookSeen;

    fn read_owned(&mut self, wanted: &BTreeMap<HookKey, Side>) -> Result<BTreeMap<HookKey, HookSeen>, ApplyError> {
        let links = self.netlink.links().map_err(|error| ApplyError::Read {
            driver: "programs at links",
            retryable: error.may_retry(),
            source: Box::new(error),
        })?;
        let mut seen: BTreeMap<HookKey, HookSeen> = wanted.keys().map(|key| (key.clone(), HookSeen::Unfit)).collect();
        let shapes = self.shapes();
        let mut cache = BTreeMap::new();
        self.known.clear();
        self.young.retain(|index, _| links.iter().any(|link| link.index == *index));
        for link in links.iter().filter(|link| link.arphrd == ETHERNET) {
            let key = HookKey(link.name.as_str().into());
            let found = self.find(link, &shapes, &mut cache);
            if wanted.get(&key) == Some(&Side::Pod) && self.waits(&found) {
                continue;
            }
            if wanted.contains_key(&key) || !found.ingress.is_empty() || !found.egress.is_empty() {
                self.known.insert(key.clone(), found.clone());
                seen.insert(key, HookSeen::Has(found));
            }
        }
        Ok(seen)
    }

    fn same(seen: &HookSeen, want: &Side) -> bool {
        match seen {
            HookSeen::Unfit => true,
            HookSeen::Has(found) if *want == Side::Pod && found.shaped => found.ingress.is_empty() && found.egress.is_empty(),
            HookSeen::Has(found) => {
                let only = |there: &[Ours], role| matches!(there, [ours] if ours.role == Some(role));
                found.mtu_known && only(&found.ingress, Role::Enter) && only(&found.egress, Role::to(*want))
            }
        }
    }

    fn apply(&mut self, delta: &Delta<HookKey, Side>) -> Report<HookKey> {
        let mut report = Report::default();
        let links = match self.netlink.links() {
            Ok(links) => links,
            Err(error) => {
                let failed = |key: &HookKey| Failure { key: key.clone(), error: error.to_string(), retryable: error.may_retry() };
                report.failed = delta.remove.iter().chain(delta.set.keys()).map(failed).collect();
                return report;
            }
        };
        let links: BTreeMap<&str, &LinkInfo> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let mut failed = |key: &HookKey, outcome: io::Result<()>| {
            if let Err(error) = outcome {
                report.failed.push(Failure { key: key.clone(), error: error.to_string(), retryable: true });
            }
        };
        for key in &delta.remove {
            let outcome = self.remove(key, &links);
            failed(key, outcome);
        }
        let shapes = if delta.set.is_empty() { Vec::new() } else { self.shapes() };
        for (key, side) in &delta.set {
            let outcome = self.set(key, *side, &links, &shapes);
            failed(key, outcome);
        }
        report
    }
}

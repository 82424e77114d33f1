//! The driver: deltas into transactions, refusals into failed keys, dumps into objects seen.
//!
//! Invariants: a delta comes into force as one transaction, but for the keys that fail and for elements that no rule can look into yet;
//! whatever fails, nothing is ever in force by half. Only the table `bowline` of the driver's own family is read or written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bowline_dataplane::objects::nft::{ElementSpec, NftKey, NftObject, SetSpec, TableFamily};
use bowline_model::Delta;
use rustix::io::Errno;

use super::decode::SeenBase;
use super::error::NftError;
use super::expr::rule_fingerprint;
use super::known::{Known, KnownElements, KnownSet};
use super::plan::{Batch, Changes, Owner, Work, build};
use super::socket::NftSocket;
use super::wire::{KernelReply, Writer};
use super::{encode, read, rebuild, shape, uapi};
use crate::netns::NetNs;
use crate::reconcile::{ApplyError, Driver, Failure, Report};

/// Elements of new sets beyond this number come in transactions of their own before the rest.
const PART_ELEMENTS: usize = 100_000;
/// Bound of the transactions for one delta: each but the last one finds at least one key that fails.
const ATTEMPTS: u32 = 64;

/// Reads and writes a table `bowline` of one network namespace: that of the family `inet`, or that of `arp`.
#[derive(Debug)]
pub struct NftDriver {
    pub(super) socket: NftSocket,
    /// What is there; none if it must be read first.
    known: Option<Known>,
    pub(super) part_elements: usize,
    /// Transactions that came into force.
    commits: u32,
}

/// An object of the table as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftSeen {
    /// A counter.
    Counter,
    /// A set; none if its shape is not one that we could have made.
    Set(Option<SetSpec>),
    /// A chain.
    Chain {
        /// Where it hooks in.
        base: SeenBase,
        /// Fingerprints of its rules in order; none for a rule that is not ours.
        rules: Vec<Option<u64>>,
    },
    /// An element.
    Element {
        /// What it is; with an end in an interval set.
        spec: ElementSpec,
        /// It is an interval of a single value.
        lone: bool,
    },
}

/// A rule's counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCounter {
    /// The rule's place in its chain, from 0.
    pub rule: usize,
    /// The rule's comment.
    pub comment: Option<String>,
    /// Packets counted.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What failed of a delta.
#[derive(Debug, Default)]
struct Outcome<'a> {
    failed: BTreeMap<&'a NftKey, NftError>,
    disturbed: bool,
}

impl<'a> Outcome<'a> {
    fn fail(&mut self, work: &mut Work<'a>, key: &'a NftKey, error: NftError) {
        work.forget(key);
        self.failed.insert(key, error);
    }

    fn fail_all(&mut self, work: &mut Work<'a>, error: &NftError) {
        for key in work.keys() {
            self.failed.insert(key, error.clone());
        }
        *work = Work::default();
    }

    fn report(self) -> Report<NftKey> {
        let failure =
            |(key, error): (&NftKey, NftError)| Failure { key: key.clone(), error: error.to_string(), retryable: error.may_retry() };
        Report { failed: self.failed.into_iter().map(failure).collect(), disturbed: self.disturbed }
    }
}

impl NftDriver {
    /// Works on the calling thread's network namespace, also when the thread leaves it.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or if the kernel lacks nfnetlink.
    pub fn open() -> Result<Self, NftError> {
        NftDriver::open_of(TableFamily::Inet)
    }

    /// The same for the table of a family.
    ///
    /// # Errors
    /// As `open`. A kernel without the family refuses the first transaction.
    pub fn open_of(family: TableFamily) -> Result<Self, NftError> {
        Ok(NftDriver { socket: NftSocket::open(family)?, known: None, part_elements: PART_ELEMENTS, commits: 0 })
    }

    /// Works on a network namespace.
    ///
    /// # Errors
    /// As `open`, and if the namespace cannot be entered.
    pub fn open_in(namespace: &NetNs) -> Result<Self, NftError> {
        namespace.run(NftDriver::open).map_err(|error| NftError::Namespace { reason: error.to_string() })?
    }

    /// The port that notifications of this driver's changes carry, for [`crate::watch::ForeignChanges::ignore_port`].
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The number of the generation of rules in the namespace: every transaction begins another, whoever makes it and whatever it is about.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        self.socket.generation()
    }

    /// How many transactions of this driver have come into force; the number begins anew after 2^32.
    pub fn commits(&self) -> u32 {
        self.commits
    }

    /// Removes the table with all in it. An absent table is fine.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn uninstall(&mut self) -> Result<(), NftError> {
        self.known = None;
        let first = self.socket.free_sequence();
        let mut w = Writer::about(self.socket.family);
        w.batch_mark(uapi::NFNL_MSG_BATCH_BEGIN, first);
        encode::delete_table(&mut w, first + 1);
        w.batch_mark(uapi::NFNL_MSG_BATCH_END, first + 2);
        self.socket.used(3);
        let errors = self.socket.transact(w.bytes(), first, 3)?;
        match errors.into_iter().next() {
            Some(reply) if reply.errno != libc::ENOENT => Err(refused("remove the table", reply)),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the table is there.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn is_installed(&mut self) -> Result<bool, NftError> {
        Ok(read::table(&mut self.socket)?.is_some())
    }

    /// The counters of a chain's rules in order; none for a chain that is not there.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn counters(&mut self, chain: &str) -> Result<Vec<RuleCounter>, NftError> {
        let rules = read::rules(&mut self.socket, Some(chain))?;
        let counter = |(place, rule): (usize, &super::decode::SeenRule)| {
            let (packets, bytes) = rule.counter()?;
            Some(RuleCounter { rule: place, comment: rule.comment(), packets, bytes })
        };
        Ok(rules.iter().enumerate().filter_map(counter).collect())
    }

    /// Packets that each counter of the table has counted, by its name: one dump of the counters and nothing else.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn counted(&mut self) -> Result<BTreeMap<Arc<str>, u64>, NftError> {
        read::counters(&mut self.socket)
    }

    /// Brings work about as far as the kernel lets it.
    fn settle<'a>(&mut self, mut work: Work<'a>, outcome: &mut Outcome<'a>) {
        let mut isolated = HashSet::new();
        let mut doubted = false;
        for _ in 0..ATTEMPTS {
            if work.is_empty() {
                return;
            }
            match self.attempt(&mut work, outcome, &isolated) {
                Attempt::Done => return,
                Attempt::Changed => {}
                Attempt::Refused(refusals) => {
                    isolated.extend(refusals.iter().filter_map(Refusal::crowded_set));
                    if doubted {
                        judge(refusals, &mut work, outcome);
                    } else if let Err(error) = self.doubt(&refusals) {
                        outcome.fail_all(&mut work, &error);
                    }
                    doubted = true;
                }
            }
        }
        outcome.fail_all(&mut work, &NftError::GaveUp { attempts: ATTEMPTS });
    }

    /// One transaction with all that is left.
    fn attempt<'a>(&mut self, work: &mut Work<'a>, outcome: &mut Outcome<'a>, isolated: &HashSet<Arc<str>>) -> Attempt<'a> {
        let Some(known) = &mut self.known else {
            match self.learn(&HashSet::new()) {
                Ok(()) => return Attempt::Changed,
                Err(error) => {
                    outcome.fail_all(work, &error);
                    return Attempt::Done;
                }
            }
        };
        let changes = Changes::of(work, known);
        let rebuild = match rebuild::read(&mut self.socket, known, work, &changes) {
            Ok(rebuild) => rebuild,
            Err(error) => {
                outcome.fail_all(work, &error);
                return Attempt::Done;
            }
        };
        let mut batch = build(work, known, &changes, &rebuild, isolated, (self.socket.family, self.socket.free_sequence()));
        self.socket.used(batch.count());
        if !batch.errors.is_empty() {
            for (key, error) in batch.errors.drain(..) {
                outcome.fail(work, key, error.into());
            }
            return Attempt::Changed;
        }
        let sent = if batch.is_empty() { Ok(Vec::new()) } else { self.socket.transact(batch.writer.bytes(), batch.first, batch.count()) };
        match sent {
            Ok(errors) if errors.is_empty() => {
                self.commits = self.commits.wrapping_add(u32::from(!batch.is_empty()));
                known.commit(work, &changes, &rebuild);
                outcome.disturbed |= rebuild.lost;
                Attempt::Done
            }
            Ok(errors) => Attempt::Refused(refusals(&batch, errors)),
            Err(error) => {
                self.known = None;
                outcome.fail_all(work, &error);
                Attempt::Done
            }
        }
    }

    /// Reads again what is there, with the elements of those sets that had refusals.
    fn doubt(&mut self, refusals: &[Refusal<'_>]) -> Result<(), NftError> {
        let sets = refusals.iter().filter_map(Refusal::set).collect();
        self.learn(&sets)
    }

    fn learn(&mut self, doubted: &HashSet<Arc<str>>) -> Result<(), NftError> {
        let old = self.known.take().unwrap_or_default();
        self.known = Some(read::known(&mut self.socket, old, doubted)?);
        Ok(())
    }

    pub(super) fn read_all(&mut self, wanted: &BTreeMap<NftKey, NftObject>) -> Result<BTreeMap<NftKey, NftSeen>, NftError> {
        self.known = None;
        let counters = read::counters(&mut self.socket)?.into_keys().collect();
        let mut known = Known { counters, chains: read::chains(&mut self.socket)?, ..Known::default() };
        let mut seen = BTreeMap::new();
        // Keys that are wanted are shared with those who want them: the cluster's elements are many.
        let shared = |key: NftKey| wanted.get_key_value(&key).map_or(key, |(key, _)| key.clone());
        seen.extend(known.counters.iter().map(|name| (shared(NftKey::Counter(name.clone())), NftSeen::Counter)));
        let mut rules: HashMap<Arc<str>, Vec<Option<u64>>> = HashMap::new();
        for rule in read::rules(&mut self.socket, None)? {
            let fingerprint = rule.fingerprint();
            rules.entry(rule.chain).or_default().push(fingerprint);
        }
        // Nobody asks the base chains of a dormant table. As they are not in force they are not ours; making them anew wakes the table.
        let dormant = read::table(&mut self.socket)?.is_some_and(|flags| flags != 0);
        for (name, base) in &known.chains {
            let rules = rules.remove(name).unwrap_or_default();
            let base = if dormant && *base != SeenBase::Regular { SeenBase::Other } else { *base };
            seen.insert(shared(NftKey::Chain(name.clone())), NftSeen::Chain { base, rules });
        }
        for (name, spec) in read::sets(&mut self.socket)? {
            let mut elements = KnownElements::of(spec.as_ref());
            let read = spec.as_ref().map(|spec| read::elements(&mut self.socket, &name, spec)).transpose()?;
            for (key, spec) in read.into_iter().flatten() {
                let lone = spec.end.as_ref() == Some(&key);
                let key = shared(NftKey::Element { set: name.clone(), key });
                if let NftKey::Element { key, .. } = &key {
                    elements.insert(&known.hasher, key, spec.end.as_ref());
                }
                seen.insert(key, NftSeen::Element { spec, lone });
            }
            seen.insert(shared(NftKey::Set(name.clone())), NftSeen::Set(spec.clone()));
            known.sets.insert(name, KnownSet { spec, elements });
        }
        self.known = Some(known);
        Ok(seen)
    }
}

impl Driver for NftDriver {
    type Key = NftKey;
    type Value = NftObject;
    type Seen = NftSeen;

    fn read_owned(&mut self, wanted: &BTreeMap<NftKey, NftObject>) -> Result<BTreeMap<NftKey, NftSeen>, ApplyError> {
        self.read_all(wanted).map_err(|error| ApplyError::Read {
            driver: "nftables",
            retryable: error.may_retry(),
            source: Box::new(error),
        })
    }

    fn same(seen: &NftSeen, want: &NftObject) -> bool {
        match (seen, want) {
            (NftSeen::Counter, NftObject::Counter) => true,
            (NftSeen::Set(Some(seen)), NftObject::Set(want)) => shape::same(seen, want),
            (NftSeen::Chain { base, rules }, NftObject::Chain(want)) => {
                base.is(want.base.as_ref())
                    && rules.len() == want.rules.len()
                    && rules.iter().zip(&want.rules).all(|(seen, want)| seen.is_some() && *seen == rule_fingerprint(want))
            }
            (NftSeen::Element { spec, lone }, NftObject::Element(want)) => {
                spec.data == want.data && (spec.end == want.end || (*lone && want.end.is_none()))
            }
            (NftSeen::Counter | NftSeen::Set(_) | NftSeen::Chain { .. } | NftSeen::Element { .. }, _) => false,
        }
    }

    fn apply(&mut self, delta: &Delta<NftKey, NftObject>) -> Report<NftKey> {
        let mut outcome = Outcome::default();
        let mut work = Work { set: delta.set.iter().collect(), remove: delta.remove.iter().collect() };
        if self.known.is_none()
            && let Err(error) = self.learn(&HashSet::new())
        {
            outcome.fail_all(&mut work, &error);
        }
        let first = self.known.as_ref().map(|known| work.split_off_additions(known, self.part_elements)).unwrap_or_default();
        for part in first {
            self.settle(part, &mut outcome);
        }
        self.settle(work, &mut outcome);
        outcome.report()
    }
}

/// How a transaction went.
enum Attempt<'a> {
    /// There is nothing left to do.
    Done,
    /// Nothing was sent, but less is left or more is known than before.
    Changed,
    /// Nothing is in force, for these reasons.
    Refused(Vec<Refusal<'a>>),
}

/// An error of the kernel and whom it concerns.
#[derive(Debug)]
struct Refusal<'a> {
    owner: Owner<'a>,
    error: NftError,
}

impl Refusal<'_> {
    /// The set that it concerns.
    fn set(&self) -> Option<Arc<str>> {
        let key = match &self.owner {
            Owner::Batch => return None,
            Owner::Object(key) => *key,
            Owner::Elements(keys) => *keys.first()?,
        };
        match key {
            NftKey::Set(set) | NftKey::Element { set, .. } => Some(set.clone()),
            NftKey::Counter(_) | NftKey::Chain(_) => None,
        }
    }

    /// The set whose elements must go one by one to find the one that fails.
    fn crowded_set(&self) -> Option<Arc<str>> {
        match &self.owner {
            Owner::Elements(keys) if keys.len() > 1 => self.set(),
            Owner::Batch | Owner::Object(_) | Owner::Elements(_) => None,
        }
    }
}

fn refusals<'a>(batch: &Batch<'a>, errors: Vec<KernelReply>) -> Vec<Refusal<'a>> {
    let mut seen = BTreeSet::new();
    let mut refusals = Vec::new();
    for reply in errors {
        if !seen.insert(reply.sequence) {
            continue;
        }
        let owner = batch.owner(reply.sequence).cloned().unwrap_or(Owner::Batch);
        let operation = match &owner {
            Owner::Batch => "take a transaction",
            Owner::Object(NftKey::Counter(_)) => "change a counter",
            Owner::Object(NftKey::Set(_)) => "change a set",
            Owner::Object(NftKey::Chain(_)) => "change a chain",
            Owner::Object(NftKey::Element { .. }) | Owner::Elements(_) => "change an element",
        };
        refusals.push(Refusal { owner, error: refused(operation, reply) });
    }
    refusals
}

/// Takes the guilty keys out of the work. What was to be removed and is not there has succeeded.
fn judge<'a>(refusals: Vec<Refusal<'a>>, work: &mut Work<'a>, outcome: &mut Outcome<'a>) {
    let (mut progress, mut whole, mut unsound) = (false, None, false);
    for Refusal { owner, error } in refusals {
        // The kernel checks calls over the whole table: once they are unsound, every message after that is refused too.
        let about_calls = matches!(error.errno(), Some(Errno::OPNOTSUPP | Errno::MLINK | Errno::LOOP));
        if about_calls && std::mem::replace(&mut unsound, true) {
            continue;
        }
        let key = match owner {
            Owner::Batch => {
                whole.get_or_insert(error);
                continue;
            }
            Owner::Object(key) => key,
            Owner::Elements(keys) => match keys.as_slice() {
                [key] => *key,
                // They go one by one next time.
                _ => {
                    progress = true;
                    continue;
                }
            },
        };
        progress = true;
        if work.remove.contains(key) && error.errno() == Some(Errno::NOENT) {
            work.forget(key);
        } else {
            outcome.fail(work, key, error);
        }
    }
    if !progress && let Some(error) = whole {
        outcome.fail_all(work, &error);
    }
}

fn refused(operation: &'static str, reply: KernelReply) -> NftError {
    NftError::Refused { operation, errno: Errno::from_raw_os_error(reply.errno), words: reply.words }
}

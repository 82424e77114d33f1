//! Changes in the order in which the kernel can take them, as one transaction.
//!
//! Invariants: whatever a message names exists at that point of the transaction, and whatever it removes is no longer named: rules go
//! first and come last. Every message has an owner among the keys, so that an error of the kernel can be told of the object that it
//! concerns.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bowline_dataplane::objects::nft::{ChainSpec, ElementSpec, NftKey, NftObject, Rule, SetData, SetSpec, TableFamily};

use super::decode::SeenBase;
use super::encode;
use super::error::EncodeError;
use super::expr::encode_rule;
use super::known::{Known, Present};
use super::rebuild::Rebuild;
use super::uapi::{self, msg};
use super::wire::Writer;

/// Most elements in one message.
const CHUNK_ELEMENTS: usize = 500;
/// Bytes after which a message takes no more elements; one element is below 1 KiB and the list's length has 16 bits.
const CHUNK_BYTES: usize = 56 << 10;

/// What is still to be done of a delta.
#[derive(Debug, Clone, Default)]
pub(super) struct Work<'a> {
    pub(super) set: BTreeMap<&'a NftKey, &'a NftObject>,
    pub(super) remove: BTreeSet<&'a NftKey>,
}

impl<'a> Work<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Whether the key is spoken of.
    pub(super) fn names(&self, key: &NftKey) -> bool {
        self.set.contains_key(key) || self.remove.contains(key)
    }

    /// Forgets a key.
    pub(super) fn forget(&mut self, key: &NftKey) {
        self.set.remove(key);
        self.remove.remove(key);
    }

    /// All keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a NftKey> {
        self.set.keys().chain(&self.remove).copied()
    }

    /// Splits off, in parts of at most `limit` elements, the elements of new sets: as no rule can look into those yet, they need not come
    /// with the rest. Nothing if all is no more than one part.
    pub(super) fn split_off_additions(&mut self, known: &Known, limit: usize) -> Vec<Work<'a>> {
        let new_set = |work: &Work<'a>, set: &Arc<str>| {
            let (key, object) = work.set.get_key_value(&NftKey::Set(set.clone()))?;
            match object {
                NftObject::Set(spec) if spec.data != SetData::Verdict && !known.sets.contains_key(set) => Some((*key, *object)),
                NftObject::Counter | NftObject::Set(_) | NftObject::Chain(_) | NftObject::Element(_) => None,
            }
        };
        let mut elements = Vec::new();
        for (key, object) in &self.set {
            if let NftKey::Element { set, .. } = key
                && let Some(owner) = new_set(self, set)
            {
                elements.push((owner, (*key, *object)));
            }
        }
        if elements.len() <= limit {
            return Vec::new();
        }
        let mut parts = Vec::new();
        for chunk in elements.chunks(limit.max(1)) {
            let mut part = Work::default();
            for (owner, element) in chunk {
                part.set.insert(element.0, element.1);
                self.set.remove(element.0);
                if self.set.remove(owner.0).is_some() {
                    part.set.insert(owner.0, owner.1);
                }
            }
            parts.push(part);
        }
        parts
    }
}

/// What must be removed before it can be made.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    /// Sets whose shape changes.
    pub(super) remade_sets: BTreeMap<Arc<str>, &'a NftKey>,
    /// Chains whose hook changes.
    pub(super) remade_chains: BTreeSet<&'a Arc<str>>,
}

impl<'a> Changes<'a> {
    /// Of this work over what is there.
    pub(super) fn of(work: &Work<'a>, known: &Known) -> Self {
        let mut changes = Changes::default();
        for (key, object) in &work.set {
            match (*key, *object) {
                (NftKey::Set(name), NftObject::Set(spec)) => {
                    if known.sets.contains_key(name) && !known.has_set(name, spec) {
                        changes.remade_sets.insert(name.clone(), *key);
                    }
                }
                (NftKey::Chain(name), NftObject::Chain(chain)) => {
                    if known.chains.get(name).is_some_and(|seen| !may_become(seen, chain)) {
                        changes.remade_chains.insert(name);
                    }
                }
                (NftKey::Counter(_) | NftKey::Set(_) | NftKey::Chain(_) | NftKey::Element { .. }, _) => {}
            }
        }
        changes
    }
}

/// Whether the kernel can change the one chain into the other in place: only a base chain's policy can change.
fn may_become(seen: &SeenBase, want: &ChainSpec) -> bool {
    match (seen, &want.base) {
        (SeenBase::Regular, None) => true,
        (SeenBase::Base(seen), Some(want)) => (seen.kind, seen.hook, seen.priority) == (want.kind, want.hook, want.priority),
        (SeenBase::Regular | SeenBase::Base(_) | SeenBase::Other, _) => false,
    }
}

/// Whom a message belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner<'a> {
    /// The transaction as a whole.
    Batch,
    /// One object.
    Object(&'a NftKey),
    /// Elements of one set.
    Elements(Vec<&'a NftKey>),
}

/// A transaction.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) writer: Writer,
    /// Sequence number of the first message.
    pub(super) first: u32,
    /// Owners of the messages in order.
    pub(super) owners: Vec<Owner<'a>>,
    /// Objects that could not be written; the transaction is of no use then.
    pub(super) errors: Vec<(&'a NftKey, EncodeError)>,
}

impl<'a> Batch<'a> {
    /// Number of messages.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.owners.len()).unwrap_or(u32::MAX)
    }

    /// Whether it changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.owners.iter().all(|owner| *owner == Owner::Batch)
    }

    /// Whom the message of a sequence number belongs to.
    pub(super) fn owner(&self, sequence: u32) -> Option<&Owner<'a>> {
        self.owners.get(usize::try_from(sequence.wrapping_sub(self.first)).ok()?)
    }
}

/// Elements that go in one message.
#[derive(Default)]
struct Chunk<'a> {
    operation: u16,
    set: Arc<str>,
    keys: Vec<&'a NftKey>,
    elements: usize,
    writer: Writer,
}

struct Builder<'a, 'k> {
    batch: Batch<'a>,
    chunk: Chunk<'a>,
    work: &'k Work<'a>,
    known: &'k Known,
    changes: &'k Changes<'a>,
    rebuild: &'k Rebuild<'a>,
    /// Sets whose elements go one a message, to find the one that fails.
    isolated: &'k HashSet<Arc<str>>,
}

/// Writes the transaction, for the table of a family, with sequence numbers from the first. Elements of `isolated` sets go one a message.
pub(super) fn build<'a>(
    work: &Work<'a>,
    known: &Known,
    changes: &Changes<'a>,
    rebuild: &Rebuild<'a>,
    isolated: &HashSet<Arc<str>>,
    (family, first): (TableFamily, u32),
) -> Batch<'a> {
    let batch = Batch { writer: Writer::about(family), first, owners: Vec::new(), errors: Vec::new() };
    let mut b = Builder { batch, chunk: Chunk::default(), work, known, changes, rebuild, isolated };
    b.message(Owner::Batch, |w, sequence| w.batch_mark(uapi::NFNL_MSG_BATCH_BEGIN, sequence));
    b.message(Owner::Batch, encode::new_table);
    b.remove_rules();
    b.remove_elements();
    b.remove_sets_and_chains();
    b.change_counters();
    b.add_sets_and_chains();
    b.add_elements();
    b.add_rules();
    b.message(Owner::Batch, |w, sequence| w.batch_mark(uapi::NFNL_MSG_BATCH_END, sequence));
    b.batch
}

impl<'a, 'k> Builder<'a, 'k> {
    fn message(&mut self, owner: Owner<'a>, write: impl FnOnce(&mut Writer, u32)) {
        let sequence = self.batch.first.wrapping_add(self.batch.count());
        write(&mut self.batch.writer, sequence);
        self.batch.owners.push(owner);
    }

    /// A message that may turn out to be impossible; nothing is written then.
    fn try_message(&mut self, key: &'a NftKey, write: impl FnOnce(&mut Writer, u32) -> Result<(), EncodeError>) {
        let sequence = self.batch.first.wrapping_add(self.batch.count());
        match write(&mut self.batch.writer, sequence) {
            Ok(()) => self.batch.owners.push(Owner::Object(key)),
            Err(error) => self.batch.errors.push((key, error)),
        }
    }

    fn remove_rules(&mut self) {
        let (work, known, rebuild) = (self.work, self.known, self.rebuild);
        for key in work.keys() {
            if let NftKey::Chain(name) = key
                && known.chains.contains_key(name)
            {
                self.message(Owner::Object(key), |w, sequence| encode::flush_chain(w, sequence, name));
            }
        }
        for (name, (cause, _)) in &rebuild.chains {
            self.message(Owner::Object(cause), |w, sequence| encode::flush_chain(w, sequence, name));
        }
    }

    /// Those not wanted, and those whose data changes: the kernel changes no element in place.
    fn remove_elements(&mut self) {
        let (work, known, changes) = (self.work, self.known, self.changes);
        for key in work.keys() {
            let NftKey::Element { set, key: bytes } = key else { continue };
            let Some(spec) = known.spec(set) else { continue };
            // Chains that elements of a verdict map name could not go in the same transaction in older kernels, did not the elements go
            // one by one; of other sets they go with the set.
            let goes_along = spec.data != SetData::Verdict && work.remove.contains(&NftKey::Set(set.clone()));
            if goes_along || changes.remade_sets.contains_key(set) {
                continue;
            }
            let Some(present) = known.element(set, bytes) else { continue };
            let replaced = spec.interval || spec.data != SetData::Nothing;
            if work.set.contains_key(key) && !replaced {
                continue;
            }
            let end = match present {
                Present::Point => None,
                Present::Interval(end) => Some(end.as_ref()),
            };
            self.element(msg::DELSETELEM, set, key, |w| encode::remove_element(w, spec, bytes, end));
        }
        self.close_chunk();
    }

    fn remove_sets_and_chains(&mut self) {
        let (work, known, changes) = (self.work, self.known, self.changes);
        for key in work.remove.iter().copied().chain(changes.remade_sets.values().copied()) {
            if let NftKey::Set(name) = key
                && known.sets.contains_key(name)
            {
                self.message(Owner::Object(key), |w, sequence| encode::delete_set(w, sequence, name));
            }
        }
        for key in work.keys() {
            if let NftKey::Chain(name) = key
                && known.chains.contains_key(name)
                && (work.remove.contains(key) || changes.remade_chains.contains(name))
            {
                self.message(Owner::Object(key), |w, sequence| encode::delete_chain(w, sequence, name));
            }
        }
    }

    /// A counter that is there goes on counting; one that goes is named by no rule any more, and by none yet.
    fn change_counters(&mut self) {
        let (work, known) = (self.work, self.known);
        for key in work.keys() {
            let NftKey::Counter(name) = key else { continue };
            match (work.remove.contains(key), known.counters.contains(name)) {
                (true, true) => self.message(Owner::Object(key), |w, sequence| encode::delete_counter(w, sequence, name)),
                (false, false) => self.try_message(key, |w, sequence| encode::new_counter(w, sequence, name)),
                (true, false) | (false, true) => {}
            }
        }
    }

    fn add_sets_and_chains(&mut self) {
        let (work, known, changes) = (self.work, self.known, self.changes);
        for (key, object) in &work.set {
            match (*key, *object) {
                (NftKey::Set(name), NftObject::Set(spec)) => {
                    if !known.has_set(name, spec) {
                        self.try_message(key, |w, sequence| encode::new_set(w, sequence, name, spec));
                    }
                }
                (NftKey::Chain(name), NftObject::Chain(chain)) => {
                    let there = known.chains.get(name).is_some_and(|seen| seen.is(chain.base.as_ref()));
                    if !there || changes.remade_chains.contains(name) {
                        self.try_message(key, |w, sequence| encode::new_chain(w, sequence, name, chain.base.as_ref()));
                    }
                }
                (NftKey::Counter(_), NftObject::Counter) | (NftKey::Element { .. }, NftObject::Element(_)) => {}
                (NftKey::Counter(_) | NftKey::Set(_) | NftKey::Chain(_) | NftKey::Element { .. }, _) => {
                    self.batch.errors.push((key, EncodeError::Kind));
                }
            }
        }
    }

    fn add_elements(&mut self) {
        let (work, rebuild) = (self.work, self.rebuild);
        for (key, object) in &work.set {
            let (NftKey::Element { set, key: bytes }, NftObject::Element(element)) = (*key, *object) else { continue };
            match self.spec(set) {
                Some(spec) => self.add_element(set, spec, key, bytes, element),
                None => self.batch.errors.push((key, EncodeError::NoSet { set: set.clone() })),
            }
        }
        for (set, elements) in &rebuild.elements {
            let (Some(owner), Some(spec)) = (self.changes.remade_sets.get(set).copied(), self.spec(set)) else { continue };
            for (bytes, element) in elements {
                self.add_element(set, spec, owner, bytes, element);
            }
        }
        self.close_chunk();
    }

    fn add_element(&mut self, set: &Arc<str>, spec: &SetSpec, owner: &'a NftKey, key: &[u8], element: &ElementSpec) {
        self.element(msg::NEWSETELEM, set, owner, |w| encode::add_element(w, set, spec, key, element));
    }

    /// The shape that a set will have.
    fn spec(&self, set: &Arc<str>) -> Option<&'k SetSpec> {
        match self.work.set.get(&NftKey::Set(set.clone())) {
            Some(NftObject::Set(spec)) => Some(spec),
            Some(NftObject::Counter | NftObject::Chain(_) | NftObject::Element(_)) | None => self.known.spec(set),
        }
    }

    /// Rules of base chains first: what they must not call is then refused where it comes about, not where it is called from.
    fn add_rules(&mut self) {
        let (work, rebuild) = (self.work, self.rebuild);
        for base in [true, false] {
            for (key, object) in &work.set {
                match (*key, *object) {
                    (NftKey::Chain(name), NftObject::Chain(chain)) if chain.base.is_some() == base => {
                        self.add_rules_of(key, name, &chain.rules);
                    }
                    (NftKey::Counter(_) | NftKey::Set(_) | NftKey::Chain(_) | NftKey::Element { .. }, _) => {}
                }
            }
        }
        for (name, (cause, rules)) in &rebuild.chains {
            for rule in rules {
                self.message(Owner::Object(cause), |w, sequence| encode::new_rule(w, sequence, name, &rule.raw));
            }
        }
    }

    fn add_rules_of(&mut self, key: &'a NftKey, name: &str, rules: &[Rule]) {
        for rule in rules {
            match encode_rule(rule) {
                Ok(rule) => self.message(Owner::Object(key), |w, sequence| encode::new_rule(w, sequence, name, &rule)),
                Err(error) => {
                    self.batch.errors.push((key, error));
                    return;
                }
            }
        }
    }

    /// Adds an element to the message under way, or begins another one.
    fn element(&mut self, operation: u16, set: &Arc<str>, key: &'a NftKey, write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>) {
        let chunk = &self.chunk;
        let full = chunk.elements >= CHUNK_ELEMENTS || chunk.writer.len() >= CHUNK_BYTES || self.isolated.contains(set);
        if full || chunk.operation != operation || chunk.set != *set {
            self.close_chunk();
            self.chunk.operation = operation;
            self.chunk.set = set.clone();
        }
        match write(&mut self.chunk.writer) {
            Ok(()) => {
                self.chunk.elements += 1;
                if self.chunk.keys.last() != Some(&key) {
                    self.chunk.keys.push(key);
                }
            }
            Err(error) => self.batch.errors.push((key, error)),
        }
    }

    fn close_chunk(&mut self) {
        if self.chunk.elements == 0 {
            return;
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        let owner = Owner::Elements(std::mem::take(&mut chunk.keys));
        self.message(owner, |w, sequence| encode::elements(w, chunk.operation, sequence, &chunk.set, chunk.writer.bytes()));
        chunk.elements = 0;
        chunk.writer.clear();
        self.chunk = chunk;
    }
}

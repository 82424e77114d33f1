//! An interpreter of lowered rules: what the kernel would do with a packet, without a kernel.
//!
//! It follows the kernel (net/netfilter/nf_tables_core.c, 6.18): expressions of a rule run in order over sixteen 32-bit registers; one that
//! does not match ends its rule and the next rule begins; `jump` comes back, `goto` does not; the end of a base chain is its policy; an
//! accepted packet goes on to the hook's next base chain by priority, a dropped one nowhere. Chains of type nat see only packets that begin
//! a connection, and translate it once.
//!
//! Invariant: what the kernel would refuse to load (a set or chain that is not there, a register that nothing filled, an endless way through
//! the chains) is a [`Fault`], never a verdict; [`Table::faults`] finds all of it without a packet.

mod eval;
mod faults;
mod packet;
pub mod sockets;
mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::objects::nft::{BaseChain, ChainKind, ChainSpec, ElementSpec, Hook, NftKey, NftObject, SetSpec};

pub use packet::{Connection, Packet};
pub use way::{LeadsTo, through};

/// The table with all that is in it.
#[derive(Debug, Clone, Default)]
pub struct Table {
    counters: BTreeSet<Arc<str>>,
    sets: BTreeMap<Arc<str>, Set>,
    chains: BTreeMap<Arc<str>, Arc<ChainSpec>>,
    now_ms: u64,
}

#[derive(Debug, Clone)]
struct Set {
    spec: SetSpec,
    elements: BTreeMap<Arc<[u8]>, ElementSpec>,
    dynamic: BTreeMap<Vec<u8>, DynamicElement>,
}

#[derive(Debug, Clone)]
struct DynamicElement {
    value: Vec<u8>,
    expires_ms: u64,
}

/// What becomes of a packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The end.
    pub end: End,
    /// The rule that ended it: its chain and comment; none where the packet passed by policy.
    pub by: Option<(Arc<str>, Option<Arc<str>>)>,
    /// Every chain that it came through, in order.
    pub path: Vec<Arc<str>>,
}

impl Outcome {
    /// Whether the packet goes on.
    pub fn passes(&self) -> bool {
        self.end == End::Accept
    }
}

/// How it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
    /// It is gone and the sender gets a TCP reset.
    Reset,
    /// It is gone and the sender is told that the port is unreachable.
    Unreachable,
    /// The kernel would not have loaded the rule.
    Fault(Fault),
}

/// What the kernel would refuse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The chain.
    pub chain: Arc<str>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chain {}: {}", self.chain, self.what)
    }
}

impl Table {
    /// The table that these objects make. Elements of sets that are not there are left out; [`Table::faults`] does not see them.
    pub fn from_objects(objects: &BTreeMap<NftKey, NftObject>) -> Table {
        let mut table = Table::default();
        for (key, object) in objects {
            match (key, object) {
                (NftKey::Counter(name), NftObject::Counter) => {
                    table.counters.insert(name.clone());
                }
                (NftKey::Set(name), NftObject::Set(spec)) => {
                    let set = Set { spec: spec.clone(), elements: BTreeMap::new(), dynamic: BTreeMap::new() };
                    table.sets.insert(name.clone(), set);
                }
                (NftKey::Chain(name), NftObject::Chain(spec)) => {
                    table.chains.insert(name.clone(), Arc::new(spec.clone()));
                }
                (NftKey::Element { set, key }, NftObject::Element(spec)) => {
                    if let Some(set) = table.sets.get_mut(set) {
                        set.elements.insert(key.clone(), spec.clone());
                    }
                }
                (NftKey::Counter(_) | NftKey::Set(_) | NftKey::Chain(_) | NftKey::Element { .. }, _) => {}
            }
        }
        table
    }

    /// Replaces everything but what packets have put into dynamic sets that are still there.
    pub fn reload(&mut self, objects: &BTreeMap<NftKey, NftObject>) {
        let mut next = Table::from_objects(objects);
        next.now_ms = self.now_ms;
        for (name, set) in &mut next.sets {
            if let Some(old) = self.sets.get_mut(name).filter(|old| old.spec == set.spec) {
                set.dynamic = std::mem::take(&mut old.dynamic);
            }
        }
        *self = next;
    }

    /// Lets time pass.
    pub fn advance(&mut self, ms: u64) {
        self.now_ms = self.now_ms.saturating_add(ms);
        let now = self.now_ms;
        for set in self.sets.values_mut() {
            set.dynamic.retain(|_, element| element.expires_ms > now);
        }
    }

    /// Takes a packet through all base chains of a hook, by priority and then by name.
    pub fn run(&mut self, hook: Hook, packet: &mut Packet) -> Outcome {
        let mut path = Vec::new();
        for (name, base) in self.bases(hook) {
            let begins = packet.connection.state & 8 != 0;
            if base.kind == ChainKind::Nat && !begins {
                continue;
            }
            let (end, by) = eval::base_chain(self, &name, base, packet, &mut path);
            if end != End::Accept {
                return Outcome { end, by, path };
            }
        }
        Outcome { end: End::Accept, by: None, path }
    }

    fn bases(&self, hook: Hook) -> Vec<(Arc<str>, BaseChain)> {
        let at_hook = |(name, chain): (&Arc<str>, &Arc<ChainSpec>)| chain.base.filter(|b| b.hook == hook).map(|b| (name.clone(), b));
        let mut bases: Vec<_> = self.chains.iter().filter_map(at_hook).collect();
        bases.sort_by_key(|(_, base)| base.priority);
        bases
    }

    /// Everything that the kernel would refuse to load.
    pub fn faults(&self) -> Vec<Fault> {
        faults::all(self)
    }
}

impl Set {
    /// The element that a key meets.
    fn find(&self, key: &[u8]) -> Option<&ElementSpec> {
        if !self.spec.interval {
            return self.elements.get(key);
        }
        let (_, element) = self.elements.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        element.end.as_deref().is_some_and(|end| key <= end).then_some(element)
    }

    fn key_bytes(&self) -> usize {
        self.spec.key.iter().map(|field| field.padded_bytes() as usize).sum()
    }
}

//! Objects under construction: what an entry of the old intent was lowered to, what one of the new is lowered to, and the delta between.
//!
//! Invariant: the rooms put both sides of what they touch in here and never write a removal by hand, so that an object which one entry
//! gives up and another takes over in the same turn is changed and not lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_model::Delta;

use crate::objects::ObjectDelta;
use crate::objects::hooks::{HookKey, Side};
use crate::objects::net::{NetKey, NetObject};
use crate::objects::nft::{
    BaseChain, ChainKind, ChainSpec, ElementData, ElementSpec, Field, Hook, NftKey, NftObject, Rule, SetData, SetSpec, Verdict,
};
use crate::objects::sockets::{SocketKey, SocketValue};

/// Objects for the drivers, in the order in which they were thought of; of two with the same key the later counts. Sorted once, at the
/// end: for a hundred thousand elements that is several times faster than a map from the start.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    net: Vec<(NetKey, NetObject)>,
    nft: Vec<(NftKey, NftObject)>,
    arp: Vec<(NftKey, NftObject)>,
    sockets: Vec<(SocketKey, SocketValue)>,
    hooks: Vec<(HookKey, Side)>,
}

impl Objects {
    /// A link, route, rule and so on.
    pub(crate) fn net(&mut self, key: NetKey, object: NetObject) {
        self.net.push((key, object));
    }

    /// An element of a map of the socket hooks.
    pub(crate) fn socket(&mut self, key: SocketKey, value: SocketValue) {
        self.sockets.push((key, value));
    }

    /// A link with programs of the fast path.
    pub(crate) fn hook(&mut self, link: Arc<str>, side: Side) {
        self.hooks.push((HookKey(link), side));
    }

    /// A counter that outlives the rules which count on it.
    pub(crate) fn counter(&mut self, name: impl Into<Arc<str>>) {
        self.nft.push((NftKey::Counter(name.into()), NftObject::Counter));
    }

    /// A set or map.
    pub(crate) fn set(&mut self, name: impl Into<Arc<str>>, spec: SetSpec) {
        self.nft.push((NftKey::Set(name.into()), NftObject::Set(spec)));
    }

    /// A chain that others jump to.
    pub(crate) fn chain(&mut self, name: impl Into<Arc<str>>, rules: Vec<Rule>) {
        self.nft.push((NftKey::Chain(name.into()), NftObject::Chain(ChainSpec { base: None, rules })));
    }

    /// A chain that packets enter by; what comes to its end passes.
    pub(crate) fn base(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) {
        let base = Some(BaseChain { kind, hook, priority, accept: true });
        self.nft.push((NftKey::Chain(name.into()), NftObject::Chain(ChainSpec { base, rules })));
    }

    /// A member of a set.
    pub(crate) fn member(&mut self, set: impl Into<Arc<str>>, key: Arc<[u8]>) {
        self.element(set, key, None, ElementData::Nothing);
    }

    /// An interval of an interval set.
    pub(crate) fn interval(&mut self, set: impl Into<Arc<str>>, first: Arc<[u8]>, last: Arc<[u8]>) {
        self.element(set, first, Some(last), ElementData::Nothing);
    }

    /// A value of a map.
    pub(crate) fn value(&mut self, set: impl Into<Arc<str>>, key: Arc<[u8]>, value: Arc<[u8]>) {
        self.element(set, key, None, ElementData::Value(value));
    }

    /// A chain that a verdict map calls: what it does not decide comes back.
    pub(crate) fn call(&mut self, set: impl Into<Arc<str>>, key: Arc<[u8]>, chain: Arc<str>) {
        self.element(set, key, None, ElementData::Verdict(Verdict::Jump(chain)));
    }

    /// A destination chain of a verdict map.
    pub(crate) fn goto(&mut self, set: impl Into<Arc<str>>, key: Arc<[u8]>, chain: Arc<str>) {
        self.element(set, key, None, ElementData::Verdict(Verdict::Goto(chain)));
    }

    /// A set of the table of ARP.
    pub(crate) fn arp_set(&mut self, name: &str, spec: SetSpec) {
        self.arp.push((NftKey::Set(name.into()), NftObject::Set(spec)));
    }

    /// A member of a set of the table of ARP.
    pub(crate) fn arp_member(&mut self, set: &str, key: Arc<[u8]>) {
        let member = NftObject::Element(ElementSpec { end: None, data: ElementData::Nothing });
        self.arp.push((NftKey::Element { set: set.into(), key }, member));
    }

    /// The chain of the table of ARP that all which is heard comes by; what comes to its end is heard.
    pub(crate) fn arp_base(&mut self, name: &str, rules: Vec<Rule>) {
        let base = Some(BaseChain { kind: ChainKind::Filter, hook: Hook::Arp, priority: 0, accept: true });
        self.arp.push((NftKey::Chain(name.into()), NftObject::Chain(ChainSpec { base, rules })));
    }

    fn element(&mut self, set: impl Into<Arc<str>>, key: Arc<[u8]>, end: Option<Arc<[u8]>>, data: ElementData) {
        self.nft.push((NftKey::Element { set: set.into(), key }, NftObject::Element(ElementSpec { end, data })));
    }
}

/// Both sides of what a turn touches.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// What the touched entries were.
    pub(crate) old: Objects,
    /// What they are.
    pub(crate) new: Objects,
}

impl Change {
    /// What is to be done.
    pub(crate) fn into_delta(self) -> ObjectDelta {
        ObjectDelta {
            net: delta(self.old.net, self.new.net),
            nft: delta(self.old.nft, self.new.nft),
            arp: delta(self.old.arp, self.new.arp),
            sockets: delta(self.old.sockets, self.new.sockets),
            hooks: delta(self.old.hooks, self.new.hooks),
        }
    }
}

/// `Delta::between` that moves instead of cloning: the first load of a large cluster is a hundred thousand elements.
fn delta<K: Ord, V: Eq>(old: Vec<(K, V)>, new: Vec<(K, V)>) -> Delta<K, V> {
    let (mut old, mut new): (BTreeMap<K, V>, BTreeMap<K, V>) = (old.into_iter().collect(), new.into_iter().collect());
    if !old.is_empty() {
        new.retain(|key, value| old.remove(key).as_ref() != Some(value));
    }
    Delta { set: new, remove: old.into_keys().collect() }
}

/// A plain set.
pub(crate) fn set_of(key: &[Field]) -> SetSpec {
    SetSpec { key: key.to_vec(), data: SetData::Nothing, interval: false, dynamic_timeout_ms: None, size: None }
}

/// A set of intervals of one field.
pub(crate) fn intervals_of(field: Field) -> SetSpec {
    SetSpec { interval: true, ..set_of(&[field]) }
}

/// A verdict map.
pub(crate) fn verdicts_by(key: &[Field]) -> SetSpec {
    SetSpec { data: SetData::Verdict, ..set_of(key) }
}

/// A map to a value.
pub(crate) fn values_by(key: &[Field], value: &[Field]) -> SetSpec {
    SetSpec { data: SetData::Value(value.to_vec()), ..set_of(key) }
}

//! The fast path: the links whose packets are carried past the stack once it has let their connection through.
//!
//! There is nothing here of pods' addresses, policies, services or routes: the programs learn from what the stack does, and what it would not
//! pass on as it came is never carried.
//!
//! Invariant: without these programs everything works as with them, only slower.

use std::sync::Arc;

use bowline_model::intent::Intent;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::change::{Change, Objects};
use crate::fabric;
use crate::host::HostFacts;
use crate::objects::hooks::Side;

/// Makes connection tracking take TCP whose sequence numbers it has not followed: it sees the beginning and the end of a connection that is
/// carried, and little between.
pub const LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// Lowers what differs between the links of two intents, where the machine has the hooks.
pub(crate) fn lower(old: &Intent, new: &Intent, first: bool, host: &HostFacts, change: &mut Change) {
    if !host.fast_path {
        return;
    }
    if first {
        fabric::sysctl(LIBERAL, "1", &mut change.new);
    }
    pods(&old.pods.pods, &new.pods.pods, change);
    if old.routes != new.routes {
        fabric::links(&old.routes, host).into_iter().for_each(|link| change.old.hook(link, Side::Nodes));
        fabric::links(&new.routes, host).into_iter().for_each(|link| change.new.hook(link, Side::Nodes));
    }
}

fn pods<V: PartialEq>(old: &OrdMap<Arc<str>, V>, new: &OrdMap<Arc<str>, V>, change: &mut Change) {
    let one = |link: &Arc<str>, objects: &mut Objects| objects.hook(link.clone(), Side::Pod);
    for item in old.diff(new) {
        match item {
            DiffItem::Add(link, _) => one(link, &mut change.new),
            DiffItem::Remove(link, _) => one(link, &mut change.old),
            DiffItem::Update { .. } => {}
        }
    }
}

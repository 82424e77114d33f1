//! A pod's elements: from its link and address to the lists that judge it.
//!
//! The lists are called and not gone to, though each of them decides. The kernel takes a packet through the rules of the generation in which it
//! came, but looks into sets as they are at that moment: one that is on its way while a transaction comes into force may be led to a list that
//! is new, and finds it empty. It comes back, and is closed out; from a chain that it went to it would fall through to the end of the hook, which
//! lets it pass.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::intent::policy::Direction;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::lists;
use crate::change::{Change, Objects};
use crate::expr::named;
use crate::objects::nft::KeyBuilder;

/// Lowers the pods whose attachment or policy changed.
pub(super) fn lower(old: &Intent, new: &Intent, change: &mut Change) {
    let mut names = BTreeSet::new();
    changed(&old.pods.pods, &new.pods.pods, &mut names);
    changed(&old.policy.pods, &new.policy.pods, &mut names);
    for name in names {
        one(old, &name, &mut change.old);
        one(new, &name, &mut change.new);
    }
}

fn changed<V: PartialEq>(old: &OrdMap<Arc<str>, V>, new: &OrdMap<Arc<str>, V>, names: &mut BTreeSet<Arc<str>>) {
    names.extend(old.diff(new).map(|item| match item {
        DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name.clone(),
        DiffItem::Update { new: (name, _), .. } => name.clone(),
    }));
}

fn one(intent: &Intent, name: &Arc<str>, objects: &mut Objects) {
    let Some((pod, policy)) = intent.pods.pods.get(name).zip(intent.policy.pods.get(name)) else { return };
    for (family, ip) in pod.ips.iter() {
        let key = KeyBuilder::new().ifname(&pod.host_ifname).ip(*ip).build();
        objects.call(named("pods_in", family), key.clone(), lists::chain_of(policy, Direction::Ingress));
        objects.call(named("pods_out", family), key.clone(), lists::chain_of(policy, Direction::Egress));
        objects.member(named("ready", family), key);
        objects.member(named("self", family), KeyBuilder::new().ip(*ip).ip(*ip).build());
    }
}

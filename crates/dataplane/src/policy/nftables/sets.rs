//! The sets that rules name: addresses of pods, and where port names lead. Changed by member.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::policy::{PolicyIntent, SetId};
use bowline_model::{Family, Protocol};
use imbl::ordmap::DiffItem as MapDiff;
use imbl::ordset::DiffItem as SetDiff;
use imbl::{OrdMap, OrdSet};

use crate::change::{Change, Objects, intervals_of, set_of};
use crate::expr::{ip_field, named};
use crate::interval;
use crate::objects::nft::{Field, KeyBuilder, SetSpec};

/// The name of a set in one family. The id is `compile`'s own making, of letters, digits and hyphens.
pub(super) fn name(id: &SetId, family: Family) -> Arc<str> {
    named(&format!("{}/", id.0), family)
}

/// The set of all networks that pods can have addresses in.
pub(super) const POD_NETWORKS: &str = "policy_net";

/// What is there whatever the policies.
pub(super) fn frame(objects: &mut Objects) {
    for family in Family::BOTH {
        objects.set(named(POD_NETWORKS, family), intervals_of(ip_field(family)));
    }
}

fn networks(policy: &PolicyIntent, objects: &mut Objects) {
    for family in Family::BOTH {
        for i in interval::union(family, policy.pod_networks.iter()) {
            objects.interval(named(POD_NETWORKS, family), interval::key(family, i.first), interval::key(family, i.last));
        }
    }
}

/// Lowers what differs between the sets.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, change: &mut Change) {
    if old.pod_networks != new.pod_networks {
        networks(old, &mut change.old);
        networks(new, &mut change.new);
    }
    lower_kind(&old.sets, &new.sets, change);
    lower_kind(&old.named_ports, &new.named_ports, change);
}

/// Sets that are in one of the intents only.
pub(super) fn appeared_or_gone(old: &PolicyIntent, new: &PolicyIntent) -> BTreeSet<SetId> {
    let mut ids = BTreeSet::new();
    existence(&old.sets, &new.sets, &mut ids);
    existence(&old.named_ports, &new.named_ports, &mut ids);
    ids
}

fn existence<V: PartialEq>(old: &OrdMap<SetId, V>, new: &OrdMap<SetId, V>, ids: &mut BTreeSet<SetId>) {
    ids.extend(old.diff(new).filter_map(|item| match item {
        MapDiff::Add(id, _) | MapDiff::Remove(id, _) => Some(id.clone()),
        MapDiff::Update { .. } => None,
    }));
}

/// What can be a member.
trait Member: Ord + Clone {
    fn spec(family: Family) -> SetSpec;
    fn element(&self) -> (Family, Arc<[u8]>);
}

impl Member for IpAddr {
    fn spec(family: Family) -> SetSpec {
        set_of(&[ip_field(family)])
    }

    fn element(&self) -> (Family, Arc<[u8]>) {
        (Family::of(self), KeyBuilder::new().ip(*self).build())
    }
}

impl Member for (IpAddr, Protocol, u16) {
    fn spec(family: Family) -> SetSpec {
        set_of(&[ip_field(family), Field::Proto, Field::Port])
    }

    fn element(&self) -> (Family, Arc<[u8]>) {
        let (address, protocol, port) = self;
        (Family::of(address), KeyBuilder::new().ip(*address).proto(protocol.number()).port(*port).build())
    }
}

fn lower_kind<M: Member>(old: &OrdMap<SetId, Arc<OrdSet<M>>>, new: &OrdMap<SetId, Arc<OrdSet<M>>>, change: &mut Change) {
    for item in old.diff(new) {
        match item {
            MapDiff::Add(id, set) => whole(id, set, &mut change.new),
            MapDiff::Remove(id, set) => whole(id, set, &mut change.old),
            MapDiff::Update { old: (id, was), new: (_, is) } => {
                let names = [name(id, Family::V4), name(id, Family::V6)];
                for member in was.diff(is) {
                    match member {
                        SetDiff::Add(m) => one(&names, m, &mut change.new),
                        SetDiff::Remove(m) => one(&names, m, &mut change.old),
                    }
                }
            }
        }
    }
}

fn whole<M: Member>(id: &SetId, set: &OrdSet<M>, objects: &mut Objects) {
    let names = [name(id, Family::V4), name(id, Family::V6)];
    for (family, name) in Family::BOTH.into_iter().zip(&names) {
        objects.set(name.clone(), M::spec(family));
    }
    set.iter().for_each(|member| one(&names, member, objects));
}

fn one<M: Member>([v4, v6]: &[Arc<str>; 2], member: &M, objects: &mut Objects) {
    let (family, key) = member.element();
    let set = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    objects.member(set.clone(), key);
}

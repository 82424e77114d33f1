//! The agent's clocks beside kube-proxy's book: when changes of services were heard of, and when they were in force.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bowline_compile::world::{Change, Kind, Object};
use bowline_kubeproxy::{Book, Changes, Now, Sync};
use bowline_model::Family;
use ipnet::IpNet;

/// The book and the clock that it is kept by.
#[derive(Debug)]
pub(crate) struct Ledger {
    book: Book,
    started: Instant,
}

impl Ledger {
    /// An empty one, for a cluster of these pod networks.
    pub(crate) fn open(cluster_cidrs: &[IpNet]) -> Arc<Ledger> {
        let families = Family::BOTH.into_iter().filter(|family| cluster_cidrs.iter().any(|net| Family::of_prefix(net) == *family));
        let started = Instant::now();
        Arc::new(Ledger { book: Book::open(families.collect(), now(started)), started })
    }

    /// The book.
    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// This moment.
    pub(crate) fn now(&self) -> Now {
        now(self.started)
    }

    /// Changes will be in force with this revision.
    pub(crate) fn heard(&self, revision: u64, changes: Changes) {
        self.book.heard(self.now(), revision, changes);
    }

    /// The kernel thread has had its turn.
    pub(crate) fn synced(&self, sync: Sync) {
        self.book.synced(self.now(), sync);
    }
}

fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { wall, steady: started.elapsed() }
}

/// Adds what a change has to do with services.
pub(crate) fn count(change: &Change, changes: &mut Changes) {
    match change {
        Change::Upsert(object) => count_object(object, changes),
        Change::Replace(_, objects) => objects.iter().for_each(|object| count_object(object, changes)),
        Change::Delete(key) if key.kind == Kind::Service => changes.services += 1,
        Change::Delete(key) if key.kind == Kind::EndpointSlice => changes.slices += 1,
        Change::Delete(_) | Change::Unreadable(_) | Change::Synced(_) | Change::Attached(_) | Change::Detached(_) | Change::Settings(_) => {
        }
    }
}

fn count_object(object: &Object, changes: &mut Changes) {
    match object {
        Object::Service(_) => changes.services += 1,
        Object::EndpointSlice(slice) => {
            changes.slices += 1;
            changes.triggers.extend(slice.triggered_at);
        }
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::NetworkPolicy(_)
        | Object::ClusterNetworkPolicy(_)
        | Object::ServiceCidr(_) => {}
    }
}

//! `cache`: replies of upstreams, kept for as long as they say and the Corefile allows.
//!
//! Invariant: an entry is given out only for the very question (name, type, DO and CD bits) that it answered, never after
//! its time but for `serve_stale`, and the store never exceeds its capacity. The clock is an argument.

mod read;
mod store;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::base::Ttl;
use domain::base::iana::{OptRcode, Rtype};

use crate::name::{self, Name};
use crate::wire::{Data, Query, Reply};
use store::Store;

pub use read::read;

/// Limits of one kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub capacity: usize,
    /// Longest time.
    pub max_ttl: Duration,
    /// Shortest time.
    pub min_ttl: Duration,
}

/// Popular entries are asked for again before they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetch {
    /// Questions that make an entry popular.
    pub amount: u32,
    /// Longest pause between them.
    pub pause: Duration,
    /// Part of its time, in percent, that may be left.
    pub percent: u32,
}

/// Old entries are given out while there is nothing better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeStale {
    /// How old they may be.
    pub age: Duration,
    /// Ask first, and give the old one only where that fails.
    pub verify: bool,
    /// Longest wait for that; none is the upstream's own.
    pub verify_timeout: Option<Duration>,
    /// TTL of what is given out.
    pub ttl_secs: u32,
}

/// The options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// Zones that are cached.
    pub zones: Vec<Name>,
    /// Answers.
    pub success: Limits,
    /// Denials.
    pub denial: Limits,
    /// Prefetching.
    pub prefetch: Option<Prefetch>,
    /// Old entries.
    pub serve_stale: Option<ServeStale>,
    /// How long a failure is remembered.
    pub servfail: Duration,
    /// Zones of which answers are not cached.
    pub no_success: Vec<Name>,
    /// Zones of which denials are not cached.
    pub no_denial: Vec<Name>,
    /// The TTL given out does not fall.
    pub keep_ttl: bool,
}

impl CacheOptions {
    /// CoreDNS's defaults.
    pub fn new(zones: Vec<Name>) -> CacheOptions {
        let limits = |max_secs| Limits { capacity: 9984, max_ttl: Duration::from_secs(max_secs), min_ttl: Duration::from_secs(5) };
        CacheOptions {
            zones,
            success: limits(3600),
            denial: limits(1800),
            prefetch: None,
            serve_stale: None,
            servfail: Duration::from_secs(5),
            no_success: Vec::new(),
            no_denial: Vec::new(),
            keep_ttl: false,
        }
    }
}

/// What tells questions apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    rtype: Rtype,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl Key {
    fn of(query: &Query) -> Key {
        Key { name: query.name.clone(), rtype: query.rtype, dnssec_ok: query.dnssec_ok(), checking_disabled: query.cd }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    reply: Reply,
    since: Instant,
    lifetime: Duration,
    hits: u32,
    last_hit: Instant,
    refreshing: bool,
}

/// What the cache knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Nothing.
    Miss,
    /// A reply; `refresh` says that it is to be asked for again meanwhile.
    Hit {
        /// The reply, its TTLs as they are now.
        reply: Reply,
        /// Whether this caller is to refresh the entry.
        refresh: bool,
    },
    /// An old reply, only to be given where asking fails.
    Fallback(Reply),
}

/// Counters of the cache.
#[derive(Debug, Default)]
pub struct CacheCounts {
    /// Questions looked up.
    pub requests: AtomicU64,
    /// Found: answers, denials.
    pub hits: [AtomicU64; 2],
    /// Not found.
    pub misses: AtomicU64,
    /// Asked again before their end.
    pub prefetched: AtomicU64,
    /// Given out old.
    pub served_stale: AtomicU64,
    /// Pushed out for lack of room: answers, denials.
    pub evicted: [AtomicU64; 2],
}

/// Records of a reply that is kept: a few large replies must not fill the memory.
const MAX_RECORDS: usize = 512;

/// Parts that lock on their own.
const SHARDS: usize = 16;

/// The plugin.
pub struct Cache {
    options: CacheOptions,
    shards: Vec<[Mutex<Store>; 2]>,
    hasher: std::hash::RandomState,
    /// Counters.
    pub counts: CacheCounts,
}

/// The kinds of entry, as places in tables.
const SUCCESS: usize = 0;
const DENIAL: usize = 1;

impl Cache {
    /// An empty cache.
    pub fn new(options: CacheOptions) -> Cache {
        let store = |limits: &Limits| Mutex::new(Store::new((limits.capacity / SHARDS).max(1)));
        let shards = (0..SHARDS).map(|_| [store(&options.success), store(&options.denial)]).collect();
        Cache { options, shards, hasher: std::hash::RandomState::new(), counts: CacheCounts::default() }
    }

    /// Whether questions for a name are cached.
    pub fn takes(&self, asked: &Name) -> bool {
        name::in_any(&self.options.zones, asked)
    }

    /// The options.
    pub fn options(&self) -> &CacheOptions {
        &self.options
    }

    /// Entries: answers, denials.
    pub fn entries(&self) -> [usize; 2] {
        let count = |kind: usize| {
            let stores = self.shards.iter().filter_map(|shard| shard.get(kind));
            stores.filter_map(|store| store.lock().ok()).map(|store| store.len()).sum()
        };
        [count(SUCCESS), count(DENIAL)]
    }

    fn store(&self, key: &Key, kind: usize) -> Option<&Mutex<Store>> {
        use std::hash::BuildHasher as _;
        let hash = self.hasher.hash_one(key);
        let shard = usize::try_from(hash % 16).unwrap_or(0);
        self.shards.get(shard)?.get(kind)
    }

    /// Looks a question up.
    pub fn get(&self, query: &Query, now: Instant) -> Lookup {
        let key = Key::of(query);
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        for kind in [SUCCESS, DENIAL] {
            let Some(Ok(mut store)) = self.store(&key, kind).map(Mutex::lock) else { continue };
            let Some(entry) = store.get_mut(&key) else { continue };
            let lookup = self.look_at(entry, now);
            match &lookup {
                Lookup::Miss => {
                    store.remove(&key);
                    continue;
                }
                Lookup::Hit { .. } | Lookup::Fallback(_) => {
                    if let Some(hits) = self.counts.hits.get(kind) {
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                    return lookup;
                }
            }
        }
        self.counts.misses.fetch_add(1, Ordering::Relaxed);
        Lookup::Miss
    }

    fn look_at(&self, entry: &mut Entry, now: Instant) -> Lookup {
        let age = now.saturating_duration_since(entry.since);
        let left = entry.lifetime.saturating_sub(age);
        if left.is_zero() {
            return self.look_at_stale(entry, age);
        }
        let refresh = self.options.prefetch.is_some_and(|prefetch| {
            let pause = now.saturating_duration_since(entry.last_hit);
            entry.hits = if pause <= prefetch.pause { entry.hits.saturating_add(1) } else { 1 };
            entry.last_hit = now;
            let threshold = (entry.lifetime * prefetch.percent / 100).max(Duration::from_secs(1));
            entry.hits >= prefetch.amount && left <= threshold && !std::mem::replace(&mut entry.refreshing, true)
        });
        if refresh {
            self.counts.prefetched.fetch_add(1, Ordering::Relaxed);
        }
        let shown = if self.options.keep_ttl { entry.lifetime } else { left };
        Lookup::Hit { reply: with_ttl(&entry.reply, secs(shown)), refresh }
    }

    fn look_at_stale(&self, entry: &mut Entry, age: Duration) -> Lookup {
        let Some(stale) = self.options.serve_stale.filter(|stale| age <= entry.lifetime + stale.age) else { return Lookup::Miss };
        // A failure is nothing that is better than none.
        if entry.reply.rcode == OptRcode::SERVFAIL {
            return Lookup::Miss;
        }
        let reply = with_ttl(&entry.reply, stale.ttl_secs);
        if stale.verify {
            return Lookup::Fallback(reply);
        }
        self.counts.served_stale.fetch_add(1, Ordering::Relaxed);
        Lookup::Hit { reply, refresh: !std::mem::replace(&mut entry.refreshing, true) }
    }

    /// A refresh came to nothing: the next question may try again.
    pub fn refresh_failed(&self, query: &Query) {
        let key = Key::of(query);
        for kind in [SUCCESS, DENIAL] {
            if let Some(Ok(mut store)) = self.store(&key, kind).map(Mutex::lock)
                && let Some(entry) = store.get_mut(&key)
            {
                entry.refreshing = false;
            }
        }
    }

    /// Keeps a reply, where it is one to be kept, and sets its TTLs to what is given out.
    pub fn put(&self, query: &Query, reply: &mut Reply, now: Instant) {
        let Some((kind, lifetime)) = self.keep(query, reply) else { return };
        set_ttl(reply, secs(lifetime));
        // A failure does not push out what may still be served stale.
        if reply.rcode == OptRcode::SERVFAIL && self.options.serve_stale.is_some() {
            return;
        }
        let key = Key::of(query);
        let other = if kind == SUCCESS { DENIAL } else { SUCCESS };
        if let Some(Ok(mut store)) = self.store(&key, other).map(Mutex::lock) {
            store.remove(&key);
        }
        let entry = Entry { reply: reply.clone(), since: now, lifetime, hits: 0, last_hit: now, refreshing: false };
        if let Some(Ok(mut store)) = self.store(&key, kind).map(Mutex::lock)
            && store.insert(key, entry)
            && let Some(evicted) = self.counts.evicted.get(kind)
        {
            evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn keep(&self, query: &Query, reply: &Reply) -> Option<(usize, Duration)> {
        if reply.tc || reply.records().count() > MAX_RECORDS {
            return None;
        }
        let is_answer = reply.rcode == OptRcode::NOERROR && !reply.answer.is_empty();
        let has_soa = reply.authority.iter().any(|record| matches!(record.data(), Data::Soa(_)));
        match reply.rcode {
            OptRcode::NOERROR if is_answer => {
                let excluded = name::in_any(&self.options.no_success, &query.name);
                (!excluded).then(|| (SUCCESS, clamp(least_ttl(reply), &self.options.success)))
            }
            OptRcode::NOERROR | OptRcode::NXDOMAIN if has_soa => {
                let excluded = name::in_any(&self.options.no_denial, &query.name);
                (!excluded).then(|| (DENIAL, clamp(least_ttl(reply), &self.options.denial)))
            }
            OptRcode::SERVFAIL | OptRcode::NOTIMP if !self.options.servfail.is_zero() => Some((DENIAL, self.options.servfail)),
            _ => None,
        }
    }
}

fn clamp(ttl: Duration, limits: &Limits) -> Duration {
    ttl.max(limits.min_ttl).min(limits.max_ttl)
}

/// The least TTL of a reply; of a denial, the SOA's minimum counts too (RFC 2308 section 5).
fn least_ttl(reply: &Reply) -> Duration {
    let soa = |record: &crate::wire::Record| {
        if let Data::Soa(soa) = record.data()
            && reply.answer.is_empty()
        {
            return soa.minimum();
        }
        record.ttl()
    };
    let least = reply.records().map(|record| record.ttl().min(soa(record))).min();
    least.map_or(Duration::ZERO, |ttl| Duration::from_secs(ttl.as_secs().into()))
}

fn with_ttl(reply: &Reply, secs: u32) -> Reply {
    let mut reply = reply.clone();
    set_ttl(&mut reply, secs);
    reply
}

fn set_ttl(reply: &mut Reply, secs: u32) {
    for record in reply.records_mut() {
        record.set_ttl(Ttl::from_secs(secs));
    }
}

/// Whole seconds, upwards, so that a fresh entry shows its full time.
fn secs(time: Duration) -> u32 {
    let up = time + Duration::from_millis(999);
    u32::try_from(up.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

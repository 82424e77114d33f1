//! What kube-proxy keeps account of: changes that were heard of, rules that were written, and what follows for health and metrics.
//!
//! One transaction writes the rules of both families, so where kube-proxy tells families apart there is one series here and no label.

mod expose;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bowline_metrics::Histogram;
use bowline_model::Family;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Rules that wait for longer than this make the node unfit for traffic from outside: twice kube-proxy's default syncPeriod.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// From 1 ms, doubling.
const SYNC_BUCKETS: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

/// A quarter and half a second, then by seconds to a minute, by 5 s to 115 s, and by half minutes to five.
const PROGRAMMING_BUCKETS: &[f64] = &[
    0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0,
    23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0, 30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0, 39.0, 40.0, 41.0, 42.0, 43.0, 44.0,
    45.0, 46.0, 47.0, 48.0, 49.0, 50.0, 51.0, 52.0, 53.0, 54.0, 55.0, 56.0, 57.0, 58.0, 59.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0,
    95.0, 100.0, 105.0, 110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0,
];

/// A moment, on two clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Since 1970, for people.
    pub wall: Duration,
    /// Since the process began; it never jumps.
    pub steady: Duration,
}

/// Changes that were heard of together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Of Services.
    pub services: u64,
    /// Of EndpointSlices.
    pub slices: u64,
    /// When what they tell of happened, since 1970, as far as slices say so.
    pub triggers: Vec<Duration>,
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }

    /// Adds others.
    fn merge(&mut self, other: Changes) {
        self.services += other.services;
        self.slices += other.slices;
        self.triggers.extend(other.triggers);
    }
}

/// A turn of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync {
    /// Of what was wanted.
    pub revision: u64,
    /// How long it took.
    pub took: Duration,
    /// Whether the kernel was read back, not only told the difference.
    pub full: bool,
    /// Whether all rules are as they should be.
    pub good: bool,
}

/// Whether rules get to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Nothing waits for longer than [`HEALTH_TIMEOUT`].
    pub healthy: bool,
    /// When rules were last as they should be, since 1970.
    pub last_updated: Option<Duration>,
}

/// What was heard of before a turn and is not in force yet.
#[derive(Debug)]
struct Pending {
    since: Duration,
    changes: Changes,
}

#[derive(Debug, Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    services_total: u64,
    slices_total: u64,
    last_queued: Option<Duration>,
    last_updated: Option<Duration>,
    /// Since when rules are not as they should be, on the steady clock.
    failing_since: Option<Duration>,
    sync_failures: u64,
}

/// The account.
#[derive(Debug)]
pub struct Book {
    families: Vec<Family>,
    opened: Duration,
    state: Mutex<State>,
    sync: Histogram,
    sync_full: Histogram,
    sync_partial: Histogram,
    programming: Histogram,
    healthz: [AtomicU64; 2],
    livez: [AtomicU64; 2],
}

impl Book {
    /// An empty one, for a cluster of these families; what happened before it was opened is not measured.
    pub fn open(families: Vec<Family>, now: Now) -> Book {
        Book {
            families,
            opened: now.wall,
            state: Mutex::default(),
            sync: Histogram::new(SYNC_BUCKETS),
            sync_full: Histogram::new(SYNC_BUCKETS),
            sync_partial: Histogram::new(SYNC_BUCKETS),
            programming: Histogram::new(PROGRAMMING_BUCKETS),
            healthz: [AtomicU64::new(0), AtomicU64::new(0)],
            livez: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes will be in force with this revision.
    pub fn heard(&self, now: Now, revision: u64, mut changes: Changes) {
        if changes.is_empty() {
            return;
        }
        changes.triggers.retain(|trigger| *trigger > self.opened);
        let mut state = self.state();
        state.services_total += changes.services;
        state.slices_total += changes.slices;
        state.last_queued = Some(now.wall);
        state.pending.entry(revision).or_insert(Pending { since: now.steady, changes: Changes::default() }).changes.merge(changes);
    }

    /// Rules were written, or could not be.
    pub fn synced(&self, now: Now, sync: Sync) {
        let seconds = sync.took.as_secs_f64();
        self.sync.observe(seconds);
        if sync.full { &self.sync_full } else { &self.sync_partial }.observe(seconds);
        let mut state = self.state();
        if !sync.good {
            state.sync_failures += 1;
            state.failing_since.get_or_insert(now.steady);
            return;
        }
        state.failing_since = None;
        state.last_updated = Some(now.wall);
        let later = state.pending.split_off(&sync.revision.saturating_add(1));
        let done = std::mem::replace(&mut state.pending, later);
        for trigger in done.into_values().flat_map(|pending| pending.changes.triggers) {
            self.programming.observe(now.wall.saturating_sub(trigger).as_secs_f64());
        }
    }

    /// Whether rules get to the kernel.
    pub fn health(&self, now: Now) -> Health {
        let state = self.state();
        let oldest = state.pending.values().map(|pending| pending.since).chain(state.failing_since).min();
        let healthy = oldest.is_none_or(|since| now.steady.saturating_sub(since) < HEALTH_TIMEOUT);
        Health { healthy, last_updated: state.last_updated }
    }

    /// The answer of `/healthz`: whether the node is fit for traffic from outside, and the body.
    pub fn healthz(&self, now: Now, node_eligible: bool) -> (bool, String) {
        let health = self.health(now);
        let good = health.healthy && node_eligible;
        count(&self.healthz, good);
        (good, self.body(now, health, good, Some(node_eligible)))
    }

    /// The answer of `/livez`: the same whatever becomes of the node.
    pub fn livez(&self, now: Now) -> (bool, String) {
        let health = self.health(now);
        count(&self.livez, health.healthy);
        (health.healthy, self.body(now, health, health.healthy, None))
    }

    fn body(&self, now: Now, health: Health, good: bool, node_eligible: Option<bool>) -> String {
        // A good answer says that all is up to date now, as kube-proxy's does.
        let last = if good { Some(now.wall) } else { health.last_updated };
        let mut body = Map::new();
        body.insert("lastUpdated".into(), moment(last));
        body.insert("currentTime".into(), moment(Some(now.wall)));
        if let Some(eligible) = node_eligible {
            body.insert("nodeEligible".into(), eligible.into());
        }
        body.insert("healthy".into(), health.healthy.into());
        if health.last_updated.is_some() {
            let of = json!({"lastUpdated": moment(health.last_updated), "healthy": health.healthy});
            let status: Map<String, Value> = self.families.iter().map(|family| (family.to_string(), of.clone())).collect();
            body.insert("status".into(), status.into());
        }
        Value::Object(body).to_string()
    }
}

fn count(counters: &[AtomicU64; 2], good: bool) {
    if let Some(counter) = counters.get(usize::from(good)) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A moment as Go writes it; never is the year 1.
fn moment(since_1970: Option<Duration>) -> Value {
    let nanos = since_1970.and_then(|time| i128::try_from(time.as_nanos()).ok());
    let text = nanos.and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()).and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned()).into()
}

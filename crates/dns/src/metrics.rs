//! Counters under CoreDNS's names, in Prometheus's text format.
//!
//! Invariant: labels come from closed lists (transports, families, types, codes, plugins) and from the Corefile, never
//! from what clients send; counting is one atomic addition. Reference: CoreDNS's manual, `prometheus`.

mod expose;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_metrics::Histogram;
use domain::base::iana::{OptRcode, Rtype};

use crate::plugin::Answerer;
use crate::server::Transport;
use crate::wire::Query;

pub use expose::expose;

/// Bounds of durations in seconds: from 0.25 ms, doubling.
pub const DURATION_BUCKETS: &[f64] =
    &[0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];
/// Bounds of message sizes in bytes.
pub const SIZE_BUCKETS: &[f64] =
    &[0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16_000.0, 32_000.0, 48_000.0, 64_000.0];

/// Response codes that are told apart; others count as the last.
const RCODES: usize = 24;

/// Counts by response code.
#[derive(Debug)]
pub struct RcodeCounts([AtomicU64; RCODES]);

impl Default for RcodeCounts {
    fn default() -> Self {
        RcodeCounts(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl RcodeCounts {
    /// Counts one.
    pub fn count(&self, rcode: OptRcode) {
        let place = usize::from(rcode.to_int()).min(RCODES - 1);
        if let Some(counter) = self.0.get(place) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn each(&self) -> impl Iterator<Item = (String, u64)> {
        let codes = (0_u16..).map(|code| OptRcode::masked_from_int(code).to_string());
        codes.zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0)
    }
}

/// Types that are told apart; others are `other`.
const TYPES: [Rtype; 18] = [
    Rtype::A,
    Rtype::AAAA,
    Rtype::PTR,
    Rtype::SRV,
    Rtype::CNAME,
    Rtype::TXT,
    Rtype::SOA,
    Rtype::NS,
    Rtype::MX,
    Rtype::ANY,
    Rtype::HTTPS,
    Rtype::SVCB,
    Rtype::NAPTR,
    Rtype::DS,
    Rtype::DNSKEY,
    Rtype::RRSIG,
    Rtype::AXFR,
    Rtype::IXFR,
];

/// Counters of a zone of a server.
#[derive(Debug)]
pub struct ZoneMetrics {
    /// By transport and family, then by type.
    requests: [[AtomicU64; TYPES.len() + 1]; 4],
    dnssec_ok: AtomicU64,
    durations: Histogram,
    request_bytes: [Histogram; 2],
    response_bytes: [Histogram; 2],
    responses: [RcodeCounts; Answerer::COUNT],
}

impl Default for ZoneMetrics {
    fn default() -> Self {
        let sizes = || [Histogram::new(SIZE_BUCKETS), Histogram::new(SIZE_BUCKETS)];
        ZoneMetrics {
            requests: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            dnssec_ok: AtomicU64::new(0),
            durations: Histogram::new(DURATION_BUCKETS),
            request_bytes: sizes(),
            response_bytes: sizes(),
            responses: std::array::from_fn(|_| RcodeCounts::default()),
        }
    }
}

/// What is counted of a question that has been answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// How it came.
    pub transport: Transport,
    /// From whom.
    pub client: IpAddr,
    /// Result.
    pub rcode: OptRcode,
    /// Who answered.
    pub answerer: Answerer,
    /// Length of the reply.
    pub bytes: usize,
    /// From arrival to reply.
    pub elapsed: Duration,
}

impl ZoneMetrics {
    /// Counts a question and its answer.
    pub fn count(&self, query: &Query, answered: &Answered) {
        let by_tcp = usize::from(answered.transport == Transport::Tcp);
        let by_v6 = usize::from(answered.client.is_ipv6());
        let rtype = TYPES.iter().position(|rtype| *rtype == query.rtype).unwrap_or(TYPES.len());
        if let Some(counter) = self.requests.get(by_tcp * 2 + by_v6).and_then(|types| types.get(rtype)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if query.dnssec_ok() {
            self.dnssec_ok.fetch_add(1, Ordering::Relaxed);
        }
        self.durations.observe(answered.elapsed.as_secs_f64());
        if let (Some(requests), Some(responses)) = (self.request_bytes.get(by_tcp), self.response_bytes.get(by_tcp)) {
            requests.observe(to_f64(query.bytes));
            responses.observe(to_f64(answered.bytes));
        }
        if let Some(responses) = self.responses.get(answered.answerer.index()) {
            responses.count(answered.rcode);
        }
    }
}

fn to_f64(bytes: usize) -> f64 {
    u32::try_from(bytes).map_or(f64::MAX, f64::from)
}

/// A server and one of its zones, as labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneLabels {
    /// The server, such as `dns://:53`.
    pub server: String,
    /// The zone, such as `cluster.local.`.
    pub zone: String,
}

/// Counters of an upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Replies by code.
    pub rcodes: RcodeCounts,
    /// Time to a reply.
    pub durations: Histogram,
    /// Failed health checks.
    pub check_failures: AtomicU64,
    /// Questions over TCP that found an idle connection, and those that did not.
    pub connections: [AtomicU64; 2],
}

impl Default for UpstreamMetrics {
    fn default() -> Self {
        UpstreamMetrics {
            rcodes: RcodeCounts::default(),
            durations: Histogram::new(DURATION_BUCKETS),
            check_failures: AtomicU64::new(0),
            connections: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }
}

/// All counters of the process: they outlive a reload of the Corefile.
#[derive(Debug, Default)]
pub struct Metrics {
    zones: Mutex<BTreeMap<ZoneLabels, Arc<ZoneMetrics>>>,
    upstreams: Mutex<BTreeMap<SocketAddr, Arc<UpstreamMetrics>>>,
    /// Reloads that failed.
    pub reload_failures: AtomicU64,
    /// Messages that were no questions.
    pub rejected: AtomicU64,
}

impl Metrics {
    /// The counters of a zone of a server.
    pub fn zone(&self, labels: ZoneLabels) -> Arc<ZoneMetrics> {
        match self.zones.lock() {
            Ok(mut zones) => Arc::clone(zones.entry(labels).or_default()),
            Err(_) => Arc::default(),
        }
    }

    /// The counters of an upstream.
    pub fn upstream(&self, address: SocketAddr) -> Arc<UpstreamMetrics> {
        match self.upstreams.lock() {
            Ok(mut upstreams) => Arc::clone(upstreams.entry(address).or_default()),
            Err(_) => Arc::default(),
        }
    }
}

//! Counters as text (Prometheus's format 0.0.4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_metrics::{Histogram, Page};

use super::{Metrics, TYPES, ZoneLabels, ZoneMetrics};
use crate::chain::Block;
use crate::plugin::Answerer;
use crate::plugin::cache::CacheCounts;

/// All counters as text; `blocks` are those of the Corefile in force.
pub fn expose(metrics: &Metrics, blocks: &[Arc<Block>]) -> String {
    let mut page = Page::with_capacity(16_384);
    page.head("coredns_build_info", "gauge", "The version that runs.");
    page.sample("coredns_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("revision", ""), ("goversion", "")], 1);
    let zones: Vec<(ZoneLabels, Arc<ZoneMetrics>)> = metrics
        .zones
        .lock()
        .map(|zones| zones.iter().map(|(labels, zone)| (labels.clone(), Arc::clone(zone))).collect())
        .unwrap_or_default();
    expose_zones(&mut page, &zones);
    page.head("coredns_reload_failed_total", "counter", "Reloads of the Corefile that failed.");
    page.sample("coredns_reload_failed_total", &[], load(&metrics.reload_failures));
    page.head("bowline_dns_rejected_messages_total", "counter", "Messages that were no questions.");
    page.sample("bowline_dns_rejected_messages_total", &[], load(&metrics.rejected));
    expose_plugins(&mut page, blocks);
    expose_caches(&mut page, blocks);
    expose_forwards(&mut page, blocks);
    expose_upstreams(&mut page, metrics);
    page.into_text()
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

const TRANSPORTS: [(&str, &str); 4] = [("udp", "1"), ("udp", "2"), ("tcp", "1"), ("tcp", "2")];

fn expose_zones(page: &mut Page, zones: &[(ZoneLabels, Arc<ZoneMetrics>)]) {
    let base = |labels: &ZoneLabels| [("server", labels.server.clone()), ("zone", labels.zone.clone()), ("view", String::new())];
    page.head("coredns_dns_requests_total", "counter", "Questions by zone, transport, family (1: IPv4, 2: IPv6) and type.");
    for (labels, zone) in zones {
        for ((transport, family), types) in TRANSPORTS.iter().zip(&zone.requests) {
            let names = TYPES.iter().map(ToString::to_string).chain([String::from("other")]);
            for (name, count) in names.zip(types).filter(|(_, count)| load(count) > 0) {
                let base = base(labels);
                let mut all: Vec<(&str, &str)> = base.iter().map(|(key, value)| (*key, value.as_str())).collect();
                all.extend([("proto", *transport), ("family", *family), ("type", name.as_str())]);
                page.sample("coredns_dns_requests_total", &all, load(count));
            }
        }
    }
    page.head("coredns_dns_do_requests_total", "counter", "Questions with the DO bit.");
    for (labels, zone) in zones {
        let base = base(labels);
        page.sample("coredns_dns_do_requests_total", &refs(&base), load(&zone.dnssec_ok));
    }
    page.head("coredns_dns_responses_total", "counter", "Answers by zone, code and plugin.");
    for (labels, zone) in zones {
        for (answerer, codes) in Answerer::ALL.iter().zip(&zone.responses) {
            for (rcode, count) in codes.each() {
                let base = base(labels);
                let mut all = refs(&base);
                all.extend([("rcode", rcode.as_str()), ("plugin", answerer.name())]);
                page.sample("coredns_dns_responses_total", &all, count);
            }
        }
    }
    page.head("coredns_dns_request_duration_seconds", "histogram", "Time from a question to its answer.");
    for (labels, zone) in zones {
        page.histogram("coredns_dns_request_duration_seconds", &refs(&base(labels)), &zone.durations);
    }
    page.head("coredns_dns_request_size_bytes", "histogram", "Length of questions.");
    expose_sizes(page, "coredns_dns_request_size_bytes", zones, |zone| &zone.request_bytes);
    page.head("coredns_dns_response_size_bytes", "histogram", "Length of answers.");
    expose_sizes(page, "coredns_dns_response_size_bytes", zones, |zone| &zone.response_bytes);
}

fn refs<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    labels.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

fn expose_sizes(page: &mut Page, name: &str, zones: &[(ZoneLabels, Arc<ZoneMetrics>)], of: impl Fn(&ZoneMetrics) -> &[Histogram; 2]) {
    for (labels, zone) in zones {
        for (transport, histogram) in ["udp", "tcp"].into_iter().zip(of(zone)) {
            let all = [("server", labels.server.as_str()), ("zone", labels.zone.as_str()), ("view", ""), ("proto", transport)];
            page.histogram(name, &all, histogram);
        }
    }
}

fn expose_plugins(page: &mut Page, blocks: &[Arc<Block>]) {
    page.head("coredns_plugin_enabled", "gauge", "Plugins of each zone.");
    for block in blocks {
        for zone in block.zone_texts() {
            for plugin in &block.plugins {
                let all = [("server", block.server.as_str()), ("zone", zone.as_str()), ("view", ""), ("name", plugin.as_str())];
                page.sample("coredns_plugin_enabled", &all, 1);
            }
        }
    }
}

type CounterOf = fn(&CacheCounts) -> &AtomicU64;

fn expose_caches(page: &mut Page, blocks: &[Arc<Block>]) {
    let caches: Vec<_> = blocks.iter().filter_map(|block| Some((block, block.zone_texts().join(","), block.cache.as_ref()?))).collect();
    let kinds = ["success", "denial"];
    page.head("coredns_cache_entries", "gauge", "Entries of the cache.");
    for (block, zones, cache) in &caches {
        for (kind, count) in kinds.iter().zip(cache.entries()) {
            let all = [("server", block.server.as_str()), ("type", kind), ("zones", zones.as_str()), ("view", "")];
            page.sample("coredns_cache_entries", &all, count);
        }
    }
    for (name, help, which) in [
        ("coredns_cache_hits_total", "Questions that the cache answered.", 0),
        ("coredns_cache_evictions_total", "Entries pushed out for lack of room.", 1),
    ] {
        page.head(name, "counter", help);
        for (block, zones, cache) in &caches {
            let counters = if which == 0 { &cache.counts.hits } else { &cache.counts.evicted };
            for (kind, counter) in kinds.iter().zip(counters) {
                let all = [("server", block.server.as_str()), ("type", kind), ("zones", zones.as_str()), ("view", "")];
                page.sample(name, &all, load(counter));
            }
        }
    }
    let singles: [(&str, &str, CounterOf); 4] = [
        ("coredns_cache_requests_total", "Questions that the cache was asked.", |counts| &counts.requests),
        ("coredns_cache_misses_total", "Questions that the cache had no answer to.", |counts| &counts.misses),
        ("coredns_cache_prefetch_total", "Entries asked for again before their end.", |counts| &counts.prefetched),
        ("coredns_cache_served_stale_total", "Answers given out after their end.", |counts| &counts.served_stale),
    ];
    for (name, help, of) in singles {
        page.head(name, "counter", help);
        for (block, zones, cache) in &caches {
            let all = [("server", block.server.as_str()), ("zones", zones.as_str()), ("view", "")];
            page.sample(name, &all, load(of(&cache.counts)));
        }
    }
}

fn expose_forwards(page: &mut Page, blocks: &[Arc<Block>]) {
    let forwards = || blocks.iter().flat_map(|block| &block.forwards);
    page.head("coredns_forward_healthcheck_broken_total", "counter", "Questions sent while all upstreams were down.");
    page.sample("coredns_forward_healthcheck_broken_total", &[], forwards().map(|forward| load(&forward.broken)).sum::<u64>());
    page.head("coredns_forward_max_concurrent_rejects_total", "counter", "Questions refused since too many were forwarded.");
    page.sample("coredns_forward_max_concurrent_rejects_total", &[], forwards().map(|forward| load(&forward.rejected)).sum::<u64>());
}

fn expose_upstreams(page: &mut Page, metrics: &Metrics) {
    let upstreams: Vec<_> = metrics
        .upstreams
        .lock()
        .map(|upstreams| upstreams.iter().map(|(address, upstream)| (address.to_string(), Arc::clone(upstream))).collect())
        .unwrap_or_default();
    page.head("coredns_forward_responses_total", "counter", "Replies of upstreams by code.");
    for (to, upstream) in &upstreams {
        for (rcode, count) in upstream.rcodes.each() {
            page.sample("coredns_forward_responses_total", &[("to", to), ("rcode", &rcode)], count);
        }
    }
    page.head("coredns_proxy_request_duration_seconds", "histogram", "Time that upstreams took.");
    for (to, upstream) in &upstreams {
        page.histogram("coredns_proxy_request_duration_seconds", &[("proxy_name", "forward"), ("to", to)], &upstream.durations);
    }
    page.head("coredns_proxy_healthcheck_failures_total", "counter", "Health checks that failed.");
    for (to, upstream) in &upstreams {
        page.sample("coredns_proxy_healthcheck_failures_total", &[("proxy_name", "forward"), ("to", to)], load(&upstream.check_failures));
    }
    for (place, name) in ["coredns_proxy_conn_cache_hits_total", "coredns_proxy_conn_cache_misses_total"].into_iter().enumerate() {
        page.head(name, "counter", "Questions over TCP that found, or did not find, an idle connection.");
        for (to, upstream) in &upstreams {
            let count = upstream.connections.get(place).map_or(0, load);
            page.sample(name, &[("proxy_name", "forward"), ("to", to), ("proto", "tcp")], count);
        }
    }
}

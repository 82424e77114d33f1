//! The account as Prometheus's text, under kube-proxy's names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_metrics::Page;
use bowline_model::intent::services::{ServicesIntent, WhenEmpty};

use super::{Book, State};

impl Book {
    /// All of it; `services` are those in the kernel.
    pub fn expose(&self, services: &ServicesIntent, page: &mut Page) {
        for (name, help, histogram) in [
            ("kubeproxy_sync_proxy_rules_duration_seconds", "Time of a turn of the rules.", &self.sync),
            ("kubeproxy_sync_full_proxy_rules_duration_seconds", "Time of a turn in which the kernel was read back.", &self.sync_full),
            ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Time of a turn that told the difference only.", &self.sync_partial),
            (
                "kubeproxy_network_programming_duration_seconds",
                "Time from a change of a pod, as its EndpointSlice tells it, to the rules in force.",
                &self.programming,
            ),
        ] {
            page.head(name, "histogram", help);
            page.histogram(name, &[], histogram);
        }
        changes(&self.state(), page);
        for (name, help, counters) in [
            ("kubeproxy_proxy_healthz_total", "Answers of /healthz by code.", &self.healthz),
            ("kubeproxy_proxy_livez_total", "Answers of /livez by code.", &self.livez),
        ] {
            page.head(name, "counter", help);
            for (code, counter) in ["503", "200"].into_iter().zip(counters) {
                page.sample(name, &[("code", code)], load(counter));
            }
        }
        of_services(services, page);
    }
}

fn changes(state: &State, page: &mut Page) {
    let pending = || state.pending.values().map(|pending| &pending.changes);
    let (waiting_services, waiting_slices) = (pending().map(|c| c.services).sum::<u64>(), pending().map(|c| c.slices).sum::<u64>());
    for (name, kind, help, value) in [
        ("endpoint_changes_pending", "gauge", "Changes of EndpointSlices that are not in force yet.", waiting_slices),
        ("endpoint_changes_total", "counter", "Changes of EndpointSlices that were heard of.", state.slices_total),
        ("service_changes_pending", "gauge", "Changes of Services that are not in force yet.", waiting_services),
        ("service_changes_total", "counter", "Changes of Services that were heard of.", state.services_total),
        ("nftables_sync_failures_total", "counter", "Turns that left rules unwritten.", state.sync_failures),
    ] {
        page.single(&format!("kubeproxy_sync_proxy_rules_{name}"), kind, help, value);
    }
    for (name, help, moment) in [
        ("last_timestamp_seconds", "When rules were last as they should be.", state.last_updated),
        ("last_queued_timestamp_seconds", "When a change of services was last heard of.", state.last_queued),
    ] {
        page.single(&format!("kubeproxy_sync_proxy_rules_{name}"), "gauge", help, moment.unwrap_or(Duration::ZERO).as_secs_f64());
    }
}

/// What is counted of the services themselves.
fn of_services(services: &ServicesIntent, page: &mut Page) {
    let (mut frontends, mut backends, mut internal, mut external) = (0, 0, 0, 0);
    for service in services.services.values() {
        let (mut inside, mut outside) = (false, false);
        for frontend in &service.frontends {
            frontends += 1;
            backends += frontend.endpoints.len();
            // Dropped, not refused: others have endpoints, which the traffic policy keeps this node from.
            if frontend.endpoints.is_empty() && frontend.when_empty == WhenEmpty::Drop {
                // Only what comes from outside is served from anywhere to the node's own.
                let own = frontend.own_endpoints.is_some();
                (inside, outside) = (inside | !own, outside | own);
            }
        }
        (internal, external) = (internal + u64::from(inside), external + u64::from(outside));
    }
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    page.head(name, "gauge", "Services whose traffic policy is Local and which have no endpoint on this node, though elsewhere.");
    page.sample(name, &[("traffic_policy", "internal")], internal);
    page.sample(name, &[("traffic_policy", "external")], external);
    page.single("bowline_services", "gauge", "Services that this node serves.", services.services.len());
    page.single("bowline_service_frontends", "gauge", "Addresses and ports of services that are in the kernel.", frontends);
    page.single("bowline_service_backends", "gauge", "Endpoints of those, each counted once for each address and port.", backends);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

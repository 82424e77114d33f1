//! Histories in, answers and metrics out.

use std::sync::Arc;

use bowline_metrics::Page;
use bowline_model::ServiceName;
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServiceIntent, ServicesIntent, WhenEmpty};
use bowline_model::{Family, Protocol};

use super::*;

/// 2026-01-02 03:04:05 UTC.
const DAWN: u64 = 1_767_323_045;

fn at(seconds: u64) -> Now {
    Now { wall: Duration::from_secs(DAWN + seconds), steady: Duration::from_secs(seconds) }
}

fn sync(revision: u64, good: bool) -> Sync {
    Sync { revision, took: Duration::from_millis(3), full: revision == 1, good }
}

fn book() -> Book {
    Book::open(Family::BOTH.to_vec(), at(0))
}

fn one(services: u64, slices: u64) -> Changes {
    Changes { services, slices, triggers: Vec::new() }
}

fn metric(book: &Book, services: &ServicesIntent, name: &str) -> String {
    let mut page = Page::default();
    book.expose(services, &mut page);
    let text = page.into_text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
}

#[test]
fn healthz_answers_as_kube_proxy_does() {
    let book = book();
    // While it starts, nothing waits.
    let (good, body) = book.healthz(at(1), true);
    assert!(good);
    assert_eq!(body, r#"{"currentTime":"2026-01-02T03:04:06Z","healthy":true,"lastUpdated":"2026-01-02T03:04:06Z","nodeEligible":true}"#);
    book.heard(at(2), 1, one(3, 3));
    book.synced(at(3), sync(1, true));
    let (good, body) = book.healthz(at(9), false);
    assert!(!good, "the node is going");
    let of = r#"{"healthy":true,"lastUpdated":"2026-01-02T03:04:08Z"}"#;
    let rest = r#""currentTime":"2026-01-02T03:04:14Z","healthy":true,"lastUpdated":"2026-01-02T03:04:08Z","nodeEligible":false"#;
    assert_eq!(body, format!(r#"{{{rest},"status":{{"IPv4":{of},"IPv6":{of}}}}}"#));
    let (good, body) = book.livez(at(9));
    assert!(good && !body.contains("nodeEligible"), "{body}");
    assert_eq!(metric(&book, &ServicesIntent::default(), "kubeproxy_proxy_healthz_total{code=\"503\"}"), "1");
    assert_eq!(metric(&book, &ServicesIntent::default(), "kubeproxy_proxy_healthz_total{code=\"200\"}"), "1");
    assert_eq!(metric(&book, &ServicesIntent::default(), "kubeproxy_proxy_livez_total{code=\"200\"}"), "1");
}

#[test]
fn rules_that_wait_too_long_are_told() {
    let book = book();
    book.heard(at(0), 1, one(1, 0));
    book.synced(at(1), sync(1, true));
    // Nothing changes for an hour: that is no fault.
    assert!(book.health(at(3600)).healthy);
    book.heard(at(3600), 2, one(0, 1));
    book.heard(at(3650), 3, one(0, 1));
    book.synced(at(3601), sync(2, false));
    assert!(book.health(at(3659)).healthy);
    assert!(!book.health(at(3660)).healthy, "the oldest counts");
    let (good, body) = book.livez(at(3660));
    assert!(!good && body.contains(r#""lastUpdated":"2026-01-02T03:04:06Z""#) && body.contains(r#""healthy":false"#), "{body}");
    // An older revision than the last: the younger change still waits.
    book.synced(at(3661), sync(2, true));
    assert!(book.health(at(3700)).healthy && !book.health(at(3710)).healthy);
    book.synced(at(3711), sync(3, true));
    assert!(book.health(at(9999)).healthy);
    // Rules that somebody took away and that cannot be written again.
    book.synced(at(10_000), sync(3, false));
    book.synced(at(10_030), sync(3, false));
    assert!(book.health(at(10_059)).healthy && !book.health(at(10_060)).healthy);
    assert_eq!(metric(&book, &ServicesIntent::default(), "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"), "3");
}

#[test]
fn changes_are_counted_and_their_way_to_the_kernel_is_measured() {
    let (book, none) = (book(), ServicesIntent::default());
    let seen = |name: &str| metric(&book, &none, &format!("kubeproxy_{name}"));
    let before = Duration::from_secs(DAWN - 5);
    let pod = Duration::from_secs(DAWN + 10);
    book.heard(at(11), 1, Changes { services: 2, slices: 3, triggers: vec![before, pod] });
    assert_eq!(seen("sync_proxy_rules_endpoint_changes_pending"), "3");
    assert_eq!(seen("sync_proxy_rules_service_changes_pending"), "2");
    assert_eq!(seen("sync_proxy_rules_last_queued_timestamp_seconds"), (DAWN + 11).to_string());
    assert_eq!(seen("sync_proxy_rules_last_timestamp_seconds"), "0");
    book.synced(at(12), sync(1, false));
    assert_eq!(seen("network_programming_duration_seconds_count"), "0", "it is not in force");
    book.synced(Now { wall: Duration::from_millis(DAWN * 1000 + 12_400), steady: Duration::from_secs(12) }, sync(1, true));
    assert_eq!(seen("sync_proxy_rules_endpoint_changes_pending"), "0");
    assert_eq!(seen("sync_proxy_rules_endpoint_changes_total"), "3");
    assert_eq!(seen("sync_proxy_rules_service_changes_total"), "2");
    assert_eq!(seen("network_programming_duration_seconds_count"), "1", "what was before the start is not measured");
    assert_eq!(seen("network_programming_duration_seconds_sum"), "2.400000");
    book.synced(at(13), sync(2, true));
    assert_eq!(seen("sync_full_proxy_rules_duration_seconds_count"), "2");
    assert_eq!(seen("sync_partial_proxy_rules_duration_seconds_count"), "1");
    assert_eq!(seen("sync_proxy_rules_duration_seconds_sum"), "0.009000");
}

#[test]
fn services_without_local_endpoints_are_counted_by_policy() {
    let endpoint = Endpoint { ip: "10.42.1.1".parse().unwrap(), port: 80 };
    let frontend = |address, own: bool, when_empty| Frontend {
        address,
        protocol: Protocol::Tcp,
        port: 80,
        endpoints: Vec::new(),
        own_endpoints: own.then(|| vec![endpoint]),
        affinity_secs: None,
        sources: None,
        when_empty,
    };
    let (vip, port) = (FrontendAddress::Vip("10.43.0.1".parse().unwrap()), FrontendAddress::NodePort(Family::V4));
    let of = |name: &str, frontends| (ServiceName::new("d", name), Arc::new(ServiceIntent { frontends }));
    let full = Frontend { endpoints: vec![endpoint], ..frontend(vip, false, WhenEmpty::Reject) };
    let services = ServicesIntent {
        services: [
            of("empty", vec![frontend(vip, false, WhenEmpty::Reject)]),
            of("full", vec![full.clone()]),
            of("inside", vec![frontend(vip, false, WhenEmpty::Drop)]),
            of("outside", vec![full, frontend(port, true, WhenEmpty::Drop)]),
        ]
        .into_iter()
        .collect(),
        ..ServicesIntent::default()
    };
    let book = book();
    for (name, value) in [
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\"}", "1"),
        ("kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\"}", "1"),
        ("bowline_services", "4"),
        ("bowline_service_frontends", "5"),
        ("bowline_service_backends", "2"),
    ] {
        assert_eq!(metric(&book, &services, name), value, "{name}");
    }
}

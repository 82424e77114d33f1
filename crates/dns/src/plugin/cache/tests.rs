//! What is kept, and for how long; the clock is moved by hand.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use domain::base::Serial;
use domain::base::iana::Rcode;
use domain::rdata::{A, Soa};

use super::*;
use crate::corefile::{NoSources, parse};
use crate::wire::record;

fn cache(text: &str) -> Cache {
    let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
    Cache::new(read(&file.blocks[0].directives[0], &[Name::root_bytes()]).unwrap())
}

fn query(name: &str) -> Query {
    Query::new(name::parse(name).unwrap(), Rtype::A)
}

fn positive(ttl: u32) -> Reply {
    let mut reply = Reply::empty(Rcode::NOERROR);
    reply.answer.push(record(name::parse("a.test").unwrap(), ttl, A::new([10, 0, 0, 1].into())));
    reply
}

fn negative(minimum: u32) -> Reply {
    let zone = name::parse("test").unwrap();
    let [a, b, c, d] = [1, 1, 1, minimum].map(Ttl::from_secs);
    let mut reply = Reply::empty(Rcode::NXDOMAIN);
    reply.authority.push(record(zone.clone(), 900, Soa::new(zone.clone(), zone, Serial(1), a, b, c, d)));
    reply
}

/// Keeps `reply` at second 0 and says what TTL is given out at `at`, `S` before it for an old one, `-` for nothing.
fn check(conf: &str, reply: Reply, at: &[(u64, &str)]) {
    let cache = cache(conf);
    let start = Instant::now();
    cache.put(&query("a.test"), &mut reply.clone(), start);
    for (second, expected) in at {
        let got = match cache.get(&query("A.Test"), start + Duration::from_secs(*second)) {
            Lookup::Miss => "-".to_owned(),
            Lookup::Hit { reply, .. } => reply.records().next().map_or("empty".to_owned(), |r| r.ttl().as_secs().to_string()),
            Lookup::Fallback(reply) => format!("S{}", reply.records().next().unwrap().ttl().as_secs()),
        };
        assert_eq!(got, *expected, "{conf} at {second}");
    }
}

#[test]
fn answers_age_and_end() {
    check("cache", positive(60), &[(0, "60"), (20, "40"), (59, "1"), (60, "-")]);
    check("cache 30", positive(60), &[(0, "30"), (29, "1"), (30, "-")]);
    check("cache 30", positive(0), &[(0, "5"), (5, "-")]);
    check("cache {\nsuccess 2000 100 0\n}", positive(0), &[(0, "-")]);
    check("cache {\nkeepttl\n}", positive(60), &[(20, "60"), (60, "-")]);
    check("cache {\ndisable success\n}", positive(60), &[(0, "-")]);
    check("cache {\ndisable success example.org\n}", positive(60), &[(0, "60")]);
}

#[test]
fn denials_follow_the_soa() {
    check("cache", negative(20), &[(0, "20"), (20, "-")]);
    check("cache {\ndenial 2000 10\n}", negative(20), &[(0, "10"), (10, "-")]);
    check("cache", Reply::empty(Rcode::NXDOMAIN), &[(0, "-")]);
    check("cache", Reply::empty(Rcode::REFUSED), &[(0, "-")]);
    check("cache", Reply::empty(Rcode::SERVFAIL), &[(0, "empty"), (4, "empty"), (5, "-")]);
    check("cache {\nservfail 0\n}", Reply::empty(Rcode::SERVFAIL), &[(0, "-")]);
    check("cache", Reply { tc: true, ..positive(60) }, &[(0, "-")]);
}

#[test]
fn old_entries_are_served_where_asked_for() {
    check("cache {\nserve_stale 100s\n}", positive(60), &[(60, "0"), (160, "0"), (161, "-")]);
    check("cache {\nserve_stale 100s verify\n}", positive(60), &[(59, "1"), (60, "S0"), (161, "-")]);
    check("cache {\nserve_stale 100s immediate 30s\n}", positive(60), &[(60, "30")]);
}

#[test]
fn popular_entries_are_refreshed_once() {
    let cache = cache("cache {\nprefetch 2 1m 20%\n}");
    let start = Instant::now();
    let asked = query("a.test");
    cache.put(&asked, &mut positive(100), start);
    let refresh = |second| match cache.get(&asked, start + Duration::from_secs(second)) {
        Lookup::Hit { refresh, .. } => refresh,
        Lookup::Miss | Lookup::Fallback(_) => panic!("a hit is expected at {second}"),
    };
    assert_eq!([refresh(40), refresh(70), refresh(85), refresh(86)], [false, false, true, false]);
    cache.refresh_failed(&asked);
    assert!(refresh(87));
    assert_eq!(cache.counts.prefetched.load(Ordering::Relaxed), 2);
}

#[test]
fn questions_are_told_apart() {
    let cache = cache("cache");
    let now = Instant::now();
    cache.put(&query("a.test"), &mut positive(60), now);
    let aaaa = Query { rtype: Rtype::AAAA, ..query("a.test") };
    let unchecked = Query { cd: true, ..query("a.test") };
    for other in [query("b.test"), aaaa, unchecked] {
        assert_eq!(cache.get(&other, now), Lookup::Miss);
    }
}

#[test]
fn capacity_is_kept() {
    let cache = cache("cache {\nsuccess 1024\n}");
    let now = Instant::now();
    for i in 0..5000 {
        cache.put(&query(&format!("n{i}.test")), &mut positive(60), now);
    }
    let [success, denial] = cache.entries();
    assert!(success <= 1024 && success > 900 && denial == 0, "{success} {denial}");
    assert!(cache.counts.evicted[SUCCESS].load(Ordering::Relaxed) >= 5000 - 1024);
}

#[test]
fn a_denial_replaces_an_answer() {
    let cache = cache("cache");
    let now = Instant::now();
    cache.put(&query("a.test"), &mut positive(60), now);
    cache.put(&query("a.test"), &mut negative(60), now);
    assert!(matches!(cache.get(&query("a.test"), now), Lookup::Hit { reply, .. } if reply.is_name_error()));
    assert_eq!(cache.entries(), [0, 1]);
}

#[test]
fn bad_options_are_named() {
    for (text, expected) in [
        ("cache {\nsuccess\n}", "f:3: `success` wants a capacity"),
        ("cache {\nprefetch 1 1m 5%\n}", "f:3: `5` is out of place; write a number from 10 to 90"),
        ("cache {\nserve_stale 1h sometimes\n}", "f:3: `sometimes` is no mode of serve_stale"),
        ("cache {\nfoo\n}", "f:3: `cache` has no option `foo`; known are: success"),
        ("cache 0", "f:2: `0` is out of place"),
    ] {
        let file = parse("f", &format!(". {{\n{text}\n}}"), &NoSources).unwrap();
        let error = read(&file.blocks[0].directives[0], &[]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

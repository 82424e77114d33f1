#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_model::{Dual, Family};
use proptest::prelude::*;

use super::*;

fn pool(cidrs: &[&str]) -> Pool {
    Pool::new(cidrs.iter().map(|cidr| cidr.parse().unwrap()))
}

fn key(n: u32) -> AttachmentKey {
    AttachmentKey::new(format!("c{n}"), "eth0")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn any() -> Want {
    Want::default()
}

fn only(address: &str) -> Want {
    Want { ips: vec![ip(address)], ..Want::default() }
}

fn shown(ips: Dual<IpAddr>) -> String {
    ips.values().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn one_address_of_each_family() {
    for (cidrs, first, second) in [
        (&["10.1.2.0/24"][..], "10.1.2.2", "10.1.2.3"),
        (&["fd00:1::/64"], "fd00:1::2", "fd00:1::3"),
        (&["10.1.2.0/24", "fd00:1::/64"], "10.1.2.2 fd00:1::2", "10.1.2.3 fd00:1::3"),
    ] {
        let mut pool = pool(cidrs);
        assert_eq!(shown(pool.allocate(&key(1), &any(), &|_| true).unwrap()), first);
        assert_eq!(shown(pool.allocate(&key(2), &any(), &|_| true).unwrap()), second);
        assert_eq!(shown(pool.allocate(&key(1), &any(), &|_| true).unwrap()), first, "the same key has the same addresses");
    }
}

#[test]
fn small_prefixes() {
    for (cidr, total) in
        [("10.0.0.0/30", 1), ("10.0.0.0/31", 2), ("10.0.0.0/32", 1), ("fd00::/126", 2), ("fd00::/127", 2), ("fd00::/128", 1)]
    {
        let mut pool = pool(&[cidr]);
        let family = if cidr.contains(':') { Family::V6 } else { Family::V4 };
        assert_eq!(pool.usage(family).total, total, "{cidr}");
        for n in 0..u32::try_from(total).unwrap() {
            pool.allocate(&key(n), &any(), &|_| true).unwrap();
        }
        assert!(matches!(pool.allocate(&key(99), &any(), &|_| true), Err(IpamError::Exhausted { .. })), "{cidr}");
    }
    assert!(pool(&["::/0"]).allocate(&key(1), &any(), &|_| true).is_ok(), "the largest prefix does not overflow");
    assert!(pool(&["255.255.255.252/30"]).allocate(&key(1), &any(), &|_| true).is_ok(), "nor does the last one");
}

#[test]
fn exhaustion_has_numbers_and_takes_nothing() {
    let mut pool = pool(&["10.0.0.0/29", "fd00::/64"]);
    for n in 0..5 {
        pool.allocate(&key(n), &any(), &|_| true).unwrap();
    }
    let error = pool.allocate(&key(9), &any(), &|_| true).unwrap_err();
    assert_eq!(error.to_string(), "no IPv4 address is free in 10.0.0.0/29, fd00::/64: 5 of 5 in use");
    assert!(error.may_retry());
    assert_eq!(pool.usage(Family::V6).used, 5, "the IPv6 address was not taken");
    assert_eq!(pool.held(&key(9)), None);
}

#[test]
fn the_longest_free_is_reused_first() {
    let mut pool = pool(&["10.0.0.0/29"]);
    for n in 0..5 {
        pool.allocate(&key(n), &any(), &|_| true).unwrap();
    }
    for (now, n) in [(1, 3), (2, 0), (3, 4)] {
        pool.release(&key(n), now).unwrap();
    }
    let order: Vec<String> = (10..13).map(|n| shown(pool.allocate(&key(n), &any(), &|_| true).unwrap())).collect();
    assert_eq!(order, ["10.0.0.5", "10.0.0.2", "10.0.0.6"]);
}

#[test]
fn a_fresh_address_goes_before_a_used_one() {
    let mut pool = pool(&["10.0.0.0/29"]);
    pool.allocate(&key(1), &any(), &|_| true).unwrap();
    pool.release(&key(1), 1);
    assert_eq!(shown(pool.allocate(&key(2), &any(), &|_| true).unwrap()), "10.0.0.3");
}

/// What others take for another's still is passed over, whether it was used or not, and comes when it is rested.
#[test]
fn what_is_not_rested_is_passed_over() {
    let mut pool = pool(&["10.0.0.0/29"]);
    let but = |kept: &'static [&'static str]| move |address: &IpAddr| !kept.iter().any(|kept| ip(kept) == *address);
    let order = |pool: &mut Pool, n, kept| pool.allocate(&key(n), &any(), &but(kept)).map(shown).map_err(|error| error.to_string());
    assert_eq!(order(&mut pool, 1, &["10.0.0.2", "10.0.0.4"]), Ok("10.0.0.3".into()));
    assert_eq!(order(&mut pool, 2, &["10.0.0.2", "10.0.0.4"]), Ok("10.0.0.5".into()));
    assert_eq!(order(&mut pool, 3, &[]), Ok("10.0.0.2".into()), "one that was passed over is fresh still");
    assert_eq!(order(&mut pool, 4, &[]), Ok("10.0.0.4".into()));
    assert_eq!(order(&mut pool, 5, &[]), Ok("10.0.0.6".into()));
    pool.release(&key(1), 1);
    pool.release(&key(2), 2);
    assert_eq!(order(&mut pool, 6, &["10.0.0.3"]), Ok("10.0.0.5".into()), "the longest free of those that are rested");
    let kept = "no IPv4 address is free in 10.0.0.0/29 but 1 that others had a moment ago and that are kept back";
    assert_eq!(order(&mut pool, 7, &["10.0.0.3"]), Err(kept.into()));
    let error = pool.allocate(&key(7), &only("10.0.0.3"), &but(&["10.0.0.3"])).unwrap_err();
    assert_eq!(error, IpamError::KeptBack { address: ip("10.0.0.3") });
    assert!(error.may_retry() && error.is_kept_back());
    let within = Want { ips: vec![], ranges: vec![AddressRange { first: ip("10.0.0.3"), last: ip("10.0.0.3") }] };
    let error = pool.allocate(&key(7), &within, &but(&["10.0.0.3"])).unwrap_err();
    assert!(error.may_retry() && error.is_kept_back(), "{error}");
    assert_eq!(shown(pool.allocate(&key(7), &within, &|_| true).unwrap()), "10.0.0.3");
    let error = pool.allocate(&key(8), &any(), &|_| false).unwrap_err();
    assert!(error.may_retry() && !error.is_kept_back(), "{error}");
}

#[test]
fn what_is_not_rested_in_a_range_is_passed_over() {
    let mut pool = pool(&["10.0.0.0/24"]);
    let want = Want { ips: vec![], ranges: vec![AddressRange { first: ip("10.0.0.20"), last: ip("10.0.0.30") }] };
    let given = pool.allocate(&key(1), &want, &|address| *address != ip("10.0.0.20")).unwrap();
    assert_eq!(shown(given), "10.0.0.21");
}

#[test]
fn requested_addresses() {
    let mut pool = pool(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(shown(pool.allocate(&key(1), &only("10.0.0.77"), &|_| true).unwrap()), "10.0.0.77 fd00::2");
    let taken = pool.allocate(&key(2), &only("10.0.0.77"), &|_| true).unwrap_err();
    assert_eq!(taken, IpamError::Taken { address: ip("10.0.0.77"), owner: key(1) });
    for outside in ["10.0.1.5", "10.0.0.0", "10.0.0.1", "10.0.0.255", "fd01::1", "fd00::"] {
        assert!(matches!(pool.allocate(&key(2), &only(outside), &|_| true), Err(IpamError::Outside { .. })), "{outside}");
    }
    let two = Want { ips: vec![ip("10.0.0.5"), ip("10.0.0.6")], ..Want::default() };
    assert!(matches!(pool.allocate(&key(2), &two, &|_| true), Err(IpamError::TwoOfAFamily { .. })));
    let both = Want { ips: vec![ip("fd00::9"), ip("10.0.0.9")], ..Want::default() };
    assert_eq!(shown(pool.allocate(&key(2), &both, &|_| true).unwrap()), "10.0.0.9 fd00::9");
}

#[test]
fn ranges_limit_their_family() {
    let mut pool = pool(&["10.0.0.0/24", "fd00::/64"]);
    let want = Want { ips: vec![], ranges: vec![AddressRange { first: ip("10.0.0.250"), last: ip("10.0.0.255") }] };
    for n in 0..5 {
        assert_eq!(shown(pool.allocate(&key(n), &want, &|_| true).unwrap()), format!("10.0.0.{} fd00::{}", 250 + n, n + 2));
    }
    assert!(matches!(pool.allocate(&key(9), &want, &|_| true), Err(IpamError::Exhausted { used: 5, total: 5, .. })));
}

#[test]
fn a_pool_without_prefixes_says_so() {
    assert_eq!(Pool::default().allocate(&key(1), &any(), &|_| true), Err(IpamError::NoBlocks));
}

#[test]
fn changed_prefixes_leave_owners_alone() {
    let mut pool = pool(&["10.0.0.0/24"]);
    pool.allocate(&key(1), &any(), &|_| true).unwrap();
    pool.set_cidrs(["10.9.0.0/24".parse().unwrap()]);
    assert_eq!(shown(pool.held(&key(1)).unwrap()), "10.0.0.2");
    assert_eq!(shown(pool.allocate(&key(2), &any(), &|_| true).unwrap()), "10.9.0.2");
    pool.set_cidrs(["10.0.0.0/25".parse().unwrap(), "10.0.0.0/24".parse().unwrap(), "10.0.0.0/26".parse().unwrap()]);
    assert_eq!(pool.cidrs().count(), 1, "prefixes inside others are dropped");
    assert_eq!(shown(pool.allocate(&key(3), &any(), &|_| true).unwrap()), "10.0.0.3");
}

#[test]
fn names_follow_from_the_key() {
    assert_eq!(host_ifname(&key(1)), host_ifname(&key(1)));
    assert_ne!(pod_mac(&key(1)), host_mac(&key(1)));
    let names: BTreeSet<String> = (0..50_000).map(|n| host_ifname(&key(n))).collect();
    assert_eq!(names.len(), 50_000, "no two share a name");
    let name = host_ifname(&AttachmentKey::new("a".repeat(64), "eth0"));
    assert!(name.len() == 14 && name.starts_with("bwl") && name[3..].bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(u32),
    Request(u32, u8),
    Release(u32),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..24_u32).prop_map(Step::Allocate),
        1 => (0..24_u32, 0..20_u8).prop_map(|(n, host)| Step::Request(n, host)),
        3 => (0..24_u32).prop_map(Step::Release),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

/// What must hold after each step, and what the pool must choose, said the slow and obvious way.
#[derive(Default)]
struct Reference {
    held: BTreeMap<u32, IpAddr>,
    released: BTreeMap<IpAddr, u64>,
}

impl Reference {
    fn best(&self) -> Option<IpAddr> {
        let free = (2..15_u8).map(|host| ip(&format!("10.0.0.{host}"))).filter(|ip| !self.held.values().any(|held| held == ip));
        // Never used first (in order), then the longest free.
        free.min_by_key(|ip| (self.released.get(ip).map_or(0, |since| since + 1), *ip))
    }

    fn take(&mut self, n: u32, ip: IpAddr) {
        self.released.remove(&ip);
        self.held.insert(n, ip);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_pool_agrees_with_the_reference(steps in steps()) {
        let mut pool = pool(&["10.0.0.0/28"]);
        let mut reference = Reference::default();
        for (step, now) in steps.into_iter().zip(1_u64..) {
            match step {
                Step::Allocate(n) => {
                    let expected = reference.held.get(&n).copied().or_else(|| reference.best());
                    let got = pool.allocate(&key(n), &any(), &|_| true).ok().and_then(|ips| ips.v4);
                    prop_assert_eq!(got, expected);
                    if let Some(ip) = expected {
                        reference.take(n, ip);
                    }
                }
                Step::Request(n, host) => {
                    let address = ip(&format!("10.0.0.{host}"));
                    let free = (2..15).contains(&host) && !reference.held.values().any(|held| *held == address);
                    let expected = reference.held.get(&n).copied().or_else(|| free.then_some(address));
                    let got = pool.allocate(&key(n), &only(&address.to_string()), &|_| true).ok().and_then(|ips| ips.v4);
                    prop_assert_eq!(got, expected);
                    if let Some(ip) = expected {
                        reference.take(n, ip);
                    }
                }
                Step::Release(n) => {
                    let expected = reference.held.remove(&n);
                    prop_assert_eq!(pool.release(&key(n), now).and_then(|ips| ips.v4), expected);
                    if let Some(ip) = expected {
                        reference.released.insert(ip, now);
                    }
                }
                Step::Restart => {
                    let text = serde_json::to_string(&pool).unwrap();
                    let back: Pool = serde_json::from_str(&text).unwrap();
                    prop_assert_eq!(&back, &pool);
                    pool = back;
                }
            }
            let addresses: BTreeSet<IpAddr> = pool.iter().flat_map(|(_, ips)| ips.values().copied().collect::<Vec<_>>()).collect();
            prop_assert_eq!(addresses.len(), reference.held.len(), "no address has two owners");
            prop_assert_eq!(pool.usage(Family::V4).used, reference.held.len() as u128);
        }
    }

    #[test]
    fn releasing_all_gives_all_back(count in 1..13_u32, rounds in 1..4_u64) {
        let mut pool = pool(&["10.0.0.0/28", "fd00::/124"]);
        for round in 0..rounds {
            for n in 0..count {
                let key = AttachmentKey::new(format!("r{round}c{n}"), "eth0");
                prop_assert!(pool.allocate(&key, &any(), &|_| true).is_ok());
            }
            for n in 0..count {
                let key = AttachmentKey::new(format!("r{round}c{n}"), "eth0");
                prop_assert!(pool.release(&key, round).is_some());
            }
            prop_assert_eq!(pool.usage(Family::V4), Usage { total: 13, used: 0 });
            prop_assert_eq!(pool.usage(Family::V6), Usage { total: 14, used: 0 });
        }
    }
}

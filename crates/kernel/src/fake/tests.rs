//! The reconciler over the kernel in memory: by example and by property.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::{BTreeMap, BTreeSet};

use bowline_model::Delta;
use proptest::prelude::*;

use super::FakeKernel;
use crate::reconcile::{Driver, Reconciler, SyncMode};

type Kernel = FakeKernel<u8, u8>;

fn map(pairs: &[(u8, u8)]) -> BTreeMap<u8, u8> {
    pairs.iter().copied().collect()
}

fn over(kernel: &Kernel, wanted: &BTreeMap<u8, u8>) -> Reconciler<Kernel> {
    let mut reconciler = Reconciler::new(kernel.clone());
    reconciler.want(Delta { set: wanted.clone(), remove: BTreeSet::new() });
    reconciler
}

#[test]
fn a_restart_writes_nothing_and_removes_nothing_before_it_may() {
    let kernel = Kernel::new();
    over(&kernel, &map(&[(1, 1), (2, 2), (3, 3)])).sync(SyncMode::Shadow, 0);
    let writes = kernel.writes();
    let mut restarted = over(&kernel, &map(&[(1, 1), (2, 2)]));
    let report = restarted.sync(SyncMode::Shadow, 0);
    assert!(report.read_back && report.is_clean());
    assert_eq!((kernel.writes(), kernel.objects()), (writes, map(&[(1, 1), (2, 2), (3, 3)])));
    restarted.allow_removal();
    assert_eq!(restarted.sync(SyncMode::Shadow, 0).removed, 1);
    assert_eq!(kernel.objects(), map(&[(1, 1), (2, 2)]));
}

#[test]
fn the_shadow_serves_until_something_fails() {
    let kernel = Kernel::new();
    let mut reconciler = over(&kernel, &map(&[(1, 1)]));
    reconciler.sync(SyncMode::Full, 0);
    assert_eq!(kernel.reads(), 1);
    reconciler.want(Delta { set: map(&[(2, 2)]), remove: BTreeSet::new() });
    assert!(!reconciler.sync(SyncMode::Shadow, 0).read_back);
    kernel.fail(3, 1);
    reconciler.want(Delta { set: map(&[(3, 3)]), remove: BTreeSet::new() });
    assert_eq!(reconciler.sync(SyncMode::Shadow, 0).failed.len(), 1);
    assert_eq!(kernel.reads(), 1);
    let due = reconciler.next_retry_ms().unwrap();
    assert!(!reconciler.sync(SyncMode::Shadow, due - 1).read_back, "not before it is due");
    let report = reconciler.sync(SyncMode::Shadow, due);
    assert_eq!((report.read_back, report.written), (true, 1));
    assert_eq!(reconciler.next_retry_ms(), None);
}

#[test]
fn what_others_change_is_counted_and_what_failed_or_was_found_at_the_start_is_not() {
    let kernel = Kernel::new();
    let theirs = |set: &[(u8, u8)], remove: &[u8]| {
        let mut hand = kernel.clone();
        hand.apply(&Delta { set: map(set), remove: remove.iter().copied().collect() });
    };
    theirs(&[(1, 9), (7, 7)], &[]);
    let mut reconciler = over(&kernel, &map(&[(1, 1), (2, 2), (3, 3)]));
    reconciler.allow_removal();
    assert_eq!(reconciler.sync(SyncMode::Full, 0).foreign, 0, "what was there at the start");
    assert_eq!(reconciler.sync(SyncMode::Full, 0).foreign, 0, "nothing");
    theirs(&[(2, 9), (8, 8)], &[1]);
    let report = reconciler.sync(SyncMode::Full, 0);
    assert_eq!((report.foreign, report.written, report.removed), (3, 2, 1));
    kernel.fail(4, 1);
    reconciler.want(Delta { set: map(&[(4, 4)]), remove: BTreeSet::new() });
    assert_eq!(reconciler.sync(SyncMode::Full, 0).foreign, 0, "our own change");
    let due = reconciler.next_retry_ms().unwrap();
    assert_eq!(reconciler.sync(SyncMode::Full, due).foreign, 0, "our own failure");
    assert_eq!(kernel.objects(), map(&[(1, 1), (2, 2), (3, 3), (4, 4)]));
}

#[test]
fn a_key_that_fails_waits_longer_each_time_and_the_rest_goes_on() {
    let kernel = Kernel::new();
    kernel.fail(1, 100);
    let mut reconciler = over(&kernel, &map(&[(1, 1), (2, 2)]));
    let (mut now, mut waits) = (1000, Vec::new());
    for _ in 0..12 {
        assert_eq!(reconciler.sync(SyncMode::Full, now).failed.len(), 1);
        let due = reconciler.next_retry_ms().unwrap();
        waits.push(due - now);
        now = due;
    }
    assert_eq!(waits[..4], [100, 200, 400, 800]);
    assert_eq!(waits[11], 30_000);
    assert!(reconciler.sync(SyncMode::Shadow, now - 1).failed.is_empty(), "not before it is due");
    let failing = |reconciler: &Reconciler<Kernel>| reconciler.failing().map(|(key, error)| (*key, error.to_owned())).collect::<Vec<_>>();
    assert!(matches!(failing(&reconciler).as_slice(), [(1, error)] if error.contains("injected")), "it is told of while it waits");
    assert_eq!(kernel.objects(), map(&[(2, 2)]));
    reconciler.want(Delta { set: map(&[(1, 9)]), remove: BTreeSet::new() });
    assert_eq!(reconciler.next_retry_ms(), None, "another value is tried at once");
    assert!(failing(&reconciler).is_empty());
}

#[test]
fn what_cannot_be_read_back_is_not_written() {
    let kernel = Kernel::new();
    kernel.fail_reads(1);
    let mut reconciler = over(&kernel, &map(&[(1, 1)]));
    let report = reconciler.sync(SyncMode::Full, 0);
    assert!(report.read_error.unwrap().contains("injected"));
    assert_eq!(kernel.writes(), 0);
    let due = reconciler.next_retry_ms().unwrap();
    assert_eq!(reconciler.sync(SyncMode::Shadow, due).written, 1);
    assert_eq!(reconciler.next_retry_ms(), None);
}

#[test]
fn a_key_that_goes_and_comes_back_between_two_syncs_is_written_again() {
    let kernel = Kernel::new();
    let mut reconciler = over(&kernel, &map(&[(1, 1)]));
    reconciler.allow_removal();
    reconciler.sync(SyncMode::Full, 0);
    reconciler.want(Delta { set: BTreeMap::new(), remove: BTreeSet::from([1]) });
    reconciler.want(Delta { set: map(&[(1, 2)]), remove: BTreeSet::new() });
    let report = reconciler.sync(SyncMode::Shadow, 0);
    assert_eq!((report.written, report.removed), (1, 0));
    assert_eq!(kernel.objects(), map(&[(1, 2)]));
}

/// What may happen to an agent and its kernel.
#[derive(Debug, Clone)]
enum Event {
    Want(BTreeMap<u8, u8>),
    Sync(SyncMode),
    Kill { mid_change: Option<u64> },
    Tamper(u8, Option<u8>),
    Flush,
    Fail(u8, u32),
    FailReads(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let wanted = proptest::collection::btree_map(0_u8..12, 0_u8..3, 0..10);
    prop_oneof![
        4 => wanted.prop_map(Event::Want),
        4 => prop_oneof![Just(SyncMode::Full), Just(SyncMode::Shadow)].prop_map(Event::Sync),
        2 => proptest::option::of(0_u64..6).prop_map(|mid_change| Event::Kill { mid_change }),
        2 => (0_u8..12, proptest::option::of(0_u8..3)).prop_map(|(key, value)| Event::Tamper(key, value)),
        1 => Just(Event::Flush),
        1 => (0_u8..12, 1_u32..4).prop_map(|(key, times)| Event::Fail(key, times)),
        1 => (1_u32..3).prop_map(Event::FailReads),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 2000 } else { 10_000 }))]

    #[test]
    fn any_history_converges_and_touches_nothing_of_others(events in proptest::collection::vec(event(), 0..40)) {
        let kernel = Kernel::new();
        let foreign = map(&[(100, 1), (101, 2)]);
        for (key, value) in &foreign {
            kernel.put_foreign(*key, *value);
        }
        let mut wanted = BTreeMap::new();
        let mut reconciler = over(&kernel, &wanted);
        let mut now = 0;
        for event in events {
            now += 50;
            match event {
                Event::Want(next) => {
                    reconciler.want(Delta::between(&wanted, &next));
                    wanted = next;
                }
                Event::Sync(how) => {
                    reconciler.allow_removal();
                    reconciler.sync(how, now);
                }
                Event::Kill { mid_change } => {
                    if let Some(steps) = mid_change {
                        kernel.die_after(steps);
                        reconciler.allow_removal();
                        reconciler.sync(SyncMode::Full, now);
                        kernel.revive();
                    }
                    reconciler = over(&kernel, &wanted);
                }
                Event::Tamper(key, value) => kernel.tamper(key, value),
                Event::Flush => kernel.flush(),
                Event::Fail(key, times) => kernel.fail(key, times),
                Event::FailReads(times) => kernel.fail_reads(times),
            }
            prop_assert_eq!(kernel.foreign(), foreign.clone());
        }
        reconciler.allow_removal();
        reconciler.sync(SyncMode::Full, now);
        for _ in 0..40 {
            let Some(due) = reconciler.next_retry_ms() else { break };
            now = now.max(due);
            reconciler.sync(SyncMode::Full, now);
        }
        prop_assert_eq!(reconciler.next_retry_ms(), None);
        prop_assert_eq!(kernel.objects(), wanted.clone());
        prop_assert!(reconciler.dirty().is_empty());
        let writes = kernel.writes();
        let mut restarted = over(&kernel, &wanted);
        restarted.allow_removal();
        restarted.sync(SyncMode::Full, now);
        reconciler.sync(SyncMode::Full, now);
        prop_assert_eq!(kernel.writes(), writes, "a restart writes nothing");
    }
}

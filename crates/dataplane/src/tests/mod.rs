//! Intents in, packets through, expectations out: each case runs in both families and must come out the same.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod bench;
mod fabric;
mod fastpath;
mod flows;
mod guard;
mod lowered;
mod machine;
mod nodes;
mod notation;
mod policies;
mod policy;
mod properties;
mod render;
mod services;
mod snapshot;
mod through;

use bench::Bench;
use expect_test::Expect;

/// Lowers the intent of `setup`, sends `packets` (one a line) one after another, and compares what becomes of them.
///
/// The setup is read by `notation`, packets by `bench`.
fn check(setup: &str, packets: &str, expected: Expect) {
    let of = |family| {
        let mut bench = Bench::new(setup, family);
        packets.lines().map(str::trim).filter(|l| !l.is_empty()).map(|line| format!("{line} => {}\n", bench.send(line))).collect::<String>()
    };
    let (v4, v6) = (of(bowline_model::Family::V4), of(bowline_model::Family::V6));
    assert_eq!(v4, v6, "the families differ");
    expected.assert_eq(&v4);
}

//! The API server in trouble: agents reach it through a proxy that stops, stalls, lies and refuses as it is told. Connections and datagrams
//! do not notice, kernels stay as they are, and a change that was made meanwhile is in force within five seconds of the return.
//!
//! Short troubles on every change; `--long` or BOWLINE_LONG=1 for minutes of each. Words select checks by name.
#![allow(clippy::disallowed_methods, reason = "a test runner starts processes and keeps their time")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod front;
mod proxy;
mod stage;
mod troubles;

use std::process::ExitCode;

use common::lab::Setup;
use common::rows::{Group, Row};

const GROUPS: &[Group] = &[Group {
    setup: Some(|| Setup::new("vxlan").dual()),
    rows: &[
        Row { name: "stopped", title: "the server is stopped and started", check: troubles::stopped },
        Row { name: "slow", title: "every answer comes in drops", check: troubles::slow },
        Row { name: "lists", title: "410, then lists cut, in pages, empty and old", check: troubles::lists },
        Row { name: "refused", title: "429, then 401 until the token is renewed", check: troubles::refused },
        Row { name: "half-open", title: "connections dead without a word", check: troubles::half_open },
    ],
}];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.split_first() {
        Some((first, rest)) if first == proxy::ROLE => proxy::main(rest),
        _ => common::rows::main(GROUPS),
    }
}

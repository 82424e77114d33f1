//! The CNI project's own cnitool, which is libcni, over our plugin and agent on a lab's node.
//!
//! cnitool is `CNITOOL`, or what `conformance/build cni` left in the cache; without it nothing runs, and the reason is printed, since tests do
//! not need Go. Words select checks by name; `--long` is taken and changes nothing here.
//!
//! Reference: the CNI specification 1.1; github.com/containernetworking/cni, cnitool.
#![allow(clippy::disallowed_methods, reason = "a test runner starts processes and keeps their time")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]
#![allow(clippy::print_stdout, reason = "a test runner prints its rows")]

mod chained;
#[path = "../common/mod.rs"]
mod common;
mod tool;
mod verbs;

use std::process::ExitCode;

use common::lab::Setup;
use common::rows::{Group, Row};

const GROUPS: &[Group] = &[Group {
    setup: Some(|| Setup::new("vxlan").dual()),
    rows: &[
        Row { name: "status", title: "STATUS tells whether ADD can work", check: verbs::status },
        Row { name: "add", title: "ADD: what the result says is there, and works", check: verbs::add },
        Row { name: "check", title: "CHECK finds what was changed", check: verbs::check },
        Row { name: "del", title: "DEL leaves nothing, and may be repeated", check: verbs::del },
        Row { name: "versions", title: "every version of the specification", check: verbs::versions },
        Row { name: "capabilities", title: "addresses and MAC as the runtime wants them", check: verbs::capabilities },
        Row { name: "side-by-side", title: "many calls at once get distinct addresses", check: verbs::side_by_side },
        Row { name: "chained", title: "others' plugins chained after ours", check: chained::after_ours },
        // The last one: it is about every attachment of the node.
        Row { name: "gc", title: "GC collects what is not valid any more", check: verbs::gc },
    ],
}];

fn main() -> ExitCode {
    let rows: usize = GROUPS.iter().map(|group| group.rows.len()).sum();
    match tool::path() {
        Some(_) => common::rows::main(GROUPS),
        None => {
            println!("skipped: no cnitool in the cache; `conformance/build cni` makes it (needs Go), or set CNITOOL");
            println!("0 passed, 0 failed, {rows} skipped");
            ExitCode::SUCCESS
        }
    }
}

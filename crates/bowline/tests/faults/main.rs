//! Faults: the agent killed, the API away, CNI calls cut short, a lab killed half-way; and what must not be noticed of it on the wire.
//!
//! Short figures on every change; `--long` or BOWLINE_LONG=1 for the full ones. Words select checks by name.
#![allow(clippy::disallowed_methods, reason = "a test runner starts processes and keeps their time")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]

mod api;
mod closed;
#[path = "../common/mod.rs"]
mod common;
mod edits;
mod full;
mod labs;
mod maps;
mod plugin;
mod restarts;
mod reuse;
mod upgrades;

use std::process::ExitCode;

use common::lab::Setup;
use common::rows::{Group, Row};

const GROUPS: &[Group] = &[
    Group {
        setup: Some(|| Setup::new("vxlan").dual()),
        // The probes come last: each leaves tens of thousands of connections for the agents to look over at every change.
        rows: &[
            Row { name: "plugin", title: "ADD and DEL while the agent is killed", check: plugin::killed_between },
            Row { name: "traffic", title: "agents killed under traffic", check: restarts::under_traffic },
            Row { name: "quiet", title: "a restart writes nothing", check: restarts::write_nothing },
            Row { name: "api", title: "the API server away, and back", check: api::away },
            Row { name: "new-pods", title: "new pods are closed from the first packet", check: closed::new_pods },
            Row { name: "new-pods-tier", title: "new pods are closed by a tier, too", check: closed::new_pods_by_tier },
            Row { name: "edits", title: "denied while policies and labels change", check: edits::of_rules },
            Row { name: "reuse", title: "who gets an address is not who had it", check: reuse::of_addresses },
            Row { name: "namespace", title: "denied until a namespace has gone", check: edits::of_a_namespace },
            Row { name: "full", title: "connection tracking is full", check: full::of_connections },
            Row { name: "clients", title: "the map of remembered clients is full", check: full::of_clients },
            Row { name: "closed", title: "denied while agents are killed", check: closed::through_restarts },
        ],
    },
    Group {
        setup: Some(|| Setup::new("vxlan").dual().ebpf()),
        rows: &[
            Row { name: "traffic-ebpf", title: "agents killed under traffic", check: restarts::under_traffic },
            Row { name: "quiet-ebpf", title: "a restart writes nothing", check: restarts::write_nothing },
            Row { name: "api-ebpf", title: "the API server away, and back", check: api::away },
            Row { name: "new-pods-ebpf", title: "new pods are closed from the first packet", check: closed::new_pods },
            Row { name: "new-pods-tier-ebpf", title: "new pods are closed by a tier, too", check: closed::new_pods_by_tier },
            Row { name: "edits-ebpf", title: "denied while policies and labels change", check: edits::of_rules },
            Row { name: "reuse-ebpf", title: "who gets an address is not who had it", check: reuse::of_addresses },
            Row { name: "namespace-ebpf", title: "denied until a namespace has gone", check: edits::of_a_namespace },
            Row { name: "full-ebpf", title: "connection tracking is full", check: full::of_connections },
            Row { name: "maps-full", title: "the BPF maps are full", check: maps::all_full },
            Row { name: "closed-ebpf", title: "denied while agents are killed", check: closed::through_restarts },
        ],
    },
    Group {
        setup: Some(|| Setup::new("vxlan").dual()),
        rows: &[Row { name: "upgrades", title: "agents replaced in a large cluster", check: upgrades::at_scale }],
    },
    Group {
        setup: Some(|| Setup::new("vxlan").dual().ebpf()),
        rows: &[Row { name: "upgrades-ebpf", title: "agents replaced in a large cluster", check: upgrades::at_scale }],
    },
    Group {
        setup: None,
        rows: &[
            Row { name: "half-way", title: "a lab killed half-way leaves nothing", check: labs::killed_half_way },
            Row { name: "side-by-side", title: "two labs with the same addresses", check: labs::side_by_side },
            Row { name: "not-neighbours", title: "host-gw across a router is refused", check: labs::not_neighbours },
        ],
    },
];

fn main() -> ExitCode {
    common::rows::main(GROUPS)
}

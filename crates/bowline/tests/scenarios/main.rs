//! The scenarios: unmodified manifests in a lab, and what must be seen on the wire, made from packets.
//!
//! A runner of its own: labs are shared by the scenarios that fit together, a table says what was seen, and the last line counts.
//! `--demo` runs the IPv4 rows and leaves a lab to look around in; words select rows by name.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a test runner prints its rows and keeps their time")]

#[path = "../common/mod.rs"]
mod common;
mod dns;
mod forms;
mod policy;
mod reach;
mod services;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use common::lab::{Lab, Setup};
use common::{cluster, lab};

/// Labs that are up at the same time.
const LABS_AT_ONCE: usize = 4;

/// One scenario: its number, what it shows, and the check.
struct Scenario {
    number: &'static str,
    title: &'static str,
    check: fn(&Lab) -> anyhow::Result<String>,
}

/// Scenarios that share a lab, in order: later ones find what earlier ones applied.
struct Group {
    setup: fn(Setup) -> Setup,
    scenarios: &'static [Scenario],
}

const GROUPS: &[Group] = &[
    Group {
        setup: Setup::scenario_names,
        scenarios: &[
            Scenario { number: "1", title: "every pod reaches every pod", check: reach::pods_reach_pods },
            Scenario { number: "2", title: "only the outside is masqueraded", check: reach::outside_sees_the_node },
            Scenario { number: "3", title: "cluster DNS", check: dns::names_resolve },
            Scenario { number: "n", title: "names of every form", check: forms::names },
        ],
    },
    Group {
        setup: Setup::scenario_policies,
        scenarios: &[
            Scenario { number: "4", title: "ClusterIP and NodePort", check: services::shares_are_equal },
            Scenario { number: "5", title: "policy closes", check: policy::closes },
            Scenario { number: "6", title: "policy opens by label", check: policy::opens_by_label },
            Scenario { number: "7", title: "policy opens by block", check: policy::opens_by_block },
            Scenario { number: "8", title: "policy deleted", check: policy::deleted },
            Scenario { number: "s", title: "services of every form", check: forms::services },
            Scenario { number: "p", title: "policies of every form", check: forms::policies },
        ],
    },
];

/// A row of labs: a backend on an underlay with a family.
struct Row {
    name: &'static str,
    setup: fn() -> Setup,
    in_demo: bool,
}

const ROWS: &[Row] = &[
    Row { name: "vxlan", setup: || Setup::new("vxlan"), in_demo: true },
    Row { name: "host-gw", setup: || Setup::new("host-gw"), in_demo: true },
    Row { name: "vxlan-ipv6", setup: || Setup::new("vxlan").ipv6(), in_demo: false },
    Row { name: "host-gw-ipv6", setup: || Setup::new("host-gw").ipv6(), in_demo: false },
    Row { name: "vxlan-dual", setup: || Setup::new("vxlan").dual(), in_demo: false },
    Row { name: "host-gw-dual", setup: || Setup::new("host-gw").dual(), in_demo: false },
    Row { name: "vxlan-routed", setup: || Setup::new("vxlan").routed(), in_demo: false },
    Row { name: "vxlan-direct", setup: || Setup::new("vxlan").direct(), in_demo: false },
    Row { name: "vxlan-ebpf", setup: || Setup::new("vxlan").ebpf(), in_demo: false },
    Row { name: "host-gw-dual-ebpf", setup: || Setup::new("host-gw").dual().ebpf(), in_demo: false },
];

fn main() -> ExitCode {
    lab::end_with_interrupts();
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--quiet").collect();
    let demo = words.iter().any(|w| w == "--demo");
    let only: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.starts_with("--")).collect();
    if let Some(reason) = lab::missing() {
        println!("skipped: {reason}");
        println!("0 passed, 0 failed, {} skipped", ROWS.len() * 8);
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    println!("{:<14} {:>2}  {:<34} {:<4} {:>6}  seen", "lab", "#", "scenario", "", "time");
    let rows = ROWS.iter().filter(|r| if only.is_empty() { !demo || r.in_demo } else { only.contains(&r.name) });
    let jobs: Vec<(&Row, &Group)> = rows.flat_map(|row| GROUPS.iter().map(move |group| (row, group))).collect();
    let mut tally = run_all(&jobs);
    if demo && tally.failed == 0 {
        tally.failed += usize::from(!leave_a_lab());
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Runs the labs, several at once: most of the time they wait for packets that must not come.
fn run_all(jobs: &[(&Row, &Group)]) -> Tally {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..LABS_AT_ONCE {
            scope.spawn(|| {
                while let Some((row, group)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (lines, tally) = run_group(row, group);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    print!("{lines}");
                    total.passed += tally.passed;
                    total.failed += tally.failed;
                    total.skipped += tally.skipped;
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the scenarios of one lab: the lines to print, and the count.
fn run_group(row: &Row, group: &Group) -> (String, Tally) {
    let (mut lines, mut tally) = (String::new(), Tally::default());
    let lab = match (group.setup)((row.setup)()).up() {
        Ok(lab) => lab,
        Err(error) => {
            tally.failed = group.scenarios.len();
            return (format!("{:<14}     the lab did not come up: {error:#}\n", row.name), tally);
        }
    };
    for scenario in group.scenarios {
        let started = Instant::now();
        let outcome = (tally.failed == 0).then(|| (scenario.check)(&lab));
        let (mark, seen) = match &outcome {
            Some(Ok(seen)) => ("ok", seen.clone()),
            Some(Err(error)) => ("FAIL", format!("{error:#}\n{}", lab.report())),
            None => ("skip", "an earlier scenario of this lab failed".to_owned()),
        };
        let took = started.elapsed().as_secs_f64();
        let _ = writeln!(lines, "{:<14} {:>2}  {:<34} {:<4} {:>5.1}s  {seen}", row.name, scenario.number, scenario.title, mark, took);
        match outcome {
            Some(Ok(_)) => tally.passed += 1,
            Some(Err(_)) => tally.failed += 1,
            None => tally.skipped += 1,
        }
    }
    (lines, tally)
}

/// Leaves a lab up and says how to look around.
fn leave_a_lab() -> bool {
    let up = Setup::new("vxlan").scenario_policies().named("demo").up();
    let lab = match up {
        Ok(lab) => lab.leave(),
        Err(error) => {
            println!("the lab to look around in did not come up: {error:#}");
            return false;
        }
    };
    let applied = lab.apply("nginx-ds.yaml").and_then(|()| lab.apply("httpd-demo.yaml"));
    if let Err(error) = applied {
        println!("its manifests were not taken: {error:#}");
        return false;
    }
    let bowline = lab::BOWLINE;
    println!(
        "\nA lab named demo is up. Look around:\n  \
         export KUBECONFIG=$({bowline} lab kubeconfig --name demo)\n  \
         kubectl get pods -A -o wide\n  \
         {bowline} status --name demo\n  \
         {bowline} lab client --name demo -- curl -s http://192.168.200.11:33000/\n  \
         {bowline} lab node-exec --name demo n1 -- nft list table inet bowline\n\
         When done: make demo-down\n"
    );
    true
}

//! The agent's conduct on a node: others' objects untouched, its own repaired, connections cut when they are no longer allowed, forged
//! packets of pods dropped and counted, what policies deny told and counted, datagrams moved when their endpoint goes, explanations that say what packets do, kube-proxy's outer conduct, and nothing left after `bowline
//! uninstall`.
//!
//! Words select checks by name; `--long` is taken and changes nothing here.
#![allow(clippy::disallowed_methods, reason = "a test runner starts processes and keeps their time")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]

mod api;
mod attacks;
mod begins;
mod bound;
mod closings;
#[path = "../common/mod.rs"]
mod common;
mod cut;
mod denials;
mod drains;
mod explain;
mod fastpath;
mod foreign;
mod fragments;
mod kubeproxy;
mod many;
mod mapped;
mod maps;
mod moves;
mod mtu;
mod sockets;
mod tiers;
mod uninstall;

use std::process::ExitCode;

use common::lab::Setup;
use common::rows::{Group, Row};

const ROWS: &[Row] = &[
    Row { name: "cut", title: "a policy cuts what it no longer allows", check: cut::by_policy },
    Row { name: "closings", title: "whatever closes, cuts", check: closings::every_way },
    Row { name: "absence", title: "a policy from the agent's absence cuts, too", check: cut::after_absence },
    Row { name: "tiers", title: "ClusterNetworkPolicies decide, and cut", check: tiers::decide },
    Row { name: "explain", title: "explain says what packets do", check: explain::says_what_packets_do },
    Row { name: "differs", title: "explain tells of a kernel that differs", check: explain::tells_of_a_kernel_that_differs },
    Row { name: "attacks", title: "what no pod may send ends at its link", check: attacks::end_at_the_link },
    Row { name: "denials", title: "what policies deny is told and counted", check: denials::told_and_counted },
    Row { name: "moves", title: "datagrams move when their endpoint goes", check: moves::when_endpoints_go },
    Row { name: "returns", title: "datagrams return with the last endpoint", check: moves::when_the_last_returns },
    Row { name: "drains", title: "connections live as long as their pod", check: drains::old_connections_live_on },
    Row { name: "mapped", title: "IPv4 through IPv6 sockets is served", check: mapped::are_served },
    Row { name: "bound", title: "a service's address may be a node's own", check: bound::leads_to_endpoints },
    Row { name: "api", title: "a pod reaches the API by its environment", check: api::answers_pods },
    Row { name: "fragments", title: "fragments are judged as their flow", check: fragments::arrive_where_they_may },
    Row { name: "mtu", title: "narrow paths are found out by services", check: mtu::is_found_out },
    Row { name: "foreign", title: "others' objects are untouched", check: foreign::untouched },
    Row { name: "repairs", title: "what others take away is put back", check: foreign::repaired },
    Row { name: "kubeproxy", title: "a kube-proxy file's health, metrics, ports", check: kubeproxy::stands_in },
    // The last one: its node is not of use afterwards.
    Row { name: "uninstall", title: "uninstall leaves nothing, and proves it", check: uninstall::leaves_nothing },
];

const AT_SOCKETS: &[Row] = &[
    Row { name: "sockets", title: "a socket goes straight to the endpoint", check: sockets::straight },
    Row { name: "loopback", title: "node ports and host ports answer on loopback", check: sockets::on_loopback },
    Row { name: "refused", title: "no endpoint is refused at the socket", check: sockets::refused },
    Row { name: "tiers-ebpf", title: "ClusterNetworkPolicies decide, and cut", check: tiers::decide },
    Row { name: "many", title: "many rules about one pod", check: many::rules_about_one_pod },
    Row { name: "explain-ebpf", title: "explain says what packets do", check: explain::says_what_packets_do },
    Row { name: "differs-ebpf", title: "explain tells of socket maps that differ", check: explain::tells_of_socket_maps_that_differ },
    Row { name: "denials-ebpf", title: "what policies deny is told and counted", check: denials::told_and_counted },
    Row { name: "kept", title: "a socket keeps its endpoint", check: sockets::kept },
    Row { name: "moves-ebpf", title: "datagrams move when their endpoint goes", check: moves::when_endpoints_go },
    Row { name: "returns-ebpf", title: "datagrams return with the last endpoint", check: moves::when_the_last_returns },
    Row { name: "drains-ebpf", title: "connections live as long as their pod", check: drains::old_connections_live_on },
    Row { name: "mapped-ebpf", title: "IPv4 through IPv6 sockets is served", check: mapped::are_served },
    Row { name: "bound-ebpf", title: "a service's address may be a node's own", check: bound::leads_to_endpoints },
    Row { name: "api-ebpf", title: "a pod reaches the API by its environment", check: api::answers_pods },
    Row { name: "fragments-ebpf", title: "fragments are judged as their flow", check: fragments::arrive_where_they_may },
    Row { name: "mtu-ebpf", title: "narrow paths are found out by services", check: mtu::is_found_out },
    Row { name: "mtu-young", title: "and by those that begin without the stack", check: mtu::is_found_out_by_the_young },
    Row { name: "carries", title: "packets of pods are carried past the stack", check: fastpath::carries },
    Row { name: "begins", title: "connections begin without the stack, by its rules", check: begins::by_the_rules },
    Row { name: "switch", title: "connections live on when it comes or goes", check: fastpath::over_a_switch },
    Row { name: "attacks-ebpf", title: "what no pod may send ends at its link", check: attacks::end_at_the_link },
    Row { name: "cut-ebpf", title: "a policy cuts what it no longer allows", check: cut::by_policy },
    Row { name: "closings-ebpf", title: "whatever closes, cuts", check: closings::every_way },
    Row { name: "absence-ebpf", title: "a policy from the agent's absence cuts, too", check: cut::after_absence },
    Row { name: "detached", title: "hooks that someone detaches are put back", check: sockets::put_back },
    Row { name: "robbed", title: "programs taken off links are put back", check: fastpath::put_back },
    Row { name: "limited", title: "who is limited gets all by way of the limit", check: fastpath::limited },
    Row { name: "repairs-ebpf", title: "what others take away is put back", check: foreign::repaired },
    Row { name: "late", title: "what the node lacks at the start may come", check: maps::the_file_system_comes_late },
    Row { name: "full", title: "full maps: counted, said once, served", check: maps::full },
    Row { name: "restart", title: "a restart keeps hooks and maps", check: sockets::over_a_restart },
    Row { name: "mode", title: "another mode leaves nothing of this one", check: sockets::other_mode },
    Row { name: "uninstall-ebpf", title: "uninstall leaves nothing, and proves it", check: uninstall::leaves_nothing },
];

const GROUPS: &[Group] = &[
    Group { setup: Some(|| Setup::new("host-gw").dual()), rows: ROWS },
    Group { setup: Some(|| Setup::new("vxlan").dual().ebpf()), rows: AT_SOCKETS },
];

fn main() -> ExitCode {
    common::rows::main(GROUPS)
}

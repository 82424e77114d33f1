//! The tables of packet flows: the oracle and the compiler say what is written there.

use std::collections::BTreeSet;

use bowline_model::Family;
use bowline_model::intent::services::{Endpoint, FrontendAddress};

use crate::oracle::service::{Answer, Client, endpoints_for, health_checks};
use crate::testing::flows::{Case, Mode, NARROW, Places, Row, SERVICES, Table, Wanted, plain};
use crate::{Compiler, World};

/// What the oracle says of a row.
fn answer(table: &Table, world: &World, places: &dyn Places, row: &Row, (family, mode): (Family, Mode)) -> Answer {
    let (from, to) = (table.address(places, &row.from, family), table.address(places, &row.to, family));
    let node = table.meets_at(row);
    let client = Client { ip: from, own: table.is_own(row) };
    let ask = |address| endpoints_for(world, node, client, address, row.protocol, row.port);
    let settings = world.settings();
    let by_address = ask(FrontendAddress::Vip(to));
    if by_address != Answer::NotAService {
        return by_address;
    }
    if world.service_networks().iter().any(|net| net.contains(&to)) {
        return Answer::Reject;
    }
    let nets = &settings.node_port_addresses;
    // Loopback is the node's own where its programs are served at the socket, and nobody's else.
    let loopback = to.is_loopback() && mode == Mode::Ebpf && table.is_on_node(row);
    let here = loopback || row.to.strip_suffix('b').unwrap_or(&row.to) == node;
    if here && (nets.is_empty() || nets.iter().any(|net| net.contains(&to))) {
        return ask(FrontendAddress::NodePort(family));
    }
    Answer::NotAService
}

fn wanted(table: &Table, places: &dyn Places, row: &Row, family: Family) -> Answer {
    match &row.wanted {
        Wanted::Answer { by, .. } if table.host_port(row).is_some_and(|(pod, _)| by.iter().all(|one| one.pod == pod)) => {
            Answer::NotAService
        }
        Wanted::Answer { by, .. } => {
            let endpoints = by.iter().map(|one| Endpoint { ip: table.address(places, &one.pod, family), port: one.port });
            Answer::Endpoints(endpoints.collect())
        }
        Wanted::Reject => Answer::Reject,
        Wanted::Drop => Answer::Drop,
        Wanted::Untouched => Answer::NotAService,
    }
}

/// Everything wrong with a case.
fn judge(table: &Table, case: &Case, wrong: &mut Vec<String>) {
    let places = plain(table);
    for row in &case.rows {
        let world = table.world(table.meets_at(row), &[case], &places);
        let modes = Mode::BOTH.into_iter().flat_map(|mode| Family::BOTH.map(|family| (family, mode)));
        for (family, mode) in modes.filter(|(family, mode)| row.is_of(*family, *mode)) {
            let (got, wanted) = (answer(table, &world, &places, row, (family, mode)), wanted(table, &places, row, family));
            if got != wanted {
                wrong.push(format!("{}: {family} {mode:?} {}\n  got {got:?}\n  not {wanted:?}", case.title, row.text));
            }
        }
    }
    for (node, port, count) in &case.health {
        let world = table.world(node, &[case], &places);
        let told = health_checks(&world, node).get(port).map(|(_, count)| *count);
        let compiled = Compiler::full(&world).value.services.health_checks.get(port).map(|check| check.local_endpoints);
        if told != Some(*count) || compiled != told {
            wrong.push(format!("{}: {node}:{port} is told {told:?}, compiled {compiled:?}", case.title));
        }
    }
    let node = table.nodes.keys().next().unwrap();
    let problems = Compiler::full(&table.world(node, &[case], &places)).problems;
    let codes: BTreeSet<u16> = problems.iter().map(|problem| problem.code.0).collect();
    if codes != case.problems.iter().copied().collect() {
        wrong.push(format!("{}: problems {problems:?}", case.title));
    }
}

#[test]
fn the_oracle_says_what_the_tables_say() {
    for text in [SERVICES, NARROW] {
        let table = Table::read(text);
        let mut wrong = Vec::new();
        table.cases.iter().for_each(|case| judge(&table, case, &mut wrong));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// The cases can be run together, as they are with real packets: nobody takes another's name, address or port.
#[test]
fn the_cases_leave_one_another_alone() {
    for text in [SERVICES, NARROW] {
        let table = Table::read(text);
        let places = plain(&table);
        let together: Vec<&Case> = table.cases.iter().filter(|case| case.off_wire.is_none()).collect();
        let mut names = BTreeSet::new();
        for object in together.iter().flat_map(|case| &case.objects) {
            let name: Vec<&str> = object.split_whitespace().take(2).collect();
            assert!(names.insert(name.join(" ")), "two are called {name:?}");
        }
        for node in table.nodes.keys() {
            let count = |cases: &[&Case]| {
                let services = Compiler::full(&table.world(node, cases, &places)).value.services;
                services.services.values().map(|service| service.frontends.len()).sum::<usize>()
            };
            assert_eq!(count(&together), together.iter().map(|case| count(&[*case])).sum::<usize>(), "on {node}");
        }
    }
}

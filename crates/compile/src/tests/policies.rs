//! The truth tables of policies: the oracle and the compiler say what is written there, step by step and compiled anew.

use std::collections::BTreeSet;

use crate::oracle::policy::{End, allowed};
use crate::testing::policies::{Cast, Cell, Found, Theme, Worlds, hold, themes};
use crate::{Compiler, Judge};

/// How many cases there are at least.
const CASES: usize = 340;

/// Follows a theme's steps.
fn judge(cast: &Cast, theme: &Theme) -> Vec<Found> {
    let (mut worlds, mut found) = (Worlds::new(cast), Vec::new());
    for truth in theme.cases.iter().flat_map(|case| case.truths(cast)) {
        worlds.go(&truth.scene);
        let title = truth.step.title.clone();
        for (name, node) in &worlds.nodes {
            let full = Compiler::full(&node.world);
            assert_eq!(full.problems, [], "{title}: problems of {name}");
            assert_eq!(node.problems, [], "{title}: problems of {name} that followed");
            assert_eq!(node.intent.pods, full.value.pods, "{title}: pods of {name}");
            assert_eq!(node.intent.policy, full.value.policy, "{title}: policies of {name}");
        }
        let (cells, mut wrong) = (truth.cells(cast), Vec::new());
        for (cell, wanted) in &cells {
            let (oracle, judged) = verdicts(&worlds, cell);
            if (oracle, judged) != (*wanted, *wanted) {
                wrong.push(format!("{cell}: {wanted} in the table, {oracle} by the oracle, {judged} as compiled"));
            }
        }
        found.push(Found { title, cells: cells.len(), wrong });
    }
    found
}

/// What the oracle and the compiler make of a cell: both ends' nodes must let it pass.
fn verdicts(worlds: &Worlds<'_>, cell: &Cell<'_>) -> (bool, bool) {
    let (mut oracle, mut judged) = (true, true);
    for node in worlds.way(cell) {
        let (src, flow) = worlds.flow(cell, node);
        oracle &= allowed(&node.world, src, End::Address(flow.dst), flow.protocol, flow.dst_port);
        judged &= Judge::new(&node.intent.policy, &node.intent.pods).verdict(&flow).allowed;
    }
    (oracle, judged)
}

#[test]
fn the_oracle_and_the_compiler_say_what_the_tables_say() {
    hold(judge);
}

#[test]
fn every_case_is_there_once() {
    let (mut titles, mut count) = (BTreeSet::new(), 0);
    for case in themes().into_iter().flat_map(|theme| theme.cases) {
        count += 1;
        assert!(titles.insert(case.title.clone()), "two cases say: {}", case.title);
    }
    assert!(count >= CASES, "{count} cases");
}

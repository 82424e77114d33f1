//! The truth tables of NetworkPolicy: the oracle and the compiler say what is written there, step by step and compiled anew.

use std::collections::BTreeSet;

use crate::oracle::policy::{End, allowed};
use crate::testing::policies::{CAST, Cast, Cell, Theme, Worlds, themes};
use crate::{Compiler, Judge};

/// How many cases there are at least.
const CASES: usize = 230;

/// What is wrong in a theme, and how many cells there were.
fn judge(cast: &Cast, theme: &Theme) -> (Vec<String>, usize) {
    let (mut worlds, mut wrong, mut count) = (Worlds::new(cast), Vec::new(), 0);
    for case in &theme.cases {
        for truth in case.truths(cast) {
            worlds.go(&truth.scene);
            let title = &truth.step.title;
            for (name, node) in &worlds.nodes {
                let full = Compiler::full(&node.world);
                assert_eq!(full.problems, [], "{title}: problems of {name}");
                assert_eq!(node.problems, [], "{title}: problems of {name} that followed");
                assert_eq!(node.intent.pods, full.value.pods, "{title}: pods of {name}");
                assert_eq!(node.intent.policy, full.value.policy, "{title}: policies of {name}");
            }
            for (cell, wanted) in truth.cells(cast) {
                count += 1;
                let (oracle, judged) = verdicts(&worlds, &cell);
                if (oracle, judged) != (wanted, wanted) {
                    wrong.push(format!("{title}: {cell}: {wanted} in the table, {oracle} by the oracle, {judged} as compiled"));
                }
            }
        }
    }
    (wrong, count)
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
    let (cast, themes) = (Cast::read(CAST), themes());
    let outcomes: Vec<(Vec<String>, usize)> = std::thread::scope(|scope| {
        let judges: Vec<_> = themes.iter().map(|theme| scope.spawn(|| judge(&cast, theme))).collect();
        judges.into_iter().map(|judge| judge.join().unwrap()).collect()
    });
    let wrong: Vec<String> = outcomes.iter().flat_map(|(wrong, _)| wrong.clone()).collect();
    let count: usize = outcomes.iter().map(|(_, count)| count).sum();
    assert!(wrong.is_empty(), "{} of {count} cells\n{}", wrong.len(), wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n"));
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

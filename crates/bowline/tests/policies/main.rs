//! The truth tables of policies with real packets: every cell of the matrix after every step, in both families and both service modes.
//!
//! Of each theme some cases are taken in every change, others in each mode; all of them in both with `--long`. Words select checks by name.
#![allow(clippy::disallowed_methods, reason = "a test runner starts processes and keeps their time")]
#![allow(clippy::indexing_slicing, reason = "a missing JSON field is null, and a test may fail loudly")]

mod asked;
#[path = "../common/mod.rs"]
mod common;
mod staged;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bowline_compile::testing::policies::{CAST, Case, Cast, themes};

use common::lab::Setup;
use common::rows::{Bench, Group, Row};

/// One case of so many is taken in every change in each of the modes.
const ONE_OF: usize = 20;

/// How many wrong cells are told.
const TOLD: usize = 20;

const GROUPS: &[Group] = &[
    Group {
        setup: Some(|| Setup::new("vxlan").dual()),
        rows: &[Row { name: "truths", title: "the truth tables of policies", check: |bench| check(bench, 3) }],
    },
    Group {
        setup: Some(|| Setup::new("vxlan").dual().ebpf()),
        rows: &[Row { name: "truths-ebpf", title: "the same beside the fast path", check: |bench| check(bench, 13) }],
    },
];

fn main() -> ExitCode {
    common::rows::main(GROUPS)
}

/// Takes the cases one after the other, and asks every cell after each of their steps.
fn check(bench: &Bench, first: usize) -> Result<String> {
    let (lab, cast, themes) = (bench.lab()?, Cast::read(CAST), themes());
    let all: Vec<&Case> = themes.iter().flat_map(|theme| &theme.cases).collect();
    let chosen: Vec<&Case> = if bench.long { all } else { all.into_iter().skip(first).step_by(ONE_OF).collect() };
    let mut staged = staged::Staged::on(lab, &cast)?;
    let mut asked = asked::Asked::new(&staged)?;
    let (mut steps, mut cells, mut passing) = (0, 0, 0);
    for case in &chosen {
        for truth in case.truths(&cast) {
            let title = &truth.step.title;
            staged.go(&truth.scene).with_context(|| title.clone())?;
            asked.follow(&staged)?;
            let wanted = truth.cells(&cast);
            let wrong = asked.all(&staged, &wanted).with_context(|| title.clone())?;
            if !wrong.is_empty() {
                bail!(
                    "{title}: {} of {} cells: {}",
                    wrong.len(),
                    wanted.len(),
                    wrong.into_iter().take(TOLD).collect::<Vec<_>>().join("; ")
                );
            }
            (steps, cells) = (steps + 1, cells + wanted.len());
            passing += wanted.iter().filter(|(_, passes)| *passes).count();
        }
    }
    Ok(format!("{} cases in {steps} steps: {cells} cells, of which {passing} pass and {} drop", chosen.len(), cells - passing))
}

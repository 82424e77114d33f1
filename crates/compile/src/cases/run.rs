//! Cases, judged.

use bowline_model::{Family, Problem};

use super::cluster::Cluster;
use super::read::Case;
use crate::codes;
use crate::explain::{Explainer, Explanation, Outcome, Path, Question};

/// A case and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged<'c> {
    /// The case.
    pub case: &'c Case,
    /// The explanation; or why there is none, which is the file's fault.
    pub explained: Result<Explanation, Problem>,
}

impl Judged<'_> {
    /// Whether every path came out as expected, and the oracle agrees.
    pub fn passed(&self) -> bool {
        let as_expected = |path: &Path| path.verdict == self.case.expect;
        self.explained.as_ref().is_ok_and(|explanation| explanation.paths.iter().all(as_expected) && explanation.agrees())
    }

    /// What came: the verdict of the path that was not expected, or else the common one.
    pub fn got(&self) -> Option<Outcome> {
        let explanation = self.explained.as_ref().ok()?;
        let odd = explanation.paths.iter().find(|path| path.verdict != self.case.expect);
        Some(odd.map_or(explanation.verdict, |path| path.verdict))
    }
}

/// Judges cases, in order.
pub fn run<'c>(cluster: &Cluster, cases: &'c [Case]) -> Vec<Judged<'c>> {
    let mut explainer = Explainer::new(cluster.world.clone(), None);
    let judge = |case: &'c Case| {
        let explained = of_families(&mut explainer, &case.question).map_err(|problem| {
            let field = if problem.place == "SRC" { "from" } else { "to" };
            Problem { place: format!("{}.{field}", case.place), ..problem }
        });
        Judged { case, explained }
    };
    cases.iter().map(judge).collect()
}

/// The explanation for the family that is asked for; or else for every one that both ends have, as one.
fn of_families(explainer: &mut Explainer, question: &Question) -> Result<Explanation, Problem> {
    if question.family.is_some() {
        return explainer.explain(question);
    }
    let mut explained: Option<Explanation> = None;
    for family in Family::BOTH {
        match explainer.explain(&Question { family: Some(family), ..question.clone() }) {
            Ok(one) => {
                explained = Some(match explained.take() {
                    Some(first) => first.with(one),
                    None => one,
                });
            }
            // The ends may have the other one; if they have none, that is said below.
            Err(problem) if problem.code.0 == codes::END_WITHOUT_ADDRESS => {}
            Err(problem) => return Err(problem),
        }
    }
    explained.map_or_else(|| explainer.explain(question), Ok)
}

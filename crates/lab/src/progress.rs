//! How a lab's start is reported: lines of JSON from the daemon, lines of text for a person.
//!
//! Invariant: the daemon never depends on anyone reading: only `lab up` without `--no-wait` ties its life to the pipe.

use std::io::Write;

use anyhow::Error;
use bowline_model::checked::Problem;
use serde::{Deserialize, Serialize};

/// What the daemon says while it comes up.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Progress {
    /// A step is done.
    Done {
        /// host, underlay, api, agents or pods.
        step: String,
        /// What there is now.
        detail: String,
    },
    /// A step failed.
    Failed {
        /// Which.
        step: String,
        /// Why.
        problem: Problem,
    },
    /// All steps are done.
    Ready,
}

/// Sends one event to `lab up`.
pub(crate) fn send(event: &Progress) -> std::io::Result<()> {
    let line = serde_json::to_string(event).map_err(std::io::Error::other)?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// Sends the failure of `step`.
pub(crate) fn report_failure(step: &str, error: &Error) {
    let problem = problem_of(step, error);
    tracing::error!(step, error = format!("{error:#}"), "start failed");
    let _ = send(&Progress::Failed { step: step.to_owned(), problem });
}

/// The problem inside an error, or one made of it.
pub(crate) fn problem_of(place: &str, error: &Error) -> Problem {
    error.downcast_ref::<ProblemError>().map_or_else(
        || {
            let refused = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
                .any(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied);
            if refused {
                Problem::new(1003, "the machine refused what a lab needs", place, "run with sudo, outside of a container")
                    .because(format!("{error:#}"))
            } else {
                Problem::new(1005, "the lab did not come up", place, "see the log: bowline lab logs").because(format!("{error:#}"))
            }
        },
        |problem| problem.0.clone(),
    )
}

/// A problem on its way through `anyhow`.
#[derive(Debug)]
pub(crate) struct ProblemError(pub(crate) Problem);

impl std::fmt::Display for ProblemError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.0.place, self.0.what, self.0.why)
    }
}

impl std::error::Error for ProblemError {}

/// Marks of outcomes: signs where the terminal's encoding has them, else words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    unicode: bool,
}

impl Marks {
    /// The marks for this environment.
    pub(crate) fn here() -> Marks {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_ascii_lowercase();
        Marks { unicode: locale.contains("utf-8") || locale.contains("utf8") }
    }

    /// Something is done.
    pub(crate) fn good(self) -> &'static str {
        if self.unicode { "✓" } else { "ok  " }
    }

    /// Something failed.
    pub(crate) fn bad(self) -> &'static str {
        if self.unicode { "✗" } else { "FAIL" }
    }
}

//! Whether a list is believed.
//!
//! A list says two things: what there is, and, by silence, what is gone. The second is believed only of a server that shows the cluster
//! as it is now:
//!
//! - A list that is older than what was seen before is not believed. A server behind others catches up; it is asked again.
//! - A list that takes something away, or is empty, is believed only of a cluster that has this node. The list of nodes shows it itself;
//!   for any other kind the node is asked for. A store that was lost, another store, or another cluster under the same address have not
//!   got it.
//!
//! What is doubted is asked for again, as the newest state of the store and not from memory. If the same is said for a minute, at least
//! three times, it is how things are (a store restored from a backup, a node that was really deleted), and is believed.
//!
//! Invariant: the first answer that contradicts what is known changes nothing. Reference: KEP-5504 for what "older" means, issue 59848 of
//! kubernetes/kubernetes for servers that are behind.

use std::time::Duration;

use super::time::Instant;

/// How long, and how often, a contradiction must be repeated to be believed.
const STEADY: (Duration, u32) = (Duration::from_secs(60), 3);

/// What a list contradicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contradiction {
    /// What was seen before: it is older.
    Older,
    /// That we are here: its cluster has not got this node.
    Stranger,
}

/// What was doubted since the last list that was believed.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    said: Option<(Contradiction, Instant)>,
    times: u32,
}

impl Doubt {
    /// Counts one more contradiction by the store itself; whether it is believed now. Another than the last one begins anew.
    pub(super) fn is_overcome(&mut self, what: Contradiction) -> bool {
        let (steady, times) = STEADY;
        let first = match self.said {
            Some((said, first)) if said == what => first,
            Some(_) | None => {
                self.times = 0;
                Instant::now()
            }
        };
        self.said = Some((what, first));
        self.times += 1;
        self.times >= times && first.elapsed() >= steady
    }

    /// A list was believed.
    pub(super) fn clear(&mut self) {
        *self = Doubt::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::time::{run, sleep};

    /// Whether what is said every twenty seconds is believed in the end.
    async fn believed(said: &[Contradiction]) -> bool {
        let mut doubt = Doubt::default();
        let mut outcome = false;
        for what in said {
            outcome = doubt.is_overcome(*what);
            sleep(Duration::from_secs(20)).await;
        }
        outcome
    }

    #[test]
    fn two_lies_in_turn_are_never_one_truth() {
        use Contradiction::{Older, Stranger};
        run(async {
            assert!(believed(&[Stranger; 4]).await, "the same for a minute");
            assert!(!believed(&[Stranger; 3]).await, "for forty seconds");
            assert!(!believed(&[Stranger, Stranger, Stranger, Older]).await, "another, in the end");
            assert!(!believed(&[Stranger, Older, Stranger, Older, Stranger, Older, Stranger, Older]).await, "in turn");
            assert!(believed(&[Older, Stranger, Stranger, Stranger, Stranger]).await, "another, at first");
        });
    }
}

//! How full connection tracking is: told in the metrics, and a problem while new connections are dropped for want of room.
//!
//! The kernel tells nobody of that, but for a line in its log; so it is asked every few seconds.

use std::time::{Duration, Instant};

use bowline_kernel::conntrack::{Conntrack, ConntrackError, Room};
use bowline_metrics::Page;
use bowline_model::Problem;

use super::Teller;
use super::status::Topic;

/// How often the kernel is asked.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The problem is over when for so long nothing was dropped and there is room.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// Looks, without an end of its own.
pub(crate) async fn watch(teller: Teller) {
    let started = Instant::now();
    let mut look = Look::default();
    loop {
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(room)) => match look.at(room, started.elapsed()) {
                Seen::Full { begins: true, problem } => teller.house.set(Topic::Tracking, problem),
                Seen::Full { begins: false, problem } => teller.house.reword(Topic::Tracking, problem),
                Seen::Over => {
                    tracing::info!(entries = room.entries, max = room.max, "connection tracking has room again");
                    teller.house.clear(Topic::Tracking);
                }
                Seen::Well => {}
            },
            Ok(Err(error)) => tracing::debug!(%error, "it is not known how full connection tracking is"),
            Err(_) => return,
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Writes it on a page; nothing at all where the kernel does not say.
pub(crate) fn metrics(page: &mut Page) {
    let room = match read() {
        Ok(room) => room,
        Err(error) => return tracing::debug!(%error, "it is not known how full connection tracking is"),
    };
    page.single("bowline_conntrack_entries", "gauge", "Entries of connection tracking on this node.", room.entries);
    page.single("bowline_conntrack_entries_max", "gauge", "Entries that there may be.", room.max);
    let dropped = "Packets dropped because connection tracking had no room for their connection.";
    page.single("bowline_conntrack_dropped_packets_total", "counter", dropped, room.dropped);
    let evicted = "Entries that gave their place to new ones: of connections without an answer, and of UDP that had just begun.";
    page.single("bowline_conntrack_evicted_total", "counter", evicted, room.evicted);
}

fn read() -> Result<Room, ConntrackError> {
    Conntrack::open()?.room()
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Look {
    /// Packets dropped at the last look; none before the first, so that what was before the start is no news.
    dropped: Option<u64>,
    full: Option<Full>,
}

/// The table is full, or was a moment ago.
#[derive(Debug)]
struct Full {
    /// Packets dropped until now.
    lost: u64,
    /// When that was seen last.
    at: Duration,
}

/// What a look tells.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Well,
    Full { begins: bool, problem: Problem },
    Over,
}

impl Look {
    fn at(&mut self, room: Room, now: Duration) -> Seen {
        let before = self.dropped.replace(room.dropped).unwrap_or(room.dropped);
        // Each processor's count begins anew after 2^32.
        let lost = room.dropped.saturating_sub(before);
        let is_full = lost > 0 || (room.max > 0 && room.entries >= room.max);
        match (&mut self.full, is_full) {
            (None, false) => Seen::Well,
            (None, true) => {
                self.full = Some(Full { lost, at: now });
                Seen::Full { begins: true, problem: full(room, lost) }
            }
            (Some(state), true) => {
                *state = Full { lost: state.lost + lost, at: now };
                Seen::Full { begins: false, problem: full(room, state.lost) }
            }
            (Some(state), false) if now.saturating_sub(state.at) < OVER_AFTER => {
                Seen::Full { begins: false, problem: full(room, state.lost) }
            }
            (Some(_), false) => {
                self.full = None;
                Seen::Over
            }
        }
    }
}

fn full(room: Room, lost: u64) -> Problem {
    let what = "connection tracking is full: packets of new connections are dropped";
    let fix = "raise nf_conntrack_max, or find out who opens so many connections (conntrack -L)";
    let place = "net/netfilter/nf_conntrack_max";
    Problem::new(1222, what, place, fix).because(format!("{} of {} entries, {lost} packets dropped", room.entries, room.max))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn room(entries: u32, dropped: u64) -> Room {
        Room { entries, max: 100, dropped, evicted: 0 }
    }

    fn why(seen: &Seen) -> (bool, &str) {
        let Seen::Full { begins, problem } = seen else { panic!("{seen:?}") };
        (*begins, problem.why.as_str())
    }

    #[test]
    fn a_full_table_is_told_until_it_has_had_room_for_a_minute() {
        let mut look = Look::default();
        let mut at = |secs, room| look.at(room, Duration::from_secs(secs));
        assert_eq!(at(0, room(10, 7)), Seen::Well, "what was dropped before the start is no news");
        assert_eq!(at(5, room(99, 7)), Seen::Well);
        assert_eq!(why(&at(10, room(90, 12))), (true, "90 of 100 entries, 5 packets dropped"));
        assert_eq!(why(&at(15, room(100, 12))), (false, "100 of 100 entries, 5 packets dropped"), "full, though nothing new came");
        assert_eq!(why(&at(20, room(90, 15))), (false, "90 of 100 entries, 8 packets dropped"));
        assert_eq!(why(&at(79, room(20, 15))), (false, "20 of 100 entries, 8 packets dropped"));
        assert_eq!(at(80, room(20, 15)), Seen::Over);
        assert_eq!(at(85, room(20, 15)), Seen::Well);
        assert_eq!(why(&at(90, room(100, 15))), (true, "100 of 100 entries, 0 packets dropped"));
    }

    #[test]
    fn counts_that_begin_anew_and_kernels_that_do_not_say_are_no_problem() {
        let mut look = Look::default();
        assert_eq!(look.at(Room { max: 0, ..room(5, 1_000) }, Duration::ZERO), Seen::Well);
        assert_eq!(look.at(Room { max: 0, ..room(5, 3) }, Duration::from_secs(5)), Seen::Well);
    }
}

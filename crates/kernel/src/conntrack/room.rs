//! How full the table of connections is, and what came of it (ctnetlink's statistics).

use super::{Conntrack, ConntrackError, NFGEN_BYTES, SUBSYSTEM, nfgen};
use crate::wire::{Message, Received, flags};

const MSG_GET_STATS_CPU: u16 = SUBSYSTEM | 4;
const MSG_GET_STATS: u16 = SUBSYSTEM | 5;

/// Of one processor.
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_EARLY_DROP: u16 = 11;
/// Of all.
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

/// How full the table of a network namespace is. Counts are the kernel's since the namespace was made, each of 32 bits a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Entries.
    pub entries: u32,
    /// How many there may be: `nf_conntrack_max`, for every namespace of the machine the same; 0 of a kernel that does not say.
    pub max: u32,
    /// Packets that were dropped because no entry could be had for their connection.
    pub dropped: u64,
    /// Entries of connections without an answer, or of UDP that had just begun, that gave their place to new ones.
    pub evicted: u64,
}

impl Conntrack {
    /// How full the table is.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn room(&mut self) -> Result<Room, ConntrackError> {
        let of_all = |received: &Received<'_>| {
            let attrs = received.attrs(NFGEN_BYTES);
            Some((attrs.be32(CTA_STATS_GLOBAL_ENTRIES)?, attrs.be32(CTA_STATS_GLOBAL_MAX_ENTRIES).unwrap_or(0)))
        };
        let of_one = |received: &Received<'_>| {
            let attrs = received.attrs(NFGEN_BYTES);
            Some((attrs.be32(CTA_STATS_DROP)?, attrs.be32(CTA_STATS_EARLY_DROP)?))
        };
        let all = Message::new(MSG_GET_STATS, flags::REQUEST | flags::ACK, &nfgen(0));
        let each = Message::new(MSG_GET_STATS_CPU, flags::REQUEST | flags::DUMP, &nfgen(0));
        let failed = |error| ConntrackError::from_wire("count", error);
        let all = self.connection.ask(all, of_all).map_err(failed)?;
        let each = self.connection.ask(each, of_one).map_err(failed)?;
        let (entries, max) = all.first().copied().unwrap_or_default();
        let sum = |of: fn(&(u32, u32)) -> u32| each.iter().map(|one| u64::from(of(one))).sum();
        Ok(Room { entries, max, dropped: sum(|one| one.0), evicted: sum(|one| one.1) })
    }
}

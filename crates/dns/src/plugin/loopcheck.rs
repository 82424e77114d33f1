//! `loop`: finds out whether what is forwarded comes back.
//!
//! At start the server sends a question for a name that nobody else can know to its own upstreams. Should that name be
//! asked here, the upstream asks this server in turn, and every question would go round for ever.

use std::sync::atomic::{AtomicU32, Ordering};

use domain::base::iana::Rtype;

use crate::name::{self, Name};
use crate::wire::Query;

/// How often the name may be seen: once it is sent, further ones have come back.
const TOLERATED: u32 = 2;

/// The plugin.
#[derive(Debug)]
pub struct LoopCheck {
    name: Name,
    zone: Name,
    seen: AtomicU32,
}

impl LoopCheck {
    /// A check with a name of its own in a zone.
    pub fn new(zone: &Name) -> LoopCheck {
        let [left, right] = rand::random::<[u64; 2]>().map(|half| half.to_string());
        let name = name::under([left.as_bytes(), right.as_bytes()], zone);
        LoopCheck { name: name.unwrap_or_else(|| zone.clone()), zone: zone.clone(), seen: AtomicU32::new(0) }
    }

    /// The question to send.
    pub fn probe(&self) -> Query {
        Query::new(self.name.clone(), Rtype::HINFO)
    }

    /// Looks at a question that came in; true once it shows a loop.
    pub fn saw(&self, query: &Query) -> bool {
        if query.rtype != Rtype::HINFO || query.name != self.name {
            return false;
        }
        self.seen.fetch_add(1, Ordering::Relaxed) >= TOLERATED
    }

    /// The zone that is forwarded.
    pub fn zone(&self) -> &Name {
        &self.zone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_that_comes_back_counts() {
        let check = LoopCheck::new(&Name::root_bytes());
        let other = LoopCheck::new(&Name::root_bytes());
        let seen: Vec<bool> = (0..4).map(|_| check.saw(&check.probe()) || check.saw(&other.probe())).collect();
        assert_eq!(seen, [false, false, true, true]);
    }
}

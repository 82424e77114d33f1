//! What is told of denied packets, and how often.
//!
//! A flow is told with its first packet; what follows is summed and told once in each period, for as long as it goes on. Over all flows a
//! bucket bounds the lines. What finds no room is summed up, so that nothing is left out without a word.
//!
//! Invariant: time is an argument. Memory and lines are bounded, whatever is sent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Packets of a flow are summed for so long.
pub(super) const PERIOD_MS: u64 = 10_000;
/// Lines a second over all flows, and how many at once.
const LINES_PER_SECOND: u64 = 5;
const LINES_AT_ONCE: u64 = 50;
/// Flows that are remembered at once.
const FLOWS_MAX: usize = 4096;
/// What a line costs of the bucket, which gains a unit each millisecond.
const LINE_COST: u64 = 1000 / LINES_PER_SECOND;

/// What belongs to one line: the source's port is not among it, so that each try of a client is not told anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    /// What its packets are logged with.
    pub(super) denial: Arc<str>,
    /// Source address.
    pub(super) src: IpAddr,
    /// Destination address.
    pub(super) dst: IpAddr,
    /// Transport protocol by its number.
    pub(super) protocol: u8,
    /// Destination port, where there are ports.
    pub(super) port: Option<u16>,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Of this flow.
    pub(super) flow: Flow,
    /// Its packets since the line before.
    pub(super) packets: u64,
}

/// What was not told by its flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Untold {
    /// Packets that were heard of.
    pub(super) packets: u64,
    /// Packets that rules gave and that were lost before they were heard of.
    pub(super) lost: u64,
}

/// Packets of a flow that are not told yet, and when they will be.
#[derive(Debug)]
struct Waiting {
    packets: u64,
    due_ms: u64,
}

/// What is remembered.
#[derive(Debug)]
pub(super) struct Desk {
    flows: BTreeMap<Flow, Waiting>,
    bucket: u64,
    filled_ms: u64,
    untold: Untold,
    untold_due_ms: Option<u64>,
}

impl Desk {
    /// Nothing yet.
    pub(super) fn new(now_ms: u64) -> Desk {
        let bucket = LINES_AT_ONCE * LINE_COST;
        Desk { flows: BTreeMap::new(), bucket, filled_ms: now_ms, untold: Untold::default(), untold_due_ms: None }
    }

    /// A packet was denied; gives the line if it is the first of its flow.
    pub(super) fn hear(&mut self, flow: Flow, now_ms: u64) -> Option<Line> {
        if let Some(waiting) = self.flows.get_mut(&flow) {
            waiting.packets += 1;
            return None;
        }
        if self.flows.len() >= FLOWS_MAX || !self.pay(now_ms) {
            self.leave_out(Untold { packets: 1, lost: 0 }, now_ms);
            return None;
        }
        self.flows.insert(flow.clone(), Waiting { packets: 0, due_ms: now_ms + PERIOD_MS });
        Some(Line { flow, packets: 1 })
    }

    /// Packets were lost on the way here.
    pub(super) fn lose(&mut self, lost: u64, now_ms: u64) {
        if lost > 0 {
            self.leave_out(Untold { packets: 0, lost }, now_ms);
        }
    }

    /// What is due: sums of flows that went on, and what was left out. A flow of which nothing came for a period is forgotten.
    pub(super) fn due(&mut self, now_ms: u64) -> (Vec<Line>, Option<Untold>) {
        let due: Vec<Flow> = self.flows.iter().filter(|(_, waiting)| waiting.due_ms <= now_ms).map(|(flow, _)| flow.clone()).collect();
        let mut lines = Vec::new();
        for flow in due {
            let Some(Waiting { packets, .. }) = self.flows.remove(&flow) else { continue };
            if packets == 0 {
                continue;
            }
            if self.pay(now_ms) {
                lines.push(Line { flow: flow.clone(), packets });
            } else {
                self.leave_out(Untold { packets, lost: 0 }, now_ms);
            }
            self.flows.insert(flow, Waiting { packets: 0, due_ms: now_ms + PERIOD_MS });
        }
        let untold = self.untold_due_ms.is_some_and(|due| due <= now_ms).then(|| {
            self.untold_due_ms = None;
            std::mem::take(&mut self.untold)
        });
        (lines, untold)
    }

    fn leave_out(&mut self, more: Untold, now_ms: u64) {
        self.untold.packets += more.packets;
        self.untold.lost += more.lost;
        self.untold_due_ms.get_or_insert(now_ms + PERIOD_MS);
    }

    /// Pays for a line, if there is enough.
    fn pay(&mut self, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.filled_ms);
        self.bucket = self.bucket.saturating_add(gained).min(LINES_AT_ONCE * LINE_COST);
        self.filled_ms = self.filled_ms.max(now_ms);
        match self.bucket.checked_sub(LINE_COST) {
            Some(left) => {
                self.bucket = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn flow(number: u32) -> Flow {
        let dst = IpAddr::V4(Ipv4Addr::from(0x0a2a_0000 + number));
        Flow { denial: "denied/one".into(), src: Ipv4Addr::new(10, 42, 1, 5).into(), dst, protocol: 6, port: Some(80) }
    }

    #[test]
    fn a_flow_is_told_at_once_and_then_summed() {
        let mut desk = Desk::new(0);
        assert_eq!(desk.hear(flow(1), 5), Some(Line { flow: flow(1), packets: 1 }));
        for now in 6..106 {
            assert_eq!(desk.hear(flow(1), now), None);
        }
        assert_eq!(desk.due(PERIOD_MS + 4), (vec![], None));
        assert_eq!(desk.due(PERIOD_MS + 5), (vec![Line { flow: flow(1), packets: 100 }], None));
        assert_eq!(desk.hear(flow(1), PERIOD_MS + 6), None, "it goes on");
        assert_eq!(desk.due(2 * PERIOD_MS + 5), (vec![Line { flow: flow(1), packets: 1 }], None));
        assert_eq!(desk.due(3 * PERIOD_MS + 5), (vec![], None));
        assert!(desk.hear(flow(1), 3 * PERIOD_MS + 6).is_some(), "it was forgotten");
    }

    #[test]
    fn many_flows_are_told_by_rate_and_what_is_left_out_is_summed() {
        let mut desk = Desk::new(0);
        let told = (0..1000).filter(|number| desk.hear(flow(*number), 0).is_some()).count();
        assert_eq!(told, 50);
        desk.lose(7, 1);
        let told = (1000..2000).filter(|number| desk.hear(flow(*number), 2000).is_some()).count();
        assert_eq!(told, 10, "five a second");
        assert_eq!(desk.due(PERIOD_MS), (vec![], Some(Untold { packets: 1940, lost: 7 })));
        assert_eq!(desk.due(2 * PERIOD_MS), (vec![], None), "it is told once");
    }

    /// Packets of two hundred flows with pauses between, drawn from a sequence that is the same each time.
    #[test]
    fn nothing_is_left_out_without_a_word() {
        for seed in 1..40_u64 {
            let (mut desk, mut now, mut told, mut lines, mut state) = (Desk::new(0), 0, 0, 0, seed);
            let mut draw = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let mut take = |(due, untold): (Vec<Line>, Option<Untold>)| {
                lines += due.len() as u64;
                told += due.iter().map(|line| line.packets).sum::<u64>() + untold.map_or(0, |untold| untold.packets);
            };
            for _ in 0..600 {
                now += draw(10 * seed);
                let first = desk.hear(flow(u32::try_from(draw(200)).unwrap()), now);
                take((first.into_iter().collect(), None));
                take(desk.due(now));
            }
            let last = now;
            for _ in 0..3 {
                now += PERIOD_MS + 1;
                take(desk.due(now));
            }
            assert_eq!(told, 600, "seed {seed}");
            assert!(lines <= 2 * LINES_AT_ONCE + (last + 3 * PERIOD_MS) / LINE_COST, "{lines} lines, seed {seed}");
        }
    }
}

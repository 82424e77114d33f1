//! What policies deny: counted in the kernel and read when somebody asks, and told in the log with the names of both ends.
//!
//! Counters are objects of the table, so they are exact, go on when rules are replaced, and outlive the agent. The log is a sample: rules give
//! a bounded number of packets to nfnetlink_log, and `desk` says what becomes a line.
//!
//! Invariant: nothing that is judged waits for this. Labels are names of policies that select pods of this node, and closed lists of words.

mod desk;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_compile::World;
use bowline_dataplane::policy::nftables::{Denial, LOG_GROUP, Reason, counted, denials};
use bowline_kernel::nflog::{Heard, Logged, NfLog};
use bowline_kernel::nft::NftDriver;
use bowline_metrics::Page;
use bowline_model::intent::Intent;
use bowline_model::intent::policy::{Direction, PolicyIntent};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::apply::Applied;
use super::explain::Worlds;
use desk::{Desk, Flow, Line, Untold};

/// How long the thread sleeps at most while nothing comes.
const TICK: Duration = Duration::from_millis(500);

/// A group that cannot be had is asked for again after this long.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Denials that the status shows.
const SHOWN: usize = 5;

/// Packets that policies have denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Denied {
    /// The policies' names; all of those that select a pod where none of them lets a packet through.
    pub(crate) policy: String,
    /// `ingress` or `egress`, seen from the pod.
    pub(crate) direction: String,
    /// Why, in one word.
    pub(crate) reason: String,
    /// Packets.
    pub(crate) packets: u64,
}

/// Packets by policy, direction and reason; nothing at all where the kernel does not say. Reads the counters and no rules.
pub(crate) fn denied(policy: &PolicyIntent) -> Vec<Denied> {
    let counters = match NftDriver::open().and_then(|mut driver| driver.counted()) {
        Ok(counters) => counters,
        Err(error) => {
            tracing::debug!(%error, "counters of denied packets cannot be read");
            return Vec::new();
        }
    };
    of_counters(policy, &counters)
}

fn of_counters(policy: &PolicyIntent, counters: &BTreeMap<Arc<str>, u64>) -> Vec<Denied> {
    let of = |denial: Denial<'_>| {
        let packets = *counters.get(&denial.counter())?;
        let (direction, reason) = (denial.direction().word().to_owned(), denial.reason().word().to_owned());
        Some(Denied { policy: denial.policies(), direction, reason, packets })
    };
    counted(policy).into_iter().filter_map(of).collect()
}

/// Those with the most packets, for people.
pub(crate) fn most_denied(policy: &PolicyIntent) -> Vec<Denied> {
    let mut all: Vec<Denied> = denied(policy).into_iter().filter(|one| one.packets > 0).collect();
    all.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.cmp(b)));
    all.truncate(SHOWN);
    all
}

/// Writes them on a page.
pub(crate) fn metrics(denied: &[Denied], page: &mut Page) {
    let name = "bowline_policy_denied_packets_total";
    page.head(name, "counter", "Packets that policies have denied; several names are policies that select a pod together.");
    for one in denied {
        page.sample(name, &[("policy", &one.policy), ("direction", &one.direction), ("reason", &one.reason)], one.packets);
    }
}

/// What tells of denied packets.
pub(crate) struct Telling {
    /// From the turn: who is at an address.
    pub(crate) worlds: Worlds,
    /// From the kernel thread: what is denied.
    pub(crate) applied: watch::Receiver<Applied>,
}

impl Telling {
    /// Tells, on a thread of its own, until the end.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(self, stop: CancellationToken) -> std::io::Result<()> {
        std::thread::Builder::new().name("denials".into()).spawn(move || self.run(&stop)).map(|_| ())
    }

    fn run(self, stop: &CancellationToken) {
        let started = Instant::now();
        let mut said = false;
        while !stop.is_cancelled() {
            let ended = NfLog::open(LOG_GROUP).map(|log| self.listen(log, started, stop)).unwrap_or_else(Some);
            let Some(error) = ended else { return };
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(%error, "denied packets cannot be heard of; they are dropped and counted, and asked for again");
            }
            let again = Instant::now() + AGAIN_AFTER;
            while !stop.is_cancelled() && Instant::now() < again {
                std::thread::sleep(TICK);
            }
        }
    }

    /// Until the end; gives why it could not go on.
    fn listen(&self, mut log: NfLog, started: Instant, stop: &CancellationToken) -> Option<bowline_kernel::nflog::NfLogError> {
        let now = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut desk = Desk::new(now());
        let mut names = Names::default();
        while !stop.is_cancelled() {
            let Heard { packets, lost } = match log.wait(TICK) {
                Ok(heard) => heard,
                Err(error) => return Some(error),
            };
            desk.lose(lost, now());
            let mut lines: Vec<Line> = packets.into_iter().filter_map(|packet| desk.hear(flow(packet)?, now())).collect();
            let (due, untold) = desk.due(now());
            lines.extend(due);
            self.tell(&lines, untold, &mut names);
        }
        None
    }

    fn tell(&self, lines: &[Line], untold: Option<Untold>, names: &mut Names) {
        if !lines.is_empty() {
            let world = self.world();
            let intent = self.applied.borrow().intent.clone();
            for line in lines {
                write(line, names.of(&line.flow.denial, &intent), world.as_ref(), &intent);
            }
        }
        if let Some(Untold { packets, lost }) = untold {
            tracing::info!(suppressed = packets, lost, "denied packets of more flows than are told of");
        }
    }

    /// The world as it is; none before everything has been listed, or at the end.
    fn world(&self) -> Option<World> {
        let (to, from) = oneshot::channel();
        self.worlds.blocking_send(to).ok()?;
        Some(from.blocking_recv().ok()??.0)
    }
}

/// The flow of a packet; none if it is not one of ours to tell of.
fn flow(packet: Logged) -> Option<Flow> {
    let ends = packet.ends?;
    let port = ends.ports.map(|(_, to)| to);
    Some(Flow { denial: packet.prefix.into(), src: ends.src, dst: ends.dst, protocol: ends.protocol, port })
}

/// What a denial is called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    direction: Direction,
    reason: Reason,
    policies: String,
    rule: Option<Arc<str>>,
}

/// Denials by what their packets are logged with. It names them for good, so what is known stays true, and a name of rules that have just
/// gone is still found.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<Arc<str>, Named>,
    /// Revision of the intent that they were learnt from.
    revision: Option<u64>,
}

impl Names {
    fn of(&mut self, denial: &str, intent: &Intent) -> Option<&Named> {
        if !self.known.contains_key(denial) && self.revision != Some(intent.revision) {
            self.revision = Some(intent.revision);
            let named = |one: &Denial<'_>| Named {
                direction: one.direction(),
                reason: one.reason(),
                policies: one.policies(),
                rule: one.rule().map(Into::into),
            };
            self.known = denials(&intent.policy).iter().map(|one| (one.chain(), named(one))).collect();
        }
        self.known.get(denial)
    }
}

fn write(Line { flow, packets }: &Line, named: Option<&Named>, world: Option<&World>, intent: &Intent) {
    // What another program gives to the group, or rules that are gone for longer, says nothing of ours.
    let Some(named) = named else {
        tracing::debug!(prefix = %flow.denial, "a packet was given by rules that are not known");
        return;
    };
    let who = |ip: IpAddr| match world {
        Some(world) => bowline_compile::explain::who(world, ip),
        None => attached(intent, ip).unwrap_or_else(|| ip.to_string()),
    };
    tracing::info!(
        direction = named.direction.word(),
        source = who(flow.src),
        source_address = %flow.src,
        destination = who(flow.dst),
        destination_address = %flow.dst,
        port = flow.port,
        protocol = protocol_word(flow.protocol),
        policy = (!named.policies.is_empty()).then_some(named.policies.as_str()),
        rule = named.rule.as_deref(),
        reason = named.reason.says(),
        packets,
        "denied"
    );
}

fn attached(intent: &Intent, ip: IpAddr) -> Option<String> {
    intent.pods.pods.values().find(|pod| pod.ips.contains(&ip))?.pod.as_ref().map(ToString::to_string)
}

fn protocol_word(number: u8) -> String {
    match number {
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;

//! What makes void what the fast path's programs know, and the handing over of the connections that began without the stack.
//!
//! Connection tracking does not know those. Before the stack is asked for anything of them it is told of each, in the direction in which it
//! began; else it would take an answer for a beginning, and policy would judge it as one.
//!
//! Invariant: a connection leaves the map only when connection tracking knows it, or has no room for it, or it has ended. What is begun in the new epoch
//! is begun by the new rules.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::MapData;
use bowline_bpf::abi::{self, Direct};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

use super::hooks::{self, BpfError};
use super::maps::Table;
use crate::conntrack::{Conntrack, ConntrackError, Discriminator, Entry, Tuple};
use crate::{sys, sysctl};

/// Bytes of the map's key and of the epoch.
const WORD: usize = 4;
const LONG: usize = 8;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

const SECOND_NS: u64 = 1_000_000_000;
/// A connection of this age is no short one: connection tracking is told of it.
const GROWN_NS: u64 = SECOND_NS;
/// So long after both ends are done, what they may say yet (a FIN once more, its acknowledgement) goes the same way.
const LINGER_NS: u64 = SECOND_NS;
/// A beginning without an answer is no connection after this; the next try is a new one.
const UNANSWERED_NS: u64 = 10 * SECOND_NS;

/// For how long connection tracking remembers a silent connection, and what it is where that cannot be read, in seconds.
const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
const ESTABLISHED_TIMEOUT_S: u32 = 432_000;

/// Why connections could not be handed over.
#[derive(Debug, Error)]
pub enum HandOverError {
    /// A map did not answer.
    #[error("the fast path's connections cannot be read: {0}")]
    Map(#[from] io::Error),
    /// Connection tracking did not take one.
    #[error(transparent)]
    Tracking(#[from] ConntrackError),
}

/// Which connections are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All that have not ended: something is to be asked of the stack.
    All,
    /// Those that are no longer young; and what has ended is forgotten.
    Grown,
}

/// What became of connections that began without the stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// Connection tracking was told of them: each as its first packet went.
    pub told: Vec<Tuple>,
    /// They had ended, or never got an answer.
    pub forgotten: usize,
    /// They are as they were: young.
    pub young: usize,
}

/// The number that the programs hold what they know against, and the connections that they have begun. What was learnt in another epoch is void.
#[derive(Debug, Clone, Default)]
pub struct Epoch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    number: Mutex<Option<Table>>,
    connections: Mutex<Option<Connections>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Epoch {
    /// Takes the maps of a directory, and with them what other builds' programs have begun in the directories beside it. The connections are those of
    /// the calling thread's network namespace.
    pub(super) fn hold(&self, maps: &Path) -> Result<(), BpfError> {
        *lock(&self.0.number) = Some(Table::open(maps, "epoch", WORD, LONG)?);
        *lock(&self.0.connections) = Some(Connections::open(maps.parent().unwrap_or(maps))?);
        Ok(())
    }

    /// Begins a new one: from the moment that this returns the stack judges every packet until it has let its flow through again, but for those of
    /// connections that it does not know ([`Epoch::hand_over`]), and it judges the beginning of every connection. Does nothing where there are no
    /// programs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn advance(&self) -> io::Result<()> {
        let held = lock(&self.0.number);
        let Some(table) = &*held else { return Ok(()) };
        let key = 0_u32.to_ne_bytes();
        let before = table.elements().get(&key)?.and_then(|value| value.try_into().ok()).map_or(0, u64::from_ne_bytes);
        table.elements().update(&key, &before.wrapping_add(1).to_ne_bytes()).map_err(|(_, error)| error)
    }

    /// Makes connections known to connection tracking; the stack is asked for what follows of them. With [`Which::All`], none is missed that began
    /// before the present epoch. Does nothing where there are no programs.
    ///
    /// # Errors
    /// The first refusal. With [`Which::All`] a connection that is refused is as unknown as one that never was.
    pub fn hand_over(&self, which: Which) -> Result<HandedOver, HandOverError> {
        let mut held = lock(&self.0.connections);
        let Some(connections) = &mut *held else { return Ok(HandedOver::default()) };
        if which == Which::All {
            // A program that has seen the former epoch may be about to begin one.
            if let Err(error) = sys::wait_for_processors() {
                tracing::debug!(%error, "processors cannot be waited for; a program is done in less time than the next call takes");
            }
        }
        connections.hand_over(which)
    }
}

/// The coarse monotonic clock, by which the programs go.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * SECOND_NS + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The connections of a network namespace that began without its stack.
#[derive(Debug)]
pub(super) struct Connections {
    tables: Vec<Table>,
    conntrack: Conntrack,
    timeout_s: u32,
}

impl Connections {
    /// Those of every build whose maps are pinned below `home`.
    pub(super) fn open(home: &Path) -> Result<Connections, BpfError> {
        let mut tables = Vec::new();
        for entry in fs::read_dir(home).into_iter().flatten().flatten() {
            if hooks::is_maps_directory(&entry.file_name()) && entry.path().join("direct").exists() {
                tables.push(open_table(&entry.path())?);
            }
        }
        let conntrack = Conntrack::open().map_err(|error| BpfError::Load { reason: error.to_string() })?;
        let timeout = sysctl::read(ESTABLISHED).ok().flatten().and_then(|seconds| seconds.trim().parse().ok());
        Ok(Connections { tables, conntrack, timeout_s: timeout.unwrap_or(ESTABLISHED_TIMEOUT_S) })
    }

    pub(super) fn hand_over(&mut self, which: Which) -> Result<HandedOver, HandOverError> {
        let (mut done, mut first_error, now_ns) = (HandedOver::default(), None, now_ns());
        for table in &self.tables {
            let mut found = Vec::new();
            table
                .elements()
                .read(|key, value| found.extend(Direct::from_bytes(key, value).map(|connection| (key.to_vec(), connection))))?;
            for (key, connection) in found {
                let outcome = match fate(&connection, which, now_ns) {
                    Fate::Young => {
                        done.young += 1;
                        Ok(())
                    }
                    Fate::Forget => table.elements().take(&key).map(|_| done.forgotten += 1).map_err(HandOverError::from),
                    Fate::Tell => {
                        let told = tell(&mut self.conntrack, self.timeout_s, table, &key, &connection, which);
                        told.map(|()| done.told.push(original(&connection)))
                    }
                };
                if let Err(error) = outcome {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(done), Err)
    }
}

fn open_table(directory: &Path) -> Result<Table, BpfError> {
    let path = directory.join("direct");
    let failed = |reason: String| BpfError::Load { reason: format!("map {}: {reason}", path.display()) };
    let map = MapData::from_pin(&path).map_err(|error| failed(hooks::chain(&error)))?;
    let info = map.info().map_err(|error| failed(hooks::chain(&error)))?;
    let (key_bytes, value_bytes) = (info.key_size() as usize, info.value_size() as usize);
    if key_bytes != abi::CARRIED_KEY || value_bytes < abi::DIRECT_HEAD {
        return Err(failed(format!("keys of {key_bytes} and values of {value_bytes} bytes are of no version that is known")));
    }
    Ok(Table::of(map, key_bytes, value_bytes))
}

enum Fate {
    Young,
    Forget,
    Tell,
}

fn fate(connection: &Direct, which: Which, now_ns: u64) -> Fate {
    let age_ns = now_ns.saturating_sub(connection.opened_ns);
    if connection.ended_ns != 0 {
        return if now_ns.saturating_sub(connection.ended_ns) < LINGER_NS { Fate::Young } else { Fate::Forget };
    }
    match which {
        Which::All => Fate::Tell,
        Which::Grown if !connection.answered => {
            if age_ns < UNANSWERED_NS {
                Fate::Young
            } else {
                Fate::Forget
            }
        }
        Which::Grown => {
            if age_ns < GROWN_NS {
                Fate::Young
            } else {
                Fate::Tell
            }
        }
    }
}

fn original(connection: &Direct) -> Tuple {
    let discriminator = Discriminator::Ports { source: connection.source.port(), destination: connection.destination.port() };
    Tuple { source: connection.source.ip(), destination: connection.destination.ip(), protocol: TCP, discriminator }
}

/// Connection tracking first: at no moment does neither know it.
fn tell(
    conntrack: &mut Conntrack,
    timeout_s: u32,
    table: &Table,
    key: &[u8],
    connection: &Direct,
    which: Which,
) -> Result<(), HandOverError> {
    let original = original(connection);
    let adopted = conntrack.adopt_tcp(&original, connection.answered, timeout_s);
    let adopted = match adopted {
        // It goes on as it does, and is tried again.
        Err(error) if which == Which::Grown => return Err(error.into()),
        other => other,
    };
    let left = table.elements().take(key)?;
    let over = left.and_then(|value| Direct::from_bytes(key, &value)).is_none_or(|connection| connection.ended_ns != 0);
    // It ended meanwhile, and nothing would end it there.
    if adopted? && over {
        conntrack.delete(&Entry::untranslated(original))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_young_stays_and_what_is_over_goes() {
        let now = 100 * SECOND_NS;
        let connection = |age_s: u64, ended_s: Option<u64>, answered| Direct {
            source: ([10, 0, 0, 1], 1000).into(),
            destination: ([10, 0, 0, 2], 80).into(),
            opened_ns: now - age_s * SECOND_NS,
            ended_ns: ended_s.map_or(0, |ago| now - ago * SECOND_NS),
            answered,
        };
        let of = |connection: Direct, which| match fate(&connection, which, now) {
            Fate::Young => "young",
            Fate::Forget => "forget",
            Fate::Tell => "tell",
        };
        for (connection, grown, all) in [
            (connection(0, None, true), "young", "tell"),
            (connection(2, None, true), "tell", "tell"),
            (connection(2, None, false), "young", "tell"),
            (connection(11, None, false), "forget", "tell"),
            (connection(5, Some(0), true), "young", "young"),
            (connection(5, Some(2), true), "forget", "forget"),
        ] {
            assert_eq!((of(connection, Which::Grown), of(connection, Which::All)), (grown, all), "{connection:?}");
        }
    }
}

//! The driver of the maps: elements in batches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use bowline_bpf::abi::{self, Endpoint, EndpointKey, Frontend, FrontendKey, LiveKey};
use bowline_dataplane::objects::sockets::{SocketKey, SocketValue};
use bowline_model::Delta;
use std::os::fd::AsFd;

use super::hooks::{self, BpfError};
use crate::reconcile::{ApplyError, Driver, Failure, Report};
use crate::sys::bpf::Elements;

/// Elements in one call.
const BATCH: usize = 8192;

/// Bytes of the value of the map of live endpoints.
pub(super) const LIVE: usize = 4;

/// One map.
#[derive(Debug)]
pub(super) struct Table {
    map: MapData,
    key_bytes: usize,
    value_bytes: usize,
}

impl Table {
    pub(super) fn open(directory: &Path, name: &str, key_bytes: usize, value_bytes: usize) -> Result<Table, BpfError> {
        let map = MapData::from_pin(directory.join(name)).map_err(|error| BpfError::Load { reason: format!("map {name}: {error}") })?;
        Ok(Table::of(map, key_bytes, value_bytes))
    }

    pub(super) fn of(map: MapData, key_bytes: usize, value_bytes: usize) -> Table {
        Table { map, key_bytes, value_bytes }
    }

    /// Elements that it has room for.
    pub(super) fn room(&self) -> u32 {
        self.map.info().map_or(0, |info| info.max_entries())
    }

    pub(super) fn elements(&self) -> Elements<'_> {
        Elements { map: self.map.fd().as_fd(), key_bytes: self.key_bytes, value_bytes: self.value_bytes }
    }
}

/// Maps with the places of their pins: who holds them can pin them again, so that the next agent finds what they know.
#[derive(Debug)]
pub(super) struct Pins(Vec<(PathBuf, MapData)>);

impl Pins {
    /// Opens maps by their pins.
    pub(super) fn open(directory: &Path, names: &[&str]) -> Result<Pins, BpfError> {
        let open = |name: &&str| {
            let path = directory.join(name);
            let map =
                MapData::from_pin(&path).map_err(|error| BpfError::Load { reason: format!("map {name}: {}", hooks::chain(&error)) })?;
            Ok((path, map))
        };
        names.iter().map(open).collect::<Result<Vec<_>, BpfError>>().map(Pins)
    }

    /// Pins again those whose pins someone removed: the programs have them all the while, but the next agent would not. Says whether any was.
    pub(super) fn keep(&self) -> Result<bool, BpfError> {
        let mut gone = false;
        for (path, map) in self.0.iter().filter(|(path, _)| path.symlink_metadata().is_err()) {
            gone = true;
            path.parent().map_or(Ok(()), |directory| fs::create_dir_all(directory).map_err(hooks::at(directory)))?;
            map.pin(path).map_err(|error| BpfError::File { path: path.clone(), source: io::Error::other(error) })?;
        }
        Ok(gone)
    }
}

/// Holds the maps of the programs at the socket hooks.
#[derive(Debug)]
pub struct SocketDriver {
    frontends: Table,
    endpoints: Table,
    live: Table,
    /// Endpoints that should be in their maps and do not fit: no frontend may point at them.
    missing: BTreeSet<SocketKey>,
    /// Frontends that are left to the rules, since they or endpoints of theirs do not fit.
    left_out: BTreeSet<FrontendKey>,
    /// How often something did not fit.
    refused: u64,
}

/// Room in the maps that the programs fill themselves.
#[derive(Debug)]
pub struct Fill {
    peers: Table,
    flows: Table,
}

impl Fill {
    pub(super) fn open(directory: &Path) -> Result<Fill, BpfError> {
        let flow_bytes = size_of::<u64>() + abi::FRONTEND_KEY + size_of::<u32>();
        Ok(Fill {
            peers: Table::open(directory, "peers", abi::PEER_KEY, abi::ENDPOINT)?,
            flows: Table::open(directory, "flows", flow_bytes, abi::ENDPOINT)?,
        })
    }

    /// The name of each map, its elements and how many it has room for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self) -> io::Result<[(&'static str, usize, u32); 2]> {
        let count = |table: &Table| {
            let mut elements = 0;
            table.elements().read(|_, _| elements += 1).map(|()| elements)
        };
        Ok([("peers", count(&self.peers)?, self.peers.room()), ("flows", count(&self.flows)?, self.flows.room())])
    }
}

/// What is said of an element that does not fit.
const FULL: &str = "the map is full; the packet filter's rules serve what it lacks";
/// And of a frontend that points at such.
const WAITS: &str = "endpoints of it do not fit; the packet filter's rules serve it";

/// Whether a failure of the driver of the maps says that something does not fit.
pub fn is_full(error: &str) -> bool {
    error == FULL || error == WAITS
}

/// Elements of one map that go together, in the order of their keys.
#[derive(Debug, Default)]
struct Batch<'a> {
    keys: Vec<u8>,
    values: Vec<u8>,
    of: Vec<&'a SocketKey>,
}

impl SocketDriver {
    pub(super) fn open(directory: &Path) -> Result<SocketDriver, BpfError> {
        Ok(SocketDriver {
            frontends: Table::open(directory, "frontends", abi::FRONTEND_KEY, abi::FRONTEND)?,
            endpoints: Table::open(directory, "endpoints", abi::ENDPOINT_KEY, abi::ENDPOINT)?,
            live: Table::open(directory, "live", abi::LIVE_KEY, LIVE)?,
            missing: BTreeSet::new(),
            left_out: BTreeSet::new(),
            refused: 0,
        })
    }

    /// Room in the maps of frontends, of endpoints and of those of UDP.
    pub fn room(&self) -> [(&'static str, u32); 3] {
        [("frontends", self.frontends.room()), ("endpoints", self.endpoints.room()), ("live", self.live.room())]
    }

    /// How many frontends are left to the rules because something does not fit, how many endpoints do not, and how often that was said.
    pub fn left_out(&self) -> (usize, usize, u64) {
        (self.left_out.len(), self.missing.len(), self.refused)
    }

    /// Whether endpoints of a frontend's list are missing.
    fn lacks(&self, frontend: &FrontendKey, value: &SocketValue) -> bool {
        let SocketValue::Frontend(Frontend { generation, .. }) = value else { return false };
        let place = |index| SocketKey::Endpoint(EndpointKey { frontend: *frontend, generation: *generation, index });
        let live = |address: IpAddr, port| SocketKey::Live(LiveKey { frontend: *frontend, endpoint: Endpoint { address, port } });
        let (first, last) = (live(Ipv4Addr::UNSPECIFIED.into(), 0), live(Ipv6Addr::from([0xff; 16]).into(), u16::MAX));
        self.missing.range(place(0)..=place(u32::MAX)).next().is_some() || self.missing.range(first..=last).next().is_some()
    }

    /// Takes frontends out of the map and of what is to be set whose endpoints do not fit: the rules serve them, with all of their endpoints.
    fn leave_out(&mut self, delta: &Delta<SocketKey, SocketValue>, report: &mut Report<SocketKey>) {
        for (key, value) in &delta.set {
            let SocketKey::Frontend(frontend) = key else { continue };
            if !self.missing.is_empty() && self.lacks(frontend, value) {
                // Whatever it pointed at before goes.
                let outcome = self.frontends.elements().delete(&frontend.to_bytes());
                let gone = outcome.map_err(|(_, error)| error).or_else(|error| match error.raw_os_error() {
                    Some(libc::ENOENT) => Ok(()),
                    _ => Err(error),
                });
                let text = gone.map_or_else(|error| error.to_string(), |()| WAITS.to_owned());
                report.failed.push(Failure { key: *key, error: text, retryable: true });
                self.left_out.insert(*frontend);
            }
        }
    }

    /// Notes what fits now, and what does not.
    fn note(&mut self, done: &[&SocketKey], failed: &[Failure<SocketKey>]) {
        if !self.missing.is_empty() || !self.left_out.is_empty() {
            for key in done {
                self.forget(key);
            }
        }
        for failure in failed.iter().filter(|failure| failure.error == FULL) {
            self.refused += 1;
            match failure.key {
                SocketKey::Frontend(frontend) => drop(self.left_out.insert(frontend)),
                SocketKey::Endpoint(_) | SocketKey::Live(_) => drop(self.missing.insert(failure.key)),
            }
        }
    }

    fn forget(&mut self, key: &SocketKey) {
        match key {
            SocketKey::Frontend(frontend) => drop(self.left_out.remove(frontend)),
            SocketKey::Endpoint(_) | SocketKey::Live(_) => drop(self.missing.remove(key)),
        }
    }

    /// The maps in the order in which what is new is written: what is pointed at before what points.
    fn tables(&self) -> [&Table; 3] {
        [&self.endpoints, &self.live, &self.frontends]
    }

    fn set(&mut self, delta: &Delta<SocketKey, SocketValue>, report: &mut Report<SocketKey>) {
        // What is pointed at before what points.
        self.set_of(delta, report, |key| !matches!(key, SocketKey::Frontend(_)));
        let before = report.failed.len();
        self.leave_out(delta, report);
        let waiting: BTreeSet<SocketKey> = report.failed.iter().skip(before).map(|failure| failure.key).collect();
        self.set_of(delta, report, |key| matches!(key, SocketKey::Frontend(_)) && !waiting.contains(key));
    }

    fn set_of(&mut self, delta: &Delta<SocketKey, SocketValue>, report: &mut Report<SocketKey>, chosen: impl Fn(&SocketKey) -> bool) {
        let mut batches: [Batch<'_>; 3] = Default::default();
        let before = report.failed.len();
        for (key, value) in delta.set.iter().filter(|(key, _)| chosen(key)) {
            if let Some(batch) = batches.get_mut(place(key)) {
                batch.keys.extend(key.to_bytes());
                batch.values.extend(value.to_bytes());
                batch.of.push(key);
            }
        }
        for (table, batch) in self.tables().into_iter().zip(&batches) {
            let mut done = 0;
            while done < batch.of.len() {
                let end = (done + BATCH).min(batch.of.len());
                let keys = batch.keys.get(done * table.key_bytes..end * table.key_bytes).unwrap_or_default();
                let values = batch.values.get(done * table.value_bytes..end * table.value_bytes).unwrap_or_default();
                done = match table.elements().update(keys, values) {
                    Ok(()) => end,
                    Err((written, error)) => {
                        let at = done + written.min(end - done - 1);
                        report.failed.extend(batch.of.get(at).map(|key| failure(key, &error)));
                        at + 1
                    }
                };
            }
        }
        let failed = report.failed.get(before..).unwrap_or_default();
        let done: Vec<&SocketKey> = batches.iter().flat_map(|batch| batch.of.iter().copied()).collect();
        self.note(&done, failed);
    }

    fn remove<'a>(&self, delta: &'a Delta<SocketKey, SocketValue>, report: &mut Report<SocketKey>) {
        let mut batches: [Batch<'a>; 3] = Default::default();
        for key in &delta.remove {
            if let Some(batch) = batches.get_mut(place(key)) {
                batch.keys.extend(key.to_bytes());
                batch.of.push(key);
            }
        }
        for (table, batch) in self.tables().into_iter().zip(&batches).rev() {
            let mut done = 0;
            while done < batch.of.len() {
                let end = (done + BATCH).min(batch.of.len());
                let keys = batch.keys.get(done * table.key_bytes..end * table.key_bytes).unwrap_or_default();
                done = match table.elements().delete(keys) {
                    Ok(()) => end,
                    Err((removed, error)) => {
                        let at = done + removed.min(end - done - 1);
                        if error.raw_os_error() != Some(libc::ENOENT) {
                            report.failed.extend(batch.of.get(at).map(|key| failure(key, &error)));
                        }
                        at + 1
                    }
                };
            }
        }
    }
}

fn place(key: &SocketKey) -> usize {
    match key {
        SocketKey::Endpoint(_) => 0,
        SocketKey::Live(_) => 1,
        SocketKey::Frontend(_) => 2,
    }
}

fn failure(key: &SocketKey, error: &io::Error) -> Failure<SocketKey> {
    let full = error.raw_os_error() == Some(libc::E2BIG);
    let text = if full { FULL.to_owned() } else { error.to_string() };
    Failure { key: *key, error: text, retryable: true }
}

impl Driver for SocketDriver {
    type Key = SocketKey;
    type Value = SocketValue;
    type Seen = SocketValue;

    fn read_owned(&mut self, _wanted: &BTreeMap<SocketKey, SocketValue>) -> Result<BTreeMap<SocketKey, SocketValue>, ApplyError> {
        let mut seen = BTreeMap::new();
        let read = (|| {
            self.frontends.elements().read(|key, value| {
                let found = abi::FrontendKey::from_bytes(key).zip(abi::Frontend::from_bytes(value));
                seen.extend(found.map(|(key, value)| (SocketKey::Frontend(key), SocketValue::Frontend(value))));
            })?;
            self.endpoints.elements().read(|key, value| {
                let found = abi::EndpointKey::from_bytes(key).zip(abi::Endpoint::from_bytes(value));
                seen.extend(found.map(|(key, value)| (SocketKey::Endpoint(key), SocketValue::Endpoint(value))));
            })?;
            self.live
                .elements()
                .read(|key, _| seen.extend(abi::LiveKey::from_bytes(key).map(|key| (SocketKey::Live(key), SocketValue::Live))))
        })();
        read.map_err(|error: io::Error| ApplyError::Read { driver: "sockets", retryable: true, source: error.into() })?;
        Ok(seen)
    }

    fn same(seen: &SocketValue, want: &SocketValue) -> bool {
        seen == want
    }

    fn apply(&mut self, delta: &Delta<SocketKey, SocketValue>) -> Report<SocketKey> {
        let mut report = Report::default();
        self.set(delta, &mut report);
        self.remove(delta, &mut report);
        delta.remove.iter().for_each(|key| self.forget(key));
        report
    }
}

//! The driver of the maps: elements in batches.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use bowline_bpf::abi;
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
        })
    }

    /// The maps in the order in which what is new is written: what is pointed at before what points.
    fn tables(&self) -> [&Table; 3] {
        [&self.endpoints, &self.live, &self.frontends]
    }

    fn set<'a>(&self, delta: &'a Delta<SocketKey, SocketValue>, report: &mut Report<SocketKey>) {
        let mut batches: [Batch<'a>; 3] = Default::default();
        for (key, value) in &delta.set {
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
    let text = if full { "the map is full; the packet filter's rules serve what it lacks".to_owned() } else { error.to_string() };
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
        report
    }
}

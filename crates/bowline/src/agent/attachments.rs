//! Which containers hold which addresses, on disk: one file an attachment, so that a crash at any line leaks nothing.
//!
//! Invariant: a record is on disk before anything of it is in the kernel, and leaves the disk after the kernel has let go of it; that of a pod once
//! its addresses have rested, so that they do so after a restart as well.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bowline_model::intent::pods::PodIntent;
use serde::{Deserialize, Serialize};

/// What the file of an attachment that is gone ends in.
const RELEASED: &str = "released";

/// One attachment: a container's interface and what it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Name of the network in the runtime's configuration.
    pub(crate) network: String,
    /// The runtime's id of the container.
    pub(crate) container_id: String,
    /// Interface name in the container.
    pub(crate) ifname: String,
    /// The pod's UID, where the runtime said it.
    pub(crate) pod_uid: Option<String>,
    /// Path of the namespace as the runtime calls it, for CNI results.
    pub(crate) netns: String,
    /// MTU that the pod was given, in bytes.
    pub(crate) mtu_bytes: u32,
    /// What the dataplane knows of it.
    pub(crate) intent: PodIntent,
}

/// What a directory of records holds.
pub(crate) struct Loaded {
    /// The records that can be read.
    pub(crate) records: Vec<Record>,
    /// Those of attachments that are gone, whose addresses may not have rested.
    pub(crate) released: Vec<Record>,
    /// The files that cannot, with the reason.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

/// The directory of records.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    /// Opens (and makes) `state_dir/attachments`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Records> {
        let directory = state_dir.join("attachments");
        fs::create_dir_all(&directory)?;
        Ok(Records { directory })
    }

    /// The namespaces of the records, for whoever only looks: changes nothing on the disk, where a record may be on its way.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let files = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
        let records = files.filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| fs::read(path).ok());
        records.filter_map(|bytes| serde_json::from_slice::<Record>(&bytes).ok()).map(|record| record.netns).collect()
    }

    /// Everything that is written down.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub(crate) fn load(&self) -> io::Result<Loaded> {
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        let released = self.released()?.into_iter().map(|(_, record)| record).collect();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == RELEASED) {
                continue;
            }
            if path.extension().is_none_or(|e| e != "json") {
                // A temporary file of a write that a crash cut short: the record was never in force.
                let _ = fs::remove_file(&path);
                continue;
            }
            match fs::read(&path).map_err(|e| e.to_string()).and_then(|b| serde_json::from_slice(&b).map_err(|e| e.to_string())) {
                Ok(record) => records.push(record),
                Err(reason) => unreadable.push((path, reason)),
            }
        }
        Ok(Loaded { records, released, unreadable })
    }

    /// The records of attachments that are gone, with their files.
    fn released(&self) -> io::Result<Vec<(PathBuf, Record)>> {
        let mut released = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != RELEASED) {
                continue;
            }
            match fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
                Some(record) => released.push((path, record)),
                None => fs::remove_file(&path)?,
            }
        }
        Ok(released)
    }

    /// Writes a record by temporary file, fsync and rename.
    ///
    /// # Errors
    /// When the disk does not take it; nothing of the record is then in force.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.intent.host_ifname);
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&self.directory)?.sync_all()
    }

    /// Takes a record out of force, and keeps it until its addresses have rested; an absent one is fine.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn release(&self, host_ifname: &str) -> io::Result<()> {
        let path = self.path(host_ifname);
        match fs::rename(&path, path.with_extension(RELEASED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.directory)?.sync_all(),
        }
    }

    /// Removes the records of attachments that are gone and do not rest.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn forget_released(&self, rests: impl Fn(&Record) -> bool) -> io::Result<()> {
        self.released()?.into_iter().filter(|(_, record)| !rests(record)).try_for_each(|(path, _)| fs::remove_file(path))
    }

    /// Removes a record; an absent one is fine.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn remove(&self, host_ifname: &str) -> io::Result<()> {
        match fs::remove_file(self.path(host_ifname)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(&self.directory)?.sync_all(),
        }
    }

    /// Interface names are our own hashes, so they are safe in a path.
    fn path(&self, host_ifname: &str) -> PathBuf {
        self.directory.join(format!("{host_ifname}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_model::{Dual, MacAddr};

    fn record(host_ifname: &str) -> Record {
        Record {
            network: "bowline".into(),
            container_id: "c1".into(),
            ifname: "eth0".into(),
            pod_uid: None,
            netns: "/run/netns/c1".into(),
            mtu_bytes: 1450,
            intent: PodIntent {
                pod: None,
                host_ifname: host_ifname.into(),
                mac: MacAddr([2, 0, 0, 0, 0, 1]),
                host_mac: MacAddr([2, 0, 0, 0, 0, 2]),
                ips: Dual::first_of(["10.42.0.5".parse().unwrap()]),
                host_ports: Vec::new(),
            },
        }
    }

    #[test]
    fn what_is_released_is_known_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        for name in ["bwl1", "bwl2", "bwl3"] {
            records.write(&record(name)).unwrap();
        }
        for name in ["bwl2", "bwl3", "bwl9"] {
            records.release(name).unwrap();
        }
        fs::write(dir.path().join("attachments/bwl4.released"), "{").unwrap();
        let mut loaded = records.load().unwrap();
        loaded.released.sort_by(|a, b| a.intent.host_ifname.cmp(&b.intent.host_ifname));
        assert_eq!((loaded.records, loaded.released), (vec![record("bwl1")], vec![record("bwl2"), record("bwl3")]));
        assert!(loaded.unreadable.is_empty() && !dir.path().join("attachments/bwl4.released").exists());
        assert_eq!(records.namespaces().len(), 1, "who looks for pods finds those that are there");
        records.forget_released(|record| &*record.intent.host_ifname == "bwl3").unwrap();
        assert_eq!(records.load().unwrap().released, [record("bwl3")]);
    }

    #[test]
    fn records_outlive_the_agent_and_half_written_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.write(&record("bwl1")).unwrap();
        records.write(&record("bwl2")).unwrap();
        fs::write(dir.path().join("attachments/bwl3.tmp"), "{").unwrap();
        fs::write(dir.path().join("attachments/bwl4.json"), "{").unwrap();
        records.remove("bwl2").unwrap();
        records.remove("bwl2").unwrap();
        let loaded = Records::open(dir.path()).unwrap().load().unwrap();
        assert_eq!(loaded.records, [record("bwl1")]);
        assert_eq!(loaded.unreadable.len(), 1);
        assert!(!dir.path().join("attachments/bwl3.tmp").exists());
    }
}

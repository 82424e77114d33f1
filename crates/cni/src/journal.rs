//! Deletions that the agent was not there to take.
//!
//! One file for each, `STATEDIR/cni/del/CONTAINER@IFNAME.json`, written by the plugin (temporary file, fsync, rename,
//! fsync of the directory) and removed once the deletion was carried out. `@` stands in no container id, so two
//! attachments never share a file.
//!
//! The agent replays the journal before it listens, once more right after (before it takes the first request), and
//! with each collection, in case it was too slow for a plugin that journalled instead of waiting; the
//! plugin knocks once more after writing, and settles the entry of an attachment before it adds that attachment
//! anew. So no entry is overlooked, and none outlives the pod that it speaks of to hit the next one.
//!
//! Invariant: a file name is made of checked parts only, and an entry whose content does not fit its name is refused.
#![allow(clippy::disallowed_methods, reason = "the age of an abandoned temporary file is told by the clock")]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::env::{check_container_id, check_ifname};

/// A temporary file older than this belongs to a plugin that was killed.
const ABANDONED: Duration = Duration::from_secs(600);

/// A deletion to be carried out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the network.
    pub network: String,
    /// The container.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
}

/// What the journal holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// The deletions, by file name.
    pub entries: Vec<Entry>,
    /// Files that are no entries; left where they are for someone to look at.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file operation failed.
    #[error("journal of deletions: cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The names in the entry are not allowed.
    #[error("journal of deletions: {name:?} is no name of a container or interface")]
    BadName {
        /// The name.
        name: String,
    },
}

/// The journal's directory under the state directory.
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("cni").join("del")
}

/// Writes the entry down; when this returns, it survives a power cut.
///
/// # Errors
/// When a name is not allowed or the disk fails; nothing half-written is left under an entry's name.
pub fn write(state_dir: &Path, entry: &Entry) -> Result<(), JournalError> {
    let name = file_name(&entry.container_id, &entry.ifname)?;
    let dir = directory(state_dir);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed("create", &dir))?;
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = write_synced(&temporary, entry).map_err(failed("write", &temporary));
    let place = dir.join(&name);
    let renamed = written.and_then(|()| fs::rename(&temporary, &place).map_err(failed("rename to", &place)));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary); // the first error is the one to report
    }
    renamed.and_then(|()| sync_directory(&dir))
}

fn write_synced(path: &Path, entry: &Entry) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(entry)?)?;
    file.sync_all()
}

/// Every entry there is. Temporary files of plugins that were killed are cleared away.
///
/// # Errors
/// When the directory cannot be read; that it does not exist is an empty journal.
pub fn list(state_dir: &Path) -> Result<Listing, JournalError> {
    let dir = directory(state_dir);
    let mut listing = Listing::default();
    let files = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        other => other.map_err(failed("read", &dir))?,
    };
    for file in files {
        let path = file.map_err(failed("read", &dir))?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.starts_with('.') {
            remove_if_abandoned(&path);
            continue;
        }
        match read_entry(&path, name) {
            Ok(entry) => listing.entries.push(entry),
            // The plugin settled it between the listing and the reading.
            Err(None) => {}
            Err(Some(why)) => listing.unreadable.push((path, why)),
        }
    }
    listing.entries.sort();
    Ok(listing)
}

fn read_entry(path: &Path, name: &str) -> Result<Entry, Option<String>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(None),
        other => other.map_err(|error| Some(error.to_string()))?,
    };
    let entry: Entry = serde_json::from_slice(&bytes).map_err(|error| Some(error.to_string()))?;
    let own = file_name(&entry.container_id, &entry.ifname).map_err(|e| Some(e.to_string()))?;
    if own == name { Ok(entry) } else { Err(Some(format!("its content belongs into {own}"))) }
}

fn remove_if_abandoned(path: &Path) {
    let age = fs::metadata(path).and_then(|meta| meta.modified());
    if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED)) {
        let _ = fs::remove_file(path); // a leftover is harmless; the next listing tries again
    }
}

/// Whether the attachment's deletion is still to be carried out.
///
/// # Errors
/// When a name is not allowed or the disk fails.
pub fn contains(state_dir: &Path, container_id: &str, ifname: &str) -> Result<bool, JournalError> {
    let path = directory(state_dir).join(file_name(container_id, ifname)?);
    path.try_exists().map_err(failed("look at", &path))
}

/// Strikes the entry out; that there is none is a success.
///
/// # Errors
/// When a name is not allowed or the disk fails.
pub fn remove(state_dir: &Path, container_id: &str, ifname: &str) -> Result<(), JournalError> {
    let dir = directory(state_dir);
    let path = dir.join(file_name(container_id, ifname)?);
    match fs::remove_file(&path) {
        Ok(()) => sync_directory(&dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed("remove", &path)(source)),
    }
}

fn file_name(container_id: &str, ifname: &str) -> Result<String, JournalError> {
    let bad = |name: &str| JournalError::BadName { name: name.to_owned() };
    check_container_id(container_id).map_err(|_| bad(container_id))?;
    check_ifname(ifname).map_err(|_| bad(ifname))?;
    let mut name = format!("{container_id}@");
    // An interface name may have any byte that the kernel takes; `%` is not among those allowed here.
    for byte in ifname.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'@') {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02x}"); // writing to a string cannot fail
        }
    }
    name.push_str(".json");
    Ok(name)
}

fn sync_directory(dir: &Path) -> Result<(), JournalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { action, path, source }
}

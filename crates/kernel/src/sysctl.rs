//! Sysctls below `/proc/sys/net`, which shows each thread the values of its own network namespace.
//!
//! Keys are paths with slashes (`net/ipv4/conf/eth0/rp_filter`), since interface names may hold dots. Values are without the newline.
//!
//! A container's own `/proc/sys` is mounted read-only; there the machine's is mounted at another place, which [`use_root`] names. It shows
//! the values of the calling thread's namespace all the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use thiserror::Error;

use crate::netns::{NetNs, NetNsError};

/// Why a sysctl could not be read or written.
#[derive(Debug, Error)]
pub enum SysctlError {
    /// The key is not one of the network's, or tries to leave the directory.
    #[error("`{key}` is no sysctl of the network: a path like net/ipv4/ip_forward is wanted")]
    Key {
        /// What was asked for.
        key: String,
    },
    /// The kernel has no such key here.
    #[error("the kernel has no sysctl {key}: its interface or the feature is not there")]
    Absent {
        /// What was asked for.
        key: String,
    },
    /// Reading failed.
    #[error("cannot read sysctl {key}: {source}")]
    Read {
        /// What was asked for.
        key: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot set sysctl {key} to {value}: {source}; is /proc/sys mounted read-only? (in a container, set procSys)")]
    Write {
        /// What was to be set.
        key: String,
        /// To what.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

impl SysctlError {
    /// Whether the same call may succeed later: an interface may yet come.
    pub fn may_retry(&self) -> bool {
        match self {
            SysctlError::Absent { .. } => true,
            SysctlError::Key { .. } | SysctlError::Read { .. } | SysctlError::Write { .. } => false,
            SysctlError::Namespace(error) => error.may_retry(),
        }
    }
}

static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// From now on the directory in place of `/proc/sys`. Only the first call counts: it belongs at the start of a process.
pub fn use_root(directory: &Path) {
    let _ = ROOT.set(directory.to_owned());
}

/// The value in the calling thread's namespace; none if the kernel has no such key.
///
/// # Errors
/// If the key is not below `net/` or cannot be read.
pub fn read(key: &str) -> Result<Option<String>, SysctlError> {
    match fs::read_to_string(path_of(key)?) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SysctlError::Read { key: key.to_owned(), source }),
    }
}

/// Sets the value in the calling thread's namespace.
///
/// # Errors
/// If the key is not below `net/`, is absent, or is refused.
pub fn write(key: &str, value: &str) -> Result<(), SysctlError> {
    fs::write(path_of(key)?, value).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            return SysctlError::Absent { key: key.to_owned() };
        }
        SysctlError::Write { key: key.to_owned(), value: value.to_owned(), source }
    })
}

/// Sets the value unless it is already so; says whether it wrote.
///
/// # Errors
/// As [`write`] and [`read`].
pub fn ensure(key: &str, value: &str) -> Result<bool, SysctlError> {
    if read(key)?.as_deref() == Some(value) {
        return Ok(false);
    }
    write(key, value).map(|()| true)
}

/// As [`read`], in another namespace.
///
/// # Errors
/// As [`read`], and if the namespace cannot be entered.
pub fn read_in(ns: &NetNs, key: &str) -> Result<Option<String>, SysctlError> {
    ns.run(|| read(key))?
}

/// As [`write`], in another namespace.
///
/// # Errors
/// As [`write`], and if the namespace cannot be entered.
pub fn write_in(ns: &NetNs, key: &str, value: &str) -> Result<(), SysctlError> {
    ns.run(|| write(key, value))?
}

fn path_of(key: &str) -> Result<PathBuf, SysctlError> {
    let sane = key.starts_with("net/") && key.split('/').all(|part| !matches!(part, "" | "." | "..")) && !key.contains('\0');
    if !sane {
        return Err(SysctlError::Key { key: key.to_owned() });
    }
    Ok(ROOT.get().map_or(Path::new("/proc/sys"), PathBuf::as_path).join(key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn keys_outside_the_network_are_refused() {
        for key in ["kernel/panic", "net/../kernel/panic", "/net/ipv4/ip_forward", "net//x", "net/ipv4/conf/./x"] {
            assert!(matches!(read(key), Err(SysctlError::Key { .. })), "{key}");
        }
    }

    #[test]
    fn each_namespace_has_its_own_value() {
        let (Some(a), Some(b)) = (crate::netns::testing::fresh(), crate::netns::testing::fresh()) else { return };
        write_in(&a, "net/ipv4/ip_forward", "1").unwrap();
        write_in(&b, "net/ipv4/ip_forward", "0").unwrap();
        assert_eq!(read_in(&a, "net/ipv4/ip_forward").unwrap().unwrap(), "1");
        assert_eq!(read_in(&b, "net/ipv4/ip_forward").unwrap().unwrap(), "0");
        assert!(!a.run(|| ensure("net/ipv4/ip_forward", "1")).unwrap().unwrap());
    }

    #[test]
    fn an_absent_key_is_told_from_a_refused_one() {
        let Some(ns) = crate::netns::testing::fresh() else { return };
        assert_eq!(read_in(&ns, "net/ipv4/conf/nosuch0/rp_filter").unwrap(), None);
        assert!(write_in(&ns, "net/ipv4/conf/nosuch0/rp_filter", "0").unwrap_err().may_retry());
        assert!(!write_in(&ns, "net/ipv4/ip_forward", "many").unwrap_err().may_retry());
    }
}

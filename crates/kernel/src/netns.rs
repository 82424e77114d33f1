//! Network namespaces by descriptor.
//!
//! Invariant: the thread that calls never changes its namespace; whatever must run inside runs on a thread of its own that enters with
//! setns(2) and ends. A socket keeps the namespace in which it was opened. Reference: network_namespaces(7), setns(2).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

/// Why a namespace could not be had or entered.
#[derive(Debug, Error)]
pub enum NetNsError {
    /// The file that stands for it cannot be opened.
    #[error("cannot open network namespace {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The descriptor cannot be looked at.
    #[error("cannot read the identity of a network namespace: {source}")]
    Stat {
        /// What the kernel said.
        source: io::Error,
    },
    /// setns(2) was refused.
    #[error("cannot enter network namespace: {source}; CAP_SYS_ADMIN is needed, and the descriptor must be one of a network namespace")]
    Enter {
        /// What the kernel said.
        source: io::Error,
    },
    /// unshare(2) was refused.
    #[error("cannot make a network namespace: {source}; CAP_SYS_ADMIN is needed")]
    Create {
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread for a network namespace: {source}")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
}

impl NetNsError {
    /// Whether the same call may succeed later without anything being changed by people.
    pub fn may_retry(&self) -> bool {
        match self {
            NetNsError::Thread { .. } => true,
            NetNsError::Open { .. } | NetNsError::Stat { .. } | NetNsError::Enter { .. } | NetNsError::Create { .. } => false,
        }
    }
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

impl NetNs {
    /// The calling thread's.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn current() -> Result<NetNs, NetNsError> {
        NetNs::open("/proc/thread-self/ns/net")
    }

    /// The one that `path` stands for: a bind mount, or a file in `/proc/PID/ns`.
    ///
    /// # Errors
    /// If the file cannot be opened. What kind of file it is shows when it is entered.
    pub fn open(path: impl AsRef<Path>) -> Result<NetNs, NetNsError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| NetNsError::Open { path: path.to_owned(), source })?;
        Ok(NetNs { fd: file.into() })
    }

    /// The one of a process's main thread.
    ///
    /// # Errors
    /// If there is no such process or it may not be looked at.
    pub fn of_process(pid: u32) -> Result<NetNs, NetNsError> {
        NetNs::open(format!("/proc/{pid}/ns/net"))
    }

    /// The one behind a descriptor.
    pub fn from_fd(fd: OwnedFd) -> NetNs {
        NetNs { fd }
    }

    /// A new one that nobody else knows and that goes when the last descriptor and socket of it does.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN.
    pub fn anonymous() -> Result<NetNs, NetNsError> {
        on_own_thread(|| {
            crate::sys::unshare_network().map_err(|source| NetNsError::Create { source })?;
            NetNs::current()
        })?
    }

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another descriptor of the same namespace.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn try_clone(&self) -> Result<NetNs, NetNsError> {
        self.fd.try_clone().map(|fd| NetNs { fd }).map_err(|source| NetNsError::Stat { source })
    }

    /// The inode number: equal for two descriptors if, and only if, the namespace is the same.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub fn id(&self) -> Result<u64, NetNsError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|e| NetNsError::Stat { source: e.into() })?;
        Ok(stat.st_ino)
    }

    /// Runs `f` inside, on a thread of its own, and waits for it. A panic in `f` goes on in the caller.
    ///
    /// # Errors
    /// If no thread can be started or the namespace cannot be entered; `f` has not run then.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        on_own_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| NetNsError::Enter { source: e.into() })?;
            Ok(f())
        })?
    }
}

/// Runs `f` on a fresh thread: one that is in nobody's thread pool, so that what it does to itself ends with it.
fn on_own_thread<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f).map_err(|source| NetNsError::Thread { source })?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Namespaces for tests.
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::NetNs;

    /// A fresh namespace, or none with the reason printed where this process may not make one. In CI that is a failure.
    pub(crate) fn fresh() -> Option<NetNs> {
        match NetNs::anonymous() {
            Ok(ns) => Some(ns),
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "network namespaces are needed in CI: {error}");
                println!("skipped: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_calling_thread_stays_where_it_is() {
        let Some(ns) = testing::fresh() else { return };
        let before = NetNs::current().unwrap().id().unwrap();
        let inside = ns.run(|| NetNs::current().unwrap().id().unwrap()).unwrap();
        assert_eq!(inside, ns.id().unwrap());
        assert_ne!(inside, before);
        assert_eq!(NetNs::current().unwrap().id().unwrap(), before);
    }

    #[test]
    fn what_is_no_namespace_is_refused_with_a_reason() {
        let error = NetNs::open("/dev/null").unwrap().run(|| ()).unwrap_err();
        assert!(error.to_string().contains("cannot enter"), "{error}");
        let error = NetNs::open("/nonexistent/ns").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ns"), "{error}");
    }

    #[test]
    fn a_panic_inside_reaches_the_caller() {
        let Some(ns) = testing::fresh() else { return };
        let caught = std::panic::catch_unwind(|| ns.run(|| panic!("inside")));
        assert!(caught.is_err());
    }
}

//! What the kernel refuses, in words.

use std::io;

use thiserror::Error;

use super::socket::WireError;
use crate::netns::NetNsError;

/// Why a netlink operation failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel refused it.
    #[error("cannot {operation} {object}: {}{}", io::Error::from_raw_os_error(*errno), explanation(message))]
    Refused {
        /// What was to be done: `create`, `delete`, ...
        operation: &'static str,
        /// To what, in words.
        object: String,
        /// Its number for it.
        errno: i32,
        /// What it says beside the number, if anything.
        message: Option<String>,
    },
    /// The socket failed.
    #[error("cannot {operation} {object}: the netlink socket says: {source}")]
    Socket {
        /// What was to be done.
        operation: &'static str,
        /// To what, in words.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no link of that name.
    #[error("there is no link named `{name}` in this network namespace")]
    NoSuchLink {
        /// The name.
        name: String,
    },
    /// Something of that name or key is there and is not ours to change.
    #[error("{object} is there already and is not ours ({found}); it is left alone: remove it or choose another")]
    Foreign {
        /// What was wanted, in words.
        object: String,
        /// What is there, in words.
        found: String,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

fn explanation(message: &Option<String>) -> String {
    message.as_ref().map(|m| format!(" ({m})")).unwrap_or_default()
}

impl NetlinkError {
    pub(crate) fn from_wire(operation: &'static str, object: String, error: WireError) -> Self {
        match error {
            WireError::Socket(source) => NetlinkError::Socket { operation, object, source },
            WireError::Refused { errno, message } => NetlinkError::Refused { operation, object, errno, message },
        }
    }

    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { errno, .. } => Some(*errno),
            NetlinkError::Socket { source, .. } => source.raw_os_error(),
            NetlinkError::NoSuchLink { .. } => Some(libc::ENODEV),
            NetlinkError::Foreign { .. } => Some(libc::EEXIST),
            NetlinkError::Namespace(_) => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed by people: the kernel was short of something, or what it
    /// depends on (a link, its being up) may yet come.
    pub fn may_retry(&self) -> bool {
        match self {
            NetlinkError::Namespace(error) => error.may_retry(),
            NetlinkError::NoSuchLink { .. } => true,
            NetlinkError::Foreign { .. } => false,
            NetlinkError::Refused { .. } | NetlinkError::Socket { .. } => matches!(
                self.errno(),
                Some(
                    libc::EAGAIN
                        | libc::EINTR
                        | libc::ENOBUFS
                        | libc::ENOMEM
                        | libc::EBUSY
                        | libc::ENODEV
                        | libc::ENETDOWN
                        | libc::ENETUNREACH
                        | libc::EHOSTUNREACH
                )
            ),
        }
    }
}

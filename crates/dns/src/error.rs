//! What can go wrong before the server serves.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::corefile::CorefileError;

/// Why the DNS server stopped, or never started.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The Corefile cannot be read.
    #[error("cannot read the Corefile {path}: {source}; name one with --conf")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The Corefile says something that cannot be done.
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}/{protocol} for {what}: {source}; free the port or choose another one in the Corefile")]
    Listen {
        /// What for: DNS, health, ready or metrics.
        what: &'static str,
        /// Transport protocol.
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// An interface named by `bind` has no address.
    #[error("cannot bind to {interface}: no interface of that name has an address; see `ip addr`")]
    Interface {
        /// Its name.
        interface: String,
    },
    /// Questions come back to where they were sent from.
    #[error(
        "a forwarding loop for zone {zone}: a question that was sent upstream came back here; point `forward` at a \
         server that does not ask this one (often /etc/resolv.conf holds 127.0.0.53 or the cluster's own DNS)"
    )]
    Loop {
        /// The zone of the server block.
        zone: String,
    },
    /// The feed's socket cannot be made.
    #[error("cannot make the feed socket {path}: {source}")]
    Feed {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {source}")]
    Signals {
        /// Why.
        source: io::Error,
    },
}

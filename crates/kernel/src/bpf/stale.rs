//! Connected datagram sockets whose endpoint is no longer one of its service.
//!
//! What was translated when the socket was connected stays so, and nobody tells the program that its peer has gone. Such a socket is
//! destroyed: the program gets ECONNABORTED, connects again, and finds an endpoint that is there. Sockets that send without being connected
//! need none of this: they are translated with every datagram.

use std::path::Path;

use bowline_bpf::abi::{self, Endpoint, FrontendKey, LiveKey, PeerKey};
use bowline_model::{Family, Protocol};

use super::hooks::BpfError;
use super::maps::{LIVE, Table};
use crate::netns::NetNs;
use crate::sockdiag::{Connected, SockDiag, SockDiagError};

/// Looks through namespaces for such sockets.
#[derive(Debug)]
pub struct Sweeper {
    peers: Table,
    live: Table,
}

impl Sweeper {
    pub(super) fn open(directory: &Path) -> Result<Sweeper, BpfError> {
        Ok(Sweeper {
            peers: Table::open(directory, "peers", abi::PEER_KEY, abi::ENDPOINT)?,
            live: Table::open(directory, "live", abi::LIVE_KEY, LIVE)?,
        })
    }

    /// Destroys the stale sockets of a namespace; says how many there were.
    ///
    /// # Errors
    /// If the namespace cannot be entered or its sockets not be listed. One that cannot be destroyed is passed over: it may be gone.
    pub fn sweep(&self, namespace: &NetNs) -> Result<usize, SockDiagError> {
        let mut diag = SockDiag::open_in(namespace)?;
        let mut destroyed = 0;
        for family in Family::BOTH {
            for socket in diag.connected(family, Protocol::Udp)? {
                if self.is_stale(&socket) && diag.destroy(&socket).is_ok() {
                    destroyed += 1;
                }
            }
        }
        Ok(destroyed)
    }

    /// Whether the socket was translated, and its endpoint is not one of what it was translated from.
    fn is_stale(&self, socket: &Connected) -> bool {
        let endpoint = Endpoint { address: socket.peer.ip(), port: socket.peer.port() };
        let key = PeerKey { socket: socket.cookie, endpoint };
        // What cannot be read is left alone.
        let Ok(Some(value)) = self.peers.elements().get(&key.to_bytes()) else { return false };
        let Some(known_as) = Endpoint::from_bytes(&value) else { return false };
        let gone = |frontend| matches!(self.live.elements().get(&LiveKey { frontend, endpoint }.to_bytes()), Ok(None));
        // A loopback address that was translated was the node's.
        FrontendKey::asked(known_as.address, known_as.port, Protocol::Udp.number(), true).all(gone)
    }
}

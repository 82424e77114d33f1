//! Sockets of a namespace: listing connected ones and destroying single ones, by sock_diag(7).
//!
//! Invariant: a socket is destroyed by its addresses and its cookie, so that one that took its place in between is not hit.
//! Reference: uapi linux/inet_diag.h; SOCK_DESTROY since Linux 4.5 (CONFIG_INET_DIAG_DESTROY). Addresses and ports are in network order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bowline_model::{Family, Protocol};
use thiserror::Error;

use crate::netlink::socket::{Connection, WireError};
use crate::netns::{NetNs, NetNsError};
use crate::wire::{Message, Received, flags};

/// `NETLINK_SOCK_DIAG`.
const PROTOCOL: isize = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// The state of a connected socket, also of one for datagrams (`TCP_ESTABLISHED`), as a bit.
const CONNECTED: u32 = 1 << 1;
/// Bytes of `struct inet_diag_sockid`.
const ID: usize = 48;

/// Why sockets could not be listed or destroyed.
#[derive(Debug, Error)]
pub enum SockDiagError {
    /// The socket failed.
    #[error("cannot {operation}: the netlink socket says: {source}")]
    Socket {
        /// What was to be done.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {operation}: {}; does the kernel have CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY?", io::Error::from_raw_os_error(*errno))]
    Refused {
        /// What was to be done.
        operation: &'static str,
        /// Its number for it.
        errno: i32,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

impl SockDiagError {
    fn of(operation: &'static str) -> impl Fn(WireError) -> SockDiagError {
        move |error| match error {
            WireError::Socket(source) => SockDiagError::Socket { operation, source },
            WireError::Refused { errno, .. } => SockDiagError::Refused { operation, errno },
        }
    }
}

/// A connected socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Whom it is connected to; an IPv4 address also where the socket is an IPv6 one.
    pub peer: SocketAddr,
    /// The number that no other socket of the machine has.
    pub cookie: u64,
    family: u8,
    protocol: Protocol,
    id: [u8; ID],
}

/// A conversation with the kernel about the sockets of a namespace.
#[derive(Debug)]
pub struct SockDiag {
    connection: Connection,
}

impl SockDiag {
    /// Speaks of the sockets of a namespace.
    ///
    /// # Errors
    /// If it cannot be entered, or the kernel lacks sock_diag.
    pub fn open_in(namespace: &NetNs) -> Result<SockDiag, SockDiagError> {
        let opened = namespace.run(|| Connection::open(PROTOCOL))?;
        let connection = opened.map_err(|source| SockDiagError::Socket { operation: "list sockets", source })?;
        Ok(SockDiag { connection })
    }

    /// The sockets of a family (of the socket, which for an IPv6 one may have an IPv4 peer) that are connected.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn connected(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Connected>, SockDiagError> {
        let family = match family {
            Family::V4 => 2_u8,
            Family::V6 => 10,
        };
        let message = Message::new(SOCK_DIAG_BY_FAMILY, flags::REQUEST | flags::DUMP, &request(family, protocol, &[0; ID]));
        self.connection.ask(message, |answer| read(answer, protocol)).map_err(SockDiagError::of("list sockets"))
    }

    /// Destroys a socket: its owner's next call fails with ECONNABORTED.
    ///
    /// # Errors
    /// ENOENT if it is gone; EOPNOTSUPP where the kernel does not do it.
    pub fn destroy(&mut self, socket: &Connected) -> Result<(), SockDiagError> {
        let fixed = request(socket.family, socket.protocol, &socket.id);
        let message = Message::new(SOCK_DESTROY, flags::REQUEST | flags::ACK, &fixed);
        self.connection.execute(message).map_err(SockDiagError::of("destroy a socket"))
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: Protocol, id: &[u8; ID]) -> Vec<u8> {
    let mut bytes = vec![family, protocol.number(), 0, 0];
    bytes.extend(CONNECTED.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// The head of `struct inet_diag_msg`.
fn read(answer: &Received<'_>, protocol: Protocol) -> Option<Connected> {
    let family = *answer.payload.first()?;
    let id: [u8; ID] = answer.payload.get(4..4 + ID)?.try_into().ok()?;
    let (_, rest) = id.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (_source, rest) = rest.split_first_chunk::<16>()?;
    let (peer, rest) = rest.split_first_chunk::<16>()?;
    let (_interface, rest) = rest.split_first_chunk::<4>()?;
    let cookie = u64::from(u32::from_ne_bytes(*rest.first_chunk()?)) | u64::from(u32::from_ne_bytes(*rest.last_chunk()?)) << 32;
    let address = match family {
        2 => IpAddr::V4(Ipv4Addr::from(*peer.first_chunk::<4>()?)),
        _ => {
            let v6 = Ipv6Addr::from(*peer);
            v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
        }
    };
    Some(Connected { peer: SocketAddr::new(address, u16::from_be_bytes(*port)), cookie, family, protocol, id })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use std::net::UdpSocket;

    use super::*;
    use crate::netlink::Netlink;
    use crate::netns::testing::fresh;

    #[test]
    fn a_socket_is_found_by_its_peer_and_destroyed() {
        let Some(ns) = fresh() else { return };
        let (doomed, kept) = ns
            .run(|| {
                Netlink::open().unwrap().set_up("lo").unwrap();
                let connected = |port: u16| {
                    let socket = UdpSocket::bind("[::]:0").unwrap();
                    socket.connect(("127.0.0.1", port)).unwrap();
                    socket
                };
                (connected(1001), connected(1002))
            })
            .unwrap();
        let mut diag = SockDiag::open_in(&ns).unwrap();
        let found = diag.connected(Family::V6, Protocol::Udp).unwrap();
        assert_eq!(found.len(), 2);
        let target = found.iter().find(|socket| socket.peer == "127.0.0.1:1001".parse().unwrap()).unwrap();
        diag.destroy(target).unwrap();
        assert_eq!(doomed.take_error().unwrap().and_then(|e| e.raw_os_error()), Some(libc::ECONNABORTED));
        assert!(kept.take_error().unwrap().is_none());
        assert_eq!(diag.connected(Family::V6, Protocol::Udp).unwrap().len(), 1);
        assert!(diag.destroy(target).is_err(), "it is gone");
    }
}

//! Sockets of the server: made, and read and written in batches with the addresses that packets came to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

/// How long a read waits before its loop looks whether it is to stop.
const LOOK_UP: Duration = Duration::from_millis(200);

/// A UDP socket that shares its address with others of this process, and tells where packets came to.
pub(super) fn udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv4() {
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
    } else {
        socket.set_only_v6(true)?;
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
    }
    socket.set_read_timeout(Some(LOOK_UP))?;
    // A burst of questions must not be lost while one of them is looked up; more than the system allows is cut by it.
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listening TCP socket.
pub(super) fn tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// A packet's place in a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) length: usize,
    pub(super) client: SocketAddr,
    /// The address that it came to.
    pub(super) local: Option<IpAddr>,
}

/// Packets read at once.
const BATCH: usize = 32;
/// Longest question that is read; what is longer is no question.
const MAX_QUESTION_BYTES: usize = 4096;

/// Room for packets.
pub(super) struct Batch {
    buffers: Vec<Vec<u8>>,
    headers: MultiHeaders<SockaddrStorage>,
}

impl Batch {
    pub(super) fn new() -> Batch {
        let control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::in_pktinfo);
        Batch { buffers: vec![vec![0; MAX_QUESTION_BYTES]; BATCH], headers: MultiHeaders::preallocate(BATCH, Some(control)) }
    }

    /// Waits for packets and reads those that are there, into `packets`; the n-th is in the n-th buffer.
    pub(super) fn receive(&mut self, socket: RawFd, packets: &mut Vec<Option<Packet>>) -> io::Result<()> {
        packets.clear();
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let received = recvmmsg(socket, &mut self.headers, slices.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
        for message in received {
            let client = message.address.as_ref().and_then(to_socket_addr);
            let local = message.cmsgs().ok().and_then(|mut controls| controls.find_map(|control| local_of(&control)));
            let length = message.bytes;
            packets.push(client.map(|client| Packet { length, client, local }));
        }
        Ok(())
    }

    /// The bytes of the n-th packet.
    pub(super) fn bytes(&self, place: usize, length: usize) -> &[u8] {
        self.buffers.get(place).and_then(|buffer| buffer.get(..length)).unwrap_or_default()
    }
}

fn to_socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    let v6 = || {
        let address = address.as_sockaddr_in6()?;
        // The scope stays with it: an answer to a link-local address needs its link.
        Some(std::net::SocketAddrV6::new(address.ip(), address.port(), address.flowinfo(), address.scope_id()).into())
    };
    v4.or_else(v6)
}

fn local_of(control: &ControlMessageOwned) -> Option<IpAddr> {
    if let ControlMessageOwned::Ipv4PacketInfo(info) = control {
        return Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
    }
    if let ControlMessageOwned::Ipv6PacketInfo(info) = control {
        return Some(IpAddr::from(info.ipi6_addr.s6_addr));
    }
    None
}

/// Sends a reply from the address that the question came to, so that the client, and any NAT between, knows it again.
pub(super) fn send(socket: &impl AsRawFd, octets: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
    let slices = [IoSlice::new(octets)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let fd = socket.as_raw_fd();
    match (to, from) {
        (SocketAddr::V4(to), from) => {
            let spec = match from {
                Some(IpAddr::V4(from)) if !from.is_broadcast() && !from.is_multicast() => u32::from_ne_bytes(from.octets()),
                _ => 0,
            };
            let info = nix::libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: nix::libc::in_addr { s_addr: spec },
                ipi_addr: nix::libc::in_addr { s_addr: 0 },
            };
            sendmsg(fd, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&SockaddrIn::from(to)))?;
        }
        (SocketAddr::V6(to), from) => {
            let spec = match from {
                Some(IpAddr::V6(from)) if !from.is_multicast() => from.octets(),
                _ => [0; 16],
            };
            let info = nix::libc::in6_pktinfo { ipi6_addr: nix::libc::in6_addr { s6_addr: spec }, ipi6_ifindex: 0 };
            sendmsg(fd, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&SockaddrIn6::from(to)))?;
        }
    }
    Ok(())
}

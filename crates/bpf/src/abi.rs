//! Keys and values of the maps, to bytes and back. The C side is `c/abi.h`.
//!
//! Addresses are IPv6 ones, IPv4 mapped (RFC 4291 section 2.5.5.2). Addresses and ports are in network byte order, counts in the machine's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a [`FrontendKey`].
pub const FRONTEND_KEY: usize = 20;
/// Bytes of a [`Frontend`].
pub const FRONTEND: usize = 8;
/// Bytes of an [`EndpointKey`].
pub const ENDPOINT_KEY: usize = 28;
/// Bytes of an [`Endpoint`].
pub const ENDPOINT: usize = 20;
/// Bytes of a [`PeerKey`].
pub const PEER_KEY: usize = 32;
/// Bytes of a [`LiveKey`].
pub const LIVE_KEY: usize = 40;
/// Bytes of `struct carried_key`, which only the programs write.
pub const CARRIED_KEY: usize = 44;
/// Bytes of `struct way`, which is a part of others.
pub const WAY: usize = 28;
/// Bytes of `struct carried`.
pub const CARRIED: usize = 64;
/// Bytes of `struct opening`, which only the programs write.
pub const OPENING: usize = 96;
/// Bytes of `struct direct`, as this build has it.
pub const DIRECT: usize = 88;
/// Bytes at the beginning of `struct direct` that mean the same in every build.
pub const DIRECT_HEAD: usize = 20;

/// What the fast path counts, in the order of its map `counts`; each a number of 64 bits for each processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Count {
    /// Packets that were carried; a batch of segments is one.
    Packets,
    /// Bytes in them, with their Ethernet headers.
    Bytes,
    /// Flows that began to be carried, each direction by itself.
    Confirmed,
    /// Packets that were left to the stack because the link takes less.
    TooBig,
    /// Connections that began without the stack.
    Begun,
    /// Connections that were left to the stack because there was no room for one more.
    NoRoom,
}

impl Count {
    /// All of them, each at its place in the map.
    pub const ALL: [Count; 6] = [Count::Packets, Count::Bytes, Count::Confirmed, Count::TooBig, Count::Begun, Count::NoRoom];
}

/// What a frontend's key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Its address is its own.
    Vip,
    /// It is a port of the node; its address is the unspecified one of the family.
    NodePort,
    /// It is a port of the node that leads to one pod; its address is a loopback one, or the unspecified one of the family for all of them.
    HostPort,
}

/// What a socket addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Protocol number (IANA): TCP or UDP.
    pub protocol: u8,
    /// What the address is.
    pub kind: Kind,
}

/// What is known of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Which of its endpoint lists counts.
    pub generation: u32,
    /// How many endpoints are in it; none means refused.
    pub endpoints: u32,
}

/// A place in a frontend's list of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// Whose list.
    pub frontend: FrontendKey,
    /// Which one.
    pub generation: u32,
    /// Place in it, from 0.
    pub index: u32,
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// That an endpoint is one of a frontend's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LiveKey {
    /// The frontend.
    pub frontend: FrontendKey,
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// A socket and whom it speaks to; the value is the [`Endpoint`] that it believes to speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The socket's cookie (`SO_COOKIE`, Linux 4.12).
    pub socket: u64,
    /// Whom it speaks to.
    pub endpoint: Endpoint,
}

/// A TCP connection that was begun without the stack: the key and the head of the value in the map `direct`, alike in every build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direct {
    /// Who began it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// When, in nanoseconds of the coarse monotonic clock.
    pub opened_ns: u64,
    /// When both ends had said that they were done; 0 while they have not.
    pub ended_ns: u64,
    /// Whether the other end has accepted.
    pub answered: bool,
}

impl Direct {
    /// From the bytes of an element, if they are some.
    pub fn from_bytes(key: &[u8], value: &[u8]) -> Option<Self> {
        let mut reader = Reader(key);
        let (source, destination) = (reader.address()?, reader.address()?);
        let mut port = || reader.take().map(u16::from_be_bytes);
        let (source_port, destination_port) = (port()?, port()?);
        let mut head = Reader(value);
        Some(Direct {
            source: SocketAddr::new(source, source_port),
            destination: SocketAddr::new(destination, destination_port),
            opened_ns: u64::from_ne_bytes(head.take()?),
            ended_ns: u64::from_ne_bytes(head.take()?),
            answered: head.take::<1>()? != [0],
        })
    }
}

/// Writes fields one after the other.
struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    fn new() -> Self {
        Writer { bytes: [0; N], at: 0 }
    }

    fn put(mut self, field: &[u8]) -> Self {
        let end = self.at + field.len();
        if let Some(place) = self.bytes.get_mut(self.at..end) {
            place.copy_from_slice(field);
        }
        self.at = end;
        self
    }
}

/// Reads fields one after the other; what is short reads as nothing.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn address(&mut self) -> Option<IpAddr> {
        let v6 = Ipv6Addr::from(self.take::<16>()?);
        Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
    }
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl FrontendKey {
    /// Those under which a socket finds what it addresses, in the order in which the programs look: its own address, and where that is a
    /// loopback one and the socket in the node's own network namespace, the node's ports.
    pub fn asked(address: IpAddr, port: u16, protocol: u8, on_node: bool) -> impl Iterator<Item = FrontendKey> {
        let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let of_node = [(any, Kind::NodePort), (address, Kind::HostPort), (any, Kind::HostPort)];
        let of_node = of_node.into_iter().filter(move |_| on_node && address.is_loopback());
        [(address, Kind::Vip)].into_iter().chain(of_node).map(move |(address, kind)| FrontendKey { address, port, protocol, kind })
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; FRONTEND_KEY] {
        let kind = match self.kind {
            Kind::Vip => 0,
            Kind::NodePort => 1,
            Kind::HostPort => 2,
        };
        Writer::new().put(&address_bytes(self.address)).put(&self.port.to_be_bytes()).put(&[self.protocol, kind]).bytes
    }

    /// From its bytes, if they are some.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let address = reader.address()?;
        let port = u16::from_be_bytes(reader.take()?);
        let [protocol, kind] = reader.take()?;
        let kind = match kind {
            0 => Kind::Vip,
            1 => Kind::NodePort,
            2 => Kind::HostPort,
            _ => return None,
        };
        Some(FrontendKey { address, port, protocol, kind })
    }
}

impl Frontend {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; FRONTEND] {
        Writer::new().put(&self.generation.to_ne_bytes()).put(&self.endpoints.to_ne_bytes()).bytes
    }

    /// From its bytes, if they are some.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Frontend { generation: u32::from_ne_bytes(reader.take()?), endpoints: u32::from_ne_bytes(reader.take()?) })
    }
}

impl EndpointKey {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; ENDPOINT_KEY] {
        Writer::new().put(&self.frontend.to_bytes()).put(&self.generation.to_ne_bytes()).put(&self.index.to_ne_bytes()).bytes
    }

    /// From its bytes, if they are some.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (frontend, rest) = bytes.split_at_checked(FRONTEND_KEY)?;
        let mut reader = Reader(rest);
        Some(EndpointKey {
            frontend: FrontendKey::from_bytes(frontend)?,
            generation: u32::from_ne_bytes(reader.take()?),
            index: u32::from_ne_bytes(reader.take()?),
        })
    }
}

impl Endpoint {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; ENDPOINT] {
        Writer::new().put(&address_bytes(self.address)).put(&self.port.to_be_bytes()).bytes
    }

    /// From its bytes, if they are some.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Endpoint { address: reader.address()?, port: u16::from_be_bytes(reader.take()?) })
    }
}

impl PeerKey {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; PEER_KEY] {
        Writer::new().put(&self.socket.to_ne_bytes()).put(&self.endpoint.to_bytes()).bytes
    }
}

impl LiveKey {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; LIVE_KEY] {
        Writer::new().put(&self.frontend.to_bytes()).put(&self.endpoint.to_bytes()).bytes
    }

    /// From its bytes, if they are some.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (frontend, endpoint) = bytes.split_at_checked(FRONTEND_KEY)?;
        Some(LiveKey { frontend: FrontendKey::from_bytes(frontend)?, endpoint: Endpoint::from_bytes(endpoint)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::LAYOUTS;

    fn frontend(address: &str) -> FrontendKey {
        FrontendKey { address: address.parse().unwrap(), port: 0x1234, protocol: 17, kind: Kind::NodePort }
    }

    /// The offset of a field in the table that the C side is compiled against.
    fn offset(of: &str, field: &str) -> usize {
        let (_, _, fields) = LAYOUTS.iter().find(|(name, ..)| *name == of).unwrap();
        fields.iter().find(|(name, ..)| *name == field).unwrap().1
    }

    #[test]
    fn lengths_are_those_of_the_table() {
        let lengths = [FRONTEND_KEY, FRONTEND, ENDPOINT_KEY, ENDPOINT, PEER_KEY, LIVE_KEY, CARRIED_KEY, WAY, CARRIED, OPENING, DIRECT];
        assert_eq!(LAYOUTS.iter().map(|(_, size, _)| *size).collect::<Vec<_>>(), lengths);
    }

    #[test]
    fn fields_lie_where_the_table_says() {
        let bytes = frontend("10.0.0.1").to_bytes();
        assert_eq!(bytes[offset("frontend_key", "address")..][..16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(bytes[offset("frontend_key", "port")..][..2], [0x12, 0x34]);
        assert_eq!((bytes[offset("frontend_key", "protocol")], bytes[offset("frontend_key", "kind")]), (17, 1));
        let value = Frontend { generation: 7, endpoints: 9 }.to_bytes();
        assert_eq!(value[offset("frontend", "generation")..][..4], 7_u32.to_ne_bytes());
        assert_eq!(value[offset("frontend", "endpoints")..][..4], 9_u32.to_ne_bytes());
        let at = EndpointKey { frontend: frontend("10.0.0.1"), generation: 5, index: 3 }.to_bytes();
        assert_eq!(at[offset("endpoint_key", "generation")..][..4], 5_u32.to_ne_bytes());
        assert_eq!(at[offset("endpoint_key", "index")..][..4], 3_u32.to_ne_bytes());
        let endpoint = Endpoint { address: "fd00::1".parse().unwrap(), port: 80 };
        assert_eq!(endpoint.to_bytes()[offset("endpoint", "port")..][..2], [0, 80]);
        let peer = PeerKey { socket: 7, endpoint }.to_bytes();
        assert_eq!(peer[offset("peer_key", "socket")..][..8], 7_u64.to_ne_bytes());
        assert_eq!(peer[offset("peer_key", "endpoint")..][..ENDPOINT], endpoint.to_bytes());
        let live = LiveKey { frontend: frontend("fd00::2"), endpoint }.to_bytes();
        assert_eq!(live[offset("live_key", "endpoint")..], endpoint.to_bytes());
    }

    #[test]
    fn connections_are_read_from_where_the_table_says() {
        let (mut key, mut value) = ([0; CARRIED_KEY], [0; DIRECT]);
        for (field, address) in [("source", [10, 0, 0, 1]), ("destination", [10, 0, 0, 2])] {
            key[offset("carried_key", field) + 10..][..6].copy_from_slice(&[[0xff; 2].as_slice(), &address].concat());
        }
        key[offset("carried_key", "source_port")..][..2].copy_from_slice(&4000_u16.to_be_bytes());
        key[offset("carried_key", "destination_port")..][..2].copy_from_slice(&80_u16.to_be_bytes());
        value[offset("direct", "opened_ns")..][..8].copy_from_slice(&5_u64.to_ne_bytes());
        value[offset("direct", "ended_ns")..][..8].copy_from_slice(&6_u64.to_ne_bytes());
        value[offset("direct", "answered")] = 1;
        let (source, destination) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let read = Direct { source, destination, opened_ns: 5, ended_ns: 6, answered: true };
        assert_eq!(Direct::from_bytes(&key, &value[..DIRECT_HEAD]), Some(read));
        assert_eq!(Direct::from_bytes(&key, &value[..16]), None);
    }

    #[test]
    fn bytes_go_there_and_back() {
        for address in ["10.0.0.1", "0.0.0.0", "fd00::1", "::"] {
            let key = frontend(address);
            assert_eq!(FrontendKey::from_bytes(&key.to_bytes()), Some(key));
            let at = EndpointKey { frontend: key, generation: 1, index: 2 };
            assert_eq!(EndpointKey::from_bytes(&at.to_bytes()), Some(at));
            let endpoint = Endpoint { address: key.address, port: 1 };
            assert_eq!(Endpoint::from_bytes(&endpoint.to_bytes()), Some(endpoint));
            let live = LiveKey { frontend: key, endpoint };
            assert_eq!(LiveKey::from_bytes(&live.to_bytes()), Some(live));
        }
        assert_eq!(FrontendKey::from_bytes(&[0; 19]), None);
        assert_eq!(Frontend::from_bytes(&[1; 7]), None);
    }
}

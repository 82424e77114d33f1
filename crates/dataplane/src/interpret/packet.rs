//! A packet as the rules see it, with its connection, and the bytes that payload expressions load.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use bowline_model::{Family, MacAddr};

use crate::objects::nft::PayloadBase;

/// `RTN_UNICAST`, `RTN_LOCAL`, `RTN_MULTICAST`.
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;
const MULTICAST: u32 = 5;
/// Types of echo requests in ICMP and ICMPv6.
const ECHO: u8 = 8;
const ECHO6: u8 = 128;
/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// What the packet's connection knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// State bits of this packet (`NF_CT_STATE_*`): invalid 1, established 2, related 4, new 8, untracked 64.
    pub state: u32,
    /// Status bits (`IPS_*`).
    pub status: u32,
    /// Mark.
    pub mark: u32,
    /// Whether the packet goes the other way than the connection's first.
    pub reply: bool,
}

impl Default for Connection {
    fn default() -> Self {
        Connection { state: 8, status: 0, mark: 0, reply: false }
    }
}

/// A packet and what surrounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Transport protocol number.
    pub protocol: u8,
    /// Source port, of protocols that have ports.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Type of a message of ICMP or ICMPv6.
    pub icmp_type: u8,
    /// The address that a neighbour solicitation or advertisement is about; it is all zeros in other messages.
    pub neighbour_target: Option<Ipv6Addr>,
    /// It is ARP, not IP: `src` says to be asking or answering, from this station, for or to `dst`.
    pub arp_sender: Option<MacAddr>,
    /// TCP flags as in the header (FIN 1, SYN 2, RST 4, ACK 16).
    pub tcp_flags: u8,
    /// Name of the link that it came in by; empty for the node's own.
    pub iif: String,
    /// Name of the link that it leaves by; empty before routing.
    pub oif: String,
    /// Ethernet source; none if there is no such header.
    pub ether_src: Option<MacAddr>,
    /// Mark.
    pub mark: u32,
    /// Its connection.
    pub connection: Connection,
    /// Addresses of the node itself, for route type look-ups.
    pub local_addresses: BTreeSet<IpAddr>,
    /// Where random numbers come from: they are this one scaled to the modulus, as the kernel scales its own.
    pub random: u32,
    /// The address that masquerading would choose; it stays as it is without one.
    pub masquerade_address: Option<IpAddr>,
}

impl Packet {
    /// The first packet (a SYN for TCP) of a new connection.
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, dst_port: u16) -> Packet {
        Packet {
            src,
            dst,
            protocol,
            src_port: 40_000,
            dst_port,
            icmp_type: if dst.is_ipv4() { ECHO } else { ECHO6 },
            neighbour_target: None,
            arp_sender: None,
            tcp_flags: 2,
            iif: String::new(),
            oif: String::new(),
            ether_src: None,
            mark: 0,
            connection: Connection::default(),
            local_addresses: BTreeSet::new(),
            random: 0,
            masquerade_address: None,
        }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(&self.dst)
    }

    /// Route type of an address (`RTN_*`).
    pub(super) fn route_type(&self, address: &IpAddr) -> u32 {
        if self.local_addresses.contains(address) || address.is_loopback() {
            LOCAL
        } else if address.is_multicast() {
            MULTICAST
        } else {
            UNICAST
        }
    }

    /// Type of the incoming link, if there is one.
    pub(super) fn iif_type(&self) -> Option<u16> {
        (!self.iif.is_empty()).then_some(ETHERNET)
    }

    /// Bytes of a header; none past its end.
    pub(super) fn payload(&self, base: PayloadBase, offset: u32, len: u32) -> Option<Vec<u8>> {
        let header = match base {
            PayloadBase::Link => self.link_header()?,
            PayloadBase::Network => self.network_header(),
            PayloadBase::Transport => self.transport_header(),
        };
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        header.get(start..end).map(<[u8]>::to_vec)
    }

    fn link_header(&self) -> Option<Vec<u8>> {
        let ether_type: [u8; 2] = match self.family() {
            Family::V4 if self.arp_sender.is_some() => [0x08, 0x06],
            Family::V4 => [0x08, 0x00],
            Family::V6 => [0x86, 0xdd],
        };
        let source = self.ether_src?.0;
        Some([&[0_u8; 6][..], &source, &ether_type].concat())
    }

    fn network_header(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) if let Some(sender) = self.arp_sender => {
                [&[0, 1, 0x08, 0x00, 6, 4, 0, 1][..], &sender.0, &src.octets(), &[0; 6], &dst.octets()].concat()
            }
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let start = [0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, self.protocol, 0, 0];
                [&start[..], &src.octets(), &dst.octets()].concat()
            }
            (src, dst) => {
                let start = [0x60, 0, 0, 0, 0, 20, self.protocol, 64];
                [&start[..], &octets(src), &octets(dst)].concat()
            }
        }
    }

    fn transport_header(&self) -> Vec<u8> {
        let ports = [self.src_port.to_be_bytes(), self.dst_port.to_be_bytes()].concat();
        match self.protocol {
            6 => [&ports[..], &[0; 8], &[0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]].concat(),
            17 => [&ports[..], &[0, 8, 0, 0]].concat(),
            132 => [&ports[..], &[0; 8]].concat(),
            // ICMP: what lies where ports would be is a checksum.
            _ => {
                let target = self.neighbour_target.map(|target| target.octets()).unwrap_or_default();
                [&[self.icmp_type, 0, 0x12, 0x34, 0, 1, 0, 1][..], &target].concat()
            }
        }
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

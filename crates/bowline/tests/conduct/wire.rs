//! Frames, byte by byte, right or wrong as a test wants them.
//!
//! Reference: RFC 791, 768, 792, 826, 4443, 4861, 7348, 8200.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// Everybody on the link.
pub(super) const BROADCAST: Mac = [0xff; 6];

const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// What messages about neighbours must have left of it.
const HOPS: u8 = 255;

/// From whom, and to whom it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) station: Mac,
    pub(super) to_station: Mac,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
}

impl Ends {
    pub(super) fn of(self, src: IpAddr) -> Ends {
        Ends { src, ..self }
    }

    pub(super) fn at(self, station: Mac) -> Ends {
        Ends { station, ..self }
    }

    pub(super) fn on(self, to_station: Mac) -> Ends {
        Ends { to_station, ..self }
    }
}

/// The frame in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Ethernet address of a group's address.
pub(super) fn of_group(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

pub(super) fn udp(ends: Ends, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let header = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    ip(ends, UDP, 64, &[&header, payload].concat(), 6)
}

/// A message of ICMP or ICMPv6: what follows its checksum is given.
pub(super) fn icmp(ends: Ends, kind: u8, rest: &[u8]) -> Vec<u8> {
    let number = if ends.src.is_ipv4() { ICMP } else { ICMP6 };
    ip(ends, number, HOPS, &[&[kind, 0, 0, 0], rest].concat(), 2)
}

/// An ARP packet, and bytes after it.
pub(super) fn arp((station, to_station): (Mac, Mac), operation: u8, sender: (Mac, Ipv4Addr), target: Ipv4Addr, after: &[u8]) -> Vec<u8> {
    let start = [&to_station[..], &station, &[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]].concat();
    [&start[..], &sender.0, &sender.1.octets(), &[0; 6], &target.octets(), after].concat()
}

/// What a VXLAN packet carries around a frame.
pub(super) fn vxlan(vni: u8, inner: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, vni, 0][..], inner].concat()
}

fn ip(ends: Ends, protocol: u8, hops: u8, body: &[u8], sum_at: usize) -> Vec<u8> {
    let Ends { station, to_station, src, dst } = ends;
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let (kind, header, pseudo) = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (length + 20).to_be_bytes();
            let mut header = [&[0x45, 0][..], &total, &[0, 7, 0, 0, hops, protocol, 0, 0], &src.octets(), &dst.octets()].concat();
            let sum = checksum(&header);
            put(&mut header, 10, sum);
            let pseudo = [&src.octets()[..], &dst.octets(), &[0, protocol], &length.to_be_bytes()].concat();
            // ICMP for IPv4 sums itself alone.
            ([0x08, 0x00], header, if protocol == ICMP { Vec::new() } else { pseudo })
        }
        (src, dst) => {
            let (src, dst) = (six(src), six(dst));
            let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[protocol, hops], &src, &dst].concat();
            let pseudo = [&src[..], &dst, &[0, 0], &length.to_be_bytes(), &[0, 0, 0, protocol]].concat();
            ([0x86, 0xdd], header, pseudo)
        }
    };
    let mut body = body.to_vec();
    let sum = checksum(&[&pseudo[..], &body].concat());
    put(&mut body, sum_at, sum);
    [&to_station[..], &station, &kind, &header, &body].concat()
}

fn six(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|two| u32::from(u16::from_be_bytes([two.first().copied().unwrap_or(0), two.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

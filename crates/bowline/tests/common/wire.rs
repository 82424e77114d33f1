//! Frames, byte by byte, right or wrong as a test wants them.
//!
//! Reference: RFC 791, 768, 792, 826, 4443, 4861, 7348, 8200, 9293.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Everybody on the link.
pub(crate) const BROADCAST: Mac = [0xff; 6];

/// Headers of IPv6 that stand before what a packet carries.
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// Bytes of Ethernet's and IP's headers.
const HEAD: usize = 34;
const HEAD6: usize = 54;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// What messages about neighbours must have left of it.
const HOPS: u8 = 255;

/// From whom, and to whom it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) station: Mac,
    pub(crate) to_station: Mac,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
}

impl Ends {
    pub(crate) fn of(self, src: IpAddr) -> Ends {
        Ends { src, ..self }
    }

    pub(crate) fn at(self, station: Mac) -> Ends {
        Ends { station, ..self }
    }

    pub(crate) fn on(self, to_station: Mac) -> Ends {
        Ends { to_station, ..self }
    }
}

/// The frame in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The Ethernet address of a group's address.
pub(crate) fn of_group(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

pub(crate) fn udp(ends: Ends, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let header = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    ip(ends, UDP, 64, &[&header, payload].concat(), 6)
}

/// A message of ICMP or ICMPv6: what follows its checksum is given.
pub(crate) fn icmp(ends: Ends, kind: u8, rest: &[u8]) -> Vec<u8> {
    let number = if ends.src.is_ipv4() { ICMP } else { ICMP6 };
    ip(ends, number, HOPS, &[&[kind, 0, 0, 0], rest].concat(), 2)
}

/// An ARP packet, and bytes after it.
pub(crate) fn arp((station, to_station): (Mac, Mac), operation: u8, sender: (Mac, Ipv4Addr), target: Ipv4Addr, after: &[u8]) -> Vec<u8> {
    let start = [&to_station[..], &station, &[0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0, operation]].concat();
    [&start[..], &sender.0, &sender.1.octets(), &[0; 6], &target.octets(), after].concat()
}

/// What a VXLAN packet carries around a frame.
pub(crate) fn vxlan(vni: u8, inner: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, vni, 0][..], inner].concat()
}

/// A packet that asks for a connection, and bytes after its header.
pub(crate) fn syn(ends: Ends, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    ip(ends, TCP, 64, &[&from.to_be_bytes()[..], &to.to_be_bytes(), &rest, payload].concat(), 16)
}

/// A packet in pieces, which begin at these places of what it carries: the first at 0, the others at multiples of eight. One piece alone is as
/// the whole by IPv4, and has a fragment header all the same by IPv6.
pub(crate) fn in_pieces(frame: &[u8], id: u8, starts: &[usize]) -> Vec<Vec<u8>> {
    let (head, body) = frame.split_at(if is_v6(frame) { HEAD6 } else { HEAD });
    let ends = starts.iter().skip(1).copied().chain([body.len()]);
    let pieces = starts.iter().zip(ends).map(|(start, end)| {
        let (more, part) = (u16::from(end < body.len()), &body[*start..end]);
        let (mut head, start) = (head.to_vec(), u16::try_from(*start).unwrap_or(u16::MAX));
        if is_v6(frame) {
            let piece = [&[head[20], 0][..], &(start | more).to_be_bytes(), &[0, 0, 0, id], part].concat();
            head[20] = FRAGMENT;
            put(&mut head, 18, u16::try_from(piece.len()).unwrap_or(u16::MAX));
            return [head, piece].concat();
        }
        put(&mut head, 16, u16::try_from(20 + part.len()).unwrap_or(u16::MAX));
        put(&mut head, 18, u16::from(id));
        put(&mut head, 20, (start / 8) | (more << 13));
        put(&mut head, 24, 0);
        let sum = checksum(&head[14..]);
        put(&mut head, 24, sum);
        [&head, part].concat()
    });
    pieces.collect()
}

/// A packet of IPv6 with another header of eight bytes before what it carries, which says nothing.
pub(crate) fn behind(frame: &[u8], header: u8) -> Vec<u8> {
    let (head, body) = frame.split_at(HEAD6);
    let mut head = head.to_vec();
    let nothing = [head[20], 0, 1, 4, 0, 0, 0, 0];
    head[20] = header;
    put(&mut head, 18, u16::try_from(nothing.len() + body.len()).unwrap_or(u16::MAX));
    [&head[..], &nothing, body].concat()
}

fn is_v6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
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

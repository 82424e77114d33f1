//! The beginning of an IP packet: who sends it to whom.
//!
//! Invariant: any bytes are read without a panic; what is cut short or not understood has fewer answers.
//! Reference: RFC 791, RFC 8200 section 4 (extension headers); ports as in RFC 9293, 768 and 9260.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Extension headers of IPv6 that a packet may have one after another; more are not looked through.
const EXTENSIONS_MAX: usize = 6;

/// Who sends a packet to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Transport protocol by its number.
    pub protocol: u8,
    /// Source and destination port, of TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
}

impl Ends {
    /// Of a packet that begins with its IP header; none if it is not one.
    pub fn of(packet: &[u8]) -> Option<Ends> {
        match packet.first()? >> 4 {
            4 => v4(packet),
            6 => v6(packet),
            _ => None,
        }
    }
}

fn v4(packet: &[u8]) -> Option<Ends> {
    let header_bytes = usize::from(packet.first()? & 0xf) * 4;
    let protocol = *packet.get(9)?;
    let address = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::from(Ipv4Addr::from(*octets)));
    // A later fragment has no ports: its offset is in the low 13 bits.
    let first = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff == 0;
    let transport = packet.get(header_bytes.max(20)..).filter(|_| first).unwrap_or_default();
    Some(Ends { src: address(12)?, dst: address(16)?, protocol, ports: ports(protocol, transport) })
}

fn v6(packet: &[u8]) -> Option<Ends> {
    let address = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::from(Ipv6Addr::from(*octets)));
    let (src, dst) = (address(8)?, address(24)?);
    let (mut protocol, mut rest, mut first) = (*packet.get(6)?, packet.get(40..).unwrap_or_default(), true);
    for _ in 0..EXTENSIONS_MAX {
        let bytes = match (protocol, rest.get(1)) {
            // Hop-by-hop, routing, destination options: their length is in units of eight bytes, the first not counted.
            (0 | 43 | 60, Some(length)) => (usize::from(*length) + 1) * 8,
            (44, Some(_)) => {
                first &= rest.get(2..4).is_some_and(|offset| matches!(offset, [0, low] if low & 0xf8 == 0));
                8
            }
            _ => break,
        };
        protocol = rest.first().copied().unwrap_or(protocol);
        rest = rest.get(bytes..).unwrap_or_default();
    }
    Some(Ends { src, dst, protocol, ports: ports(protocol, if first { rest } else { &[] }) })
}

fn ports(protocol: u8, transport: &[u8]) -> Option<(u16, u16)> {
    let both = transport.first_chunk::<4>().filter(|_| matches!(protocol, 6 | 17 | 132))?;
    let [a, b, c, d] = *both;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use proptest::prelude::*;

    use super::*;

    fn packet4(protocol: u8, fragment: u16, options: usize) -> Vec<u8> {
        let header = 0x45 + u8::try_from(options / 4).unwrap();
        let mut bytes = vec![header, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.splice(6..8, fragment.to_be_bytes());
        bytes.extend(vec![0; options]);
        bytes.extend([0x9c, 0x40, 0, 80]);
        bytes
    }

    fn packet6(first: u8, extensions: &[u8]) -> Vec<u8> {
        let src: Ipv6Addr = "fd42::1".parse().unwrap();
        let dst: Ipv6Addr = "fd42::2".parse().unwrap();
        [&[0x60, 0, 0, 0, 0, 0, first, 64][..], &src.octets(), &dst.octets(), extensions, &[0x9c, 0x40, 0, 80]].concat()
    }

    #[test]
    fn both_families_are_read_with_their_ports() {
        let ends = |protocol, ports| Ends { src: "10.0.0.1".parse().unwrap(), dst: "10.0.0.2".parse().unwrap(), protocol, ports };
        assert_eq!(Ends::of(&packet4(6, 0, 0)), Some(ends(6, Some((40_000, 80)))));
        assert_eq!(Ends::of(&packet4(17, 0, 8)), Some(ends(17, Some((40_000, 80)))), "with options");
        assert_eq!(Ends::of(&packet4(17, 185, 0)), Some(ends(17, None)), "a later fragment");
        assert_eq!(Ends::of(&packet4(1, 0, 0)), Some(ends(1, None)));
        let ends = |protocol, ports| Ends { src: "fd42::1".parse().unwrap(), dst: "fd42::2".parse().unwrap(), protocol, ports };
        assert_eq!(Ends::of(&packet6(132, &[])), Some(ends(132, Some((40_000, 80)))));
        let options = [60, 0, 0, 0, 0, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let fragment = |low| [6, 0, 0, low, 0, 0, 0, 7];
        let extended = |low| packet6(0, &[&options[..], &fragment(low)].concat());
        assert_eq!(Ends::of(&extended(1)), Some(ends(6, Some((40_000, 80)))), "the first fragment");
        assert_eq!(Ends::of(&extended(8)), Some(ends(6, None)), "a later one");
    }

    proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down(bytes in proptest::collection::vec(any::<u8>(), 0..160), version in 0_u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0xf);
            }
            let ends = Ends::of(&bytes);
            prop_assert!(ends.is_none() || bytes.len() >= 20);
        }
    }
}

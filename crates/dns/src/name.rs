//! Domain names as the server handles them: owned, cheap to clone, compared without regard to case.
//!
//! Invariant: a `Name` is absolute and at most 255 bytes long. Reference: RFC 1035, RFC 1034 section 3.1, RFC 3596 (ip6.arpa).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use domain::base::name::{Label, NameBuilder, ToName};
use ipnet::IpNet;

/// An absolute domain name over a shared buffer.
pub type Name = domain::base::Name<Bytes>;

/// Reads a name in text form, with or without its last dot; none if it is no name.
pub fn parse(text: &str) -> Option<Name> {
    if text.is_empty() || text == "." {
        return Some(Name::root_bytes());
    }
    Name::bytes_from_str(text).ok()
}

/// The name in lower case.
pub fn lowercase(name: &Name) -> Name {
    Name::from_octets(Bytes::from(name.as_slice().to_ascii_lowercase())).unwrap_or_else(|_| name.clone())
}

/// The name as people write it, in lower case, with its last dot.
pub fn display(name: &Name) -> String {
    let mut text = name.fmt_with_dot().to_string();
    text.make_ascii_lowercase();
    text
}

/// A copy of any name as an owned one.
pub fn own<N: ToName>(name: &N) -> Name {
    name.to_bytes()
}

/// `labels`, from left to right, before `origin`; none if that is too long or a label is not one.
pub fn under<'a>(labels: impl IntoIterator<Item = &'a [u8]>, origin: &Name) -> Option<Name> {
    let mut builder = NameBuilder::new_bytes();
    for label in labels {
        if label.is_empty() {
            return None;
        }
        builder.append_label(label).ok()?;
    }
    builder.append_origin(origin).ok()
}

/// The labels of `name` before `zone`, left to right; none if it does not lie in the zone.
pub fn labels_before<'a>(name: &'a Name, zone: &Name) -> Option<Vec<&'a [u8]>> {
    if !name.ends_with(zone) {
        return None;
    }
    let count = name.label_count().checked_sub(zone.label_count())?;
    Some(name.iter().take(count).map(Label::as_slice).collect())
}

/// The longest of `zones` that holds `name`, and its place in the list.
pub fn longest_zone<'z>(zones: &'z [Name], name: &Name) -> Option<(usize, &'z Name)> {
    zones.iter().enumerate().filter(|(_, zone)| name.ends_with(zone)).max_by_key(|(_, zone)| zone.label_count())
}

/// Whether a name lies in one of `zones`.
pub fn in_any(zones: &[Name], name: &Name) -> bool {
    zones.iter().any(|zone| name.ends_with(zone))
}

/// What a name under in-addr.arpa or ip6.arpa stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reverse {
    /// One address.
    Address(IpAddr),
    /// A block of addresses: some of the labels of one.
    Block,
    /// Nothing.
    No,
}

/// Reads a reverse name.
pub fn reverse(name: &Name) -> Reverse {
    let labels: Vec<&[u8]> = name.iter().map(Label::as_slice).collect();
    let Some((_, labels)) = labels.split_last() else { return Reverse::No };
    let Some((top, labels)) = labels.split_last() else { return Reverse::No };
    let Some((second, digits)) = labels.split_last() else { return Reverse::No };
    if !top.eq_ignore_ascii_case(b"arpa") {
        return Reverse::No;
    }
    if second.eq_ignore_ascii_case(b"in-addr") {
        reverse_v4(digits)
    } else if second.eq_ignore_ascii_case(b"ip6") {
        reverse_v6(digits)
    } else {
        Reverse::No
    }
}

fn reverse_v4(digits: &[&[u8]]) -> Reverse {
    let mut octets = [0_u8; 4];
    if digits.len() > octets.len() {
        return Reverse::No;
    }
    for (octet, label) in octets.iter_mut().zip(digits.iter().rev()) {
        let Some(value) = std::str::from_utf8(label).ok().and_then(|text| text.parse::<u8>().ok()) else {
            return Reverse::No;
        };
        // `01` and `+1` are not how an octet is written.
        if value.to_string().as_bytes() != *label {
            return Reverse::No;
        }
        *octet = value;
    }
    if digits.len() == octets.len() { Reverse::Address(Ipv4Addr::from(octets).into()) } else { Reverse::Block }
}

fn reverse_v6(digits: &[&[u8]]) -> Reverse {
    if digits.len() > 32 {
        return Reverse::No;
    }
    let mut bits = 0_u128;
    for label in digits.iter().rev() {
        let [digit] = *label else { return Reverse::No };
        let Some(value) = char::from(*digit).to_digit(16) else { return Reverse::No };
        bits = (bits << 4) | u128::from(value);
    }
    if digits.len() == 32 { Reverse::Address(Ipv6Addr::from(bits).into()) } else { Reverse::Block }
}

/// The reverse zones that a block covers: several where its length ends inside a label.
///
/// `192.168.0.0/16` is 168.192.in-addr.arpa; a /17 is 128 zones.
pub fn reverse_zones(block: &IpNet) -> Vec<Name> {
    let block = block.trunc();
    let step = if block.addr().is_ipv4() { 8 } else { 4 };
    let length = block.prefix_len().div_ceil(step) * step;
    let Ok(parts) = block.subnets(length) else { return Vec::new() };
    parts.filter_map(|part| reverse_zone(&part)).collect()
}

fn reverse_zone(part: &IpNet) -> Option<Name> {
    let text = match part {
        IpNet::V4(net) => {
            let octets = net.addr().octets();
            let kept = octets.iter().take(usize::from(net.prefix_len() / 8)).rev();
            kept.map(|octet| format!("{octet}.")).collect::<String>() + "in-addr.arpa."
        }
        IpNet::V6(net) => {
            let bits = u128::from(net.addr());
            let kept = (0..u32::from(net.prefix_len() / 4)).rev();
            kept.map(|i| format!("{:x}.", (bits >> (124 - 4 * i)) & 0xf)).collect::<String>() + "ip6.arpa."
        }
    };
    parse(&text)
}

/// An address as one label: dots and colons become dashes.
///
/// A compressed IPv6 address that would end in a dash gets a `0` after it, since a label may not end so.
pub fn dashed(ip: &IpAddr) -> String {
    let mut text = ip.to_string().replace(['.', ':'], "-");
    if text.ends_with('-') {
        text.push('0');
    }
    text
}

/// The address that a label such as `10-0-0-1` or `fd00--1` stands for.
pub fn undash(label: &str) -> Option<IpAddr> {
    let dashes = label.bytes().filter(|byte| *byte == b'-').count();
    if dashes == 3 && !label.contains("--") {
        label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::from)
    } else {
        label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn reverse_names_are_read() {
        let read = |text: &str| reverse(&parse(text).unwrap());
        assert_eq!(read("1.0.168.192.in-addr.arpa"), Reverse::Address("192.168.0.1".parse().unwrap()));
        assert_eq!(read("168.192.IN-ADDR.arpa"), Reverse::Block);
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(read(v6), Reverse::Address("fd00::1".parse().unwrap()));
        for no in ["1.0.168.192.arpa", "x.168.192.in-addr.arpa", "01.0.0.10.in-addr.arpa", "5.1.0.0.10.in-addr.arpa", "."] {
            assert_eq!(read(no), Reverse::No, "{no}");
        }
        assert_eq!(read("00.d.f.ip6.arpa"), Reverse::No);
    }

    #[test]
    fn blocks_become_zones() {
        let zones = |text: &str| reverse_zones(&text.parse().unwrap()).iter().map(display).collect::<Vec<_>>();
        assert_eq!(zones("192.168.0.0/16"), ["168.192.in-addr.arpa."]);
        assert_eq!(zones("10.0.0.0/23"), ["0.0.10.in-addr.arpa.", "1.0.10.in-addr.arpa."]);
        assert_eq!(zones("10.0.0.0/17").len(), 128);
        assert_eq!(zones("0.0.0.0/0"), ["in-addr.arpa."]);
        assert_eq!(zones("10.1.2.3/32"), ["3.2.1.10.in-addr.arpa."]);
        assert_eq!(zones("fd00:10::/32"), ["0.1.0.0.0.0.d.f.ip6.arpa."]);
        assert_eq!(zones("fd00::/7").len(), 2);
    }

    #[test]
    fn dashes_go_both_ways() {
        for (ip, label) in [("10.1.2.3", "10-1-2-3"), ("fd00::1", "fd00--1"), ("fd00::", "fd00--0"), ("::1", "--1")] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(dashed(&ip), label);
            assert_eq!(undash(label), Some(ip), "{label}");
        }
        assert_eq!(undash("nginx"), None);
    }

    #[test]
    fn the_longest_zone_wins() {
        let zones: Vec<Name> = [".", "example.org", "b.example.org"].map(|z| parse(z).unwrap()).to_vec();
        assert_eq!(longest_zone(&zones, &parse("a.B.Example.org").unwrap()).unwrap().0, 2);
        assert_eq!(longest_zone(&zones, &parse("xb.example.org").unwrap()).unwrap().0, 1);
        assert_eq!(longest_zone(&zones, &parse("org").unwrap()).unwrap().0, 0);
        assert_eq!(labels_before(&parse("a.b.c").unwrap(), &parse("c").unwrap()).unwrap(), [b"a", b"b"]);
    }
}

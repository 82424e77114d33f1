//! Netlink messages: writing and reading of headers and attributes, without any knowledge of families.
//!
//! Numbers are in host order unless a function says otherwise. Reading never fails as a whole because of one attribute that is unknown:
//! each attribute is looked at when it is asked for. Reference: uapi linux/netlink.h, RFC 3549.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;

/// The request flags of uapi linux/netlink.h.
pub(crate) mod flags {
    /// A request.
    pub(crate) const REQUEST: u16 = 0x1;
    /// Answer with an acknowledgement.
    pub(crate) const ACK: u16 = 0x4;
    /// The dump was disturbed by a change.
    pub(crate) const DUMP_INTERRUPTED: u16 = 0x10;
    /// Everything (root and match).
    pub(crate) const DUMP: u16 = 0x300;
    /// Replace what is there.
    pub(crate) const REPLACE: u16 = 0x100;
    /// Fail if it is there.
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    /// Make it if it is not there.
    pub(crate) const CREATE: u16 = 0x400;
}

/// Message type of an error or acknowledgement.
pub(crate) const NLMSG_ERROR: u16 = 2;
/// Message type of the end of a dump.
pub(crate) const NLMSG_DONE: u16 = 3;

const NLA_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A message being written.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of a type with flags, and the family's fixed header after netlink's own.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut message = Message { bytes: vec![0; HEADER_BYTES] };
        message.put(4, &kind.to_ne_bytes());
        message.put(6, &flags.to_ne_bytes());
        message.append(fixed);
        message
    }

    /// Adds an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // The length field has 16 bits. All values here are far shorter but for names from outside, which are cut and then refused by the
        // kernel as too long.
        let value = value.get(..usize::from(u16::MAX) - 4).unwrap_or(value);
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.append(value);
        self
    }

    /// Adds a byte.
    pub(crate) fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// Adds a 16-bit number in network order.
    pub(crate) fn attr_be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds a 32-bit number.
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Adds a 32-bit number in network order.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Adds a text with its closing zero.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Adds an address.
    pub(crate) fn attr_ip(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        match value {
            IpAddr::V4(a) => self.attr(kind, &a.octets()),
            IpAddr::V6(a) => self.attr(kind, &a.octets()),
        }
    }

    /// Adds attributes within an attribute.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested_with(kind | NLA_NESTED, &[], fill)
    }

    /// Adds attributes within an attribute, without the flag that says so and with a fixed header before them.
    pub(crate) fn nested_with(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attr(kind, &[]);
        self.append(fixed);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.put(start, &length.to_ne_bytes());
        self
    }

    /// The bytes, with length and sequence number filled in.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.put(0, &length.to_ne_bytes());
        self.put(8, &sequence.to_ne_bytes());
        self.bytes
    }

    /// Appends and pads to a multiple of four.
    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
}

/// A message that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// Its flags.
    pub(crate) flags: u16,
    /// Sequence number of the request.
    pub(crate) sequence: u32,
    /// Port of the socket that caused it; 0 is the kernel.
    pub(crate) port: u32,
    /// What follows the header.
    pub(crate) payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes after a fixed header of so many bytes.
    pub(crate) fn attrs(&self, fixed_bytes: usize) -> Attrs<'a> {
        Attrs { rest: self.payload.get(fixed_bytes.next_multiple_of(4)..).unwrap_or_default() }
    }
}

/// The messages of one datagram. Ends at the first one that is cut short.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        let payload = rest.get(HEADER_BYTES..length)?;
        let message =
            Received { kind: u16_at(rest, 4)?, flags: u16_at(rest, 6)?, sequence: u32_at(rest, 8)?, port: u32_at(rest, 12)?, payload };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes of a message or of an attribute, as pairs of type (without flag bits) and value.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attrs<'a> {
    rest: &'a [u8],
}

impl<'a> Attrs<'a> {
    /// Attributes nested in a value.
    pub(crate) fn of(value: &'a [u8]) -> Attrs<'a> {
        Attrs { rest: value }
    }

    /// The value of the last attribute of that type.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.filter(|(k, _)| *k == kind).last().map(|(_, value)| value)
    }

    /// The attributes nested in one; none there is as an empty one.
    pub(crate) fn nested(self, kind: u16) -> Attrs<'a> {
        Attrs { rest: self.get(kind).unwrap_or_default() }
    }

    /// A byte.
    pub(crate) fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// A 32-bit number.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    /// A 16-bit number in network order.
    pub(crate) fn be16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(self.get(kind)?.get(..2)?.try_into().ok()?))
    }

    /// A 32-bit number in network order.
    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.get(..4)?.try_into().ok()?))
    }

    /// A text up to its closing zero; bytes that are no UTF-8 are replaced.
    pub(crate) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
    }

    /// An address of the family that its length tells.
    pub(crate) fn ip(self, kind: u16) -> Option<IpAddr> {
        ip_of(self.get(kind)?)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & NLA_TYPE_MASK;
        let value = self.rest.get(4..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The address in 4 or 16 bytes.
pub(crate) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

/// The 16-bit number at an offset.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The 32-bit number at an offset.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Message::new(16, flags::REQUEST | flags::ACK, &[7; 5]);
        message.attr_str(3, "eth0").nested(18, |m| {
            m.attr_str(1, "veth").nested_with(2, &[9; 16], |m| {
                m.attr_u32(4, 1500);
            });
        });
        message.attr_ip(5, "fe80::1".parse().unwrap()).attr_be16(6, 80);
        let bytes = message.finish(42);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].flags, all[0].sequence), (16, 5, 42));
        let attrs = all[0].attrs(5);
        assert_eq!(attrs.text(3).unwrap(), "eth0");
        assert_eq!(attrs.nested(18).text(1).unwrap(), "veth");
        let inner = attrs.nested(18).get(2).unwrap();
        assert_eq!(Attrs::of(&inner[16..]).u32(4), Some(1500));
        assert_eq!(attrs.ip(5), Some("fe80::1".parse().unwrap()));
        assert_eq!(attrs.be16(6), Some(80));
        assert_eq!(attrs.u32(77), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_with_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for message in messages(&bytes).take(1000) {
                for (kind, value) in message.attrs(4).take(1000) {
                    let _ = (kind, ip_of(value), Attrs::of(value).count());
                }
            }
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(Attrs::of(&bytes).count() <= bytes.len());
        }
    }
}

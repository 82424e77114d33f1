//! Addresses of two families on one path: all that dual stack needs.
//!
//! Byte order: everything here holds addresses as the standard library does; encoders turn them into network order.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of a prefix.
    pub fn of_prefix(prefix: &IpNet) -> Family {
        match prefix {
            IpNet::V4(_) => Family::V4,
            IpNet::V6(_) => Family::V6,
        }
    }

    /// Length of an address in bytes.
    pub fn address_bytes(self) -> u8 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }

    /// Length of a host prefix in bits.
    pub fn host_bits(self) -> u8 {
        self.address_bytes() * 8
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// At most one of something for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dual<T> {
    /// The IPv4 one.
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    pub v4: Option<T>,
    /// The IPv6 one.
    #[serde(skip_serializing_if = "Option::is_none", default = "none")]
    pub v6: Option<T>,
}

fn none<T>() -> Option<T> {
    None
}

impl<T> Default for Dual<T> {
    fn default() -> Self {
        Dual { v4: None, v6: None }
    }
}

impl<T> Dual<T> {
    /// The one of `family`.
    pub fn get(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// The place of `family`.
    pub fn get_mut(&mut self, family: Family) -> &mut Option<T> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Those present, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        self.v4.iter().map(|t| (Family::V4, t)).chain(self.v6.iter().map(|t| (Family::V6, t)))
    }

    /// Those present, without their family, IPv4 first.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.v4.iter().chain(self.v6.iter())
    }

    /// Whether there is neither.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Each one turned into something else.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Dual<U> {
        Dual { v4: self.v4.map(&mut f), v6: self.v6.map(&mut f) }
    }
}

impl Dual<IpAddr> {
    /// The first address of each family among `addresses`.
    pub fn first_of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut dual = Dual::default();
        for address in addresses {
            dual.get_mut(Family::of(&address)).get_or_insert(address);
        }
        dual
    }

    /// Whether `address` is one of the two.
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.get(Family::of(address)) == Some(address)
    }
}

/// A transport protocol that Kubernetes names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// The protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "TCP" | "tcp" => Ok(Protocol::Tcp),
            "UDP" | "udp" => Ok(Protocol::Udp),
            "SCTP" | "sctp" => Ok(Protocol::Sctp),
            other => Err(UnknownProtocol(other.to_owned())),
        }
    }
}

/// A protocol name that is none of TCP, UDP, SCTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProtocol(pub String);

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown protocol `{}`: use TCP, UDP or SCTP", self.0)
    }
}

impl std::error::Error for UnknownProtocol {}

/// An Ethernet address, first byte first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// A locally administered unicast address made from `seed` (FNV-1a, 64 bits): the same seed, the same address.
    pub fn derived(seed: &str) -> MacAddr {
        let [_, _, a, b, c, d, e, f] = fnv1a(seed.as_bytes()).to_be_bytes();
        MacAddr([(a & 0xfc) | 0x02, b, c, d, e, f])
    }
}

/// FNV-1a over 64 bits: small, stable over versions and machines; not for anything an attacker may choose collisions in.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

/// Text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMac(pub String);

impl fmt::Display for BadMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no MAC address: six two-digit hexadecimal bytes with colons between them are wanted", self.0)
    }
}

impl std::error::Error for BadMac {}

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(MacAddr(bytes)) }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn mac_text_round_trips_and_bad_text_is_refused() {
        let mac: MacAddr = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "gg:00:5e:10:00:ff"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_macs_are_local_unicast_and_differ() {
        let (a, b) = (MacAddr::derived("n1"), MacAddr::derived("n2"));
        assert_ne!(a, b);
        let [first, ..] = a.0;
        assert_eq!(first & 0x03, 0x02);
    }

    #[test]
    fn first_of_keeps_one_of_each_family() {
        let dual = Dual::first_of(["10.0.0.1", "fd00::1", "10.0.0.2"].map(|a| a.parse().unwrap()));
        assert_eq!(dual.v4.unwrap().to_string(), "10.0.0.1");
        assert_eq!(dual.v6.unwrap().to_string(), "fd00::1");
    }
}

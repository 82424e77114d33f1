//! Ranges of addresses as numbers, the same for both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bowline_model::Family;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Addresses from the first to the last, both included, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

impl AddressRange {
    /// The addresses of a prefix that pods may have: without the network's own, the next one (a gateway's by habit) and,
    /// for IPv4, the broadcast address. Prefixes of one or two addresses are used whole.
    pub fn usable(prefix: &IpNet) -> AddressRange {
        let family = Family::of_prefix(prefix);
        let (first, last) = (number(prefix.network()), number(prefix.broadcast()));
        let (first, last) = match (last - first, family) {
            (0 | 1, _) => (first, last),
            (_, Family::V4) => (first + 2, last - 1),
            (_, Family::V6) => (first + 2, last),
        };
        AddressRange { first: address(family, first), last: address(family, last) }
    }

    /// The addresses of a prefix before those that pods may have: its own and the gateway's.
    pub(crate) fn kept(prefix: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
        let (own, usable) = (prefix.network(), AddressRange::usable(prefix));
        let whole = AddressRange { first: own, ..usable };
        whole.iter_from(own).take_while(move |ip| *ip < usable.first)
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(&self.first)
    }

    /// Whether the address is in it.
    pub fn contains(&self, ip: &IpAddr) -> bool {
        self.family() == Family::of(ip) && (self.first..=self.last).contains(ip)
    }

    /// What both have in common.
    pub(super) fn overlap(&self, other: &AddressRange) -> Option<AddressRange> {
        let range = AddressRange { first: self.first.max(other.first), last: self.last.min(other.last) };
        (self.family() == other.family() && range.first <= range.last).then_some(range)
    }

    /// How many addresses it has; the largest number stands for anything above it.
    pub(super) fn len(&self) -> u128 {
        number(self.last).checked_sub(number(self.first)).map_or(0, |span| span.saturating_add(1))
    }

    /// Its addresses in order, from `from` on.
    pub(super) fn iter_from(self, from: IpAddr) -> impl Iterator<Item = IpAddr> {
        let family = self.family();
        (number(from.max(self.first))..=number(self.last)).map(move |n| address(family, n))
    }
}

/// An address as a number.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number, which for IPv4 has to have 32 bits; a larger one gives the last address.
fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

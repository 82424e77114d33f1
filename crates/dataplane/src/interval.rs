//! Sets of addresses as sorted, disjoint, non-adjacent intervals: blocks with exceptions become what an interval set can hold.
//!
//! Both families on one path: an address is its number, in 32 or 128 bits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bowline_model::Family;
use ipnet::IpNet;

use crate::objects::nft::KeyBuilder;

/// `first..=last` of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Interval {
    /// First address.
    pub(crate) first: u128,
    /// Last address.
    pub(crate) last: u128,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn interval(prefix: &IpNet) -> Interval {
    Interval { first: number(prefix.network()), last: number(prefix.broadcast()) }
}

/// The key bytes of an address by its number.
pub(crate) fn key(family: Family, number: u128) -> Arc<[u8]> {
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    };
    KeyBuilder::new().ip(address).build()
}

/// The union of the prefixes of one family.
pub(crate) fn union<'a>(family: Family, prefixes: impl IntoIterator<Item = &'a IpNet>) -> Vec<Interval> {
    merge(prefixes.into_iter().filter(|p| Family::of_prefix(p) == family).map(interval).collect())
}

/// Sorts intervals and joins those that overlap or touch.
pub(crate) fn merge(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::with_capacity(intervals.len());
    for next in intervals {
        match merged.last_mut() {
            Some(before) if next.first <= before.last.saturating_add(1) => before.last = before.last.max(next.last),
            _ => merged.push(next),
        }
    }
    merged
}

/// What is left of a prefix without its exceptions.
pub(crate) fn without(prefix: &IpNet, except: &[IpNet]) -> Vec<Interval> {
    let whole = interval(prefix);
    let mut left = Vec::new();
    let mut next = Some(whole.first);
    for hole in union(Family::of_prefix(prefix), except) {
        let Some(first) = next.filter(|first| *first <= hole.last) else { continue };
        if hole.first > whole.last {
            break;
        }
        if hole.first > first {
            left.push(Interval { first, last: hole.first - 1 });
        }
        next = hole.last.checked_add(1);
    }
    if let Some(first) = next.filter(|first| *first <= whole.last) {
        left.push(Interval { first, last: whole.last });
    }
    left
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    fn check(prefix: &str, except: &[&str], want: &[(&str, &str)]) {
        let prefix: IpNet = prefix.parse().unwrap();
        let except: Vec<IpNet> = except.iter().map(|e| e.parse().unwrap()).collect();
        let want: Vec<Interval> = want
            .iter()
            .map(|(first, last)| Interval { first: number(first.parse().unwrap()), last: number(last.parse().unwrap()) })
            .collect();
        assert_eq!(without(&prefix, &except), want, "{prefix} without {except:?}");
    }

    #[test]
    fn exceptions_leave_the_rest() {
        check("10.0.0.0/24", &[], &[("10.0.0.0", "10.0.0.255")]);
        check("10.0.0.0/24", &["10.0.0.0/25"], &[("10.0.0.128", "10.0.0.255")]);
        check("10.0.0.0/24", &["10.0.0.128/25"], &[("10.0.0.0", "10.0.0.127")]);
        check("10.0.0.0/24", &["10.0.0.7/32", "10.0.0.6/32"], &[("10.0.0.0", "10.0.0.5"), ("10.0.0.8", "10.0.0.255")]);
        check("10.0.0.0/24", &["10.0.0.0/24"], &[]);
        check("10.0.0.0/24", &["10.0.1.0/24", "9.0.0.0/8"], &[("10.0.0.0", "10.0.0.255")]);
        check("10.0.0.0/24", &["10.0.0.0/16"], &[]);
        check("0.0.0.0/0", &["255.0.0.0/8"], &[("0.0.0.0", "254.255.255.255")]);
        check("::/0", &["8000::/1"], &[("::", "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
        check("::/0", &["::/0"], &[]);
    }

    #[test]
    fn neighbours_join() {
        let nets: Vec<IpNet> = ["10.0.1.0/24", "10.0.0.0/24", "10.0.0.0/25", "fd00::/8"].iter().map(|n| n.parse().unwrap()).collect();
        let joined = union(Family::V4, &nets);
        assert_eq!(joined, [interval(&"10.0.0.0/23".parse().unwrap())]);
        assert_eq!(&*key(Family::V4, joined.first().unwrap().last), &[10, 0, 1, 255]);
        assert_eq!(union(Family::V6, &nets).len(), 1);
    }
}

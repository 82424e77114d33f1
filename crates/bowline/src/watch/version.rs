//! Resource versions that can be compared.
//!
//! Invariant: what cannot be compared is never called older. Reference: KEP-5504 (since Kubernetes 1.35 a resource version is a decimal
//! number of any length without leading zeros, and the greater one is the later one); before, and by other servers, it is opaque.

use std::fmt;

/// The state of a kind's collection that an answer shows, as the server named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(String);

impl Version {
    /// The version of that name; none where there is no name.
    pub(super) fn new(name: &str) -> Option<Version> {
        (!name.is_empty()).then(|| Version(name.to_owned()))
    }

    /// As it is written in a request.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is surely an earlier state than the other.
    pub(super) fn is_older_than(&self, other: &Version) -> bool {
        self.is_number() && other.is_number() && (self.0.len(), &self.0) < (other.0.len(), &other.0)
    }

    fn is_number(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_digit()) && !self.0.starts_with('0')
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn numbers_compare_and_other_names_do_not() {
        let older = |a: &str, b: &str| Version::new(a).unwrap().is_older_than(&Version::new(b).unwrap());
        assert!(older("9", "10") && older("99", "100") && older("100", "101"));
        assert!(!older("10", "9") && !older("10", "10"));
        assert!(older("18446744073709551615", "18446744073709551616"), "longer than 64 bits");
        for odd in ["abc", "-1", "007", "1.5", "0"] {
            assert!(!older(odd, "10") && !older("10", odd), "{odd} was compared");
        }
        assert_eq!(Version::new(""), None);
    }
}

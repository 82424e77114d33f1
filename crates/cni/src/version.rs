//! Versions of the CNI specification, and which verbs each of them knows.
//!
//! Reference: the "Version considerations" of CNI specification 1.1.0 and its predecessors.

use std::fmt;

use crate::env::Verb;

/// A published version of the CNI specification; ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0: `ip4` and `ip6`; also meant by a configuration without `cniVersion`.
    V0_1_0,
    /// 0.2.0: as 0.1.0, with VERSION.
    V0_2_0,
    /// 0.3.0: lists of interfaces and addresses, chaining.
    V0_3_0,
    /// 0.3.1: as 0.3.0, corrected.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: an address no longer names its family.
    V1_0_0,
    /// 1.1.0: GC, STATUS, MTU and route attributes.
    V1_1_0,
}

impl Version {
    /// Every version that the plugin speaks, oldest first.
    pub const SUPPORTED: [Version; 7] =
        [Version::V0_1_0, Version::V0_2_0, Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// The newest version.
    pub const CURRENT: Version = Version::V1_1_0;

    /// The version as it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V0_1_0 => "0.1.0",
            Version::V0_2_0 => "0.2.0",
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version written as `text`. The empty string stands for 0.1.0, as a missing `cniVersion` does.
    pub fn parse(text: &str) -> Option<Version> {
        if text.is_empty() {
            return Some(Version::V0_1_0);
        }
        Version::SUPPORTED.into_iter().find(|version| version.as_str() == text)
    }

    /// Whether this version of the specification has the verb. ADD and DEL are in all of them; VERSION is
    /// answered whatever the version, since its purpose is to find one.
    pub fn has_verb(self, verb: Verb) -> bool {
        match verb {
            Verb::Add | Verb::Del | Verb::Version => true,
            Verb::Check => self >= Version::V0_4_0,
            Verb::Gc | Verb::Status => self >= Version::V1_1_0,
        }
    }

    /// All supported versions as strings, oldest first.
    pub fn all_as_str() -> Vec<&'static str> {
        Version::SUPPORTED.iter().map(|v| v.as_str()).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

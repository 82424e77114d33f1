//! What can go wrong with nftables, and whether another try may help.

use std::sync::Arc;

use rustix::io::Errno;

/// An object that cannot be put into the kernel's terms; it is refused before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A value does not fit into the registers.
    #[error("a value of {bytes} bytes does not fit at register {register}: there are 16 registers of 4 bytes")]
    Registers {
        /// First register.
        register: u8,
        /// Length of the value.
        bytes: usize,
    },
    /// Bytes of a wrong number.
    #[error("{what} has {bytes} bytes where {expected} are needed")]
    Length {
        /// Of what.
        what: &'static str,
        /// What it has.
        bytes: usize,
        /// What it must have.
        expected: usize,
    },
    /// The key and the object are of different kinds.
    #[error("the key names another kind of object than the value holds")]
    Kind,
    /// An element's set does not exist.
    #[error("the set {set} of this element does not exist in table bowline")]
    NoSet {
        /// The set's name.
        set: Arc<str>,
    },
    /// An element's data is not what its set holds.
    #[error("the element's data is not of the kind that the set {set} holds")]
    Data {
        /// The set's name.
        set: Arc<str>,
    },
    /// An element of a set that only packets may fill.
    #[error("the set {set} is filled by packets and takes no elements from here")]
    Dynamic {
        /// The set's name.
        set: Arc<str>,
    },
    /// An interval whose end lies before its start, or an end where the set has no intervals.
    #[error("the element's end is not that of an interval of set {set}")]
    Interval {
        /// The set's name.
        set: Arc<str>,
    },
    /// A set whose shape the kernel does not know.
    #[error("the set's key or data cannot be: {reason}")]
    Set {
        /// Why.
        reason: &'static str,
    },
    /// A name that is empty, too long or has other bytes than nftables allows.
    #[error("the name {name:?} cannot be used in nftables: 1 to 255 letters, digits, '_', '-', '.' or '/'")]
    Name {
        /// The name.
        name: Arc<str>,
    },
    /// A comment of more than 120 bytes.
    #[error("the comment has {bytes} bytes, 120 is the most")]
    Comment {
        /// Its length.
        bytes: usize,
    },
    /// A prefix of what is logged of more than 127 bytes.
    #[error("the prefix of what is logged has {bytes} bytes, 127 is the most")]
    Prefix {
        /// Its length.
        bytes: usize,
    },
    /// A random number below 0 was asked for.
    #[error("a random number needs a modulus of at least 1")]
    Modulus,
    /// A rule too long for a netlink attribute.
    #[error("the rule is too long for the kernel: split it")]
    TooLong,
}

/// A failure to talk to nftables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NftError {
    /// The netlink socket failed.
    #[error("netlink socket to nftables: {operation}: {errno}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel refused a request.
    #[error("nftables refused to {operation}: {errno}{}", words.as_deref().map(|w| format!(" ({w})")).unwrap_or_default())]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The kernel's answer.
        errno: Errno,
        /// The kernel's words, if any.
        words: Option<String>,
    },
    /// The objects changed under every dump.
    #[error("nftables changed {times} times while {operation} ran: someone rewrites rules without pause")]
    Unsteady {
        /// What was read.
        operation: &'static str,
        /// How often it was tried.
        times: u32,
    },
    /// Every transaction was refused for another reason.
    #[error("not done: {attempts} transactions were refused, each for another object; those are told, try again without them")]
    GaveUp {
        /// How many were sent.
        attempts: u32,
    },
    /// The kernel did not acknowledge a transaction, nor refuse it.
    #[error("the kernel gave no answer to a transaction of {bytes} bytes: its outcome must be read back")]
    NoAnswer {
        /// Length of the transaction.
        bytes: usize,
    },
    /// An object that cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The network namespace could not be entered.
    #[error("cannot enter the network namespace: {reason}")]
    Namespace {
        /// Why.
        reason: String,
    },
}

impl NftError {
    /// Whether the same request may succeed later without a change to it.
    pub fn may_retry(&self) -> bool {
        match self {
            NftError::Socket { errno, .. } | NftError::Refused { errno, .. } => {
                !matches!(*errno, Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT)
            }
            NftError::Unsteady { .. } | NftError::GaveUp { .. } | NftError::NoAnswer { .. } | NftError::Namespace { .. } => true,
            NftError::Encode(error) => matches!(error, EncodeError::NoSet { .. }),
        }
    }

    pub(super) fn errno(&self) -> Option<Errno> {
        match self {
            NftError::Socket { errno, .. } | NftError::Refused { errno, .. } => Some(*errno),
            NftError::Unsteady { .. }
            | NftError::GaveUp { .. }
            | NftError::NoAnswer { .. }
            | NftError::Namespace { .. }
            | NftError::Encode(_) => None,
        }
    }
}

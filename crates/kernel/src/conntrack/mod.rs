//! Connection tracking: reading entries, deleting and marking single ones, by ctnetlink.
//!
//! Invariant: never flushes; an entry is deleted by its own tuple, zone and id, so that one that took its place in between is not hit.
//! Reference: uapi linux/netfilter/nfnetlink_conntrack.h. All numbers within attributes are in network order.

mod room;

use std::io;
use std::net::IpAddr;

use bowline_model::Family;
use thiserror::Error;

use crate::netlink::socket::{Connection, WireError};
use crate::netns::{NetNs, NetNsError};
use crate::wire::{Attrs, Message, Received, flags};

pub use room::Room;

const SUBSYSTEM: u16 = 1 << 8;
const MSG_NEW: u16 = SUBSYSTEM;
const MSG_GET: u16 = SUBSYSTEM | 1;
const MSG_DELETE: u16 = SUBSYSTEM | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;

/// `TCP_CONNTRACK_SYN_SENT` and `TCP_CONNTRACK_ESTABLISHED`.
const TCP_SYN_SENT: u8 = 1;
const TCP_ESTABLISHED: u8 = 3;
/// `struct nf_ct_tcp_flags` that sets `IP_CT_TCP_FLAG_BE_LIBERAL`: sequence numbers are not held against what was seen.
const LIBERAL_FLAGS: [u8; 2] = [0x08, 0x08];

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`.
const STATUS_SEEN_REPLY: u32 = 1 << 1;
const STATUS_ASSURED: u32 = 1 << 2;
const STATUS_CONFIRMED: u32 = 1 << 3;

/// How long an unanswered beginning is remembered, in seconds.
const SYN_SENT_TIMEOUT_S: u32 = 120;

/// Length of `struct nfgenmsg`.
const NFGEN_BYTES: usize = 4;

/// `IPS_DST_NAT`: the destination was translated.
const STATUS_DNAT: u32 = 1 << 5;

/// Why conntrack could not be read or changed.
#[derive(Debug, Error)]
pub enum ConntrackError {
    /// The socket failed.
    #[error("cannot {operation} connection tracking entries: the netlink socket says: {source}")]
    Socket {
        /// What was to be done.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {operation} connection tracking entries: {}; {}", io::Error::from_raw_os_error(*errno), reason(*errno))]
    Refused {
        /// What was to be done.
        operation: &'static str,
        /// Its number for it.
        errno: i32,
    },
    /// The namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NetNsError),
}

/// What a refusal means, as far as its number tells.
fn reason(errno: i32) -> &'static str {
    match errno {
        libc::ENOMEM | libc::ENOSPC => "the table is full (nf_conntrack_max), or memory is",
        libc::EPERM | libc::EACCES => "it takes the capability NET_ADMIN",
        _ => "does the kernel have nf_conntrack_netlink?",
    }
}

impl ConntrackError {
    fn from_wire(operation: &'static str, error: WireError) -> Self {
        match error {
            WireError::Socket(source) => ConntrackError::Socket { operation, source },
            WireError::Refused { errno, .. } => ConntrackError::Refused { operation, errno },
        }
    }

    /// Whether the same call may succeed later by itself.
    pub fn may_retry(&self) -> bool {
        match self {
            ConntrackError::Socket { .. } => true,
            ConntrackError::Refused { errno, .. } => matches!(*errno, libc::EBUSY | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS),
            ConntrackError::Namespace(error) => error.may_retry(),
        }
    }
}

/// What tells two connections of the same addresses and protocol apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discriminator {
    /// Ports, of TCP, UDP, SCTP and the like.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// The identifier, type and code of an ICMP or ICMPv6 query.
    Icmp {
        /// Identifier.
        id: u16,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// The protocol has nothing of the kind.
    Nothing,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Ports or the like.
    pub discriminator: Discriminator,
}

impl Tuple {
    /// The tuple of the answers, where nothing is translated. Queries of ICMP are not of one kind with their answers, and are not for this.
    pub fn answers(&self) -> Tuple {
        let discriminator = match self.discriminator {
            Discriminator::Ports { source, destination } => Discriminator::Ports { source: destination, destination: source },
            Discriminator::Icmp { .. } | Discriminator::Nothing => self.discriminator,
        };
        Tuple { source: self.destination, destination: self.source, protocol: self.protocol, discriminator }
    }

    /// The destination port, if the protocol has ports.
    pub fn destination_port(&self) -> Option<u16> {
        match self.discriminator {
            Discriminator::Ports { destination, .. } => Some(destination),
            Discriminator::Icmp { .. } | Discriminator::Nothing => None,
        }
    }

    /// The source port, if the protocol has ports.
    pub fn source_port(&self) -> Option<u16> {
        match self.discriminator {
            Discriminator::Ports { source, .. } => Some(source),
            Discriminator::Icmp { .. } | Discriminator::Nothing => None,
        }
    }
}

/// A tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The packets of the one who began, as they came in.
    pub original: Tuple,
    /// The answers, as they come in: what translation was done shows here.
    pub reply: Tuple,
    /// The connection's mark.
    pub mark: u32,
    /// Status bits, `IPS_*`.
    pub status: u32,
    /// Zone; 0 is the usual one.
    pub zone: u16,
    /// Seconds until it is forgotten.
    pub timeout_s: u32,
    /// The kernel's number for it.
    pub id: Option<u32>,
}

impl Entry {
    /// What is known of a connection by its first packet alone, if nothing translates it: without a number, so that whatever has its tuple is meant.
    pub fn untranslated(original: Tuple) -> Entry {
        Entry { original, reply: original.answers(), mark: 0, status: 0, zone: 0, timeout_s: 0, id: None }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(&self.original.source)
    }

    /// Whether its destination was translated; [`Entry::backend`] is then where it went.
    pub fn is_dnat(&self) -> bool {
        self.status & STATUS_DNAT != 0
    }

    /// Where its packets really go: the source of the answers.
    pub fn backend(&self) -> (IpAddr, Option<u16>) {
        (self.reply.source, self.reply.source_port())
    }
}

/// A connection to ctnetlink in one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    connection: Connection,
}

impl Conntrack {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// If no socket can be had.
    pub fn open() -> Result<Conntrack, ConntrackError> {
        let connection = Connection::open(netlink_sys::protocols::NETLINK_NETFILTER)
            .map_err(|source| ConntrackError::Socket { operation: "open", source })?;
        Ok(Conntrack { connection })
    }

    /// Opens one in another network namespace.
    ///
    /// # Errors
    /// If it cannot be entered or no socket can be had.
    pub fn open_in(ns: &NetNs) -> Result<Conntrack, ConntrackError> {
        ns.run(Conntrack::open)?
    }

    /// All entries of both families.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn entries(&mut self) -> Result<Vec<Entry>, ConntrackError> {
        self.entries_where(|_| true)
    }

    /// The entries that `wanted` chooses; the others are not kept.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn entries_where(&mut self, mut wanted: impl FnMut(&Entry) -> bool) -> Result<Vec<Entry>, ConntrackError> {
        let message = Message::new(MSG_GET, flags::REQUEST | flags::DUMP, &nfgen(0));
        self.connection
            .ask(message, |received| parse(received).filter(&mut wanted))
            .map_err(|error| ConntrackError::from_wire("list", error))
    }

    /// The entries whose mark has all of `bits`, and that `wanted` chooses. The kernel gives no others, so few cost little among many.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn entries_marked(&mut self, bits: u32, mut wanted: impl FnMut(&Entry) -> bool) -> Result<Vec<Entry>, ConntrackError> {
        let mut message = Message::new(MSG_GET, flags::REQUEST | flags::DUMP, &nfgen(0));
        message.attr_be32(CTA_MARK, bits).attr_be32(CTA_MARK_MASK, bits);
        self.connection
            .ask(message, |received| parse(received).filter(&mut wanted))
            .map_err(|error| ConntrackError::from_wire("list", error))
    }

    /// Sets bits of an entry's mark, and leaves the others; says whether it was still there. What took its place in between is marked in its stead: the
    /// kernel does not ask for the number here.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn mark(&mut self, entry: &Entry, bits: u32) -> Result<bool, ConntrackError> {
        self.set_mark(entry, bits, bits)
    }

    /// Clears bits of an entry's mark, and leaves the others; as [`Conntrack::mark`].
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn unmark(&mut self, entry: &Entry, bits: u32) -> Result<bool, ConntrackError> {
        self.set_mark(entry, 0, bits)
    }

    fn set_mark(&mut self, entry: &Entry, mark: u32, mask: u32) -> Result<bool, ConntrackError> {
        let mut message = Message::new(MSG_NEW, flags::REQUEST | flags::ACK, &nfgen(af(entry.family())));
        put_tuple(&mut message, CTA_TUPLE_ORIG, &entry.original);
        if entry.zone != 0 {
            message.attr_be16(CTA_ZONE, entry.zone);
        }
        // The kernel clears the bits of the mask, and then turns those of the mark.
        message.attr_be32(CTA_MARK, mark).attr_be32(CTA_MARK_MASK, mask);
        match self.connection.execute(message) {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::ENOENT) => Ok(false),
            Err(error) => Err(ConntrackError::from_wire("mark", error)),
        }
    }

    /// Marks entries; says how many were still there.
    ///
    /// # Errors
    /// The first refusal; the others are tried nevertheless.
    pub fn mark_all(&mut self, entries: &[Entry], bits: u32) -> Result<usize, ConntrackError> {
        self.each(entries, |conntrack, entry| conntrack.mark(entry, bits))
    }

    /// Clears bits of entries' marks; says how many were still there.
    ///
    /// # Errors
    /// The first refusal; the others are tried nevertheless.
    pub fn unmark_all(&mut self, entries: &[Entry], bits: u32) -> Result<usize, ConntrackError> {
        self.each(entries, |conntrack, entry| conntrack.unmark(entry, bits))
    }

    /// Makes a TCP connection known that went on without connection tracking, untranslated, as if its packets had been seen: established where
    /// it was `answered`, for `timeout_s` seconds from now if nothing more is seen; else only begun. Says whether it was unknown.
    ///
    /// # Errors
    /// The kernel's refusal: ENOMEM or ENOSPC where there is no room.
    pub fn adopt_tcp(&mut self, original: &Tuple, answered: bool, timeout_s: u32) -> Result<bool, ConntrackError> {
        let family = Family::of(&original.source);
        let mut message = Message::new(MSG_NEW, flags::REQUEST | flags::ACK | flags::CREATE | flags::EXCLUSIVE, &nfgen(af(family)));
        put_tuple(&mut message, CTA_TUPLE_ORIG, original);
        put_tuple(&mut message, CTA_TUPLE_REPLY, &original.answers());
        let (state, status, timeout_s) = match answered {
            true => (TCP_ESTABLISHED, STATUS_CONFIRMED | STATUS_SEEN_REPLY | STATUS_ASSURED, timeout_s),
            false => (TCP_SYN_SENT, STATUS_CONFIRMED, SYN_SENT_TIMEOUT_S),
        };
        message.attr_be32(CTA_STATUS, status).attr_be32(CTA_TIMEOUT, timeout_s);
        message.nested(CTA_PROTOINFO, |m| {
            m.nested(CTA_PROTOINFO_TCP, |m| {
                m.attr_u8(CTA_PROTOINFO_TCP_STATE, state);
                m.attr(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, &LIBERAL_FLAGS).attr(CTA_PROTOINFO_TCP_FLAGS_REPLY, &LIBERAL_FLAGS);
            });
        });
        match self.connection.execute(message) {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::EEXIST) => Ok(false),
            Err(error) => Err(ConntrackError::from_wire("add", error)),
        }
    }

    /// Deletes an entry; says whether it was still there.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, ConntrackError> {
        let mut message = Message::new(MSG_DELETE, flags::REQUEST | flags::ACK, &nfgen(af(entry.family())));
        put_tuple(&mut message, CTA_TUPLE_ORIG, &entry.original);
        if entry.zone != 0 {
            message.attr_be16(CTA_ZONE, entry.zone);
        }
        if let Some(id) = entry.id {
            message.attr_be32(CTA_ID, id);
        }
        match self.connection.execute(message) {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::ENOENT) => Ok(false),
            Err(error) => Err(ConntrackError::from_wire("delete", error)),
        }
    }

    /// Deletes the entries that `doomed` chooses; says how many there were.
    ///
    /// # Errors
    /// If the kernel does not answer, or the first refusal; the others are tried nevertheless.
    pub fn delete_where(&mut self, doomed: impl FnMut(&Entry) -> bool) -> Result<usize, ConntrackError> {
        let doomed = self.entries_where(doomed)?;
        self.delete_all(&doomed)
    }

    /// Deletes entries; says how many were still there.
    ///
    /// # Errors
    /// The first refusal; the others are tried nevertheless.
    pub fn delete_all(&mut self, entries: &[Entry]) -> Result<usize, ConntrackError> {
        self.each(entries, Conntrack::delete)
    }

    fn each(
        &mut self,
        entries: &[Entry],
        mut change: impl FnMut(&mut Conntrack, &Entry) -> Result<bool, ConntrackError>,
    ) -> Result<usize, ConntrackError> {
        let mut first_error = None;
        let mut changed = 0;
        for entry in entries {
            match change(self, entry) {
                Ok(was_there) => changed += usize::from(was_there),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(changed), Err)
    }
}

/// `struct nfgenmsg`.
fn nfgen(af: u8) -> [u8; NFGEN_BYTES] {
    [af, 0, 0, 0]
}

fn af(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn put_tuple(message: &mut Message, kind: u16, tuple: &Tuple) {
    let family = Family::of(&tuple.source);
    let (source, destination) = match family {
        Family::V4 => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        Family::V6 => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    let (icmp_id, icmp_type, icmp_code) = match family {
        Family::V4 => (CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE),
        Family::V6 => (CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE),
    };
    message.nested(kind, |m| {
        m.nested(CTA_TUPLE_IP, |m| {
            m.attr_ip(source, tuple.source).attr_ip(destination, tuple.destination);
        });
        m.nested(CTA_TUPLE_PROTO, |m| {
            m.attr_u8(CTA_PROTO_NUM, tuple.protocol);
            match tuple.discriminator {
                Discriminator::Ports { source, destination } => {
                    m.attr_be16(CTA_PROTO_SRC_PORT, source).attr_be16(CTA_PROTO_DST_PORT, destination);
                }
                Discriminator::Icmp { id, kind, code } => {
                    m.attr_be16(icmp_id, id).attr_u8(icmp_type, kind).attr_u8(icmp_code, code);
                }
                Discriminator::Nothing => {}
            }
        });
    });
}

fn parse(message: &Received<'_>) -> Option<Entry> {
    if message.kind != MSG_NEW {
        return None;
    }
    let attrs = message.attrs(NFGEN_BYTES);
    Some(Entry {
        original: parse_tuple(attrs.nested(CTA_TUPLE_ORIG))?,
        reply: parse_tuple(attrs.nested(CTA_TUPLE_REPLY))?,
        mark: attrs.be32(CTA_MARK).unwrap_or(0),
        status: attrs.be32(CTA_STATUS).unwrap_or(0),
        zone: attrs.be16(CTA_ZONE).unwrap_or(0),
        timeout_s: attrs.be32(CTA_TIMEOUT).unwrap_or(0),
        id: attrs.be32(CTA_ID),
    })
}

fn parse_tuple(tuple: Attrs<'_>) -> Option<Tuple> {
    let (addresses, protocol) = (tuple.nested(CTA_TUPLE_IP), tuple.nested(CTA_TUPLE_PROTO));
    let ports = protocol.be16(CTA_PROTO_SRC_PORT).zip(protocol.be16(CTA_PROTO_DST_PORT));
    let icmp = |id, kind, code| Some(Discriminator::Icmp { id: protocol.be16(id)?, kind: protocol.u8(kind)?, code: protocol.u8(code)? });
    let discriminator = ports
        .map(|(source, destination)| Discriminator::Ports { source, destination })
        .or_else(|| icmp(CTA_PROTO_ICMP_ID, CTA_PROTO_ICMP_TYPE, CTA_PROTO_ICMP_CODE))
        .or_else(|| icmp(CTA_PROTO_ICMPV6_ID, CTA_PROTO_ICMPV6_TYPE, CTA_PROTO_ICMPV6_CODE))
        .unwrap_or(Discriminator::Nothing);
    Some(Tuple {
        source: addresses.ip(CTA_IP_V4_SRC).or_else(|| addresses.ip(CTA_IP_V6_SRC))?,
        destination: addresses.ip(CTA_IP_V4_DST).or_else(|| addresses.ip(CTA_IP_V6_DST))?,
        protocol: protocol.u8(CTA_PROTO_NUM)?,
        discriminator,
    })
}

#[cfg(test)]
mod tests;

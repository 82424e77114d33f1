//! nftables objects of our tables, at the level of the kernel's own expressions (uapi/linux/netfilter/nf_tables.h).
//!
//! Rules are lists of register-level expressions, so that what is lowered here is what the kernel runs, what the interpreter judges, and
//! nothing stands between. All byte strings are in network order unless said otherwise; integers that the kernel keeps in host order (marks,
//! interface indices, numgen results) say so.

use std::net::IpAddr;
use std::sync::Arc;

/// The name of our tables, one of each [`TableFamily`].
pub const TABLE: &str = "bowline";

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TableFamily {
    /// `inet`: IPv4 and IPv6.
    #[default]
    Inet,
    /// `arp`: what this machine hears and says of ARP (RFC 826).
    Arp,
}

/// What identifies an object of a table. The order is the order of making; removal goes the other way round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NftKey {
    /// A counter that rules share, by name. What it has counted is the kernel's: it goes on whatever becomes of the rules.
    Counter(Arc<str>),
    /// A set or map by name.
    Set(Arc<str>),
    /// A chain with all its rules, by name.
    Chain(Arc<str>),
    /// An element of a set or map.
    Element {
        /// The set's name.
        set: Arc<str>,
        /// Its key: each field padded to four bytes, as in registers. Of an interval set: the first value of the interval.
        key: Arc<[u8]>,
    },
}

/// What the object must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NftObject {
    /// A counter.
    Counter,
    /// A set or map.
    Set(SetSpec),
    /// A chain.
    Chain(ChainSpec),
    /// An element.
    Element(ElementSpec),
}

/// A field of a set's key or a map's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// IPv4 address, 4 bytes.
    Ipv4,
    /// IPv6 address, 16 bytes.
    Ipv6,
    /// Ethernet address, 6 bytes (8 in a register).
    Ether,
    /// IP protocol number, 1 byte (4 in a register).
    Proto,
    /// Port, 2 bytes (4 in a register).
    Port,
    /// Mark, 4 bytes in host order.
    Mark,
    /// Number, 4 bytes in host order (numgen).
    Index,
    /// Interface name, 16 bytes, zero-filled.
    IfName,
}

impl Field {
    /// Bytes without padding.
    pub fn bytes(self) -> u32 {
        match self {
            Field::Ipv4 | Field::Mark | Field::Index => 4,
            Field::Ipv6 | Field::IfName => 16,
            Field::Ether => 6,
            Field::Proto => 1,
            Field::Port => 2,
        }
    }

    /// Bytes in registers: padded to a multiple of four.
    pub fn padded_bytes(self) -> u32 {
        self.bytes().div_ceil(4) * 4
    }
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// The key's fields; more than one is a concatenation.
    pub key: Vec<Field>,
    /// What elements hold.
    pub data: SetData,
    /// Elements are intervals `[key, end]` (single field only).
    pub interval: bool,
    /// Filled by packets (`Dynset`), never by us: its elements are the kernel's and are not read back. With it, the elements' lifetime in milliseconds.
    pub dynamic_timeout_ms: Option<u64>,
    /// Upper bound of the number of elements; none is the kernel's default. Needed for dynamic sets.
    pub size: Option<u32>,
}

/// What elements of a set hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: a plain set.
    Nothing,
    /// A verdict: a verdict map.
    Verdict,
    /// A value of these fields: a map.
    Value(Vec<Field>),
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementSpec {
    /// Of an interval set: the last value of the interval (inclusive).
    pub end: Option<Arc<[u8]>>,
    /// What it holds.
    pub data: ElementData,
}

/// What an element holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementData {
    /// Nothing.
    Nothing,
    /// A verdict.
    Verdict(Verdict),
    /// A value: each field padded to four bytes.
    Value(Arc<[u8]>),
}

/// A chain with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSpec {
    /// Where it hooks in, for a base chain.
    pub base: Option<BaseChain>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Its expressions in order.
    pub expressions: Vec<Expr>,
    /// What people are shown (`nft list`), at most 120 bytes; part of the rule's identity.
    pub comment: Option<Arc<str>>,
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// Type.
    pub kind: ChainKind,
    /// Hook.
    pub hook: Hook,
    /// Priority.
    pub priority: i32,
    /// Whether packets pass at its end (`accept`), or not (`drop`).
    pub accept: bool,
}

/// Type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// `filter`.
    Filter,
    /// `nat`: sees the first packet of a connection only.
    Nat,
    /// `route`: routes anew what it changed (output only).
    Route,
}

/// Netfilter hooks. Tables of the family `inet` have all but the last, those of `arp` that one alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// NF_INET_PRE_ROUTING.
    Prerouting,
    /// NF_INET_LOCAL_IN.
    Input,
    /// NF_INET_FORWARD.
    Forward,
    /// NF_INET_LOCAL_OUT.
    Output,
    /// NF_INET_POST_ROUTING.
    Postrouting,
    /// NF_ARP_IN: what is heard. The network header is ARP's own.
    Arp,
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Lets the packet pass this hook's chain.
    Accept,
    /// Drops it.
    Drop,
    /// Goes back to the calling chain.
    Return,
    /// Calls a chain.
    Jump(Arc<str>),
    /// Goes to a chain for good.
    Goto(Arc<str>),
}

/// A 32-bit register, 0 to 15 (`NFT_REG32_00` and on). Longer values take the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(pub u8);

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expr {
    /// Loads packet metadata.
    Meta {
        /// Which.
        key: MetaKey,
        /// Where to.
        to: Reg,
    },
    /// Sets the packet's mark from a register.
    MetaSetMark {
        /// The value, host order.
        from: Reg,
    },
    /// Loads bytes of the packet; a packet that is too short does not match.
    Payload {
        /// Header that `offset` counts from.
        base: PayloadBase,
        /// Bytes from the header's start.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Where to.
        to: Reg,
    },
    /// Loads from the packet's connection.
    Ct {
        /// Which.
        key: CtKey,
        /// Where to.
        to: Reg,
    },
    /// Sets the connection's mark from a register.
    CtSetMark {
        /// The value, host order.
        from: Reg,
    },
    /// Loads a constant (padded to four bytes).
    Immediate {
        /// Where to.
        to: Reg,
        /// The bytes.
        data: Arc<[u8]>,
    },
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Goes on if `register (op) data`, compared as byte strings.
    Cmp {
        /// Equal or not.
        op: CmpOp,
        /// Register.
        from: Reg,
        /// Bytes; only so many are compared.
        data: Arc<[u8]>,
    },
    /// Goes on if the register's value lies in `low..=high` (or not), compared as byte strings.
    Range {
        /// Not in the range instead.
        invert: bool,
        /// Register.
        from: Reg,
        /// First value.
        low: Arc<[u8]>,
        /// Last value.
        high: Arc<[u8]>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        /// Source.
        from: Reg,
        /// Destination.
        to: Reg,
        /// Bytes that are not masked out.
        mask: Arc<[u8]>,
        /// Bytes to xor; as long as `mask`.
        xor: Arc<[u8]>,
    },
    /// Looks a key up in a set: goes on if it is there (or not).
    Lookup {
        /// The set.
        set: Arc<str>,
        /// First register of the key.
        key: Reg,
        /// Go on if it is not there.
        invert: bool,
    },
    /// Looks a key up in a map: loads the value, or goes no further in this rule.
    LookupValue {
        /// The map.
        set: Arc<str>,
        /// First register of the key.
        key: Reg,
        /// First register of the value.
        to: Reg,
    },
    /// Looks a key up in a verdict map: ends with its verdict, or goes no further in this rule.
    LookupVerdict {
        /// The map.
        set: Arc<str>,
        /// First register of the key.
        key: Reg,
    },
    /// Loads a random number below `modulus` (host order).
    Random {
        /// Where to.
        to: Reg,
        /// Bound, not 0.
        modulus: u32,
    },
    /// Adds an element to a dynamic map, or renews the lifetime of the one that is there (its value stays).
    Update {
        /// The map.
        set: Arc<str>,
        /// First register of the key.
        key: Reg,
        /// First register of the value.
        data: Option<Reg>,
        /// Lifetime in milliseconds.
        timeout_ms: u64,
    },
    /// Takes an element out of a dynamic map. `Update` leaves the value of an element that is there as it is and only renews its lifetime
    /// (nft_dynset, seen with kernel 6.18), so a value is changed by `Delete` and `Update`.
    Delete {
        /// The map.
        set: Arc<str>,
        /// First register of the key.
        key: Reg,
        /// First register of a value; the kernel wants one named for a map, and does not look at it.
        data: Option<Reg>,
    },
    /// Translates the destination to the address and port in registers; ends the rule.
    Dnat {
        /// Family of the address.
        family: bowline_model::Family,
        /// First register of the address.
        address: Reg,
        /// Register of the port.
        port: Option<Reg>,
    },
    /// Translates the source to the address in registers; ends the rule.
    Snat {
        /// Family of the address.
        family: bowline_model::Family,
        /// First register of the address.
        address: Reg,
        /// Choose the port at random (`NF_NAT_RANGE_PROTO_RANDOM_FULLY`).
        random_fully: bool,
    },
    /// Translates the source to the outgoing link's address; ends the rule.
    Masquerade {
        /// Choose the port at random.
        random_fully: bool,
    },
    /// Loads the type of the destination or source address as the routing table knows it (`RTN_*`, host order, 4 bytes).
    FibType {
        /// Destination address if true, else source address.
        destination: bool,
        /// Where to.
        to: Reg,
    },
    /// Refuses: TCP reset.
    RejectReset,
    /// Refuses: ICMP or ICMPv6 port unreachable, by the packet's family.
    RejectPort,
    /// Counts packets and bytes; the values are the kernel's.
    Counter,
    /// Counts on a counter of the table, which outlives the rule.
    Count {
        /// The counter's name.
        counter: Arc<str>,
    },
    /// Goes on with so many packets a second at most; a rule that has it must decide nothing.
    Limit {
        /// Packets a second.
        per_second: u64,
        /// Packets that may come at once.
        burst: u32,
    },
    /// Gives the beginning of the packet to whoever listens to a group of nfnetlink_log, and goes on; nobody need listen.
    Log {
        /// The group.
        group: u16,
        /// What it is given with, at most 127 bytes.
        prefix: Arc<str>,
        /// Bytes of the packet, from the IP header on.
        snap_bytes: u32,
    },
    /// Leaves the connection untracked.
    Notrack,
}

/// Comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
}

/// Header that a payload offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadBase {
    /// Ethernet header.
    Link,
    /// IP header.
    Network,
    /// Transport header.
    Transport,
}

/// Packet metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaKey {
    /// Family of the hook's packet: NFPROTO_IPV4 = 2, NFPROTO_IPV6 = 10, one byte.
    NfProto,
    /// Transport protocol number, one byte.
    L4Proto,
    /// Name of the link that it came in by, 16 bytes.
    IifName,
    /// Name of the link that it leaves by, 16 bytes.
    OifName,
    /// Mark, 4 bytes, host order.
    Mark,
    /// Type of the link that it came in by: ARPHRD_*, 2 bytes, host order.
    IifType,
}

/// What a connection knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CtKey {
    /// State bits (`NF_CT_STATE_*`): invalid 1, established 2, related 4, new 8, untracked 64; 4 bytes, host order.
    State,
    /// Status bits (`IPS_*`): dnat is 1 << 5, snat 1 << 4; 4 bytes, host order.
    Status,
    /// Mark, 4 bytes, host order.
    Mark,
    /// Direction: 0 original, 1 reply; one byte.
    Direction,
}

/// Builds keys and values: fields one after another, each padded to four bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    /// Nothing yet.
    pub fn new() -> Self {
        // Room for the longest key there is (`live6`), so that it never grows.
        KeyBuilder(Vec::with_capacity(44))
    }

    fn push(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
        self
    }

    /// An address of either family.
    #[must_use]
    pub fn ip(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => self.push(&a.octets()),
            IpAddr::V6(a) => self.push(&a.octets()),
        }
    }

    /// A protocol number.
    #[must_use]
    pub fn proto(self, number: u8) -> Self {
        self.push(&[number])
    }

    /// A port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }

    /// A MAC address.
    #[must_use]
    pub fn mac(self, mac: bowline_model::MacAddr) -> Self {
        self.push(&mac.0)
    }

    /// A number or mark in host order.
    #[must_use]
    pub fn host_u32(self, number: u32) -> Self {
        self.push(&number.to_ne_bytes())
    }

    /// An interface name, zero-filled to 16 bytes; what is longer than 15 bytes is cut.
    #[must_use]
    pub fn ifname(self, name: &str) -> Self {
        let mut bytes = [0_u8; 16];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
            *to = from;
        }
        self.push(&bytes)
    }

    /// The bytes.
    pub fn build(self) -> Arc<[u8]> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn keys_pad_each_field_to_a_register() {
        let key = KeyBuilder::new().ip("10.0.0.1".parse().unwrap()).proto(6).port(80).build();
        assert_eq!(&*key, &[10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(KeyBuilder::new().ifname("eth0").build().len(), 16);
        assert_eq!(Field::Ether.padded_bytes(), 8);
    }
}

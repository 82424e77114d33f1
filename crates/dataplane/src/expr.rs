//! Builders over [`Expr`], so that rules read as sentences.
//!
//! Invariant: each step loads what it compares into registers itself, from [`Reg`] 0 on, unless the register is named; steps therefore stand
//! in any order. Header offsets are those of RFC 791, 8200, 9293 and 768.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{Family, Protocol};

use crate::objects::nft::{CmpOp, CtKey, Expr, Field, KeyBuilder, MetaKey, PayloadBase, Reg, Rule, Verdict};

/// First letters of the name of every pod's link.
pub(crate) const POD_LINKS: &str = "bwl";
/// First letters of the name of every fabric link.
pub(crate) const FABRIC_LINKS: &str = "bowline";

/// `NF_CT_STATE_*` bits of connections that have been judged.
pub(crate) const CT_KNOWN: u32 = 2 | 4;
/// `NF_CT_STATE_INVALID_BIT`.
pub(crate) const CT_INVALID: u32 = 1;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
pub(crate) const CT_NEW: u32 = 8;
/// `IPS_DST_NAT`.
pub(crate) const CT_DNAT: u32 = 1 << 5;
/// `RTN_LOCAL`.
pub(crate) const RTN_LOCAL: u32 = 2;

const COMMENT_BYTES: usize = 120;

/// A part of a key, as it is loaded from the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Source address.
    Saddr(Family),
    /// Destination address.
    Daddr(Family),
    /// Transport protocol.
    L4Proto,
    /// Destination port.
    Dport,
    /// Link that it came in by.
    IifName,
    /// Link that it leaves by.
    OifName,
    /// Ethernet source.
    EtherSaddr,
    /// Of a neighbour solicitation or advertisement: the address that it is about (RFC 4861 sections 4.3 and 4.4).
    NeighbourTarget,
    /// Of ARP for IPv4 over Ethernet (RFC 826): the station that says to have sent it.
    ArpSenderMac,
    /// The address that it says to have.
    ArpSender,
    /// The address that it asks for or answers.
    ArpTarget,
    /// The address of all zeros, in place of a real one.
    NoAddress(Family),
}

impl Part {
    /// Number of registers that it takes.
    pub(crate) fn registers(self) -> u8 {
        match self {
            Part::Saddr(f) | Part::Daddr(f) | Part::NoAddress(f) => f.address_bytes() / 4,
            Part::L4Proto | Part::Dport | Part::ArpSender | Part::ArpTarget => 1,
            Part::IifName | Part::OifName | Part::NeighbourTarget => 4,
            Part::EtherSaddr | Part::ArpSenderMac => 2,
        }
    }

    fn expression(self, to: Reg) -> Expr {
        let payload = |base, offset, len| Expr::Payload { base, offset, len, to };
        match self {
            Part::Saddr(Family::V4) => payload(PayloadBase::Network, 12, 4),
            Part::Saddr(Family::V6) => payload(PayloadBase::Network, 8, 16),
            Part::Daddr(Family::V4) => payload(PayloadBase::Network, 16, 4),
            Part::Daddr(Family::V6) => payload(PayloadBase::Network, 24, 16),
            Part::L4Proto => Expr::Meta { key: MetaKey::L4Proto, to },
            Part::Dport => payload(PayloadBase::Transport, 2, 2),
            Part::IifName => Expr::Meta { key: MetaKey::IifName, to },
            Part::OifName => Expr::Meta { key: MetaKey::OifName, to },
            Part::EtherSaddr => payload(PayloadBase::Link, 6, 6),
            Part::NeighbourTarget => payload(PayloadBase::Transport, 8, 16),
            Part::ArpSenderMac => payload(PayloadBase::Network, 8, 6),
            Part::ArpSender => payload(PayloadBase::Network, 14, 4),
            Part::ArpTarget => payload(PayloadBase::Network, 24, 4),
            Part::NoAddress(family) => Expr::Immediate { to, data: vec![0; usize::from(family.address_bytes())].into() },
        }
    }
}

/// The field type of a family's addresses.
pub(crate) fn ip_field(family: Family) -> Field {
    match family {
        Family::V4 => Field::Ipv4,
        Family::V6 => Field::Ipv6,
    }
}

/// A name with the family's number at its end, e.g. `svc4`.
pub(crate) fn named(stem: &str, family: Family) -> Arc<str> {
    let digit = match family {
        Family::V4 => '4',
        Family::V6 => '6',
    };
    format!("{stem}{digit}").into()
}

/// A rule under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleBuilder {
    expressions: Vec<Expr>,
}

/// A rule that matches everything so far.
pub(crate) fn rule() -> RuleBuilder {
    RuleBuilder::default()
}

impl RuleBuilder {
    fn add(mut self, expression: Expr) -> Self {
        self.expressions.push(expression);
        self
    }

    fn compare(self, op: CmpOp, data: impl Into<Arc<[u8]>>) -> Self {
        self.add(Expr::Cmp { op, from: Reg(0), data: data.into() })
    }

    fn bits(self, load: Expr, mask: u32, op: CmpOp, value: u32) -> Self {
        self.add(load).bitwise(Reg(0), &mask.to_ne_bytes()).compare(op, value.to_ne_bytes())
    }

    /// Masks a register's value.
    pub(crate) fn bitwise(self, reg: Reg, mask: &[u8]) -> Self {
        self.add(Expr::Bitwise { from: reg, to: reg, mask: mask.into(), xor: vec![0; mask.len()].into() })
    }

    /// Packets of the family.
    pub(crate) fn family(self, family: Family) -> Self {
        let number = match family {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        self.add(Expr::Meta { key: MetaKey::NfProto, to: Reg(0) }).compare(CmpOp::Eq, [number])
    }

    /// Came in by a link whose name begins so (or is so, with its closing zero).
    pub(crate) fn iif(self, start: &str) -> Self {
        self.add(Expr::Meta { key: MetaKey::IifName, to: Reg(0) }).compare(CmpOp::Eq, start.as_bytes())
    }

    /// Leaves by a link whose name begins so.
    pub(crate) fn oif(self, start: &str) -> Self {
        self.add(Expr::Meta { key: MetaKey::OifName, to: Reg(0) }).compare(CmpOp::Eq, start.as_bytes())
    }

    /// Leaves by a link whose name begins otherwise.
    pub(crate) fn oif_not(self, start: &str) -> Self {
        self.add(Expr::Meta { key: MetaKey::OifName, to: Reg(0) }).compare(CmpOp::Ne, start.as_bytes())
    }

    /// Of the protocol.
    pub(crate) fn protocol(self, protocol: Protocol) -> Self {
        self.add(Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) }).compare(CmpOp::Eq, [protocol.number()])
    }

    /// A message of ICMP, or of ICMPv6, of this type.
    pub(crate) fn icmp(self, family: Family, kind: u8) -> Self {
        let number = match family {
            Family::V4 => 1,
            Family::V6 => 58,
        };
        let packets = self.family(family).add(Expr::Meta { key: MetaKey::L4Proto, to: Reg(0) }).compare(CmpOp::Eq, [number]);
        packets.add(Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 1, to: Reg(0) }).compare(CmpOp::Eq, [kind])
    }

    /// From the one port to the other.
    pub(crate) fn ports(self, from: u16, to: u16) -> Self {
        let both = (u32::from(from) << 16 | u32::from(to)).to_be_bytes();
        self.add(Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 4, to: Reg(0) }).compare(CmpOp::Eq, both)
    }

    /// The part, an address, is all zeros.
    pub(crate) fn unspecified(self, part: Part) -> Self {
        self.load(0, &[part]).compare(CmpOp::Eq, vec![0; usize::from(part.registers()) * 4])
    }

    /// To the port.
    pub(crate) fn dport(self, port: u16) -> Self {
        self.load(0, &[Part::Dport]).compare(CmpOp::Eq, port.to_be_bytes())
    }

    /// To a port of the range.
    pub(crate) fn dports(self, from: u16, to: u16) -> Self {
        let range = Expr::Range { invert: false, from: Reg(0), low: from.to_be_bytes().into(), high: to.to_be_bytes().into() };
        self.load(0, &[Part::Dport]).add(range)
    }

    /// TCP without SYN, or with more than that of FIN, SYN, RST and ACK.
    pub(crate) fn tcp_not_syn(self) -> Self {
        let flags = Expr::Payload { base: PayloadBase::Transport, offset: 13, len: 1, to: Reg(0) };
        self.protocol(Protocol::Tcp).add(flags).bitwise(Reg(0), &[0x17]).compare(CmpOp::Ne, [0x02])
    }

    /// Connection tracking does not look at it; it goes on.
    pub(crate) fn not_tracked(self) -> Self {
        self.add(Expr::Notrack)
    }

    /// To a loopback address.
    pub(crate) fn for_loopback(self, family: Family) -> Self {
        self.loopback(CmpOp::Eq, family, Part::Daddr(family), 16)
    }

    /// From a loopback address.
    pub(crate) fn of_loopback(self, family: Family) -> Self {
        self.loopback(CmpOp::Eq, family, Part::Saddr(family), 12)
    }

    /// From another than a loopback address.
    pub(crate) fn not_of_loopback(self, family: Family) -> Self {
        self.loopback(CmpOp::Ne, family, Part::Saddr(family), 12)
    }

    /// `v4_offset` is where the address begins in an IPv4 header.
    fn loopback(self, op: CmpOp, family: Family, address: Part, v4_offset: u32) -> Self {
        let v6 = std::net::Ipv6Addr::LOCALHOST.octets();
        let first = Expr::Payload { base: PayloadBase::Network, offset: v4_offset, len: 1, to: Reg(0) };
        match family {
            Family::V4 => self.family(family).add(first).compare(op, [127]),
            Family::V6 => self.family(family).load(0, &[address]).compare(op, v6),
        }
    }

    /// The connection is in one of these states.
    pub(crate) fn state(self, bits: u32) -> Self {
        self.bits(Expr::Ct { key: CtKey::State, to: Reg(0) }, bits, CmpOp::Ne, 0)
    }

    /// The connection's status has one of these bits.
    pub(crate) fn status(self, bits: u32) -> Self {
        self.bits(Expr::Ct { key: CtKey::Status, to: Reg(0) }, bits, CmpOp::Ne, 0)
    }

    /// The packet goes the other way than the connection's first.
    pub(crate) fn reply(self) -> Self {
        self.add(Expr::Ct { key: CtKey::Direction, to: Reg(0) }).compare(CmpOp::Eq, [1])
    }

    /// The connection's mark has one of these bits; the masked mark stays in register 0.
    pub(crate) fn ct_mark(self, mask: u32) -> Self {
        self.bits(Expr::Ct { key: CtKey::Mark, to: Reg(0) }, mask, CmpOp::Ne, 0)
    }

    /// The connection's mark has none of these bits.
    pub(crate) fn ct_mark_without(self, mask: u32) -> Self {
        self.bits(Expr::Ct { key: CtKey::Mark, to: Reg(0) }, mask, CmpOp::Eq, 0)
    }

    /// Sets a bit of the connection's mark, by way of `scratch`.
    pub(crate) fn set_ct_mark_bit(self, bit: u32, scratch: Reg) -> Self {
        let set = Expr::Bitwise { from: scratch, to: scratch, mask: (!bit).to_ne_bytes().into(), xor: bit.to_ne_bytes().into() };
        self.add(Expr::Ct { key: CtKey::Mark, to: scratch }).add(set).add(Expr::CtSetMark { from: scratch })
    }

    /// Sets the connection's mark from a register.
    pub(crate) fn set_ct_mark(self, from: Reg) -> Self {
        self.add(Expr::CtSetMark { from })
    }

    /// Sets the packet's mark from a register.
    pub(crate) fn set_mark(self, from: Reg) -> Self {
        self.add(Expr::MetaSetMark { from })
    }

    /// The packet's mark has one of these bits.
    pub(crate) fn mark(self, bits: u32) -> Self {
        self.bits(Expr::Meta { key: MetaKey::Mark, to: Reg(0) }, bits, CmpOp::Ne, 0)
    }

    /// Sets bits of the packet's mark.
    pub(crate) fn set_mark_bits(self, bits: u32) -> Self {
        self.change_mark(bits, bits)
    }

    /// Clears bits of the packet's mark.
    pub(crate) fn clear_mark_bits(self, bits: u32) -> Self {
        self.change_mark(bits, 0)
    }

    fn change_mark(self, bits: u32, to: u32) -> Self {
        let change = Expr::Bitwise { from: Reg(0), to: Reg(0), mask: (!bits).to_ne_bytes().into(), xor: to.to_ne_bytes().into() };
        self.add(Expr::Meta { key: MetaKey::Mark, to: Reg(0) }).add(change).set_mark(Reg(0))
    }

    /// Address of the node's own.
    pub(crate) fn for_this_node(self) -> Self {
        self.add(Expr::FibType { destination: true, to: Reg(0) }).compare(CmpOp::Eq, RTN_LOCAL.to_ne_bytes())
    }

    /// Source is not an address of the node's own.
    pub(crate) fn of_elsewhere(self) -> Self {
        self.add(Expr::FibType { destination: false, to: Reg(0) }).compare(CmpOp::Ne, RTN_LOCAL.to_ne_bytes())
    }

    /// Loads parts one after another from a register on.
    pub(crate) fn load(mut self, at: u8, parts: &[Part]) -> Self {
        let mut next = at;
        for part in parts {
            self.expressions.push(part.expression(Reg(next)));
            next += part.registers();
        }
        self
    }

    /// Loads a constant.
    pub(crate) fn constant(self, to: Reg, data: Arc<[u8]>) -> Self {
        self.add(Expr::Immediate { to, data })
    }

    /// Loads a random number below `modulus`; 0 where there is no choice.
    pub(crate) fn random(self, to: Reg, modulus: u32) -> Self {
        if modulus > 1 { self.add(Expr::Random { to, modulus }) } else { self.constant(to, KeyBuilder::new().host_u32(0).build()) }
    }

    /// The key is in the set.
    pub(crate) fn in_set(self, set: &Arc<str>, key: &[Part]) -> Self {
        self.load(0, key).in_set_at(set, Reg(0))
    }

    /// The key that is in registers already is in the set.
    pub(crate) fn in_set_at(self, set: &Arc<str>, key: Reg) -> Self {
        self.add(Expr::Lookup { set: set.clone(), key, invert: false })
    }

    /// The key is not in the set.
    pub(crate) fn not_in_set(self, set: &Arc<str>, key: &[Part]) -> Self {
        self.load(0, key).add(Expr::Lookup { set: set.clone(), key: Reg(0), invert: true })
    }

    /// Loads the value of the key in a register.
    pub(crate) fn value(self, map: &Arc<str>, key: Reg, to: Reg) -> Self {
        self.add(Expr::LookupValue { set: map.clone(), key, to })
    }

    /// Adds or renews an element of a dynamic map.
    pub(crate) fn update(self, map: &Arc<str>, key: Reg, data: Reg, timeout_ms: u64) -> Self {
        self.add(Expr::Update { set: map.clone(), key, data: Some(data), timeout_ms })
    }

    /// Removes an element of a dynamic map.
    pub(crate) fn delete(self, map: &Arc<str>, key: Reg, data: Reg) -> Self {
        self.add(Expr::Delete { set: map.clone(), key, data: Some(data) })
    }

    /// Counts.
    pub(crate) fn counter(self) -> Self {
        self.add(Expr::Counter)
    }

    /// Counts on a counter of the table.
    pub(crate) fn count_on(self, counter: &Arc<str>) -> Self {
        self.add(Expr::Count { counter: counter.clone() })
    }

    /// So many packets a second at most.
    pub(crate) fn at_most(self, per_second: u64, burst: u32) -> Self {
        self.add(Expr::Limit { per_second, burst })
    }

    /// Gives the packet's first bytes to a group of nfnetlink_log.
    pub(crate) fn log(self, group: u16, prefix: &Arc<str>, snap_bytes: u32) -> Self {
        self.add(Expr::Log { group, prefix: prefix.clone(), snap_bytes })
    }

    /// Ends with the verdict of the key's element, if there is one.
    pub(crate) fn verdict_of(self, map: &Arc<str>, key: &[Part]) -> Rule {
        self.load(0, key).end(Expr::LookupVerdict { set: map.clone(), key: Reg(0) })
    }

    /// Translates the destination.
    pub(crate) fn dnat(self, family: Family, address: Reg) -> Rule {
        let port = Reg(address.0 + family.address_bytes() / 4);
        self.end(Expr::Dnat { family, address, port: Some(port) })
    }

    /// Translates the source to an address.
    pub(crate) fn snat(self, to: &IpAddr) -> Rule {
        let address = KeyBuilder::new().ip(*to).build();
        self.constant(Reg(0), address).end(Expr::Snat { family: Family::of(to), address: Reg(0), random_fully: false })
    }

    /// Translates the source to the outgoing link's address, with a port that nobody can guess.
    pub(crate) fn masquerade(self) -> Rule {
        self.end(Expr::Masquerade { random_fully: true })
    }

    /// Refuses TCP.
    pub(crate) fn reset(self) -> Rule {
        self.protocol(Protocol::Tcp).end(Expr::RejectReset)
    }

    /// Refuses anything.
    pub(crate) fn unreachable(self) -> Rule {
        self.end(Expr::RejectPort)
    }

    /// Lets pass.
    pub(crate) fn accept(self) -> Rule {
        self.end(Expr::Verdict(Verdict::Accept))
    }

    /// Counts and drops.
    pub(crate) fn drop(self) -> Rule {
        self.counter().end(Expr::Verdict(Verdict::Drop))
    }

    /// Drops and counts nothing.
    pub(crate) fn drop_uncounted(self) -> Rule {
        self.end(Expr::Verdict(Verdict::Drop))
    }

    /// Goes back.
    pub(crate) fn back(self) -> Rule {
        self.end(Expr::Verdict(Verdict::Return))
    }

    /// Calls a chain.
    pub(crate) fn jump(self, chain: impl Into<Arc<str>>) -> Rule {
        self.end(Expr::Verdict(Verdict::Jump(chain.into())))
    }

    /// Goes to a chain.
    pub(crate) fn goto(self, chain: impl Into<Arc<str>>) -> Rule {
        self.end(Expr::Verdict(Verdict::Goto(chain.into())))
    }

    /// The rule without an end of its own.
    pub(crate) fn done(self) -> Rule {
        Rule { expressions: self.expressions, comment: None }
    }

    fn end(self, expression: Expr) -> Rule {
        self.add(expression).done()
    }
}

impl Rule {
    /// The same rule with a comment, cut to what the kernel takes.
    #[must_use]
    pub(crate) fn saying(mut self, comment: &str) -> Rule {
        let mut end = comment.len().min(COMMENT_BYTES);
        while !comment.is_char_boundary(end) {
            end -= 1;
        }
        self.comment = comment.get(..end).map(Into::into);
        self
    }
}

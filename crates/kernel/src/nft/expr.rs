//! Expressions of a rule in the kernel's terms.
//!
//! Invariant: what is longer than the registers is refused here; all else is the kernel's to judge.
//! Reference: Linux uapi `nf_tables.h`, the attribute lists of each expression.

use bowline_dataplane::objects::nft::{CmpOp, CtKey, Expr, MetaKey, PayloadBase, Reg, Rule, Verdict};
use bowline_model::Family;

use super::error::EncodeError;
use super::uapi;
use super::wire::Writer;

/// Most bytes of one expression list: the netlink attribute's length has 16 bits.
const RULE_BYTES_MAX: usize = 60_000;
/// Most bytes of a comment.
const COMMENT_BYTES_MAX: usize = 120;
/// Most bytes of a log's prefix (`NF_LOG_PREFIXLEN` has one for its end).
const PREFIX_BYTES_MAX: usize = 127;
/// Type of the comment in a rule's user data, as `nft` has it.
pub(super) const UDATA_COMMENT: u8 = 0;
/// Type of the fingerprint in a rule's user data: ours.
pub(super) const UDATA_FINGERPRINT: u8 = 0xb0;

/// A rule as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EncodedRule {
    /// Value of `NFTA_RULE_EXPRESSIONS`.
    pub(super) expressions: Vec<u8>,
    /// Value of `NFTA_RULE_USERDATA`: comment and fingerprint.
    pub(super) userdata: Vec<u8>,
}

/// Encodes a rule.
pub(super) fn encode_rule(rule: &Rule) -> Result<EncodedRule, EncodeError> {
    let expressions = encode_expressions(&rule.expressions)?;
    let comment = rule.comment.as_deref().unwrap_or_default().as_bytes();
    if comment.len() > COMMENT_BYTES_MAX {
        return Err(EncodeError::Comment { bytes: comment.len() });
    }
    let mut userdata = Vec::with_capacity(comment.len() + 16);
    if !comment.is_empty() {
        push_tlv(&mut userdata, UDATA_COMMENT, &[comment, &[0]].concat());
    }
    push_tlv(&mut userdata, UDATA_FINGERPRINT, &fingerprint(&expressions, comment).to_be_bytes());
    Ok(EncodedRule { expressions, userdata })
}

/// Adds one entry to user data: type, length, value.
pub(super) fn push_tlv(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    to.push(kind);
    to.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    to.extend_from_slice(value);
}

/// The rule's identity: two rules of one fingerprint are taken as the same.
pub(super) fn rule_fingerprint(rule: &Rule) -> Option<u64> {
    let expressions = encode_expressions(&rule.expressions).ok()?;
    Some(fingerprint(&expressions, rule.comment.as_deref().unwrap_or_default().as_bytes()))
}

fn fingerprint(expressions: &[u8], comment: &[u8]) -> u64 {
    hash(expressions.iter().chain(&[0xff]).chain(comment))
}

/// A 64-bit hash that stays the same over versions (FNV-1a with a final mix).
pub(super) fn hash<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state ^= state >> 32;
    state = state.wrapping_mul(0xd6e8_feb8_6659_fd93);
    state ^ (state >> 32)
}

fn encode_expressions(expressions: &[Expr]) -> Result<Vec<u8>, EncodeError> {
    let mut w = Writer::new();
    for expression in expressions {
        encode_expression(&mut w, expression)?;
    }
    if w.overflowed() || w.len() > RULE_BYTES_MAX {
        return Err(EncodeError::TooLong);
    }
    Ok(w.into_bytes())
}

fn encode_expression(w: &mut Writer, expression: &Expr) -> Result<(), EncodeError> {
    match expression {
        Expr::Meta { key, to } => load(w, "meta", *to, meta_bytes(*key), |w, reg| {
            w.be32(1, reg);
            w.be32(2, meta_key(*key));
        }),
        Expr::MetaSetMark { from } => load(w, "meta", *from, 4, |w, reg| {
            w.be32(2, meta_key(MetaKey::Mark));
            w.be32(3, reg);
        }),
        Expr::Payload { base, offset, len, to } => {
            let bytes = usize::try_from(*len).unwrap_or(usize::MAX);
            load(w, "payload", *to, bytes, |w, reg| {
                w.be32(1, reg);
                w.be32(2, payload_base(*base));
                w.be32(3, *offset);
                w.be32(4, *len);
            })
        }
        Expr::Ct { key, to } => load(w, "ct", *to, 4, |w, reg| {
            w.be32(1, reg);
            w.be32(2, ct_key(*key));
        }),
        Expr::CtSetMark { from } => load(w, "ct", *from, 4, |w, reg| {
            w.be32(2, ct_key(CtKey::Mark));
            w.be32(4, reg);
        }),
        Expr::Random { to, modulus } => {
            if *modulus == 0 {
                return Err(EncodeError::Modulus);
            }
            load(w, "numgen", *to, 4, |w, reg| {
                w.be32(1, reg);
                w.be32(2, *modulus);
                w.be32(3, 1);
            })
        }
        Expr::FibType { destination, to } => load(w, "fib", *to, 4, |w, reg| {
            w.be32(1, reg);
            w.be32(2, 3);
            w.be32(3, if *destination { 2 } else { 1 });
        }),
        Expr::Immediate { to, data } => load(w, "immediate", *to, data.len(), |w, reg| {
            w.be32(1, reg);
            value(w, 2, data);
        }),
        Expr::Verdict(v) => action(w, "immediate", |w| {
            w.be32(1, uapi::NFT_REG_VERDICT);
            verdict(w, 2, v);
        }),
        Expr::Cmp { op, from, data } => load(w, "cmp", *from, data.len(), |w, reg| {
            w.be32(1, reg);
            w.be32(2, u32::from(*op == CmpOp::Ne));
            value(w, 3, data);
        }),
        Expr::Range { invert, from, low, high } => range(w, *invert, *from, low, high),
        Expr::Bitwise { from, to, mask, xor } => bitwise(w, *from, *to, mask, xor),
        Expr::Lookup { set, key, invert } => lookup(w, set, *key, None, *invert),
        Expr::LookupValue { set, key, to } => lookup(w, set, *key, Some(register(*to, 1)?), false),
        Expr::LookupVerdict { set, key } => lookup(w, set, *key, Some(uapi::NFT_REG_VERDICT), false),
        Expr::Update { set, key, data, timeout_ms } => update(w, set, *key, *data, *timeout_ms),
        Expr::Delete { set, key, data } => delete(w, set, *key, *data),
        Expr::Dnat { family, address, port } => nat(w, 1, *family, *address, *port, 0),
        Expr::Snat { family, address, random_fully } => nat(w, 0, *family, *address, None, nat_flags(*random_fully)),
        Expr::Masquerade { random_fully } => action(w, "masq", |w| w.be32(1, nat_flags(*random_fully))),
        Expr::RejectReset => action(w, "reject", |w| w.be32(1, 1)),
        Expr::RejectPort => action(w, "reject", |w| {
            w.be32(1, 2);
            w.attr(2, &[1]);
        }),
        Expr::Counter => action(w, "counter", |w| {
            w.be64(uapi::NFTA_COUNTER_BYTES, 0);
            w.be64(uapi::NFTA_COUNTER_PACKETS, 0);
        }),
        Expr::Count { counter } => count(w, counter),
        Expr::Limit { per_second, burst } => limit(w, *per_second, *burst),
        Expr::Log { group, prefix, snap_bytes } => log(w, *group, prefix, *snap_bytes),
        Expr::Notrack => action(w, "notrack", |_| {}),
    }
}

fn count(w: &mut Writer, counter: &str) -> Result<(), EncodeError> {
    action(w, "objref", |w| {
        w.be32(uapi::NFTA_OBJREF_IMM_TYPE, uapi::NFT_OBJECT_COUNTER);
        w.text(uapi::NFTA_OBJREF_IMM_NAME, counter);
    })
}

fn limit(w: &mut Writer, per_second: u64, burst: u32) -> Result<(), EncodeError> {
    action(w, "limit", |w| {
        w.be64(uapi::NFTA_LIMIT_RATE, per_second);
        w.be64(uapi::NFTA_LIMIT_UNIT, 1);
        w.be32(uapi::NFTA_LIMIT_BURST, burst);
        w.be32(uapi::NFTA_LIMIT_TYPE, uapi::NFT_LIMIT_PKTS);
    })
}

fn log(w: &mut Writer, group: u16, prefix: &str, snap_bytes: u32) -> Result<(), EncodeError> {
    if prefix.len() > PREFIX_BYTES_MAX {
        return Err(EncodeError::Prefix { bytes: prefix.len() });
    }
    action(w, "log", |w| {
        w.attr(uapi::NFTA_LOG_GROUP, &group.to_be_bytes());
        w.text(uapi::NFTA_LOG_PREFIX, prefix);
        w.be32(uapi::NFTA_LOG_SNAPLEN, snap_bytes);
    })
}

fn range(w: &mut Writer, invert: bool, from: Reg, low: &[u8], high: &[u8]) -> Result<(), EncodeError> {
    same_length("the range's upper bound", high, low)?;
    load(w, "range", from, low.len(), |w, reg| {
        w.be32(1, reg);
        w.be32(2, u32::from(invert));
        value(w, 3, low);
        value(w, 4, high);
    })
}

fn bitwise(w: &mut Writer, from: Reg, to: Reg, mask: &[u8], xor: &[u8]) -> Result<(), EncodeError> {
    same_length("the xor value", xor, mask)?;
    let target = register(to, mask.len())?;
    load(w, "bitwise", from, mask.len(), |w, reg| {
        w.be32(1, reg);
        w.be32(2, target);
        w.be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
        value(w, 4, mask);
        value(w, 5, xor);
    })
}

/// Whether the key's length is the set's is the kernel's to judge.
fn lookup(w: &mut Writer, set: &str, key: Reg, target: Option<u32>, invert: bool) -> Result<(), EncodeError> {
    load(w, "lookup", key, 1, |w, reg| {
        w.text(uapi::NFTA_LOOKUP_SET, set);
        w.be32(uapi::NFTA_LOOKUP_SREG, reg);
        if let Some(target) = target {
            w.be32(uapi::NFTA_LOOKUP_DREG, target);
        }
        if invert {
            w.be32(uapi::NFTA_LOOKUP_FLAGS, uapi::NFT_LOOKUP_F_INV);
        }
    })
}

fn update(w: &mut Writer, set: &str, key: Reg, data: Option<Reg>, timeout_ms: u64) -> Result<(), EncodeError> {
    let data = data.map(|reg| register(reg, 1)).transpose()?;
    load(w, "dynset", key, 1, |w, reg| {
        w.text(uapi::NFTA_DYNSET_SET_NAME, set);
        w.be32(uapi::NFTA_DYNSET_OP, uapi::NFT_DYNSET_OP_UPDATE);
        w.be32(uapi::NFTA_DYNSET_SREG_KEY, reg);
        if let Some(data) = data {
            w.be32(uapi::NFTA_DYNSET_SREG_DATA, data);
        }
        w.be64(uapi::NFTA_DYNSET_TIMEOUT, timeout_ms);
    })
}

fn delete(w: &mut Writer, set: &str, key: Reg, data: Option<Reg>) -> Result<(), EncodeError> {
    let data = data.map(|reg| register(reg, 1)).transpose()?;
    load(w, "dynset", key, 1, |w, reg| {
        w.text(uapi::NFTA_DYNSET_SET_NAME, set);
        w.be32(uapi::NFTA_DYNSET_OP, uapi::NFT_DYNSET_OP_DELETE);
        w.be32(uapi::NFTA_DYNSET_SREG_KEY, reg);
        if let Some(data) = data {
            w.be32(uapi::NFTA_DYNSET_SREG_DATA, data);
        }
    })
}

fn nat(w: &mut Writer, kind: u32, family: Family, address: Reg, port: Option<Reg>, flags: u32) -> Result<(), EncodeError> {
    let port = port.map(|reg| register(reg, 2)).transpose()?;
    load(w, "nat", address, usize::from(family.address_bytes()), |w, address| {
        w.be32(1, kind);
        w.be32(
            2,
            match family {
                Family::V4 => uapi::NFPROTO_IPV4,
                Family::V6 => uapi::NFPROTO_IPV6,
            },
        );
        w.be32(3, address);
        w.be32(4, address);
        if let Some(port) = port {
            w.be32(5, port);
            w.be32(6, port);
        }
        if flags != 0 {
            w.be32(7, flags);
        }
    })
}

fn action(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) -> Result<(), EncodeError> {
    named(w, name, body);
    Ok(())
}

fn nat_flags(random_fully: bool) -> u32 {
    if random_fully { uapi::NF_NAT_RANGE_PROTO_RANDOM_FULLY } else { 0 }
}

/// An expression by its name with its attributes.
fn named(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.nest(uapi::NFTA_LIST_ELEM, |w| {
        w.text(uapi::NFTA_EXPR_NAME, name);
        w.nest(uapi::NFTA_EXPR_DATA, body);
    });
}

/// An expression around one register that holds so many bytes.
fn load(w: &mut Writer, name: &str, reg: Reg, bytes: usize, body: impl FnOnce(&mut Writer, u32)) -> Result<(), EncodeError> {
    let reg = register(reg, bytes)?;
    named(w, name, |w| body(w, reg));
    Ok(())
}

fn register(reg: Reg, bytes: usize) -> Result<u32, EncodeError> {
    if bytes == 0 || usize::from(reg.0) + bytes.div_ceil(4) > 16 {
        return Err(EncodeError::Registers { register: reg.0, bytes });
    }
    Ok(uapi::NFT_REG32_00 + u32::from(reg.0))
}

fn same_length(what: &'static str, one: &[u8], other: &[u8]) -> Result<(), EncodeError> {
    if one.len() == other.len() { Ok(()) } else { Err(EncodeError::Length { what, bytes: one.len(), expected: other.len() }) }
}

/// A constant.
pub(super) fn value(w: &mut Writer, kind: u16, bytes: &[u8]) {
    w.nest(kind, |w| w.attr(uapi::NFTA_DATA_VALUE, bytes));
}

/// A verdict.
pub(super) fn verdict(w: &mut Writer, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (uapi::NF_ACCEPT, None),
        Verdict::Drop => (uapi::NF_DROP, None),
        Verdict::Return => (uapi::NFT_RETURN, None),
        Verdict::Jump(chain) => (uapi::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (uapi::NFT_GOTO, Some(chain)),
    };
    w.nest(kind, |w| {
        w.nest(uapi::NFTA_DATA_VERDICT, |w| {
            w.be32(uapi::NFTA_VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                w.text(uapi::NFTA_VERDICT_CHAIN, chain);
            }
        });
    });
}

fn meta_key(key: MetaKey) -> u32 {
    match key {
        MetaKey::Mark => 3,
        MetaKey::IifName => 6,
        MetaKey::OifName => 7,
        MetaKey::IifType => 8,
        MetaKey::NfProto => 15,
        MetaKey::L4Proto => 16,
    }
}

fn meta_bytes(key: MetaKey) -> usize {
    match key {
        MetaKey::NfProto | MetaKey::L4Proto => 1,
        MetaKey::IifType => 2,
        MetaKey::Mark => 4,
        MetaKey::IifName | MetaKey::OifName => 16,
    }
}

fn ct_key(key: CtKey) -> u32 {
    match key {
        CtKey::State => 0,
        CtKey::Direction => 1,
        CtKey::Status => 2,
        CtKey::Mark => 3,
    }
}

fn payload_base(base: PayloadBase) -> u32 {
    match base {
        PayloadBase::Link => 0,
        PayloadBase::Network => 1,
        PayloadBase::Transport => 2,
    }
}

//! Rules, run.

#![expect(clippy::wildcard_enum_match_arm, reason = "each question concerns a few of the many expressions")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bowline_model::Family;

use super::{DynamicElement, End, Fault, Packet, Table};
use crate::objects::nft::{BaseChain, CmpOp, CtKey, ElementData, Expr, MetaKey, Reg, Rule, Verdict};

/// `NFT_JUMP_STACK_SIZE`.
const CALLS_MAX: usize = 16;
/// `IPS_SRC_NAT`, `IPS_DST_NAT`.
const SNAT: u32 = 1 << 4;
const DNAT: u32 = 1 << 5;

/// The sixteen registers; a byte that nothing filled is none.
struct Registers([Option<u8>; 64]);

impl Registers {
    fn store(&mut self, to: Reg, bytes: &[u8]) -> Result<(), String> {
        let start = usize::from(to.0) * 4;
        let padded = bytes.len().next_multiple_of(4);
        let target = self.0.get_mut(start..start + padded).ok_or_else(|| format!("register {} has no room for {padded} bytes", to.0))?;
        let source = bytes.iter().copied().chain(std::iter::repeat(0));
        target.iter_mut().zip(source).for_each(|(slot, byte)| *slot = Some(byte));
        Ok(())
    }

    fn load(&self, from: Reg, len: usize) -> Result<Vec<u8>, String> {
        let start = usize::from(from.0) * 4;
        let bytes = self.0.get(start..start + len).and_then(|slots| slots.iter().copied().collect::<Option<Vec<u8>>>());
        bytes.ok_or_else(|| format!("{len} bytes from register {} on were never filled", from.0))
    }

    fn number(&self, from: Reg) -> Result<u32, String> {
        let bytes = self.load(from, 4)?;
        Ok(u32::from_ne_bytes(bytes.try_into().unwrap_or_default()))
    }
}

/// How an expression leaves its rule.
enum Step {
    Next,
    Break,
    Verdict(Verdict),
    End(End),
}

/// What ended the packet's way, and by which rule.
pub(super) type Ended = (End, Option<(Arc<str>, Option<Arc<str>>)>);

/// Runs a base chain.
pub(super) fn base_chain(table: &mut Table, name: &Arc<str>, base: BaseChain, packet: &mut Packet, path: &mut Vec<Arc<str>>) -> Ended {
    let policy = if base.accept { End::Accept } else { End::Drop };
    let mut calls: Vec<(Arc<str>, usize)> = Vec::new();
    let (mut chain, mut index) = (name.clone(), 0);
    path.push(chain.clone());
    loop {
        let fault = |chain: &Arc<str>, what: String| (End::Fault(Fault { chain: chain.clone(), what }), None);
        // The chain stays as it is while its rules fill sets.
        let Some(spec) = table.chains.get(&chain).cloned() else { return fault(&chain, "is not there".to_owned()) };
        let Some(rule) = spec.rules.get(index) else {
            match calls.pop() {
                Some(back) => (chain, index) = back,
                None => return (policy, None),
            }
            continue;
        };
        index += 1;
        let by = Some((chain.clone(), rule.comment.clone()));
        match run_rule(table, rule, packet) {
            Err(what) => return fault(&chain, what),
            Ok(Step::Next | Step::Break) => {}
            Ok(Step::End(end)) => return (end, by),
            Ok(Step::Verdict(Verdict::Accept)) => return (End::Accept, by),
            Ok(Step::Verdict(Verdict::Drop)) => return (End::Drop, by),
            Ok(Step::Verdict(Verdict::Return)) => match calls.pop() {
                Some(back) => (chain, index) = back,
                None => return (policy, by),
            },
            Ok(Step::Verdict(verdict @ (Verdict::Jump(_) | Verdict::Goto(_)))) => {
                let (Verdict::Jump(to) | Verdict::Goto(to)) = &verdict else { continue };
                if matches!(verdict, Verdict::Jump(_)) {
                    calls.push((chain.clone(), index));
                }
                if calls.len() > CALLS_MAX || path.len() > 10_000 {
                    return fault(&chain, "calls too deep".to_owned());
                }
                path.push(to.clone());
                (chain, index) = (to.clone(), 0);
            }
        }
    }
}

fn run_rule(table: &mut Table, rule: &Rule, packet: &mut Packet) -> Result<Step, String> {
    let mut registers = Registers([None; 64]);
    for expression in &rule.expressions {
        match step(table, expression, packet, &mut registers)? {
            Step::Next => {}
            end => return Ok(end),
        }
    }
    Ok(Step::Next)
}

fn going_on(matches: bool) -> Step {
    if matches { Step::Next } else { Step::Break }
}

fn step(table: &mut Table, expression: &Expr, packet: &mut Packet, registers: &mut Registers) -> Result<Step, String> {
    match expression {
        Expr::Meta { key, to } => return load(meta(*key, packet), *to, registers),
        Expr::Payload { base, offset, len, to } => return load(packet.payload(*base, *offset, *len), *to, registers),
        Expr::Ct { key, to } => return load(Some(connection(*key, packet)), *to, registers),
        Expr::FibType { destination, to } => {
            let address = if *destination { packet.dst } else { packet.src };
            registers.store(*to, &packet.route_type(&address).to_ne_bytes())?;
        }
        Expr::Immediate { to, data } => registers.store(*to, data)?,
        Expr::MetaSetMark { from } => packet.mark = registers.number(*from)?,
        Expr::CtSetMark { from } => packet.connection.mark = registers.number(*from)?,
        Expr::Random { to, modulus } => {
            let scaled = (u64::from(packet.random) * u64::from(*modulus)) >> 32;
            registers.store(*to, &u32::try_from(scaled).unwrap_or(u32::MAX).to_ne_bytes())?;
        }
        Expr::Bitwise { from, to, mask, xor } => {
            let source = registers.load(*from, mask.len())?;
            let bytes: Vec<u8> = source.iter().zip(mask.iter().zip(xor.iter())).map(|(s, (m, x))| (s & m) ^ x).collect();
            registers.store(*to, &bytes)?;
        }
        Expr::Cmp { op, from, data } => {
            let equal = registers.load(*from, data.len())? == **data;
            return Ok(going_on(equal == (*op == CmpOp::Eq)));
        }
        Expr::Range { invert, from, low, high } => {
            let value = registers.load(*from, low.len())?;
            let inside = **low <= *value && *value <= **high;
            return Ok(going_on(inside != *invert));
        }
        Expr::Lookup { .. } | Expr::LookupValue { .. } | Expr::LookupVerdict { .. } | Expr::Update { .. } | Expr::Delete { .. } => {
            return sets(table, expression, registers);
        }
        Expr::Dnat { .. } | Expr::Snat { .. } | Expr::Masquerade { .. } => {
            translate(expression, packet, registers)?;
            return Ok(Step::Verdict(Verdict::Accept));
        }
        Expr::Verdict(verdict) => return Ok(Step::Verdict(verdict.clone())),
        Expr::RejectReset if packet.protocol == 6 => return Ok(Step::End(End::Reset)),
        Expr::RejectReset => return Ok(Step::End(End::Drop)),
        Expr::RejectPort => return Ok(Step::End(End::Unreachable)),
        Expr::Notrack => packet.connection.state = 64,
        Expr::Count { counter } if !table.counters.contains(counter) => return Err(format!("counter {counter} is not there")),
        // Of what is only told, everything is: a rule that decides has no limit (`faults`).
        Expr::Counter | Expr::Count { .. } | Expr::Limit { .. } | Expr::Log { .. } => {}
    }
    Ok(Step::Next)
}

fn load(bytes: Option<Vec<u8>>, to: Reg, registers: &mut Registers) -> Result<Step, String> {
    match bytes {
        Some(bytes) => registers.store(to, &bytes).map(|()| Step::Next),
        None => Ok(Step::Break),
    }
}

fn meta(key: MetaKey, packet: &Packet) -> Option<Vec<u8>> {
    let name = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    };
    match key {
        MetaKey::NfProto => Some(vec![match packet.family() {
            Family::V4 => 2,
            Family::V6 => 10,
        }]),
        MetaKey::L4Proto => Some(vec![packet.protocol]),
        MetaKey::IifName => Some(name(&packet.iif)),
        MetaKey::OifName => Some(name(&packet.oif)),
        MetaKey::Mark => Some(packet.mark.to_ne_bytes().to_vec()),
        MetaKey::IifType => packet.iif_type().map(|t| t.to_ne_bytes().to_vec()),
    }
}

fn connection(key: CtKey, packet: &Packet) -> Vec<u8> {
    let connection = &packet.connection;
    match key {
        CtKey::State => connection.state.to_ne_bytes().to_vec(),
        CtKey::Status => connection.status.to_ne_bytes().to_vec(),
        CtKey::Mark => connection.mark.to_ne_bytes().to_vec(),
        CtKey::Direction => vec![u8::from(connection.reply)],
    }
}

fn sets(table: &mut Table, expression: &Expr, registers: &mut Registers) -> Result<Step, String> {
    let (Expr::Lookup { set: name, key, .. }
    | Expr::LookupValue { set: name, key, .. }
    | Expr::LookupVerdict { set: name, key }
    | Expr::Update { set: name, key, .. }
    | Expr::Delete { set: name, key, .. }) = expression
    else {
        return Ok(Step::Next);
    };
    let now = table.now_ms;
    let set = table.sets.get_mut(name).ok_or_else(|| format!("set {name} is not there"))?;
    let key = registers.load(*key, set.key_bytes())?;
    match expression {
        Expr::Lookup { invert, .. } => {
            let there = set.find(&key).is_some() || set.dynamic.contains_key(&key);
            return Ok(going_on(there != *invert));
        }
        Expr::LookupValue { to, .. } => {
            let value = match set.find(&key).map(|e| &e.data) {
                Some(ElementData::Value(value)) => Some(value.to_vec()),
                Some(ElementData::Nothing | ElementData::Verdict(_)) => return Err(format!("set {name} holds no values")),
                None => set.dynamic.get(&key).map(|e| e.value.clone()),
            };
            return load(value, *to, registers);
        }
        Expr::LookupVerdict { .. } => match set.find(&key).map(|e| &e.data) {
            Some(ElementData::Verdict(verdict)) => return Ok(Step::Verdict(verdict.clone())),
            Some(ElementData::Nothing | ElementData::Value(_)) => return Err(format!("set {name} holds no verdicts")),
            None => return Ok(Step::Break),
        },
        Expr::Update { data, timeout_ms, .. } => {
            let len = value_bytes(set);
            let value = data.map(|reg| registers.load(reg, len)).transpose()?.unwrap_or_default();
            let expires_ms = now.saturating_add(*timeout_ms);
            if set.spec.size.is_some_and(|size| set.dynamic.len() >= size as usize) && !set.dynamic.contains_key(&key) {
                return Ok(Step::Break);
            }
            // An element that is there keeps its value: the kernel renews its lifetime and nothing else.
            set.dynamic.entry(key).or_insert(DynamicElement { value, expires_ms }).expires_ms = expires_ms;
        }
        _ => {
            set.dynamic.remove(&key);
        }
    }
    Ok(Step::Next)
}

fn value_bytes(set: &super::Set) -> usize {
    match &set.spec.data {
        crate::objects::nft::SetData::Value(fields) => fields.iter().map(|f| f.padded_bytes() as usize).sum(),
        crate::objects::nft::SetData::Nothing | crate::objects::nft::SetData::Verdict => 0,
    }
}

fn translate(expression: &Expr, packet: &mut Packet, registers: &Registers) -> Result<(), String> {
    let (src, dst, dst_port) = (packet.src, packet.dst, packet.dst_port);
    match expression {
        Expr::Dnat { family, address, port } => {
            packet.dst = address_in(*family, *address, registers)?;
            if let Some(port) = port {
                let bytes = registers.load(*port, 2)?;
                packet.dst_port = u16::from_be_bytes(bytes.try_into().unwrap_or_default());
            }
        }
        Expr::Snat { family, address, .. } => packet.src = address_in(*family, *address, registers)?,
        _ => packet.src = packet.masquerade_address.unwrap_or(packet.src),
    }
    if (packet.dst, packet.dst_port) != (dst, dst_port) {
        packet.connection.status |= DNAT;
    }
    if packet.src != src {
        packet.connection.status |= SNAT;
    }
    Ok(())
}

fn address_in(family: Family, from: Reg, registers: &Registers) -> Result<IpAddr, String> {
    let bytes = registers.load(from, usize::from(family.address_bytes()))?;
    Ok(match family {
        Family::V4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default()).into(),
        Family::V6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()).into(),
    })
}

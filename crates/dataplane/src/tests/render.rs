//! Objects as text, in the manner of `nft list` and `ip`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::objects::net::{NetKey, NetObject};
use crate::objects::nft::{CmpOp, ElementData, Expr, Field, NftKey, NftObject, Rule, SetData, Verdict};

pub(super) fn net(objects: &BTreeMap<NetKey, NetObject>) -> String {
    objects.iter().map(|(key, object)| format!("{key:?} = {object:?}\n")).collect()
}

pub(super) fn nft(objects: &BTreeMap<NftKey, NftObject>) -> String {
    let mut out = String::new();
    let mut fields = BTreeMap::new();
    for (key, object) in objects {
        let _ = match (key, object) {
            (NftKey::Counter(name), NftObject::Counter) => writeln!(out, "counter {name}"),
            (NftKey::Set(name), NftObject::Set(spec)) => {
                fields.insert(name.clone(), (spec.key.clone(), spec.data.clone()));
                let interval = if spec.interval { " interval" } else { "" };
                let timeout = spec.dynamic_timeout_ms.map(|ms| format!(" dynamic {ms} ms")).unwrap_or_default();
                writeln!(out, "set {name}: {} -> {:?}{interval}{timeout}", concatenation(&spec.key), spec.data)
            }
            (NftKey::Chain(name), NftObject::Chain(spec)) => {
                let base = spec.base.map(|b| format!(" {:?} {:?} {}", b.kind, b.hook, b.priority)).unwrap_or_default();
                writeln!(out, "chain {name}{base}\n{}", spec.rules.iter().map(rule).collect::<String>().trim_end())
            }
            (NftKey::Element { set, key }, NftObject::Element(spec)) => {
                let (of_key, data) = &fields[set];
                let end = spec.end.as_ref().map(|end| format!(" - {}", values(of_key, end))).unwrap_or_default();
                let data = match (&spec.data, data) {
                    (ElementData::Value(value), SetData::Value(of_value)) => format!(" : {}", values(of_value, value)),
                    (ElementData::Verdict(v), _) => format!(" : {}", verdict(v)),
                    _ => String::new(),
                };
                writeln!(out, "{set} {{ {}{end}{data} }}", values(of_key, key))
            }
            _ => writeln!(out, "{key:?} does not fit {object:?}"),
        };
    }
    out
}

fn concatenation(fields: &[Field]) -> String {
    fields.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(" . ")
}

fn values(fields: &[Field], mut bytes: &[u8]) -> String {
    let one = |field: &Field| {
        let (these, rest) = bytes.split_at(field.padded_bytes() as usize);
        bytes = rest;
        match field {
            Field::Ipv4 => std::net::Ipv4Addr::from(<[u8; 4]>::try_from(these).unwrap()).to_string(),
            Field::Ipv6 => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(these).unwrap()).to_string(),
            Field::Ether => these[..6].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
            Field::Proto => these[0].to_string(),
            Field::Port => u16::from_be_bytes([these[0], these[1]]).to_string(),
            Field::Mark | Field::Index => format!("{:#x}", u32::from_ne_bytes(these.try_into().unwrap())),
            Field::IfName => String::from_utf8_lossy(these).trim_end_matches('\0').to_owned(),
        }
    };
    fields.iter().map(one).collect::<Vec<_>>().join(" . ")
}

fn rule(rule: &Rule) -> String {
    let expressions: Vec<String> = rule.expressions.iter().map(expression).collect();
    let comment = rule.comment.as_ref().map(|c| format!("  # {c}")).unwrap_or_default();
    format!("    {}{comment}\n", expressions.join("; "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(to) => format!("jump {to}"),
        Verdict::Goto(to) => format!("goto {to}"),
    }
}

fn expression(expression: &Expr) -> String {
    match expression {
        Expr::Meta { key, to } => format!("r{} = {key:?}", to.0),
        Expr::MetaSetMark { from } => format!("mark = r{}", from.0),
        Expr::Payload { base, offset, len, to } => format!("r{} = {base:?}[{offset}..{}]", to.0, offset + len),
        Expr::Ct { key, to } => format!("r{} = ct {key:?}", to.0),
        Expr::CtSetMark { from } => format!("ct mark = r{}", from.0),
        Expr::Immediate { to, data } => format!("r{} = {}", to.0, hex(data)),
        Expr::Verdict(v) => verdict(v),
        Expr::Cmp { op, from, data } => format!("r{} {} {}", from.0, if *op == CmpOp::Eq { "==" } else { "!=" }, hex(data)),
        Expr::Range { from, low, high, .. } => format!("r{} in {}..={}", from.0, hex(low), hex(high)),
        Expr::Bitwise { from, to, mask, xor } => format!("r{} = r{} & {} ^ {}", to.0, from.0, hex(mask), hex(xor)),
        Expr::Lookup { set, key, invert } => format!("r{} {}in @{set}", key.0, if *invert { "not " } else { "" }),
        Expr::LookupValue { set, key, to } => format!("r{} = @{set}[r{}]", to.0, key.0),
        Expr::LookupVerdict { set, key } => format!("r{} vmap @{set}", key.0),
        Expr::Random { to, modulus } => format!("r{} = random {modulus}", to.0),
        Expr::Update { set, key, timeout_ms, .. } => format!("update @{set}[r{}] {timeout_ms} ms", key.0),
        Expr::Delete { set, key, .. } => format!("delete @{set}[r{}]", key.0),
        Expr::Dnat { address, port, .. } => format!("dnat r{}:{:?}", address.0, port.map(|p| p.0)),
        Expr::Snat { address, .. } => format!("snat r{}", address.0),
        Expr::Masquerade { .. } => "masquerade".to_owned(),
        Expr::FibType { destination, to } => format!("r{} = fib {}", to.0, if *destination { "daddr" } else { "saddr" }),
        Expr::RejectReset => "reject reset".to_owned(),
        Expr::RejectPort => "reject port".to_owned(),
        Expr::Counter => "counter".to_owned(),
        Expr::Count { counter } => format!("counter {counter}"),
        Expr::Limit { per_second, burst } => format!("limit {per_second}/s burst {burst}"),
        Expr::Log { group, prefix, snap_bytes } => format!("log group {group} {prefix} {snap_bytes} bytes"),
        Expr::Notrack => "notrack".to_owned(),
    }
}

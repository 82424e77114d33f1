//! The shape of a set: how its fields lie in netlink, and the numbers by which `nft` knows their types.
//!
//! Invariant: in our objects each field is padded to a register; in the kernel a lone field is not, a concatenation is. `pad` and `trim`
//! go between the two.
//! Reference: the type numbers are those that libnftables prints by; the kernel only keeps them.

use bowline_dataplane::objects::nft::{Field, SetData, SetSpec};

use super::error::EncodeError;
use super::expr::push_tlv;
use super::uapi;

/// Type of our own entry in a set's user data: the fields of key and data.
const UDATA_FIELDS: u8 = 0xb0;
/// Types of libnftables' entries for the byte order of key and data: 1 is the host's, 2 is big endian.
const UDATA_KEY_BYTEORDER: u8 = 0;
const UDATA_DATA_BYTEORDER: u8 = 1;
/// Most bytes of a key or value: all 16 registers.
const VALUE_BYTES_MAX: u32 = 64;
/// Most fields of a concatenation: the type number has 6 bits for each.
const FIELDS_MAX: usize = 5;
/// The kernel's own bound of a dynamic set that names none.
pub(super) const DYNAMIC_SIZE: u32 = 65_535;

/// Bytes of such a value in netlink.
pub(super) fn wire_bytes(fields: &[Field]) -> u32 {
    match fields {
        [lone] => lone.bytes(),
        many => many.iter().map(|field| field.padded_bytes()).sum(),
    }
}

/// Bytes of such a value in registers and in our objects.
pub(super) fn padded_bytes(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.padded_bytes()).sum()
}

/// The value as netlink has it; none if its length is wrong.
pub(super) fn trim<'a>(fields: &[Field], value: &'a [u8]) -> Option<&'a [u8]> {
    if value.len() != usize::try_from(padded_bytes(fields)).ok()? {
        return None;
    }
    value.get(..usize::try_from(wire_bytes(fields)).ok()?)
}

/// The value as our objects have it.
pub(super) fn pad(value: &[u8]) -> Vec<u8> {
    let mut padded = value.to_vec();
    padded.resize(value.len().next_multiple_of(4), 0);
    padded
}

/// The number of the type by which `nft` prints such values.
pub(super) fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| (number << 6) | field_type(*field))
}

/// A number (`Field::Index`) goes as a mark: the only 32-bit type in host order that `nft` knows without looking names up.
fn field_type(field: Field) -> u32 {
    match field {
        Field::Ipv4 => 7,
        Field::Ipv6 => 8,
        Field::Ether => 9,
        Field::Proto => 12,
        Field::Port => 13,
        Field::Mark | Field::Index => 19,
        Field::IfName => 41,
    }
}

fn field_code(field: Field) -> u8 {
    match field {
        Field::Ipv4 => 1,
        Field::Ipv6 => 2,
        Field::Ether => 3,
        Field::Proto => 4,
        Field::Port => 5,
        Field::Mark => 6,
        Field::Index => 7,
        Field::IfName => 8,
    }
}

fn field_of_code(code: u8) -> Option<Field> {
    Some(match code {
        1 => Field::Ipv4,
        2 => Field::Ipv6,
        3 => Field::Ether,
        4 => Field::Proto,
        5 => Field::Port,
        6 => Field::Mark,
        7 => Field::Index,
        8 => Field::IfName,
        _ => return None,
    })
}

fn byteorder(fields: &[Field]) -> u32 {
    match fields {
        [Field::Mark | Field::Index | Field::IfName] => 1,
        _ => 2,
    }
}

/// Whether the kernel can have such a set.
pub(super) fn check(spec: &SetSpec) -> Result<(), EncodeError> {
    let refuse = |reason| Err(EncodeError::Set { reason });
    let data = match &spec.data {
        SetData::Nothing | SetData::Verdict => None,
        SetData::Value(fields) => Some(fields),
    };
    for fields in std::iter::once(&spec.key).chain(data) {
        if fields.is_empty() {
            return refuse("it has no fields");
        }
        if fields.len() > FIELDS_MAX {
            return refuse("a concatenation has at most five fields");
        }
        if padded_bytes(fields) > VALUE_BYTES_MAX {
            return refuse("it is longer than 64 bytes");
        }
    }
    if spec.interval && spec.key.len() != 1 {
        return refuse("intervals need a single field");
    }
    if spec.interval && spec.dynamic_timeout_ms.is_some() {
        return refuse("a dynamic set has no intervals");
    }
    if spec.dynamic_timeout_ms.is_some() && spec.data == SetData::Verdict {
        return refuse("packets cannot add verdicts");
    }
    Ok(())
}

/// `NFTA_SET_FLAGS` of the set.
pub(super) fn flags(spec: &SetSpec) -> u32 {
    let mut flags = 0;
    if spec.interval {
        flags |= uapi::NFT_SET_INTERVAL;
    }
    if spec.data != SetData::Nothing {
        flags |= uapi::NFT_SET_MAP;
    }
    if spec.dynamic_timeout_ms.is_some() {
        flags |= uapi::NFT_SET_TIMEOUT | uapi::NFT_SET_EVAL;
    }
    flags
}

/// The bound that the set gets.
pub(super) fn size(spec: &SetSpec) -> Option<u32> {
    spec.size.or(spec.dynamic_timeout_ms.map(|_| DYNAMIC_SIZE))
}

/// The set's user data: byte orders for `nft`, fields for us.
pub(super) fn userdata(spec: &SetSpec) -> Vec<u8> {
    let mut userdata = Vec::new();
    push_tlv(&mut userdata, UDATA_KEY_BYTEORDER, &byteorder(&spec.key).to_ne_bytes());
    let mut fields = vec![u8::try_from(spec.key.len()).unwrap_or(u8::MAX)];
    fields.extend(spec.key.iter().map(|field| field_code(*field)));
    match &spec.data {
        SetData::Nothing => fields.push(0),
        SetData::Verdict => fields.push(1),
        SetData::Value(value) => {
            push_tlv(&mut userdata, UDATA_DATA_BYTEORDER, &byteorder(value).to_ne_bytes());
            fields.push(2);
            fields.extend(value.iter().map(|field| field_code(*field)));
        }
    }
    push_tlv(&mut userdata, UDATA_FIELDS, &fields);
    userdata
}

/// Key and data as a set's user data has them; none for a set that we did not make.
pub(super) fn of_userdata(userdata: &[u8]) -> Option<(Vec<Field>, SetData)> {
    let (keys, rest) = tlv(userdata, UDATA_FIELDS)?.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*keys))?;
    let key = key.iter().map(|code| field_of_code(*code)).collect::<Option<Vec<_>>>()?;
    let (kind, rest) = rest.split_first()?;
    let data = match kind {
        0 => SetData::Nothing,
        1 => SetData::Verdict,
        2 => SetData::Value(rest.iter().map(|code| field_of_code(*code)).collect::<Option<Vec<_>>>()?),
        _ => return None,
    };
    Some((key, data))
}

/// The value of the first user data entry of a type.
pub(super) fn tlv(mut userdata: &[u8], wanted: u8) -> Option<&[u8]> {
    while let Some(([kind, length], rest)) = userdata.split_first_chunk() {
        let (value, after) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return Some(value);
        }
        userdata = after;
    }
    None
}

/// Whether the set in the kernel is the set wanted: bounds as they are sent, lifetimes as exact as the kernel's clock.
pub(super) fn same(seen: &SetSpec, want: &SetSpec) -> bool {
    let lifetimes = match (seen.dynamic_timeout_ms, want.dynamic_timeout_ms) {
        (Some(seen), Some(want)) => seen.abs_diff(want) <= 10,
        (seen, want) => seen == want,
    };
    lifetimes && seen.key == want.key && seen.data == want.data && seen.interval == want.interval && size(seen) == size(want)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    fn map(key: Vec<Field>, data: SetData) -> SetSpec {
        SetSpec { key, data, interval: false, dynamic_timeout_ms: None, size: None }
    }

    #[test]
    fn a_lone_field_loses_its_padding_and_a_concatenation_keeps_it() {
        assert_eq!(trim(&[Field::Port], &[0, 80, 0, 0]), Some(&[0, 80][..]));
        assert_eq!(pad(&[0, 80]), [0, 80, 0, 0]);
        assert_eq!(trim(&[Field::Proto, Field::Port], &[6, 0, 0, 0, 0, 80, 0, 0]).unwrap().len(), 8);
        assert_eq!(trim(&[Field::Port], &[0, 80]), None);
    }

    #[test]
    fn fields_survive_user_data() {
        for data in [SetData::Nothing, SetData::Verdict, SetData::Value(vec![Field::Ipv6, Field::Port])] {
            let spec = map(vec![Field::Ipv4, Field::Index, Field::Mark, Field::IfName, Field::Ether], data.clone());
            assert_eq!(of_userdata(&userdata(&spec)), Some((spec.key, data)));
        }
        assert_eq!(of_userdata(&[]), None);
        assert_eq!(of_userdata(&[UDATA_FIELDS, 9, 1]), None);
    }

    #[test]
    fn impossible_sets_are_refused() {
        assert!(check(&map(vec![], SetData::Nothing)).is_err());
        assert!(check(&map(vec![Field::Ipv6; 5], SetData::Nothing)).is_err());
        assert!(check(&map(vec![Field::Proto; 6], SetData::Nothing)).is_err());
        assert!(check(&map(vec![Field::Ipv4], SetData::Value(vec![]))).is_err());
        let mut spec = map(vec![Field::Ipv4, Field::Port], SetData::Nothing);
        spec.interval = true;
        assert!(check(&spec).is_err());
    }
}

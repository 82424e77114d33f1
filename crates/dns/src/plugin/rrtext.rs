//! Records in text form, as `template` writes them: `NAME [TTL] [IN] TYPE DATA`.

use domain::base::{Serial, Ttl};
use domain::rdata::{A, Aaaa, Cname, Mx, Ns, Ptr, Soa, Srv, Txt};

use crate::name;
use crate::wire::{Data, Record, record};

/// TTL of a record that gives none.
const DEFAULT_TTL_SECS: u32 = 3600;

/// Reads a record; none if it is none, or of a type that is not read here.
pub fn parse(text: &str) -> Option<Record> {
    let mut words = split(text)?.into_iter().peekable();
    let owner = name::parse(&words.next()?)?;
    let mut ttl = DEFAULT_TTL_SECS;
    while let Some(word) = words.next_if(|word| word.eq_ignore_ascii_case("IN") || word.bytes().all(|b| b.is_ascii_digit())) {
        if let Ok(secs) = word.parse() {
            ttl = secs;
        }
    }
    let rtype = words.next()?.to_ascii_uppercase();
    let data = data(&rtype, &mut words)?;
    if words.next().is_some() { None } else { Some(record(owner, ttl, data)) }
}

fn data(rtype: &str, words: &mut dyn Iterator<Item = String>) -> Option<Data> {
    let next_name = |words: &mut dyn Iterator<Item = String>| name::parse(&words.next()?);
    Some(match rtype {
        "A" => A::new(words.next()?.parse().ok()?).into(),
        "AAAA" => Aaaa::new(words.next()?.parse().ok()?).into(),
        "CNAME" => Cname::new(next_name(words)?).into(),
        "NS" => Ns::new(next_name(words)?).into(),
        "PTR" => Ptr::new(next_name(words)?).into(),
        "MX" => Mx::new(words.next()?.parse().ok()?, next_name(words)?).into(),
        "SRV" => {
            let mut number = || words.next()?.parse::<u16>().ok();
            let (priority, weight, port) = (number()?, number()?, number()?);
            Srv::new(priority, weight, port, next_name(words)?).into()
        }
        "TXT" => {
            let mut wire = Vec::new();
            for word in words {
                wire.push(u8::try_from(word.len()).ok()?);
                wire.extend_from_slice(word.as_bytes());
            }
            if wire.is_empty() {
                return None;
            }
            Txt::from_octets(bytes::Bytes::from(wire)).ok()?.into()
        }
        "SOA" => {
            let (mname, rname) = (next_name(words)?, next_name(words)?);
            let mut number = || words.next()?.parse::<u32>().ok();
            let serial = Serial(number()?);
            let mut time = || number().map(Ttl::from_secs);
            let (refresh, retry, expire, minimum) = (time()?, time()?, time()?, time()?);
            Soa::new(mname, rname, serial, refresh, retry, expire, minimum).into()
        }
        _ => return None,
    })
}

/// Words, quoted ones whole; brackets of an SOA over several lines are left out.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, next) = match rest.strip_prefix('"') {
            Some(after) => after.split_once('"')?,
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        if !matches!(word, "(" | ")") {
            words.push(word.to_owned());
        }
        rest = next.trim_start();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn records_are_read() {
        for (text, expected) in [
            ("a.test. 60 IN A 10.0.0.1", "a.test. 60 IN A 10.0.0.1"),
            ("a.test A 10.0.0.1", "a.test. 3600 IN A 10.0.0.1"),
            ("a.test IN 5 AAAA fd00::1", "a.test. 5 IN AAAA fd00::1"),
            ("a.test 5 IN SRV 0 10 80 b.test.", "a.test. 5 IN SRV 0 10 80 b.test"),
            ("a.test 5 IN MX 10 b.test", "a.test. 5 IN MX 10 b.test."),
            ("a.test 5 IN TXT \"x y\" z", "a.test. 5 IN TXT \"x y\" \"z\""),
            ("test 5 IN SOA a b ( 1 2 3 4 5 )", "test. 5 IN SOA a. b. 1 2 3 4 5"),
        ] {
            let record = parse(text).map(|record| record.to_string());
            assert_eq!(record.as_deref(), Some(expected), "{text}");
        }
        for bad in ["", "a", "a A", "a A fd00::1", "a A 10.0.0.1 x", "a NAPTR x", "a TXT \"x", "a TXT", "a SRV 0 0 99999 b"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}

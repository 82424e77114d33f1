//! Values as a Corefile writes them: times, numbers.

use std::str::FromStr;
use std::time::Duration;

use crate::corefile::{CorefileError, Word};

/// A length of time such as `5s`, `1m30s`, `500ms`; digits alone are seconds.
///
/// # Errors
/// It is none, or longer than a year.
pub fn duration(word: &Word) -> Result<Duration, CorefileError> {
    let bad = || word.error(format!("`{}` is no length of time", word.text), "write it as 30s, 5m or 500ms");
    let mut rest = word.text.as_str();
    if let Ok(secs) = rest.parse::<u32>() {
        return Ok(Duration::from_secs(secs.into()));
    }
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, after) = rest.split_at(unit_at);
        let next_at = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(next_at);
        let factor = match unit {
            "ns" => 1e0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(bad()),
        };
        nanos += number.parse::<f64>().map_err(|_| bad())? * factor;
        rest = next;
    }
    let secs = nanos / 1e9;
    if word.text.is_empty() || secs > 366.0 * 86_400.0 {
        return Err(bad());
    }
    Duration::try_from_secs_f64(secs).map_err(|_| bad())
}

/// A number from `least` to `most`.
///
/// # Errors
/// It is none, or out of that range.
pub fn number<T>(word: &Word, least: T, most: T) -> Result<T, CorefileError>
where
    T: FromStr + PartialOrd + std::fmt::Display + Copy,
{
    let number = word.text.parse::<T>().ok().filter(|number| *number >= least && *number <= most);
    number.ok_or_else(|| word.error(format!("`{}` is out of place", word.text), format!("write a number from {least} to {most}")))
}

/// A response code by name.
///
/// # Errors
/// There is none of that name.
pub fn rcode(word: &Word) -> Result<domain::base::iana::Rcode, CorefileError> {
    let found = word.text.to_ascii_uppercase().parse();
    found.map_err(|_| {
        word.error(
            format!("`{}` is no response code", word.text),
            "write NOERROR, NXDOMAIN, SERVFAIL, REFUSED or another of RFC 1035's names",
        )
    })
}

/// A record type by name.
///
/// # Errors
/// There is none of that name.
pub fn rtype(word: &Word) -> Result<domain::base::iana::Rtype, CorefileError> {
    let found = word.text.to_ascii_uppercase().parse();
    found.map_err(|_| word.error(format!("`{}` is no record type", word.text), "write A, AAAA, TXT, ANY or another type's name"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use crate::corefile::Place;

    fn word(text: &str) -> Word {
        Word { text: text.to_owned(), place: Place { file: "f".into(), line: 1 } }
    }

    #[test]
    fn durations() {
        for (text, millis) in [("5s", 5_000), ("1m30s", 90_000), ("500ms", 500), ("1h", 3_600_000), ("30", 30_000), ("1.5s", 1_500)] {
            assert_eq!(duration(&word(text)).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "s", "5x", "-5s", "5s5", "1e99s", "9999999h", "1.2.3s"] {
            assert!(duration(&word(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_keep_to_their_range() {
        assert_eq!(number(&word("7"), 0_u32, 9).unwrap(), 7);
        assert!(number(&word("10"), 0_u32, 9).is_err() && number(&word("x"), 0_u32, 9).is_err());
    }
}

//! The `cache` directive.

use std::time::Duration;

use super::{CacheOptions, Limits, Prefetch, ServeStale};
use crate::corefile::{CorefileError, Directive, Word};
use crate::name::Name;
use crate::plugin::{read, zones_or};

const OPTIONS: &str = "success, denial, prefetch, serve_stale, servfail, disable, keepttl";

/// Reads `cache [TTL] [ZONES...] { OPTIONS }`.
///
/// # Errors
/// What is wrong with it.
pub fn read(directive: &Directive, block: &[Name]) -> Result<CacheOptions, CorefileError> {
    let (ttl, zones) = match directive.args.split_first() {
        Some((first, rest)) if first.text.bytes().all(|byte| byte.is_ascii_digit()) => (Some(seconds(first)?), rest),
        Some(_) | None => (None, directive.args.as_slice()),
    };
    let mut options = CacheOptions::new(zones_or(zones, block)?);
    if let Some(ttl) = ttl {
        (options.success.max_ttl, options.denial.max_ttl) = (ttl, ttl);
    }
    for option in &directive.body {
        match option.name.text.as_str() {
            "success" => read_limits(option, &mut options.success)?,
            "denial" => read_limits(option, &mut options.denial)?,
            "prefetch" => options.prefetch = Some(read_prefetch(option)?),
            "serve_stale" => options.serve_stale = Some(read_stale(option)?),
            "servfail" => options.servfail = read::duration(option.one("a length of time")?)?.min(Duration::from_secs(300)),
            "disable" => read_disable(option, &mut options)?,
            "keepttl" => {
                option.none()?;
                options.keep_ttl = true;
            }
            _ => return Err(directive.unknown_option(option, OPTIONS)),
        }
    }
    Ok(options)
}

fn seconds(word: &Word) -> Result<Duration, CorefileError> {
    read::number(word, 1_u64, 604_800).map(Duration::from_secs)
}

fn read_limits(option: &Directive, limits: &mut Limits) -> Result<(), CorefileError> {
    let mut words = option.args.iter();
    let capacity = words.next().ok_or_else(|| option.count_error("a capacity, then a longest and a shortest TTL"))?;
    limits.capacity = read::number(capacity, 0_usize, 10_000_000)?.max(1024);
    if let Some(word) = words.next() {
        limits.max_ttl = seconds(word)?;
    }
    if let Some(word) = words.next() {
        limits.min_ttl = read::number(word, 0_u64, 3600).map(Duration::from_secs)?;
    }
    match words.next() {
        Some(word) => Err(word.error(format!("`{}` is one word too many", word.text), "write CAPACITY [TTL] [MINTTL]")),
        None => Ok(()),
    }
}

fn read_prefetch(option: &Directive) -> Result<Prefetch, CorefileError> {
    let mut prefetch = Prefetch { amount: 0, pause: Duration::from_secs(60), percent: 10 };
    let wanted = "an amount, then a pause and a percentage";
    let (amount, rest) = option.args.split_first().ok_or_else(|| option.count_error(wanted))?;
    prefetch.amount = read::number(amount, 1, 1_000_000)?;
    if rest.len() > 2 {
        return Err(option.count_error(wanted));
    }
    for word in rest {
        match word.text.strip_suffix('%') {
            Some(percent) => prefetch.percent = read::number(&Word { text: percent.to_owned(), place: word.place.clone() }, 10, 90)?,
            None => prefetch.pause = read::duration(word)?,
        }
    }
    Ok(prefetch)
}

fn read_stale(option: &Directive) -> Result<ServeStale, CorefileError> {
    let mut stale = ServeStale { age: Duration::from_secs(3600), verify: false, verify_timeout: None, ttl_secs: 0 };
    let mut words = option.args.iter().peekable();
    if let Some(word) = words.next_if(|word| !matches!(word.text.as_str(), "immediate" | "verify")) {
        stale.age = read::duration(word)?;
    }
    let Some(mode) = words.next() else { return Ok(stale) };
    match mode.text.as_str() {
        "immediate" => {}
        "verify" => {
            stale.verify = true;
            let timeout = words.next().map(read::duration).transpose()?;
            stale.verify_timeout = timeout.filter(|timeout| !timeout.is_zero());
        }
        _ => return Err(mode.error(format!("`{}` is no mode of serve_stale", mode.text), "write immediate or verify")),
    }
    if let Some(ttl) = words.next() {
        stale.ttl_secs = u32::try_from(read::duration(ttl)?.as_secs()).unwrap_or(0);
    }
    match words.next() {
        Some(word) => Err(word.error(format!("`{}` is one word too many", word.text), "remove it")),
        None => Ok(stale),
    }
}

fn read_disable(option: &Directive, options: &mut CacheOptions) -> Result<(), CorefileError> {
    let Some((kind, zones)) = option.args.split_first() else {
        return Err(option.count_error("`success` or `denial`, then zones"));
    };
    let zones = zones_or(zones, &[Name::root_bytes()])?;
    match kind.text.as_str() {
        "success" => options.no_success.extend(zones),
        "denial" => options.no_denial.extend(zones),
        _ => return Err(kind.error(format!("`{}` cannot be disabled", kind.text), "write success or denial")),
    }
    Ok(())
}

//! The `forward` directive.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{ForwardOptions, Policy};
use crate::corefile::{CorefileError, Directive, Word, parse_zones};
use crate::name::Name;
use crate::plugin::read;

const OPTIONS: &str = "except, force_tcp, prefer_udp, expire, max_fails, max_idle_conns, policy, health_check, max_concurrent, next, failover, \
                       failfast_all_unhealthy_upstreams";

/// Upstreams that one `forward` may have.
const MAX_UPSTREAMS: usize = 15;

/// Reads `forward FROM TO... { OPTIONS }`; files are read through `read_file`.
///
/// # Errors
/// What is wrong with it.
pub fn read(directive: &Directive, read_file: &dyn Fn(&str) -> std::io::Result<String>) -> Result<ForwardOptions, CorefileError> {
    let Some((from, to)) = directive.args.split_first().filter(|(_, to)| !to.is_empty()) else {
        return Err(directive.count_error("a zone and one or more upstreams, such as `forward . 1.1.1.1`"));
    };
    let mut addresses = Vec::new();
    for word in to {
        addresses.extend(read_upstream(word, read_file)?);
    }
    if addresses.len() > MAX_UPSTREAMS {
        return Err(directive.name.error(format!("{} upstreams are too many", addresses.len()), "name at most 15"));
    }
    let mut options = ForwardOptions {
        from: parse_zones([from])?,
        except: Vec::new(),
        to: addresses,
        policy: Policy::Random,
        force_tcp: false,
        prefer_udp: false,
        expire: Duration::from_secs(10),
        max_fails: 2,
        health_interval: Duration::from_millis(500),
        health_recursion: true,
        health_name: Name::root_bytes(),
        max_concurrent: None,
        next: Vec::new(),
        failover: Vec::new(),
        fail_fast: false,
    };
    for option in &directive.body {
        read_option(&mut options, directive, option)?;
    }
    if options.force_tcp && options.prefer_udp {
        return Err(directive.name.error("`force_tcp` and `prefer_udp` exclude each other", "keep one of them"));
    }
    Ok(options)
}

fn read_option(options: &mut ForwardOptions, directive: &Directive, option: &Directive) -> Result<(), CorefileError> {
    match option.name.text.as_str() {
        "except" if !option.args.is_empty() => options.except.extend(parse_zones(&option.args)?),
        "except" => return Err(option.count_error("one or more zones")),
        "force_tcp" => {
            option.none()?;
            options.force_tcp = true;
        }
        "prefer_udp" => {
            option.none()?;
            options.prefer_udp = true;
        }
        "expire" => options.expire = read::duration(option.one("a length of time")?)?,
        "max_fails" => options.max_fails = read::number(option.one("a number")?, 0, 1_000_000)?,
        "max_concurrent" => {
            let most = read::number(option.one("a number")?, 0_usize, 1_000_000)?;
            options.max_concurrent = (most > 0).then_some(most);
        }
        "max_idle_conns" => {
            read::number(option.one("a number")?, 0_usize, 1_000_000)?;
        }
        "policy" => {
            let word = option.one("one of random, round_robin, sequential")?;
            options.policy = match word.text.as_str() {
                "random" => Policy::Random,
                "round_robin" => Policy::RoundRobin,
                "sequential" => Policy::Sequential,
                _ => return Err(word.error(format!("`{}` is no policy", word.text), "write random, round_robin or sequential")),
            };
        }
        "health_check" => read_health_check(options, option)?,
        "next" => options.next = option.args.iter().map(read::rcode).collect::<Result<_, _>>()?,
        "failover" => options.failover = option.args.iter().map(read::rcode).collect::<Result<_, _>>()?,
        "failfast_all_unhealthy_upstreams" => {
            option.none()?;
            options.fail_fast = true;
        }
        "tls" | "tls_servername" => return Err(tls_error(&option.name)),
        _ => return Err(directive.unknown_option(option, OPTIONS)),
    }
    Ok(())
}

fn read_health_check(options: &mut ForwardOptions, option: &Directive) -> Result<(), CorefileError> {
    let Some((interval, rest)) = option.args.split_first() else { return Err(option.count_error("a length of time")) };
    options.health_interval = read::duration(interval)?.max(Duration::from_millis(10));
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match word.text.as_str() {
            "no_rec" => options.health_recursion = false,
            "domain" => {
                let name = words.next().and_then(|word| crate::name::parse(&word.text));
                options.health_name = name.ok_or_else(|| word.error("`domain` names no domain", "write a domain name after it"))?;
            }
            _ => return Err(word.error(format!("`{}` is out of place", word.text), "write DURATION [no_rec] [domain NAME]")),
        }
    }
    Ok(())
}

fn tls_error(word: &Word) -> CorefileError {
    word.error(
        format!("`{}`: upstreams are asked over UDP and TCP only, TLS is not supported", word.text),
        "name the upstream by its address alone",
    )
}

fn read_upstream(word: &Word, read_file: &dyn Fn(&str) -> std::io::Result<String>) -> Result<Vec<SocketAddr>, CorefileError> {
    let text = match word.text.split_once("://") {
        None => word.text.as_str(),
        Some(("dns", rest)) => rest,
        Some(("tls", _)) => return Err(tls_error(word)),
        Some((scheme, _)) => {
            return Err(word.error(
                format!("`{scheme}://` is no way to ask an upstream"),
                "write an address, ADDRESS:PORT, or a file like /etc/resolv.conf",
            ));
        }
    };
    if let Some(address) = read_address(text) {
        return Ok(vec![address]);
    }
    let is_path = text.starts_with('/') || text.starts_with('.');
    let bad = |what: String| word.error(what, "write an address, ADDRESS:PORT, or a file like /etc/resolv.conf");
    if !is_path {
        return Err(bad(format!("`{text}` is no address of an upstream")));
    }
    let content = read_file(text).map_err(|error| bad(format!("cannot read {text}: {error}")))?;
    let servers = name_servers(&content);
    if servers.is_empty() { Err(bad(format!("{text} names no name server"))) } else { Ok(servers) }
}

fn read_address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_default_port = |ip: IpAddr| SocketAddr::new(ip, 53);
    text.parse().ok().or_else(|| bare.parse().ok().map(with_default_port))
}

/// The `nameserver` lines of a resolv.conf; addresses with an interface behind `%` cannot be used and are left out.
fn name_servers(content: &str) -> Vec<SocketAddr> {
    let lines = content.lines().map(str::split_whitespace);
    lines
        .filter_map(|mut words| if words.next() == Some("nameserver") { words.next() } else { None })
        .filter_map(read_address)
        .take(MAX_UPSTREAMS)
        .collect()
}

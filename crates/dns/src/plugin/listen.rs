//! Addresses of `health`, `ready` and `prometheus`, and the times of `health` and `reload`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::corefile::{CorefileError, Directive, Word};
use crate::plugin::read;

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// The address; all of both families if absent.
    pub ip: Option<IpAddr>,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl Listen {
    /// All addresses.
    pub fn everywhere(port: u16) -> Listen {
        Listen { ip: None, port }
    }

    /// The sockets to make: one for each family where no address is given.
    pub fn sockets(&self) -> Vec<SocketAddr> {
        match self.ip {
            Some(ip) => vec![SocketAddr::new(ip, self.port)],
            None => [IpAddr::from([0_u8; 4]), IpAddr::from([0_u8; 16])].map(|ip| SocketAddr::new(ip, self.port)).to_vec(),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// Reads an address such as `:8080`, `localhost:8080` or `[::1]:8080`.
///
/// # Errors
/// It is none.
pub fn read_listen(word: &Word, default_port: u16) -> Result<Listen, CorefileError> {
    let text = word.text.as_str();
    let bad = || word.error(format!("`{text}` is no address to listen on"), "write IP:PORT, or :PORT for all addresses");
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Listen { ip: Some(address.ip()), port: address.port() });
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Listen { ip: Some(ip), port: default_port });
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    match host {
        "" => Ok(Listen::everywhere(port)),
        "localhost" => Ok(Listen { ip: Some(Ipv4Addr::LOCALHOST.into()), port }),
        _ => Err(bad()),
    }
}

/// `health`: where liveness is told, and how long the server goes on after it was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// The address.
    pub listen: Listen,
    /// Time between the signal and the end.
    pub lameduck: Duration,
}

/// Reads `health [ADDRESS] { lameduck DURATION }`.
///
/// # Errors
/// What is wrong with it.
pub fn read_health(directive: &Directive) -> Result<Health, CorefileError> {
    let mut health = Health { listen: Listen::everywhere(8080), lameduck: Duration::ZERO };
    if let Some(word) = directive.at_most_one("at most one address")? {
        health.listen = read_listen(word, 8080)?;
    }
    for option in &directive.body {
        match option.name.text.as_str() {
            "lameduck" => health.lameduck = read::duration(option.one("a length of time")?)?,
            _ => return Err(directive.unknown_option(option, "lameduck")),
        }
    }
    Ok(health)
}

/// Reads `ready [ADDRESS]` (its option `monitor` is taken: readiness here never waits for what is ready already).
///
/// # Errors
/// What is wrong with it.
pub fn read_ready(directive: &Directive) -> Result<Listen, CorefileError> {
    for option in &directive.body {
        if option.name.text != "monitor" {
            return Err(directive.unknown_option(option, "monitor"));
        }
    }
    let word = directive.at_most_one("at most one address")?;
    word.map_or(Ok(Listen::everywhere(8181)), |word| read_listen(word, 8181))
}

/// Reads `prometheus [ADDRESS]`.
///
/// # Errors
/// What is wrong with it.
pub fn read_prometheus(directive: &Directive) -> Result<Listen, CorefileError> {
    directive.no_body()?;
    let word = directive.at_most_one("at most one address")?;
    let local = Listen { ip: Some(Ipv4Addr::LOCALHOST.into()), port: 9153 };
    word.map_or(Ok(local), |word| read_listen(word, 9153))
}

/// `reload`: how often the file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Time between looks.
    pub interval: Duration,
    /// At most this much is added to it or taken from it, so that many servers do not look at once.
    pub jitter: Duration,
}

/// Reads `reload [INTERVAL] [JITTER]`; an interval of 0 turns it off.
///
/// # Errors
/// What is wrong with it.
pub fn read_reload(directive: &Directive) -> Result<Option<Reload>, CorefileError> {
    directive.no_body()?;
    let (interval, jitter) = match directive.args.as_slice() {
        [] => (Duration::from_secs(30), Duration::from_secs(15)),
        [interval] => {
            let interval = read::duration(interval)?;
            (interval, interval / 2)
        }
        [interval, jitter] => (read::duration(interval)?, read::duration(jitter)?),
        [_, _, ..] => return Err(directive.count_error("an interval and a jitter")),
    };
    if interval.is_zero() {
        return Ok(None);
    }
    let least = Duration::from_secs(2);
    if interval < least {
        return Err(directive.name.error("`reload` is too frequent", "let at least 2s pass between looks"));
    }
    Ok(Some(Reload { interval, jitter: jitter.min(interval / 2) }))
}

/// Reads `bufsize [BYTES]`.
///
/// # Errors
/// What is wrong with it.
pub fn read_bufsize(directive: &Directive) -> Result<u16, CorefileError> {
    directive.no_body()?;
    directive.at_most_one("at most one size")?.map_or(Ok(1232), |word| read::number(word, 512, 4096))
}

//! Zones as a Corefile writes them: names, address blocks, ports.

use ipnet::IpNet;

use super::{CorefileError, Word};
use crate::name::{self, Name};

/// What a server block's key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerKey {
    /// The zones; several where an address block ends inside a label.
    pub zones: Vec<Name>,
    /// The port, where the key has one.
    pub port: Option<u16>,
}

/// Zones that one address block may stand for (a /17 of IPv4 is 128).
const MAX_ZONES: usize = 256;

/// Reads a key such as `.`, `example.org:1053`, `10.0.0.0/24` or `dns://.:53`.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse_key(word: &Word) -> Result<ServerKey, CorefileError> {
    let mut text = word.text.as_str();
    if let Some((scheme, rest)) = text.split_once("://") {
        if scheme != "dns" {
            return Err(word.error(format!("`{scheme}://` is not served"), "serve `dns://` (UDP and TCP), which may be left out"));
        }
        text = rest;
    }
    let (zone, port) = split_port(word, text)?;
    Ok(ServerKey { zones: zones_of(word, zone)?, port })
}

/// Reads the zones that a plugin is given.
///
/// # Errors
/// Says what is wrong with the first that is.
pub fn parse_zones<'a>(words: impl IntoIterator<Item = &'a Word>) -> Result<Vec<Name>, CorefileError> {
    let mut zones = Vec::new();
    for word in words {
        for zone in parse_key(word)?.zones {
            if !zones.contains(&zone) {
                zones.push(zone);
            }
        }
    }
    Ok(zones)
}

/// A last colon with digits behind it begins a port, but for IPv6 blocks, whose colons come before a slash.
fn split_port<'a>(word: &Word, text: &'a str) -> Result<(&'a str, Option<u16>), CorefileError> {
    let Some((zone, port)) = text.rsplit_once(':') else { return Ok((text, None)) };
    if port.contains('/') {
        return Ok((text, None));
    }
    let port = port.parse::<u16>().ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| word.error(format!("`{text}` ends in no port"), "write a port from 1 to 65535 after the colon"))?;
    Ok((zone, Some(port)))
}

fn zones_of(word: &Word, text: &str) -> Result<Vec<Name>, CorefileError> {
    if let Ok(block) = text.parse::<IpNet>() {
        let label_bits = if block.addr().is_ipv4() { 8 } else { 4 };
        let spare = (label_bits - block.prefix_len() % label_bits) % label_bits;
        if 1_usize << spare > MAX_ZONES {
            return Err(word.error(format!("`{text}` covers too many zones"), "write a longer prefix"));
        }
        return Ok(name::reverse_zones(&block));
    }
    if text.contains('/') {
        return Err(word.error(format!("`{text}` is no address block"), "write it as ADDRESS/LENGTH, such as 192.168.0.0/16"));
    }
    match name::parse(text) {
        Some(zone) => Ok(vec![name::lowercase(&zone)]),
        None => Err(word.error(format!("`{text}` is no zone"), "write a domain name or an address block")),
    }
}

//! What the runtime adds for one container: the capabilities of `runtimeConfig`.
//!
//! Field names are read in any case, as Go's decoder does: containerd 1.x writes `ContainerPort` for `containerPort`.
//! Reference: the CNI project's conventions for plugin capabilities.

use std::net::IpAddr;

use bowline_model::{MacAddr, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::env::unicast_mac;
use crate::error::CniError;
use crate::field::Field;
use crate::result::Dns;

/// Capabilities that a configuration for this plugin may declare.
pub const CAPABILITIES: [&str; 6] = ["portMappings", "bandwidth", "ips", "mac", "dns", "ipRanges"];

/// Everything the runtime asks for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeConfig {
    /// Ports of the node that lead to the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Limits on the container's traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// Addresses the container shall have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Hardware address the container shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Resolver settings for the container.
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
    /// Ranges to take addresses from: each inner list yields one address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<Vec<IpRange>>,
}

/// One port of the node that leads to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Port on the node; none when any free one will do (0 in the configuration).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Port in the container, 1 to 65535.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// The one address of the node on which the port is open; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// Traffic limits. Rates are bits per second, bursts are bits; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Rate towards the container.
    pub ingress_rate_bits: u64,
    /// Burst towards the container.
    pub ingress_burst_bits: u64,
    /// Rate from the container.
    pub egress_rate_bits: u64,
    /// Burst from the container.
    pub egress_burst_bits: u64,
}

/// A part of a subnet to take an address from; both ends are included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRange {
    /// The subnet.
    pub subnet: IpNet,
    /// First address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<IpAddr>,
    /// Last address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<IpAddr>,
}

impl RuntimeConfig {
    pub(crate) fn parse(field: &Field<'_>) -> Result<RuntimeConfig, CniError> {
        let mut config = RuntimeConfig::default();
        for (key, member) in field.members()? {
            if member.value().is_null() {
                continue;
            }
            match key {
                "portMappings" => config.port_mappings = each(&member, parse_port_mapping)?,
                "bandwidth" => config.bandwidth = parse_bandwidth(&member)?,
                "ips" => config.ips = each(&member, parse_ip)?,
                "mac" => config.mac = parse_mac(&member)?,
                "dns" => config.dns = parse_dns(&member)?,
                "ipRanges" => {
                    config.ip_ranges = each(&member, |set| each(set, parse_ip_range))?;
                }
                _ => {
                    let known = CAPABILITIES.join(", ");
                    let why = format!("remove it from \"capabilities\"; those offered are {known}");
                    return Err(member.unsupported(&why));
                }
            }
        }
        Ok(config)
    }
}

/// Parses each item of a list.
pub(crate) fn each<T>(field: &Field<'_>, parse: impl Fn(&Field<'_>) -> Result<T, CniError>) -> Result<Vec<T>, CniError> {
    field.items()?.iter().map(parse).collect()
}

fn parse_port_mapping(field: &Field<'_>) -> Result<PortMapping, CniError> {
    let port = |key: &str, low: u64| -> Result<Option<u16>, CniError> {
        let Some(member) = field.get_any_case(key) else {
            return Ok(None);
        };
        let number = member.number(low, 65535)?;
        Ok(u16::try_from(number).ok().filter(|port| *port != 0))
    };
    let protocol = match field.get_any_case("protocol") {
        None => Protocol::Tcp,
        Some(member) => match member.text()?.to_ascii_lowercase().as_str() {
            "" => Protocol::Tcp,
            text => text.parse().map_err(|_| member.wrong("tcp, udp or sctp"))?,
        },
    };
    let host_ip = match field.get_any_case("hostIP") {
        Some(member) if !member.text()?.is_empty() => Some(member.parse::<IpAddr>("an address")?),
        Some(_) | None => None,
    };
    Ok(PortMapping {
        host_port: port("hostPort", 0)?,
        container_port: port("containerPort", 1)?.ok_or_else(|| field.wrong("a containerPort in it"))?,
        protocol,
        // An unspecified address is how runtimes write "on every address" of one family; the other family is
        // kept open too, as it is when the field is missing.
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
    })
}

fn parse_bandwidth(field: &Field<'_>) -> Result<Option<Bandwidth>, CniError> {
    let mut bandwidth = Bandwidth::default();
    for (key, member) in field.members()? {
        let slot = match key.to_ascii_lowercase().as_str() {
            "ingressrate" => &mut bandwidth.ingress_rate_bits,
            "ingressburst" => &mut bandwidth.ingress_burst_bits,
            "egressrate" => &mut bandwidth.egress_rate_bits,
            "egressburst" => &mut bandwidth.egress_burst_bits,
            _ => return Err(member.unsupported("only rates and bursts can be limited")),
        };
        *slot = member.number(0, u64::MAX)?;
    }
    let burst_alone = |rate: u64, burst: u64| rate == 0 && burst != 0;
    if burst_alone(bandwidth.ingress_rate_bits, bandwidth.ingress_burst_bits)
        || burst_alone(bandwidth.egress_rate_bits, bandwidth.egress_burst_bits)
    {
        return Err(field.wrong("a rate with each burst"));
    }
    Ok(Some(bandwidth).filter(|limits| *limits != Bandwidth::default()))
}

pub(crate) fn parse_ip(field: &Field<'_>) -> Result<IpAddr, CniError> {
    let text = field.text()?;
    let ip = match text.contains('/') {
        true => text.parse::<IpNet>().ok().map(|net| net.addr()),
        false => text.parse().ok(),
    };
    ip.ok_or_else(|| field.wrong("an address, with or without a prefix length"))
}

pub(crate) fn parse_mac(field: &Field<'_>) -> Result<Option<MacAddr>, CniError> {
    match field.text()? {
        "" => Ok(None),
        text => {
            let mac = unicast_mac(text);
            mac.map(Some).ok_or_else(|| field.wrong("a unicast address like 02:00:00:00:00:01"))
        }
    }
}

/// Reads resolver settings by the names of the configuration (`nameservers`, `search`) and by those of the
/// capability (`servers`, `searches`).
pub(crate) fn parse_dns(field: &Field<'_>) -> Result<Dns, CniError> {
    let mut dns = Dns::default();
    for (key, member) in field.members()? {
        if member.value().is_null() {
            continue;
        }
        match key.to_ascii_lowercase().as_str() {
            "nameservers" | "servers" => {
                dns.nameservers = each(&member, |item| item.parse::<IpAddr>("an address").map(|ip| ip.to_string()))?;
            }
            "search" | "searches" => dns.search = member.texts()?,
            "options" => dns.options = member.texts()?,
            "domain" => dns.domain = member.text()?.to_owned(),
            _ => return Err(member.unsupported("not a resolver setting")),
        }
    }
    Ok(dns)
}

fn parse_ip_range(field: &Field<'_>) -> Result<IpRange, CniError> {
    let subnet: IpNet = field.get_any_case("subnet").ok_or_else(|| field.wrong("a subnet in it"))?.parse("a subnet like 10.1.0.0/24")?;
    let bound = |key: &str| -> Result<Option<IpAddr>, CniError> {
        let Some(member) = field.get_any_case(key) else {
            return Ok(None);
        };
        if member.text()?.is_empty() {
            return Ok(None);
        }
        let ip: IpAddr = member.parse("an address")?;
        if subnet.contains(&ip) { Ok(Some(ip)) } else { Err(member.wrong(&format!("an address in {subnet}"))) }
    };
    let (start, end) = (bound("rangeStart")?, bound("rangeEnd")?);
    if let (Some(first), Some(last)) = (start, end)
        && first > last
    {
        return Err(field.wrong("rangeStart not after rangeEnd"));
    }
    Ok(IpRange { subnet, start, end })
}

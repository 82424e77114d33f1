//! Results: what a container got, in the shapes of all versions.
//!
//! Inside there is one type, the 1.1.0 form, and the older forms are made from it when printing and turned into it
//! when reading.
//!
//! Reference: CNI specification 1.1.0 "Section 5: Result Types"; 0.4.0 and 0.2.0 for the older ones.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

use crate::error::{CniError, code};
use crate::version::Version;

/// An interface that was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace's path; none for an interface of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Socket of a user-space interface.
    #[serde(default, rename = "socketPath", skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// PCI address of the device.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address that was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index of the interface in the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    /// Address with the subnet's prefix length.
    pub address: IpNet,
    /// Default gateway of that subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; the address's gateway where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU of the path in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Maximum segment size to announce, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric; lower goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope by the kernel's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

impl Route {
    /// A route with a next hop and nothing else.
    pub fn via(dst: IpNet, gw: IpAddr) -> Route {
        Route { dst, gw: Some(gw), mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of resolvers, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

/// What a container got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// Interfaces, on the node and in the container.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub ips: Vec<IpConfig>,
    /// Routes.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub routes: Vec<Route>,
    /// Resolver settings.
    #[serde(skip_serializing_if = "Dns::is_empty", deserialize_with = "nullable")]
    pub dns: Dns,
}

/// Reads null, which Go writes for an empty list, as the empty value.
fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The form of 0.1.0 and 0.2.0: at most one address a family.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LegacyResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<LegacyIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<LegacyIp>,
    #[serde(skip_serializing_if = "Dns::is_empty", deserialize_with = "nullable")]
    dns: Dns,
}

#[derive(Debug, Serialize, Deserialize)]
struct LegacyIp {
    ip: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    routes: Vec<Route>,
}

impl CniResult {
    /// Reads a result of any version; the shape says which it is.
    ///
    /// # Errors
    /// Code 7 with the reason when it is none.
    pub fn parse(value: &Value) -> Result<CniResult, CniError> {
        let wrong = |why: String| CniError::new(code::INVALID_CONFIG, format!("prevResult: {why}"));
        let result = if value.get("ip4").is_some() || value.get("ip6").is_some() {
            let legacy = LegacyResult::deserialize(value).map_err(|e| wrong(e.to_string()))?;
            CniResult::from_legacy(legacy)
        } else {
            CniResult::deserialize(value).map_err(|e| wrong(e.to_string()))?
        };
        for (position, ip) in result.ips.iter().enumerate() {
            let known = result.interfaces.len();
            if ip.interface.is_some_and(|index| index as usize >= known) {
                let why = format!("ips[{position}].interface: only {known} interfaces in it");
                return Err(wrong(why));
            }
        }
        Ok(result)
    }

    fn from_legacy(legacy: LegacyResult) -> CniResult {
        let mut result = CniResult { dns: legacy.dns, ..CniResult::default() };
        for ip in [legacy.ip4, legacy.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { interface: None, address: ip.ip, gateway: ip.gateway });
            result.routes.extend(ip.routes);
        }
        result
    }

    /// The result in the form of the version.
    pub fn render(&self, version: Version) -> Value {
        let mut object = if version <= Version::V0_2_0 { serde_json::to_value(self.to_legacy()) } else { serde_json::to_value(self) }
            .ok()
            .and_then(|value| value.as_object().cloned())
            .unwrap_or_default();
        if version < Version::V1_1_0 {
            for interface in members(&mut object, "interfaces") {
                for newer in ["mtu", "socketPath", "pciID"] {
                    interface.remove(newer);
                }
            }
            // Routes of the oldest forms were made without these, see `to_legacy`.
            for route in members(&mut object, "routes") {
                route.retain(|key, _| matches!(key.as_str(), "dst" | "gw"));
            }
        }
        if (Version::V0_3_0..=Version::V0_4_0).contains(&version) {
            for (entry, ip) in members(&mut object, "ips").zip(&self.ips) {
                let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
                entry.insert("version".into(), family.into());
            }
        }
        object.insert("cniVersion".into(), json!(version.as_str()));
        Value::Object(object)
    }

    fn to_legacy(&self) -> LegacyResult {
        let family = |want_v4: bool| {
            let first = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == want_v4)?;
            let routes = self
                .routes
                .iter()
                .filter(|route| route.dst.addr().is_ipv4() == want_v4)
                .map(|route| Route { dst: route.dst, gw: route.gw, mtu: None, advmss: None, priority: None, table: None, scope: None })
                .collect();
            Some(LegacyIp { ip: first.address, gateway: first.gateway, routes })
        };
        LegacyResult { ip4: family(true), ip6: family(false), dns: self.dns.clone() }
    }

    /// What came before, with what this plugin did added to it.
    #[must_use]
    pub fn after(self, previous: Option<CniResult>) -> CniResult {
        let Some(mut merged) = previous else {
            return self;
        };
        // Where each of our interfaces stands in the merged list.
        let mut places = Vec::with_capacity(self.interfaces.len());
        for interface in self.interfaces {
            let same = |other: &Interface| other.name == interface.name && other.sandbox == interface.sandbox;
            let place = merged.interfaces.iter().position(same);
            places.push(place.unwrap_or(merged.interfaces.len()));
            match place.and_then(|place| merged.interfaces.get_mut(place)) {
                Some(slot) => *slot = interface,
                None => merged.interfaces.push(interface),
            }
        }
        for mut ip in self.ips {
            ip.interface = ip.interface.and_then(|index| places.get(index as usize)).and_then(|place| u32::try_from(*place).ok());
            match merged.ips.iter_mut().find(|other| other.address == ip.address) {
                Some(slot) => *slot = ip,
                None => merged.ips.push(ip),
            }
        }
        for route in self.routes {
            if !merged.routes.contains(&route) {
                merged.routes.push(route);
            }
        }
        if !self.dns.is_empty() {
            merged.dns = self.dns;
        }
        merged
    }

    /// Compares what is there (`self`, from the agent) with what the runtime was told (`promised`).
    ///
    /// # Errors
    /// Code 100 with the first difference.
    pub fn check_against(&self, promised: &CniResult, ifname: &str) -> Result<(), CniError> {
        let differs = |msg: String| Err(CniError::new(code::CHECK_FAILED, msg));
        for interface in &self.interfaces {
            let inside = interface.sandbox.is_some();
            let found = promised.interfaces.iter().find(|other| other.name == interface.name && other.sandbox.is_some() == inside);
            match found {
                None if promised.interfaces.is_empty() => {} // a result of 0.2.0 or older names none
                None => {
                    return differs(format!("interface {} is not in prevResult", interface.name));
                }
                Some(other) => {
                    let same = other.mac.eq_ignore_ascii_case(&interface.mac);
                    if !other.mac.is_empty() && !same {
                        let (name, was, is) = (&interface.name, &other.mac, &interface.mac);
                        return differs(format!("interface {name}: MAC was {was}, is {is}"));
                    }
                }
            }
        }
        for ip in &self.ips {
            if !promised.ips.iter().any(|other| other.address.addr() == ip.address.addr()) {
                return differs(format!("address {} is not in prevResult", ip.address));
            }
        }
        if self.interfaces.is_empty() {
            return Ok(()); // another plugin made the interface: its addresses are that one's to check
        }
        for ip in &promised.ips {
            let ours = match ip.interface.and_then(|i| promised.interfaces.get(i as usize)) {
                Some(interface) => interface.name == ifname && interface.sandbox.is_some(),
                None => promised.interfaces.is_empty(),
            };
            if ours && !self.ips.iter().any(|is| is.address.addr() == ip.address.addr()) {
                return differs(format!("interface {ifname} has lost address {}", ip.address));
            }
        }
        Ok(())
    }
}

fn members<'a>(object: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Entry for fuzzing: reads the bytes as a result and, where that works, renders, reads back, merges and compares it.
///
/// # Panics
/// If what a result is rendered to cannot be read back, or not as the same: that is what fuzzers are to look for.
pub fn fuzz_result(bytes: &[u8]) {
    let Some(result) = serde_json::from_slice(bytes).ok().and_then(|value: Value| CniResult::parse(&value).ok()) else {
        return;
    };
    for version in Version::SUPPORTED {
        let rendered = result.render(version);
        let back = CniResult::parse(&rendered);
        assert!(back.is_ok(), "a result of ours can be read back: {rendered}");
        if version >= Version::V1_1_0 {
            assert_eq!(back.ok().as_ref(), Some(&result), "the newest form keeps everything");
        }
    }
    for ifname in ["eth0", ""] {
        let _ = result.check_against(&CniResult::default(), ifname); // must not panic; either answer is fine
        let _ = CniResult::default().check_against(&result, ifname);
    }
    let merged = result.clone().after(Some(result));
    assert!(CniResult::parse(&merged.render(Version::V1_1_0)).is_ok(), "a merged result can be read back");
}

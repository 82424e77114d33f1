//! The endpoints of a service: who answers on a port, and who of them is to be used.
//!
//! References: KEP-1669 (terminating endpoints), KEP-2086 (internalTrafficPolicy), KEP-752 (EndpointSlice).

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::intent::services::{Endpoint, WhenEmpty};
use bowline_model::{Family, Problem, Protocol, ServiceName};

use super::port_number;
use crate::codes;
use crate::world::{EndpointConditions, EndpointSlice, World};

/// What is known of one endpoint; several slices may speak of the same one, then the best word counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    anywhere: Word,
    local: Word,
}

/// What slices say of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Word {
    ready: bool,
    draining: bool,
}

impl Word {
    fn add(&mut self, other: Word) {
        self.ready |= other.ready;
        self.draining |= other.draining;
    }
}

/// A service port, as slices name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    name: String,
    protocol: Protocol,
    family: Family,
}

/// All endpoints of a service.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    by_port: BTreeMap<PortKey, BTreeMap<Endpoint, State>>,
}

/// Those of a frontend.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Sorted.
    pub(crate) endpoints: Vec<Endpoint>,
    /// For none.
    pub(crate) when_empty: WhenEmpty,
}

impl Endpoints {
    /// Reads the slices of a service.
    pub(crate) fn gather(world: &World, service: &ServiceName, disregard_ready: bool, problems: &mut Vec<Problem>) -> Self {
        let mut endpoints = Endpoints::default();
        for slice in world.slices_of(service) {
            let family = match &*slice.address_type {
                "IPv4" => Family::V4,
                "IPv6" => Family::V6,
                _ => continue,
            };
            let ports = slice_ports(slice);
            for (index, endpoint) in slice.endpoints.iter().enumerate() {
                let Some(text) = endpoint.addresses.first() else { continue };
                let Some(ip) = usable(text, family) else {
                    problems.push(bad_endpoint(slice, index, text));
                    continue;
                };
                let local = endpoint.node_name.as_deref() == Some(world.settings().node_name.as_str());
                let word = word(&endpoint.conditions, disregard_ready);
                for (name, protocol, port) in &ports {
                    let key = PortKey { name: name.clone(), protocol: *protocol, family };
                    let known = endpoints.by_port.entry(key).or_default().entry(Endpoint { ip, port: *port }).or_default();
                    known.anywhere.add(word);
                    if local {
                        known.local.add(word);
                    }
                }
            }
        }
        endpoints
    }

    /// Whom packets to a port go to.
    pub(crate) fn choose(&self, name: &str, protocol: Protocol, family: Family, only_local: bool) -> Chosen {
        let key = PortKey { name: name.to_owned(), protocol, family };
        let Some(all) = self.by_port.get(&key) else {
            return Chosen { endpoints: Vec::new(), when_empty: WhenEmpty::Reject };
        };
        let anywhere = in_use(all.iter().map(|(endpoint, state)| (endpoint, state.anywhere)));
        if !only_local {
            return Chosen { endpoints: anywhere, when_empty: WhenEmpty::Reject };
        }
        let endpoints = in_use(all.iter().map(|(endpoint, state)| (endpoint, state.local)));
        let when_empty = if anywhere.is_empty() { WhenEmpty::Reject } else { WhenEmpty::Drop };
        Chosen { endpoints, when_empty }
    }
}

/// The ready ones; without any, those that still serve while they terminate.
fn in_use<'a>(all: impl Iterator<Item = (&'a Endpoint, Word)> + Clone) -> Vec<Endpoint> {
    let ready: Vec<Endpoint> = all.clone().filter(|(_, word)| word.ready).map(|(endpoint, _)| *endpoint).collect();
    if !ready.is_empty() {
        return ready;
    }
    all.filter(|(_, word)| word.draining).map(|(endpoint, _)| *endpoint).collect()
}

fn word(conditions: &EndpointConditions, disregard_ready: bool) -> Word {
    Word {
        ready: disregard_ready || conditions.ready.unwrap_or(true),
        draining: conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false),
    }
}

/// Ports of a slice; bad ones are left out (the service's own port tells the problem), those without number lead nowhere.
pub(crate) fn slice_ports(slice: &EndpointSlice) -> Vec<(String, Protocol, u16)> {
    let ports = slice.ports.iter().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        Some((port.name.as_deref().unwrap_or_default().to_owned(), protocol, port_number(port.port?)?))
    });
    ports.collect()
}

/// An address that an endpoint may have.
pub(crate) fn usable(text: &str, family: Family) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    let odd = address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local;
    (Family::of(&address) == family && !odd).then_some(address)
}

fn bad_endpoint(slice: &EndpointSlice, index: usize, text: &str) -> Problem {
    let (namespace, name) = (&slice.metadata.namespace, &slice.metadata.name);
    let what = format!("`{}` cannot be an endpoint of address type {}", text.escape_debug(), slice.address_type.escape_debug());
    let place = format!("EndpointSlice {namespace}/{name}, endpoints[{index}].addresses[0]");
    Problem::new(codes::BAD_ENDPOINT, what, place, "use a unicast address of the slice's family, not loopback or link-local")
}

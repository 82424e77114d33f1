//! The endpoints of a service: who answers on a port, and who of them is to be used.
//!
//! References: KEP-1669 (terminating endpoints), KEP-2086 (internalTrafficPolicy), KEP-752 (EndpointSlice), KEP-2433 (topology hints),
//! KEP-3015 (hints for nodes).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_model::intent::services::{Endpoint, WhenEmpty};
use bowline_model::{Family, Problem, Protocol, ServiceName};

use super::port_number;
use crate::codes;
use crate::world::{EndpointConditions, EndpointSlice, HintedPlace, SliceEndpoint, World};

/// What is known of one endpoint; several slices may speak of the same one, then the best word counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    anywhere: Word,
    local: Word,
    zone: Hint,
    node: Hint,
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

/// Whether an endpoint that is ready is meant for this node, or for its zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hint {
    /// It is.
    here: bool,
    /// Some slice does not say for whom it is.
    unsaid: bool,
}

impl Hint {
    fn of(places: &[HintedPlace], here: Option<&str>) -> Hint {
        Hint { here: places.iter().any(|place| Some(&*place.name) == here), unsaid: places.is_empty() }
    }

    fn add(&mut self, other: Hint) {
        self.here |= other.here;
        self.unsaid |= other.unsaid;
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

/// Which endpoints a frontend may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All, those that are meant for this node or its zone before others.
    Cluster,
    /// Those on this node.
    Local,
}

impl Endpoints {
    /// Reads the slices of a service.
    pub(crate) fn gather(world: &World, service: &ServiceName, disregard_ready: bool, problems: &mut Vec<Problem>) -> Self {
        let mut endpoints = Endpoints::default();
        let (node, zone) = (world.settings().node_name.as_str(), world.zone().map(AsRef::as_ref));
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
                let said = state(endpoint, disregard_ready, node, zone);
                for (name, protocol, port) in &ports {
                    let key = PortKey { name: name.clone(), protocol: *protocol, family };
                    endpoints.by_port.entry(key).or_default().entry(Endpoint { ip, port: *port }).or_default().add(said);
                }
            }
        }
        endpoints
    }

    /// Whom packets to a port go to.
    pub(crate) fn choose(&self, name: &str, protocol: Protocol, family: Family, reach: Reach) -> Chosen {
        let key = PortKey { name: name.to_owned(), protocol, family };
        let Some(all) = self.by_port.get(&key) else {
            return Chosen { endpoints: Vec::new(), when_empty: WhenEmpty::Reject };
        };
        let anywhere = in_use(all, |state| state.anywhere);
        match reach {
            Reach::Cluster => Chosen { endpoints: preferred(all, anywhere), when_empty: WhenEmpty::Reject },
            Reach::Local => {
                let when_empty = if anywhere.is_empty() { WhenEmpty::Reject } else { WhenEmpty::Drop };
                Chosen { endpoints: in_use(all, |state| state.local), when_empty }
            }
        }
    }

    /// Addresses on this node at which the service is ready, whatever the port; of the family that has more, so that a pod of two families
    /// counts once.
    pub(crate) fn ready_here(&self) -> usize {
        let here = self.by_port.values().flatten().filter(|(_, state)| state.local.ready);
        let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = here.map(|(endpoint, _)| endpoint.ip).partition(IpAddr::is_ipv4);
        v4.len().max(v6.len())
    }
}

impl State {
    fn add(&mut self, other: State) {
        self.anywhere.add(other.anywhere);
        self.local.add(other.local);
        self.zone.add(other.zone);
        self.node.add(other.node);
    }
}

/// The ready ones; without any, those that still serve while they terminate.
fn in_use(all: &BTreeMap<Endpoint, State>, word: impl Fn(&State) -> Word) -> Vec<Endpoint> {
    let such = |wanted: fn(Word) -> bool| all.iter().filter(|(_, state)| wanted(word(state))).map(|(endpoint, _)| *endpoint).collect();
    let ready: Vec<Endpoint> = such(|word| word.ready);
    if ready.is_empty() { such(|word| word.draining) } else { ready }
}

/// Of those in use, the ones that are meant for this node, or else for its zone; all of them unless every ready one says for whom it is.
fn preferred(all: &BTreeMap<Endpoint, State>, in_use: Vec<Endpoint>) -> Vec<Endpoint> {
    let ready: Vec<&State> = all.values().filter(|state| state.anywhere.ready).collect();
    for hint in [|state: &State| state.node, |state: &State| state.zone] {
        if ready.iter().all(|state| !hint(state).unsaid) && ready.iter().any(|state| hint(state).here) {
            return all.iter().filter(|(_, state)| state.anywhere.ready && hint(state).here).map(|(endpoint, _)| *endpoint).collect();
        }
    }
    in_use
}

/// What one slice says of an endpoint.
fn state(endpoint: &SliceEndpoint, disregard_ready: bool, node: &str, zone: Option<&str>) -> State {
    let anywhere = word(&endpoint.conditions, disregard_ready);
    let local = if endpoint.node_name.as_deref() == Some(node) { anywhere } else { Word::default() };
    if !anywhere.ready {
        return State { anywhere, local, ..State::default() };
    }
    let hints = &endpoint.hints;
    State { anywhere, local, zone: Hint::of(&hints.for_zones, zone), node: Hint::of(&hints.for_nodes, Some(node)) }
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

//! What the programs at the socket hooks do with the maps: `c/sockets.c` of the bpf crate, without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_bpf::abi::{Endpoint, EndpointKey, FrontendKey};

use crate::objects::sockets::{SocketKey, SocketValue};

/// What becomes of connect(2), or of sendto(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// It goes where it was to go: the rules see to the rest.
    AsItIs,
    /// ECONNREFUSED.
    Refused,
    /// It goes to one of these, each drawn as often as the others.
    To(BTreeSet<Endpoint>),
}

/// A socket that addresses `address`; `on_node` says that it is in the node's own network namespace.
pub fn connect(maps: &BTreeMap<SocketKey, SocketValue>, address: IpAddr, protocol: u8, port: u16, on_node: bool) -> Socket {
    let find = |key: FrontendKey| match maps.get(&SocketKey::Frontend(key)) {
        Some(SocketValue::Frontend(frontend)) => Some((key, *frontend)),
        Some(SocketValue::Endpoint(_) | SocketValue::Live) | None => None,
    };
    let asked = FrontendKey::asked(address, port, protocol, on_node).find_map(find);
    let Some((key, frontend)) = asked else { return Socket::AsItIs };
    if frontend.endpoints == 0 {
        return Socket::Refused;
    }
    let place = |index| SocketKey::Endpoint(EndpointKey { frontend: key, generation: frontend.generation, index });
    let drawn = (0..frontend.endpoints).map(|index| match maps.get(&place(index)) {
        Some(SocketValue::Endpoint(endpoint)) => Some(*endpoint),
        Some(SocketValue::Frontend(_) | SocketValue::Live) | None => None,
    });
    drawn.collect::<Option<BTreeSet<Endpoint>>>().map_or(Socket::AsItIs, Socket::To)
}

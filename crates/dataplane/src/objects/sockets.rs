//! Elements of the maps by which services are served at the socket.
//!
//! Invariant: the order of keys is the order of making. A frontend points at a list of endpoints by its generation, so the list is there
//! before the frontend says so, and goes after the frontend says otherwise.

use bowline_bpf::abi::{Endpoint, EndpointKey, Frontend, FrontendKey, LiveKey};

/// What identifies an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketKey {
    /// A place in a frontend's list.
    Endpoint(EndpointKey),
    /// An endpoint that a UDP frontend has.
    Live(LiveKey),
    /// A frontend.
    Frontend(FrontendKey),
}

/// What an element holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketValue {
    /// Who is at a place.
    Endpoint(Endpoint),
    /// Nothing but that it is there.
    Live,
    /// Which list counts.
    Frontend(Frontend),
}

impl SocketKey {
    /// Its bytes in its map.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            SocketKey::Endpoint(key) => key.to_bytes().to_vec(),
            SocketKey::Live(key) => key.to_bytes().to_vec(),
            SocketKey::Frontend(key) => key.to_bytes().to_vec(),
        }
    }
}

impl SocketValue {
    /// Its bytes in its map.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            SocketValue::Endpoint(endpoint) => endpoint.to_bytes().to_vec(),
            SocketValue::Live => 1_u32.to_ne_bytes().to_vec(),
            SocketValue::Frontend(frontend) => frontend.to_bytes().to_vec(),
        }
    }
}

//! What the maps say of an address, asked as the programs at the socket hooks ask.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use bowline_bpf::abi::{self, Endpoint, EndpointKey, Frontend, FrontendKey};
use bowline_dataplane::objects::sockets::{SocketKey, SocketValue};

use super::hooks::BpfError;
use super::maps::Table;

/// How often a list is read anew that changed while it was read, as the programs do it.
const LOOKS: usize = 3;

/// Reads of the maps what belongs to one address.
#[derive(Debug)]
pub struct Lookup {
    frontends: Table,
    endpoints: Table,
}

impl Lookup {
    pub(super) fn open(directory: &Path) -> Result<Lookup, BpfError> {
        Ok(Lookup {
            frontends: Table::open(directory, "frontends", abi::FRONTEND_KEY, abi::FRONTEND)?,
            endpoints: Table::open(directory, "endpoints", abi::ENDPOINT_KEY, abi::ENDPOINT)?,
        })
    }

    /// The frontend that a socket finds which addresses `address`, with its endpoints; nothing if it finds none. `protocol` is the number of
    /// the transport protocol; `on_node` says that the socket is in the node's own network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn find(&self, address: IpAddr, protocol: u8, port: u16, on_node: bool) -> io::Result<BTreeMap<SocketKey, SocketValue>> {
        let mut found = BTreeMap::new();
        for _ in 0..LOOKS {
            found = self.look(FrontendKey::asked(address, port, protocol, on_node))?;
            if found.iter().all(|(key, value)| is_whole(key, value, &found)) {
                break;
            }
        }
        Ok(found)
    }

    fn look(&self, asked: impl Iterator<Item = FrontendKey>) -> io::Result<BTreeMap<SocketKey, SocketValue>> {
        let mut found = BTreeMap::new();
        for key in asked {
            let value = self.frontends.elements().get(&key.to_bytes())?;
            let Some(frontend) = value.as_deref().and_then(Frontend::from_bytes) else { continue };
            found.insert(SocketKey::Frontend(key), SocketValue::Frontend(frontend));
            for place in places(key, frontend) {
                let value = self.endpoints.elements().get(&place.to_bytes())?;
                let endpoint = value.as_deref().and_then(Endpoint::from_bytes);
                found.extend(endpoint.map(|endpoint| (SocketKey::Endpoint(place), SocketValue::Endpoint(endpoint))));
            }
            break;
        }
        Ok(found)
    }
}

fn places(key: FrontendKey, frontend: Frontend) -> impl Iterator<Item = EndpointKey> {
    (0..frontend.endpoints).map(move |index| EndpointKey { frontend: key, generation: frontend.generation, index })
}

/// Whether a frontend's endpoints are all there.
fn is_whole(key: &SocketKey, value: &SocketValue, found: &BTreeMap<SocketKey, SocketValue>) -> bool {
    let (SocketKey::Frontend(key), SocketValue::Frontend(frontend)) = (key, value) else { return true };
    places(*key, *frontend).all(|place| found.contains_key(&SocketKey::Endpoint(place)))
}

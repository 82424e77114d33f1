//! Writes into the maps of the programs at the sockets of where this runs, as somebody might who is not the agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bowline_bpf::abi::{Endpoint, EndpointKey, Frontend, FrontendKey, Kind};
use bowline_dataplane::objects::sockets::{SocketKey, SocketValue};
use bowline_kernel::bpf::{Hooks, Place, Sizes};
use bowline_kernel::reconcile::Driver as _;
use bowline_model::{Delta, Protocol};
use serde_json::json;

/// Gives a service's address these endpoints for TCP, in the place of those that it has; says which these were. Whoever gives them back leaves
/// the maps as they were.
pub(super) fn to(service: SocketAddr, endpoints: &[SocketAddr]) -> Result<()> {
    let mut driver = Hooks::open_at(&Place::of_machine()?, Sizes::default())?.driver()?;
    let seen = driver.read_owned(&BTreeMap::new())?;
    let key = FrontendKey { address: service.ip(), port: service.port(), protocol: Protocol::Tcp.number(), kind: Kind::Vip };
    let Some(SocketValue::Frontend(frontend)) = seen.get(&SocketKey::Frontend(key)) else {
        anyhow::bail!("{service} is not in the maps");
    };
    let place = |index| SocketKey::Endpoint(EndpointKey { frontend: key, generation: frontend.generation, index });
    let before: Vec<String> = (0..)
        .map_while(|index| match seen.get(&place(index)) {
            Some(SocketValue::Endpoint(endpoint)) => Some(SocketAddr::new(endpoint.address, endpoint.port).to_string()),
            _ => None,
        })
        .collect();
    let count = u32::try_from(endpoints.len())?;
    let mut delta = Delta::default();
    for (index, endpoint) in (0..).zip(endpoints) {
        delta.set.insert(place(index), SocketValue::Endpoint(Endpoint { address: endpoint.ip(), port: endpoint.port() }));
    }
    delta.set.insert(SocketKey::Frontend(key), SocketValue::Frontend(Frontend { generation: frontend.generation, endpoints: count }));
    let report = driver.apply(&delta);
    ensure!(report.failed.is_empty(), "{:?}", report.failed.first().context("nothing")?.error);
    super::say(&json!(before).to_string())
}

//! Made-up clusters: intents with many services.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::intent::routes::{BackendConf, FabricNode};
use bowline_model::intent::services::{Endpoint, Frontend, FrontendAddress, ServiceIntent, WhenEmpty};
use bowline_model::{Dual, MacAddr, Protocol, ServiceName};
use ipnet::{IpNet, Ipv4Net};

use crate::populate;

/// First address of the service networks, 10.43.0.0/16 and 10.44.0.0/15.
const SERVICES: u32 = u32::from_be_bytes([10, 43, 0, 0]);

/// The virtual address of service `n`; there are 190,000.
pub(crate) fn vip(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(SERVICES.saturating_add(n + 1)))
}

/// Endpoint number `n` of all.
pub(crate) fn endpoint(n: u32) -> Endpoint {
    Endpoint { ip: populate::endpoint(n), port: 8080 }
}

/// The name of service `n`.
pub(crate) fn name(n: u32) -> ServiceName {
    ServiceName::new("bench", format!("svc-{n}"))
}

/// A service of one port over these endpoints.
pub(crate) fn service(n: u32, endpoints: Vec<Endpoint>) -> Arc<ServiceIntent> {
    let frontend = Frontend {
        address: FrontendAddress::Vip(vip(n)),
        protocol: Protocol::Tcp,
        port: 80,
        endpoints,
        own_endpoints: None,
        affinity_secs: None,
        sources: None,
        when_empty: WhenEmpty::Reject,
    };
    Arc::new(ServiceIntent { frontends: vec![frontend] })
}

/// A node without pods and peers, and `services` services of two endpoints each.
pub(crate) fn intent(services: u32) -> Intent {
    intent_of(services, 2)
}

/// The same without services, on a node that has this address.
pub(crate) fn intent_on(address: Ipv4Addr) -> Intent {
    let mut intent = intent(0);
    let routes = Arc::make_mut(&mut intent.routes);
    routes.local = routes.local.take().map(|local| {
        let internal = Dual { v4: Some(IpAddr::V4(address)), v6: None };
        Arc::new(FabricNode { internal, ..(*local).clone() })
    });
    intent
}

/// The same with any number of endpoints each.
pub(crate) fn intent_of(services: u32, endpoints: u32) -> Intent {
    let mut intent = Intent { revision: 1, ..Intent::default() };
    let routes = Arc::make_mut(&mut intent.routes);
    routes.backend = BackendConf::HostGw;
    routes.cluster_cidrs = vec![net([10, 42, 0, 0], 16), net([10, 64, 0, 0], 12)];
    routes.local = Some(Arc::new(FabricNode {
        name: "n1".into(),
        internal: Dual { v4: Some(IpAddr::V4(Ipv4Addr::new(192, 168, 200, 11))), v6: None },
        pod_cidrs: vec![net([10, 42, 1, 0], 24)],
        id: 1,
        vtep_mac: MacAddr([2, 0, 0, 0, 0xff, 1]),
    }));
    let all = Arc::make_mut(&mut intent.services);
    all.service_cidrs = vec![net([10, 43, 0, 0], 16), net([10, 44, 0, 0], 15)];
    all.services = (0..services).map(|n| (name(n), service(n, (0..endpoints).map(|e| endpoint(endpoints * n + e)).collect()))).collect();
    intent
}

/// The same with one endpoint of service `n` replaced by another.
pub(crate) fn with_one_endpoint_changed(intent: &Intent, n: u32, to: u32) -> Intent {
    let mut new = intent.clone();
    new.revision += 1;
    Arc::make_mut(&mut new.services).services.insert(name(n), service(n, vec![endpoint(2 * n), endpoint(to)]));
    new
}

fn net(address: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(address), length))
}

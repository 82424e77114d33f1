//! Services to names: what the cluster's DNS answers.
//!
//! Invariant: only what is to be answered is given; an endpoint that is not ready is absent unless its service publishes such.
//! Reference: Kubernetes DNS-Based Service Discovery 1.1.0.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::dns::{DnsEndpoint, DnsIntent, DnsKind, DnsPort, DnsService};
use bowline_model::{Family, Problem, ServiceName};

use crate::codes;
use crate::services::endpoints::{slice_ports, usable};
use crate::services::{is_headless, port_number};
use crate::world::{Service, Touched, World};

/// What DNS was compiled to.
#[derive(Debug, Default)]
pub(crate) struct State {
    intent: DnsIntent,
    problems: BTreeMap<ServiceName, Problem>,
}

impl State {
    /// Follows the world; gives whether anything came out differently.
    pub(crate) fn turn(&mut self, world: &World, touched: &Touched) -> bool {
        if touched.all {
            let old = std::mem::take(self);
            for name in world.services().keys() {
                self.service(world, name);
            }
            self.intent.namespaces = world.namespaces().keys().map(|name| name.0.clone()).collect();
            let claimed = world.pods().values().flat_map(|pod| pod.claimed()).filter_map(|text| text.parse().ok());
            let attached = world.attached().values().flat_map(|attached| attached.intent.ips.values().copied());
            let addresses: BTreeSet<IpAddr> = claimed.chain(attached).collect();
            self.pods(world, &addresses);
            return old.intent != self.intent;
        }
        let mut changed = false;
        for name in &touched.services {
            changed |= self.service(world, name);
        }
        for name in &touched.namespaces {
            changed |= match world.namespaces().contains_key(name) {
                true => self.intent.namespaces.insert(name.0.clone()).is_none(),
                false => self.intent.namespaces.remove(&name.0).is_some(),
            };
        }
        changed | self.pods(world, &touched.addresses)
    }

    /// What came of it.
    pub(crate) fn intent(&self) -> DnsIntent {
        self.intent.clone()
    }

    /// What is wrong with names.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }

    fn service(&mut self, world: &World, name: &ServiceName) -> bool {
        self.problems.remove(name);
        let compiled = world.services().get(name).map(|service| compile(world, name, service));
        let new = match compiled {
            Some(Ok(new)) => new,
            Some(Err(problem)) => {
                self.problems.insert(name.clone(), problem);
                None
            }
            None => None,
        };
        if new.as_ref() == self.intent.services.get(name).map(|old| &**old) {
            return false;
        }
        match new {
            Some(new) => self.intent.services.insert(name.clone(), Arc::new(new)),
            None => self.intent.services.remove(name),
        };
        true
    }

    fn pods(&mut self, world: &World, addresses: &BTreeSet<IpAddr>) -> bool {
        let mut changed = false;
        for address in addresses.iter().filter(|_| world.settings().dns_pods) {
            let new = world.holder(address).map(|pod| pod.namespace.clone());
            if new.as_ref() == self.intent.pods.get(address) {
                continue;
            }
            changed = true;
            match new {
                Some(new) => self.intent.pods.insert(*address, new),
                None => self.intent.pods.remove(address),
            };
        }
        changed
    }
}

/// The names of a service; none while it has no address yet.
fn compile(world: &World, name: &ServiceName, service: &Service) -> Result<Option<DnsService>, Problem> {
    let spec = &service.spec;
    if spec.kind.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default();
        if !is_dns_name(target) {
            let what = format!("`{}` is not a DNS name", target.escape_debug());
            let place = format!("Service {name}, spec.externalName");
            return Err(Problem::new(codes::BAD_EXTERNAL_NAME, what, place, "use a name such as db.example.com"));
        }
        let kind = DnsKind::ExternalName(target.to_owned());
        return Ok(Some(DnsService { kind, ports: Vec::new(), endpoints: Vec::new() }));
    }
    let mut endpoints = endpoints(world, name, spec.publish_not_ready_addresses);
    let kind = if is_headless(service) {
        DnsKind::Headless
    } else {
        let single = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_empty());
        let addresses = spec.cluster_ips.iter().chain(single).filter_map(|text| text.parse().ok());
        let addresses: Vec<IpAddr> = addresses.collect();
        if addresses.is_empty() {
            return Ok(None);
        }
        // Endpoints behind a virtual address have names only where they have a hostname.
        endpoints.retain(|endpoint| endpoint.hostname.is_some());
        DnsKind::ClusterIp(addresses)
    };
    let ports = spec.ports.iter().filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        Some(DnsPort { name: named(port.name.as_deref()), protocol, port: port_number(port.port)? })
    });
    Ok(Some(DnsService { kind, ports: ports.collect(), endpoints: endpoints.into_iter().collect() }))
}

fn endpoints(world: &World, name: &ServiceName, disregard_ready: bool) -> BTreeSet<DnsEndpoint> {
    let mut found = BTreeSet::new();
    for slice in world.slices_of(name) {
        let family = match &*slice.address_type {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => continue,
        };
        let ports: Vec<DnsPort> =
            slice_ports(slice).into_iter().map(|(name, protocol, port)| DnsPort { name: named(Some(&name)), protocol, port }).collect();
        for endpoint in &slice.endpoints {
            let ready = disregard_ready || endpoint.conditions.ready.unwrap_or(true);
            let address = endpoint.addresses.first().and_then(|text| usable(text, family));
            let Some(ip) = address.filter(|_| ready) else { continue };
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            found.insert(DnsEndpoint {
                ip,
                hostname: named(endpoint.hostname.as_deref()),
                pod: named(target.and_then(|target| target.name.as_deref())),
                node: named(endpoint.node_name.as_deref()),
                ports: ports.clone(),
            });
        }
    }
    found
}

fn named(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// RFC 1035 section 2.3.4 on lengths; letters, digits, hyphen and underscore.
fn is_dns_name(text: &str) -> bool {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let good = |label: &str| {
        let known = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        (1..=63).contains(&label.len()) && known
    };
    bare.len() <= 253 && bare.split('.').all(good)
}

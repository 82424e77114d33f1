//! Services and EndpointSlices to frontends with their endpoints.
//!
//! Invariant: no two services have a frontend of the same address, protocol and port. Allocated addresses go before claimed
//! ones, then the older service before the younger, then the name decides.

pub(crate) mod endpoints;
mod frontends;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bowline_model::intent::services::{Frontend, FrontendAddress, HealthCheck, ServiceIntent, ServicesIntent};
use bowline_model::{Dual, Problem, Protocol, ServiceName};
use imbl::OrdMap;
use ipnet::IpNet;

use frontends::{Candidate, Rank};

use crate::codes;
use crate::world::{Age, Service, Touched, World};

/// What makes two frontends the same.
type FrontendKey = (FrontendAddress, Protocol, u16);

/// A claim to a frontend; the least has it.
type Claim = (Rank, Age, ServiceName);

/// Everything that services were compiled from, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    candidates: BTreeMap<ServiceName, Candidate>,
    claims: BTreeMap<FrontendKey, BTreeSet<Claim>>,
    /// Problems of services that have any: their own, and conflicts with others.
    problems: BTreeMap<ServiceName, Vec<Problem>>,
    exposed: BTreeSet<ServiceName>,
    /// Services that are asked for on a port of the node; the first by name has it.
    health: BTreeMap<u16, BTreeMap<ServiceName, usize>>,
    /// The zone that endpoints were chosen for.
    zone: Option<Arc<str>>,
    intent: ServicesIntent,
}

impl State {
    /// Follows the world; gives whether anything came out differently.
    pub(crate) fn turn(&mut self, world: &World, touched: &Touched) -> bool {
        if touched.all || touched.service_networks || world.zone() != self.zone.as_ref() {
            let old = std::mem::take(self);
            self.zone = world.zone().cloned();
            self.intent = ServicesIntent {
                services: OrdMap::new(),
                health_checks: OrdMap::new(),
                node_port_addresses: node_port_addresses(world),
                service_cidrs: world.service_networks(),
            };
            let all = world.services().keys().cloned().collect();
            self.recompile(world, all);
            return old.intent != self.intent;
        }
        let mut names = touched.services.clone();
        let mut moved = false;
        if !touched.nodes.is_empty() {
            names.extend(self.exposed.iter().cloned());
            let node_ports = node_port_addresses(world);
            moved = node_ports != self.intent.node_port_addresses;
            self.intent.node_port_addresses = node_ports;
        }
        self.recompile(world, names) | moved
    }

    /// What came of it.
    pub(crate) fn intent(&self) -> ServicesIntent {
        self.intent.clone()
    }

    /// What is wrong with the services.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    fn recompile(&mut self, world: &World, names: BTreeSet<ServiceName>) -> bool {
        let (mut affected, mut asked) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            let new = world.services().get(&name).map(|service| frontends::compile(world, &name, service));
            if new.as_ref() == self.candidates.get(&name) {
                continue;
            }
            let old = self.candidates.get(&name);
            asked.extend([old, new.as_ref()].into_iter().flatten().filter_map(|candidate| candidate.health).map(|(port, _)| port));
            self.withdraw(&name, &mut affected);
            if let Some(new) = new {
                self.enter(&name, new, &mut affected);
            }
            affected.insert(name);
        }
        let mut changed = false;
        for name in affected {
            changed |= self.settle(&name);
        }
        for port in asked {
            changed |= self.settle_health(port);
        }
        changed
    }

    /// Gives a port on which load balancers ask to the first service that has it; gives whether anything is different.
    fn settle_health(&mut self, port: u16) -> bool {
        let first = self.health.get(&port).and_then(|services| services.first_key_value());
        let new = first.map(|(service, count)| HealthCheck { service: service.clone(), local_endpoints: *count });
        if new.as_ref() == self.intent.health_checks.get(&port) {
            return false;
        }
        match new {
            Some(new) => self.intent.health_checks.insert(port, new),
            None => self.intent.health_checks.remove(&port),
        };
        true
    }

    fn withdraw(&mut self, name: &ServiceName, affected: &mut BTreeSet<ServiceName>) {
        self.exposed.remove(name);
        let Some(old) = self.candidates.remove(name) else { return };
        if let Some((port, _)) = old.health
            && let Some(services) = self.health.get_mut(&port)
        {
            services.remove(name);
            if services.is_empty() {
                self.health.remove(&port);
            }
        }
        for (key, (rank, _)) in &old.frontends {
            let Some(claims) = self.claims.get_mut(key) else { continue };
            claims.remove(&(*rank, old.age.clone(), name.clone()));
            affected.extend(claims.iter().map(|(_, _, other)| other.clone()));
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    fn enter(&mut self, name: &ServiceName, new: Candidate, affected: &mut BTreeSet<ServiceName>) {
        for (key, (rank, _)) in &new.frontends {
            let claims = self.claims.entry(*key).or_default();
            affected.extend(claims.iter().map(|(_, _, other)| other.clone()));
            claims.insert((*rank, new.age.clone(), name.clone()));
        }
        if new.exposed {
            self.exposed.insert(name.clone());
        }
        if let Some((port, count)) = new.health {
            self.health.entry(port).or_default().insert(name.clone(), count);
        }
        self.candidates.insert(name.clone(), new);
    }

    /// Gives a service the frontends that are its own; gives whether it has others than before.
    fn settle(&mut self, name: &ServiceName) -> bool {
        let mut frontends = Vec::new();
        let candidate = self.candidates.get(name);
        let mut problems = candidate.map(|candidate| candidate.problems.clone()).unwrap_or_default();
        for (key, (_, frontend)) in candidate.iter().flat_map(|candidate| &candidate.frontends) {
            match self.claims.get(key).and_then(BTreeSet::first) {
                Some((_, _, owner)) if owner != name => problems.push(conflict(name, owner, frontend)),
                _ => frontends.push(frontend.clone()),
            }
        }
        frontends.sort();
        match problems.is_empty() {
            true => self.problems.remove(name),
            false => self.problems.insert(name.clone(), problems),
        };
        let old = self.intent.services.get(name);
        if frontends.is_empty() {
            return self.intent.services.remove(name).is_some();
        }
        if old.is_some_and(|old| old.frontends == frontends) {
            return false;
        }
        self.intent.services.insert(name.clone(), Arc::new(ServiceIntent { frontends }));
        true
    }
}

/// The networks whose addresses of the node take NodePort traffic; all of its addresses if there is none.
fn node_port_addresses(world: &World) -> Vec<IpNet> {
    let settings = world.settings();
    if !settings.node_port_primary {
        return settings.node_port_addresses.clone();
    }
    let node = world.nodes().get(&settings.node_name);
    let internal = node.iter().flat_map(|node| &node.status.addresses).filter(|address| &*address.kind == "InternalIP");
    let first: Dual<IpAddr> = Dual::first_of(internal.filter_map(|address| address.address.parse().ok()));
    let mut networks: Vec<IpNet> = first.values().map(|ip| IpNet::from(*ip)).collect();
    if networks.is_empty() {
        // Nothing is ever sent to this one: a node without addresses has no node ports, rather than on all.
        networks.push(IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
    }
    networks
}

fn conflict(name: &ServiceName, owner: &ServiceName, frontend: &Frontend) -> Problem {
    let (protocol, port) = (frontend.protocol, frontend.port);
    let what = match frontend.address {
        FrontendAddress::Vip(ip) => format!("{ip} {protocol} port {port} belongs to Service {owner} already"),
        FrontendAddress::NodePort(family) => {
            format!("{family} node port {port} {protocol} belongs to Service {owner} already")
        }
    };
    let fix = "give one of the two another address or port";
    Problem::new(codes::FRONTEND_TAKEN, what, format!("Service {name}, spec.ports"), fix)
}

/// Whether a service has no virtual address by its own wish.
pub(crate) fn is_headless(service: &Service) -> bool {
    let spec = &service.spec;
    spec.cluster_ip.as_deref() == Some("None") || spec.cluster_ips.first().is_some_and(|ip| &**ip == "None")
}

/// A port number from 1 to 65535.
pub(crate) fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number != 0)
}

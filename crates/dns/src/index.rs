//! The intent, laid out for lookups: by service name and by address.
//!
//! Invariant: an index that followed the changes equals one built from the whole intent. All maps are persistent, so a
//! copy for the readers costs next to nothing and a change costs the change.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::ServiceName;
use bowline_model::intent::dns::{DnsFeed, DnsIntent, DnsKind, DnsService};
use imbl::{HashMap, OrdSet};

/// What the server looks names up in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DnsIndex {
    intent: DnsIntent,
    services: HashMap<Arc<[u8]>, Arc<DnsService>>,
    virtual_ips: HashMap<IpAddr, OrdSet<ServiceName>>,
    endpoint_ips: HashMap<IpAddr, OrdSet<ServiceName>>,
}

/// Longest `service.namespace` that is looked up: two labels and the dot.
const KEY_BYTES: usize = 127;

impl DnsIndex {
    /// The index of an intent.
    pub fn new(intent: DnsIntent) -> DnsIndex {
        let mut index = DnsIndex::default();
        for (name, service) in &intent.services {
            index.put(name, service);
        }
        index.intent = intent;
        index
    }

    /// Follows a message of the feed; gives its revision.
    pub fn apply(&mut self, message: DnsFeed) -> u64 {
        match &message {
            DnsFeed::Snapshot(_) => {
                let mut intent = DnsIntent::default();
                let revision = intent.apply(message);
                *self = DnsIndex::new(intent);
                revision
            }
            DnsFeed::Change(change) => {
                let touched = change.remove.iter().chain(change.set.iter().map(|(name, _)| name));
                for name in touched.cloned().collect::<Vec<_>>() {
                    if let Some(old) = self.intent.services.get(&name).cloned() {
                        self.take(&name, &old);
                    }
                }
                for (name, service) in &change.set {
                    self.put(name, service);
                }
                self.intent.apply(message)
            }
        }
    }

    /// The intent itself.
    pub fn intent(&self) -> &DnsIntent {
        &self.intent
    }

    /// A service by the labels of its name, in any case.
    pub fn service(&self, name: &[u8], namespace: &[u8]) -> Option<&Arc<DnsService>> {
        let mut key = [0_u8; KEY_BYTES];
        let length = name.len() + 1 + namespace.len();
        let key = key.get_mut(..length)?;
        for (to, from) in key.iter_mut().zip(name.iter().chain(b".").chain(namespace)) {
            *to = from.to_ascii_lowercase();
        }
        self.services.get(&*key)
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.intent.namespaces.contains(namespace)
    }

    /// The namespace of the pod with an address.
    pub fn pod_namespace(&self, ip: &IpAddr) -> Option<&Arc<str>> {
        self.intent.pods.get(ip)
    }

    /// Services with a virtual address, by name.
    pub fn services_at(&self, ip: &IpAddr) -> impl Iterator<Item = &ServiceName> {
        self.virtual_ips.get(ip).into_iter().flatten()
    }

    /// Services with an endpoint's address, by name.
    pub fn endpoints_at(&self, ip: &IpAddr) -> impl Iterator<Item = (&ServiceName, &Arc<DnsService>)> {
        let names = self.endpoint_ips.get(ip).into_iter().flatten();
        names.filter_map(|name| self.intent.services.get_key_value(name))
    }

    fn put(&mut self, name: &ServiceName, service: &Arc<DnsService>) {
        self.services.insert(key_of(name), Arc::clone(service));
        for ip in virtual_ips(service) {
            self.virtual_ips.entry(*ip).or_default().insert(name.clone());
        }
        for endpoint in &service.endpoints {
            self.endpoint_ips.entry(endpoint.ip).or_default().insert(name.clone());
        }
    }

    fn take(&mut self, name: &ServiceName, service: &DnsService) {
        self.services.remove(&key_of(name));
        for ip in virtual_ips(service) {
            forget(&mut self.virtual_ips, ip, name);
        }
        for endpoint in &service.endpoints {
            forget(&mut self.endpoint_ips, &endpoint.ip, name);
        }
    }
}

fn virtual_ips(service: &DnsService) -> &[IpAddr] {
    match &service.kind {
        DnsKind::ClusterIp(ips) => ips,
        DnsKind::Headless | DnsKind::ExternalName(_) => &[],
    }
}

fn key_of(name: &ServiceName) -> Arc<[u8]> {
    let mut key = format!("{}.{}", name.name, name.namespace);
    key.make_ascii_lowercase();
    key.into_bytes().into()
}

fn forget(map: &mut HashMap<IpAddr, OrdSet<ServiceName>>, ip: &IpAddr, name: &ServiceName) {
    if let Some(names) = map.get_mut(ip) {
        names.remove(name);
        if names.is_empty() {
            map.remove(ip);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use bowline_model::intent::dns::DnsEndpoint;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn random_intent(rng: &mut StdRng) -> DnsIntent {
        let mut intent = DnsIntent::default();
        for _ in 0..rng.random_range(0..12) {
            let ip = IpAddr::from([10, 0, 0, rng.random_range(1..6)]);
            let endpoint = DnsEndpoint { ip, hostname: None, pod: None, node: None, ports: vec![] };
            let kind = if rng.random() { DnsKind::Headless } else { DnsKind::ClusterIp(vec![ip]) };
            let name = ServiceName::new(format!("n{}", rng.random_range(0..3)), format!("s{}", rng.random_range(0..3)));
            let service = DnsService { kind, ports: vec![], endpoints: vec![endpoint] };
            intent.namespaces.insert(Arc::clone(&name.namespace));
            intent.services.insert(name, Arc::new(service));
        }
        intent
    }

    #[test]
    fn following_equals_building_anew() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut now = DnsIntent::default();
        let mut followed = DnsIndex::default();
        for revision in 1..500 {
            let next = random_intent(&mut rng);
            assert_eq!(followed.apply(DnsFeed::Change(now.change_to(&next, revision))), revision);
            assert_eq!(followed, DnsIndex::new(next.clone()));
            now = next;
        }
    }

    #[test]
    fn lookups_ignore_case_and_overlong_names() {
        let mut rng = StdRng::seed_from_u64(2);
        let intent = (0..).map(|_| random_intent(&mut rng)).find(|i| !i.services.is_empty()).unwrap();
        let name = intent.services.keys().next().unwrap().clone();
        let index = DnsIndex::new(intent);
        let upper = |text: &str| text.to_ascii_uppercase().into_bytes();
        assert!(index.service(&upper(&name.name), &upper(&name.namespace)).is_some());
        assert!(index.service(&[b'a'; 64], &[b'b'; 64]).is_none());
    }
}

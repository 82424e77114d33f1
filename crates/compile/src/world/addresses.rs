//! Who holds which address.
//!
//! What an attachment of this node says goes before what any status says: it is made before the status is written, and it
//! outlives a status that is out of date. Among statuses, a pod that lives goes before one that has ended, the newer before
//! the older. A pod in its node's network namespace holds no address of its own.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{PodName, Problem};
use imbl::{OrdMap, OrdSet};

use super::{Attached, ObjectKey, Pod, Touched, World};
use crate::codes;

/// Claims to addresses, indexed.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Pods that live and whose status names the address.
    claimed: OrdMap<IpAddr, OrdSet<PodName>>,
    /// Attachments that have the address.
    attached: OrdMap<IpAddr, OrdSet<Arc<str>>>,
    /// Attachments of a pod.
    of_pod: OrdMap<PodName, OrdSet<Arc<str>>>,
}

/// Which pods' statuses name which addresses: what other nodes go by. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Claims(OrdMap<IpAddr, OrdSet<PodName>>);

impl Claims {
    /// Whether the address is named by a pod that lives and is not `but`.
    pub fn is_claimed(&self, address: &IpAddr, but: Option<&PodName>) -> bool {
        self.0.get(address).is_some_and(|pods| pods.iter().any(|pod| Some(pod) != but))
    }
}

impl World {
    /// Which pods' statuses name which addresses.
    pub fn claims(&self) -> Claims {
        Claims(self.addresses.claimed.clone())
    }

    /// The attachments of a pod on this node, of whatever uid.
    pub fn attachments_of(&self, pod: &PodName) -> impl Iterator<Item = &Arc<Attached>> {
        self.addresses.of_pod.get(pod).into_iter().flatten().filter_map(|ifname| self.attached.get(ifname))
    }

    /// The pod that an attachment is of, if it is known and the same one (not its successor of the same name).
    pub fn pod_of(&self, attached: &Attached) -> Option<(&PodName, &Arc<Pod>)> {
        let (name, pod) = self.pods.get_key_value(attached.intent.pod.as_ref()?)?;
        let same = attached.pod_uid.as_deref().is_none_or(|uid| uid.is_empty() || pod.is_uid(uid));
        (same && !pod.spec.host_network).then_some((name, pod))
    }

    /// The pod that holds an address, as far as anyone may rely on that.
    pub fn holder(&self, address: &IpAddr) -> Option<&PodName> {
        match self.addresses.attached.get(address) {
            Some(ifnames) => {
                newest(ifnames.iter().filter_map(|ifname| self.pod_of(self.attached.get(ifname)?)).filter(|(_, pod)| !pod.is_terminal()))
            }
            None => newest(
                self.addresses
                    .claimed
                    .get(address)?
                    .iter()
                    .filter_map(|name| self.pods.get_key_value(name))
                    .filter(|(name, _)| !self.is_attached(name)),
            ),
        }
    }

    /// The addresses that a pod holds.
    pub fn addresses_of(&self, name: &PodName) -> Vec<IpAddr> {
        let Some(pod) = self.pods.get(name) else { return Vec::new() };
        let mut addresses: Vec<IpAddr> = if self.is_attached(name) {
            self.own_attachments(name).flat_map(|a| a.intent.ips.values().copied()).collect()
        } else {
            claims(pod)
        };
        addresses.sort_unstable();
        addresses.dedup();
        addresses.retain(|address| self.holder(address) == Some(name));
        addresses
    }

    fn own_attachments(&self, name: &PodName) -> impl Iterator<Item = &Arc<Attached>> {
        self.attachments_of(name).filter(|attached| self.pod_of(attached).is_some())
    }

    fn is_attached(&self, name: &PodName) -> bool {
        self.own_attachments(name).next().is_some()
    }

    pub(super) fn put_pod(&mut self, name: PodName, new: Arc<Pod>, touched: &mut Touched) -> Vec<Problem> {
        let problems = bad_addresses(&new);
        let old = self.pods.insert(name.clone(), Arc::clone(&new));
        let same = |old: &Pod| {
            !old.metadata.differs(&new.metadata)
                && old.spec == new.spec
                && old.is_terminal() == new.is_terminal()
                && old.claimed().eq(new.claimed())
        };
        if old.as_deref().is_some_and(same) {
            return problems;
        }
        let before = old.as_deref().map(claims).unwrap_or_default();
        let after = claims(&new);
        self.reclaim(&name, &before, &after);
        self.touch_pod(&name, before.into_iter().chain(after), touched);
        problems
    }

    pub(super) fn remove_pod(&mut self, name: &PodName, touched: &mut Touched) {
        let Some(old) = self.pods.remove(name) else { return };
        let before = claims(&old);
        self.reclaim(name, &before, &[]);
        self.touch_pod(name, before, touched);
    }

    pub(super) fn attach(&mut self, new: Arc<Attached>, touched: &mut Touched) {
        if self.attached.get(new.host_ifname()) == Some(&new) {
            return;
        }
        let ifname = Arc::clone(new.host_ifname());
        self.detach(&ifname, touched);
        for address in new.intent.ips.values() {
            self.addresses.attached.entry(*address).or_default().insert(ifname.clone());
        }
        if let Some(pod) = &new.intent.pod {
            self.addresses.of_pod.entry(pod.clone()).or_default().insert(ifname.clone());
        }
        self.attached.insert(ifname, Arc::clone(&new));
        self.touch_attachment(&new, touched);
    }

    pub(super) fn detach(&mut self, ifname: &Arc<str>, touched: &mut Touched) {
        let Some(old) = self.attached.remove(ifname) else { return };
        for address in old.intent.ips.values() {
            withdraw(&mut self.addresses.attached, address, ifname);
        }
        if let Some(pod) = &old.intent.pod {
            withdraw(&mut self.addresses.of_pod, pod, ifname);
        }
        self.touch_attachment(&old, touched);
    }

    fn touch_attachment(&self, attached: &Attached, touched: &mut Touched) {
        touched.attached.insert(Arc::clone(attached.host_ifname()));
        let addresses = attached.intent.ips.values().copied();
        match &attached.intent.pod {
            Some(pod) => {
                let claims = self.pods.get(pod).map(|pod| claims(pod)).unwrap_or_default();
                self.touch_pod(pod, addresses.chain(claims), touched);
            }
            None => self.touch_addresses(addresses, touched),
        }
    }

    fn touch_pod(&self, name: &PodName, addresses: impl IntoIterator<Item = IpAddr>, touched: &mut Touched) {
        touched.pods.insert(name.clone());
        let attached = self.attachments_of(name).flat_map(|attached| attached.intent.ips.values().copied());
        self.touch_addresses(addresses.into_iter().chain(attached), touched);
    }

    fn touch_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>, touched: &mut Touched) {
        for address in addresses {
            touched.addresses.insert(address);
            touched.pods.extend(self.addresses.claimed.get(&address).into_iter().flatten().cloned());
            let ifnames = self.addresses.attached.get(&address).into_iter().flatten();
            touched.pods.extend(ifnames.filter_map(|ifname| self.attached.get(ifname)?.intent.pod.clone()));
        }
    }

    fn reclaim(&mut self, name: &PodName, before: &[IpAddr], after: &[IpAddr]) {
        for address in before {
            withdraw(&mut self.addresses.claimed, address, name);
        }
        for address in after {
            self.addresses.claimed.entry(*address).or_default().insert(name.clone());
        }
    }
}

fn newest<'a>(pods: impl Iterator<Item = (&'a PodName, &'a Arc<Pod>)>) -> Option<&'a PodName> {
    pods.max_by_key(|(name, pod)| (pod.metadata.age(), *name)).map(|(name, _)| name)
}

/// The addresses that a pod's status gives it a right to.
fn claims(pod: &Pod) -> Vec<IpAddr> {
    if pod.spec.host_network || pod.is_terminal() {
        return Vec::new();
    }
    pod.claimed().filter_map(|text| text.parse().ok()).collect()
}

fn bad_addresses(pod: &Pod) -> Vec<Problem> {
    let bad = pod.claimed().filter(|text| text.parse::<IpAddr>().is_err());
    let key = || ObjectKey::new(super::Kind::Pod, pod.metadata.namespace.clone(), pod.metadata.name.clone());
    bad.map(|text| {
        let what = format!("pod address `{}` is not an IP address", text.escape_debug());
        Problem::new(codes::BAD_ADDRESS, what, format!("{}, status.podIPs", key()), "look at the kubelet of its node")
    })
    .collect()
}

fn withdraw<K: Ord + Clone, V: Ord + Clone>(index: &mut OrdMap<K, OrdSet<V>>, key: &K, value: &V) {
    let mut values = index.remove(key).unwrap_or_default();
    values.remove(value);
    if !values.is_empty() {
        index.insert(key.clone(), values);
    }
}

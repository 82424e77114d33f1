//! The world: Kubernetes objects and this node's attachments, folded into one picture.
//!
//! Invariant: the world is a function of the last state of each object, not of the order in which states arrived.
//! Only this module and the watch know Kubernetes' types.

mod addresses;
mod attached;
mod cluster_policy;
pub(crate) mod fields;
mod meta;
mod object;
mod pod;
mod policy;
mod service;
mod settings;
mod touched;

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_model::{Checked, ClusterPolicyName, NamespaceName, NodeName, PodName, PolicyName, Problem, ServiceName, SliceName};
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

pub use addresses::{Addresses, Claims};
pub use attached::Attached;
pub use cluster_policy::{
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, ClusterPolicyPeer, ClusterPolicyProtocol, ClusterPolicyRule, ClusterPolicySubject,
    DestinationPort, DestinationRange, NamespacedPods, ProtocolPorts,
};
pub use meta::{Age, Labels, ObjectMeta};
pub use object::{Kind, Object, ObjectKey, Unreadable};
pub use pod::{Container, ContainerPort, Namespace, Node, NodeAddress, NodeSpec, NodeStatus, Pod, PodIp, PodSpec, PodStatus, Taint};
pub use policy::{
    EgressRule, IngressRule, IntOrString, IpBlock, LabelRequirement, LabelSelector, NetworkPolicy, NetworkPolicySpec, Peer, PolicyPort,
};
pub use service::{
    ClientIpConfig, EndpointConditions, EndpointHints, EndpointSlice, HintedPlace, LoadBalancerIngress, LoadBalancerStatus, Service,
    ServiceCidr, ServiceCidrSpec, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig, SliceEndpoint, SlicePort, TargetRef,
};
pub use settings::Settings;
pub use touched::Touched;

/// The label of an EndpointSlice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The label of a Node that names its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Something that happened outside.
#[derive(Debug, Clone)]
pub enum Change {
    /// An object was made or changed.
    Upsert(Object),
    /// An object is gone.
    Delete(ObjectKey),
    /// An object came that cannot be read: the world goes on as if it did not exist, with a problem.
    Unreadable(Box<Unreadable>),
    /// All objects of a kind, listed again: what is missing is gone. Counts as `Synced`.
    Replace(Kind, Vec<Object>),
    /// The first list of a kind is complete.
    Synced(Kind),
    /// A pod was attached to this node's network, or its attachment changed.
    Attached(Box<Attached>),
    /// The attachment with this host interface name is gone.
    Detached(Arc<str>),
    /// The operator's settings changed.
    Settings(Box<Settings>),
}

/// Everything that is known. Cheap to clone.
#[derive(Debug, Clone)]
pub struct World {
    settings: Arc<Settings>,
    synced: OrdSet<Kind>,
    namespaces: OrdMap<NamespaceName, Arc<Namespace>>,
    nodes: OrdMap<NodeName, Arc<Node>>,
    pods: OrdMap<PodName, Arc<Pod>>,
    services: OrdMap<ServiceName, Arc<Service>>,
    slices: OrdMap<SliceName, Arc<EndpointSlice>>,
    slices_of: OrdMap<ServiceName, OrdSet<SliceName>>,
    policies: OrdMap<PolicyName, Arc<NetworkPolicy>>,
    /// Those that were deleted with their namespace, which is not gone yet.
    lingering: OrdSet<PolicyName>,
    cluster_policies: OrdMap<ClusterPolicyName, Arc<ClusterNetworkPolicy>>,
    service_cidrs: OrdMap<Arc<str>, Arc<ServiceCidr>>,
    attached: OrdMap<Arc<str>, Arc<Attached>>,
    addresses: Addresses,
    faults: OrdMap<ObjectKey, Arc<[Problem]>>,
}

impl World {
    /// A world in which nothing is known yet.
    pub fn new(settings: Settings) -> Self {
        World {
            settings: Arc::new(settings),
            synced: OrdSet::new(),
            namespaces: OrdMap::new(),
            nodes: OrdMap::new(),
            pods: OrdMap::new(),
            services: OrdMap::new(),
            slices: OrdMap::new(),
            slices_of: OrdMap::new(),
            policies: OrdMap::new(),
            lingering: OrdSet::new(),
            cluster_policies: OrdMap::new(),
            service_cidrs: OrdMap::new(),
            attached: OrdMap::new(),
            addresses: Addresses::default(),
            faults: OrdMap::new(),
        }
    }

    /// Whether every kind has been listed once; before that nothing may be deleted from the kernel.
    pub fn is_synced(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.synced.contains(kind))
    }

    /// Kinds whose first list is not complete yet.
    pub fn unsynced(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| !self.synced.contains(kind)).collect()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All networks that pods can have addresses in: as the settings say, or the nodes' pod subnets where they say nothing.
    pub(crate) fn pod_networks(&self) -> Vec<IpNet> {
        if !self.settings.cluster_cidrs.is_empty() {
            return self.settings.cluster_cidrs.clone();
        }
        self.nodes
            .values()
            .flat_map(|node| node.spec.subnets())
            .filter_map(|text| text.parse::<IpNet>().ok())
            .map(|net| net.trunc())
            .collect()
    }

    /// All namespaces.
    pub fn namespaces(&self) -> &OrdMap<NamespaceName, Arc<Namespace>> {
        &self.namespaces
    }

    /// All nodes.
    pub fn nodes(&self) -> &OrdMap<NodeName, Arc<Node>> {
        &self.nodes
    }

    /// The zone of the node that is compiled for, if its Node says so.
    pub fn zone(&self) -> Option<&Arc<str>> {
        let node = self.nodes.get(&self.settings.node_name)?;
        node.metadata.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty())
    }

    /// Whether the node that is compiled for is known and is not about to be taken away.
    pub fn node_stays(&self) -> bool {
        self.nodes.get(&self.settings.node_name).is_some_and(|node| !node.is_leaving())
    }

    /// All pods.
    pub fn pods(&self) -> &OrdMap<PodName, Arc<Pod>> {
        &self.pods
    }

    /// All services.
    pub fn services(&self) -> &OrdMap<ServiceName, Arc<Service>> {
        &self.services
    }

    /// All slices.
    pub fn slices(&self) -> &OrdMap<SliceName, Arc<EndpointSlice>> {
        &self.slices
    }

    /// The slices of one service.
    pub fn slices_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// All NetworkPolicies, with those that went before their namespace: while that ends, its pods may still be there, and its contents are
    /// deleted in any order (by API servers without KEP-5080; CVE-2024-7598).
    pub fn policies(&self) -> &OrdMap<PolicyName, Arc<NetworkPolicy>> {
        &self.policies
    }

    /// All ClusterNetworkPolicies.
    pub fn cluster_policies(&self) -> &OrdMap<ClusterPolicyName, Arc<ClusterNetworkPolicy>> {
        &self.cluster_policies
    }

    /// All ServiceCIDRs.
    pub fn service_cidrs(&self) -> &OrdMap<Arc<str>, Arc<ServiceCidr>> {
        &self.service_cidrs
    }

    /// The service networks: those of the settings and those that ServiceCIDR objects name; sorted, each once. What a ServiceCIDR names and
    /// is no network is left out: the API server lets none in.
    pub fn service_networks(&self) -> Vec<IpNet> {
        let named = self.service_cidrs.values().flat_map(|object| &object.spec.cidrs).filter_map(|text| text.parse::<IpNet>().ok());
        let mut all: Vec<IpNet> = self.settings.service_cidrs.iter().copied().chain(named).map(|net| net.trunc()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The attachments of this node, by host interface name.
    pub fn attached(&self) -> &OrdMap<Arc<str>, Arc<Attached>> {
        &self.attached
    }

    /// Problems with objects that could not be read, or not whole.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.faults.values().flat_map(|problems| problems.iter())
    }

    /// Folds one change in. The problems given are those of the change; `Compiler::turn` gives all that there are.
    pub fn apply(&mut self, change: Change) -> Checked<Touched> {
        let mut touched = Touched::default();
        let mut problems = Vec::new();
        match change {
            Change::Upsert(object) => self.upsert(object, &mut touched, &mut problems),
            Change::Delete(key) => self.delete(&key, &mut touched),
            Change::Unreadable(unreadable) => {
                self.delete(&unreadable.key, &mut touched);
                problems.push(unreadable.problem.clone());
                self.faults.insert(unreadable.key, Arc::new([unreadable.problem]));
            }
            Change::Replace(kind, objects) => {
                let kept: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
                for key in self.keys(kind).into_iter().filter(|key| !kept.contains(key)) {
                    self.delete(&key, &mut touched);
                }
                for object in objects.into_iter().filter(|object| object.kind() == kind) {
                    self.upsert(object, &mut touched, &mut problems);
                }
                self.synced.insert(kind);
            }
            Change::Synced(kind) => {
                self.synced.insert(kind);
            }
            Change::Attached(attached) => self.attach(Arc::new(*attached), &mut touched),
            Change::Detached(ifname) => self.detach(&ifname, &mut touched),
            Change::Settings(settings) => {
                touched.all = *self.settings != *settings;
                self.settings = Arc::new(*settings);
            }
        }
        Checked { value: touched, problems }
    }

    fn keys(&self, kind: Kind) -> Vec<ObjectKey> {
        let of = |namespace: &Arc<str>, name: &Arc<str>| ObjectKey::new(kind, namespace.clone(), name.clone());
        let none: Arc<str> = "".into();
        let mut keys: Vec<ObjectKey> = match kind {
            Kind::Namespace => self.namespaces.keys().map(|k| of(&none, &k.0)).collect(),
            Kind::Node => self.nodes.keys().map(|k| of(&none, &k.0)).collect(),
            Kind::Pod => self.pods.keys().map(|k| of(&k.namespace, &k.name)).collect(),
            Kind::Service => self.services.keys().map(|k| of(&k.namespace, &k.name)).collect(),
            Kind::EndpointSlice => self.slices.keys().map(|k| of(&k.namespace, &k.name)).collect(),
            Kind::NetworkPolicy => self.policies.keys().map(|k| of(&k.namespace, &k.name)).collect(),
            Kind::ClusterNetworkPolicy => self.cluster_policies.keys().map(|k| of(&none, &k.0)).collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().map(|name| of(&none, name)).collect(),
        };
        keys.extend(self.faults.keys().filter(|key| key.kind == kind).cloned());
        keys
    }

    fn upsert(&mut self, object: Object, touched: &mut Touched, problems: &mut Vec<Problem>) {
        let key = object.key();
        self.faults.remove(&key);
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        match object {
            Object::Namespace(new) => {
                let name = NamespaceName(name);
                let old = self.namespaces.insert(name.clone(), Arc::clone(&new));
                if new.metadata.deletion_timestamp.is_none() {
                    self.forget_lingering(&name, touched);
                }
                if old.is_none_or(|old| old.metadata.labels != new.metadata.labels) {
                    touched.namespaces.insert(name);
                }
            }
            Object::Node(new) => {
                let name = NodeName(name);
                let old = self.nodes.insert(name.clone(), Arc::clone(&new));
                let same = |old: &Node| !old.metadata.differs(&new.metadata) && old.spec == new.spec && old.status == new.status;
                if !old.is_some_and(|old| same(&old)) {
                    touched.nodes.insert(name);
                }
            }
            Object::Pod(new) => {
                let found = self.put_pod(PodName { namespace, name }, new, touched);
                if !found.is_empty() {
                    problems.extend(found.iter().cloned());
                    self.faults.insert(key, found.into());
                }
            }
            Object::Service(new) => {
                let name = ServiceName { namespace, name };
                let old = self.services.insert(name.clone(), Arc::clone(&new));
                let same = |old: &Service| !old.metadata.differs(&new.metadata) && old.spec == new.spec && old.status == new.status;
                if !old.is_some_and(|old| same(&old)) {
                    touched.services.insert(name);
                }
            }
            Object::EndpointSlice(new) => self.put_slice(SliceName { namespace, name }, Some(new), touched),
            Object::NetworkPolicy(new) => {
                let name = PolicyName { namespace, name };
                self.lingering.remove(&name);
                let old = self.policies.insert(name.clone(), Arc::clone(&new));
                if !old.is_some_and(|old| old.spec == new.spec && old.unreadable == new.unreadable) {
                    touched.policies.insert(name);
                }
            }
            Object::ClusterNetworkPolicy(new) => {
                let name = ClusterPolicyName(name);
                let old = self.cluster_policies.insert(name.clone(), Arc::clone(&new));
                if !old.is_some_and(|old| old.spec == new.spec && old.unreadable == new.unreadable) {
                    touched.cluster_policies.insert(name);
                }
            }
            Object::ServiceCidr(new) => {
                let old = self.service_cidrs.insert(name, Arc::clone(&new));
                touched.service_networks |= !old.is_some_and(|old| old.spec == new.spec);
            }
        }
    }

    fn delete(&mut self, key: &ObjectKey, touched: &mut Touched) {
        self.faults.remove(key);
        let (namespace, name) = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Namespace => {
                let name = NamespaceName(name);
                self.forget_lingering(&name, touched);
                if self.namespaces.remove(&name).is_some() {
                    touched.namespaces.insert(name);
                }
            }
            Kind::Node => {
                let name = NodeName(name);
                if self.nodes.remove(&name).is_some() {
                    touched.nodes.insert(name);
                }
            }
            Kind::Pod => self.remove_pod(&PodName { namespace, name }, touched),
            Kind::Service => {
                let name = ServiceName { namespace, name };
                if self.services.remove(&name).is_some() {
                    touched.services.insert(name);
                }
            }
            Kind::EndpointSlice => self.put_slice(SliceName { namespace, name }, None, touched),
            Kind::NetworkPolicy => {
                let name = PolicyName { namespace, name };
                let home = self.namespaces.get(&NamespaceName(name.namespace.clone()));
                if self.policies.contains_key(&name) && home.is_some_and(|home| home.metadata.deletion_timestamp.is_some()) {
                    self.lingering.insert(name);
                } else if self.policies.remove(&name).is_some() {
                    touched.policies.insert(name);
                }
            }
            Kind::ClusterNetworkPolicy => {
                let name = ClusterPolicyName(name);
                if self.cluster_policies.remove(&name).is_some() {
                    touched.cluster_policies.insert(name);
                }
            }
            Kind::ServiceCidr => touched.service_networks |= self.service_cidrs.remove(&name).is_some(),
        }
    }

    /// The namespace is gone, or another one of its name is there.
    fn forget_lingering(&mut self, namespace: &NamespaceName, touched: &mut Touched) {
        let first = PolicyName::new(namespace.0.clone(), "");
        let of_it = self.lingering.range(first..).take_while(|policy| policy.namespace == namespace.0);
        for name in of_it.cloned().collect::<Vec<_>>() {
            self.lingering.remove(&name);
            self.policies.remove(&name);
            touched.policies.insert(name);
        }
    }

    fn put_slice(&mut self, name: SliceName, new: Option<Arc<EndpointSlice>>, touched: &mut Touched) {
        let old = match &new {
            Some(new) => self.slices.insert(name.clone(), Arc::clone(new)),
            None => self.slices.remove(&name),
        };
        if let (Some(old), Some(new)) = (&old, &new)
            && !old.metadata.differs(&new.metadata)
            && (&old.address_type, &old.endpoints, &old.ports) == (&new.address_type, &new.endpoints, &new.ports)
        {
            return;
        }
        if let Some(service) = old.as_deref().and_then(owner_of) {
            let mut names = self.slices_of.remove(&service).unwrap_or_default();
            names.remove(&name);
            if !names.is_empty() {
                self.slices_of.insert(service.clone(), names);
            }
            touched.services.insert(service);
        }
        if let Some(service) = new.as_deref().and_then(owner_of) {
            self.slices_of.entry(service.clone()).or_default().insert(name);
            touched.services.insert(service);
        }
    }
}

fn owner_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = slice.metadata.labels.get(SERVICE_NAME_LABEL)?;
    Some(ServiceName { namespace: slice.metadata.namespace.clone(), name: name.clone() })
}

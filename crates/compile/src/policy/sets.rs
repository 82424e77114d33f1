//! Sets of pods' and nodes' addresses and of named ports, each defined by its selectors alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::intent::policy::{AddressSet, NamedPortSet, SetId};
use bowline_model::{NodeName, PodName, Protocol};
use imbl::{OrdMap, OrdSet};
use sha2::{Digest, Sha256};

use super::member::{Member, NodeMember};
use super::selector::Selector;

/// Where the pods of a set are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// In this namespace.
    Namespace(Arc<str>),
    /// In namespaces with such labels.
    Namespaces(Selector),
    /// In any namespace, whether it is known or not.
    Everywhere,
}

/// The definition of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SetKey {
    /// Addresses of pods with such labels.
    Pods(Scope, Selector),
    /// Ports of that name, and of that protocol if one is said, of all pods in scope.
    Ports(Scope, Arc<str>, Option<Protocol>),
    /// Addresses of nodes with such labels.
    Nodes(Selector),
    /// Every address that is known to be a node's, those of the pod networks among them that no pod gets.
    OfNodes,
}

/// The definitions of the sets that together have every address of which it is known what policies have to know: all pods of which all
/// labels are known, and all nodes.
pub(crate) fn all_known() -> [SetKey; 2] {
    [SetKey::Pods(Scope::Namespaces(Selector::default()), Selector::default()), SetKey::OfNodes]
}

impl SetKey {
    /// Where its pods are; none of a set of nodes.
    fn scope(&self) -> Option<&Scope> {
        match self {
            SetKey::Pods(scope, _) | SetKey::Ports(scope, _, _) => Some(scope),
            SetKey::Nodes(_) | SetKey::OfNodes => None,
        }
    }

    /// Its id: something to read, and 64 bits of SHA-256 over the definition. Writers of policies could find collisions in a
    /// weaker hash, and so choose the members of others' sets.
    pub(crate) fn id(&self) -> SetId {
        let (mut text, hint) = match self {
            SetKey::Pods(_, pods) => (format!("pods {pods}"), "pods"),
            SetKey::Ports(_, name, Some(protocol)) => (format!("port {name:?} {protocol}"), "port"),
            SetKey::Ports(_, name, None) => (format!("port {name:?} of any protocol"), "port"),
            SetKey::Nodes(nodes) => (format!("nodes {nodes}"), "nodes"),
            SetKey::OfNodes => ("of nodes".to_owned(), "of-nodes"),
        };
        let place = match self.scope() {
            Some(Scope::Namespace(namespace)) => {
                text.push_str(&format!(" in {namespace:?}"));
                namespace.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').take(24).collect()
            }
            Some(Scope::Everywhere) | None => "any".to_owned(),
            Some(Scope::Namespaces(selector)) => {
                text.push_str(&format!(" in namespaces {selector}"));
                "any".to_owned()
            }
        };
        let mut id = format!("{hint}-{place}-");
        for byte in Sha256::digest(text.as_bytes()).iter().take(8) {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        SetId(id.into())
    }

    fn chooses(&self, pod: &PodName, member: &Member) -> bool {
        let in_scope = match self.scope() {
            Some(Scope::Namespace(namespace)) => pod.namespace == *namespace,
            Some(Scope::Namespaces(selector)) => member.namespace_labels.as_ref().is_some_and(|labels| selector.matches(labels)),
            Some(Scope::Everywhere) => true,
            None => false,
        };
        in_scope
            && match self {
                SetKey::Pods(_, pods) => pods.matches(&member.labels),
                SetKey::Ports(..) => true,
                SetKey::Nodes(_) | SetKey::OfNodes => false,
            }
    }

    fn ports<'a>(&'a self, member: &'a Member) -> impl Iterator<Item = (IpAddr, Protocol, u16)> + 'a {
        let (wanted, wanted_protocol) = match self {
            SetKey::Ports(_, name, protocol) => (Some(name), *protocol),
            SetKey::Pods(..) | SetKey::Nodes(_) | SetKey::OfNodes => (None, None),
        };
        let meant = move |protocol: &Protocol| wanted_protocol.is_none_or(|wanted| wanted == *protocol);
        let named = member.ports.iter().filter(move |(name, protocol, _)| Some(name) == wanted && meant(protocol));
        named.flat_map(|(_, protocol, port)| member.addresses.iter().map(move |ip| (*ip, *protocol, *port)))
    }
}

/// The sets that are in use, with an index by namespace, so that a pod's change looks only at sets that may mean it.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    /// How many rules' sides name a set.
    uses: BTreeMap<SetKey, usize>,
    /// Sets that came into use or went out of it since the last turn, or both.
    doubtful: BTreeSet<SetKey>,
    local: BTreeMap<Arc<str>, BTreeMap<SetKey, SetId>>,
    wide: BTreeMap<SetKey, SetId>,
    of_nodes: BTreeMap<SetKey, SetId>,
    /// Members of sets of pods and of nodes.
    pub(crate) pods: OrdMap<SetId, Arc<AddressSet>>,
    /// Members of named-port sets.
    pub(crate) ports: OrdMap<SetId, Arc<NamedPortSet>>,
}

impl Sets {
    /// One more names the set.
    pub(crate) fn want(&mut self, key: &SetKey) {
        match self.uses.get_mut(key) {
            Some(count) => *count += 1,
            None => {
                self.uses.insert(key.clone(), 1);
                self.doubtful.insert(key.clone());
            }
        }
    }

    /// One less names the set.
    pub(crate) fn release(&mut self, key: &SetKey) {
        if let Some(count) = self.uses.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.uses.remove(key);
                self.doubtful.insert(key.clone());
            }
        }
    }

    /// Makes what is named the sets in use; gives whether that changed anything.
    pub(crate) fn settle(&mut self, members: &BTreeMap<PodName, Member>, nodes: &BTreeMap<NodeName, NodeMember>) -> bool {
        let mut changed = false;
        for key in std::mem::take(&mut self.doubtful) {
            match (self.uses.contains_key(&key), self.is_held(&key)) {
                (true, false) => self.insert(&key, members, nodes),
                (false, true) => self.remove(&key),
                (true, true) | (false, false) => continue,
            }
            changed = true;
        }
        changed
    }

    fn is_held(&self, key: &SetKey) -> bool {
        match key.scope() {
            None => self.of_nodes.contains_key(key),
            Some(Scope::Namespace(namespace)) => self.local.get(namespace).is_some_and(|keys| keys.contains_key(key)),
            Some(Scope::Namespaces(_) | Scope::Everywhere) => self.wide.contains_key(key),
        }
    }

    /// Follows the nodes; gives whether any set has other members now. Two nodes may claim one address, so the sets are made anew.
    pub(crate) fn follow_nodes(&mut self, nodes: &BTreeMap<NodeName, NodeMember>) -> bool {
        let mut changed = false;
        for (key, id) in &self.of_nodes {
            let new = addresses_of(key, nodes);
            if self.pods.get(id).is_none_or(|old| **old != new) {
                self.pods.insert(id.clone(), Arc::new(new));
                changed = true;
            }
        }
        changed
    }

    /// Follows pods from what they were to what they are; gives whether any set has other members now.
    ///
    /// Everything lost goes out before anything gained goes in: an address may pass from one pod to another in one turn.
    pub(crate) fn shift(&mut self, shifts: &[Shift<'_>]) -> bool {
        let mut edits: BTreeMap<SetId, Edit> = BTreeMap::new();
        for Shift { pod, old, new } in shifts {
            for (key, id) in self.meaning(&pod.namespace) {
                for (member, gained) in [(old, false), (new, true)] {
                    let Some(member) = member.as_ref().filter(|member| key.chooses(pod, member)) else { continue };
                    let edit = edits.entry(id.clone()).or_default();
                    match key {
                        SetKey::Pods(..) => edit.pods.extend(member.addresses.iter().map(|ip| (gained, *ip))),
                        SetKey::Ports(..) => edit.ports.extend(key.ports(member).map(|port| (gained, port))),
                        SetKey::Nodes(_) | SetKey::OfNodes => {}
                    }
                }
            }
        }
        let mut changed = false;
        for (id, edit) in edits {
            changed |= apply(&mut self.pods, &id, edit.pods);
            changed |= apply(&mut self.ports, &id, edit.ports);
        }
        changed
    }

    fn meaning(&self, namespace: &Arc<str>) -> impl Iterator<Item = (&SetKey, &SetId)> {
        self.local.get(namespace).into_iter().flatten().chain(&self.wide)
    }

    fn insert(&mut self, key: &SetKey, members: &BTreeMap<PodName, Member>, nodes: &BTreeMap<NodeName, NodeMember>) {
        let id = key.id();
        let chosen = |(pod, member): &(&PodName, &Member)| key.chooses(pod, member);
        let meant: Vec<(&PodName, &Member)> = match key.scope() {
            None => Vec::new(),
            Some(Scope::Namespace(namespace)) => {
                let first = PodName::new(namespace.clone(), "");
                let same = members.range(first..).take_while(|(pod, _)| pod.namespace == *namespace);
                same.filter(chosen).collect()
            }
            Some(Scope::Namespaces(_) | Scope::Everywhere) => members.iter().filter(chosen).collect(),
        };
        match key {
            SetKey::Pods(..) => {
                let set = meant.iter().flat_map(|(_, member)| member.addresses.iter().copied()).collect();
                self.pods.insert(id.clone(), Arc::new(set));
            }
            SetKey::Ports(..) => {
                let set = meant.iter().flat_map(|(_, member)| key.ports(member)).collect();
                self.ports.insert(id.clone(), Arc::new(set));
            }
            SetKey::Nodes(_) | SetKey::OfNodes => {
                self.pods.insert(id.clone(), Arc::new(addresses_of(key, nodes)));
            }
        }
        match key.scope() {
            None => self.of_nodes.insert(key.clone(), id),
            Some(Scope::Namespace(namespace)) => self.local.entry(namespace.clone()).or_default().insert(key.clone(), id),
            Some(Scope::Namespaces(_) | Scope::Everywhere) => self.wide.insert(key.clone(), id),
        };
    }

    fn remove(&mut self, key: &SetKey) {
        let id = match key.scope() {
            None => self.of_nodes.remove(key),
            Some(Scope::Namespace(namespace)) => {
                let keys = self.local.get_mut(namespace);
                let (id, is_empty) = keys.map(|keys| (keys.remove(key), keys.is_empty())).unwrap_or_default();
                if is_empty {
                    self.local.remove(namespace);
                }
                id
            }
            Some(Scope::Namespaces(_) | Scope::Everywhere) => self.wide.remove(key),
        };
        if let Some(id) = id {
            self.pods.remove(&id);
            self.ports.remove(&id);
        }
    }
}

/// The addresses of the nodes that a set is of.
fn addresses_of(key: &SetKey, nodes: &BTreeMap<NodeName, NodeMember>) -> AddressSet {
    match key {
        SetKey::Nodes(selector) => {
            nodes.values().filter(|node| selector.matches(&node.labels)).flat_map(|node| node.addresses.iter().copied()).collect()
        }
        SetKey::OfNodes => nodes.values().flat_map(NodeMember::own).copied().collect(),
        SetKey::Pods(..) | SetKey::Ports(..) => AddressSet::default(),
    }
}

/// A pod as it was and as it is.
pub(crate) struct Shift<'a> {
    /// The pod.
    pub(crate) pod: &'a PodName,
    /// As it was, if it was a member of anything.
    pub(crate) old: Option<Member>,
    /// As it is, if it can be a member.
    pub(crate) new: Option<Member>,
}

/// What goes out of a set (false) before what goes in (true).
#[derive(Default)]
struct Edit {
    pods: BTreeSet<(bool, IpAddr)>,
    ports: BTreeSet<(bool, (IpAddr, Protocol, u16))>,
}

/// Edits a set, and gives whether that changed it; an unchanged one stays the same object.
fn apply<T: Ord + Clone>(sets: &mut OrdMap<SetId, Arc<OrdSet<T>>>, id: &SetId, edits: BTreeSet<(bool, T)>) -> bool {
    let Some(old) = sets.get(id).filter(|_| !edits.is_empty()) else { return false };
    let mut new = OrdSet::clone(old);
    for (gained, item) in edits {
        match gained {
            true => new.insert(item).is_some(),
            false => new.remove(&item).is_some(),
        };
    }
    if old.diff(&new).next().is_none() {
        return false;
    }
    sets.insert(id.clone(), Arc::new(new));
    true
}

//! Pods and nodes as policies see them from afar: labels, addresses, named ports.

use std::net::IpAddr;
use std::sync::Arc;

use bowline_model::{NamespaceName, PodName, Protocol};

use crate::ipam::AddressRange;
use crate::world::{Labels, Node, Pod, World};

/// A pod that can be a member of sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Labels of its namespace; none while that is not known, so that no namespace selector means it.
    pub(crate) namespace_labels: Option<Arc<Labels>>,
    /// Its labels.
    pub(crate) labels: Arc<Labels>,
    /// The addresses that it holds; at least one.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its named ports.
    pub(crate) ports: Vec<(Arc<str>, Protocol, u16)>,
}

impl Member {
    /// The pod `name`, if it lives and holds an address of its own.
    pub(crate) fn of(world: &World, name: &PodName) -> Option<Member> {
        let pod = world.pods().get(name)?;
        let addresses = world.addresses_of(name);
        if addresses.is_empty() {
            return None;
        }
        let namespace = world.namespaces().get(&NamespaceName(name.namespace.clone()));
        Some(Member {
            namespace_labels: namespace.map(|namespace| Arc::clone(&namespace.metadata.labels)),
            labels: Arc::clone(&pod.metadata.labels),
            addresses,
            ports: named_ports(pod),
        })
    }
}

/// A node that can be a member of sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeMember {
    /// Its labels.
    pub(crate) labels: Arc<Labels>,
    /// All addresses of its status, of whatever type, that are addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The addresses of its pod subnets that no pod gets: the node itself may speak from them.
    pub(crate) kept: Vec<IpAddr>,
}

impl NodeMember {
    /// The node.
    pub(crate) fn of(node: &Node) -> NodeMember {
        let addresses = node.status.addresses.iter().filter_map(|address| address.address.parse().ok()).collect();
        let subnets = node.spec.subnets().filter_map(|text| text.parse().ok());
        NodeMember {
            labels: Arc::clone(&node.metadata.labels),
            addresses,
            kept: subnets.flat_map(|net| AddressRange::kept(&net)).collect(),
        }
    }

    /// All addresses from which the node itself may speak.
    pub(crate) fn own(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.iter().chain(&self.kept)
    }
}

fn named_ports(pod: &Pod) -> Vec<(Arc<str>, Protocol, u16)> {
    let ports = pod.serving_containers().flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            let name = port.name.clone().filter(|name| !name.is_empty())?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
            let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
            Some((name, protocol, number))
        })
        .collect()
}

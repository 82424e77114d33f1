//! The world as another node sees it.

use bowline_model::intent::Intent;
use bowline_model::intent::pods::{HostPort, PodIntent};
use bowline_model::{Dual, MacAddr, NodeName, PodName};

use crate::Compiler;
use crate::world::{Attached, Change, Pod, World};

/// A node's world and what it compiles that to.
#[derive(Debug)]
pub(super) struct View {
    /// The node.
    pub(super) node: NodeName,
    /// Its world.
    pub(super) world: World,
    /// What it makes of it.
    pub(super) intent: Intent,
}

impl View {
    /// The view of a node.
    pub(super) fn of(world: &World, node: &NodeName) -> View {
        let world = as_seen_from(world, node);
        let intent = Compiler::full(&world).value;
        View { node: node.clone(), world, intent }
    }
}

/// The node's own attachments cannot be known elsewhere: the pods that the API says are there stand for them.
fn as_seen_from(world: &World, node: &NodeName) -> World {
    if world.settings().node_name == *node {
        return world.clone();
    }
    let mut view = world.clone();
    let mut settings = world.settings().clone();
    settings.node_name = node.clone();
    view.apply(Change::Settings(Box::new(settings)));
    for ifname in world.attached().keys() {
        view.apply(Change::Detached(ifname.clone()));
    }
    attach_pods(view, node)
}

/// Attaches the pods that the API says are on a node.
pub(crate) fn attach_pods(mut view: World, node: &NodeName) -> World {
    let here = view.pods().iter().filter(|(_, pod)| pod.spec.node_name.as_deref() == Some(node.as_str()) && !pod.spec.host_network);
    let names: Vec<PodName> = here.map(|(name, _)| name.clone()).collect();
    let attachments: Vec<Attached> = names.iter().enumerate().filter_map(|(index, name)| attachment(&view, index, name)).collect();
    for attached in attachments {
        view.apply(Change::Attached(Box::new(attached)));
    }
    view
}

fn attachment(view: &World, index: usize, name: &PodName) -> Option<Attached> {
    let ips = Dual::first_of(view.addresses_of(name));
    if ips.is_empty() {
        return None;
    }
    let host_ports = view.pods().get(name).map(|pod| host_ports(pod)).unwrap_or_default();
    let host_ifname = format!("pod{index}").into();
    let (mac, host_mac) = (MacAddr([0; 6]), MacAddr([0; 6]));
    Some(Attached {
        container_id: "".into(),
        ifname: "eth0".into(),
        pod_uid: None,
        intent: PodIntent { pod: Some(name.clone()), host_ifname, mac, host_mac, ips, host_ports },
    })
}

/// What the runtime makes of a pod's declared ports.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let ports = containers.flat_map(|container| &container.ports).filter_map(|port| {
        Some(HostPort {
            host_ip: port.host_ip.as_deref().filter(|text| !text.is_empty()).map(str::parse).transpose().ok()?,
            host_port: u16::try_from(port.host_port).ok().filter(|number| *number > 0)?,
            container_port: u16::try_from(port.container_port).ok()?,
            protocol: port.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
        })
    });
    ports.collect()
}

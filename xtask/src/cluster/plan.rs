//! Who has which address and port in a cluster; pure.
//!
//! Invariant: node addresses follow the lab's plan (n1 ends in 11), since the lab's machines are what the cluster runs on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The networks that a cluster has if no others are asked for.
const POD_CIDRS: [&str; 2] = ["10.42.0.0/16", "fd42::/56"];
const SERVICE_CIDRS: [&str; 2] = ["10.43.0.0/16", "fd43::/112"];

/// The ports of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    /// etcd, for its clients.
    pub(crate) etcd: u16,
    /// etcd, for its peers, of which it has none.
    pub(crate) etcd_peer: u16,
    /// kube-apiserver.
    pub(crate) server: u16,
    /// kube-controller-manager.
    pub(crate) controllers: u16,
    /// kube-scheduler.
    pub(crate) scheduler: u16,
}

impl Ports {
    /// Those that kubeadm uses.
    pub(crate) const USUAL: Ports = Ports { etcd: 2379, etcd_peer: 2380, server: 6443, controllers: 10257, scheduler: 10259 };
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Its machines; none for a control plane alone.
    pub(crate) nodes: Vec<Node>,
    /// The address that the API server announces.
    pub(crate) advertise: IpAddr,
    /// Pod networks, the primary first.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Service networks, the primary first.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// First and last NodePort, with a hyphen.
    pub(crate) node_ports: String,
    /// The control plane's ports.
    pub(crate) ports: Ports,
}

impl Plan {
    /// A cluster of that many machines.
    pub(crate) fn of_nodes(nodes: u16, pods: &[IpNet], services: &[IpNet], node_ports: &str) -> Result<Plan> {
        if nodes == 0 || nodes > 20 {
            bail!("--nodes {nodes}: choose from 1 to 20");
        }
        let nodes: Vec<Node> = (0..nodes)
            .map(|index| Node {
                name: format!("n{}", index + 1),
                addresses: vec![
                    IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(192, 168, 200, 11).to_bits() + u32::from(index))),
                    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 11 + index)),
                ],
            })
            .collect();
        Ok(Plan {
            advertise: IpAddr::V4(Ipv4Addr::new(192, 168, 200, 11)),
            nodes,
            pod_cidrs: networks("--pod-cidr", pods, &POD_CIDRS)?,
            service_cidrs: networks("--service-cidr", services, &SERVICE_CIDRS)?,
            node_ports: node_ports.to_owned(),
            ports: Ports::USUAL,
        })
    }

    /// A control plane alone.
    pub(crate) fn alone(
        advertise: IpAddr,
        dual_stack: bool,
        pods: &[IpNet],
        services: &[IpNet],
        node_ports: &str,
        ports: Ports,
    ) -> Result<Plan> {
        let families = if dual_stack { 2 } else { 1 };
        Ok(Plan {
            nodes: Vec::new(),
            advertise,
            pod_cidrs: networks("--pod-cidr", pods, POD_CIDRS.get(..families).unwrap_or_default())?,
            service_cidrs: networks("--service-cidr", services, SERVICE_CIDRS.get(..families).unwrap_or_default())?,
            node_ports: node_ports.to_owned(),
            ports,
        })
    }

    /// The pod networks as flags want them.
    pub(crate) fn pods(&self) -> String {
        joined(&self.pod_cidrs)
    }

    /// The service networks as flags want them.
    pub(crate) fn services(&self) -> String {
        joined(&self.service_cidrs)
    }

    /// The service addresses of the API server: the first of each service network.
    pub(crate) fn server_vips(&self) -> Vec<IpAddr> {
        self.service_cidrs.iter().map(|network| nth(network, 1)).collect()
    }

    /// The service address of the cluster DNS: the tenth of the primary service network.
    pub(crate) fn dns(&self) -> Option<IpAddr> {
        self.service_cidrs.first().map(|network| nth(network, 10))
    }
}

fn joined(networks: &[IpNet]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Those given, or the defaults. One of each family at most.
fn networks(flag: &str, given: &[IpNet], defaults: &[&str]) -> Result<Vec<IpNet>> {
    if given.is_empty() {
        return Ok(defaults.iter().filter_map(|text| text.parse().ok()).collect());
    }
    let of_v4 = given.iter().filter(|network| matches!(network, IpNet::V4(_))).count();
    if of_v4 > 1 || given.len() - of_v4 > 1 {
        bail!("{flag}: {} has two networks of one family; give one of each", joined(given));
    }
    if let Some(wrong) = given.iter().find(|network| network.trunc() != **network) {
        bail!("{flag}: {wrong} has host bits set; write {}", wrong.trunc());
    }
    Ok(given.to_vec())
}

/// The `number`th address of a network.
fn nth(network: &IpNet, number: u8) -> IpAddr {
    match network.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().saturating_add(u32::from(number)))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().saturating_add(u128::from(number)))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn nodes_have_the_addresses_of_the_lab() {
        let plan = Plan::of_nodes(2, &[], &[], "30000-32767").unwrap();
        assert_eq!(plan.nodes[1].addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.200.12", "fd00:200::c"]);
        assert_eq!(plan.pods(), "10.42.0.0/16,fd42::/56");
        assert_eq!(plan.dns().unwrap().to_string(), "10.43.0.10");
        assert_eq!(plan.server_vips().iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.43.0.1", "fd43::1"]);
    }

    #[test]
    fn networks_that_cannot_be_are_refused() {
        let nets = |text: &str| text.split(',').map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        for (bad, word) in [("10.0.0.0/16,10.1.0.0/16", "two networks"), ("10.0.0.1/16", "host bits")] {
            let refusal = Plan::of_nodes(1, &nets(bad), &[], "1-2").unwrap_err().to_string();
            assert!(refusal.contains(word), "{refusal}");
        }
        assert!(Plan::of_nodes(0, &[], &[], "1-2").is_err());
        assert_eq!(Plan::of_nodes(1, &nets("fd00::/56"), &[], "1-2").unwrap().pods(), "fd00::/56");
    }
}

//! Who has which address in a lab; pure.
//!
//! Invariant: the plan follows from the options alone. Nodes end in 11 and upwards, routers in 1; the outside is
//! documentation space (RFC 5737, RFC 3849), so that it is never mistaken for a cluster address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bowline_model::net::{Dual, Family};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::options::{Options, Underlay};

/// The API server's port on the underlay.
pub(crate) const API_PORT: u16 = 6443;

/// A lab's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The nodes, n1 first.
    pub(crate) nodes: Vec<NodePlan>,
    /// The router's addresses towards the client, with the prefix.
    pub(crate) outside_gateway: Dual<IpNet>,
    /// The client's own addresses, with the prefix.
    pub(crate) client: Dual<IpNet>,
    /// More addresses of the client.
    pub(crate) extra: Vec<IpAddr>,
    /// Where nodes find the API server: the router's first address in each family, primary first.
    pub(crate) api: Vec<IpAddr>,
}

/// A node's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodePlan {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses with the prefix of their network.
    pub(crate) addresses: Dual<IpNet>,
    /// The router's address in that network.
    pub(crate) gateway: Dual<IpNet>,
}

impl NodePlan {
    /// Its addresses alone, IPv4 first.
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        self.addresses.values().map(IpNet::addr).collect()
    }
}

/// The `number`th address of a network, counted from its own.
pub(crate) fn nth(network: &IpNet, number: u32) -> Option<IpAddr> {
    let address = match network.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().checked_add(number)?)),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().checked_add(u128::from(number))?)),
    };
    network.contains(&address).then_some(address)
}

/// The network that is `number` networks of the same size further on.
fn shifted(network: &IpNet, number: u32) -> Option<IpNet> {
    Some(match network {
        IpNet::V4(v4) => {
            let size = 1_u32.checked_shl(u32::from(32 - v4.prefix_len()))?;
            let base = v4.network().to_bits().checked_add(size.checked_mul(number)?)?;
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(base), v4.prefix_len()).ok()?)
        }
        IpNet::V6(v6) => {
            let size = 1_u128.checked_shl(u32::from(128 - v6.prefix_len()))?;
            let base = v6.network().to_bits().checked_add(size.checked_mul(u128::from(number))?)?;
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(base), v6.prefix_len()).ok()?)
        }
    })
}

fn in_network(network: &IpNet, number: u32) -> Option<IpNet> {
    IpNet::new(nth(network, number)?, network.prefix_len()).ok()
}

/// A network of the outside and a host's number in it.
fn outside(family: Family, number: u32) -> Option<IpNet> {
    let network: IpNet = match family {
        Family::V4 => "203.0.113.0/24",
        Family::V6 => "2001:db8:113::/64",
    }
    .parse()
    .ok()?;
    in_network(&network, number)
}

impl Plan {
    /// The plan that follows from `options`.
    pub(crate) fn of(options: &Options) -> Plan {
        let each = |make: &dyn Fn(Family) -> Option<IpNet>| {
            let mut dual = Dual::default();
            for family in options.families() {
                *dual.get_mut(family) = make(family);
            }
            dual
        };
        let nodes: Vec<NodePlan> = (0..u32::from(options.nodes))
            .map(|index| {
                let network = |family: Family| {
                    let first = options.node_cidr.get(family)?;
                    match options.underlay {
                        Underlay::Lan => Some(*first),
                        Underlay::Routed => shifted(first, index),
                    }
                };
                NodePlan {
                    name: format!("n{}", index + 1),
                    addresses: each(&|family| in_network(&network(family)?, 11 + index)),
                    gateway: each(&|family| in_network(&network(family)?, 1)),
                }
            })
            .collect();
        let host_number = |family| match family {
            Family::V4 => 10,
            Family::V6 => 0x10,
        };
        Plan {
            api: nodes.first().map(|node| node.gateway.values().map(IpNet::addr).collect()).unwrap_or_default(),
            nodes,
            outside_gateway: each(&|family| outside(family, 1)),
            client: each(&|family| outside(family, host_number(family))),
            extra: options.outside_addresses.clone(),
        }
    }

    /// All addresses of the client.
    pub(crate) fn client_ips(&self) -> Vec<IpAddr> {
        self.client.values().map(IpNet::addr).chain(self.extra.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use crate::options::{Agents, Backend};

    fn options(underlay: Underlay) -> Options {
        let dual = |v4: &str, v6: &str| Dual { v4: v4.parse().ok(), v6: v6.parse().ok() };
        Options {
            name: "t".into(),
            nodes: 3,
            backend: Backend::Vxlan,
            direct_routing: false,
            service_mode: crate::options::ServiceMode::Auto,
            underlay,
            pod_cidr: dual("10.42.0.0/16", "fd42::/56"),
            service_cidr: dual("10.43.0.0/16", "fd43::/112"),
            node_cidr: dual("192.168.200.0/24", "fd00:200::/64"),
            dns_ip: Vec::new(),
            corefile: None,
            node_port_range: (30000, 32767),
            outside_addresses: vec!["10.4.7.11".parse().unwrap()],
            agents: Agents::Bowline,
            bare: false,
            apiserver: None,
            images: Vec::new(),
            detached: false,
            leashed: false,
        }
    }

    #[test]
    fn one_lan_has_one_gateway() {
        let plan = Plan::of(&options(Underlay::Lan));
        assert_eq!(plan.nodes[2].addresses.v4.unwrap().to_string(), "192.168.200.13/24");
        assert_eq!(plan.nodes[2].addresses.v6.unwrap().to_string(), "fd00:200::d/64");
        assert!(plan.nodes.iter().all(|node| node.gateway == plan.nodes[0].gateway));
        assert_eq!(plan.api[0].to_string(), "192.168.200.1");
        assert_eq!(plan.client_ips().len(), 3);
    }

    #[test]
    fn a_routed_underlay_has_a_subnet_for_each_node() {
        let plan = Plan::of(&options(Underlay::Routed));
        assert_eq!(plan.nodes[1].addresses.v4.unwrap().to_string(), "192.168.201.12/24");
        assert_eq!(plan.nodes[1].gateway.v6.unwrap().to_string(), "fd00:200:0:1::1/64");
        assert!(!plan.nodes[0].addresses.v4.unwrap().contains(&plan.nodes[1].ips()[0]));
    }

    #[test]
    fn the_last_address_is_the_end() {
        assert_eq!(nth(&"10.0.0.0/30".parse().unwrap(), 3), "10.0.0.3".parse().ok());
        assert_eq!(nth(&"10.0.0.0/30".parse().unwrap(), 4), None);
    }
}

//! Host ports at the socket: what the node's own programs connect to on its loopback addresses. At other addresses the rules serve them.

use std::collections::BTreeMap;

use bowline_bpf::abi::{FrontendKey, Kind};
use bowline_model::intent::pods::PodsIntent;
use bowline_model::intent::services::Endpoint;
use bowline_model::{Family, Protocol};

use super::{led_to, unspecified};
use crate::change::{Change, Objects};
use crate::service::concerns_host_ports;

/// Lowers all host ports anew when those of a pod change: two pods may ask for the same one, and the first by link name keeps it.
pub(super) fn lower(old: &PodsIntent, new: &PodsIntent, change: &mut Change) {
    if concerns_host_ports(old, new) {
        all(old, &mut change.old);
        all(new, &mut change.new);
    }
}

fn all(pods: &PodsIntent, objects: &mut Objects) {
    let mut ports = BTreeMap::new();
    for pod in pods.pods.values().rev() {
        for port in pod.host_ports.iter().filter(|port| port.protocol != Protocol::Sctp) {
            for (family, ip) in pod.ips.iter() {
                let address = match port.host_ip {
                    Some(host) if Family::of(&host) != family => continue,
                    Some(host) if host.is_loopback() => host,
                    Some(host) if !host.is_unspecified() => continue,
                    _ => unspecified(family),
                };
                let key = FrontendKey { address, port: port.host_port, protocol: port.protocol.number(), kind: Kind::HostPort };
                ports.insert(key, Endpoint { ip: *ip, port: port.container_port });
            }
        }
    }
    for (key, endpoint) in ports {
        led_to(key, &[endpoint], objects);
    }
}

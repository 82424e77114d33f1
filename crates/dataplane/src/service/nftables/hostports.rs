//! Host ports: ports of the node that lead to one pod (CNI capability `portMappings`).

use std::net::IpAddr;

use bowline_model::Family;
use bowline_model::intent::pods::{HostPort, PodsIntent};

use crate::change::{Change, Objects};
use crate::expr::named;
use crate::objects::nft::KeyBuilder;
use crate::service::concerns_host_ports;

/// Lowers all host ports anew when those of a pod change: two pods may ask for the same one, and the first by link name keeps it.
pub(super) fn lower(old: &PodsIntent, new: &PodsIntent, change: &mut Change) {
    if concerns_host_ports(old, new) {
        all(old, &mut change.old);
        all(new, &mut change.new);
    }
}

fn all(pods: &PodsIntent, objects: &mut Objects) {
    for pod in pods.pods.values().rev() {
        for port in &pod.host_ports {
            for (family, ip) in pod.ips.iter() {
                one(port, family, ip, objects);
            }
        }
    }
}

fn one(port: &HostPort, family: Family, ip: &IpAddr, objects: &mut Objects) {
    let value = KeyBuilder::new().ip(*ip).port(port.container_port).build();
    let protocol = port.protocol.number();
    match port.host_ip {
        Some(host) if Family::of(&host) != family => {}
        Some(host) if !host.is_unspecified() => {
            objects.value(named("host_ip_port", family), KeyBuilder::new().ip(host).proto(protocol).port(port.host_port).build(), value);
        }
        _ => objects.value(named("host_port", family), KeyBuilder::new().proto(protocol).port(port.host_port).build(), value),
    }
}

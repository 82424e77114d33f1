//! What services have: a picture of the store, brought up to date from its history.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use super::super::facts::{SERVICES, key_of};
use super::super::runtime::Key;
use crate::object::{integer, items, text};
use crate::store::{EventKind, Store, Watch};

/// A node port: number and protocol.
pub(super) type Port = (u16, String);

/// Addresses and node ports in use, with their owners.
#[derive(Default)]
pub(super) struct Used {
    watch: Option<Watch>,
    ips: HashMap<IpAddr, Key>,
    ports: HashMap<Port, Key>,
    by_owner: HashMap<Key, (Vec<IpAddr>, Vec<Port>)>,
}

/// A port of a service as a node port, if it has one.
pub(super) fn node_port(port: &Value) -> Option<u16> {
    integer(port, "/nodePort").and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

impl Used {
    /// Reads what has changed since the last call.
    pub(super) fn refresh(&mut self, store: &Store) {
        loop {
            if self.watch.is_none() {
                (self.ips, self.ports, self.by_owner) = Default::default();
                self.watch = store.watch(&SERVICES, None, None).ok();
            }
            let Some(watch) = &mut self.watch else { return };
            let Some(event) = watch.next_ready() else { return };
            match event.kind {
                EventKind::Added | EventKind::Modified => {
                    self.forget(&key_of(&event.object));
                    self.note(&event.object);
                }
                EventKind::Deleted => self.forget(&key_of(&event.object)),
                EventKind::Bookmark => {}
                EventKind::Error => self.watch = None, // fallen behind the history: read all anew
            }
        }
    }

    /// Who has the address, other than `owner`.
    pub(super) fn owner_of_ip(&self, ip: &IpAddr, owner: &Key) -> Option<&Key> {
        self.ips.get(ip).filter(|other| *other != owner)
    }

    /// Who has the port, other than `owner`.
    pub(super) fn owner_of_port(&self, port: &Port, owner: &Key) -> Option<&Key> {
        self.ports.get(port).filter(|other| *other != owner)
    }

    /// Whether anybody has the address.
    pub(super) fn has_ip(&self, ip: &IpAddr) -> bool {
        self.ips.contains_key(ip)
    }

    /// Whether anybody has the port.
    pub(super) fn has_port(&self, port: &Port) -> bool {
        self.ports.contains_key(port)
    }

    fn note(&mut self, service: &Value) {
        let ips: Vec<IpAddr> = items(service, "/spec/clusterIPs").filter_map(Value::as_str).filter_map(|text| text.parse().ok()).collect();
        let mut ports: Vec<Port> =
            items(service, "/spec/ports").filter_map(|port| Some((node_port(port)?, text(port, "/protocol").to_owned()))).collect();
        let health = integer(service, "/spec/healthCheckNodePort").and_then(|number| u16::try_from(number).ok());
        ports.extend(health.filter(|number| *number != 0).map(|number| (number, "TCP".to_owned())));
        let key = key_of(service);
        self.ips.extend(ips.iter().map(|ip| (*ip, key.clone())));
        self.ports.extend(ports.iter().map(|port| (port.clone(), key.clone())));
        self.by_owner.insert(key, (ips, ports));
    }

    fn forget(&mut self, key: &Key) {
        let (ips, ports) = self.by_owner.remove(key).unwrap_or_default();
        for ip in ips {
            self.ips.remove(&ip);
        }
        for port in ports {
            self.ports.remove(&port);
        }
    }
}

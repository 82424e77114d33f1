//! A pod as an endpoint of a service.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::facts::{is_done, is_ready};
use crate::object::{self, integer, items, text};

/// A pod that a service selects, with all that an endpoint says of it.
pub(super) struct Member {
    /// The pod's name.
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
    /// The pod's own name in the service's domain.
    pub(super) hostname: Option<String>,
    /// The service's ports as numbers of this pod; a named port that the pod does not have is missing.
    pub(super) ports: Vec<Value>,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

impl Member {
    /// The pod as an endpoint; nothing for a pod without an address, or one that has ended.
    pub(super) fn new(service: &Value, pod: &Value, zone: Option<String>) -> Option<Self> {
        let ips = addresses(pod);
        if ips.is_empty() || is_done(pod) {
            return None;
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let published = service.pointer("/spec/publishNotReadyAddresses") == Some(&Value::Bool(true));
        let (serving, terminating) = (is_ready(pod), object::is_terminating(pod));
        let in_domain = text(pod, "/spec/subdomain") == object::name(service);
        Some(Self {
            name: object::name(pod).to_owned(),
            uid: object::uid(pod).to_owned(),
            namespace: object::namespace(pod).to_owned(),
            ips,
            node: some(text(pod, "/spec/nodeName")),
            zone,
            hostname: some(text(pod, "/spec/hostname")).filter(|_| in_domain),
            ports: ports(service, pod),
            ready: published || (serving && !terminating),
            serving: published || serving,
            terminating,
        })
    }

    /// The pod's address of this family.
    pub(super) fn ip(&self, v4: bool) -> Option<&IpAddr> {
        self.ips.iter().find(|ip| ip.is_ipv4() == v4)
    }

    /// The reference to the pod.
    pub(super) fn target(&self) -> Value {
        json!({"kind": "Pod", "namespace": self.namespace, "name": self.name, "uid": self.uid})
    }
}

fn addresses(pod: &Value) -> Vec<IpAddr> {
    let listed = items(pod, "/status/podIPs").map(|entry| text(entry, "/ip"));
    let all: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    if all.is_empty() { text(pod, "/status/podIP").parse().ok().into_iter().collect() } else { all }
}

fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let mut ports = Vec::new();
    for port in items(service, "/spec/ports") {
        let protocol = text(port, "/protocol");
        let target = match port.get("targetPort") {
            Some(Value::String(name)) => named_port(pod, name, protocol),
            Some(number) => number.as_i64(),
            None => integer(port, "/port"),
        };
        if let Some(number) = target {
            let mut entry = json!({"name": text(port, "/name"), "protocol": protocol, "port": number});
            if let (Some(application), Value::Object(map)) = (port.get("appProtocol"), &mut entry) {
                map.insert("appProtocol".to_owned(), application.clone());
            }
            ports.push(entry);
        }
    }
    ports
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    // An init container that keeps running serves as well.
    let sidecars = items(pod, "/spec/initContainers").filter(|container| text(container, "/restartPolicy") == "Always");
    let mut ports = items(pod, "/spec/containers").chain(sidecars).flat_map(|container| items(container, "/ports"));
    let port = ports.find(|port| text(port, "/name") == name && text(port, "/protocol") == protocol)?;
    integer(port, "/containerPort")
}

//! Services, endpoints, policies, ingresses and addresses.

use serde_json::{Value, json};

use super::{AGE, NAME, View, age, col, joined, name, or, selector, text_or_none, wide};
use crate::object::{integer, items, text};

pub(super) const SERVICES: View = View {
    columns: &[NAME, col("Type"), col("Cluster-IP"), col("External-IP"), col("Port(s)"), AGE, wide("Selector")],
    row: |service| {
        vec![
            name(service),
            json!(text(service, "/spec/type")),
            text_or_none(service, "/spec/clusterIP"),
            json!(external(service)),
            json!(service_ports(service)),
            age(service),
            selector(service, "/spec/selector"),
        ]
    },
};

fn external(service: &Value) -> String {
    let given: Vec<&str> = items(service, "/spec/externalIPs").filter_map(Value::as_str).collect();
    let balanced: Vec<&str> =
        items(service, "/status/loadBalancer/ingress").map(|one| or(text(one, "/ip"), text(one, "/hostname"))).collect();
    match text(service, "/spec/type") {
        "ExternalName" => text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" if balanced.is_empty() && given.is_empty() => "<pending>".to_owned(),
        "LoadBalancer" => [balanced, given].concat().join(","),
        _ => or(&given.join(","), "<none>").to_owned(),
    }
}

fn service_ports(service: &Value) -> String {
    let one = |port: &Value| {
        let number = integer(port, "/port").unwrap_or_default();
        let node = integer(port, "/nodePort").filter(|port| *port > 0).map(|port| format!(":{port}")).unwrap_or_default();
        format!("{number}{node}/{}", or(text(port, "/protocol"), "TCP"))
    };
    let all: Vec<String> = items(service, "/spec/ports").map(one).collect();
    or(&all.join(","), "<none>").to_owned()
}

/// The first three, and how many more.
fn shortened(all: &[String]) -> String {
    let shown = all.iter().take(3).cloned().collect::<Vec<_>>().join(",");
    match all.len() {
        0 => "<none>".to_owned(),
        count @ 4.. => format!("{shown} + {} more...", count - 3),
        _ => shown,
    }
}

fn host_and_port(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub(super) const ENDPOINTS: View = View {
    columns: &[NAME, col("Endpoints"), AGE],
    row: |endpoints| {
        let mut all = Vec::new();
        for subset in items(endpoints, "/subsets") {
            let addresses = || items(subset, "/addresses").map(|one| text(one, "/ip"));
            if items(subset, "/ports").len() == 0 {
                all.extend(addresses().map(str::to_owned));
            }
            for port in items(subset, "/ports") {
                let number = integer(port, "/port").unwrap_or_default();
                all.extend(addresses().map(|address| host_and_port(address, number)));
            }
        }
        vec![name(endpoints), json!(shortened(&all)), age(endpoints)]
    },
};

pub(super) const ENDPOINT_SLICES: View = View {
    columns: &[NAME, col("AddressType"), col("Ports"), col("Endpoints"), AGE],
    row: |slice| {
        let ports: Vec<String> =
            items(slice, "/ports").map(|port| integer(port, "/port").map_or_else(|| "*".to_owned(), |number| number.to_string())).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports) };
        let all: Vec<String> = items(slice, "/endpoints")
            .filter_map(|endpoint| items(endpoint, "/addresses").next())
            .map(|address| address.as_str().unwrap_or_default().to_owned())
            .collect();
        let all = if all.is_empty() { "<unset>".to_owned() } else { shortened(&all) };
        vec![name(slice), json!(text(slice, "/addressType")), json!(ports), json!(all), age(slice)]
    },
};

pub(super) const NETWORK_POLICIES: View = View {
    columns: &[NAME, col("Pod-Selector"), AGE],
    row: |policy| vec![name(policy), selector(policy, "/spec/podSelector"), age(policy)],
};

pub(super) const INGRESSES: View = View {
    columns: &[NAME, col("Class"), col("Hosts"), col("Address"), col("Ports"), AGE],
    row: |ingress| {
        let hosts: Vec<String> =
            items(ingress, "/spec/rules").map(|rule| text(rule, "/host")).filter(|host| !host.is_empty()).map(str::to_owned).collect();
        let hosts = if hosts.is_empty() { "*".to_owned() } else { shortened(&hosts) };
        let addresses: Vec<&str> =
            items(ingress, "/status/loadBalancer/ingress").map(|one| or(text(one, "/ip"), text(one, "/hostname"))).collect();
        let ports = if items(ingress, "/spec/tls").len() == 0 { "80" } else { "80, 443" };
        let class = text_or_none(ingress, "/spec/ingressClassName");
        vec![name(ingress), class, json!(hosts), json!(addresses.join(",")), json!(ports), age(ingress)]
    },
};

pub(super) const INGRESS_CLASSES: View = View {
    columns: &[NAME, col("Controller"), col("Parameters"), AGE],
    row: |class| {
        let parameters = match (text(class, "/spec/parameters/apiGroup"), text(class, "/spec/parameters/kind")) {
            (_, "") => "<none>".to_owned(),
            ("", kind) => format!("{kind}/{}", text(class, "/spec/parameters/name")),
            (group, kind) => format!("{kind}.{group}/{}", text(class, "/spec/parameters/name")),
        };
        vec![name(class), json!(text(class, "/spec/controller")), json!(parameters), age(class)]
    },
};

pub(super) const SERVICE_CIDRS: View = View {
    columns: &[NAME, col("CIDRs"), AGE],
    row: |cidr| {
        let all: Vec<&str> = items(cidr, "/spec/cidrs").filter_map(Value::as_str).collect();
        vec![name(cidr), joined(&all), age(cidr)]
    },
};

pub(super) const IP_ADDRESSES: View = View {
    columns: &[NAME, col("ParentRef"), AGE],
    row: |address| {
        let part = |field: &str| text(address, &format!("/spec/parentRef/{field}"));
        let parts: Vec<&str> =
            [part("group"), part("resource"), part("namespace"), part("name")].into_iter().filter(|part| !part.is_empty()).collect();
        vec![name(address), json!(or(&parts.join("/"), "<none>")), age(address)]
    },
};

//! A table's cast and objects in a lab.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use bowline_compile::testing::flows::{Case, Table, place};
use bowline_compile::world::Kind;
use bowline_model::Family;
use serde_json::{Map, Value, json};

use crate::common::cluster;
use crate::common::lab::{Lab, eventually, said};

/// A table whose objects are in the API.
pub(crate) struct Staged<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) table: Table,
    pods: BTreeMap<String, cluster::Pod>,
    nodes: BTreeMap<String, cluster::Node>,
}

impl<'a> Staged<'a> {
    /// Sets the agents, brings the cast and then all cases.
    pub(crate) fn on(lab: &'a Lab, text: &str) -> Result<Staged<'a>> {
        let table = Table::read(text);
        set_agents(lab, &table)?;
        for (node, zone) in table.nodes.iter().filter_map(|(node, zone)| Some((node, zone.as_ref()?))) {
            lab.kubectl(&["label", "--overwrite", "node", node, &format!("topology.kubernetes.io/zone={zone}")])?;
        }
        lab.apply_objects(&cast(&table))?;
        let named = |pods: Vec<cluster::Pod>| pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
        let nodes = cluster::nodes(lab)?.into_iter().map(|node| (node.name.clone(), node)).collect();
        let staged = Staged { lab, pods: named(cluster::pods(lab, "app=flows")?), nodes, table };
        staged.second_addresses()?;
        staged.objects()?;
        Ok(staged)
    }

    /// The cases that are run with real packets.
    pub(crate) fn cases(&self) -> impl Iterator<Item = &Case> {
        self.table.cases.iter().filter(|case| case.off_wire.is_none())
    }

    /// Somebody's address.
    pub(crate) fn address(&self, name: &str, family: Family) -> IpAddr {
        self.table.address(&|name: &str, family| self.place(name, family), name, family)
    }

    fn place(&self, name: &str, family: Family) -> IpAddr {
        let v6 = family == Family::V6;
        let known = self.pods.get(name).map(|pod| pod.ip(v6)).or_else(|| self.nodes.get(name).map(|node| node.ip(v6)));
        if let Some(Ok(known)) = known {
            return known;
        }
        bowline_compile::testing::flows::plain(&self.table)(name, family)
    }

    fn second_addresses(&self) -> Result<()> {
        for node in self.table.nodes.keys() {
            for family in Family::BOTH {
                let (first, second) = (self.address(node, family).to_string(), self.address(&format!("{node}b"), family));
                let prefix = format!("{second}/{}", family.host_bits());
                ensure!(self.lab.node(node, &["ip", "addr", "replace", &prefix, "dev", "lo"])?.status.success(), "{node}: {prefix}");
                ensure!(self.lab.router(&["ip", "route", "replace", &prefix, "via", &first])?.status.success(), "{prefix} via {first}");
            }
        }
        Ok(())
    }

    /// Lets the router send a service's addresses to a node.
    pub(crate) fn lead(&self, name: &str, family: Family, node: &str) -> Result<()> {
        let prefix = format!("{}/{}", self.address(name, family), family.host_bits());
        let output = self.lab.router(&["ip", "route", "replace", &prefix, "via", &self.address(node, family).to_string()])?;
        ensure!(output.status.success(), "{prefix} via {node}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn objects(&self) -> Result<()> {
        let places = |name: &str, family: Family| self.place(name, family);
        let mut statuses = Vec::new();
        let mut items = Vec::new();
        for (kind, json) in self.cases().flat_map(|case| case.json(&self.table, &places, &Family::BOTH)) {
            let object = for_api(kind, json);
            if object["status"] != Value::Null {
                statuses.push((object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), json!({"status": object["status"]})));
            }
            items.push(object);
        }
        self.lab.apply_objects(&items)?;
        for (service, status) in statuses {
            let words = ["patch", "service", &service, "--subresource=status", "--type=merge", "-p", &status.to_string()];
            self.lab.kubectl(&words).with_context(|| format!("the status of {service}"))?;
        }
        Ok(())
    }

    /// What load balancers are told.
    pub(crate) fn health(&self) -> Result<()> {
        for (node, port, count) in self.cases().flat_map(|case| &case.health) {
            let url = format!("http://{}:{port}/", self.address(node, Family::V4));
            eventually(|| {
                let told = said(&self.lab.client(&["curl", "-s", "--noproxy", "*", "--max-time", "3", "-w", " %{http_code}", &url])?);
                let told = told.with_context(|| format!("{url} does not answer"))?;
                let (body, code) = told.rsplit_once(' ').with_context(|| told.clone())?;
                let body: Value = serde_json::from_str(body).with_context(|| told.clone())?;
                ensure!(body["localEndpoints"] == *count && code == if *count > 0 { "200" } else { "503" }, "{url}: {told}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Brings the table's settings to the agents.
fn set_agents(lab: &Lab, table: &Table) -> Result<()> {
    let mut lines: Vec<String> = table
        .settings
        .iter()
        .map(|(key, networks)| format!("{key}: [{}]", networks.iter().map(|net| format!("\"{net}\"")).collect::<Vec<_>>().join(", ")))
        .collect();
    lines.push(String::new());
    let script = format!("cat >> /etc/bowline/agent.yaml <<'END'\n{}END\n", lines.join("\n"));
    for node in table.nodes.keys() {
        ensure!(lab.node(node, &["sh", "-c", &script])?.status.success(), "the settings of {node}");
        lab.agent("stop", node)?;
        lab.agent("start", node)?;
    }
    lab.settled()
}

fn cast(table: &Table) -> Vec<Value> {
    let pod = |(name, pod): (&String, &bowline_compile::testing::flows::CastPod)| {
        let mut ports = match pod.hostnet {
            true => vec![json!({"containerPort": 8090, "hostPort": 8090})],
            false => {
                vec![json!({"containerPort": 8080}), json!({"containerPort": 8081}), json!({"containerPort": 5353, "protocol": "UDP"})]
            }
        };
        if let Some((host, own)) = pod.host_port {
            ports.retain(|port| port["containerPort"] != own);
            ports.push(json!({"containerPort": own, "hostPort": host}));
        }
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "flows"}},
            "spec": {
                "nodeName": pod.node, "hostNetwork": pod.hostnet, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "echo", "ports": ports}],
            },
        })
    };
    table.pods.iter().map(pod).collect()
}

/// The object of a line as kubectl would send it.
fn for_api(kind: Kind, json: Value) -> Value {
    let mut object = tidy(json);
    let versions = [(Kind::EndpointSlice, "discovery.k8s.io/v1"), (Kind::ServiceCidr, "networking.k8s.io/v1")];
    let version = versions.into_iter().find(|(of, _)| *of == kind).map_or("v1", |(_, version)| version);
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind.as_str());
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("creationTimestamp");
        metadata.retain(|_, value| *value != json!(""));
    }
    if kind == Kind::Service {
        let spec = &mut object["spec"];
        let ips = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
        spec["clusterIP"] = ips.first().cloned().unwrap_or_default();
        if ips.len() == 2 {
            spec["ipFamilyPolicy"] = json!("RequireDualStack");
            spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
        }
        if spec["type"] == "LoadBalancer" {
            spec["allocateLoadBalancerNodePorts"] = json!(false);
        }
    }
    object
}

/// Without what says nothing.
fn tidy(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: Map<String, Value> =
                fields.into_iter().map(|(key, value)| (key, tidy(value))).filter(|(key, value)| says(key, value)).collect();
            Value::Object(fields)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(tidy).collect()),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

fn says(key: &str, value: &Value) -> bool {
    let nothing = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
    let no_port = key == "nodePort" && *value == json!(0);
    !nothing && !no_port
}

/// Names that a row's addresses have everywhere.
pub(crate) fn is_service_address(name: &str) -> bool {
    place(name, Family::V4).is_some() && name != "alien"
}

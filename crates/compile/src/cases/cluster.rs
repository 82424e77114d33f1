//! The world that manifests would make: pods of workloads, addresses, cluster addresses and endpoints of services.
//!
//! One pod stands for all that a workload has, under the workload's name. What a status says stays; what is missing is made up: addresses from
//! 10.42.0.0/16 and fd42::/64, cluster addresses from 10.43.0.0/16 and fd43::/112, one node where none is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bowline_model::{Dual, Family, NodeName, Problem};
use serde_json::{Map, Value, json};

use super::objects::Sourced;
use crate::codes;
use crate::explain::attach_pods;
use crate::world::{Change, Kind, Labels, Object, Settings, World, fields};

/// The node of pods that name none.
const NODE: &str = "node-1";

/// The cluster that manifests make.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its world, in which everything has been listed.
    pub world: World,
    /// What of the policies cannot be understood, and so closes.
    pub problems: Vec<Problem>,
}

impl Cluster {
    /// Makes a cluster of objects; those that say nothing about policies are left out.
    ///
    /// # Errors
    /// BW4111 for an object that cannot be read, or that is there twice.
    pub fn of(objects: Vec<Sourced>) -> Result<Cluster, Problem> {
        let mut maker = Maker::default();
        for Sourced { object, place } in objects {
            maker.take(object, &place)?;
        }
        maker.finish()
    }
}

fn bad(what: impl Into<String>, place: &str, fix: &str) -> Problem {
    Problem::new(codes::BAD_MANIFEST, what, place, fix)
}

/// What has been read.
#[derive(Default)]
struct Maker {
    /// By kind, namespace and name.
    objects: BTreeMap<(Kind, String, String), (Value, String)>,
}

/// The labels that a workload's controller gives to its pods, as far as they can be known: those of a StatefulSet's first, and none of the uids and
/// digests.
fn given_labels(kind: &str, workload: &Value) -> Vec<(&'static str, String)> {
    let name = text(workload, "/metadata/name");
    match kind {
        "StatefulSet" => {
            let first = workload.pointer("/spec/ordinals/start").and_then(Value::as_u64).unwrap_or(0);
            vec![("statefulset.kubernetes.io/pod-name", format!("{name}-{first}")), ("apps.kubernetes.io/pod-index", first.to_string())]
        }
        "Job" | "CronJob" => {
            let spec = if kind == "Job" { "/spec" } else { "/spec/jobTemplate/spec" };
            let indexed = text(workload, &format!("{spec}/completionMode")) == "Indexed";
            let index = indexed.then(|| ("batch.kubernetes.io/job-completion-index", "0".to_owned()));
            [("job-name", name.clone()), ("batch.kubernetes.io/job-name", name)].into_iter().chain(index).collect()
        }
        _ => Vec::new(),
    }
}

/// Where the pod template of a workload is.
fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "ReplicationController" | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Maker {
    fn take(&mut self, object: Value, place: &str) -> Result<(), Problem> {
        let word = text(&object, "/kind");
        if let Some(pointer) = template(&word) {
            let template = object.pointer(pointer).cloned().unwrap_or_default();
            let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
            let metadata =
                json!({"name": object.pointer("/metadata/name"), "namespace": object.pointer("/metadata/namespace"), "labels": labels});
            let mut pod = json!({"kind": "Pod", "metadata": metadata, "spec": template.get("spec").cloned().unwrap_or_else(|| json!({}))});
            for (key, value) in given_labels(&word, &object) {
                label(&mut pod, key, &value);
            }
            return self.put(Kind::Pod, pod, place);
        }
        match Kind::ALL.into_iter().find(|kind| kind.as_str() == word) {
            Some(Kind::ClusterNetworkPolicy) => match text(&object, "/apiVersion").as_str() {
                // The two are alike but for their names (network-policy-api 0.3).
                "" | "policy.networking.k8s.io/v1alpha2" | "policy.networking.k8s.io/v1beta1" => {
                    self.put(Kind::ClusterNetworkPolicy, object, place)
                }
                other if other.starts_with("policy.networking.k8s.io/") => {
                    let what = format!("a ClusterNetworkPolicy is of {}", other.escape_debug());
                    Err(bad(what, place, "use policy.networking.k8s.io/v1alpha2 or v1beta1"))
                }
                // Others have a kind of that name as well.
                _ => Ok(()),
            },
            Some(kind) => self.put(kind, object, place),
            None => Ok(()),
        }
    }

    fn put(&mut self, kind: Kind, mut object: Value, place: &str) -> Result<(), Problem> {
        let name = text(&object, "/metadata/name");
        if name.is_empty() {
            return Err(bad(format!("a {kind} has no metadata.name"), place, "give it one"));
        }
        let mut namespace = text(&object, "/metadata/namespace");
        match kind {
            Kind::Namespace | Kind::Node | Kind::ClusterNetworkPolicy | Kind::ServiceCidr => namespace.clear(),
            Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::NetworkPolicy if namespace.is_empty() => namespace.push_str("default"),
            Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::NetworkPolicy => {}
        }
        if let Some(fields::Unknown { path, known }) = fields::unknown(kind, &object) {
            let what = format!("{kind} {name} has a field that there is not, {path}, so it does not say what it seems to");
            return Err(bad(what, &format!("{place}, {path}"), &format!("the fields there are {}", known.join(", "))));
        }
        set(&mut object, "metadata", "namespace", json!(namespace));
        let read = Object::decode(kind, object.clone());
        let fault = match &read {
            Ok(Object::NetworkPolicy(policy)) => policy.unreadable.as_deref().map(str::to_owned),
            Ok(Object::ClusterNetworkPolicy(policy)) => policy.unreadable.as_deref().map(str::to_owned),
            Ok(_) => None,
            Err(unreadable) => Some(unreadable.problem.why.clone()),
        };
        if let Some(why) = fault {
            return Err(bad(format!("{kind} {name} cannot be read"), place, "correct its fields").because(why));
        }
        if let Some((_, first)) = self.objects.get(&(kind, namespace.clone(), name.clone())) {
            let what = format!("{kind} {name} is there twice, first in {first}");
            return Err(bad(what, place, "leave one out, or give it another name or namespace"));
        }
        self.objects.insert((kind, namespace, name), (object, place.to_owned()));
        Ok(())
    }

    fn all(&mut self, kind: Kind) -> impl Iterator<Item = (&(Kind, String, String), &mut Value)> {
        self.objects.iter_mut().filter(move |((of, _, _), _)| *of == kind).map(|(key, (object, _))| (key, object))
    }

    fn finish(mut self) -> Result<Cluster, Problem> {
        self.namespaces();
        self.nodes();
        self.pods();
        self.services();
        let first = self.first_node();
        let mut settings = Settings::new(first.as_str());
        settings.cluster_cidrs = nets(&["10.42.0.0/16", "fd42::/64"]);
        settings.service_cidrs = nets(&["10.43.0.0/16", "fd43::/112"]);
        let mut world = World::new(settings);
        for kind in Kind::ALL {
            world.apply(Change::Synced(kind));
        }
        for ((kind, _, name), (object, place)) in self.objects {
            match Object::decode(kind, object) {
                Ok(object) => drop(world.apply(Change::Upsert(object))),
                Err(unreadable) => {
                    let what = format!("{kind} {name} cannot be read");
                    return Err(bad(what, &place, "correct its fields").because(unreadable.problem.why));
                }
            }
        }
        let world = attach_pods(world, &NodeName::from(first.as_str()));
        let of_policies =
            |problem: &Problem| problem.place.starts_with("NetworkPolicy") || problem.place.starts_with("ClusterNetworkPolicy");
        let problems = crate::Compiler::full(&world).problems.into_iter().filter(of_policies).collect();
        Ok(Cluster { world, problems })
    }

    /// The namespaces that objects are in, and the label that the API server gives them all.
    fn namespaces(&mut self) {
        let named: BTreeSet<String> = self.objects.keys().map(|(_, namespace, _)| namespace.clone()).filter(|n| !n.is_empty()).collect();
        for name in named {
            let missing = || (json!({"kind": "Namespace", "metadata": {"name": name}}), String::new());
            self.objects.entry((Kind::Namespace, String::new(), name.clone())).or_insert_with(missing);
        }
        for ((_, _, name), object) in self.all(Kind::Namespace) {
            label(object, "kubernetes.io/metadata.name", name);
        }
    }

    /// The nodes that pods name; each with an address of each family, and a subnet.
    fn nodes(&mut self) {
        let named =
            self.all(Kind::Pod).map(|(_, pod)| text(pod, "/spec/nodeName")).filter(|name| !name.is_empty()).collect::<BTreeSet<_>>();
        let known = self.all(Kind::Node).next().is_some();
        let wanted = named.into_iter().chain((!known).then(|| NODE.to_owned()));
        for name in wanted.collect::<Vec<_>>() {
            let missing = || (json!({"kind": "Node", "metadata": {"name": name}}), String::new());
            self.objects.entry((Kind::Node, String::new(), name.clone())).or_insert_with(missing);
        }
        for (number, (_, node)) in (1_u8..=254).zip(self.all(Kind::Node)) {
            if node.pointer("/status/addresses/0").is_none() {
                let address = |ip: String| json!({"type": "InternalIP", "address": ip});
                set(node, "status", "addresses", json!([address(format!("192.168.255.{number}")), address(format!("fdff::{number:x}"))]));
            }
            if text(node, "/spec/podCIDR").is_empty() && node.pointer("/spec/podCIDRs/0").is_none() {
                set(node, "spec", "podCIDRs", json!([format!("10.42.{number}.0/24"), format!("fd42:0:0:{number:x}::/64")]));
            }
        }
    }

    /// The node of pods that name none.
    fn first_node(&self) -> String {
        let mut nodes = self.objects.keys().filter(|(kind, _, _)| *kind == Kind::Node).map(|(_, _, name)| name.as_str());
        let made_up = nodes.clone().find(|name| *name == NODE);
        made_up.or_else(|| nodes.next()).unwrap_or(NODE).to_owned()
    }

    /// Pods run on a node and have addresses: of their own, or their node's where they are in its network.
    fn pods(&mut self) {
        let first = self.first_node();
        let of_nodes: BTreeMap<String, Vec<Value>> =
            self.all(Kind::Node).map(|((_, _, name), node)| (name.clone(), internal(node))).collect();
        let taken: BTreeSet<IpAddr> = self.all(Kind::Pod).flat_map(|(_, pod)| addresses(pod)).collect();
        let mut free = (1_u16..).filter(|number| pair(POD_BASES, *number).iter().all(|ip| !taken.contains(ip)));
        for (_, pod) in self.all(Kind::Pod) {
            if text(pod, "/spec/nodeName").is_empty() {
                set(pod, "spec", "nodeName", json!(first));
            }
            let phase = text(pod, "/status/phase");
            if phase.is_empty() || phase == "Pending" {
                set(pod, "status", "phase", json!("Running"));
            }
            if !addresses(pod).is_empty() {
                continue;
            }
            if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
                let ips = of_nodes.get(&text(pod, "/spec/nodeName")).cloned().unwrap_or_default();
                set(pod, "status", "podIPs", json!(ips));
            } else if let Some(number) = free.next() {
                let ips: Vec<Value> = pair(POD_BASES, number).iter().map(|ip| json!({"ip": ip.to_string()})).collect();
                set(pod, "status", "podIPs", json!(ips));
            }
        }
    }

    /// Services have cluster addresses, and slices where there are none.
    fn services(&mut self) {
        let sliced: BTreeSet<(String, String)> = self
            .all(Kind::EndpointSlice)
            .map(|((_, namespace, _), slice)| {
                (
                    namespace.clone(),
                    slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str).unwrap_or_default().to_owned(),
                )
            })
            .collect();
        let pods: Vec<(String, Value)> = self.all(Kind::Pod).map(|((_, namespace, _), pod)| (namespace.clone(), pod.clone())).collect();
        let mut slices = Vec::new();
        for (number, ((_, namespace, name), service)) in (1_u16..).zip(self.all(Kind::Service)) {
            let has_address = !text(service, "/spec/clusterIP").is_empty() || service.pointer("/spec/clusterIPs/0").is_some();
            if !has_address && text(service, "/spec/type") != "ExternalName" {
                let wanted = families(service, &chosen(namespace, service, &pods));
                let ips = pair(SERVICE_BASES, number).into_iter().filter(|ip| wanted.contains(&Family::of(ip)));
                let ips: Vec<String> = ips.map(|ip| ip.to_string()).collect();
                set(service, "spec", "clusterIPs", json!(ips));
            }
            if !sliced.contains(&(namespace.clone(), name.clone())) {
                slices.extend(endpoints(namespace, name, service, &pods));
            }
        }
        for slice in slices {
            let key = (Kind::EndpointSlice, text(&slice, "/metadata/namespace"), text(&slice, "/metadata/name"));
            self.objects.entry(key).or_insert((slice, String::new()));
        }
    }
}

/// Bases of made-up addresses.
const POD_BASES: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 42, 0, 0), Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 0, 0));
const SERVICE_BASES: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 43, 0, 0), Ipv6Addr::new(0xfd43, 0, 0, 0, 0, 0, 0, 0));

fn pair((v4, v6): (Ipv4Addr, Ipv6Addr), number: u16) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::from_bits(v4.to_bits() + u32::from(number));
    let v6 = Ipv6Addr::from_bits(v6.to_bits() + u128::from(number));
    [v4.into(), v6.into()]
}

/// The families that a service has addresses of: those that it names, or else those of its pods, or both where it has none.
fn families(service: &Value, pods: &[&Value]) -> Vec<Family> {
    let named = service.pointer("/spec/ipFamilies").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let named: Vec<Family> = named.filter_map(|word| Family::BOTH.into_iter().find(|family| family_word(*family) == word)).collect();
    let more = text(service, "/spec/ipFamilyPolicy").ends_with("DualStack");
    if !named.is_empty() && !more {
        return named;
    }
    let held: Vec<Family> = pods.iter().flat_map(|pod| addresses(pod)).map(|ip| Family::of(&ip)).collect();
    Family::BOTH.into_iter().filter(|family| held.is_empty() || held.contains(family)).collect()
}

fn family_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The first address of each family that a node's own pods have, as a pod's status has them.
fn internal(node: &Value) -> Vec<Value> {
    let all = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let internal = all.filter(|address| text(address, "/type") == "InternalIP");
    let first = Dual::first_of(internal.filter_map(|address| text(address, "/address").parse::<IpAddr>().ok()));
    first.values().map(|ip| json!({"ip": ip.to_string()})).collect()
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The addresses that a pod's status has.
fn addresses(pod: &Value) -> Vec<IpAddr> {
    let several = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten().map(|ip| text(ip, "/ip"));
    several.chain([text(pod, "/status/podIP")]).filter_map(|ip| ip.parse().ok()).collect()
}

/// Sets a field of a section, which is made where it is missing.
fn set(object: &mut Value, section: &str, field: &str, value: Value) {
    let Some(object) = object.as_object_mut() else { return };
    let section = object.entry(section).or_insert_with(|| json!({}));
    if !section.is_object() {
        *section = json!({});
    }
    if let Some(section) = section.as_object_mut() {
        section.insert(field.to_owned(), value);
    }
}

fn label(object: &mut Value, key: &str, value: &str) {
    let mut labels = object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
    labels.insert(key.to_owned(), json!(value));
    set(object, "metadata", "labels", Value::Object(labels));
}

/// The pods that a service's selector chooses; none without one.
fn chosen<'p>(namespace: &str, service: &Value, pods: &'p [(String, Value)]) -> Vec<&'p Value> {
    let Some(selector) = service.pointer("/spec/selector").and_then(Value::as_object).filter(|selector| !selector.is_empty()) else {
        return Vec::new();
    };
    let chosen = |pod: &Value| {
        let labels: Labels =
            pod.pointer("/metadata/labels").and_then(|labels| serde_json::from_value(labels.clone()).ok()).unwrap_or_default();
        selector.iter().all(|(key, value)| labels.get(key.as_str()).map(AsRef::as_ref) == value.as_str())
    };
    pods.iter().filter(|(of, pod)| of == namespace && chosen(pod)).map(|(_, pod)| pod).collect()
}

/// Slices of the pods that a service's selector chooses, one for each family and port.
fn endpoints(namespace: &str, name: &str, service: &Value, pods: &[(String, Value)]) -> Vec<Value> {
    let pods = chosen(namespace, service, pods);
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut slices = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        for family in Family::BOTH.map(family_word) {
            for (place, pod) in pods.iter().enumerate() {
                let of_family = |ip: &IpAddr| ip.is_ipv4() == (family == "IPv4");
                let (Some(ip), Some(number)) = (addresses(pod).into_iter().find(of_family), target(port, pod)) else { continue };
                let slice_name = format!("{name}-{}-{index}-{place}", family.to_lowercase());
                slices.push(json!({
                    "kind": "EndpointSlice", "addressType": family,
                    "metadata": {"name": slice_name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
                    "ports": [{"name": port.get("name"), "port": number, "protocol": port.get("protocol")}],
                    "endpoints": [{"addresses": [ip.to_string()], "nodeName": pod.pointer("/spec/nodeName"), "conditions": {"ready": true}}],
                }));
            }
        }
    }
    slices
}

/// The number of a pod's port that a service's port leads to: a name is one of a container's ports of the same protocol, or else of a sidecar's
/// (`FindPort` of Kubernetes' pkg/api/v1/pod).
fn target(port: &Value, pod: &Value) -> Option<u64> {
    match port.get("targetPort") {
        None | Some(Value::Null) => port.get("port").and_then(Value::as_u64),
        Some(Value::String(name)) => {
            let each = |pointer| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
            let sidecars = each("/spec/initContainers").filter(|container| text(container, "/restartPolicy") == "Always");
            let containers = each("/spec/containers").chain(sidecars);
            let mut ports = containers.flat_map(|container| container.get("ports").and_then(Value::as_array).into_iter().flatten());
            let meant = |of_pod: &&Value| text(of_pod, "/name") == *name && protocol(of_pod) == protocol(port);
            ports.find(meant).and_then(|port| port.get("containerPort")).and_then(Value::as_u64)
        }
        Some(number) => number.as_u64().filter(|number| *number != 0).or_else(|| port.get("port").and_then(Value::as_u64)),
    }
}

/// The protocol that a port says, or the one that it has then.
fn protocol(port: &Value) -> &str {
    port.get("protocol").and_then(Value::as_str).filter(|word| !word.is_empty()).unwrap_or("TCP")
}

//! A compact notation for worlds: one object a line.
//!
//! ```text
//! node n1 192.168.0.1 cidr=10.42.1.0/24 ^1
//! ns shop team=red
//! pod shop/web 10.42.1.2 fd42:1::2 @n1 app=web :http:80/tcp +attached ^3
//! svc shop/api 10.43.0.9 :http:80:30080/tcp type=NodePort +local
//! slice shop/api-1 of=api :http:8080/tcp 10.42.1.2@n1~za.n1 10.42.2.2@n2!draining
//! policy shop/in {podSelector: {}, ingress: []}
//! cnp lockdown {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: []}
//! cidrs extra 10.44.0.0/16
//! attach shop/web 10.42.1.2 uid=7
//! del Pod shop/web
//! detach shop/web
//! ```
//!
//! `:http:80/tcp!init` is a port of the pod's init container, `!sidecar` of one that stays, `!other` of another container.
//! `~za.n1` are hints: an endpoint meant for zone za and for node n1. `^3` is the creation time; a word with a plus sign is a flag; `key=value` is a label where nothing else is said.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bowline_model::intent::pods::PodIntent;
use bowline_model::{Dual, Family, MacAddr, PodName};
use serde_json::{Map, Value, json};

use crate::world::{Attached, Change, Kind, Object, ObjectKey, Settings, Unreadable, World};

/// A world of n1 in which everything has been listed.
pub fn world(text: &str) -> World {
    let mut world = World::new(settings());
    for kind in Kind::ALL {
        world.apply(Change::Synced(kind));
    }
    for change in changes(text) {
        world.apply(change);
    }
    world
}

/// Settings of n1.
pub fn settings() -> Settings {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let mut settings = Settings::new("n1");
    settings.cluster_cidrs = nets(&["10.42.0.0/16", "fd42::/16"]);
    settings.service_cidrs = nets(&["10.43.0.0/16", "fd43::/112"]);
    settings
}

/// The changes that bring the objects of a text.
pub fn changes(text: &str) -> Vec<Change> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).flat_map(line).collect()
}

fn line(line: &str) -> Vec<Change> {
    let (kind, rest) = line.split_once(' ').unwrap();
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    if let "policy" | "cnp" = kind {
        let spec: Value = serde_saphyr::from_str(rest).unwrap_or_else(|error| panic!("{rest}: {error}"));
        let kind = if kind == "cnp" { Kind::ClusterNetworkPolicy } else { Kind::NetworkPolicy };
        return vec![upsert(kind, json!({"metadata": metadata(name, &Words::default()), "spec": spec}))];
    }
    if kind == "del" {
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap();
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        return vec![Change::Delete(ObjectKey::new(kind, namespace, name))];
    }
    let words = Words::read(rest);
    match kind {
        "ns" => vec![upsert(Kind::Namespace, json!({"metadata": metadata(name, &words)}))],
        "node" => vec![node(name, &words)],
        "pod" => pod(name, &words),
        "attach" => vec![attach(name, &words.plain, words.all("uid").first().copied())],
        "detach" => vec![Change::Detached(ifname(name))],
        "svc" => vec![upsert(Kind::Service, service(name, &words))],
        "slice" => vec![upsert(Kind::EndpointSlice, slice(name, &words))],
        "cidrs" => vec![upsert(Kind::ServiceCidr, service_cidr(name, &words))],
        other => panic!("unknown kind {other}"),
    }
}

/// The object of a line that makes a service, a slice or service networks, as the API would have it.
pub fn object(line: &str) -> Option<(Kind, Value)> {
    let (kind, rest) = line.split_once(' ')?;
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let words = Words::read(rest);
    match kind {
        "svc" => Some((Kind::Service, service(name, &words))),
        "slice" => Some((Kind::EndpointSlice, slice(name, &words))),
        "cidrs" => Some((Kind::ServiceCidr, service_cidr(name, &words))),
        _ => None,
    }
}

/// An upsert of an object given as JSON.
pub fn upsert(kind: Kind, json: Value) -> Change {
    match Object::decode(kind, json) {
        Ok(object) => Change::Upsert(object),
        Err(unreadable) => Change::Unreadable(Box::new(Unreadable::clone(&unreadable))),
    }
}

#[derive(Default)]
struct Words<'a> {
    flags: Vec<&'a str>,
    pairs: Vec<(&'a str, &'a str)>,
    ports: Vec<&'a str>,
    node: Option<&'a str>,
    age: Option<&'a str>,
    plain: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn read(text: &'a str) -> Self {
        let mut words = Words::default();
        for word in text.split_whitespace() {
            match (word.as_bytes()[0], word.split_once('=')) {
                (b'+', _) => words.flags.push(&word[1..]),
                (b'@', _) => words.node = Some(&word[1..]),
                (b'^', _) => words.age = Some(&word[1..]),
                (b':', _) if !word.starts_with("::") => words.ports.push(&word[1..]),
                (_, Some(pair)) => words.pairs.push(pair),
                (_, None) => words.plain.push(word),
            }
        }
        words
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    fn all(&self, key: &str) -> Vec<&'a str> {
        self.pairs.iter().filter(|(k, _)| *k == key).map(|(_, v)| *v).collect()
    }
}

const FIELDS: [&str; 18] = [
    "cidr", "of", "type", "ext", "lb", "proxied", "affinity", "internal", "external", "uid", "family", "host", "name", "zone", "ranges",
    "health", "class", "prefer",
];

fn metadata(name: &str, words: &Words<'_>) -> Value {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let labels: Map<String, Value> =
        words.pairs.iter().filter(|(k, _)| !FIELDS.contains(k)).map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let mut metadata = json!({"name": name, "namespace": namespace, "labels": labels});
    if let Some(zone) = words.all("zone").first() {
        metadata["labels"]["topology.kubernetes.io/zone"] = json!(zone);
    }
    if let Some(age) = words.age {
        metadata["creationTimestamp"] = json!(format!("2026-01-01T00:00:{age:0>2}Z"));
    }
    if let Some(uid) = words.all("uid").first() {
        metadata["uid"] = json!(uid);
    }
    metadata
}

fn node(name: &str, words: &Words<'_>) -> Change {
    let addresses: Vec<Value> = words.plain.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    let json = json!({"metadata": metadata(name, words), "spec": {"podCIDRs": words.all("cidr")}, "status": {"addresses": addresses}});
    upsert(Kind::Node, json)
}

fn pod(name: &str, words: &Words<'_>) -> Vec<Change> {
    let mut spec = containers(words);
    spec["nodeName"] = json!(words.node);
    spec["hostNetwork"] = json!(words.has("hostnet"));
    let ips: Vec<Value> = match words.has("nostatus") {
        true => vec![],
        false => words.plain.iter().map(|ip| json!({"ip": ip})).collect(),
    };
    let phase = if words.has("done") { "Succeeded" } else { "Running" };
    let status = json!({"phase": phase, "podIPs": ips});
    let pod = upsert(Kind::Pod, json!({"metadata": metadata(name, words), "spec": spec, "status": status}));
    let mut changes = vec![pod];
    if words.has("attached") {
        changes.push(attach(name, &words.plain, words.all("uid").first().copied()));
    }
    changes
}

/// A container, and one for each name after a `!` in a port; `sidecar` and `init` are what they say.
fn containers(words: &Words<'_>) -> Value {
    let first = ["sidecar", "init"].into_iter().find(|flag| words.has(flag)).unwrap_or_default();
    let mut all: BTreeMap<&str, Vec<Value>> = BTreeMap::from([(first, Vec::new())]);
    for text in &words.ports {
        let (text, container) = text.split_once('!').unwrap_or((text, first));
        let (name, rest) = text.split_once(':').unwrap();
        let (port, protocol) = rest.split_once('/').unwrap();
        let port = json!({"name": name, "containerPort": port.parse::<i64>().unwrap(), "protocol": protocol.to_uppercase()});
        all.entry(container).or_default().push(port);
    }
    let mut spec = json!({"containers": [], "initContainers": []});
    for (name, ports) in all {
        let (field, container) = match name {
            "sidecar" => ("initContainers", json!({"restartPolicy": "Always", "ports": ports})),
            "init" => ("initContainers", json!({"ports": ports})),
            _ => ("containers", json!({"ports": ports})),
        };
        spec[field].as_array_mut().unwrap().push(container);
    }
    spec
}

/// The attachment of a pod.
pub fn attach(name: &str, ips: &[&str], uid: Option<&str>) -> Change {
    let (namespace, short) = name.split_once('/').unwrap();
    Change::Attached(Box::new(Attached {
        container_id: format!("id-{namespace}-{short}").into(),
        ifname: "eth0".into(),
        pod_uid: uid.map(Into::into),
        intent: PodIntent {
            pod: Some(PodName::new(namespace, short)),
            host_ifname: ifname(name),
            mac: MacAddr::derived(name),
            host_mac: MacAddr::derived("host"),
            ips: Dual::first_of(ips.iter().map(|ip| ip.parse().unwrap())),
            host_ports: vec![],
        },
    }))
}

/// The host interface of a pod's attachment.
pub fn ifname(pod: &str) -> std::sync::Arc<str> {
    format!("bwl-{}", pod.replace('/', "-")).into()
}

fn service(name: &str, words: &Words<'_>) -> Value {
    let ports: Vec<Value> = words
        .ports
        .iter()
        .map(|text| {
            let (rest, protocol) = text.split_once('/').unwrap();
            let parts: Vec<&str> = rest.split(':').collect();
            let number = |at: usize| parts.get(at).map_or(0, |text| text.parse::<i64>().unwrap());
            json!({"name": parts[0], "port": number(1), "nodePort": number(2), "protocol": protocol.to_uppercase()})
        })
        .collect();
    let mut ingress: Vec<Value> = words.all("lb").iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    ingress.extend(words.all("proxied").iter().map(|ip| json!({"ip": ip, "ipMode": "Proxy"})));
    let mut spec = json!({
        "ports": ports,
        "clusterIPs": words.plain,
        "externalIPs": words.all("ext"),
        "ipFamilies": words.all("family"),
        "publishNotReadyAddresses": words.has("unready"),
    });
    let text = |key: &str| words.all(key).first().map(|text| json!(text));
    for (field, value) in [
        ("type", text("type")),
        ("internalTrafficPolicy", text("internal")),
        ("externalTrafficPolicy", text("external")),
        ("externalName", text("name")),
        ("loadBalancerClass", text("class")),
        ("trafficDistribution", text("prefer")),
    ] {
        spec[field] = value.unwrap_or(Value::Null);
    }
    if let Some(seconds) = words.all("affinity").first() {
        spec["sessionAffinity"] = json!("ClientIP");
        let seconds = seconds.parse::<i64>().ok();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    spec["loadBalancerSourceRanges"] = json!(words.all("ranges"));
    spec["healthCheckNodePort"] = json!(words.all("health").first().and_then(|text| text.parse::<i64>().ok()));
    let status = json!({"loadBalancer": {"ingress": ingress}});
    json!({"metadata": metadata(name, words), "spec": spec, "status": status})
}

fn service_cidr(name: &str, words: &Words<'_>) -> Value {
    json!({"metadata": metadata(name, words), "spec": {"cidrs": words.plain}})
}

fn slice(name: &str, words: &Words<'_>) -> Value {
    let ports: Vec<Value> = words
        .ports
        .iter()
        .map(|text| {
            let (rest, protocol) = text.split_once('/').unwrap();
            let (name, port) = rest.split_once(':').unwrap();
            json!({"name": name, "port": port.parse::<i64>().unwrap(), "protocol": protocol.to_uppercase()})
        })
        .collect();
    let hosts = words.all("host");
    let endpoints: Vec<Value> = words
        .plain
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let (text, hints) = text.split_once('~').unwrap_or((text, ""));
            let hinted = |first: char| -> Vec<Value> {
                hints.split('.').filter(|name| name.starts_with(first)).map(|name| json!({"name": name})).collect()
            };
            let hints = json!({"forZones": hinted('z'), "forNodes": hinted('n')});
            let (rest, state) = text.split_once('!').unwrap_or((text, ""));
            let (ip, node) = rest.split_once('@').map_or((rest, None), |(ip, node)| (ip, Some(node)));
            let conditions = match state {
                "" => json!({}),
                "ready" => json!({"ready": true, "serving": true, "terminating": false}),
                "draining" => json!({"ready": false, "serving": true, "terminating": true}),
                "unready" => json!({"ready": false, "serving": false}),
                "gone" => json!({"ready": false, "serving": false, "terminating": true}),
                other => panic!("unknown state {other}"),
            };
            json!({"addresses": [ip], "nodeName": node, "conditions": conditions, "hostname": hosts.get(index), "hints": hints})
        })
        .collect();
    let first = words.plain.first().map_or("10.0.0.0", |text| text.split(['@', '!', '~']).next().unwrap());
    let family = first.parse().map_or(Family::V4, |ip: IpAddr| Family::of(&ip));
    let mut metadata = metadata(name, words);
    metadata["labels"]["kubernetes.io/service-name"] = json!(words.all("of")[0]);
    json!({"metadata": metadata, "addressType": family.to_string(), "endpoints": endpoints, "ports": ports})
}

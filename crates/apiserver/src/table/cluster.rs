//! Nodes, namespaces, configuration, events and the rest of the cluster.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, View, age, col, name, num, or, wide};
use crate::object::{entries, integer, items, text};

pub(super) const NODES: View = View {
    columns: &[
        NAME,
        col("Status"),
        col("Roles"),
        AGE,
        col("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    row: |node| {
        let info = |field: &str| json!(or(text(node, &format!("/status/nodeInfo/{field}")), "<unknown>"));
        vec![
            name(node),
            json!(node_status(node)),
            json!(roles(node)),
            age(node),
            json!(text(node, "/status/nodeInfo/kubeletVersion")),
            address(node, "InternalIP"),
            address(node, "ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
};

fn node_status(node: &Value) -> String {
    let ready = items(node, "/status/conditions").find(|one| text(one, "/type") == "Ready");
    let mut status = match ready.map(|one| text(one, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> =
        entries(node, "/metadata/labels").filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/")).collect();
    roles.sort_unstable();
    or(&roles.join(","), "<none>").to_owned()
}

fn address(node: &Value, kind: &str) -> Value {
    let found = items(node, "/status/addresses").find(|one| text(one, "/type") == kind);
    json!(found.map_or("<none>", |one| text(one, "/address")))
}

pub(super) const NAMESPACES: View = View {
    columns: &[NAME, col("Status"), AGE],
    row: |namespace| vec![name(namespace), json!(text(namespace, "/status/phase")), age(namespace)],
};

pub(super) const CONFIG_MAPS: View = View {
    columns: &[NAME, num("Data"), AGE],
    row: |map| vec![name(map), json!(entries(map, "/data").count() + entries(map, "/binaryData").count()), age(map)],
};

pub(super) const SECRETS: View = View {
    columns: &[NAME, col("Type"), num("Data"), AGE],
    row: |secret| vec![name(secret), json!(text(secret, "/type")), json!(entries(secret, "/data").count()), age(secret)],
};

pub(super) const SERVICE_ACCOUNTS: View = View {
    columns: &[NAME, num("Secrets"), AGE],
    row: |account| vec![name(account), json!(items(account, "/secrets").len()), age(account)],
};

pub(super) const LEASES: View =
    View { columns: &[NAME, col("Holder"), AGE], row: |lease| vec![name(lease), json!(text(lease, "/spec/holderIdentity")), age(lease)] };

const EVENT_COLUMNS: &[Column] = &[
    col("Last Seen"),
    col("Type"),
    col("Reason"),
    col("Object"),
    wide("Subobject"),
    wide("Source"),
    col("Message"),
    wide("First Seen"),
    wide("Count"),
    wide("Name"),
];

pub(super) const EVENTS: View = View {
    columns: EVENT_COLUMNS,
    row: |event| {
        let time = |fields: [&str; 3]| {
            let first = fields.into_iter().map(|field| text(event, field)).find(|time| !time.is_empty());
            json!(first.map_or_else(|| "<unknown>".to_owned(), super::age::since))
        };
        let object = format!("{}/{}", text(event, "/involvedObject/kind").to_lowercase(), text(event, "/involvedObject/name"));
        let source = [text(event, "/source/component"), text(event, "/source/host")];
        let source: Vec<&str> = source.into_iter().filter(|part| !part.is_empty()).collect();
        vec![
            time(["/series/lastObservedTime", "/lastTimestamp", "/eventTime"]),
            json!(text(event, "/type")),
            json!(text(event, "/reason")),
            json!(object),
            json!(text(event, "/involvedObject/fieldPath")),
            json!(or(&source.join(", "), text(event, "/reportingComponent"))),
            json!(text(event, "/message").trim()),
            time(["/firstTimestamp", "/eventTime", ""]),
            json!(integer(event, "/series/count").or(integer(event, "/count")).unwrap_or(1)),
            name(event),
        ]
    },
};

pub(super) const ROLE_BINDINGS: View = View {
    columns: &[NAME, col("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    row: |binding| {
        let role = format!("{}/{}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let subjects = |kind: &str| {
            let of_kind = items(binding, "/subjects").filter(|one| text(one, "/kind") == kind);
            let names: Vec<String> = of_kind
                .map(|one| match text(one, "/namespace") {
                    "" => text(one, "/name").to_owned(),
                    namespace => format!("{namespace}/{}", text(one, "/name")),
                })
                .collect();
            json!(names.join(", "))
        };
        vec![name(binding), json!(role), age(binding), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
    },
};

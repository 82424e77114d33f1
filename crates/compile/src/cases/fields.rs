//! The fields that policies have. One that there is not says something that nobody reads, and the policy another thing than it seems to.
//!
//! Reference: networking.k8s.io/v1, policy.networking.k8s.io/v1alpha2 and the ObjectMeta of meta/v1. What of known fields makes no sense is not
//! for here: it is read, and closes, as in a cluster.

use serde_json::Value;

use crate::world::Kind;

/// What a field holds.
enum Shape {
    /// Anything: what is in it has no fields of the API's.
    Anything,
    /// A section.
    Section(&'static [(&'static str, Shape)]),
    /// A list of sections.
    Each(&'static [(&'static str, Shape)]),
}

use Shape::{Anything, Each, Section};

type Fields = &'static [(&'static str, Shape)];

const METADATA: Fields = &[
    ("name", Anything),
    ("generateName", Anything),
    ("namespace", Anything),
    ("labels", Anything),
    ("annotations", Anything),
    ("uid", Anything),
    ("resourceVersion", Anything),
    ("generation", Anything),
    ("creationTimestamp", Anything),
    ("deletionTimestamp", Anything),
    ("deletionGracePeriodSeconds", Anything),
    ("ownerReferences", Anything),
    ("finalizers", Anything),
    ("managedFields", Anything),
    ("selfLink", Anything),
];

const SELECTOR: Fields =
    &[("matchLabels", Anything), ("matchExpressions", Each(&[("key", Anything), ("operator", Anything), ("values", Anything)]))];

const PEER: Fields = &[
    ("podSelector", Section(SELECTOR)),
    ("namespaceSelector", Section(SELECTOR)),
    ("ipBlock", Section(&[("cidr", Anything), ("except", Anything)])),
];

const PORT: Fields = &[("port", Anything), ("protocol", Anything), ("endPort", Anything)];

/// A NetworkPolicy.
const NETWORK_POLICY: Fields = &[
    ("apiVersion", Anything),
    ("kind", Anything),
    ("metadata", Section(METADATA)),
    ("status", Anything),
    (
        "spec",
        Section(&[
            ("podSelector", Section(SELECTOR)),
            ("policyTypes", Anything),
            ("ingress", Each(&[("from", Each(PEER)), ("ports", Each(PORT))])),
            ("egress", Each(&[("to", Each(PEER)), ("ports", Each(PORT))])),
        ]),
    ),
];

const PODS: Fields = &[("namespaceSelector", Section(SELECTOR)), ("podSelector", Section(SELECTOR))];

/// Those of egress stand in rules of ingress as well, where the policy's reader says what is wrong with them.
const CLUSTER_PEER: Fields = &[
    ("namespaces", Section(SELECTOR)),
    ("pods", Section(PODS)),
    ("nodes", Section(SELECTOR)),
    ("networks", Anything),
    ("domainNames", Anything),
];

const DESTINATION: Fields =
    &[("destinationPort", Section(&[("number", Anything), ("range", Section(&[("start", Anything), ("end", Anything)]))]))];

const PROTOCOL: Fields =
    &[("tcp", Section(DESTINATION)), ("udp", Section(DESTINATION)), ("sctp", Section(DESTINATION)), ("destinationNamedPort", Anything)];

/// A ClusterNetworkPolicy.
const CLUSTER_NETWORK_POLICY: Fields = &[
    ("apiVersion", Anything),
    ("kind", Anything),
    ("metadata", Section(METADATA)),
    ("status", Anything),
    (
        "spec",
        Section(&[
            ("tier", Anything),
            ("priority", Anything),
            ("subject", Section(&[("namespaces", Section(SELECTOR)), ("pods", Section(PODS))])),
            ("ingress", Each(&[("name", Anything), ("action", Anything), ("from", Each(CLUSTER_PEER)), ("protocols", Each(PROTOCOL))])),
            ("egress", Each(&[("name", Anything), ("action", Anything), ("to", Each(CLUSTER_PEER)), ("protocols", Each(PROTOCOL))])),
        ]),
    ),
];

/// A field that there is not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Where it stands: `spec.ingress[0].form`.
    pub(super) path: String,
    /// The fields that could stand there.
    pub(super) known: Vec<&'static str>,
}

/// The first field of a policy that there is not.
pub(super) fn unknown(kind: Kind, object: &Value) -> Option<Unknown> {
    let fields = match kind {
        Kind::NetworkPolicy => NETWORK_POLICY,
        Kind::ClusterNetworkPolicy => CLUSTER_NETWORK_POLICY,
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::ServiceCidr => return None,
    };
    in_section(object, fields, "")
}

fn in_section(value: &Value, fields: Fields, path: &str) -> Option<Unknown> {
    value.as_object()?.iter().find_map(|(key, value)| {
        let path = if path.is_empty() { key.escape_debug().to_string() } else { format!("{path}.{}", key.escape_debug()) };
        match fields.iter().find(|(name, _)| name == key) {
            None => Some(Unknown { path, known: fields.iter().map(|(name, _)| *name).collect() }),
            Some((_, Anything)) => None,
            Some((_, Section(fields))) => in_section(value, fields, &path),
            Some((_, Each(fields))) => {
                let mut items = value.as_array().into_iter().flatten().enumerate();
                items.find_map(|(index, item)| in_section(item, fields, &format!("{path}[{index}]")))
            }
        }
    })
}

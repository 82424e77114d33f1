//! The fields that policies have. One that there is not says something that nobody reads, and the policy another thing than it seems to: in a
//! cluster it comes of a newer API, which may limit by it what a rule allows, in a file of a slip of the pen.
//!
//! Reference: networking.k8s.io/v1, policy.networking.k8s.io/v1alpha2 and the ObjectMeta of meta/v1. What of known fields makes no sense is not
//! for here: it is read, and closes, as in a cluster.

use serde_json::Value;

use super::Kind;

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

const NETWORK_POLICY_SPEC: Fields = &[
    ("podSelector", Section(SELECTOR)),
    ("policyTypes", Anything),
    ("ingress", Each(&[("from", Each(PEER)), ("ports", Each(PORT))])),
    ("egress", Each(&[("to", Each(PEER)), ("ports", Each(PORT))])),
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

const CLUSTER_NETWORK_POLICY_SPEC: Fields = &[
    ("tier", Anything),
    ("priority", Anything),
    ("subject", Section(&[("namespaces", Section(SELECTOR)), ("pods", Section(PODS))])),
    ("ingress", Each(&[("name", Anything), ("action", Anything), ("from", Each(CLUSTER_PEER)), ("protocols", Each(PROTOCOL))])),
    ("egress", Each(&[("name", Anything), ("action", Anything), ("to", Each(CLUSTER_PEER)), ("protocols", Each(PROTOCOL))])),
];

/// An object, but for its `spec`.
const OBJECT: Fields =
    &[("apiVersion", Anything), ("kind", Anything), ("metadata", Section(METADATA)), ("spec", Anything), ("status", Anything)];

/// Sections of which one field says what is meant: where it is none that is known, it is for the rule to close, and the rest stands.
const ONE_OF: [&str; 4] = ["subject", "from", "to", "protocols"];

/// A field that there is not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// Where it stands: `spec.ingress[0].form`.
    pub(crate) path: String,
    /// The fields that could stand there.
    pub(crate) known: Vec<&'static str>,
}

/// The first field of a policy that there is not, wherever it stands.
pub(crate) fn unknown(kind: Kind, object: &Value) -> Option<Unknown> {
    let fields = spec_of(kind)?;
    let strict = Look { one_of: &[] };
    strict.at(object, OBJECT, "").or_else(|| strict.at(object.get("spec")?, fields, "spec"))
}

/// The first field of a policy's `spec` that there is not, and that no rule takes care of.
pub(super) fn unknown_in_spec(kind: Kind, spec: &Value) -> Option<Unknown> {
    Look { one_of: &ONE_OF }.at(spec, spec_of(kind)?, "spec")
}

fn spec_of(kind: Kind) -> Option<Fields> {
    match kind {
        Kind::NetworkPolicy => Some(NETWORK_POLICY_SPEC),
        Kind::ClusterNetworkPolicy => Some(CLUSTER_NETWORK_POLICY_SPEC),
        Kind::Namespace | Kind::Node | Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::ServiceCidr => None,
    }
}

/// How sections are looked at.
struct Look {
    /// Sections that may be all unknown.
    one_of: &'static [&'static str],
}

impl Look {
    fn at(&self, value: &Value, fields: Fields, path: &str) -> Option<Unknown> {
        let section = value.as_object()?;
        let is_known = |key: &String| fields.iter().any(|(name, _)| name == key);
        let word = path.rsplit('.').next().and_then(|word| word.split('[').next()).unwrap_or_default();
        if self.one_of.contains(&word) && !section.keys().any(is_known) {
            return None;
        }
        section.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.escape_debug().to_string() } else { format!("{path}.{}", key.escape_debug()) };
            match fields.iter().find(|(name, _)| name == key) {
                None => Some(Unknown { path, known: fields.iter().map(|(name, _)| *name).collect() }),
                Some((_, Anything)) => None,
                Some((_, Section(fields))) => self.at(value, fields, &path),
                Some((_, Each(fields))) => {
                    let mut items = value.as_array().into_iter().flatten().enumerate();
                    items.find_map(|(index, item)| self.at(item, fields, &format!("{path}[{index}]")))
                }
            }
        })
    }
}

//! The kinds of object that the world is made of, and their decoding from the API's JSON.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bowline_model::Problem;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::fields;
use super::{
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, EndpointSlice, Namespace, NetworkPolicy, NetworkPolicySpec, Node, ObjectMeta, Pod,
    Service, ServiceCidr,
};
use crate::codes;

/// A kind of Kubernetes object that the world is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Pods.
    Pod,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// NetworkPolicies.
    NetworkPolicy,
    /// ClusterNetworkPolicies; an API server has them only where their CustomResourceDefinition was installed.
    ClusterNetworkPolicy,
    /// ServiceCIDRs; an API server older than Kubernetes 1.33 has none.
    ServiceCidr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 8] = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::NetworkPolicy,
        Kind::ClusterNetworkPolicy,
        Kind::ServiceCidr,
    ];

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Namespace => "Namespace",
            Kind::Node => "Node",
            Kind::Pod => "Pod",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Kind::ServiceCidr => "ServiceCIDR",
        }
    }

    fn unreadable_code(self) -> u16 {
        match self {
            Kind::Namespace | Kind::Node | Kind::Pod => codes::OBJECT_UNREADABLE,
            Kind::Service | Kind::EndpointSlice | Kind::ServiceCidr => codes::SERVICE_UNREADABLE,
            Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => codes::POLICY_UNREADABLE,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for objects of the cluster.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The object `name` of `kind` in `namespace` (empty for objects of the cluster).
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        ObjectKey { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object of one of the kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant holds the kind of its name")]
pub enum Object {
    Namespace(Arc<Namespace>),
    Node(Arc<Node>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    NetworkPolicy(Arc<NetworkPolicy>),
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
    ServiceCidr(Arc<ServiceCidr>),
}

macro_rules! objects {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Object {
                Object::$kind(Arc::new(object))
            }
        })*

        impl Object {
            /// Its metadata.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Object::$kind(object) => &object.metadata),* }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Object::$kind(_) => Kind::$kind),* }
            }

            fn read(kind: Kind, json: Value) -> Result<Object, serde_json::Error> {
                match kind { $(Kind::$kind => serde_json::from_value::<$kind>(json).map(Object::from)),* }
            }
        }
    };
}
objects!(Namespace, Node, Pod, Service, EndpointSlice, NetworkPolicy, ClusterNetworkPolicy, ServiceCidr);

/// An object that cannot be read; the world goes on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The object.
    pub key: ObjectKey,
    /// What is wrong with it.
    pub problem: Problem,
}

impl Object {
    /// The name of it.
    pub fn key(&self) -> ObjectKey {
        let metadata = self.metadata();
        ObjectKey::new(self.kind(), metadata.namespace.clone(), metadata.name.clone())
    }

    /// Reads an object from the API's JSON.
    ///
    /// A policy is never lost: what cannot be read of it closes the pods that it selects (all of its namespace, or of the cluster for a
    /// ClusterNetworkPolicy, if the selector is what cannot be read). A field that is not known counts as such: a newer API may limit by it
    /// what a rule allows.
    ///
    /// # Errors
    /// Where a field has the wrong type, or the object has no name.
    pub fn decode(kind: Kind, json: Value) -> Result<Object, Box<Unreadable>> {
        let metadata: ObjectMeta = part(&json, "metadata").unwrap_or_default();
        let key = ObjectKey::new(kind, metadata.namespace.clone(), metadata.name.clone());
        let is_policy = matches!(kind, Kind::NetworkPolicy | Kind::ClusterNetworkPolicy);
        let spec = json.get("spec").filter(|_| is_policy).cloned().unwrap_or_default();
        let triggered_at = triggered_at(&json);
        let unknown = fields::unknown_in_spec(kind, &spec).map(|field| format!("{}: this version knows no such field", field.path));
        let fault = match Object::read(kind, json) {
            Ok(object) if unknown.is_some() && !object.metadata().name.is_empty() => unknown.unwrap_or_default(),
            Ok(Object::EndpointSlice(slice)) if triggered_at.is_some() && !slice.metadata.name.is_empty() => {
                return Ok(EndpointSlice { triggered_at, ..Arc::unwrap_or_clone(slice) }.into());
            }
            Ok(object) if !object.metadata().name.is_empty() => return Ok(object),
            Ok(_) => "metadata.name is missing".to_owned(),
            Err(error) => error.to_string(),
        };
        if kind == Kind::NetworkPolicy && !metadata.name.is_empty() {
            let spec = NetworkPolicySpec { pod_selector: part(&spec, "podSelector").unwrap_or_default(), ..Default::default() };
            return Ok(NetworkPolicy { metadata, spec, unreadable: Some(fault.into()) }.into());
        }
        if kind == Kind::ClusterNetworkPolicy && !metadata.name.is_empty() {
            let spec = ClusterNetworkPolicySpec {
                tier: part(&spec, "tier").unwrap_or_default(),
                priority: part(&spec, "priority"),
                subject: part(&spec, "subject").unwrap_or_default(),
                ..Default::default()
            };
            return Ok(ClusterNetworkPolicy { metadata, spec, unreadable: Some(fault.into()) }.into());
        }
        let fix = format!("correct the object: kubectl explain {kind}");
        let what = format!("{kind} cannot be read and is left out");
        let problem = Problem::new(kind.unreadable_code(), what, key.to_string(), fix).because(fault);
        Err(Box::new(Unreadable { key, problem }))
    }
}

/// The annotation in which the controller of EndpointSlices says when a pod or service changed.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

fn triggered_at(json: &Value) -> Option<Duration> {
    let text = json.get("metadata")?.get("annotations")?.get(TRIGGER_ANNOTATION)?.as_str()?;
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(moment.unix_timestamp_nanos()).ok().map(Duration::from_nanos)
}

fn part<T: DeserializeOwned>(json: &Value, field: &str) -> Option<T> {
    json.get(field).and_then(|value| serde_json::from_value(value.clone()).ok())
}

//! The kinds that are served: a table of the built-in ones, and those that CustomResourceDefinitions add.
//!
//! Invariant: a resource is found by its group and plural name, and has one kind. All versions of a custom resource
//! share one storage; only `apiVersion` differs. Reference: discovery of Kubernetes 1.32; apiextensions.k8s.io/v1.

use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::object;
use crate::store::GroupResource;

/// Where a custom resource keeps what its scale subresource shows: JSON pointers into the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The wanted number of replicas.
    pub spec_replicas: String,
    /// The number of replicas there are.
    pub status_replicas: String,
    /// The label selector as a string; empty when the object has a `spec.selector` of its own form.
    pub label_selector: String,
}

/// What is known of one resource.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Group and plural name.
    pub id: GroupResource,
    /// Served versions, the preferred one first.
    pub versions: Vec<String>,
    /// Kind of one object.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Singular name, lower case.
    pub singular: String,
    /// Short names for kubectl.
    pub short_names: Vec<String>,
    /// Categories for kubectl, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `status` is a subresource, and so not written through the main one.
    pub status: bool,
    /// The scale subresource, where there is one.
    pub scale: Option<ScalePaths>,
    /// The schema and printer columns of a custom resource: its `spec.versions` entries.
    pub custom: Option<Vec<Value>>,
}

impl Resource {
    /// `group/version` of the preferred version, or `v1` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        let version = self.versions.first().map_or("v1", String::as_str);
        group_version(&self.id.group, version)
    }

    /// The entry of `spec.versions` for one version of a custom resource.
    #[must_use]
    pub fn custom_version(&self, version: &str) -> Option<&Value> {
        self.custom.as_ref()?.iter().find(|entry| object::text(entry, "/name") == version)
    }
}

/// `apiVersion` from a group and a version.
#[must_use]
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// All resources that are served at a moment.
#[derive(Clone, Debug)]
pub struct Catalog {
    resources: Vec<Arc<Resource>>,
}

impl Catalog {
    /// The built-in resources.
    #[must_use]
    pub fn built_in() -> Self {
        Self { resources: BUILT_IN.clone() }
    }

    /// The built-in resources and those of these CustomResourceDefinitions.
    pub fn with_definitions<'a>(definitions: impl Iterator<Item = &'a Arc<Value>>) -> Self {
        let mut catalog = Self::built_in();
        catalog.resources.extend(definitions.filter_map(|definition| custom(definition)).map(Arc::new));
        catalog
    }

    /// Each resource, in order of discovery.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// The resource of this group and plural name.
    #[must_use]
    pub fn find(&self, id: &GroupResource) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| resource.id == *id)
    }

    /// The resource that is served under group, version and plural name.
    #[must_use]
    pub fn served(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| {
            resource.id.group == group && resource.id.resource == plural && resource.versions.iter().any(|served| served == version)
        })
    }

    /// The resource whose objects have this group and kind.
    #[must_use]
    pub fn of_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| resource.id.group == group && resource.kind == kind)
    }
}

fn custom(definition: &Value) -> Option<Resource> {
    let versions: Vec<Value> =
        object::items(definition, "/spec/versions").filter(|entry| entry.get("served") != Some(&Value::Bool(false))).cloned().collect();
    let names = definition.pointer("/spec/names")?;
    let strings = |pointer: &str| -> Vec<String> { object::items(names, pointer).filter_map(Value::as_str).map(str::to_owned).collect() };
    let kind = object::text(names, "/kind").to_owned();
    let or = |given: &str, default: String| if given.is_empty() { default } else { given.to_owned() };
    let subresources = versions.first().and_then(|entry| entry.get("subresources"));
    let scale = subresources.and_then(|all| all.get("scale")).map(|scale| ScalePaths {
        spec_replicas: dotted(object::text(scale, "/specReplicasPath")),
        status_replicas: dotted(object::text(scale, "/statusReplicasPath")),
        label_selector: dotted(object::text(scale, "/labelSelectorPath")),
    });
    Some(Resource {
        id: GroupResource::new(object::text(definition, "/spec/group"), object::text(names, "/plural")),
        versions: versions.iter().map(|entry| object::text(entry, "/name").to_owned()).collect(),
        list_kind: or(object::text(names, "/listKind"), format!("{kind}List")),
        singular: or(object::text(names, "/singular"), kind.to_lowercase()),
        short_names: strings("/shortNames"),
        categories: strings("/categories"),
        namespaced: object::text(definition, "/spec/scope") != "Cluster",
        status: subresources.is_some_and(|all| all.get("status").is_some()),
        scale,
        custom: Some(versions),
        kind,
    })
}

/// A path such as `.spec.replicas` as a JSON pointer.
#[must_use]
pub fn dotted(path: &str) -> String {
    path.replace('.', "/")
}

/// One line of the table of built-in kinds.
struct Line {
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    marks: &'static str,
}

/// `marks`: n namespaced, s status subresource, c scale subresource, a category `all`.
const fn line(group: &'static str, plural: &'static str, kind: &'static str, short: &'static [&'static str], marks: &'static str) -> Line {
    Line { group, plural, kind, short, marks }
}

const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";

const LINES: &[Line] = &[
    line("", "configmaps", "ConfigMap", &["cm"], "n"),
    line("", "endpoints", "Endpoints", &["ep"], "n"),
    line("", "events", "Event", &["ev"], "n"),
    line("", "namespaces", "Namespace", &["ns"], "s"),
    line("", "nodes", "Node", &["no"], "s"),
    line("", "pods", "Pod", &["po"], "nsa"),
    line("", "replicationcontrollers", "ReplicationController", &["rc"], "nsca"),
    line("", "secrets", "Secret", &[], "n"),
    line("", "serviceaccounts", "ServiceAccount", &["sa"], "n"),
    line("", "services", "Service", &["svc"], "nsa"),
    line("apps", "daemonsets", "DaemonSet", &["ds"], "nsa"),
    line("apps", "deployments", "Deployment", &["deploy"], "nsca"),
    line("apps", "replicasets", "ReplicaSet", &["rs"], "nsca"),
    line("apps", "statefulsets", "StatefulSet", &["sts"], "nsca"),
    line("batch", "jobs", "Job", &[], "nsa"),
    line("discovery.k8s.io", "endpointslices", "EndpointSlice", &[], "n"),
    line(NETWORKING, "ingressclasses", "IngressClass", &[], ""),
    line(NETWORKING, "ingresses", "Ingress", &["ing"], "ns"),
    line(NETWORKING, "ipaddresses", "IPAddress", &["ip"], ""),
    line(NETWORKING, "networkpolicies", "NetworkPolicy", &["netpol"], "n"),
    line(NETWORKING, "servicecidrs", "ServiceCIDR", &[], "s"),
    line("coordination.k8s.io", "leases", "Lease", &[], "n"),
    line("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition", &["crd", "crds"], "s"),
    line(RBAC, "clusterrolebindings", "ClusterRoleBinding", &[], ""),
    line(RBAC, "clusterroles", "ClusterRole", &[], ""),
    line(RBAC, "rolebindings", "RoleBinding", &[], "n"),
    line(RBAC, "roles", "Role", &[], "n"),
];

static BUILT_IN: LazyLock<Vec<Arc<Resource>>> = LazyLock::new(|| LINES.iter().map(|line| Arc::new(built_in(line))).collect());

fn built_in(line: &Line) -> Resource {
    let strings = |given: &[&str]| given.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let has = |mark| line.marks.contains(mark);
    Resource {
        id: GroupResource::new(line.group, line.plural),
        versions: strings(&["v1"]),
        kind: line.kind.to_owned(),
        list_kind: format!("{}List", line.kind),
        singular: line.kind.to_lowercase(),
        short_names: strings(line.short),
        categories: if has('a') { strings(&["all"]) } else { Vec::new() },
        namespaced: has('n'),
        status: has('s'),
        scale: has('c').then(|| ScalePaths {
            spec_replicas: "/spec/replicas".to_owned(),
            status_replicas: "/status/replicas".to_owned(),
            label_selector: String::new(),
        }),
        custom: None,
    }
}

//! The numbers and types of the fields that kubectl's generators fill in.
//!
//! Reference: `generated.proto` of k8s.io/api core/v1, apps/v1, batch/v1, networking/v1, rbac/v1, policy/v1 and of apimachinery
//! meta/v1, Kubernetes 1.32.

/// The type of a field.
#[derive(Clone, Copy)]
pub(super) enum Type {
    /// Written by the server: not taken from a client.
    Skip,
    Text,
    /// A number of which 0 says something.
    Integer,
    /// A number of which 0 says the same as absence.
    PositiveInteger,
    Bool,
    Time,
    IntOrString,
    /// Text by text.
    TextMap,
    /// Bytes by text, base64 in JSON.
    BytesMap,
    Message(&'static Message),
    /// A message of which the fields stand beside this one in JSON.
    Inline(&'static Message),
}

impl Type {
    /// Whether its value is merged into what is there.
    pub(super) fn is_map(self) -> bool {
        matches!(self, Self::TextMap | Self::BytesMap)
    }
}

/// One field of a message.
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) ty: Type,
    pub(super) repeated: bool,
}

/// The known fields of a message.
pub(super) type Message = [Field];

const fn one(number: u64, name: &'static str, ty: Type) -> Field {
    Field { number, name, ty, repeated: false }
}

const fn many(number: u64, name: &'static str, ty: Type) -> Field {
    Field { number, name, ty, repeated: true }
}

use Type::{Bool, BytesMap, IntOrString, Integer, PositiveInteger, Skip, Text, TextMap, Time};

/// The message of a kind.
pub(super) fn message_of(kind: &str) -> Option<&'static Message> {
    Some(match kind {
        "Namespace" => NAMESPACE,
        "ConfigMap" => CONFIG_MAP,
        "Secret" => SECRET,
        "ServiceAccount" => SERVICE_ACCOUNT,
        "Service" => SERVICE,
        "Deployment" => DEPLOYMENT,
        "Job" => JOB,
        "Ingress" => INGRESS,
        "Role" | "ClusterRole" => ROLE,
        "RoleBinding" | "ClusterRoleBinding" => ROLE_BINDING,
        "Eviction" => EVICTION,
        "DeleteOptions" => DELETE_OPTIONS,
        _ => return None,
    })
}

const OWNER: &Message = &[
    one(1, "kind", Text),
    one(3, "name", Text),
    one(4, "uid", Text),
    one(5, "apiVersion", Text),
    one(6, "controller", Bool),
    one(7, "blockOwnerDeletion", Bool),
];

const META: &Message = &[
    one(1, "name", Text),
    one(2, "generateName", Text),
    one(3, "namespace", Text),
    one(4, "selfLink", Skip),
    one(5, "uid", Text),
    one(6, "resourceVersion", Text),
    one(7, "generation", Skip),
    one(8, "creationTimestamp", Time),
    one(9, "deletionTimestamp", Skip),
    one(10, "deletionGracePeriodSeconds", Skip),
    one(11, "labels", TextMap),
    one(12, "annotations", TextMap),
    many(13, "ownerReferences", Type::Message(OWNER)),
    many(14, "finalizers", Text),
];

const METADATA: Field = one(1, "metadata", Type::Message(META));

const NAMESPACE: &Message = &[METADATA, one(2, "spec", Type::Message(&[many(1, "finalizers", Text)])), one(3, "status", Skip)];

const CONFIG_MAP: &Message = &[METADATA, one(2, "data", TextMap), one(3, "binaryData", BytesMap), one(4, "immutable", Bool)];

const SECRET: &Message =
    &[METADATA, one(2, "data", BytesMap), one(3, "type", Text), one(4, "stringData", TextMap), one(5, "immutable", Bool)];

const NAMED: &Message = &[one(1, "name", Text)];

const SERVICE_ACCOUNT: &Message = &[
    METADATA,
    many(2, "secrets", Type::Message(&[one(1, "kind", Text), one(2, "namespace", Text), one(3, "name", Text)])),
    many(3, "imagePullSecrets", Type::Message(NAMED)),
    one(4, "automountServiceAccountToken", Bool),
];

const SERVICE: &Message = &[METADATA, one(2, "spec", Type::Message(SERVICE_SPEC)), one(3, "status", Skip)];

const SERVICE_SPEC: &Message = &[
    many(1, "ports", Type::Message(SERVICE_PORT)),
    one(2, "selector", TextMap),
    one(3, "clusterIP", Text),
    one(4, "type", Text),
    many(5, "externalIPs", Text),
    one(7, "sessionAffinity", Text),
    one(8, "loadBalancerIP", Text),
    many(9, "loadBalancerSourceRanges", Text),
    one(10, "externalName", Text),
    one(11, "externalTrafficPolicy", Text),
    one(12, "healthCheckNodePort", PositiveInteger),
    one(13, "publishNotReadyAddresses", Bool),
    one(17, "ipFamilyPolicy", Text),
    many(18, "clusterIPs", Text),
    many(19, "ipFamilies", Text),
    one(20, "allocateLoadBalancerNodePorts", Bool),
    one(21, "loadBalancerClass", Text),
    one(22, "internalTrafficPolicy", Text),
    one(23, "trafficDistribution", Text),
];

const SERVICE_PORT: &Message = &[
    one(1, "name", Text),
    one(2, "protocol", Text),
    one(3, "port", PositiveInteger),
    one(4, "targetPort", IntOrString),
    one(5, "nodePort", PositiveInteger),
    one(6, "appProtocol", Text),
];

const DEPLOYMENT: &Message = &[METADATA, one(2, "spec", Type::Message(DEPLOYMENT_SPEC)), one(3, "status", Skip)];

const DEPLOYMENT_SPEC: &Message = &[
    one(1, "replicas", Integer),
    one(2, "selector", Type::Message(LABEL_SELECTOR)),
    one(3, "template", Type::Message(TEMPLATE)),
    one(4, "strategy", Type::Message(STRATEGY)),
    one(5, "minReadySeconds", PositiveInteger),
    one(6, "revisionHistoryLimit", Integer),
    one(7, "paused", Bool),
    one(9, "progressDeadlineSeconds", Integer),
];

const STRATEGY: &Message = &[
    one(1, "type", Text),
    one(2, "rollingUpdate", Type::Message(&[one(1, "maxUnavailable", IntOrString), one(2, "maxSurge", IntOrString)])),
];

const LABEL_SELECTOR: &Message = &[
    one(1, "matchLabels", TextMap),
    many(2, "matchExpressions", Type::Message(&[one(1, "key", Text), one(2, "operator", Text), many(3, "values", Text)])),
];

const TEMPLATE: &Message = &[METADATA, one(2, "spec", Type::Message(POD_SPEC))];

const POD_SPEC: &Message = &[
    many(2, "containers", Type::Message(CONTAINER)),
    one(3, "restartPolicy", Text),
    one(4, "terminationGracePeriodSeconds", Integer),
    one(6, "dnsPolicy", Text),
    one(7, "nodeSelector", TextMap),
    one(8, "serviceAccountName", Text),
    one(9, "serviceAccount", Text),
    one(10, "nodeName", Text),
    one(11, "hostNetwork", Bool),
    many(15, "imagePullSecrets", Type::Message(NAMED)),
    one(16, "hostname", Text),
    one(17, "subdomain", Text),
    one(19, "schedulerName", Text),
    many(20, "initContainers", Type::Message(CONTAINER)),
];

const CONTAINER: &Message = &[
    one(1, "name", Text),
    one(2, "image", Text),
    many(3, "command", Text),
    many(4, "args", Text),
    one(5, "workingDir", Text),
    many(6, "ports", Type::Message(CONTAINER_PORT)),
    many(7, "env", Type::Message(&[one(1, "name", Text), one(2, "value", Text)])),
    one(13, "terminationMessagePath", Text),
    one(14, "imagePullPolicy", Text),
];

const CONTAINER_PORT: &Message = &[
    one(1, "name", Text),
    one(2, "hostPort", PositiveInteger),
    one(3, "containerPort", PositiveInteger),
    one(4, "protocol", Text),
    one(5, "hostIP", Text),
];

const EVICTION: &Message = &[METADATA, one(2, "deleteOptions", Type::Message(DELETE_OPTIONS))];

const DELETE_OPTIONS: &Message = &[
    one(1, "gracePeriodSeconds", Integer),
    one(2, "preconditions", Type::Message(&[one(1, "uid", Text), one(2, "resourceVersion", Text)])),
    one(3, "orphanDependents", Bool),
    one(4, "propagationPolicy", Text),
    many(5, "dryRun", Text),
];

const JOB: &Message = &[METADATA, one(2, "spec", Type::Message(JOB_SPEC)), one(3, "status", Skip)];

const JOB_SPEC: &Message = &[
    one(1, "parallelism", Integer),
    one(2, "completions", Integer),
    one(3, "activeDeadlineSeconds", Integer),
    one(4, "selector", Type::Message(LABEL_SELECTOR)),
    one(5, "manualSelector", Bool),
    one(6, "template", Type::Message(TEMPLATE)),
    one(7, "backoffLimit", Integer),
    one(8, "ttlSecondsAfterFinished", Integer),
    one(9, "completionMode", Text),
    one(10, "suspend", Bool),
];

const INGRESS: &Message = &[METADATA, one(2, "spec", Type::Message(INGRESS_SPEC)), one(3, "status", Skip)];

const INGRESS_SPEC: &Message = &[
    one(1, "defaultBackend", Type::Message(INGRESS_BACKEND)),
    many(2, "tls", Type::Message(&[many(1, "hosts", Text), one(2, "secretName", Text)])),
    many(3, "rules", Type::Message(&[one(1, "host", Text), one(2, "http", Type::Inline(INGRESS_RULE))])),
    one(4, "ingressClassName", Text),
];

const INGRESS_RULE: &Message = &[one(1, "http", Type::Message(&[many(1, "paths", Type::Message(INGRESS_PATH))]))];

const INGRESS_PATH: &Message = &[one(1, "path", Text), one(2, "backend", Type::Message(INGRESS_BACKEND)), one(3, "pathType", Text)];

const INGRESS_BACKEND: &Message = &[one(
    4,
    "service",
    Type::Message(&[one(1, "name", Text), one(2, "port", Type::Message(&[one(1, "name", Text), one(2, "number", PositiveInteger)]))]),
)];

const ROLE: &Message = &[METADATA, many(2, "rules", Type::Message(POLICY_RULE))];

const POLICY_RULE: &Message = &[
    many(1, "verbs", Text),
    many(2, "apiGroups", Text),
    many(3, "resources", Text),
    many(4, "resourceNames", Text),
    many(5, "nonResourceURLs", Text),
];

const ROLE_BINDING: &Message = &[
    METADATA,
    many(2, "subjects", Type::Message(&[one(1, "kind", Text), one(2, "apiGroup", Text), one(3, "name", Text), one(4, "namespace", Text)])),
    one(3, "roleRef", Type::Message(&[one(1, "apiGroup", Text), one(2, "kind", Text), one(3, "name", Text)])),
];

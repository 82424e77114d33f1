#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use serde_json::{Value, json};

use super::*;
use crate::kinds::Catalog;
use crate::store::GroupResource;

fn admitted(group: &str, plural: &str, mut object: Value) -> (Value, Vec<String>) {
    let catalog = Catalog::built_in();
    let resource = catalog.find(&GroupResource::new(group, plural)).unwrap();
    object["metadata"] = json!({"name": "x"});
    default(resource, &mut object, true);
    let mut again = object.clone();
    default(resource, &mut again, false);
    assert_eq!(again, object, "defaulting is idempotent");
    let faults = match validate(resource, None, &object) {
        Ok(()) => Vec::new(),
        Err(ApiError::Invalid { causes, .. }) => causes.into_iter().map(|cause| cause.field).collect(),
        Err(other) => vec![other.to_string()],
    };
    (object, faults)
}

#[track_caller]
fn check_default(kind: (&str, &str), object: Value, pointer: &str, wanted: Value) {
    let (object, faults) = admitted(kind.0, kind.1, object);
    assert_eq!((object.pointer(pointer).cloned().unwrap_or_default(), faults), (wanted, Vec::new()), "{pointer} of {object}");
}

#[track_caller]
fn check_fault(kind: (&str, &str), object: Value, wanted: &[&str]) {
    assert_eq!(admitted(kind.0, kind.1, object).1, wanted);
}

const SERVICE: (&str, &str) = ("", "services");
const POLICY: (&str, &str) = ("networking.k8s.io", "networkpolicies");
const DEPLOYMENT: (&str, &str) = ("apps", "deployments");

fn service(mut spec: Value) -> Value {
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"spec": spec})
}

#[test]
fn services_get_what_clients_count_on() {
    check_default(SERVICE, service(json!({})), "/spec/type", json!("ClusterIP"));
    check_default(SERVICE, service(json!({})), "/spec/ports/0", json!({"port": 80, "targetPort": 80, "protocol": "TCP"}));
    check_default(SERVICE, service(json!({})), "/spec/externalTrafficPolicy", Value::Null);
    check_default(SERVICE, service(json!({"type": "NodePort"})), "/spec/externalTrafficPolicy", json!("Cluster"));
    let sticky = service(json!({"sessionAffinity": "ClientIP"}));
    check_default(SERVICE, sticky, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds", json!(10_800));
    let named = service(json!({"ports": [{"port": 80, "targetPort": "web", "protocol": "SCTP"}]}));
    check_default(SERVICE, named, "/spec/ports/0/targetPort", json!("web"));
    let unset = service(json!({"ports": [{"port": 80, "targetPort": 0}]}));
    check_default(SERVICE, unset, "/spec/ports/0/targetPort", json!(80));
}

#[test]
fn services_that_cannot_be_served() {
    check_fault(SERVICE, service(json!({"type": "Cluster"})), &["spec.type"]);
    check_fault(SERVICE, service(json!({"ports": []})), &["spec.ports"]);
    check_fault(SERVICE, service(json!({"ports": [], "clusterIP": "None"})), &[]);
    check_fault(SERVICE, service(json!({"ports": [], "type": "ExternalName"})), &["spec.externalName"]);
    check_fault(SERVICE, service(json!({"ports": [{"port": "http"}]})), &["spec.ports[0].port"]);
    let twins = json!([{"name": "a", "port": 80}, {"name": "a", "port": 80}]);
    check_fault(SERVICE, service(json!({"ports": twins})), &["spec.ports[1].name", "spec.ports[1]"]);
    let both = json!([{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"}]);
    check_fault(SERVICE, service(json!({"ports": both})), &[]);
}

#[test]
fn policies_say_which_ways_they_govern() {
    check_default(POLICY, json!({"spec": {}}), "/spec/policyTypes", json!(["Ingress"]));
    check_default(POLICY, json!({"spec": {"egress": [{}]}}), "/spec/policyTypes", json!(["Ingress", "Egress"]));
    check_default(POLICY, json!({"spec": {"policyTypes": ["Egress"]}}), "/spec/policyTypes", json!(["Egress"]));
    let rule = json!({"spec": {"ingress": [{"ports": [{"port": 80}]}]}});
    check_default(POLICY, rule, "/spec/ingress/0/ports/0/protocol", json!("TCP"));
}

#[test]
fn policies_that_would_mean_something_else() {
    let peer = |peer: Value| json!({"spec": {"ingress": [{"from": [peer]}]}});
    let at = "spec.ingress[0].from[0]";
    check_fault(POLICY, peer(json!({})), &[at]);
    check_fault(POLICY, peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})), &[at]);
    for bad in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "ten/8", ""] {
        check_fault(POLICY, peer(json!({"ipBlock": {"cidr": bad}})), &["spec.ingress[0].from[0].ipBlock.cidr"]);
    }
    for (except, good) in [("10.1.0.0/16", true), ("11.0.0.0/16", false), ("10.0.0.0/8", false), ("fd00::/64", false)] {
        let wanted: &[&str] = if good { &[] } else { &["spec.ingress[0].from[0].ipBlock.except[0]"] };
        check_fault(POLICY, peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": [except]}})), wanted);
    }
    check_fault(POLICY, peer(json!({"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}})), &[]);
    let ports = json!({"spec": {"egress": [{"ports": [{"port": "web", "endPort": 90}, {"port": 80, "endPort": 79}, {"port": 80, "endPort": 90}]}]}});
    check_fault(POLICY, ports, &["spec.egress[0].ports[0].endPort", "spec.egress[0].ports[1].endPort"]);
}

fn deployment(change: impl FnOnce(&mut Value)) -> Value {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let mut deployment = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    change(&mut deployment);
    deployment
}

#[test]
fn workloads_get_their_strategy_and_pods_theirs() {
    check_default(DEPLOYMENT, deployment(|_| {}), "/spec/strategy/rollingUpdate/maxSurge", json!("25%"));
    let recreate = deployment(|one| one["spec"]["strategy"] = json!({"type": "Recreate"}));
    check_default(DEPLOYMENT, recreate, "/spec/strategy", json!({"type": "Recreate"}));
    check_default(DEPLOYMENT, deployment(|_| {}), "/spec/template/spec/restartPolicy", json!("Always"));
    check_default(DEPLOYMENT, deployment(|_| {}), "/spec/template/spec/containers/0/imagePullPolicy", json!("Always"));
    let probed = deployment(|one| one["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"port": 80}}));
    check_default(DEPLOYMENT, probed, "/spec/template/spec/containers/0/readinessProbe/httpGet/path", json!("/"));
    let network = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}]}]}});
    check_default(("", "pods"), network, "/spec/containers/0/ports/0/hostPort", json!(80));
}

#[test]
fn workloads_that_would_never_have_pods() {
    check_fault(DEPLOYMENT, deployment(|one| one["spec"]["selector"] = Value::Null), &["spec.selector"]);
    check_fault(DEPLOYMENT, deployment(|one| one["spec"]["selector"] = json!({})), &["spec.selector"]);
    check_fault(DEPLOYMENT, deployment(|one| one["spec"]["replicas"] = json!("3")), &["spec.replicas"]);
    let other = deployment(|one| one["spec"]["template"]["metadata"]["labels"] = json!({"a": "c"}));
    check_fault(DEPLOYMENT, other, &["spec.template.metadata.labels"]);
    let nothing =
        deployment(|one| one["spec"]["template"]["spec"]["containers"] = json!([{"name": "C_", "ports": [{"containerPort": 0}]}]));
    let at = "spec.template.spec.containers[0]";
    check_fault(DEPLOYMENT, nothing, &[&format!("{at}.name"), &format!("{at}.image"), &format!("{at}.ports[0].containerPort")]);
}

#[test]
fn objects_of_any_shape_are_survived() {
    let shapes = [json!(null), json!(1), json!("x"), json!([1]), json!([[]]), json!({"a": 1}), json!([{"a": []}])];
    for resource in Catalog::built_in().iter() {
        for field in ["spec", "status", "data", "ports", "subsets", "endpoints", "stringData"] {
            for shape in &shapes {
                let _ = admitted(&resource.id.group, &resource.id.resource, json!({field: shape}));
                for inner in ["ports", "template", "containers", "ingress", "egress", "selector", "versions", "names", "rules", "strategy"]
                {
                    let _ = admitted(&resource.id.group, &resource.id.resource, json!({field: {inner: shape}}));
                }
            }
        }
    }
}

/// What is wrong with a ClusterNetworkPolicy under the definition that a cluster begins with.
fn cluster_policy(spec: Value) -> Vec<String> {
    let definition = std::sync::Arc::new(crate::controllers::cluster_network_policies());
    let catalog = Catalog::with_definitions([&definition].into_iter());
    let resource = catalog.find(&GroupResource::new("policy.networking.k8s.io", "clusternetworkpolicies")).unwrap();
    let object =
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "x"}, "spec": spec});
    match validate(resource, None, &object) {
        Ok(()) => Vec::new(),
        Err(ApiError::Invalid { causes, .. }) => causes.into_iter().map(|cause| cause.field).collect(),
        Err(other) => vec![other.to_string()],
    }
}

#[test]
fn cluster_policies_are_as_their_definition_has_them() {
    let whole = json!({"tier": "Admin", "priority": 1000, "subject": {"pods": {"namespaceSelector": {}, "podSelector": {}}},
        "ingress": [{"name": "x", "action": "Pass", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}]}],
        "egress": [{"action": "Deny", "to": [{"nodes": {}}, {"networks": ["0.0.0.0/0", "::/0"]}, {"domainNames": ["*.example.com"]}],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]}]});
    assert_eq!(cluster_policy(whole.clone()), Vec::<String>::new());
    let with = |pointer: &str, value: Value| {
        let mut spec = whole.clone();
        *spec.pointer_mut(pointer).unwrap() = value;
        cluster_policy(spec)
    };
    assert_eq!(with("/subject/pods", json!({"podSelector": {}})), Vec::<String>::new());
    let rule = json!({"action": "Deny", "to": [{"nodes": {}}]});
    for (pointer, value, field) in [
        ("/tier", json!("Other"), "spec.tier"),
        ("/priority", json!(1001), "spec.priority"),
        ("/priority", json!(-1), "spec.priority"),
        ("/subject", json!({}), "spec.subject"),
        ("/subject", json!({"namespaces": {}, "pods": {"namespaceSelector": {}, "podSelector": {}}}), "spec.subject"),
        ("/subject/pods", json!({"namespaceSelector": {}}), "spec.subject.pods.podSelector"),
        ("/ingress/0/action", json!("Allow"), "spec.ingress[0].action"),
        ("/ingress/0/name", json!("n".repeat(101)), "spec.ingress[0].name"),
        ("/ingress/0/from", json!([]), "spec.ingress[0].from"),
        ("/ingress/0/from/0", json!({}), "spec.ingress[0].from[0]"),
        ("/ingress/0/protocols", json!([]), "spec.ingress[0].protocols"),
        ("/egress", Value::from(vec![rule; 26]), "spec.egress"),
        ("/egress/0/to/1/networks/0", json!("nonsense"), "spec.egress[0].to[1].networks[0]"),
        ("/egress/0/to/1/networks/0", json!("10.1.2.3/8"), "spec.egress[0].to[1].networks[0]"),
        ("/egress/0/protocols/0", json!({"destinationNamedPort": "http"}), "spec.egress[0].protocols[0].destinationNamedPort"),
        ("/egress/0/protocols/0/tcp", json!({}), "spec.egress[0].protocols[0].tcp"),
        ("/egress/0/protocols/0/tcp/destinationPort/number", json!(65_536), "spec.egress[0].protocols[0].tcp.destinationPort.number"),
        ("/egress/0/protocols/1/udp/destinationPort/range/end", json!(1), "spec.egress[0].protocols[1].udp.destinationPort.range"),
    ] {
        assert_eq!(with(pointer, value.clone()), [field], "{pointer}: {value}");
    }
}

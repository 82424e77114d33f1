//! The cluster DNS as the lab deploys it: ordinary objects, applied through the API like anyone's.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api as KubeApi, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Api, Lab};

/// Where the cluster DNS is.
pub(super) const NAMESPACE: &str = "kube-system";
/// What its pods are known by.
pub(super) const SELECTOR: &str = "k8s-app=kube-dns";

/// Applies the ConfigMap, the Service and the DaemonSet.
pub(crate) async fn apply(lab: &Lab, api: &Api) -> Result<()> {
    let corefile = lab.options.corefile.clone().unwrap_or_else(|| corefile(lab));
    put::<ConfigMap>(api, "coredns", json!({"data": {"Corefile": corefile}})).await?;
    put::<Service>(api, "kube-dns", service(lab)).await?;
    put::<DaemonSet>(api, "bowline-dns", daemon_set()).await
}

async fn put<K>(api: &Api, name: &str, mut object: Value) -> Result<()>
where
    K: k8s_openapi::Metadata<Ty = kube::api::ObjectMeta>
        + kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), json!(K::API_VERSION));
        fields.insert("kind".to_owned(), json!(K::KIND));
        let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"});
        fields.insert("metadata".to_owned(), json!({"name": name, "namespace": NAMESPACE, "labels": labels}));
    }
    let objects: KubeApi<K> = KubeApi::namespaced(api.client.clone(), NAMESPACE);
    objects
        .patch(name, &PatchParams::apply("bowline-lab").force(), &Patch::Apply(&object))
        .await
        .with_context(|| format!("apply {} {NAMESPACE}/{name}", K::KIND))?;
    Ok(())
}

/// The lab's own Corefile: what kubeadm writes, with the host outside as the upstream.
fn corefile(lab: &Lab) -> String {
    let upstreams: Vec<String> = lab.plan.client.values().map(|address| address.addr().to_string()).collect();
    format!(
        ".:53 {{\n    errors\n    health\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa\n    \
         forward . {}\n    cache 30\n    loop\n    reload\n    loadbalance\n}}\n",
        upstreams.join(" ")
    )
}

fn service(lab: &Lab) -> Value {
    let addresses: Vec<String> = lab.options.dns_ip.iter().map(ToString::to_string).collect();
    let families: Vec<&str> = lab.options.dns_ip.iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let policy = if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    json!({"spec": {
        "selector": {"k8s-app": "kube-dns"},
        "clusterIP": addresses.first(),
        "clusterIPs": addresses,
        "ipFamilies": families,
        "ipFamilyPolicy": policy,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        ],
    }})
}

fn daemon_set() -> Value {
    json!({"spec": {
        "selector": {"matchLabels": {"k8s-app": "kube-dns"}},
        "template": {
            "metadata": {"labels": {"k8s-app": "kube-dns"}},
            "spec": {
                "dnsPolicy": "Default",
                "tolerations": [{"operator": "Exists"}],
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "dns",
                    "image": "bowline",
                    "command": ["bowline", "dns", "--conf", "/etc/coredns/Corefile", "--feed", "/run/bowline/dns.sock"],
                    "ports": [
                        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                        {"name": "metrics", "containerPort": 9153, "protocol": "TCP"},
                    ],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
                    "volumeMounts": [
                        {"name": "config", "mountPath": "/etc/coredns", "readOnly": true},
                        {"name": "run", "mountPath": "/run/bowline"},
                    ],
                }],
                "volumes": [
                    {"name": "config", "configMap": {"name": "coredns"}},
                    {"name": "run", "hostPath": {"path": "/run/bowline", "type": "DirectoryOrCreate"}},
                ],
            },
        },
    }})
}

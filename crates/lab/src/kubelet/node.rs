//! The Node object: registered once, its Ready condition following what the node's CNI plugins say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api as KubeApi, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Kubelet, cni, status};
use crate::daemon::POLL;

/// How often a ready node's plugins are asked again, and the condition's time is renewed.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a node says that it has: enough for any example, since nothing is measured.
const RESOURCES: [(&str, &str); 4] = [("cpu", "4"), ("memory", "8Gi"), ("pods", "110"), ("ephemeral-storage", "10Gi")];

impl Kubelet {
    /// Registers the node and keeps its status true.
    pub(super) async fn keep_node(self: Arc<Self>) {
        let nodes: KubeApi<Node> = KubeApi::all(self.client());
        let uid = loop {
            match self.register(&nodes).await {
                Ok(uid) => break uid,
                Err(error) => tracing::warn!(node = self.node.name(), error = format!("{error:#}"), "node not registered"),
            }
            tokio::time::sleep(POLL).await;
        };
        tokio::spawn(Arc::clone(&self).keep_lease(uid));
        let (mut swept, mut heard) = (false, true);
        let mut last: Option<Result<(), String>> = None;
        let (mut since, mut said) = (status::now(), tokio::time::Instant::now());
        loop {
            let ready = cni::ready(&self.node).await.map_err(|error| format!("{error:#}"));
            if ready.is_ok() && !swept {
                // Whatever an earlier life of this node had, no pod of it runs now.
                swept = cni::collect(&self.node).await.is_ok();
            }
            let changed = last.as_ref().is_none_or(|last| last.is_ok() != ready.is_ok());
            if changed {
                since = status::now();
            }
            if last.as_ref() != Some(&ready) || said.elapsed() >= HEARTBEAT {
                match self.report(&nodes, &ready, &since).await {
                    Ok(()) => {
                        if changed {
                            tracing::info!(node = self.node.name(), ready = ready.is_ok(), "node condition changed");
                        }
                        heard = true;
                        said = tokio::time::Instant::now();
                        last = Some(ready.clone());
                    }
                    Err(error) => {
                        if std::mem::take(&mut heard) {
                            tracing::warn!(node = self.node.name(), %error, "node status cannot be written");
                        }
                    }
                }
            }
            // There is no event for "the plugin is ready": the specification has STATUS for asking.
            tokio::time::sleep(if ready.is_ok() { HEARTBEAT / 10 } else { POLL }).await;
        }
    }

    /// Registers the node, or finds it registered; its uid.
    async fn register(&self, nodes: &KubeApi<Node>) -> Result<String> {
        let name = self.node.name();
        let labels = json!({
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture(),
        });
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
        match nodes.create(&PostParams::default(), &serde_json::from_value(node.clone())?).await {
            Ok(_) => {}
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => {
                nodes.patch(name, &PatchParams::default(), &Patch::Merge(&node)).await?;
            }
            Err(error) => return Err(error.into()),
        }
        // Not strategic: there, two addresses of one type would be taken for one.
        let status = json!({"status": {
            "addresses": self.addresses(),
            "capacity": RESOURCES.iter().copied().collect::<BTreeMap<_, _>>(),
            "allocatable": RESOURCES.iter().copied().collect::<BTreeMap<_, _>>(),
            "nodeInfo": node_info(name),
        }});
        let registered = nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(registered.metadata.uid.unwrap_or_default())
    }

    async fn report(&self, nodes: &KubeApi<Node>, ready: &Result<(), String>, since: &str) -> Result<(), kube::Error> {
        let condition = |kind: &str, good: bool, reason: &str, message: &str| {
            json!({
                "type": kind, "status": if good { "True" } else { "False" }, "reason": reason, "message": message,
                "lastHeartbeatTime": status::now(), "lastTransitionTime": since,
            })
        };
        let ready = match ready {
            Ok(()) => condition("Ready", true, "KubeletReady", "the node's network is ready"),
            Err(why) => condition("Ready", false, "KubeletNotReady", &format!("network is not ready: {why}")),
        };
        let enough = |kind: &str, reason: &str| condition(kind, false, reason, "a lab does not measure it");
        // Strategic: conditions of others, such as the network's own, stay.
        let body = json!({"status": {"conditions": [
            ready,
            enough("MemoryPressure", "KubeletHasSufficientMemory"),
            enough("DiskPressure", "KubeletHasNoDiskPressure"),
            enough("PIDPressure", "KubeletHasSufficientPID"),
        ]}});
        nodes.patch_status(self.node.name(), &PatchParams::default(), &Patch::Strategic(body)).await.map(|_| ())
    }

    fn addresses(&self) -> Vec<Value> {
        self.node
            .plan
            .ips()
            .into_iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip}))
            .chain([json!({"type": "Hostname", "address": self.node.name()})])
            .collect()
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn node_info(name: &str) -> Value {
    let uname = rustix::system::uname();
    json!({
        "machineID": name, "systemUUID": name, "bootID": name,
        "kernelVersion": uname.release().to_string_lossy(),
        "osImage": "Bowline lab",
        "containerRuntimeVersion": concat!("lab://", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": concat!("v1.32.0-lab-", env!("CARGO_PKG_VERSION")),
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": architecture(),
    })
}

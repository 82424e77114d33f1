//! The node's Lease: renewed every ten seconds, so that the control plane knows that this kubelet lives.
//!
//! Reference: the node heartbeats of Kubernetes; a Lease lasts 40 seconds.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api as KubeApi, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::Kubelet;

/// Where leases of nodes are.
const NAMESPACE: &str = "kube-node-lease";
/// How often one is renewed.
const PERIOD: Duration = Duration::from_secs(10);
/// How long one lasts without being renewed.
const LIFE_SECONDS: i64 = 40;
/// The API's form of times with parts of a second.
const MICROSECONDS: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

impl Kubelet {
    /// Renews the lease for as long as the lab is up. The node must have been registered.
    pub(super) async fn keep_lease(self: Arc<Self>, node_uid: String) {
        let leases: KubeApi<Lease> = KubeApi::namespaced(self.client(), NAMESPACE);
        loop {
            if let Err(error) = self.renew(&leases, &node_uid).await {
                tracing::debug!(node = self.node.name(), %error, "node lease not renewed");
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn renew(&self, leases: &KubeApi<Lease>, node_uid: &str) -> Result<(), kube::Error> {
        let name = self.node.name();
        let lease = lease(name, node_uid, OffsetDateTime::now_utc());
        match leases.patch(name, &PatchParams::default(), &Patch::Merge(&lease)).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 404 => {
                let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
                leases.create(&PostParams::default(), &lease).await.map(|_| ())
            }
            result => result.map(|_| ()),
        }
    }
}

fn lease(name: &str, node_uid: &str, now: OffsetDateTime) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid}],
        },
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LIFE_SECONDS, "renewTime": now.format(MICROSECONDS).ok()},
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_time_has_microseconds() {
        let lease = lease("n1", "u", OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap());
        assert_eq!(lease["spec"]["renewTime"], "2001-09-09T01:46:40.000000Z");
        serde_json::from_value::<Lease>(lease).unwrap();
    }
}

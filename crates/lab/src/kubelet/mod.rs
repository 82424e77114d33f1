//! A node agent of the kind that Kubernetes calls kubelet: registers its node, runs the pods bound to it, reports on them.
//!
//! It speaks to the API by HTTPS only, as a real one does, so that a real API server can take the place of the lab's.
//! The network is made by the CNI plugins that the node's configuration names, called as a runtime calls them.

mod cni;
mod container;
mod env;
mod image;
mod lease;
mod node;
mod offer;
mod pod;
mod probe;
mod status;
mod token;
mod volumes;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api as KubeApi, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use tokio::sync::watch;

use crate::daemon::{Api, Lab, Node};

/// Starts one for each node of the lab.
pub(crate) fn start(lab: &Arc<Lab>, api: &Arc<Api>) -> Result<()> {
    for node in &lab.nodes {
        let kubelet =
            Arc::new(Kubelet { lab: Arc::clone(lab), api: Arc::clone(api), node: Arc::clone(node), tokens: token::Tokens::default() });
        tokio::spawn(Arc::clone(&kubelet).keep_node());
        tokio::spawn(kubelet.follow_pods());
    }
    Ok(())
}

/// The kubelet of one node.
pub(crate) struct Kubelet {
    lab: Arc<Lab>,
    api: Arc<Api>,
    node: Arc<Node>,
    tokens: token::Tokens,
}

/// What is wanted of a pod.
#[derive(Debug, Clone)]
struct Desired {
    pod: Arc<Pod>,
    /// The object has gone without waiting for this kubelet.
    gone: bool,
}

impl Desired {
    fn ends(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// The pauses between attempts to watch: short, since whoever starts an API server again waits for what comes of it.
#[derive(Debug, Default)]
struct Pauses {
    last: Option<Duration>,
}

/// The shortest and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.last = Some(self.last.map_or(PAUSES.0, |last| (last * 2).min(PAUSES.1)));
        self.last
    }
}

impl kube::runtime::utils::Backoff for Pauses {
    fn reset(&mut self) {
        self.last = None;
    }
}

impl Kubelet {
    fn client(&self) -> kube::Client {
        self.api.client.clone()
    }

    fn pods(&self, namespace: &str) -> KubeApi<Pod> {
        KubeApi::namespaced(self.client(), namespace)
    }

    /// Watches the pods of this node and has a worker for each.
    async fn follow_pods(self: Arc<Self>) {
        let pods: KubeApi<Pod> = KubeApi::all(self.client());
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node.name()));
        let mut events = pin!(kube::runtime::watcher(pods, mine).backoff(Pauses::default()));
        let mut workers: HashMap<String, watch::Sender<Desired>> = HashMap::new();
        let mut listed: Option<Vec<String>> = None;
        let mut watching = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed = Some(Vec::new()),
                Ok(Event::InitApply(pod)) => {
                    listed.get_or_insert_default().extend(pod.metadata.uid.clone());
                    self.wish(&mut workers, pod, false);
                }
                Ok(Event::InitDone) => {
                    // What a fresh list lacks was deleted while nobody watched.
                    let present = listed.take().unwrap_or_default();
                    for (_, worker) in workers.iter().filter(|(uid, _)| !present.contains(uid)) {
                        worker.send_modify(|desired| desired.gone = true);
                    }
                }
                Ok(Event::Apply(pod)) => self.wish(&mut workers, pod, false),
                Ok(Event::Delete(pod)) => self.wish(&mut workers, pod, true),
                Err(error) => {
                    if std::mem::take(&mut watching) {
                        tracing::warn!(node = self.node.name(), %error, "pods cannot be watched");
                    }
                    continue;
                }
            }
            watching = true;
            workers.retain(|_, worker| !worker.is_closed());
        }
    }

    fn wish(self: &Arc<Self>, workers: &mut HashMap<String, watch::Sender<Desired>>, pod: Pod, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let desired = Desired { pod: Arc::new(pod), gone };
        match workers.get(&uid) {
            Some(worker) if !worker.is_closed() => worker.send_modify(|wanted| *wanted = desired),
            Some(_) | None => {
                if !gone {
                    let (sender, receiver) = watch::channel(desired);
                    workers.insert(uid, sender);
                    tokio::spawn(pod::run(Arc::clone(self), receiver));
                }
            }
        }
    }

    /// Records an event about a pod. Losing one harms nobody.
    fn note(self: &Arc<Self>, pod: &Pod, kind: &'static str, reason: &'static str, message: String) {
        let kubelet = Arc::clone(self);
        let meta = pod.metadata.clone();
        tokio::spawn(async move {
            let namespace = meta.namespace.unwrap_or_default();
            let name = meta.name.unwrap_or_default();
            let now = status::now();
            let event = json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"generateName": format!("{name}."), "namespace": namespace},
                "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": meta.uid},
                "type": kind, "reason": reason, "message": message, "count": 1,
                "firstTimestamp": now, "lastTimestamp": now,
                "source": {"component": "kubelet", "host": kubelet.node.name()},
            });
            let Ok(event) = serde_json::from_value(event) else { return };
            let events: KubeApi<k8s_openapi::api::core::v1::Event> = KubeApi::namespaced(kubelet.client(), &namespace);
            if let Err(error) = events.create(&PostParams::default(), &event).await {
                tracing::debug!(%error, "event not recorded");
            }
        });
    }
}

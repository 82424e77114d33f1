//! Waiting until nodes and pods are ready, and saying what is not: by watching the API, whosever it is.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Result, bail};
use bowline_model::checked::Problem;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use kube::api::{Api as KubeApi, ListParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

use super::{Api, Lab, Node, POLL, dns, given, logs};
use crate::progress::ProblemError;

/// How long the API may take to say what there is.
const PATIENCE: Duration = Duration::from_secs(3);

impl Api {
    /// Waits until every node of the lab is Ready; an agent that ends by itself meanwhile is an error.
    pub(crate) async fn wait_for_nodes(&self, lab: &Lab) -> Result<()> {
        let nodes: KubeApi<KubeNode> = KubeApi::all(self.client.clone());
        let done = |found: &BTreeMap<String, KubeNode>| {
            let own: Vec<&KubeNode> = lab.nodes.iter().filter_map(|node| found.get(node.name())).collect();
            if let Some(problem) = own.iter().find_map(|node| given::pod_mismatch(&lab.options, node)) {
                return Some(Err(problem));
            }
            (own.iter().filter(|node| node_is_ready(node)).count() == lab.nodes.len()).then_some(Ok(()))
        };
        let check = || async {
            for node in &lab.nodes {
                check_agent(lab, node).await?;
            }
            Ok(())
        };
        Ok(until(nodes, watcher::Config::default(), done, check).await??)
    }

    /// Waits until the cluster DNS has a ready pod on every node of the lab; their number.
    pub(crate) async fn wait_for_pods(&self, lab: &Lab) -> Result<usize> {
        let pods: KubeApi<Pod> = KubeApi::namespaced(self.client.clone(), dns::NAMESPACE);
        let done = |found: &BTreeMap<String, Pod>| {
            let of_lab =
                |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| lab.node(node).is_ok());
            let all: Vec<&Pod> = found.values().filter(of_lab).collect();
            let ready = all.iter().filter(|pod| pod_is_ready(pod)).count();
            (ready >= lab.nodes.len() && ready == all.len()).then_some(ready)
        };
        until(pods, watcher::Config::default().labels(dns::SELECTOR), done, || async { Ok(()) }).await
    }

    /// What is not ready, each on a line with its reason.
    pub(crate) async fn pending(&self, lab: &Lab) -> String {
        match tokio::time::timeout(PATIENCE, self.unready(lab)).await {
            Ok(Ok(lines)) => lines.join("\n         "),
            Ok(Err(error)) => format!("the API says: {error}"),
            Err(_) => "the API does not answer".to_owned(),
        }
    }

    async fn unready(&self, lab: &Lab) -> Result<Vec<String>, kube::Error> {
        let nodes: KubeApi<KubeNode> = KubeApi::all(self.client.clone());
        let pods: KubeApi<Pod> = KubeApi::all(self.client.clone());
        let (nodes, pods) = (nodes.list(&ListParams::default()).await?, pods.list(&ListParams::default()).await?);
        let nodes = nodes.into_iter().filter(|node| !node_is_ready(node)).map(|node| {
            let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten()).find(|it| it.type_ == "Ready");
            let why = ready.and_then(|ready| ready.message.clone()).unwrap_or_default();
            format!("node {}: {why}", node.metadata.name.unwrap_or_default())
        });
        let pods = pods.into_iter().filter(|pod| !pod_is_ready(pod)).map(|pod| {
            let why = why_pod_waits(&pod);
            let (namespace, name) = (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default());
            let said = logs::last_line(&lab.place.logs(), &namespace, &name).map(|line| format!("; its log ends: {line}"));
            format!("pod {namespace}/{name}: {}{}", why.trim(), said.unwrap_or_default())
        });
        Ok(nodes.chain(pods).collect())
    }
}

/// What holds a pod up: its first container's reason, or that no node was found for it.
fn why_pod_waits(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return String::new() };
    let waiting = status.container_statuses.iter().flatten().find_map(|container| container.state.as_ref()?.waiting.clone());
    if let Some(waiting) = waiting {
        return format!("{} {}", waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
    }
    let unscheduled = status.conditions.iter().flatten().find(|it| it.type_ == "PodScheduled" && it.status != "True");
    unscheduled.map(|it| [it.reason.clone(), it.message.clone()].map(Option::unwrap_or_default).join(" ")).unwrap_or_default()
}

/// Watches objects of a cluster or a namespace, by name, until `done` says so of those that there are; now and then `check`
/// looks at what no object tells of.
async fn until<K, T, F>(
    api: KubeApi<K>,
    which: watcher::Config,
    done: impl Fn(&BTreeMap<String, K>) -> Option<T>,
    check: impl Fn() -> F,
) -> Result<T>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    F: Future<Output = Result<()>>,
{
    let mut events = pin!(kube::runtime::watcher(api, which).default_backoff());
    let mut found = BTreeMap::new();
    let mut again = tokio::time::interval(POLL);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = again.tick() => {
                check().await?;
                continue;
            }
        };
        match event {
            Some(Ok(event)) => take(&mut found, event),
            Some(Err(error)) => tracing::debug!(%error, "objects could not be watched"),
            None => bail!("the API cannot be watched any more"),
        }
        if let Some(value) = done(&found) {
            return Ok(value);
        }
    }
}

fn take<K: kube::Resource<DynamicType = ()>>(found: &mut BTreeMap<String, K>, event: Event<K>) {
    match event {
        Event::Init => found.clear(),
        Event::InitDone => {}
        Event::InitApply(object) | Event::Apply(object) => drop(found.insert(name(&object), object)),
        Event::Delete(object) => drop(found.remove(&name(&object))),
    }
}

fn name<K: kube::Resource<DynamicType = ()>>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

async fn check_agent(lab: &Lab, node: &Node) -> Result<()> {
    let Some(status) = node.agent.lock().await.ended() else { return Ok(()) };
    let log = lab.place.logs().join(format!("{}-agent.log", node.name()));
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(8).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n         ");
    let problem = Problem::new(1006, "a node's agent ended", format!("node {}", node.name()), format!("see {}", log.display()));
    bail!(ProblemError(problem.because(format!("{status}; its last lines:\n         {last}"))))
}

fn node_is_ready(node: &KubeNode) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
}

fn pod_is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
}

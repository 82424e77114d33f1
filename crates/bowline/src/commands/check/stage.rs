//! The check's own namespace, pods and services, and how a command is run in them.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// The check's namespace.
pub(crate) const NAMESPACE: &str = "bowline-check";

/// How long the pods may take.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A pod of the check.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// Its node.
    pub(crate) node: String,
    /// Its addresses.
    pub(crate) ips: Vec<IpAddr>,
}

/// A node of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its InternalIPs.
    pub(crate) ips: Vec<IpAddr>,
}

/// Where a probe starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// In a pod of the check.
    Pod(&'a Pod),
    /// On a node.
    Node(&'a Node),
    /// On the host outside the cluster.
    Outside,
}

/// What a probe came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    /// An answer.
    Answer(String),
    /// A refusal.
    Refused,
    /// Nothing, with the reason as the system says it.
    Nothing(String),
}

/// Everything that the checks need.
pub(crate) struct Stage {
    lab: String,
    client: Client,
    /// Two pods on each node: those that ask and those that answer are the same.
    pub(crate) pods: Vec<Pod>,
    /// The nodes.
    pub(crate) nodes: Vec<Node>,
    /// Addresses of the check's service.
    pub(crate) service: Vec<IpAddr>,
    /// Its node port.
    pub(crate) node_port: u16,
    /// Only pods of this node ask.
    pub(crate) only_node: Option<String>,
}

fn api(client: &Client, group: &str, version: &str, kind: &str, namespaced: bool) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if namespaced { Api::namespaced_with(client.clone(), NAMESPACE, &resource) } else { Api::all_with(client.clone(), &resource) }
}

async fn client_of(lab: &str) -> Result<Client> {
    let path = bowline_lab::kubeconfig(lab)?;
    let access = crate::watch::Access::of_kubeconfig(&path).await.with_context(|| path.display().to_string())?;
    crate::watch::client(access).with_context(|| path.display().to_string())
}

/// Removes the check's namespace and waits until it is gone.
///
/// # Errors
/// When the API does not answer or the namespace stays.
pub(crate) async fn sweep(lab: &str) -> Result<()> {
    let client = client_of(lab).await?;
    let namespaces = api(&client, "", "v1", "Namespace", false);
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        return Ok(());
    }
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    let gone = kube::runtime::wait::await_condition(namespaces, NAMESPACE, |object: Option<&DynamicObject>| object.is_none());
    tokio::time::timeout(READY_WITHIN, gone).await.context("the namespace is still there")??;
    Ok(())
}

impl Stage {
    /// Makes namespace, pods and service, and waits until the pods are ready. What a former check left is removed first.
    ///
    /// # Errors
    /// When the API refuses, or pods do not become ready.
    pub(crate) async fn set(lab: &str, only_node: Option<&str>) -> Result<Stage> {
        sweep(lab).await?;
        let client = client_of(lab).await?;
        let nodes = list_nodes(&client).await?;
        if only_node.is_some_and(|name| nodes.iter().all(|n| n.name != name)) {
            bail!(
                "no node is called {}; there are {}",
                only_node.unwrap_or_default(),
                nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ")
            );
        }
        create(&client, false, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})).await?;
        let families = nodes.first().map_or(1, |n| n.ips.len());
        let policy = if families > 1 { "RequireDualStack" } else { "SingleStack" };
        create(
            &client,
            true,
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
                "spec": {"type": "NodePort", "ipFamilyPolicy": policy, "selector": {"app": "echo"}, "ports": [
                    {"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}]},
            }),
        )
        .await?;
        for node in &nodes {
            for letter in ["a", "b"] {
                create(&client, true, pod(&format!("{letter}-{}", node.name), letter, &node.name)).await?;
            }
        }
        let pods = wait_ready(&client, nodes.len() * 2).await?;
        let service = api(&client, "", "v1", "Service", true).get("echo").await?;
        let spec = service.data.get("spec").cloned().unwrap_or_default();
        let port = |protocol: &str| {
            let ports = at(&spec, "/ports").as_array().into_iter().flatten();
            ports.filter(|p| *at(p, "/protocol") == protocol).find_map(|p| u16::try_from(at(p, "/nodePort").as_u64()?).ok())
        };
        Ok(Stage {
            lab: lab.to_owned(),
            node_port: port("TCP").context("the service got no node port")?,
            service: addresses(at(&spec, "/clusterIPs"), None),
            client,
            pods,
            nodes,
            only_node: only_node.map(str::to_owned),
        })
    }

    /// Pods that ask.
    pub(crate) fn askers(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(|p| self.only_node.as_ref().is_none_or(|n| *n == p.node))
    }

    /// Runs a probe somewhere.
    pub(crate) async fn probe(&self, place: Place<'_>, words: &[&str]) -> Got {
        let mut command = tokio::process::Command::new("/proc/self/exe");
        match place {
            Place::Pod(pod) => command.args(["lab", "exec", &pod.name, "-n", NAMESPACE]),
            Place::Node(node) => command.args(["lab", "node-exec", &node.name]),
            Place::Outside => command.args(["lab", "client"]),
        };
        let program = std::env::current_exe().unwrap_or_else(|_| "bowline".into());
        command.args(["--name", &self.lab, "--"]).arg(program).arg("probe").args(words).stdin(Stdio::null()).kill_on_drop(true);
        match command.output().await {
            Ok(output) if output.status.success() => Got::Answer(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) if output.status.code() == Some(4) => Got::Refused,
            Ok(output) => Got::Nothing(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Got::Nothing(error.to_string()),
        }
    }

    /// Puts an object into the check's namespace.
    ///
    /// # Errors
    /// When the API refuses.
    pub(crate) async fn apply(&self, group: &str, kind: &str, name: &str, object: &Value) -> Result<()> {
        let api = api(&self.client, group, "v1", kind, true);
        api.patch(name, &PatchParams::apply("bowline-check").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Takes it away again.
    ///
    /// # Errors
    /// When the API refuses.
    pub(crate) async fn delete(&self, group: &str, kind: &str, name: &str) -> Result<()> {
        api(&self.client, group, "v1", kind, true).delete(name, &DeleteParams::default()).await?;
        Ok(())
    }
}

fn pod(name: &str, letter: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "echo", "letter": letter}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "echo", "image": "bowline/echo",
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]}]},
    })
}

async fn create(client: &Client, namespaced: bool, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let kind = object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default();
    api(client, "", "v1", &kind, namespaced)
        .create(&PostParams::default(), &object)
        .await
        .with_context(|| format!("{kind} {}", object.name_any()))?;
    Ok(())
}

async fn list_nodes(client: &Client) -> Result<Vec<Node>> {
    let list = api(client, "", "v1", "Node", false).list(&ListParams::default()).await?;
    Ok(list.iter().map(|n| Node { name: n.name_any(), ips: addresses(at(&n.data, "/status/addresses"), Some("InternalIP")) }).collect())
}

/// The value at a JSON pointer (RFC 6901), null where there is none.
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// Addresses of a list of strings, of `{ip}` or of `{type, address}`.
fn addresses(list: &Value, kind: Option<&str>) -> Vec<IpAddr> {
    let entries = list.as_array().into_iter().flatten();
    entries
        .filter(|e| kind.is_none_or(|k| *at(e, "/type") == k))
        .filter_map(|e| e.as_str().or(at(e, "/ip").as_str()).or(at(e, "/address").as_str())?.parse().ok())
        .collect()
}

async fn wait_ready(client: &Client, wanted: usize) -> Result<Vec<Pod>> {
    let pods = api(client, "", "v1", "Pod", true);
    let names: Vec<String> = pods.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
    for name in &names {
        let ready = kube::runtime::wait::await_condition(pods.clone(), name, is_ready);
        tokio::time::timeout(READY_WITHIN, ready)
            .await
            .with_context(|| format!("pod {name} is not ready after {} s", READY_WITHIN.as_secs()))??;
    }
    let list = pods.list(&ListParams::default()).await?;
    let found: Vec<Pod> = list
        .iter()
        .map(|p| Pod {
            name: p.name_any(),
            node: at(&p.data, "/spec/nodeName").as_str().unwrap_or_default().to_owned(),
            ips: addresses(at(&p.data, "/status/podIPs"), None),
        })
        .collect();
    if found.len() == wanted { Ok(found) } else { bail!("{} pods where {wanted} were made", found.len()) }
}

fn is_ready(pod: Option<&DynamicObject>) -> bool {
    let conditions = pod.and_then(|p| at(&p.data, "/status/conditions").as_array());
    conditions.is_some_and(|all| all.iter().any(|c| *at(c, "/type") == "Ready" && *at(c, "/status") == "True"))
}

//! The lab's Kubernetes API: the server, the controllers, and the doors to it.
//!
//! There are two doors: one in the root namespace on loopback, for kubectl and the kubelets, and one on the underlay, for
//! agents and pods. Both are TLS with tokens made at start. Stopping the API closes both and drops every connection.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bowline_apiserver::{Config, GroupResource, Server, Store, controllers};
use bowline_kernel::netns::NetNs;
use bowline_model::checked::Problem;
use ipnet::IpNet;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Lab, Node, POLL, logs};
use crate::plan::{API_PORT, nth};
use crate::progress::ProblemError;

/// The API of a lab.
pub(crate) struct Api {
    /// A client with all rights.
    pub(crate) client: kube::Client,
    /// The certificate authority.
    pub(crate) ca_pem: String,
    /// The token that pods get.
    pub(crate) pod_token: String,
    /// The file for kubectl.
    pub(crate) kubeconfig: String,
    /// The name of its context.
    pub(crate) context: String,
    node_token: String,
    node_url: String,
    server: Server,
    store: Store,
    local: SocketAddr,
    router: u32,
    open: tokio::sync::Mutex<Option<CancellationToken>>,
}

impl Api {
    /// Starts server and controllers, and opens the doors.
    pub(crate) async fn start(lab: &Arc<Lab>) -> Result<Api> {
        let [admin, node_token, pod_token] = [(); 3].map(|()| format!("{:032x}", rand::random::<u128>()));
        let store = Store::new();
        let config = Config {
            tokens: BTreeMap::from([
                (admin.clone(), "kubernetes-admin".to_owned()),
                (node_token.clone(), "system:node".to_owned()),
                (pod_token.clone(), "system:serviceaccount:default:default".to_owned()),
            ]),
            sans: names(lab),
            pod_logs: Some(logs::source(lab)),
            ..Config::default()
        };
        let server = Server::new(store.clone(), config)?;
        let ca_pem = server.ca_pem();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let local = listener.local_addr()?;
        let context = format!("bowline-{}", lab.options.name);
        let kubeconfig = server.kubeconfig(&format!("https://{local}"), &admin, &context);
        controllers::start(&store, cluster(lab, &ca_pem), &CancellationToken::new());
        let api = Api {
            client: client(&kubeconfig).await?,
            node_url: lab.plan.api.first().map(|ip| format!("https://{}", SocketAddr::new(*ip, API_PORT))).unwrap_or_default(),
            router: lab.router.pid(),
            open: tokio::sync::Mutex::default(),
            ca_pem,
            pod_token,
            kubeconfig,
            context,
            node_token,
            server,
            store,
            local,
        };
        api.open_doors(Some(listener)).await?;
        Ok(api)
    }

    /// The file for a node's agent.
    pub(crate) fn node_kubeconfig(&self, node: &str) -> String {
        self.server.kubeconfig(&self.node_url, &self.node_token, &format!("{}-{node}", self.context))
    }

    /// Opens the doors if they are closed.
    pub(crate) async fn open_doors(&self, local: Option<TcpListener>) -> Result<&'static str> {
        let mut open = self.open.lock().await;
        if open.is_some() {
            return Ok("the API answers already");
        }
        let local = local.map_or_else(|| TcpListener::bind(self.local), Ok).context("listen on loopback")?;
        let everywhere =
            || TcpListener::bind((Ipv6Addr::UNSPECIFIED, API_PORT)).or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, API_PORT)));
        let underlay = NetNs::of_process(self.router)?.run(everywhere)?.context("listen on the underlay")?;
        let stop = CancellationToken::new();
        for listener in [local, underlay] {
            let (server, stop) = (self.server.clone(), stop.clone());
            tokio::spawn(async move {
                if let Err(error) = server.serve(listener, stop).await {
                    tracing::error!(%error, "API not served");
                }
            });
        }
        *open = Some(stop);
        Ok("the API answers")
    }

    /// Closes the doors and drops every connection.
    pub(crate) async fn close_doors(&self) -> &'static str {
        match self.open.lock().await.take() {
            Some(stop) => {
                stop.cancel();
                "the API does not answer any more"
            }
            None => "the API did not answer before",
        }
    }

    /// Waits until every node is Ready; an agent that ends by itself meanwhile is an error.
    pub(crate) async fn wait_for_nodes(&self, lab: &Lab) -> Result<()> {
        let nodes = GroupResource::core("nodes");
        self.until(
            || {
                let ready = self.store.list(&nodes, None).items.iter().filter(|node| is_ready(node)).count();
                (ready >= lab.nodes.len()).then_some(())
            },
            || async {
                for node in &lab.nodes {
                    check_agent(lab, node).await?;
                }
                Ok(())
            },
        )
        .await
    }

    /// Waits until the cluster DNS has this many ready pods; the number of all ready pods.
    pub(crate) async fn wait_for_pods(&self, wanted: usize) -> Result<usize> {
        let pods = GroupResource::core("pods");
        self.until(
            || {
                let all = self.store.list(&pods, Some("kube-system")).items;
                let ready = all.iter().filter(|pod| is_ready(pod)).count();
                (ready >= wanted && ready == all.len()).then_some(ready)
            },
            || async { Ok(()) },
        )
        .await
    }

    /// What is not ready, each on a line with its reason.
    pub(crate) fn pending(&self, lab: &Lab) -> String {
        let unready = |resource: &str| -> Vec<Arc<Value>> {
            let all = self.store.list(&GroupResource::core(resource), None).items;
            all.into_iter().filter(|object| !is_ready(object)).collect()
        };
        let text = |object: &Value, path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let nodes = unready("nodes").into_iter().map(|node| {
            let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
            let ready = conditions.into_iter().flatten().find(|condition| text(condition, "/type") == "Ready");
            format!("node {}: {}", text(&node, "/metadata/name"), ready.map(|ready| text(ready, "/message")).unwrap_or_default())
        });
        let pods = unready("pods").into_iter().map(|pod| {
            let (namespace, name) = (text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
            let waiting = "/status/containerStatuses/0/state/waiting";
            let why = [text(&pod, &format!("{waiting}/reason")), text(&pod, &format!("{waiting}/message"))].join(" ");
            let said = logs::last_line(&lab.place.logs(), &namespace, &name).map(|line| format!("; its log ends: {line}"));
            format!("pod {namespace}/{name}: {}{}", why.trim(), said.unwrap_or_default())
        });
        nodes.chain(pods).collect::<Vec<_>>().join("\n         ")
    }

    /// Looks again after each write, and now and then at what no write tells of.
    async fn until<T, F: Future<Output = Result<()>>>(&self, done: impl Fn() -> Option<T>, check: impl Fn() -> F) -> Result<T> {
        let mut revisions = self.store.revisions();
        loop {
            revisions.mark_unchanged();
            if let Some(value) = done() {
                return Ok(value);
            }
            check().await?;
            let _ = tokio::time::timeout(POLL, revisions.changed()).await;
        }
    }
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

/// Whether an object's Ready condition is True.
fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        let field = |name: &str| condition.get(name).and_then(Value::as_str);
        field("type") == Some("Ready") && field("status") == Some("True")
    })
}

/// Names and addresses under which the API is asked.
fn names(lab: &Lab) -> Vec<String> {
    let service = lab.options.service_cidr.values().filter_map(|network| nth(network, 1));
    let gateways = lab.plan.nodes.iter().flat_map(|node| node.gateway.values().map(IpNet::addr));
    let outside = lab.plan.outside_gateway.values().map(IpNet::addr);
    let mut names: Vec<String> = Config::default().sans;
    names.push("kubernetes.default.svc.cluster.local".to_owned());
    names.extend(service.chain(gateways).chain(outside).map(|ip| ip.to_string()));
    names.sort();
    names.dedup();
    names
}

fn cluster(lab: &Lab, ca_pem: &str) -> controllers::Config {
    let options = &lab.options;
    let (first, last) = options.node_port_range;
    controllers::Config {
        node_port_range: first..=last,
        dns_ip: options.dns_ip.first().copied(),
        api_addresses: lab.plan.api.iter().map(|ip| SocketAddr::new(*ip, API_PORT)).collect(),
        ca_pem: ca_pem.to_owned(),
        ..controllers::Config::new(options.service_cidr.values().copied().collect(), options.pod_cidr.values().copied().collect())
    }
}

async fn client(kubeconfig: &str) -> Result<kube::Client> {
    let parsed = Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(kube::Client::try_from(config)?)
}

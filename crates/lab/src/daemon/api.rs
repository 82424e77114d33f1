//! The lab's Kubernetes API: whose server it is, and the doors to it.
//!
//! There are two doors: one in the root namespace on loopback, for kubectl and the kubelets, and one on the underlay, for
//! agents and pods. Behind them is the lab's own server, or a relay to a server that the lab was given. Stopping the API
//! closes both and drops every connection; a server that was given runs on, as seen from a network that lost it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_kernel::netns::NetNs;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::sync::CancellationToken;

use super::Lab;
use super::own::Own;
use super::{given, relay};
use crate::plan::API_PORT;
use crate::remote::Remote;

/// The API of a lab.
pub(crate) struct Api {
    /// A client with all rights.
    pub(crate) client: kube::Client,
    /// What the lab's own API gives to pods, which knows no requests for tokens and leaves it to kubelets to publish its
    /// authority. None where a server was given.
    pub(crate) pods: Option<PodCredentials>,
    /// The file for kubectl.
    pub(crate) kubeconfig: String,
    /// The name of its context.
    pub(crate) context: String,
    /// What there is to say of the server.
    pub(crate) about: String,
    behind: Behind,
    /// The door on loopback.
    local: SocketAddr,
    /// The door on the underlay as nodes find it.
    node_address: SocketAddr,
    router: u32,
    open: tokio::sync::Mutex<Option<CancellationToken>>,
}

/// What every pod is given.
pub(crate) struct PodCredentials {
    /// A token.
    pub(crate) token: String,
    /// The certificate authority of the API.
    pub(crate) ca_pem: String,
}

/// What is behind the doors.
enum Behind {
    Own(Own),
    Given(Box<Remote>),
}

impl Api {
    /// Starts the lab's own server and controllers, or finds the one that was given, and opens the doors.
    pub(crate) async fn start(lab: &Arc<Lab>) -> Result<Api> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let local = listener.local_addr()?;
        let context = format!("bowline-{}", lab.options.name);
        let (behind, kubeconfig, pods, port) = match &lab.options.apiserver {
            None => {
                let own = Own::start(lab)?;
                let (kubeconfig, pods) = (own.admin_kubeconfig(local, &context), own.pod_credentials());
                (Behind::Own(own), kubeconfig, Some(pods), API_PORT)
            }
            Some(path) => {
                let remote = Remote::read(path).with_context(|| path.display().to_string())?;
                let (kubeconfig, port) = (remote.kubeconfig(local, &context)?, remote.port);
                (Behind::Given(Box::new(remote)), kubeconfig, None, port)
            }
        };
        let mut api = Api {
            client: client(&kubeconfig).await?,
            node_address: SocketAddr::new(*lab.plan.api.first().context("no family")?, port),
            router: lab.router.pid(),
            open: tokio::sync::Mutex::default(),
            about: format!("context {context}"),
            behind,
            local,
            pods,
            kubeconfig,
            context,
        };
        api.open_doors(Some(listener)).await?;
        if let Behind::Given(remote) = &api.behind {
            api.about = given::check(&lab.options, api.node_address, remote, &api.client).await?;
        }
        Ok(api)
    }

    /// The file for a node's agent.
    pub(crate) fn node_kubeconfig(&self, node: &str) -> Result<String> {
        let context = format!("{}-{node}", self.context);
        match &self.behind {
            Behind::Own(own) => Ok(own.node_kubeconfig(self.node_address, &context)),
            Behind::Given(remote) => remote.kubeconfig(self.node_address, &context),
        }
    }

    /// Opens the doors if they are closed.
    pub(crate) async fn open_doors(&self, local: Option<TcpListener>) -> Result<&'static str> {
        let mut open = self.open.lock().await;
        if open.is_some() {
            return Ok("the API answers already");
        }
        let local = local.map_or_else(|| TcpListener::bind(self.local), Ok).context("listen on loopback")?;
        let port = self.node_address.port();
        let everywhere = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let underlay = NetNs::of_process(self.router)?.run(everywhere)?.context("listen on the underlay")?;
        let stop = CancellationToken::new();
        for listener in [local, underlay] {
            self.serve(listener, stop.clone());
        }
        *open = Some(stop);
        Ok("the API answers")
    }

    fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        match &self.behind {
            Behind::Own(own) => {
                let server = own.server.clone();
                tokio::spawn(async move {
                    if let Err(error) = server.serve(listener, stop).await {
                        tracing::error!(%error, "API not served");
                    }
                });
            }
            Behind::Given(remote) => {
                let (host, port) = (Arc::from(remote.host.as_str()), remote.port);
                tokio::spawn(async move {
                    if let Err(error) = relay::serve(listener, host, port, stop).await {
                        tracing::error!(error = format!("{error:#}"), "API not relayed");
                    }
                });
            }
        }
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
}

async fn client(kubeconfig: &str) -> Result<kube::Client> {
    let parsed = Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // The door is on loopback, whatever the environment says of proxies.
    config.proxy_url = None;
    Ok(kube::Client::try_from(config)?)
}

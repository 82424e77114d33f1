//! The server: what it is given, and what it does with a connection.
//!
//! Invariant: sockets are opened by the caller (in whichever network namespace); stopping drops every connection at
//! once, as the crash of a real server would. Reference: RFC 9112, RFC 9113.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::accept;
use crate::error::ApiError;
use crate::rest::Context;
use crate::store::Store;
use crate::stream::{ExecSource, PortSource, Upgrades};
use crate::tls::{self, Identity};

/// What is asked of a pod's log.
#[derive(Clone, Debug, Default)]
pub struct LogRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container; never empty: where the request names none it is the pod's only one.
    pub container: String,
    /// Go on with what is written later.
    pub follow: bool,
    /// The container's previous life.
    pub previous: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<usize>,
    /// Only what is at most so many seconds old.
    pub since_seconds: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<usize>,
}

/// A log as it is sent; it ends with the stream.
pub type LogStream = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Finds a container's log. Called on the runtime: it must not block.
pub type LogSource = Arc<dyn Fn(LogRequest) -> Result<LogStream, ApiError> + Send + Sync>;

/// What a server is given.
#[derive(Clone)]
pub struct Config {
    /// Bearer tokens, each with the user it stands for.
    pub tokens: BTreeMap<String, String>,
    /// Names and IP addresses in the serving certificate.
    pub sans: Vec<String>,
    /// Where `kubectl logs` reads; without, logs are answered with 400.
    pub pod_logs: Option<LogSource>,
    /// Where `kubectl exec` runs its commands; without, they are answered with 400.
    pub pod_exec: Option<ExecSource>,
    /// Where `kubectl port-forward` connects; without, it is answered with 400.
    pub pod_ports: Option<PortSource>,
    /// Time between two bookmarks of a watch that asked for them.
    pub bookmark_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let sans = ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        Self {
            tokens: BTreeMap::new(),
            sans: sans.into_iter().map(str::to_owned).collect(),
            pod_logs: None,
            pod_exec: None,
            pod_ports: None,
            bookmark_interval: Duration::from_secs(10),
        }
    }
}

/// Why a server could not be made or served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The certificates could not be made, most likely for a name that is neither a DNS name nor an address.
    #[error("cannot make the API server's certificates: {source}; check the names and addresses in `sans`")]
    Certificate {
        /// The cause.
        source: rcgen::Error,
    },
    /// TLS refused the certificates.
    #[error("cannot set up TLS for the API server: {source}")]
    Tls {
        /// The cause.
        source: rustls::Error,
    },
    /// The listening socket could not be used.
    #[error("cannot serve the Kubernetes API on the socket given: {source}")]
    Socket {
        /// The cause.
        source: std::io::Error,
    },
}

/// A Kubernetes API server. Cheap to clone; clones are the same server.
#[derive(Clone)]
pub struct Server {
    context: Arc<Context>,
    identity: Arc<Identity>,
}

impl Server {
    /// Makes the certificates. Nothing is served until [`Server::serve`].
    ///
    /// # Errors
    /// When the certificates cannot be made.
    pub fn new(store: Store, config: Config) -> Result<Self, ServerError> {
        let identity = Arc::new(tls::new_identity(&config.sans)?);
        Ok(Self { context: Arc::new(Context::new(store, config)), identity })
    }

    /// The certificate of the authority that clients must trust.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.identity.ca_pem.clone()
    }

    /// Accepts one more token.
    pub fn add_token(&self, token: &str, user: &str) {
        let mut tokens = self.context.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(token.to_owned(), user.to_owned());
    }

    /// A kubeconfig for this server at `url` (`https://host:port`).
    #[must_use]
    pub fn kubeconfig(&self, url: &str, token: &str, context_name: &str) -> String {
        tls::kubeconfig(&self.identity.ca_pem, url, token, context_name)
    }

    /// Serves connections of a listener until `stop`, then drops those that are open and returns. May be called for
    /// several listeners, and again after a stop. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the listener cannot be registered with the runtime.
    pub async fn serve(&self, listener: std::net::TcpListener, stop: CancellationToken) -> Result<(), ServerError> {
        let take = |stream, connections: &TaskTracker| {
            let server = self.clone();
            let upgrades = Upgrades { stop: stop.clone(), tasks: connections.clone() };
            connections.spawn(stop.clone().run_until_cancelled_owned(async move { server.serve_one(stream, upgrades).await }));
        };
        accept(listener, &stop, take).await.map_err(|source| ServerError::Socket { source })
    }

    async fn serve_one(&self, stream: TcpStream, upgrades: Upgrades) {
        let _ = stream.set_nodelay(true);
        let stream = match TlsAcceptor::from(Arc::clone(&self.identity.tls)).accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
        };
        let context = Arc::clone(&self.context);
        let service = service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            let context = Arc::clone(&context);
            request.extensions_mut().insert(upgrades.clone());
            async move { Ok::<_, std::convert::Infallible>(context.answer(request).await) }
        });
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

impl Context {
    fn new(store: Store, config: Config) -> Self {
        Self {
            store,
            tokens: RwLock::new(config.tokens),
            pod_logs: config.pod_logs,
            pod_exec: config.pod_exec,
            pod_ports: config.pod_ports,
            bookmark_interval: config.bookmark_interval,
            snapshots: crate::rest::Snapshots::default(),
        }
    }
}

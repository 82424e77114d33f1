//! The connection to the API server: made to find out by itself that the other end is gone, and to take up renewed credentials.
//!
//! All watches share one HTTP/2 connection. It is pinged, so that an end that is gone without a word, also behind a proxy that keeps
//! the connection open, is found within [`PING_EVERY`] + [`PONG_WITHIN`]. Where only HTTP/1.1 is spoken, TCP's own probes find an end
//! that is gone, within [`UNHEARD`].
//!
//! Invariant: a token is never older than its file, and other credentials that the server refused are never used again without a look at
//! their files. Reference: RFC 9113 section 6.7, tcp(7) for TCP_KEEPIDLE and TCP_USER_TIMEOUT, "Bound service account tokens" of the
//! Kubernetes documentation.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceBuilder};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_millis(3500);

/// Time between two pings.
const PING_EVERY: Duration = Duration::from_secs(8);

/// How long an answer to a ping may take.
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// How long TCP goes on without a sign of the other end.
const UNHEARD: Duration = Duration::from_secs(20);

/// TCP's own probes: first after so long, then as often, and so many.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(8), Duration::from_secs(4), 3);

/// Keys and certificates are looked up anew at most this often.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// A client over such a connection. Files of tokens are read for every request, those of keys and certificates again when the server no
/// longer takes what was in them.
///
/// # Errors
/// When the configuration's credentials or certificates cannot be used.
pub(super) fn connect(mut config: Config) -> Result<Client, kube::Error> {
    let namespace = config.default_namespace.clone();
    // A token in the configuration itself wins over a file.
    let token_file = config.auth_info.token_file.take().filter(|_| config.auth_info.token.is_none());
    let using = Using { client: client_of(&config)?, read: Instant::now() };
    let token = Arc::new(Token { file: token_file.map(PathBuf::from), last: Mutex::new(None) });
    Ok(Client::new(Renewing { config: Arc::new(config), using: Arc::new(Mutex::new(using)), token }, namespace))
}

/// A token that others renew in its file.
struct Token {
    file: Option<PathBuf>,
    /// What was read last, for the moment in which the file is not there.
    last: Mutex<Option<HeaderValue>>,
}

impl Token {
    /// The header for a request; none where there is no file, or never was.
    fn header(&self) -> Option<HeaderValue> {
        let file = self.file.as_ref()?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match std::fs::read_to_string(file) {
            Ok(token) if !token.trim().is_empty() => match HeaderValue::try_from(format!("Bearer {}", token.trim())) {
                Ok(mut header) => {
                    header.set_sensitive(true);
                    *last = Some(header);
                }
                Err(_) => tracing::warn!(file = %file.display(), "the token's file holds no token"),
            },
            Ok(_) => tracing::warn!(file = %file.display(), "the token's file is empty"),
            Err(error) => tracing::warn!(file = %file.display(), %error, "the token cannot be read"),
        }
        last.clone()
    }
}

fn client_of(config: &Config) -> Result<Client, kube::Error> {
    if let Some(proxy) = &config.proxy_url {
        return Err(kube::Error::ProxyProtocolUnsupported { proxy_url: proxy.clone() });
    }
    let mut tcp = HttpConnector::new();
    let (idle, every, times) = PROBES;
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.set_keepalive(Some(idle));
    tcp.set_keepalive_interval(Some(every));
    tcp.set_keepalive_retries(Some(times));
    tcp.set_tcp_user_timeout(Some(UNHEARD));
    let tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    let tls = match &config.tls_server_name {
        Some(name) => {
            let name = name.clone().try_into().map_err(|error| kube::Error::Service(Box::new(error)))?;
            tls.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
        None => tls,
    };
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PONG_WITHIN)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(tls.enable_all_versions().wrap_connector(tcp));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Passes requests on to a client that is made anew when the server does not know us any more.
struct Renewing {
    config: Arc<Config>,
    using: Arc<Mutex<Using>>,
    token: Arc<Token>,
}

struct Using {
    client: Client,
    /// When its files were read.
    read: Instant,
}

impl Service<Request<Body>> for Renewing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = self.token.header() {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        let (config, using) = (self.config.clone(), self.using.clone());
        let client = lock(&using).client.clone();
        Box::pin(async move {
            let answer = client.send(request).await;
            let refused = answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED);
            if refused {
                renew(&config, &using);
            }
            Ok(answer?)
        })
    }
}

fn lock(using: &Mutex<Using>) -> std::sync::MutexGuard<'_, Using> {
    using.lock().unwrap_or_else(PoisonError::into_inner)
}

fn renew(config: &Config, using: &Mutex<Using>) {
    let mut using = lock(using);
    if using.read.elapsed() < RENEW_EVERY {
        return;
    }
    using.read = Instant::now();
    match client_of(config) {
        Ok(client) => {
            tracing::info!("the API server does not know us; keys and certificates are read anew");
            using.client = client;
        }
        Err(error) => tracing::warn!(%error, "the API server does not know us, and keys or certificates cannot be read anew"),
    }
}

//! The connection to the API server: made to find out by itself that the other end is gone, and to take up renewed credentials.
//!
//! All watches share one HTTP/2 connection. It is pinged, so that an end that is gone without a word, also behind a proxy that keeps
//! the connection open, is found within [`PING_EVERY`] + [`PONG_WITHIN`]. Where only HTTP/1.1 is spoken, TCP's own probes find an end
//! that is gone, within [`UNHEARD`].
//!
//! Where there are several addresses, one is used until it does not serve: nobody answers, or it says that something is wrong with itself.
//! Then the next is, and after the last the first again; how fast is the pace of those who ask. What runs over a connection goes on there.
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

use super::access::Access;

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

/// A client over such a connection, to the first of the addresses that answers. Files of tokens are read for every request, a kubeconfig when
/// it has changed, keys and certificates again when the server no longer takes what was in them.
///
/// # Errors
/// When the configuration's credentials or certificates cannot be used.
pub(super) fn connect(access: Access) -> Result<Client, kube::Error> {
    let namespace = access.config.default_namespace.clone();
    let using = Using::new(access, 0)?;
    Ok(Client::new(Renewing { using: Arc::new(Mutex::new(using)) }, namespace))
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

/// Passes requests on to a client that is made anew when the server does not know us any more, when our credentials are others, and for
/// another address when the one in use does not serve.
struct Renewing {
    using: Arc<Mutex<Using>>,
}

/// What requests go over now.
struct Using {
    access: Access,
    client: Client,
    token: Arc<Token>,
    /// Which of the addresses.
    server: usize,
    /// Grows with every client, so that many requests that fail together lead to the next address and not past it.
    number: u64,
    /// When files were read.
    read: Instant,
    /// A good answer came from this address, and the log has it.
    served: bool,
    /// The kubeconfig could not be read anew, and the log has it.
    unreadable: bool,
}

impl Using {
    fn new(access: Access, server: usize) -> Result<Using, kube::Error> {
        let mut config = access.config_for(server);
        // A token in the configuration itself wins over a file.
        let file = config.auth_info.token_file.take().filter(|_| config.auth_info.token.is_none());
        let token = Arc::new(Token { file: file.map(PathBuf::from), last: Mutex::new(None) });
        let client = client_of(&config)?;
        Ok(Using { access, client, token, server, number: 0, read: Instant::now(), served: false, unreadable: false })
    }

    /// Puts another client in the place of this one. If it cannot be made, this one stays.
    fn change(&mut self, access: Access, server: usize) -> Result<(), kube::Error> {
        let next = Using::new(access, server)?;
        let served = self.served && self.server == server;
        *self = Using { number: self.number + 1, served, ..next };
        Ok(())
    }

    /// The address in use, for people.
    fn address(&self) -> String {
        self.access.servers().get(self.server).map(ToString::to_string).unwrap_or_default()
    }
}

/// One request under way over a client. Unless it is told of a good answer, the next address is used from then on, also if nobody waits for
/// an answer any more.
struct Attempt {
    using: Arc<Mutex<Using>>,
    number: u64,
    served: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut using = lock(&self.using);
        if self.number != using.number {
            return;
        }
        if self.served {
            if !std::mem::replace(&mut using.served, true) && using.access.servers().len() > 1 {
                tracing::info!(server = using.address(), "this API server answers");
            }
            return;
        }
        let count = using.access.servers().len();
        if count > 1 {
            let (access, next) = (using.access.clone(), (using.server + 1) % count);
            let outcome = using.change(access, next);
            tracing::debug!(server = using.address(), error = outcome.err().map(|error| error.to_string()), "the next API server is tried");
        }
    }
}

/// Which of several servers did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{server}")]
struct Silent {
    server: String,
    source: kube::Error,
}

impl Service<Request<Body>> for Renewing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let using = self.using.clone();
        Box::pin(async move {
            reread(&using).await;
            let (client, token, server, mut attempt) = {
                let held = lock(&using);
                let attempt = Attempt { using: using.clone(), number: held.number, served: false };
                let server = (held.access.servers().len() > 1).then(|| held.address());
                (held.client.clone(), held.token.clone(), server, attempt)
            };
            if let Some(token) = token.header() {
                request.headers_mut().insert(header::AUTHORIZATION, token);
            }
            let answer = client.send(request).await;
            attempt.served = answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error());
            if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED) {
                renew(&using).await;
            }
            match (answer, server) {
                (Ok(answer), _) => Ok(answer),
                (Err(source), Some(server)) => Err(Silent { server, source }.into()),
                (Err(error), None) => Err(error.into()),
            }
        })
    }
}

fn lock(using: &Mutex<Using>) -> std::sync::MutexGuard<'_, Using> {
    using.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes up what is in the kubeconfig now, if it has changed. One that is half written is read again with the next request.
async fn reread(using: &Mutex<Using>) {
    let (access, file, number) = {
        let held = lock(using);
        let Some(file) = held.access.changed() else { return };
        (held.access.clone(), file.to_owned(), held.number)
    };
    let fresh = access.again(&file).await;
    let mut held = lock(using);
    if held.number != number {
        return;
    }
    let server = held.server;
    let outcome = fresh.and_then(|fresh| {
        let server = if server < fresh.servers().len() { server } else { 0 };
        Ok(held.change(fresh, server)?)
    });
    match outcome {
        Ok(()) => tracing::info!(file = %file.display(), "the kubeconfig has changed and was read anew"),
        Err(error) => {
            if !std::mem::replace(&mut held.unreadable, true) {
                let error = format!("{error:#}");
                tracing::warn!(file = %file.display(), error, "the kubeconfig has changed and cannot be used; what it held before is");
            }
        }
    }
}

/// Reads keys and certificates anew after a refusal.
async fn renew(using: &Mutex<Using>) {
    let (access, number) = {
        let mut held = lock(using);
        if held.read.elapsed() < RENEW_EVERY {
            return;
        }
        held.read = Instant::now();
        (held.access.clone(), held.number)
    };
    let fresh = match access.file.clone() {
        Some(file) => access.again(&file).await,
        None => Ok(access),
    };
    let mut held = lock(using);
    if held.number != number {
        return;
    }
    let server = held.server;
    match fresh.and_then(|fresh| Ok(held.change(fresh, server)?)) {
        Ok(()) => tracing::info!("the API server does not know us; keys and certificates are read anew"),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(error, "the API server does not know us, and keys or certificates cannot be read anew");
        }
    }
}

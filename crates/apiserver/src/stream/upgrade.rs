//! Leaving HTTP: what a client offers to speak, and the answer that agrees on it.
//!
//! Invariant: a connection that has left HTTP still ends with the server, and is waited for. Reference: RFC 9110, section
//! 7.8; RFC 6455, section 4.2; the `X-Stream-Protocol-Version` header of Kubernetes.

use http::header::{CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::websocket;
use crate::error::ApiError;
use crate::rest::{Answer, full};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// A transport that has left HTTP.
pub(crate) type Transport = TokioIo<Upgraded>;

/// What goes with each connection that the server accepts.
#[derive(Clone)]
pub(crate) struct Upgrades {
    /// The server stops.
    pub(crate) stop: CancellationToken,
    /// What it waits for when it does.
    pub(crate) tasks: TaskTracker,
}

/// What a client offers to speak in place of HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// WebSocket, with any of these subprotocols.
    WebSocket {
        /// The client's key.
        key: String,
        /// In the client's order.
        protocols: Vec<String>,
    },
    /// SPDY/3.1, with streams as any of these protocols says.
    Spdy {
        /// In the client's order.
        protocols: Vec<String>,
    },
}

impl Offer {
    /// What the headers of a request offer.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let wanted = list(headers, &UPGRADE);
        let offered = |name: &str| wanted.iter().any(|word| word.eq_ignore_ascii_case(name));
        if !list(headers, &CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        if offered("websocket") {
            let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
            let key = key.ok_or_else(|| ApiError::bad_request("a WebSocket request without Sec-WebSocket-Key"))?;
            return Ok(Self::WebSocket { key: key.to_owned(), protocols: list(headers, &SEC_WEBSOCKET_PROTOCOL) });
        }
        if offered(SPDY) {
            return Ok(Self::Spdy { protocols: list(headers, &STREAM_PROTOCOL) });
        }
        Err(ApiError::bad_request(format!("unable to upgrade: {wanted:?} is neither websocket nor {SPDY}")))
    }

    /// Agrees on the first protocol of the client's that is known for its carrier.
    pub(super) fn agree(&self, websocket: &[&'static str], spdy: &[&'static str]) -> Result<Agreement, Box<Answer>> {
        let (protocols, known) = match self {
            Self::WebSocket { protocols, .. } => (protocols, websocket),
            Self::Spdy { protocols } => (protocols, spdy),
        };
        let protocol = protocols.iter().find_map(|wanted| known.iter().find(|known| *known == wanted));
        let protocol = *protocol.ok_or_else(|| Box::new(disagreement(protocols, known)))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let name = match self {
            Self::WebSocket { key, .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                let accept = HeaderValue::from_str(&websocket::accept(key));
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept.unwrap_or_else(|_| HeaderValue::from_static("")));
                SEC_WEBSOCKET_PROTOCOL
            }
            Self::Spdy { .. } => {
                headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
                STREAM_PROTOCOL
            }
        };
        headers.insert(name, HeaderValue::from_static(protocol));
        Ok(Agreement { websocket: matches!(self, Self::WebSocket { .. }), protocol, headers })
    }
}

/// What client and server will speak.
#[derive(Debug)]
pub(super) struct Agreement {
    /// Over WebSocket, else SPDY.
    pub(super) websocket: bool,
    /// The protocol that was agreed on.
    pub(super) protocol: &'static str,
    headers: HeaderMap,
}

impl Agreement {
    /// The answer that leaves HTTP; `speak` is given the transport when the client has had it.
    pub(super) fn switch<F>(
        self,
        request: &mut Request<Incoming>,
        speak: impl FnOnce(Transport) -> F + Send + 'static,
    ) -> Result<Answer, ApiError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let upgrades = request.extensions().get::<Upgrades>().cloned();
        let Upgrades { stop, tasks } = upgrades.ok_or_else(|| internal("a connection that cannot be upgraded"))?;
        let upgrade = hyper::upgrade::on(request);
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            match upgrade.await {
                Ok(upgraded) => speak(TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "connection not upgraded"),
            }
        }));
        let mut answer = Response::new(Empty::new().boxed_unsync());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *answer.headers_mut() = self.headers;
        Ok(answer)
    }
}

fn internal(message: &str) -> ApiError {
    ApiError::Internal { message: message.to_owned() }
}

fn disagreement(wanted: &[String], known: &[&str]) -> Answer {
    let text = format!("unable to upgrade: unable to negotiate protocol: client supports {wanted:?}, server accepts {known:?}\n");
    let mut answer = full(StatusCode::FORBIDDEN, "text/plain", text);
    for known in known.iter().filter_map(|known| HeaderValue::from_str(known).ok()) {
        answer.headers_mut().append(ACCEPTED_PROTOCOLS, known);
    }
    answer
}

/// The words of a header that holds a list, however it is spread over lines.
fn list(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn offers_are_read() {
        let websocket = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v6.channel.k8s.io, v5.channel.k8s.io"),
        ];
        let offer = Offer::of(&headers(&websocket)).unwrap();
        let agreement = offer.agree(&["v4.channel.k8s.io", "v5.channel.k8s.io"], &["v4.channel.k8s.io"]).unwrap();
        assert!(agreement.websocket && agreement.protocol == "v5.channel.k8s.io");
        // The key and its answer are RFC 6455's own.
        assert_eq!(agreement.headers[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let spdy = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ];
        let mut both = HeaderMap::new();
        for (name, value) in spdy {
            both.append(name, HeaderValue::from_static(value));
        }
        let offer = Offer::of(&both).unwrap();
        assert_eq!(offer.agree(&[], &["v4.channel.k8s.io"]).unwrap().protocol, "v4.channel.k8s.io");
        let refused = offer.agree(&[], &["v3.channel.k8s.io"]).unwrap_err();
        assert_eq!(
            (refused.status(), &refused.headers()[ACCEPTED_PROTOCOLS]),
            (StatusCode::FORBIDDEN, &HeaderValue::from_static("v3.channel.k8s.io"))
        );
    }

    #[test]
    fn what_offers_nothing_is_refused() {
        for pairs in [
            &[][..],
            &[("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket")],
        ] {
            assert_eq!(Offer::of(&headers(pairs)).unwrap_err().code(), 400, "{pairs:?}");
        }
    }
}

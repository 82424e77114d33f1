//! `pods/portforward` on its connection: each pair of streams is one connection to a port of the pod.
//!
//! Invariant: a port that does not answer is told on its error stream, and harms no other. Reference: the
//! `portforward.k8s.io` protocol over SPDY; KEP 4006, which carries the same bytes in WebSocket's messages.

use std::collections::HashMap;

use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::upgrade::Offer;
use super::{PortRequest, PortSource, spdy, websocket};
use crate::error::ApiError;
use crate::rest::Answer;

const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// A pod whose ports are wanted.
#[derive(Clone)]
pub(crate) struct Pod {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// What connects.
    pub(crate) source: PortSource,
}

/// Agrees with the client on a protocol, and connects to the ports that it asks for.
pub(crate) fn forward(offer: &Offer, http: &mut http::Request<Incoming>, pod: Pod) -> Result<Answer, ApiError> {
    let agreement = match offer.agree(&[TUNNELLED], &[PORT_FORWARD]) {
        Ok(agreement) => agreement,
        Err(refusal) => return Ok(*refusal),
    };
    let websocket = agreement.websocket;
    agreement.switch(http, move |transport| async move {
        if !websocket {
            return serve(transport, pod).await;
        }
        let (connection, inner) = websocket::Connection::tunnel(transport);
        // The outer connection ends when the inner one has: its pipe is the only thing that it carries.
        tokio::join!(serve(inner, pod), connection.finish());
    })
}

/// Speaks SPDY on a transport, and carries each pair of streams.
async fn serve(transport: impl AsyncRead + AsyncWrite + Send + 'static, pod: Pod) {
    let mut connection = spdy::Connection::open(transport);
    let mut pairs = Pairs::default();
    // All of them end with the connection.
    let mut carried = JoinSet::new();
    while let Some(stream) = connection.streams.recv().await {
        while carried.try_join_next().is_some() {}
        if let Some((port, data, error)) = pairs.add(stream) {
            carried.spawn(carry(pod.clone(), port, data, error));
        }
    }
}

/// Streams whose other half has not come. There are no more of them than streams.
#[derive(Default)]
struct Pairs {
    halves: HashMap<String, Half>,
}

#[derive(Default)]
struct Half {
    data: Option<DuplexStream>,
    error: Option<DuplexStream>,
}

impl Pairs {
    /// The port and both streams, when this one completes a pair.
    fn add(&mut self, stream: spdy::Stream) -> Option<(String, DuplexStream, DuplexStream)> {
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let (id, port, kind) = (header("requestid"), header("port"), header("streamtype"));
        let mut half = self.halves.remove(&id).unwrap_or_default();
        match kind.as_str() {
            "data" => half.data = Some(stream.pipe),
            "error" => half.error = Some(stream.pipe),
            _ => tracing::debug!(kind, "a stream of an unknown kind"),
        }
        match half {
            Half { data: Some(data), error: Some(error) } => Some((port, data, error)),
            half => {
                self.halves.insert(id, half);
                None
            }
        }
    }
}

/// Connects, and carries bytes both ways until both ends are done.
async fn carry(pod: Pod, port: String, mut data: DuplexStream, mut error: DuplexStream) {
    let failure = match connect(&pod, &port).await {
        Ok(mut stream) => match tokio::io::copy_bidirectional(&mut data, &mut stream).await {
            Ok(_) => return,
            // Whoever broke it off knows.
            Err(error) => return tracing::debug!(port, %error, "forwarded connection broke"),
        },
        Err(why) => format!("error forwarding port {port} to pod {}: {why}", pod.name),
    };
    // Where it cannot be told the client has gone.
    let _ = error.write_all(failure.as_bytes()).await;
    let _ = error.shutdown().await;
}

async fn connect(pod: &Pod, port: &str) -> Result<TcpStream, String> {
    let number = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| format!("{port:?} is not a port"))?;
    let request = PortRequest { namespace: pod.namespace.clone(), pod: pod.name.clone(), port: number };
    (pod.source)(request).await
}

//! Answers of a server that exists only as functions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_compile::world::{Change, Object};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::BoxError;

use crate::watch::time::{Instant, sleep};

pub(super) type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
pub(super) type Answer = Result<Response<AnyBody>, BoxError>;

/// What was asked, and when.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) at: Instant,
    pub(super) path: String,
}

pub(super) type Log = Arc<Mutex<Vec<Asked>>>;

/// A client whose every request is answered by a function; and what was asked.
pub(super) fn client<F, W>(answer: F) -> (Client, Log)
where
    F: Fn(String) -> W + Send + Sync + 'static,
    W: Future<Output = Answer> + Send + 'static,
{
    let log = Log::default();
    let heard = log.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let path = request.uri().to_string();
        heard.lock().unwrap().push(Asked { at: Instant::now(), path: path.clone() });
        answer(path)
    });
    (Client::new(service, "default"), log)
}

/// A whole answer.
pub(super) fn text(status: u16, text: impl Into<String>) -> Answer {
    let body = Full::new(Bytes::from(text.into())).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(status).body(body).unwrap())
}

/// A refusal, with the seconds after which to come again.
pub(super) fn refusal(status: u16, retry_after: Option<u64>) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "no"}).to_string();
    let mut answer = text(status, body)?;
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert("retry-after", seconds.into());
    }
    Ok(answer)
}

/// Nobody is there.
pub(super) fn unreachable() -> Answer {
    Err("connection refused".into())
}

/// An object as the API shows it.
pub(super) fn object(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version.to_string()}, "spec": {}})
}

/// A list.
pub(super) fn list(version: u64, names: &[&str], next: &str) -> String {
    let items: Vec<Value> = names.iter().map(|name| object(name, 1)).collect();
    json!({"kind": "List", "metadata": {"resourceVersion": version.to_string(), "continue": next}, "items": items}).to_string()
}

/// An event's line.
pub(super) fn event(kind: &str, object: Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

/// A bookmark's line.
pub(super) fn bookmark(version: u64) -> String {
    event("BOOKMARK", json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()}}))
}

/// The ERROR event of a watch that came too late.
pub(super) fn gone() -> String {
    event("ERROR", json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"}))
}

/// How a stream of text goes on after its last piece.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    /// It ends well.
    Ends,
    /// The connection breaks.
    Breaks,
    /// Nothing more ever comes.
    Hangs,
}

/// An answer in pieces, one every so often.
pub(super) fn pieces(pieces: Vec<String>, every: Duration, then: Then) -> Answer {
    let pieces = futures::stream::iter(pieces).then(move |piece| async move {
        sleep(every).await;
        Ok(Frame::data(Bytes::from(piece)))
    });
    let end = futures::stream::once(async move {
        match then {
            Then::Ends => None,
            Then::Breaks => Some(Err(BoxError::from("connection reset"))),
            Then::Hangs => std::future::pending().await,
        }
    });
    let body = StreamBody::new(pieces.chain(end.filter_map(|last| async { last }))).boxed_unsync();
    Ok(Response::new(body))
}

/// An answer that goes on as long as lines come; an error breaks it.
pub(super) fn stream(lines: mpsc::UnboundedReceiver<Result<String, String>>) -> Answer {
    let frames = futures::stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((line.map(|line| Frame::data(Bytes::from(line))).map_err(BoxError::from), lines))
    });
    Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
}

/// A change in words.
pub(super) fn told(change: &Change) -> String {
    let name = |object: &Object| object.key().name.to_string();
    match change {
        Change::Replace(_, objects) => objects.iter().fold("=".to_owned(), |all, object| format!("{all} {}", name(object))),
        Change::Upsert(object) => format!("+ {}", name(object)),
        Change::Delete(key) => format!("- {}", key.name),
        other => format!("{other:?}"),
    }
}

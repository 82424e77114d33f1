//! How the proxy answers: as the API does, but for what is wrong with it.

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tower::BoxError;

use super::{Ending, Fault, Proxy, lock};

type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// Answers one request; what goes wrong with the API itself is a 502, as of any proxy.
pub(super) async fn answer(proxy: &Proxy, request: Request<Incoming>) -> Result<Response<AnyBody>, BoxError> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_get = request.method() == Method::GET;
    let is_watch = is_get && query.contains("watch=true");
    // Cluster-wide lists, which are all that agents ask for: /api/v1/pods, /apis/GROUP/v1/NAME.
    let parts = request.uri().path().split('/').count();
    let is_list = is_get && !is_watch && parts == if request.uri().path().starts_with("/apis/") { 5 } else { 4 };
    {
        let mut counts = lock(&proxy.counts);
        match () {
            () if is_watch => counts.watches += 1,
            () if is_list => counts.lists += 1,
            () => counts.others += 1,
        }
    }
    let wanted = lock(&proxy.token).clone().map(|token| format!("Bearer {token}"));
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if wanted.is_some() && wanted.as_deref() != given {
        return refusal(401);
    }
    let fault = lock(&proxy.fault).clone();
    let node = is_get && request.uri().path().starts_with("/api/v1/nodes/");
    if let Fault::Refuses(code) = fault {
        return refusal(code);
    }
    // Of an old store too: the look that follows an empty list may come when the fault is the next one already.
    if node && matches!(fault, Fault::EmptyLists | Fault::OldLists) {
        return refusal(404);
    }
    let outcome = if is_list && fault != Fault::None {
        faulty_list(proxy, request, &fault, &query).await
    } else if is_watch {
        watch(proxy, request).await
    } else {
        forward(proxy, request).await.map(|answer| answer.map(|body| body.map_err(Into::into).boxed_unsync()))
    };
    outcome.or_else(|error| {
        eprintln!("proxy: {error:#}");
        refusal(502)
    })
}

fn refusal(code: u16) -> Result<Response<AnyBody>, BoxError> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "as the test says"});
    let mut answer = whole(&body);
    *answer.status_mut() = http::StatusCode::from_u16(code)?;
    if code == 429 {
        answer.headers_mut().insert(header::RETRY_AFTER, 1.into());
    }
    Ok(answer)
}

fn whole(body: &Value) -> Response<AnyBody> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

async fn forward(proxy: &Proxy, request: Request<Incoming>) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path_and_query().context("a request without a path")?.as_str();
    let mut passed = Request::builder().method(head.method).uri(path).body(Body::from(body))?;
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = head.headers.get(&name) {
            passed.headers_mut().insert(name, value.clone());
        }
    }
    Ok(proxy.upstream.send(passed).await?)
}

async fn watch(proxy: &Proxy, request: Request<Incoming>) -> Result<Response<AnyBody>> {
    let endings = proxy.endings.subscribe();
    let (head, body) = forward(proxy, request).await?.into_parts();
    let frames = futures::stream::unfold((body, endings, false), |(mut body, mut endings, ended)| async move {
        if ended {
            return None;
        }
        tokio::select! {
            ending = ended_by(&mut endings) => {
                let last = match ending {
                    Ending::Gone => Ok(Frame::data(Bytes::from(gone()))),
                    Ending::Breaks => Err(BoxError::from("broken as the test says")),
                };
                Some((last, (body, endings, true)))
            }
            frame = body.frame() => Some((frame?.map_err(BoxError::from), (body, endings, false))),
        }
    });
    Ok(Response::from_parts(head, StreamBody::new(frames.boxed()).boxed_unsync()))
}

async fn ended_by(endings: &mut broadcast::Receiver<Ending>) -> Ending {
    endings.recv().await.unwrap_or(Ending::Breaks)
}

fn gone() -> String {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired",
        "message": "too old resource version: as the test says"});
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}

async fn faulty_list(proxy: &Proxy, request: Request<Incoming>, fault: &Fault, query: &str) -> Result<Response<AnyBody>> {
    if *fault == Fault::ExpiresPages && query.contains("continue=") {
        return refusal(410).map_err(anyhow::Error::from_boxed);
    }
    let answer = forward(proxy, request).await?;
    if !answer.status().is_success() {
        return Ok(answer.map(|body| body.map_err(Into::into).boxed_unsync()));
    }
    let bytes = answer.into_body().collect().await?.to_bytes();
    let mut list: Value = serde_json::from_slice(&bytes).context("the API's list")?;
    let half = |list: &mut Value| {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        list["items"] = items.iter().take(items.len() / 2).cloned().collect();
    };
    match fault {
        Fault::CutsLists => {
            let first = Bytes::copy_from_slice(bytes.get(..bytes.len() / 2).unwrap_or_default());
            let frames = [Ok(Frame::data(first)), Err(BoxError::from("cut as the test says"))];
            return Ok(Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync()));
        }
        Fault::ExpiresPages => {
            half(&mut list);
            list["metadata"]["continue"] = json!("there-is-more");
        }
        Fault::EmptyLists => list["items"] = json!([]),
        Fault::OldLists => {
            half(&mut list);
            list["metadata"]["resourceVersion"] = json!("1");
        }
        Fault::None | Fault::Refuses(_) => {}
    }
    Ok(whole(&list))
}

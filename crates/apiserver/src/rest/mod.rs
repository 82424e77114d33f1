//! REST: from a request to an answer.
//!
//! Invariant: every fault is answered with a `Status`; nothing panics on a request of any form. Reference: the Kubernetes
//! API concepts; the API conventions.

mod body;
mod connect;
mod delete;
mod discovery;
mod follow;
mod logs;
mod openapi;
mod query;
mod read;
mod render;
mod review;
mod scale;
mod target;
mod write;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::Value;

pub(crate) use self::read::Snapshots;
pub(crate) use self::scale::selector_text;

use self::query::Query;
use self::target::{Route, Target};
use crate::error::ApiError;
use crate::kinds::Resource;
use crate::server::LogSource;
use crate::store::Store;
use crate::stream::{ExecSource, PortSource};

/// What an answer is made of.
pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What every request is answered from.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) tokens: RwLock<BTreeMap<String, String>>,
    pub(crate) pod_logs: Option<LogSource>,
    pub(crate) pod_exec: Option<ExecSource>,
    pub(crate) pod_ports: Option<PortSource>,
    pub(crate) bookmark_interval: Duration,
    pub(crate) snapshots: Snapshots,
}

/// A request for a resource, taken apart.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) resource: Arc<Resource>,
    pub(crate) query: Query,
    pub(crate) accept: String,
    pub(crate) content_type: String,
    /// Name of the program that calls, for managedFields.
    pub(crate) agent: String,
}

impl Context {
    /// Answers a request; faults become a `Status`.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.route(request).await.unwrap_or_else(|fault| failure(&fault));
        tracing::debug!(%method, path, code = answer.status().as_u16(), "answered");
        answer
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer, ApiError> {
        let route = Route::of_path(request.uri().path())?;
        if let Route::Open(path) = &route {
            return discovery::open(path);
        }
        let user = self.user_of(request.headers())?;
        let accept = text_header(request.headers(), header::ACCEPT);
        match route {
            Route::Open(_) => Err(ApiError::NoSuchPath),
            Route::Discovery(place) => discovery::answer(&self.store.catalog(), &place, &accept),
            Route::OpenApi(document) => openapi::answer(&self.store.catalog(), document.as_deref()),
            Route::OldOpenApi => Ok(openapi::empty_v2(&accept)),
            Route::Review(kind) => review::answer(&request, kind, &user),
            Route::Resource(target) => self.answer_resource(request, target, accept).await,
        }
    }

    fn user_of(&self, headers: &http::HeaderMap) -> Result<String, ApiError> {
        let given = text_header(headers, header::AUTHORIZATION);
        let token = given.strip_prefix("Bearer ").ok_or(ApiError::Unauthorized)?;
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.get(token.trim()).cloned().ok_or(ApiError::Unauthorized)
    }

    async fn answer_resource(&self, request: Request<Incoming>, target: Target, accept: String) -> Result<Answer, ApiError> {
        let catalog = self.store.catalog();
        let resource = catalog.served(&target.group, &target.version, &target.plural).ok_or(ApiError::NoSuchPath)?;
        if target.namespace.is_some() && !resource.namespaced {
            return Err(ApiError::NoSuchPath);
        }
        let agent = text_header(request.headers(), header::USER_AGENT);
        let call = Call {
            method: request.method().clone(),
            resource: Arc::clone(resource),
            query: Query::parse(request.uri().query().unwrap_or_default()),
            accept,
            content_type: text_header(request.headers(), header::CONTENT_TYPE),
            agent: agent.split('/').next().unwrap_or_default().to_owned(),
            target,
        };
        if Self::is_connection(&call) {
            return self.connect(&call, request);
        }
        let body = body::collect(request.into_body()).await?;
        self.dispatch(&call, &body)
    }

    fn dispatch(&self, call: &Call, body: &Bytes) -> Result<Answer, ApiError> {
        let named = call.target.name.is_some();
        match (call.target.subresource.as_deref(), named, call.method.as_str()) {
            (None | Some("status"), true, "GET") if !call.query.flag("watch") => self.get(call),
            (None, _, "GET") if call.query.flag("watch") => self.follow(call),
            (None, false, "GET") => self.list(call),
            (None, false, "POST") => self.create(call, body),
            (None | Some("status" | "finalize"), true, "PUT") => self.replace(call, body),
            (None | Some("status"), true, "PATCH") => self.patch(call, body),
            (None, true, "DELETE") => self.delete_one(call, body),
            (None, false, "DELETE") => self.delete_all(call, body),
            (Some("scale"), true, "GET" | "PUT" | "PATCH") => self.scale(call, body),
            (Some("log"), true, "GET") => self.log(call),
            (Some("binding"), true, "POST") => self.bind(call, body),
            (Some("eviction"), true, "POST") => self.evict(call, body),
            (Some("status" | "scale" | "log" | "binding" | "eviction" | "finalize" | "exec" | "portforward") | None, _, _) => {
                Err(ApiError::MethodNotAllowed)
            }
            (Some(_), _, _) => Err(ApiError::NoSuchPath),
        }
    }
}

/// A header as text; empty where it is absent or not text.
fn text_header(headers: &http::HeaderMap, name: header::HeaderName) -> String {
    let all: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    all.join(",")
}

/// An answer with a body that is complete.
pub(crate) fn full(code: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed_unsync());
    *answer.status_mut() = code;
    let content_type = header::HeaderValue::from_str(content_type);
    if let Ok(content_type) = content_type {
        answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    answer
}

/// An answer in JSON.
pub(crate) fn json_answer(code: StatusCode, value: &Value) -> Answer {
    full(code, "application/json", value.to_string())
}

/// The answer to a call that failed.
pub(crate) fn failure(fault: &ApiError) -> Answer {
    let code = StatusCode::from_u16(fault.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(code, &fault.to_status())
}

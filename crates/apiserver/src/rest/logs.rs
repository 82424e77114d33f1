//! `pods/NAME/log`. Reference: `PodLogOptions` of core/v1.

use std::convert::Infallible;

use futures::StreamExt as _;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use super::{Answer, Call, Context, write};
use crate::error::ApiError;
use crate::object;
use crate::server::LogRequest;

impl Context {
    pub(super) fn log(&self, call: &Call) -> Result<Answer, ApiError> {
        write::only_pods(call)?;
        let name = call.target.name.as_deref().unwrap_or_default();
        let pod = self.store.get(&call.resource.id, call.target.namespace.as_deref(), name)?;
        let source = self.pod_logs.as_ref().ok_or_else(|| ApiError::bad_request("this server keeps no logs of pods"))?;
        let size = |key: &str| Ok::<_, ApiError>(call.query.number(key)?.map(|number| usize::try_from(number).unwrap_or(usize::MAX)));
        let request = LogRequest {
            namespace: object::namespace(&pod).to_owned(),
            pod: name.to_owned(),
            container: container(&pod, call.query.text("container"))?,
            follow: call.query.flag("follow"),
            previous: call.query.flag("previous"),
            timestamps: call.query.flag("timestamps"),
            tail_lines: size("tailLines")?,
            since_seconds: call.query.number("sinceSeconds")?,
            limit_bytes: size("limitBytes")?,
        };
        let stream = source(request)?.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let mut answer = Response::new(StreamBody::new(stream).boxed_unsync());
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
        Ok(answer)
    }
}

/// The container that a call means: the one it names, or the only one.
pub(super) fn container(pod: &Value, wanted: &str) -> Result<String, ApiError> {
    let all = object::items(pod, "/spec/containers").chain(object::items(pod, "/spec/initContainers"));
    let names: Vec<&str> = all.map(|container| object::text(container, "/name")).collect();
    let main = object::items(pod, "/spec/containers").len();
    match names.as_slice() {
        [only, ..] if wanted.is_empty() && main == 1 => Ok((*only).to_owned()),
        names if names.contains(&wanted) => Ok(wanted.to_owned()),
        names if wanted.is_empty() => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            object::name(pod),
            names.join(" ")
        ))),
        _ => Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {}", object::name(pod)))),
    }
}

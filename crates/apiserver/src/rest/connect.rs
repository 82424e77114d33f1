//! `pods/NAME/exec` and `pods/NAME/portforward`: calls that end in a connection of another protocol.
//!
//! Reference: `PodExecOptions` and `PodPortForwardOptions` of core/v1.

use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::{Answer, Call, Context, full, logs, write};
use crate::error::ApiError;
use crate::object;
use crate::stream::{self, ExecRequest, Offer, Pod};

impl Context {
    /// Whether a call is one of these: its body must not be read.
    pub(super) fn is_connection(call: &Call) -> bool {
        matches!(call.target.subresource.as_deref(), Some("exec" | "portforward")) && matches!(call.method.as_str(), "GET" | "POST")
    }

    pub(super) fn connect(&self, call: &Call, mut request: Request<Incoming>) -> Result<Answer, ApiError> {
        write::only_pods(call)?;
        if call.target.subresource.as_deref() == Some("exec") { self.exec(call, &mut request) } else { self.forward(call, &mut request) }
    }

    fn exec(&self, call: &Call, request: &mut Request<Incoming>) -> Result<Answer, ApiError> {
        let pod = self.store.get(&call.resource.id, call.target.namespace.as_deref(), call.name())?;
        let source = self.pod_exec.as_ref().ok_or_else(|| ApiError::bad_request("this server runs nothing in pods"))?;
        let tty = call.query.flag_or("tty", false);
        let wanted = ExecRequest {
            namespace: object::namespace(&pod).to_owned(),
            pod: call.name().to_owned(),
            container: logs::container(&pod, call.query.text("container"))?,
            command: call.query.all("command").to_vec(),
            stdin: call.query.flag_or("stdin", false),
            stdout: call.query.flag_or("stdout", true),
            // A terminal has one output.
            stderr: call.query.flag_or("stderr", true) && !tty,
            tty,
        };
        if wanted.command.first().is_none_or(String::is_empty) {
            return Err(ApiError::bad_request("you must specify at least one command for the container"));
        }
        if !(wanted.stdin || wanted.stdout || wanted.stderr) {
            return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        has_node(&pod, call)?;
        let offer = Offer::of(request.headers())?;
        match source(wanted.clone()) {
            Ok(run) => stream::exec(&offer, request, &wanted, run),
            // A kubelet says it in plain text, and clients show that as it is.
            Err(why) => Ok(full(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", why)),
        }
    }

    fn forward(&self, call: &Call, request: &mut Request<Incoming>) -> Result<Answer, ApiError> {
        let pod = self.store.get(&call.resource.id, call.target.namespace.as_deref(), call.name())?;
        let source = self.pod_ports.clone().ok_or_else(|| ApiError::bad_request("this server does not reach the ports of pods"))?;
        has_node(&pod, call)?;
        let offer = Offer::of(request.headers())?;
        stream::forward(&offer, request, Pod { namespace: object::namespace(&pod).to_owned(), name: call.name().to_owned(), source })
    }
}

fn has_node(pod: &serde_json::Value, call: &Call) -> Result<(), ApiError> {
    if object::text(pod, "/spec/nodeName").is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", call.name())));
    }
    Ok(())
}

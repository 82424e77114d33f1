//! What the API asks for in pods: commands run in their containers, connections to their ports.
//!
//! A command enters its container as `bowline lab exec` does: its namespaces, its cgroup, its environment, its files.
//! Invariant: a command ends at the latest with the connection of the one who wanted it.

mod piped;
mod terminal;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bowline_apiserver::stream::{ExecRequest, ExecSource, ExecStreams, PortRequest, PortSource};
use bowline_kernel::netns::NetNs;
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Lab;
use crate::control::{Target, Whom};
use crate::enter::Enter;

/// How long a connection to a pod's port may take.
const CONNECTING: Duration = Duration::from_secs(10);
/// A command may leave processes behind that hold its output open: once it has ended, so long is waited for more.
const SILENCE: Duration = Duration::from_millis(500);

/// What answers `kubectl exec`.
pub(super) fn commands(lab: &Arc<Lab>) -> ExecSource {
    let lab = Arc::clone(lab);
    Arc::new(move |request| {
        let (namespace, name, container) = (request.namespace.clone(), request.pod.clone(), request.container.clone());
        let target = lab.find(&Whom::Pod { namespace, name, container: Some(container) });
        let target = target.map_err(|_| format!("container not found ({:?})", request.container))?;
        Ok(Box::new(move |streams| Box::pin(run(target, request, streams))))
    })
}

async fn run(target: Target, request: ExecRequest, streams: ExecStreams) -> Result<i32, String> {
    let mut enter = Enter::of(target.pid, target.cgroup, request.command);
    enter.env = target.env;
    let status = if request.tty { terminal::run(enter, streams).await } else { piped::run(&enter, streams).await };
    let status = status.map_err(|error| format!("error executing command in container: {error:#}"))?;
    Ok(code(status))
}

/// The exit code; of a signal as shells count it.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// Ends when a command that has ended has been silent for a while.
async fn silence(ended: &CancellationToken) {
    ended.cancelled().await;
    tokio::time::sleep(SILENCE).await;
}

/// What answers `kubectl port-forward`.
pub(super) fn ports(lab: &Arc<Lab>) -> PortSource {
    let lab = Arc::clone(lab);
    Arc::new(move |request| Box::pin(connect(Arc::clone(&lab), request)))
}

/// Connects to a port on the pod's loopback interface, of whichever family answers.
async fn connect(lab: Arc<Lab>, request: PortRequest) -> Result<TcpStream, String> {
    let whom = Whom::Pod { namespace: request.namespace, name: request.pod, container: None };
    let target = lab.find(&whom).map_err(|error| format!("{error:#}"))?;
    let mut failures = Vec::new();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, request.port);
        let attempt = async { socket(target.pid, address).await?.connect(address).await.map_err(anyhow::Error::from) };
        match tokio::time::timeout(CONNECTING, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failures.push(format!("{address}: {error:#}")),
            Err(_) => failures.push(format!("{address}: no answer in {} s", CONNECTING.as_secs())),
        }
    }
    Err(format!("failed to connect inside the pod: {}", failures.join("; ")))
}

/// A socket that is opened in the network of a process, and stays there.
async fn socket(pid: u32, address: SocketAddr) -> Result<TcpSocket> {
    let opened = tokio::task::spawn_blocking(move || -> Result<socket2::Socket> {
        let open = || socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
        let socket = NetNs::of_process(pid)?.run(open)??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    Ok(TcpSocket::from_std_stream(opened.await??.into()))
}

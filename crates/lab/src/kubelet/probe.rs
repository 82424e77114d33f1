//! Readiness and liveness probes, from the node's own network as kubelet makes them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bowline_kernel::netns::NetNs;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Kubelet;
use super::env::Env;
use crate::enter::Enter;

/// What a probe needs to know of the container.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// The container.
    pub(super) container: Container,
    /// The pod's primary address.
    pub(super) ip: IpAddr,
    /// The container's process.
    pub(super) pid: u32,
    /// The pod's cgroup.
    pub(super) cgroup: std::path::PathBuf,
    /// The container's environment.
    pub(super) env: Env,
}

/// Probes until it is stopped, and calls `changed` each time when readiness is another. It begins as not ready.
pub(super) async fn keep<F: Future<Output = ()>>(kubelet: &Kubelet, wanted: &Probe, subject: &Subject, mut changed: impl FnMut(bool) -> F) {
    tokio::time::sleep(seconds(wanted.initial_delay_seconds, 0)).await;
    let threshold = |wanted: Option<i32>, default: i32| wanted.unwrap_or(default).max(1);
    let (mut ready, mut good, mut bad) = (false, 0, 0);
    loop {
        match attempt(kubelet, wanted, subject).await {
            Ok(()) => (good, bad) = (good + 1, 0),
            Err(error) => {
                tracing::debug!(container = subject.container.name, error = format!("{error:#}"), "probe failed");
                (good, bad) = (0, bad + 1);
            }
        }
        let now = if ready { bad < threshold(wanted.failure_threshold, 3) } else { good >= threshold(wanted.success_threshold, 1) };
        if now != ready {
            ready = now;
            changed(ready).await;
        }
        tokio::time::sleep(period(wanted, ready)).await;
    }
}

/// Probes until it has failed as often in a row as the container may.
pub(super) async fn until_dead(kubelet: &Kubelet, wanted: &Probe, subject: &Subject) {
    tokio::time::sleep(seconds(wanted.initial_delay_seconds, 0)).await;
    let mut bad = 0;
    while bad < wanted.failure_threshold.unwrap_or(3).max(1) {
        tokio::time::sleep(period(wanted, true)).await;
        match attempt(kubelet, wanted, subject).await {
            Ok(()) => bad = 0,
            Err(_) => bad += 1,
        }
    }
}

/// Pause between probes: shorter until the first success, so that nobody waits for a server that is there.
fn period(probe: &Probe, ready: bool) -> Duration {
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    if ready { period } else { period.min(Duration::from_millis(200)) }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

/// Makes one probe.
async fn attempt(kubelet: &Kubelet, probe: &Probe, subject: &Subject) -> Result<()> {
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    tokio::time::timeout(limit, make(kubelet, probe, subject)).await.context("no answer in time")?
}

async fn make(kubelet: &Kubelet, probe: &Probe, subject: &Subject) -> Result<()> {
    if let Some(action) = &probe.http_get {
        return http_get(kubelet, action, subject).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let host = action.host.as_deref();
        return connect(kubelet, address(subject, host, &action.port)?).await.map(|_| ());
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).context("port")?;
        return connect(kubelet, SocketAddr::new(subject.ip, port)).await.map(|_| ());
    }
    if let Some(action) = &probe.exec {
        return exec(action.command.clone().unwrap_or_default(), subject).await;
    }
    bail!("a probe of an unknown kind")
}

fn address(subject: &Subject, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr> {
    let port = match port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => subject
            .container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .with_context(|| format!("no port named {name}"))?,
    };
    let ip = match host.filter(|host| !host.is_empty()) {
        Some(host) => host.parse().with_context(|| format!("host {host:?} is not an address"))?,
        None => subject.ip,
    };
    Ok(SocketAddr::new(ip, u16::try_from(port).context("port")?))
}

/// Connects from the node: the socket is opened in its network and stays there.
async fn connect(kubelet: &Kubelet, to: SocketAddr) -> Result<TcpStream> {
    let node = kubelet.node.holder.pid();
    let socket = tokio::task::spawn_blocking(move || -> Result<socket2::Socket> {
        let open = || socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None);
        let socket = NetNs::of_process(node)?.run(open)??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
    .await??;
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    socket.connect(to).await.with_context(|| format!("connect to {to}"))
}

async fn http_get(kubelet: &Kubelet, action: &HTTPGetAction, subject: &Subject) -> Result<()> {
    let to = address(subject, action.host.as_deref(), &action.port)?;
    let mut stream = connect(kubelet, to).await?;
    if action.scheme.as_deref() == Some("HTTPS") {
        // The certificate would not be looked at anyway.
        return Ok(());
    }
    let path = action.path.as_deref().filter(|path| path.starts_with('/')).unwrap_or("/");
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/1.32\r\nConnection: close\r\n");
    for header in action.http_headers.iter().flatten() {
        let clean = |text: &str| text.replace(['\r', '\n'], " ");
        request.push_str(&format!("{}: {}\r\n", clean(&header.name), clean(&header.value)));
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.context("no HTTP answer")?;
    let text = String::from_utf8_lossy(&head);
    let status: u16 = text.rsplit(' ').next().and_then(|code| code.parse().ok()).context("no HTTP answer")?;
    if (200..400).contains(&status) { Ok(()) } else { bail!("HTTP status {status}") }
}

async fn exec(argv: Vec<String>, subject: &Subject) -> Result<()> {
    let mut enter = Enter::of(subject.pid, subject.cgroup.clone(), argv);
    enter.env = Some(subject.env.clone());
    let mut command = tokio::process::Command::from(enter.command()?);
    command.kill_on_drop(true).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let status = command.status().await?;
    if status.success() { Ok(()) } else { bail!("the command ended with {status}") }
}

//! Connections that carry a pod's streams: `pods/exec` and `pods/portforward`, over WebSocket and over SPDY/3.1.
//!
//! What is done in a pod is not known here: the server is given an [`ExecSource`] and a [`PortSource`]. Invariant: nothing
//! is switched to another protocol before the pod's side has agreed, so that whatever can be refused is refused by an
//! HTTP status. Reference: the remote command and port forward protocols of Kubernetes (`v4.channel.k8s.io`,
//! `v5.channel.k8s.io`, `portforward.k8s.io`); KEP 4006.

mod exec;
mod forward;
mod link;
mod spdy;
mod upgrade;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;
use tokio::sync::watch;

pub(crate) use self::exec::exec;
pub(crate) use self::forward::{Pod, forward};
pub(crate) use self::upgrade::{Offer, Upgrades};

/// How long a peer that has been told of the end may stay.
const FAREWELL: Duration = Duration::from_secs(5);

/// A command that is to be run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container; never empty.
    pub container: String,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Whether the caller sends standard input.
    pub stdin: bool,
    /// Whether it wants standard output.
    pub stdout: bool,
    /// Whether it wants standard error; never with a terminal.
    pub stderr: bool,
    /// Whether the command is to have a terminal.
    pub tty: bool,
}

/// The far ends of a command's streams. Each that is dropped ends its stream for the caller.
#[derive(Debug)]
pub struct ExecStreams {
    /// What the caller sends.
    pub stdin: Option<DuplexStream>,
    /// What the caller reads.
    pub stdout: Option<DuplexStream>,
    /// What the caller reads apart from that.
    pub stderr: Option<DuplexStream>,
    /// Size of the caller's terminal, as it changes.
    pub size: watch::Receiver<Option<TerminalSize>>,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// A command that can be run: ends with its exit code, or with why it has none. Dropped meanwhile, it ends the command.
pub type ExecRun = Box<dyn FnOnce(ExecStreams) -> BoxFuture<'static, Result<i32, String>> + Send>;

/// Finds the container for a command, or says why there is none that runs. Called on the runtime: it must not block.
pub type ExecSource = Arc<dyn Fn(ExecRequest) -> Result<ExecRun, String> + Send + Sync>;

/// A port of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortRequest {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// A TCP port on the pod's loopback interface.
    pub port: u16,
}

/// Connects to a port of a pod, or says why that fails.
pub type PortSource = Arc<dyn Fn(PortRequest) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

//! What `bowline status` shows of one node, and the socket that tells it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bowline_model::Problem;
use bowline_model::intent::routes::BackendConf;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::apply::Applied;
use super::config::ServiceMode;
use super::turn::{Counts, Published};

/// One node as its agent sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    /// Always `bowline.io/v1`.
    pub(crate) api_version: String,
    /// Always `NodeStatus`.
    pub(crate) kind: String,
    /// The node's name.
    pub(crate) node: String,
    /// `starting`, `ok` or `degraded`.
    pub(crate) state: String,
    /// Backend in one word.
    pub(crate) backend: String,
    /// How services are served.
    pub(crate) mode: String,
    /// Pods attached to the node.
    pub(crate) pods: usize,
    /// Every input has been listed once and is in the kernel.
    pub(crate) synced: bool,
    /// Revision that was compiled last.
    pub(crate) revision: u64,
    /// Revision that is in the kernel.
    pub(crate) applied_revision: u64,
    /// Objects that the last change wrote or removed.
    pub(crate) last_written: usize,
    /// Objects written or removed since the agent started.
    pub(crate) written_total: u64,
    /// Microseconds that the last change took from intent to kernel.
    pub(crate) last_us: u64,
    /// Seconds since the agent started.
    pub(crate) age_secs: u64,
    /// What the cluster holds.
    pub(crate) cluster: Counts,
    /// What someone must act on.
    pub(crate) problems: Vec<Problem>,
}

/// What the teller needs.
#[derive(Clone)]
pub(crate) struct Teller {
    /// The node's name.
    pub(crate) node: String,
    /// Its backend.
    pub(crate) backend: BackendConf,
    /// How services are served.
    pub(crate) mode: ServiceMode,
    /// From the turn.
    pub(crate) published: watch::Receiver<Published>,
    /// From the kernel thread.
    pub(crate) applied: watch::Receiver<Applied>,
    /// When the agent started.
    pub(crate) started: std::time::Instant,
}

impl Teller {
    /// The node as it is now.
    pub(crate) fn status(&self) -> NodeStatus {
        let (published, applied) = (self.published.borrow(), self.applied.borrow());
        let mut problems: Vec<Problem> = published.problems.iter().chain(applied.problems.iter()).cloned().collect();
        problems.sort();
        problems.dedup();
        let synced = published.synced && applied.intent.revision > 0;
        let state = match (synced, problems.is_empty()) {
            (false, _) => "starting",
            (true, true) => "ok",
            (true, false) => "degraded",
        };
        NodeStatus {
            api_version: "bowline.io/v1".into(),
            kind: "NodeStatus".into(),
            node: self.node.clone(),
            state: state.into(),
            backend: backend_word(&self.backend).into(),
            mode: self.mode.word().into(),
            pods: applied.intent.pods.pods.len(),
            synced,
            revision: published.intent.revision,
            applied_revision: applied.intent.revision,
            last_written: applied.last_written,
            written_total: applied.written_total,
            last_us: applied.last_us,
            age_secs: self.started.elapsed().as_secs(),
            cluster: published.counts,
            problems,
        }
    }

    /// Whether the node serves: every input listed, and in the kernel.
    pub(crate) fn is_ready(&self) -> bool {
        self.published.borrow().synced && self.applied.borrow().intent.revision > 0
    }

    /// Answers each connection with the status as JSON and closes it.
    pub(crate) async fn serve(self, listener: UnixListener) {
        let teller = Arc::new(self);
        while let Ok((mut stream, _)) = listener.accept().await {
            let teller = teller.clone();
            tokio::spawn(async move {
                let bytes = serde_json::to_vec(&teller.status()).unwrap_or_default();
                let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&bytes)).await;
            });
        }
    }
}

/// The backend in one word, as it is chosen.
pub(crate) fn backend_word(backend: &BackendConf) -> &'static str {
    match backend {
        BackendConf::Vxlan { direct_routing: false, .. } => "vxlan",
        BackendConf::Vxlan { direct_routing: true, .. } => "vxlan+direct",
        BackendConf::HostGw => "host-gw",
    }
}

/// Asks the agent of this machine.
///
/// # Errors
/// When no agent answers in time, or what it says makes no sense.
pub(crate) fn ask(run_dir: &Path) -> std::io::Result<NodeStatus> {
    use std::io::Read;
    let mut stream = std::os::unix::net::UnixStream::connect(run_dir.join("agent.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

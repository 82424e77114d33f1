//! What `bowline status` shows of one node, and the socket that tells it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bowline_kernel::bpf::Tally;
use bowline_model::Problem;
use bowline_model::intent::routes::BackendConf;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::apply::Applied;
use super::config::ServiceMode;
use super::denials::{self, Denied};
use super::guard;
use super::network::Network;
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
    /// How services are to be served.
    pub(crate) mode: String,
    /// Packets of pods are carried past the stack.
    #[serde(default)]
    pub(crate) fast_path: bool,
    /// Pods attached to the node.
    pub(crate) pods: usize,
    /// Every input has been listed once and is in the kernel.
    pub(crate) synced: bool,
    /// Revision that was compiled last.
    pub(crate) revision: u64,
    /// Revision that is in the kernel.
    pub(crate) applied_revision: u64,
    /// Connections are still looked over that this revision may no longer allow.
    #[serde(default)]
    pub(crate) cutting: bool,
    /// Objects that the last change wrote or removed.
    pub(crate) last_written: usize,
    /// Objects written or removed since the agent started.
    pub(crate) written_total: u64,
    /// Microseconds that the last change took from intent to kernel.
    pub(crate) last_us: u64,
    /// Seconds since the agent started.
    pub(crate) age_secs: u64,
    /// Packets dropped at pods' links, by reason; reasons without any are left out.
    #[serde(default)]
    pub(crate) dropped_at_pods: BTreeMap<String, u64>,
    /// What policies deny most, in packets.
    #[serde(default)]
    pub(crate) denied: Vec<Denied>,
    /// What the cluster holds.
    pub(crate) cluster: Counts,
    /// What someone must act on.
    pub(crate) problems: Vec<Problem>,
    /// What the settings ask for or would use and does nothing here; all is well nevertheless.
    #[serde(default)]
    pub(crate) warnings: Vec<Problem>,
}

/// What can be wrong beside the intent and the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// The API server.
    Api,
    /// The Node's condition.
    Node,
    /// The runtime's configuration and the plugin.
    Install,
    /// The address of kube-proxy's `/healthz`.
    Healthz,
    /// The address of kube-proxy's `/metrics`.
    Metrics,
    /// Sysctls of connection tracking.
    Conntrack,
    /// Room in connection tracking.
    Tracking,
}

/// What the agent's own tasks say of themselves.
#[derive(Debug, Default)]
pub(crate) struct House {
    problems: Mutex<BTreeMap<Topic, Problem>>,
    installed: AtomicBool,
}

impl House {
    /// Something is wrong; it goes to the log once.
    pub(crate) fn set(&self, topic: Topic, problem: Problem) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        if problems.get(&topic) != Some(&problem) {
            tracing::warn!(place = problem.place, why = problem.why, fix = problem.fix, "{}: {}", problem.code, problem.what);
            problems.insert(topic, problem);
        }
    }

    /// What was said of it before goes by other words now; the log has it already.
    pub(crate) fn reword(&self, topic: Topic, problem: Problem) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).insert(topic, problem);
    }

    /// It is well again.
    pub(crate) fn clear(&self, topic: Topic) {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).remove(&topic);
    }

    /// What is wrong now.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The runtime has been told to use the plugin.
    pub(crate) fn set_installed(&self) {
        self.installed.store(true, Ordering::Relaxed);
    }

    /// Whether it has, by this process.
    pub(crate) fn is_installed(&self) -> bool {
        self.installed.load(Ordering::Relaxed)
    }
}

/// What the teller needs.
#[derive(Clone)]
pub(crate) struct Teller {
    /// The node's name.
    pub(crate) node: String,
    /// Its backend.
    pub(crate) backend: BackendConf,
    /// From the turn.
    pub(crate) published: watch::Receiver<Published>,
    /// From the kernel thread.
    pub(crate) applied: watch::Receiver<Applied>,
    /// From the agent's other tasks.
    pub(crate) house: Arc<House>,
    /// What the fast path has counted, where there is one.
    pub(crate) tally: Arc<OnceLock<Tally>>,
    /// What the settings ask for and does nothing here.
    pub(crate) warnings: Arc<[Problem]>,
    /// When the agent started.
    pub(crate) started: std::time::Instant,
}

/// How services are served, which is not as wanted where the kernel lacks something (a problem or a warning says what).
pub(crate) fn mode_in_force(applied: &Applied) -> ServiceMode {
    if applied.socket_hooks { ServiceMode::Ebpf } else { ServiceMode::Nftables }
}

impl Teller {
    /// The node as it is now.
    pub(crate) fn status(&self) -> NodeStatus {
        let (published, applied) = (self.published.borrow(), self.applied.borrow());
        let mut problems: Vec<Problem> = published.problems.iter().chain(applied.problems.iter()).cloned().collect();
        problems.extend(self.house.problems());
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
            backend: self.backend.word().into(),
            mode: mode_in_force(&applied).word().into(),
            fast_path: applied.fast_path,
            pods: applied.intent.pods.pods.len(),
            synced,
            revision: published.intent.revision,
            applied_revision: applied.intent.revision,
            cutting: applied.cutting,
            last_written: applied.last_written,
            written_total: applied.written_total,
            last_us: applied.last_us,
            age_secs: self.started.elapsed().as_secs(),
            dropped_at_pods: guard::dropped().into_iter().filter(|(_, n)| *n > 0).map(|(why, n)| (why.word().into(), n)).collect(),
            denied: denials::most_denied(&applied.intent.policy),
            cluster: published.counts,
            problems,
            warnings: self.warnings.iter().chain(applied.notices.iter()).cloned().collect(),
        }
    }

    /// Whether pods can come: what all of them need is in the kernel, and the runtime knows of the plugin. If not, why.
    ///
    /// # Errors
    /// What is waited for.
    pub(crate) fn ready(&self) -> Result<(), &'static str> {
        match Network::of(&self.published.borrow(), &self.applied.borrow()) {
            Network::Works if self.house.is_installed() => Ok(()),
            Network::Works => Err("waiting for the CNI configuration to be written"),
            other @ (Network::Unknown | Network::Fails(_)) => Err(other.words()),
        }
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

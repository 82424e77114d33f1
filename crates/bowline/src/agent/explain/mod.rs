//! The socket that answers `bowline explain`: a question in, one explanation with this node's kernel asked, and the end.

mod kernel;

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use bowline_compile::World;
use bowline_compile::codes;
use bowline_compile::explain::{Explainer, Explanation, Question};
use bowline_model::{Family, Problem};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::apply::Applied;

/// A client that takes longer to ask, or to take the answer, is cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the kernel may be behind the world that is explained.
const CATCH_UP: Duration = Duration::from_secs(2);

/// How long an answer may take altogether: with many services the kernel's table is long.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Longest question.
const QUESTION_MAX_BYTES: u64 = 8192;

/// Name of the socket in the run directory.
const SOCKET: &str = "explain.sock";

/// A question, as it is typed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// `SRC`.
    pub(crate) source: String,
    /// `DST[:PORT[/PROTOCOL]]`.
    pub(crate) destination: String,
    /// The namespace of names without one.
    pub(crate) namespace: String,
    /// The family, if it matters.
    pub(crate) family: Option<Family>,
}

/// What the agent says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// The explanation.
    Explained(Box<Explanation>),
    /// The question makes no sense in this cluster.
    Refused(Problem),
    /// It may make sense, but it could not be found out.
    Unknown(Problem),
}

impl Asked {
    /// The question that it is.
    ///
    /// # Errors
    /// BW4101 if it is none.
    pub(crate) fn question(&self) -> Result<Question, Problem> {
        let question = Question::parse(&self.source, &self.destination, &self.namespace)?;
        match (question.family, self.family) {
            (Some(Family::V6), Some(Family::V4)) => {
                let fix = "ask for icmp, or for the family ipv6";
                Err(Problem::new(codes::BAD_QUESTION, "ICMPv6 is not of IPv4", "DST", fix))
            }
            (said, asked) => Ok(Question { family: said.or(asked), ..question }),
        }
    }
}

/// The world of the turn with its revision; none before every input has been listed.
pub(crate) type Known = Option<(World, u64)>;

/// Where the world is asked for.
pub(crate) type Worlds = mpsc::Sender<oneshot::Sender<Known>>;

/// What an answer is made from.
#[derive(Clone)]
pub(crate) struct Explaining {
    /// The node's name.
    pub(crate) node: String,
    /// From the turn.
    pub(crate) worlds: Worlds,
    /// From the kernel thread.
    pub(crate) applied: watch::Receiver<Applied>,
}

impl Explaining {
    /// Answers one client after the other: each answer may read the kernel's whole table.
    pub(crate) async fn serve(self, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            if let Err(error) = self.answer(stream).await {
                tracing::debug!(%error, "a question was not answered");
            }
        }
    }

    async fn answer(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let (from, mut to) = stream.split();
        tokio::time::timeout(PATIENCE, from.take(QUESTION_MAX_BYTES).read_to_end(&mut bytes)).await??;
        let asked: Asked = serde_json::from_slice(&bytes)?;
        let answer = match asked.question() {
            Ok(question) => self.explain(question).await,
            Err(problem) => Answer::Refused(problem),
        };
        tokio::time::timeout(PATIENCE, to.write_all(&serde_json::to_vec(&answer)?)).await??;
        to.shutdown().await
    }

    async fn explain(&self, question: Question) -> Answer {
        let (to, from) = oneshot::channel();
        let sent = self.worlds.send(to).await.is_ok();
        let known = if sent { from.await.ok().flatten() } else { None };
        let Some((world, revision)) = known else {
            let fix = "wait for it: bowline status says what it waits for";
            return Answer::Unknown(Problem::new(1210, "the agent does not know the cluster yet", &*self.node, fix));
        };
        let mut applied = self.applied.clone();
        // Older rules are asked as well, and then it is said what they say.
        let _ = tokio::time::timeout(CATCH_UP, applied.wait_for(|applied| applied.intent.revision >= revision)).await;
        let applied = applied.borrow().clone();
        let node = self.node.clone();
        let explained = tokio::task::spawn_blocking(move || {
            let mtu_bytes = (applied.pod_mtu_bytes > 0).then_some(applied.pod_mtu_bytes);
            let mut explanation = Explainer::new(world, mtu_bytes).explain(&question)?;
            kernel::ask(&mut explanation, &node, &applied);
            Ok(explanation)
        });
        match tokio::time::timeout(ANSWER_WITHIN, explained).await {
            Ok(Ok(Ok(explanation))) => Answer::Explained(Box::new(explanation)),
            Ok(Ok(Err(problem))) => Answer::Refused(problem),
            Ok(Err(_)) | Err(_) => {
                let fix = "ask again; if it stays so, report it with the agent's log";
                Answer::Unknown(Problem::new(1210, "the agent did not come to an answer", &*self.node, fix))
            }
        }
    }
}

/// Listens in the run directory.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn listen(run_dir: &Path) -> anyhow::Result<UnixListener> {
    let listener = super::listen(&run_dir.join(SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// Asks the agent whose sockets are in `run_dir`.
///
/// # Errors
/// When no agent answers in time, or what it says makes no sense.
pub(crate) fn ask(run_dir: &Path, asked: &Asked) -> std::io::Result<Answer> {
    let mut stream = std::os::unix::net::UnixStream::connect(run_dir.join(SOCKET))?;
    stream.set_read_timeout(Some(ANSWER_WITHIN + PATIENCE))?;
    stream.write_all(&serde_json::to_vec(asked)?)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

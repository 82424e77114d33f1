//! What the commands ask of a running lab, over its control socket: one JSON line each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::place::Place;

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub(crate) enum Request {
    /// Where a command of a pod, a node or the client would run.
    Find {
        /// Whose.
        whom: Whom,
    },
    /// Start, stop or kill a node's agent.
    Agent {
        /// The node.
        node: String,
        /// What to do.
        verb: Verb,
        /// The executable that is started; the lab's own if none is given.
        program: Option<PathBuf>,
    },
    /// What is not ready, and why.
    Pending,
    /// Let the API answer, or not.
    Api {
        /// What to do; killing is stopping.
        verb: Verb,
    },
}

/// Where a command is to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Whom {
    /// In a pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its container; the first if none is given.
        container: Option<String>,
    },
    /// On a node.
    Node {
        /// Its name.
        name: String,
    },
    /// On the host outside.
    Client,
    /// On the router between them.
    Router,
}

/// What can be done to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// Start it if it does not run.
    Start,
    /// TERM, and wait for its end.
    Stop,
    /// KILL, and wait for its end.
    Kill,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub(crate) enum Reply {
    /// Where a command runs.
    Found(Target),
    /// It is done; what there is to say about it.
    Done {
        /// One sentence.
        text: String,
    },
    /// It could not be done.
    Refused {
        /// Why.
        why: String,
    },
}

/// A place for a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The process whose namespaces it joins, by its number in the lab.
    pub(crate) pid: u32,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// Its environment, where the caller's is not to be used.
    pub(crate) env: Option<std::collections::BTreeMap<String, String>>,
}

/// Asks a running lab.
pub(crate) fn ask(place: &Place, request: &Request) -> Result<Reply> {
    let socket = place.socket();
    let mut stream = UnixStream::connect(&socket).with_context(|| format!("connect to {}", socket.display()))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        bail!("lab {} ended without an answer", place.name);
    }
    Ok(serde_json::from_str(&line)?)
}

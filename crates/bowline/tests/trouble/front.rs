//! The side of the proxy that a check drives: started on the router, told by lines, ended by the end of its input; and the agents are
//! told to ask it instead of the API.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::common::generator::number;
use crate::common::lab::{BOWLINE, Lab, said};
use crate::common::objects::{NODES, myself};
use crate::proxy::ROLE;

/// The port that the proxy listens on, beside the API's.
pub(crate) const PORT: u16 = 16_443;

/// How long the proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a node keeps its token, so that it can be renewed.
const TOKEN_FILE: &str = "/etc/bowline/token";

/// Prints the kubeconfig with which the lab began.
const KUBECONFIG: &str =
    "test -e /etc/bowline/kubeconfig.api || cp /etc/bowline/kubeconfig /etc/bowline/kubeconfig.api; cat /etc/bowline/kubeconfig.api";

/// The proxy at work. Dropping it ends it.
pub(crate) struct Front {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    kubeconfig: tempfile::NamedTempFile,
    /// The token that the API takes.
    pub(crate) token: String,
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends with its input; the port is free for the next one when it has.
        let end = Instant::now() + PATIENCE / 10;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was asked of the proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
}

impl Front {
    /// Starts the proxy and lets the agents ask it from their next start on.
    pub(crate) fn up(lab: &Lab) -> Result<Front> {
        let text = said(&lab.node("n1", &["sh", "-c", KUBECONFIG])?).context("the agents' kubeconfig")?;
        let config: Value = serde_json::from_str(&text)?;
        let url: http::Uri = config["clusters"][0]["cluster"]["server"].as_str().context("no server in the kubeconfig")?.parse()?;
        let host = url.host().context("no host in the server's address")?;
        let address = host.trim_matches(['[', ']']).to_owned();
        let token = config["users"][0]["user"]["token"].as_str().context("no token in the kubeconfig")?.to_owned();
        let mut kubeconfig = tempfile::NamedTempFile::new()?;
        kubeconfig.write_all(text.as_bytes())?;

        let path = kubeconfig.path().display().to_string();
        let mut command = Command::new(BOWLINE);
        command.args(["lab", "router", "--name", lab.name(), "--", &myself()?, ROLE, &PORT.to_string(), &path, &address]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context("starting the proxy")?;
        let output = child.stdout.take().context("no output")?;
        let input = child.stdin.take();
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        let front = Front { child, input, lines, kubeconfig, token };
        let ca = front.line()?["ca"].as_str().context("no certificate of the proxy")?.to_owned();
        front.point(lab, &format!("https://{host}:{PORT}"), &ca)?;
        Ok(front)
    }

    fn line(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(PATIENCE).context("the proxy says nothing")?;
        serde_json::from_str(&line).with_context(|| line.clone())
    }

    /// Gives an order; what was asked since the one before.
    pub(crate) fn order(&mut self, order: &str) -> Result<Asked> {
        writeln!(self.input.as_mut().context("it was ended")?, "{order}").context("the proxy is gone")?;
        let counts = self.line().with_context(|| order.to_owned())?;
        let requests = number(&counts, "lists")? + number(&counts, "watches")? + number(&counts, "others")?;
        Ok(Asked { connections: number(&counts, "connections")?, requests })
    }

    /// Writes what the agents read at their start.
    fn point(&self, lab: &Lab, url: &str, ca: &str) -> Result<()> {
        ensure!(self.kubeconfig.path().exists(), "the API's kubeconfig is gone");
        let ca_file = "/etc/bowline/proxy.pem";
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": ca_file}}],
            "users": [{"name": "c", "user": {"tokenFile": TOKEN_FILE}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        for node in NODES {
            write(lab, node, ca_file, ca)?;
            write(lab, node, "/etc/bowline/kubeconfig", &config.to_string())?;
        }
        self.renew(lab, &self.token)
    }

    /// Gives the nodes another token.
    pub(crate) fn renew(&self, lab: &Lab, token: &str) -> Result<()> {
        NODES.iter().try_for_each(|node| write(lab, node, TOKEN_FILE, token))
    }
}

/// Writes a file of a node, whole or not at all.
fn write(lab: &Lab, node: &str, path: &str, text: &str) -> Result<()> {
    let output = lab.node(node, &["sh", "-c", "umask 077; printf %s \"$1\" > \"$2.new\" && mv \"$2.new\" \"$2\"", "sh", text, path])?;
    said(&output).map(|_| ()).with_context(|| format!("{node}: {path}: {}", String::from_utf8_lossy(&output.stderr)))
}

//! A node's agent: its files, its process, and starting and stopping it as an operator would.
//!
//! Invariant: an agent that ended is started again only when someone asks for it, so that what its absence means can be
//! looked at.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

use super::lab::{Node, log_file};
use super::{Api, Lab};
use crate::control::Verb;
use crate::enter::SELF;

/// How long a stopped agent has to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent of one node.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    child: Option<tokio::process::Child>,
}

/// Writes what the agents read.
pub(crate) fn write_files(lab: &Lab, api: &Api) -> Result<()> {
    for node in &lab.nodes {
        let config = node.path("/etc/bowline/agent.yaml");
        fs::write(&config, settings(lab, node)).with_context(|| format!("write {}", config.display()))?;
        let kubeconfig = node.path("/etc/bowline/kubeconfig");
        fs::write(&kubeconfig, api.node_kubeconfig(node.name())?)?;
        fs::set_permissions(&kubeconfig, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn settings(lab: &Lab, node: &Node) -> String {
    let options = &lab.options;
    let networks = |dual: &bowline_model::net::Dual<ipnet::IpNet>| {
        dual.values().map(|network| format!("\"{network}\"")).collect::<Vec<_>>().join(", ")
    };
    format!(
        "nodeName: {}\n\
         kubeconfig: /etc/bowline/kubeconfig\n\
         backend:\n\
         \x20 type: {}\n\
         \x20 directRouting: {}\n\
         serviceMode: {}\n\
         clusterCIDRs: [{}]\n\
         serviceCIDRs: [{}]\n\
         runDir: /run/bowline\n\
         stateDir: /var/lib/bowline\n\
         cniConfDir: /etc/cni/net.d\n\
         cniBinDir: /opt/cni/bin\n",
        node.name(),
        options.backend.word(),
        options.direct_routing,
        options.service_mode.word(),
        networks(&options.pod_cidr),
        networks(&options.service_cidr),
    )
}

/// Starts a node's agent if it does not run: this very build, or the executable that is given.
pub(crate) async fn start(lab: &Arc<Lab>, node: &Node, program: Option<PathBuf>) -> Result<String> {
    let mut agent = node.agent.lock().await;
    if agent.is_running()? {
        return Ok(format!("the agent of {} runs already", node.name()));
    }
    let program = program.map_or_else(|| SELF.to_owned(), |path| path.display().to_string());
    let argv = [program.as_str(), "agent", "--config", "/etc/bowline/agent.yaml"].map(str::to_owned).to_vec();
    let log = log_file(&lab.place.logs().join(format!("{}-agent.log", node.name())))?;
    let mut command = tokio::process::Command::from(node.enter(argv).command()?);
    let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("start the agent")?;
    tracing::info!(node = node.name(), pid = child.id(), "agent started");
    agent.child = Some(child);
    Ok(format!("the agent of {} is started", node.name()))
}

/// Does to a node's agent what was asked.
pub(crate) async fn conduct(lab: &Arc<Lab>, node: &str, verb: Verb, program: Option<PathBuf>) -> Result<String> {
    let node = lab.node(node)?;
    match verb {
        Verb::Start => start(lab, node, program).await,
        Verb::Stop => node.agent.lock().await.end(node, Signal::TERM).await,
        Verb::Kill => node.agent.lock().await.end(node, Signal::KILL).await,
    }
}

impl Agent {
    fn is_running(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// How it ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    async fn end(&mut self, node: &Node, signal: Signal) -> Result<String> {
        let Some(mut child) = self.child.take() else {
            return Ok(format!("the agent of {} does not run", node.name()));
        };
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) else {
            return Ok(format!("the agent of {} had ended before", node.name()));
        };
        rustix::process::kill_process(pid, signal).context("signal the agent")?;
        let status = match tokio::time::timeout(PATIENCE, child.wait()).await {
            Ok(status) => status?,
            Err(_) => {
                child.kill().await?;
                anyhow::bail!("the agent of {} did not end within 10 s of TERM and was killed", node.name());
            }
        };
        tracing::info!(node = node.name(), %status, "agent ended");
        Ok(format!("the agent of {} ended with {status}", node.name()))
    }
}

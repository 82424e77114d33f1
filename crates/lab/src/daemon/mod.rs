//! The lab's daemon: builds the machines and their network, then runs the API, the kubelets and the agents' supervision.
//!
//! It stays in the root network namespace and joins none; whatever belongs to a node is a process of its own there, or a
//! socket opened there.

mod agents;
mod api;
mod dns;
mod exec;
mod given;
mod lab;
mod listen;
mod logs;
mod own;
mod ready;
mod relay;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use api::Api;
pub(crate) use lab::{Lab, Node, PodPlace};
pub(crate) use logs::{forget_pod, pod_log};

use crate::kubelet;
use crate::options::{Agents, Options, Underlay};
use crate::place::Place;
use crate::progress::{self, Progress};

/// The hidden command's name.
pub(crate) const COMMAND: &str = "lab-daemon";

/// What is logged if nobody says otherwise. Whoever asks the API in vain says so; the client need not say it before.
const FILTER: &str = "info,kube_client::client::builder=off";

/// The hidden command: runs until it is killed, or until the start fails.
pub(crate) fn run(options: &str) -> u8 {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BOWLINE_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(FILTER)),
        )
        .init();
    let run = || -> Result<()> {
        let options: Options = serde_json::from_str(options).context("unreadable options")?;
        // Two providers are linked in by way of dependencies; one must be chosen for the process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(serve(options))
    };
    match run() {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            1
        }
    }
}

async fn serve(options: Options) -> Result<()> {
    if options.leashed {
        follow_leash(&options)?;
    }
    let mut report = Report { step: "underlay", detached: options.detached };
    let failure = match bring_up(options, &mut report).await {
        Ok(lab) => {
            report.send(&Progress::Ready)?;
            tracing::info!(lab = lab.options.name, "lab is ready");
            return std::future::pending().await;
        }
        Err(error) => error,
    };
    progress::report_failure(report.step, &failure);
    Err(failure)
}

/// Ends the lab when the process ends of which standard input is a descriptor.
fn follow_leash(options: &Options) -> Result<()> {
    let place = Place::of(&options.name);
    std::thread::Builder::new().name("leash".to_owned()).spawn(move || {
        let leash = rustix::stdio::stdin();
        let mut polled = [rustix::event::PollFd::new(&leash, rustix::event::PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut polled, None) {}
        tracing::info!("the process that wanted this lab has ended");
        let _ = std::fs::remove_dir_all(place.directory());
        std::process::exit(0);
    })?;
    Ok(())
}

/// Tells of steps as they are done.
struct Report {
    step: &'static str,
    detached: bool,
}

impl Report {
    /// `step` is done; `next` begins.
    fn done(&mut self, detail: String, next: &'static str) -> Result<()> {
        tracing::info!(step = self.step, detail, "step done");
        self.send(&Progress::Done { step: self.step.to_owned(), detail })?;
        self.step = next;
        Ok(())
    }

    /// Nobody listening means that `lab up` was killed: then half a lab is of no use to anyone.
    fn send(&self, event: &Progress) -> Result<()> {
        match progress::send(event) {
            Err(_) if self.detached => Ok(()),
            result => result.context("nobody waits for this lab any more"),
        }
    }
}

async fn bring_up(options: Options, report: &mut Report) -> Result<Arc<Lab>> {
    let lab = Arc::new(tokio::task::spawn_blocking(|| Lab::build(options)).await??);
    if lab.options.bare {
        listen::start(&lab, None)?;
        report.done(describe_underlay(&lab), "underlay")?;
        return Ok(lab);
    }
    report.done(describe_underlay(&lab), "api")?;

    let api = Arc::new(Api::start(&lab).await?);
    kubelet::start(&lab, &api)?;
    dns::apply(&lab, &api).await.context("start the cluster DNS")?;
    listen::start(&lab, Some(&api))?;
    report.done(api.about.clone(), "agents")?;

    // Also where none is started: someone may, one node at a time.
    agents::write_files(&lab, &api)?;
    if lab.options.agents == Agents::None {
        return Ok(lab);
    }
    for node in &lab.nodes {
        agents::start(&lab, node, None).await?;
    }
    api.wait_for_nodes(&lab).await?;
    report.done(format!("{0}/{0}", lab.nodes.len()), "pods")?;
    let pods = api.wait_for_pods(&lab).await?;
    report.done(format!("{pods}/{pods}"), "pods")?;
    Ok(lab)
}

fn describe_underlay(lab: &Lab) -> String {
    let nodes = lab.nodes.len();
    let plural = if nodes == 1 { "" } else { "s" };
    match lab.options.underlay {
        Underlay::Lan => format!("{nodes} node{plural}, one LAN"),
        Underlay::Routed => format!("{nodes} node{plural}, routed"),
    }
}

/// How often something that only polling shows is looked at while it is awaited.
pub(crate) const POLL: Duration = Duration::from_millis(100);

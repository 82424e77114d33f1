//! The end of a pod: its processes, its network, its object.

use std::time::Duration;

use anyhow::Result;
use kube::api::{DeleteParams, Preconditions};
use rustix::process::{Pid, Signal};

use super::super::cni::{self, Attachment};
use super::super::status::{self, Exit, State};
use super::super::volumes;
use super::{BACKOFF, Happening, REFRESH, RESTART, Sandbox, Worker};

impl Worker {
    /// Ends what runs, gives the network back, and lets the object go.
    pub(super) async fn finish(&mut self, sandbox: Option<Sandbox>) {
        if let Some(sandbox) = sandbox {
            let grace = self.grace();
            self.stop_containers(grace).await;
            self.kubelet.lab.set_pod(self.namespace(), self.name(), None);
            self.take_down(sandbox).await;
        }
        // Controllers are to see how it ended before it goes; a report that was lost is made again.
        while !self.desired.borrow().gone {
            self.report().await;
            if self.desired.borrow().ends() || self.pause(REFRESH).await {
                break;
            }
        }
        self.let_go().await;
    }

    fn grace(&self) -> Duration {
        let desired = self.desired.borrow();
        if desired.gone {
            return Duration::ZERO;
        }
        let meta = desired.pod.metadata.deletion_grace_period_seconds;
        let spec = desired.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(meta.or(spec).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30))
    }

    fn running(&self) -> Vec<u32> {
        self.containers
            .iter()
            .filter_map(|container| match container.state {
                State::Running { pid, .. } => Some(pid),
                State::Waiting { .. } | State::Ended(_) => None,
            })
            .collect()
    }

    /// TERM to every container, KILL to those that are left when the grace period is over.
    async fn stop_containers(&mut self, grace: Duration) {
        if self.running().is_empty() {
            return;
        }
        self.note("Normal", "Killing", "Stopping containers".to_owned());
        if !grace.is_zero() {
            signal(&self.running(), Signal::TERM);
            let _ = tokio::time::timeout(grace, self.all_exited()).await;
        }
        signal(&self.running(), Signal::KILL);
        let _ = tokio::time::timeout(RESTART.1, self.all_exited()).await;
        for container in &mut self.containers {
            container.comes_back = false;
        }
    }

    async fn all_exited(&mut self) {
        while !self.running().is_empty() {
            match self.happenings.1.recv().await {
                Some(Happening::Exited { index, pid, code }) => {
                    let now = self.containers.get(index).map(|container| container.state.clone());
                    if let (Some(State::Running { pid: now, since }), Some(container)) = (now, self.containers.get_mut(index))
                        && now == pid
                    {
                        container.state = State::Ended(Exit { code, since, at: status::now() });
                        container.ready = false;
                    }
                }
                Some(Happening::Probed { .. } | Happening::RestartDue { .. }) => {}
                None => return,
            }
        }
    }

    /// Gives the network back, then ends all that is left of the sandbox.
    pub(super) async fn take_down(&self, sandbox: Sandbox) {
        if let Some(attachment) = &sandbox.attachment {
            let mut wait = BACKOFF.0;
            while let Err(error) = self.detach(attachment).await {
                tracing::warn!(namespace = self.namespace(), name = self.name(), error = format!("{error:#}"), "pod not detached");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
        let directory = self.kubelet.node.path(volumes::pod_directory(&self.pod));
        let swept = tokio::task::spawn_blocking(move || {
            let cgroup = sandbox.cgroup.clone();
            drop(sandbox);
            let files = if directory.exists() { std::fs::remove_dir_all(&directory) } else { Ok(()) };
            crate::ns::remove_cgroup(&cgroup).and(files)
        })
        .await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(namespace = self.namespace(), name = self.name(), %error, "pod not swept");
        }
    }

    async fn detach(&self, attachment: &Attachment) -> Result<()> {
        cni::load(&self.kubelet.node)?.del(&self.kubelet.node, attachment).await
    }

    /// Removes the object, if it is still this pod.
    pub(super) async fn let_go(&self) {
        crate::daemon::forget_pod(&self.kubelet.lab, &self.pod);
        self.kubelet.tokens.forget(self.pod.metadata.uid.as_deref().unwrap_or_default());
        if self.desired.borrow().gone {
            return;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default().grace_period(0)
        };
        let pods = self.kubelet.pods(self.namespace());
        loop {
            match pods.delete(self.name(), &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(refusal)) if refusal.code == 404 || refusal.code == 409 => return,
                Err(error) => {
                    tracing::warn!(namespace = self.namespace(), name = self.name(), %error, "pod not removed");
                    tokio::time::sleep(BACKOFF.1).await;
                }
            }
        }
    }
}

/// Signals processes.
pub(super) fn signal(pids: &[u32], signal: Signal) {
    for pid in pids {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            // One that has just ended is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

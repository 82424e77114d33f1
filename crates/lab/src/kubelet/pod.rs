//! The life of one pod: sandbox, network, volumes, containers, readiness, end.
//!
//! One task owns all of it; what happens outside (exits, probes, the object's changes) reaches it as events.
//! Invariant: whatever ADD was called for is given to DEL before the object is let go.

mod end;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Patch, PatchParams};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::cni::{self, Attachment};
use super::container::{self, Started};
use super::env::{Env, Facts};
use super::probe::{self, Subject};
use super::status::{self, ContainerStatus, Exit, PodState, State};
use super::{Desired, Kubelet, offer, volumes};
use crate::daemon::PodPlace;
use crate::holder::{Holder, Holding, Kind};

/// First and longest pause before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// First and longest pause before a container that ended is started again.
const RESTART: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Why a pod waits before its node's network is there.
const NOT_READY: &str = "NetworkNotReady";
/// How often ConfigMaps and Secrets are looked at again.
const REFRESH: Duration = Duration::from_secs(5);

/// What holds a pod together.
pub(super) struct Sandbox {
    /// Its namespaces.
    pub(super) holder: Holder,
    /// Its cgroup.
    pub(super) cgroup: PathBuf,
    id: String,
    attachment: Option<Attachment>,
}

/// What happens to a pod's containers.
enum Happening {
    Exited { index: usize, pid: u32, code: i32 },
    Probed { index: usize, pid: u32, ready: bool },
    RestartDue { index: usize },
}

struct Worker {
    kubelet: Arc<Kubelet>,
    desired: watch::Receiver<Desired>,
    pod: Arc<Pod>,
    specs: Vec<Container>,
    containers: Vec<ContainerStatus>,
    environments: Vec<Env>,
    facts: Facts,
    since: String,
    volumes: BTreeMap<String, PathBuf>,
    happenings: (mpsc::Sender<Happening>, mpsc::Receiver<Happening>),
    reported: Value,
    failure: String,
}

/// Runs a pod from its binding to this node to its end.
pub(super) async fn run(kubelet: Arc<Kubelet>, desired: watch::Receiver<Desired>) {
    let pod = Arc::clone(&desired.borrow().pod);
    let done = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let mut worker = Worker::new(kubelet, desired, pod.clone());
    if matches!(done, Some("Succeeded" | "Failed")) {
        worker.deletion().await;
        return worker.let_go().await;
    }
    let sandbox = worker.bring_up().await;
    if let Some(sandbox) = &sandbox {
        worker.supervise(sandbox).await;
    }
    worker.finish(sandbox).await;
}

impl Worker {
    fn new(kubelet: Arc<Kubelet>, desired: watch::Receiver<Desired>, pod: Arc<Pod>) -> Worker {
        let spec = pod.spec.clone().unwrap_or_default();
        let (sidecars, init): (Vec<Container>, Vec<Container>) = spec
            .init_containers
            .unwrap_or_default()
            .into_iter()
            .partition(|container| container.restart_policy.as_deref() == Some("Always"));
        let (inits, first) = (init.len(), init.len() + sidecars.len());
        let specs: Vec<Container> = init.into_iter().chain(sidecars).chain(spec.containers).collect();
        let containers = specs
            .iter()
            .enumerate()
            .map(|(index, container)| ContainerStatus {
                name: container.name.clone(),
                image: container.image.clone().unwrap_or_default(),
                init: index < inits,
                sidecar: (inits..first).contains(&index),
                state: State::Waiting { reason: "ContainerCreating", message: String::new() },
                last: None,
                ready: false,
                restarts: 0,
                comes_back: true,
            })
            .collect();
        let host_ips = kubelet.node.plan.ips().iter().map(ToString::to_string).collect();
        Worker {
            environments: vec![Env::new(); specs.len()],
            facts: Facts { pod_ips: Vec::new(), host_ips },
            since: status::now(),
            volumes: BTreeMap::new(),
            happenings: mpsc::channel(64),
            reported: Value::Null,
            failure: String::new(),
            kubelet,
            desired,
            pod,
            specs,
            containers,
        }
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
    }

    fn note(&self, kind: &'static str, reason: &'static str, message: String) {
        self.kubelet.note(&self.pod, kind, reason, message);
    }

    /// Waits until the pod is to end.
    async fn deletion(&mut self) {
        // The sender going away means that the kubelet has ended; then there is nothing more to do either.
        let _ = self.desired.wait_for(Desired::ends).await;
    }

    /// Waits, but not longer than until the pod is to end. Says whether it is.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.deletion()).await.is_ok()
    }

    /// Makes the sandbox with its network and volumes; none if the pod is to end before that works.
    async fn bring_up(&mut self) -> Option<Sandbox> {
        let mut wait = BACKOFF.0;
        loop {
            if self.desired.borrow().ends() {
                return None;
            }
            if !self.host_network()
                && let Err(error) = cni::load(&self.kubelet.node)
            {
                // Not a failure: the network is still to come, and when it does nobody should wait for long.
                self.fail(NOT_READY, &error).await;
                if self.pause(BACKOFF.0).await {
                    return None;
                }
                continue;
            }
            match self.make_sandbox().await {
                Ok(sandbox) => match self.prepare().await {
                    Ok(()) => return Some(sandbox),
                    Err(error) => {
                        self.fail("FailedMount", &error).await;
                        self.take_down(sandbox).await;
                    }
                },
                Err(error) => self.fail("FailedCreatePodSandBox", &error).await,
            }
            if self.pause(wait).await {
                return None;
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn fail(&mut self, reason: &'static str, error: &anyhow::Error) {
        let message = format!("{error:#}");
        if self.failure != message {
            if reason == NOT_READY {
                tracing::info!(namespace = self.namespace(), name = self.name(), "pod waits for the node's network");
            } else {
                tracing::warn!(namespace = self.namespace(), name = self.name(), reason, error = message, "pod did not start");
            }
            self.note("Warning", reason, message.clone());
            self.failure.clone_from(&message);
        }
        self.facts.pod_ips.clear();
        for container in &mut self.containers {
            container.state = State::Waiting { reason: "ContainerCreating", message: message.clone() };
        }
        self.report().await;
    }

    async fn make_sandbox(&mut self) -> Result<Sandbox> {
        let node = Arc::clone(&self.kubelet.node);
        let id = format!("{:016x}{:016x}{:016x}{:016x}", random(), random(), random(), random());
        let cgroup = node.cgroup.join("pods").join(self.pod.metadata.uid.as_deref().unwrap_or(&id));
        let holding = Holding {
            hostname: if self.host_network() { node.name().to_owned() } else { self.hostname() },
            cgroup: cgroup.clone(),
            kind: Kind::Pod { host_network: self.host_network() },
        };
        let host = node.holder.pid();
        let holder = tokio::task::spawn_blocking(move || Holder::start(&holding, Some(host))).await??;
        let mut sandbox = Sandbox { holder, cgroup, id, attachment: None };
        if self.host_network() {
            self.facts.pod_ips = self.facts.host_ips.clone();
            return Ok(sandbox);
        }
        match self.attach(&mut sandbox).await {
            Ok(addresses) => {
                self.facts.pod_ips = self.in_order(addresses);
                Ok(sandbox)
            }
            Err(error) => {
                self.take_down(sandbox).await;
                Err(error)
            }
        }
    }

    fn hostname(&self) -> String {
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
        // A host name has at most 63 bytes; generated pod names may be longer.
        spec.unwrap_or_else(|| self.name().to_owned()).chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    }

    async fn attach(&self, sandbox: &mut Sandbox) -> Result<Vec<IpAddr>> {
        let network = cni::load(&self.kubelet.node)?;
        let mut attachment = Attachment {
            container_id: sandbox.id.clone(),
            netns: format!("/proc/{}/ns/net", sandbox.holder.pid()),
            args: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
                self.namespace(),
                self.name(),
                sandbox.id,
                self.pod.metadata.uid.as_deref().unwrap_or_default(),
            ),
            runtime: offer::runtime_config(&self.pod)?,
            result: None,
        };
        // Even an ADD that fails may have done something: from here on there will be a DEL.
        sandbox.attachment = Some(attachment.clone());
        let addresses = network.add(&self.kubelet.node, &mut attachment).await?;
        sandbox.attachment = Some(attachment);
        Ok(addresses)
    }

    /// Addresses with the cluster's primary family first.
    fn in_order(&self, mut addresses: Vec<IpAddr>) -> Vec<String> {
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.iter().map(ToString::to_string).collect()
    }

    async fn prepare(&mut self) -> Result<()> {
        volumes::write_identity(&self.kubelet, &self.pod, &self.facts, &self.kubelet.lab.options.dns_ip)?;
        self.volumes = volumes::prepare(&self.kubelet, &self.pod, &self.facts).await?;
        Ok(())
    }

    /// Starts containers and keeps them until the pod is to end, or all have ended for good.
    async fn supervise(&mut self, sandbox: &Sandbox) {
        for index in 0..self.containers.len() {
            if self.is_init(index) && !self.run_to_end(sandbox, index).await {
                return;
            }
        }
        for index in 0..self.containers.len() {
            if !self.is_init(index) {
                self.start(sandbox, index).await;
            }
        }
        let mut refresh = tokio::time::interval(REFRESH);
        loop {
            self.report().await;
            if self.ended() {
                return;
            }
            tokio::select! {
                biased;
                changed = self.desired.changed() => {
                    if changed.is_err() || self.desired.borrow().ends() {
                        return;
                    }
                    self.pod = Arc::clone(&self.desired.borrow_and_update().pod);
                }
                Some(happening) = self.happenings.1.recv() => self.happen(sandbox, happening).await,
                _ = refresh.tick() => volumes::refresh(&self.kubelet, &self.pod, &self.facts).await,
            }
        }
    }

    fn is_init(&self, index: usize) -> bool {
        self.containers.get(index).is_some_and(|container| container.init)
    }

    fn ended(&self) -> bool {
        self.containers.iter().all(|container| !container.comes_back && matches!(container.state, State::Ended(_)))
    }

    /// Runs an init container until it succeeds. Not, if the pod ends or the container failed for good.
    async fn run_to_end(&mut self, sandbox: &Sandbox, index: usize) -> bool {
        self.start(sandbox, index).await;
        loop {
            self.report().await;
            if let Some(ContainerStatus { state: State::Ended(exit), comes_back, .. }) = self.containers.get(index) {
                if exit.code == 0 {
                    return true;
                }
                if !comes_back {
                    return false;
                }
            }
            tokio::select! {
                () = async { let _ = self.desired.wait_for(Desired::ends).await; } => return false,
                Some(happening) = self.happenings.1.recv() => self.happen(sandbox, happening).await,
            }
        }
    }

    async fn happen(&mut self, sandbox: &Sandbox, happening: Happening) {
        match happening {
            Happening::Exited { index, pid, code } => self.exited(index, pid, code),
            Happening::Probed { index, pid, ready } => {
                if let Some(container) = self.containers.get_mut(index)
                    && matches!(container.state, State::Running { pid: now, .. } if now == pid)
                {
                    container.ready = ready;
                }
            }
            Happening::RestartDue { index } => {
                if let Some(container) = self.containers.get_mut(index) {
                    container.restarts += 1;
                }
                self.start(sandbox, index).await;
            }
        }
        self.publish(sandbox);
    }

    async fn start(&mut self, sandbox: &Sandbox, index: usize) {
        let Some(spec) = self.specs.get(index).cloned() else { return };
        let started = container::start(&self.kubelet, &self.pod, &spec, sandbox, &self.facts, &self.volumes).await;
        match started {
            Ok(started) => self.started(sandbox, index, spec, started),
            Err(error) => {
                let message = format!("container {}: {error:#}", spec.name);
                self.note("Warning", "Failed", message.clone());
                tracing::warn!(namespace = self.namespace(), name = self.name(), error = message, "container did not start");
                let now = status::now();
                self.over(index, Exit { code: 128, since: now.clone(), at: now });
            }
        }
        self.publish(sandbox);
    }

    fn started(&mut self, sandbox: &Sandbox, index: usize, spec: Container, started: Started) {
        let Started { mut child, pid, env } = started;
        if let Some(place) = self.environments.get_mut(index) {
            place.clone_from(&env);
        }
        if let Some(container) = self.containers.get_mut(index) {
            container.state = State::Running { pid, since: status::now() };
            container.ready = spec.readiness_probe.is_none() && !container.init;
        }
        self.note("Normal", "Started", format!("Started container {}", spec.name));
        let happenings = self.happenings.0.clone();
        let primary = self.facts.pod_ips.first().and_then(|ip| ip.parse().ok());
        let (readiness, liveness) = (spec.readiness_probe.clone(), spec.liveness_probe.clone());
        let name = spec.name.clone();
        let subject = primary.map(|ip| Subject { container: spec, ip, pid, cgroup: sandbox.cgroup.clone(), env });
        let probing = readiness.zip(subject.clone()).map(|(wanted, subject)| {
            let (kubelet, happenings) = (Arc::clone(&self.kubelet), happenings.clone());
            tokio::spawn(async move {
                let tell = |ready| {
                    let happenings = happenings.clone();
                    // One that is not heard is of a pod that ends.
                    async move { drop(happenings.send(Happening::Probed { index, pid, ready }).await) }
                };
                probe::keep(&kubelet, &wanted, &subject, tell).await;
            })
        });
        let watching = liveness.zip(subject).map(|(wanted, subject)| {
            let (kubelet, pod) = (Arc::clone(&self.kubelet), Arc::clone(&self.pod));
            tokio::spawn(async move {
                probe::until_dead(&kubelet, &wanted, &subject).await;
                kubelet.note(&pod, "Warning", "Unhealthy", format!("Container {name} failed liveness probe, will be restarted"));
                end::signal(&[pid], Signal::TERM);
            })
        });
        tokio::spawn(async move {
            let code = child.wait().await.map_or(255, container::exit_code);
            for task in [probing, watching].into_iter().flatten() {
                task.abort();
            }
            // Nobody hears it once the pod has been let go.
            let _ = happenings.send(Happening::Exited { index, pid, code }).await;
        });
    }

    fn exited(&mut self, index: usize, pid: u32, code: i32) {
        let since = match self.containers.get(index).map(|container| &container.state) {
            Some(State::Running { pid: now, since }) if *now == pid => since.clone(),
            Some(_) | None => return,
        };
        self.over(index, Exit { code, since, at: status::now() });
    }

    /// A container is not running any more: for good, or until its pause is over.
    fn over(&mut self, index: usize, exit: Exit) {
        let policy = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
        let Some(container) = self.containers.get_mut(index) else { return };
        container.ready = false;
        container.comes_back = match policy {
            "Never" => false,
            "OnFailure" => exit.code != 0,
            _ => exit.code != 0 || !container.init,
        };
        if container.comes_back {
            let wait = RESTART.0.saturating_mul(1 << container.restarts.clamp(0, 6)).min(RESTART.1);
            let message = format!("back-off {} s restarting container {}", wait.as_secs(), container.name);
            container.last = Some(exit);
            container.state = State::Waiting { reason: "CrashLoopBackOff", message: message.clone() };
            self.note("Warning", "BackOff", message);
            let happenings = self.happenings.0.clone();
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = happenings.send(Happening::RestartDue { index }).await;
            });
        } else {
            container.state = State::Ended(exit);
        }
    }

    /// Lets the exec commands find the pod's processes.
    fn publish(&self, sandbox: &Sandbox) {
        let containers = self
            .containers
            .iter()
            .zip(&self.environments)
            .filter_map(|(container, env)| match &container.state {
                State::Running { pid, .. } => Some((container.name.clone(), *pid, env.clone())),
                State::Waiting { .. } | State::Ended(_) => None,
            })
            .collect();
        let place = PodPlace { cgroup: sandbox.cgroup.clone(), containers };
        self.kubelet.lab.set_pod(self.namespace(), self.name(), Some(place));
    }

    /// Writes the pod's status if it is another than was written last.
    async fn report(&mut self) {
        let sandbox = self.pod.metadata.uid.clone().unwrap_or_default();
        let state = PodState { containers: &self.containers, facts: &self.facts, since: &self.since, sandbox: &sandbox };
        let body = state.json(&self.pod);
        let seen = status::without_times(&body);
        if seen == self.reported && status::still_stands(&body, &self.pod) {
            return;
        }
        let patch = json!({"metadata": {"uid": self.pod.metadata.uid}, "status": body});
        let pods = self.kubelet.pods(self.namespace());
        for _ in 0..5 {
            match pods.patch_status(self.name(), &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(pod) => {
                    // The conditions' times are taken from here next time.
                    self.pod = Arc::new(pod);
                    self.reported = seen;
                    return;
                }
                Err(kube::Error::Api(refusal)) if refusal.code == 404 || refusal.code == 409 => return,
                Err(error) => {
                    tracing::warn!(namespace = self.namespace(), name = self.name(), %error, "pod status not written");
                    tokio::time::sleep(BACKOFF.0).await;
                }
            }
        }
    }
}

fn random() -> u64 {
    rand::random()
}

//! Pods to nodes: the node that refuses nothing and has the fewest pods of the same owner, then the fewest of all.
//!
//! Invariant: a pod is bound once. Reference: the filtering and scoring of kube-scheduler, of which spreading is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::{NODES, PODS, controller_of, controller_uid, is_done, set_condition};
use super::fit::{Patience, refusal};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, text};
use crate::store::{Event, GroupResource, Store};

/// Binds pods to nodes.
pub(super) struct Scheduler {
    store: Store,
}

/// Pods on a node: all, and by the uid of their controller.
#[derive(Default)]
struct Load {
    pods: usize,
    by_owner: BTreeMap<String, usize>,
}

impl Load {
    fn add(&mut self, pod: &Value) {
        self.pods += 1;
        *self.by_owner.entry(controller_uid(pod).to_owned()).or_default() += 1;
    }
}

impl Scheduler {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }

    fn bind(&self, pod: &Value, node: &str) -> Result<(), ApiError> {
        self.store.modify(&PODS, Some(object::namespace(pod)), object::name(pod), |pod| {
            object::child(pod, "spec").insert("nodeName".to_owned(), json!(node));
            set_condition(pod, "PodScheduled", true, "", "");
        })?;
        Ok(())
    }

    fn refuse(&self, pod: &Value, nodes: usize, reasons: &BTreeMap<&'static str, usize>) -> Result<(), ApiError> {
        let each: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let colon = if each.is_empty() { "." } else { ": " };
        let message = format!("0/{nodes} nodes are available{colon}{}", each.join(", "));
        self.store.modify(&PODS, Some(object::namespace(pod)), object::name(pod), |pod| {
            set_condition(pod, "PodScheduled", false, "Unschedulable", &message);
        })?;
        Ok(())
    }
}

fn is_waiting(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty()
        && !is_done(pod)
        && !object::is_terminating(pod)
        && text(pod, "/spec/schedulerName") == "default-scheduler"
        && object::items(pod, "/spec/schedulingGates").len() == 0
}

/// The best node for the pod, or how many nodes refuse it for which reason.
fn choose<'a>(pod: &Value, nodes: &'a [Arc<Value>], loads: &BTreeMap<String, Load>) -> Result<&'a str, BTreeMap<&'static str, usize>> {
    let daemon = controller_of(pod).is_some_and(|owner| text(owner, "/kind") == "DaemonSet");
    let patience = if daemon { Patience::Daemon } else { Patience::Usual };
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let mut reasons = BTreeMap::new();
    let mut best: Option<(usize, usize, &str)> = None;
    for node in nodes {
        if let Some(reason) = refusal(node, spec, patience) {
            *reasons.entry(reason).or_default() += 1;
            continue;
        }
        let name = object::name(node);
        let load = loads.get(name);
        let own = load.and_then(|load| load.by_owner.get(controller_uid(pod))).copied().unwrap_or_default();
        let rank = (own, load.map_or(0, |load| load.pods), name);
        best = Some(best.map_or(rank, |best| best.min(rank)));
    }
    best.map(|(_, _, name)| name).ok_or(reasons)
}

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![PODS.clone(), NODES.clone()]
    }

    /// One key for all: pods that come together are placed together.
    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == *NODES || is_waiting(&event.object) {
            keys.insert(Key::default());
        }
    }

    fn reconcile(&mut self, _key: &Key) -> Result<Next, ApiError> {
        let pods = self.store.list(&PODS, None).items;
        let waiting: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_waiting(pod)).collect();
        if waiting.is_empty() {
            return Ok(Next::Done);
        }
        let nodes = self.store.list(&NODES, None).items;
        let mut loads: BTreeMap<String, Load> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| !is_done(pod) && !text(pod, "/spec/nodeName").is_empty()) {
            loads.entry(text(pod, "/spec/nodeName").to_owned()).or_default().add(pod);
        }
        for pod in waiting {
            let outcome = match choose(pod, &nodes, &loads) {
                Ok(node) => {
                    loads.entry(node.to_owned()).or_default().add(pod);
                    self.bind(pod, node)
                }
                Err(reasons) => self.refuse(pod, nodes.len(), &reasons),
            };
            match outcome {
                Ok(()) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Next::Done)
    }
}

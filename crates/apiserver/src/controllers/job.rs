//! Job: pods that run to their end, until enough have.
//!
//! Not covered: indexes, deadlines, pod failure policies, suspension of running pods. Reference: "Jobs" in the Kubernetes
//! documentation.

use serde_json::{Value, json};

use super::facts::{
    JOBS, PODS, claim_pods, concern_controller, delete_pod, holds, is_active, is_ready, key_of, merge_status, pod_from_template,
    set_condition, write_status,
};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, integer, text};
use crate::selector::Selector;
use crate::store::{Event, GroupResource, Store};

/// Runs Jobs.
pub(super) struct Jobs {
    store: Store,
}

impl Jobs {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone() }
    }
}

/// How far a job is, by its pods.
struct Progress {
    active: Vec<std::sync::Arc<Value>>,
    succeeded: i64,
    failed: i64,
}

impl Progress {
    /// Complete, failed, or still running; with the reason.
    fn verdict(&self, job: &Value) -> Option<(&'static str, &'static str, &'static str)> {
        let wanted = integer(job, "/spec/completions");
        let active = self.active.len();
        let enough = match wanted {
            Some(wanted) => self.succeeded >= wanted,
            None => self.succeeded > 0 && active == 0, // a work queue: the first success ends it
        };
        if enough {
            return Some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods"));
        }
        let limit = integer(job, "/spec/backoffLimit").unwrap_or(6);
        (self.failed > limit).then_some(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    }

    fn missing(&self, job: &Value) -> i64 {
        let parallel = integer(job, "/spec/parallelism").unwrap_or(1);
        let active = i64::try_from(self.active.len()).unwrap_or(i64::MAX);
        let wanted = match integer(job, "/spec/completions") {
            Some(completions) => parallel.min(completions - self.succeeded),
            None if self.succeeded > 0 => active,
            None => parallel,
        };
        let suspended = job.pointer("/spec/suspend") == Some(&Value::Bool(true));
        if suspended { 0 } else { wanted - active }
    }
}

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        "Job"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![JOBS.clone(), PODS.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == *JOBS {
            keys.insert(key_of(&event.object));
        } else {
            concern_controller("Job", event, keys);
        }
    }

    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError> {
        let job = self.store.get(&JOBS, Some(&key.0), &key.1)?;
        if object::is_terminating(&job) || holds(&job, "Complete") || holds(&job, "Failed") {
            return Ok(Next::Done);
        }
        let selector = job.pointer("/spec/selector").map(Selector::of_object).and_then(Result::ok).unwrap_or_default();
        let pods = claim_pods(&self.store, &job, &selector)?;
        let ended = |phase: &str| i64::try_from(pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count()).unwrap_or(0);
        let (succeeded, failed) = (ended("Succeeded"), ended("Failed"));
        let active: Vec<_> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let progress = Progress { active, succeeded, failed };
        let verdict = progress.verdict(&job);
        write_status(&self.store, &JOBS, key, |object| {
            let ready = progress.active.iter().filter(|pod| is_ready(pod)).count();
            merge_status(object, json!({"active": progress.active.len(), "ready": ready, "succeeded": succeeded, "failed": failed}));
            object::set_default(object::child(object, "status"), "startTime", object::now());
            if let Some((kind, reason, message)) = verdict {
                set_condition(object, kind, true, reason, message);
                if kind == "Complete" {
                    object::set_default(object::child(object, "status"), "completionTime", object::now());
                }
            }
        })?;
        if verdict.is_some() {
            progress.active.iter().try_for_each(|pod| delete_pod(&self.store, pod))?;
            return Ok(Next::Done);
        }
        for _ in 0..progress.missing(&job) {
            let pod = pod_from_template(&job, None, &[("batch.kubernetes.io/job-name", &key.1), ("job-name", &key.1)]);
            self.store.create(&PODS, Some(&key.0), pod)?;
        }
        Ok(Next::Done)
    }
}

//! Tokens of service accounts, each bound to the pod that it is given to, asked for by TokenRequest and asked for again
//! before they end.
//!
//! The lab's own API server knows no such requests: there every pod has the same token. Reference: the TokenRequest API.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::{Api as KubeApi, PostParams};
use serde_json::json;

use super::Kubelet;

/// How long a token lasts if the pod does not say, in seconds.
const LIFE_SECONDS: i64 = 3600;

/// Whose token it is, for whom and for how many seconds.
type Key = (String, Option<String>, i64);

/// The tokens of a node's pods, by the pods' uid.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    held: Mutex<HashMap<String, HashMap<Key, Held>>>,
}

#[derive(Debug)]
struct Held {
    token: String,
    renewed_at: Instant,
}

impl Tokens {
    fn find(&self, uid: &str, key: &Key, now: Instant) -> Option<String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let found = held.get(uid)?.get(key)?;
        (now < found.renewed_at).then(|| found.token.clone())
    }

    fn keep(&self, uid: &str, key: Key, token: &str, now: Instant) {
        let renewed_at = now + renewal(key.2);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(uid.to_owned()).or_default().insert(key, Held { token: token.to_owned(), renewed_at });
    }

    /// Forgets a pod that has ended.
    pub(super) fn forget(&self, uid: &str) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// When a token of so many seconds is asked for again: after four fifths of its life.
fn renewal(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0) * 4 / 5)
}

/// The token that a pod's volume asks for.
pub(super) async fn of(kubelet: &Kubelet, pod: &Pod, source: &ServiceAccountTokenProjection) -> Result<String> {
    if let Some(pods) = &kubelet.api.pods {
        return Ok(pods.token.clone());
    }
    let meta = &pod.metadata;
    let (namespace, uid) = (meta.namespace.as_deref().unwrap_or_default(), meta.uid.as_deref().unwrap_or_default());
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let key = (account.to_owned(), source.audience.clone(), source.expiration_seconds.unwrap_or(LIFE_SECONDS));
    let now = Instant::now();
    if let Some(token) = kubelet.tokens.find(uid, &key, now) {
        return Ok(token);
    }
    let request: TokenRequest = serde_json::from_value(json!({
        "metadata": {},
        "spec": {
            "audiences": source.audience.iter().collect::<Vec<_>>(),
            "expirationSeconds": key.2,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": uid},
        },
    }))?;
    let accounts: KubeApi<ServiceAccount> = KubeApi::namespaced(kubelet.client(), namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let answer = answer.with_context(|| format!("ask for a token of service account {namespace}/{account}"))?;
    let token = answer.status.context("no token in the answer")?.token;
    kubelet.tokens.keep(uid, key, &token, now);
    Ok(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn a_token_is_asked_for_again_before_it_ends() {
        let (tokens, begin) = (Tokens::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let key = ("default".to_owned(), None, 3600);
        tokens.keep("pod", key.clone(), "one", begin);
        assert_eq!(tokens.find("pod", &key, after(2879)).unwrap(), "one");
        assert_eq!(tokens.find("pod", &key, after(2881)), None);
        assert_eq!(tokens.find("pod", &("default".to_owned(), Some("vault".to_owned()), 3600), begin), None, "another audience");
        assert_eq!(tokens.find("other", &key, begin), None);
        tokens.forget("pod");
        assert_eq!(tokens.find("pod", &key, begin), None);
    }
}

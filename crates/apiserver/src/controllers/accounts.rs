//! What every namespace has: the service account `default`, and the certificate authority of the API.

use serde_json::json;

use super::Config;
use super::facts::{ACCOUNTS, CONFIG_MAPS, NAMESPACES};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object;
use crate::store::{Event, GroupResource, Store};

/// Keeps the standard objects of each namespace.
pub(super) struct Accounts {
    store: Store,
    ca_pem: String,
}

impl Accounts {
    pub(super) fn new(store: &Store, config: &Config) -> Self {
        Self { store: store.clone(), ca_pem: config.ca_pem.clone() }
    }

    fn ensure(&self, gr: &GroupResource, ns: &str, object: serde_json::Value) -> Result<(), ApiError> {
        if self.store.get(gr, Some(ns), object::name(&object)).is_ok() {
            return Ok(());
        }
        match self.store.create(gr, Some(ns), object) {
            Ok(_) | Err(ApiError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Controller for Accounts {
    fn name(&self) -> &'static str {
        "accounts"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![NAMESPACES.clone(), ACCOUNTS.clone(), CONFIG_MAPS.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        let name = if *gr == *NAMESPACES { object::name(&event.object) } else { object::namespace(&event.object) };
        if matches!(object::name(&event.object), "default" | "kube-root-ca.crt") || *gr == *NAMESPACES {
            keys.insert((String::new(), name.to_owned()));
        }
    }

    fn reconcile(&mut self, (_, ns): &Key) -> Result<Next, ApiError> {
        let namespace = self.store.get(&NAMESPACES, None, ns)?;
        if object::is_terminating(&namespace) {
            return Ok(Next::Done);
        }
        self.ensure(&ACCOUNTS, ns, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}))?;
        if !self.ca_pem.is_empty() {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"},
                "data": {"ca.crt": self.ca_pem}});
            self.ensure(&CONFIG_MAPS, ns, map)?;
        }
        Ok(Next::Done)
    }
}

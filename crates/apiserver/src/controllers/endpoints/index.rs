//! Which services select a pod, found by its labels and not by asking every service.
//!
//! Invariant: a service stands in the index under one label of its selector, so a pod finds it by its own labels.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::super::facts::key_of;
use super::super::runtime::Key;
use crate::object;

/// Namespace, label and value.
type Place = (String, String, String);

/// The selectors of all services.
#[derive(Default)]
pub(super) struct Index {
    selectors: HashMap<Key, BTreeMap<String, String>>,
    places: HashMap<Place, BTreeSet<String>>,
}

fn place_of(ns: &str, label: (&String, &String)) -> Place {
    (ns.to_owned(), label.0.clone(), label.1.clone())
}

impl Index {
    /// Takes note of a service as it is now.
    pub(super) fn set(&mut self, service: &Value) {
        let key = key_of(service);
        self.remove(&key);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let selector: BTreeMap<String, String> =
            object::entries(service, "/spec/selector").map(|(label, value)| (label.clone(), text(value))).collect();
        if let Some(first) = selector.first_key_value().filter(|_| super::selects_pods(service)) {
            self.places.entry(place_of(&key.0, first)).or_default().insert(key.1.clone());
            self.selectors.insert(key, selector);
        }
    }

    /// Forgets a service.
    pub(super) fn remove(&mut self, key: &Key) {
        let selector = self.selectors.remove(key).unwrap_or_default();
        let Some(first) = selector.first_key_value() else { return };
        let place = place_of(&key.0, first);
        if let Some(names) = self.places.get_mut(&place) {
            names.remove(&key.1);
            if names.is_empty() {
                self.places.remove(&place);
            }
        }
    }

    /// The services that select the pod.
    pub(super) fn selecting(&self, pod: &Value) -> Vec<Key> {
        let ns = object::namespace(pod);
        let labels = object::entries(pod, "/metadata/labels").filter_map(|(label, value)| Some((label, value.as_str()?)));
        let names = labels.filter_map(|(label, value)| self.places.get(&(ns.to_owned(), label.clone(), value.to_owned()))).flatten();
        let keys = names.map(|name| (ns.to_owned(), name.clone()));
        let fits = |key: &Key| {
            let mut demands = self.selectors.get(key).into_iter().flatten();
            demands.all(|(label, value)| object::label(pod, label) == Some(value))
        };
        keys.filter(fits).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    #[test]
    fn services_are_found_by_the_pods_labels() {
        let service = |name: &str, selector: Value| json!({"metadata": {"namespace": "x", "name": name}, "spec": {"selector": selector}});
        let pod = |labels: Value| json!({"metadata": {"namespace": "x", "labels": labels}});
        let found = |index: &Index, labels: Value| index.selecting(&pod(labels)).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        let mut index = Index::default();
        for one in
            [service("web", json!({"app": "web"})), service("front", json!({"app": "web", "tier": "front"})), service("none", json!({}))]
        {
            index.set(&one);
        }
        assert_eq!(found(&index, json!({"app": "web"})), ["web"]);
        assert_eq!(found(&index, json!({"app": "web", "tier": "front", "x": "y"})), ["front", "web"]);
        assert!(found(&index, json!({"tier": "front"})).is_empty() && found(&index, json!({})).is_empty());
        index.set(&service("web", json!({"app": "db"})));
        assert!(found(&index, json!({"app": "web"})).is_empty());
        index.remove(&("x".to_owned(), "web".to_owned()));
        index.remove(&("x".to_owned(), "front".to_owned()));
        assert!(index.places.is_empty() && index.selectors.is_empty());
    }
}

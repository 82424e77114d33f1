//! Endpoints of services: EndpointSlices, and the Endpoints of old.
//!
//! Invariant: only slices that carry our name in `endpointslice.kubernetes.io/managed-by` are written or deleted, and services
//! without a selector are left to their owners. The slices of a service have names that follow from its uid, so they are found
//! without a search.
//!
//! Reference: "EndpointSlices" in the Kubernetes documentation; KEP-1672 for the conditions of terminating pods.

mod index;
mod legacy;
mod member;
mod slices;

use serde_json::Value;

use self::index::Index;
use self::member::Member;
use super::facts::{ENDPOINTS, NODES, PODS, SERVICES, SLICES, key_of};
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, text};
use crate::selector::Selector;
use crate::store::{DeleteOptions, Event, EventKind, GroupResource, Store};

/// The name under which slices are ours.
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Keeps the endpoints of services that select pods.
pub(super) struct Endpoints {
    store: Store,
    index: Index,
}

impl Endpoints {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), index: Index::default() }
    }

    fn members(&self, service: &Value) -> Vec<Member> {
        let selector = Selector::of_map(service.pointer("/spec/selector").unwrap_or(&Value::Null));
        let pods = self.store.list(&PODS, Some(object::namespace(service))).items;
        let selected = pods.into_iter().filter(|pod| selector.matches(pod));
        let mut members: Vec<Member> = selected.filter_map(|pod| Member::new(service, &pod, self.zone(&pod))).collect();
        members.sort_by(|one, other| one.name.cmp(&other.name));
        members
    }

    fn zone(&self, pod: &Value) -> Option<String> {
        let node = self.store.get(&NODES, None, text(pod, "/spec/nodeName")).ok()?;
        object::label(&node, "topology.kubernetes.io/zone").map(str::to_owned)
    }

    /// Makes the slices of a service those that are wanted, which are in the order of their numbers in each family.
    fn write_slices(&self, service: &Value, wanted: Vec<Value>) -> Result<(), ApiError> {
        let ns = Some(object::namespace(service));
        let mut numbers = [0_usize; 2];
        for slice in wanted {
            let name = object::name(&slice).to_owned();
            let [v4, v6] = &mut numbers;
            *(if text(&slice, "/addressType") == "IPv4" { v4 } else { v6 }) += 1;
            match self.store.get(&SLICES, ns, &name) {
                Ok(_) => {
                    self.store.modify(&SLICES, ns, &name, |old| {
                        let map = object::as_map(old);
                        for field in ["endpoints", "ports"] {
                            map.insert(field.to_owned(), slice.get(field).cloned().unwrap_or(Value::Null));
                        }
                        let labels = slice.pointer("/metadata/labels").cloned().unwrap_or_default();
                        object::metadata(old).insert("labels".to_owned(), labels);
                    })?;
                }
                Err(_) => drop(self.store.create(&SLICES, ns, slice)?),
            }
        }
        // Those that are not wanted any more follow upon them without a gap.
        for (family, first) in ["IPv4", "IPv6"].into_iter().zip(numbers) {
            for number in first.. {
                let name = slices::name(service, family, number);
                if self.store.get(&SLICES, ns, &name).is_err() {
                    break;
                }
                self.store.delete(&SLICES, ns, &name, &DeleteOptions::default())?;
            }
        }
        Ok(())
    }

    fn write_legacy(&self, service: &Value, wanted: Value) -> Result<(), ApiError> {
        let (ns, name) = (Some(object::namespace(service)), object::name(service));
        if self.store.get(&ENDPOINTS, ns, name).is_err() {
            return self.store.create(&ENDPOINTS, ns, wanted).map(drop);
        }
        let written = self.store.modify(&ENDPOINTS, ns, name, |old| {
            let subsets = wanted.get("subsets").cloned().unwrap_or_default();
            object::as_map(old).insert("subsets".to_owned(), subsets);
            let labels = wanted.pointer("/metadata/labels").cloned().unwrap_or_default();
            object::metadata(old).insert("labels".to_owned(), labels);
        });
        written.map(drop)
    }

    /// The slices go by their owner reference; Endpoints have none, by tradition.
    fn service_gone(&self, key: &Key) -> Result<(), ApiError> {
        match self.store.delete(&ENDPOINTS, Some(&key.0), &key.1, &DeleteOptions::default()) {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn selects_pods(service: &Value) -> bool {
    text(service, "/spec/type") != "ExternalName" && object::entries(service, "/spec/selector").next().is_some()
}

/// Whether a pod's event can change an endpoint.
fn pod_changed(event: &Event) -> bool {
    let Some(previous) = &event.previous else { return true };
    let differs = |pointer: &str| previous.pointer(pointer) != event.object.pointer(pointer);
    event.kind == EventKind::Deleted
        || differs("/metadata/labels")
        || differs("/metadata/deletionTimestamp")
        || differs("/spec/nodeName")
        || differs("/status/phase")
        || differs("/status/podIPs")
        || differs("/status/podIP")
        || differs("/status/conditions")
}

impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![SERVICES.clone(), PODS.clone(), SLICES.clone()]
    }

    fn concern(&mut self, gr: &GroupResource, event: &Event, keys: &mut Keys) {
        if *gr == *SERVICES {
            match event.kind {
                EventKind::Deleted => self.index.remove(&key_of(&event.object)),
                EventKind::Added | EventKind::Modified | EventKind::Bookmark | EventKind::Error => self.index.set(&event.object),
            }
            keys.insert(key_of(&event.object));
        } else if *gr == *SLICES {
            // Someone else's hand on one of ours is undone.
            if object::label(&event.object, MANAGED_BY) == Some(MANAGER)
                && let Some(service) = object::label(&event.object, SERVICE_NAME)
            {
                keys.insert((object::namespace(&event.object).to_owned(), service.to_owned()));
            }
        } else if pod_changed(event) {
            for pod in std::iter::once(&event.object).chain(&event.previous) {
                keys.extend(self.index.selecting(pod));
            }
        }
    }

    fn reconcile(&mut self, key: &Key) -> Result<Next, ApiError> {
        let service = match self.store.get(&SERVICES, Some(&key.0), &key.1) {
            Ok(service) => service,
            Err(ApiError::NotFound { .. }) => {
                self.service_gone(key)?;
                return Ok(Next::Done);
            }
            Err(error) => return Err(error),
        };
        if selects_pods(&service) && !object::is_terminating(&service) {
            let members = self.members(&service);
            self.write_slices(&service, slices::of(&service, &members))?;
            self.write_legacy(&service, legacy::of(&service, &members))?;
        }
        Ok(Next::Done)
    }
}

//! Each node's part of the pod network (`spec.podCIDRs`).
//!
//! Invariant: two nodes never have the same part; what a node has, or came with, it keeps. A part is free again when its node
//! is deleted. Reference: the node IPAM controller of Kubernetes.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Config;
use super::facts::NODES;
use super::runtime::{Controller, Key, Keys, Next};
use crate::error::ApiError;
use crate::object::{self, items, text};
use crate::store::{Event, GroupResource, Store};

/// Gives nodes their prefixes.
pub(super) struct Nodes {
    store: Store,
    /// The pod network's ranges, each with the prefix length of a node's part.
    ranges: Vec<(IpNet, u8)>,
}

impl Nodes {
    pub(super) fn new(store: &Store, config: &Config) -> Self {
        let length = |range: &IpNet| match range {
            IpNet::V4(_) => config.node_cidr_len_v4,
            IpNet::V6(_) => config.node_cidr_len_v6,
        };
        Self { store: store.clone(), ranges: config.pod_cidrs.iter().map(|range| (range.trunc(), length(range))).collect() }
    }

    fn taken(&self) -> Vec<IpNet> {
        self.store.list(&NODES, None).items.iter().flat_map(|node| cidrs_of(node)).collect()
    }
}

fn cidrs_of(node: &Value) -> Vec<IpNet> {
    let listed = items(node, "/spec/podCIDRs").filter_map(Value::as_str);
    listed.chain(Some(text(node, "/spec/podCIDR"))).filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The first part of the range that overlaps none of those taken.
fn first_free(range: IpNet, length: u8, taken: &[IpNet]) -> Option<IpNet> {
    let mut parts = range.subnets(length).ok()?;
    parts.find(|part| !taken.iter().any(|other| other.contains(part) || part.contains(other)))
}

impl Controller for Nodes {
    fn name(&self) -> &'static str {
        "nodes"
    }

    fn watches(&self) -> Vec<GroupResource> {
        vec![NODES.clone()]
    }

    fn concern(&mut self, _gr: &GroupResource, event: &Event, keys: &mut Keys) {
        keys.insert((String::new(), object::name(&event.object).to_owned()));
    }

    fn reconcile(&mut self, (_, name): &Key) -> Result<Next, ApiError> {
        let node = self.store.get(&NODES, None, name)?;
        if !cidrs_of(&node).is_empty() || self.ranges.is_empty() {
            return Ok(Next::Done);
        }
        let taken = self.taken();
        let mut own = Vec::new();
        for (range, length) in &self.ranges {
            let Some(part) = first_free(*range, *length, &taken) else {
                let message = format!("no /{length} of the pod network {range} is free for node {name}");
                return Err(ApiError::Internal { message });
            };
            own.push(part.to_string());
        }
        self.store.modify(&NODES, None, name, |node| {
            let spec = object::child(node, "spec");
            spec.insert("podCIDR".to_owned(), json!(own.first()));
            spec.insert("podCIDRs".to_owned(), json!(own));
        })?;
        Ok(Next::Done)
    }
}

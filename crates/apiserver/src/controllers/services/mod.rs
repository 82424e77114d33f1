//! Service addresses and node ports, given and guarded in the moment of writing (an admission hook).
//!
//! Invariant: an address or a node port has one owner. What is in use is read from the store's history, so a refused write, a
//! dry run or a deletion leaves nothing behind. Reference: "Service ClusterIP allocation" and KEP-3070 (the lower part of a
//! range is left for those who ask by name).

mod addresses;
mod ports;
mod used;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use serde_json::Value;

use self::used::Used;
use super::Config;
use super::bootstrap::first_address;
use crate::error::{ApiError, Cause};
use crate::object;
use crate::store::{AdmissionOp, Store};

/// The ranges to give from.
struct Ranges {
    cidrs: Vec<IpNet>,
    ports: RangeInclusive<u16>,
    /// Given only to those who ask by name.
    reserved: BTreeSet<IpAddr>,
}

/// Puts the hook into the store.
pub(super) fn install(store: &Store, config: &Config) {
    let first = config.service_cidrs.first().and_then(first_address);
    let ranges = Ranges {
        cidrs: config.service_cidrs.iter().map(IpNet::trunc).collect(),
        ports: config.node_port_range.clone(),
        reserved: first.into_iter().chain(config.dns_ip).collect(),
    };
    let used = Mutex::new(Used::default());
    let reader = store.clone();
    store.add_admission(Box::new(move |gr, op, service| {
        if !gr.is("", "services") {
            return Ok(());
        }
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        used.refresh(&reader);
        admit(&ranges, &used, op, service)
    }));
}

fn admit(ranges: &Ranges, used: &Used, op: AdmissionOp<'_>, service: &mut Value) -> Result<(), ApiError> {
    let old = match op {
        AdmissionOp::Create => None,
        AdmissionOp::Update { old } => Some(old),
    };
    let owner = (object::namespace(service).to_owned(), object::name(service).to_owned());
    let mut causes: Vec<Cause> = Vec::new();
    if !ranges.cidrs.is_empty() {
        addresses::settle(ranges, used, &owner, old, service, &mut causes);
    }
    ports::settle(ranges, used, &owner, old, service, &mut causes);
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid { group: String::new(), kind: "Service".to_owned(), name: owner.1, causes })
}

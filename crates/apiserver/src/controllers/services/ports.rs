//! `nodePort`s and `healthCheckNodePort` of a service.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::facts::fnv1a;
use super::super::runtime::Key;
use super::Ranges;
use super::used::{Port, Used, node_port};
use crate::error::Cause;
use crate::object::{self, as_map, integer, items, text};

/// One service's ports while they are settled.
struct Settling<'a> {
    ranges: &'a Ranges,
    used: &'a Used,
    owner: &'a Key,
    /// Those that the service has by now.
    own: BTreeSet<Port>,
}

/// Fills in, keeps or refuses a service's node ports.
pub(super) fn settle(ranges: &Ranges, used: &Used, owner: &Key, old: Option<&Value>, service: &mut Value, causes: &mut Vec<Cause>) {
    let kind = text(service, "/spec/type").to_owned();
    let balanced = kind == "LoadBalancer";
    let optional = service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let mut settling = Settling { ranges, used, owner, own: BTreeSet::new() };
    if kind == "NodePort" || balanced {
        settling.keep_given(old, service, balanced && optional, causes);
        if !(balanced && optional) {
            settling.fill(service, causes);
        }
    } else {
        drop_ports(old, service, &kind, causes);
    }
    let local = text(service, "/spec/externalTrafficPolicy") == "Local";
    settling.settle_health_check(old, service, balanced && local, causes);
}

fn drop_ports(old: Option<&Value>, service: &mut Value, kind: &str, causes: &mut Vec<Cause>) {
    let had: BTreeSet<u16> = old.map(|old| items(old, "/spec/ports").filter_map(node_port).collect()).unwrap_or_default();
    for (index, port) in ports_mut(service).enumerate() {
        // One that is left of a former type is dropped; a new one is a mistake.
        if let Some(number) = node_port(port).filter(|number| !had.contains(number)) {
            causes.push(Cause {
                reason: "FieldValueForbidden",
                field: format!("spec.ports[{index}].nodePort"),
                message: format!("Forbidden: may not be used when `type` is '{kind}' (got {number})"),
            });
        }
        as_map(port).remove("nodePort");
    }
}

fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten()
}

impl Settling<'_> {
    /// Checks the ports that are asked for, and puts back those that the service had and the writer left out.
    fn keep_given(&mut self, old: Option<&Value>, service: &mut Value, only_given: bool, causes: &mut Vec<Cause>) {
        for (index, port) in ports_mut(service).enumerate() {
            let protocol = text(port, "/protocol").to_owned();
            if let Some(number) = node_port(port) {
                let place = (number, protocol);
                if let Err(hint) = self.check(&place) {
                    causes.push(Cause::invalid(format!("spec.ports[{index}].nodePort"), &json!(number), &hint));
                }
                self.own.insert(place);
            }
        }
        if only_given {
            return;
        }
        let same = |one: &Value, other: &Value| {
            text(one, "/protocol") == text(other, "/protocol") && integer(one, "/port") == integer(other, "/port")
        };
        for port in ports_mut(service).filter(|port| node_port(port).is_none()) {
            let had = old.and_then(|old| items(old, "/spec/ports").find(|other| same(other, port)).and_then(node_port));
            if let Some(number) = had
                && self.own.insert((number, text(port, "/protocol").to_owned()))
            {
                as_map(port).insert("nodePort".to_owned(), json!(number));
            }
        }
    }

    fn check(&self, place: &Port) -> Result<(), String> {
        if self.own.contains(place) {
            return Err("provided port is used twice in this service".to_owned());
        }
        if let Some((ns, name)) = self.used.owner_of_port(place, self.owner) {
            return Err(format!("provided port is already allocated (by service {ns}/{name})"));
        }
        let (low, high) = (self.ranges.ports.start(), self.ranges.ports.end());
        if self.ranges.ports.contains(&place.0) {
            Ok(())
        } else {
            Err(format!("provided port is not in the valid range. The range of valid ports is {low}-{high}"))
        }
    }

    fn fill(&mut self, service: &mut Value, causes: &mut Vec<Cause>) {
        for (index, port) in ports_mut(service).enumerate().filter(|(_, port)| node_port(port).is_none()) {
            let protocol = text(port, "/protocol").to_owned();
            match self.allocate(&protocol, index) {
                Some(number) => {
                    self.own.insert((number, protocol));
                    as_map(port).insert("nodePort".to_owned(), json!(number));
                }
                None => causes.push(self.full(format!("spec.ports[{index}].nodePort"))),
            }
        }
    }

    fn full(&self, field: String) -> Cause {
        let (low, high) = (self.ranges.ports.start(), self.ranges.ports.end());
        Cause::invalid(field, &Value::Null, &format!("every port from {low} to {high} is allocated"))
    }

    fn allocate(&self, protocol: &str, salt: usize) -> Option<u16> {
        let (low, high) = (*self.ranges.ports.start(), *self.ranges.ports.end());
        let size = u64::from(high.checked_sub(low)?) + 1;
        let seed = fnv1a(format!("{}/{}/{salt}", self.owner.0, self.owner.1).as_bytes());
        let candidates = (0..size).filter_map(|step| u16::try_from(u64::from(low) + (seed % size + step) % size).ok());
        candidates
            .map(|number| (number, protocol.to_owned()))
            .find(|place| !self.used.has_port(place) && !self.own.contains(place))
            .map(|(number, _)| number)
    }

    fn settle_health_check(&mut self, old: Option<&Value>, service: &mut Value, wanted: bool, causes: &mut Vec<Cause>) {
        const FIELD: &str = "healthCheckNodePort";
        let number = |service: &Value| {
            integer(service, "/spec/healthCheckNodePort").and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
        };
        if !wanted {
            object::child(service, "spec").remove(FIELD);
            return;
        }
        let place = match number(service).or_else(|| old.and_then(number)) {
            Some(given) => {
                let place = (given, "TCP".to_owned());
                if let Err(hint) = self.check(&place) {
                    causes.push(Cause::invalid(format!("spec.{FIELD}"), &json!(given), &hint));
                }
                Some(given)
            }
            None => self.allocate("TCP", usize::MAX),
        };
        match place {
            Some(given) => drop(object::child(service, "spec").insert(FIELD.to_owned(), json!(given))),
            None => causes.push(self.full(format!("spec.{FIELD}"))),
        }
    }
}

//! Lists of policies: one chain for each distinct list that selects a pod in one direction, which asks the policies in turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_model::PolicyName;
use bowline_model::intent::policy::{Direction, PodPolicy, PolicyIntent};

use super::{BEGINS_WITH_SYN, OPEN, OPEN_TO_SYN, rules};
use crate::change::{Change, Objects};
use crate::expr::rule;

/// Lowers the lists. There are no more of them than pods on the node, so all are made anew when a pod's or a policy's existence changes.
pub(super) fn lower(old: &PolicyIntent, new: &PolicyIntent, change: &mut Change) {
    if old.pods.ptr_eq(&new.pods) && old.rules.ptr_eq(&new.rules) {
        return;
    }
    all(old, &mut change.old);
    all(new, &mut change.new);
}

fn all(policy: &PolicyIntent, objects: &mut Objects) {
    let mut lists: BTreeMap<Arc<str>, (Direction, &[PolicyName])> = BTreeMap::new();
    for pod in policy.pods.values() {
        for (direction, list) in [(Direction::Ingress, &pod.ingress), (Direction::Egress, &pod.egress)] {
            if let Some(list) = list {
                lists.entry(chain(direction, list)).or_insert((direction, list));
            }
        }
    }
    for (chain, (direction, list)) in lists {
        let mut asked = vec![rule().jump(BEGINS_WITH_SYN)];
        for name in list {
            // A policy whose rules are not known lets nothing through.
            if policy.rules.contains_key(&(name.clone(), direction)) {
                asked.push(rule().jump(rules::chain(direction, name)).saying(&name.to_string()));
            }
        }
        asked.push(rule().drop().saying(&denied_by(direction, list)));
        objects.chain(chain, asked);
    }
}

fn denied_by(direction: Direction, list: &[PolicyName]) -> String {
    let names: Vec<String> = list.iter().map(PolicyName::to_string).collect();
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    format!("{direction} denied: {}", names.join(" "))
}

fn chain(direction: Direction, list: &[PolicyName]) -> Arc<str> {
    let mut text = String::new();
    for name in list {
        text.push_str(&name.to_string());
        text.push('\n');
    }
    let stem = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{stem}_{}", rules::digest(&text)).into()
}

/// The chain that judges a pod's traffic in a direction.
pub(super) fn chain_of(policy: &PodPolicy, direction: Direction) -> Arc<str> {
    let (this, other) = match direction {
        Direction::Ingress => (&policy.ingress, &policy.egress),
        Direction::Egress => (&policy.egress, &policy.ingress),
    };
    match (this, other) {
        (Some(list), _) => chain(direction, list),
        (None, Some(_)) => OPEN_TO_SYN.into(),
        (None, None) => OPEN.into(),
    }
}

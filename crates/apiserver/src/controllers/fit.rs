//! Whether a pod may run on a node.
//!
//! Covered: readiness, cordons, `nodeName`, `nodeSelector`, required node affinity, taints of effect NoSchedule and NoExecute.
//! Resources are not counted. Reference: "Assigning Pods to Nodes" and "Taints and Tolerations".

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::facts::holds;
use crate::object::{self, items, text};
use crate::selector::Selector;

/// What of a node's state a pod puts up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Only nodes that are ready and take pods.
    Usual,
    /// Any node: pods of DaemonSets, among which is what makes nodes ready.
    Daemon,
}

/// Why the node refuses the pod of this spec; nothing if it takes it.
pub(super) fn refusal(node: &Value, spec: &Value, patience: Patience) -> Option<&'static str> {
    let named = text(spec, "/nodeName");
    if !named.is_empty() && named != object::name(node) {
        return Some("node(s) didn't match the requested node name");
    }
    if patience == Patience::Usual {
        if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
            return Some("node(s) were unschedulable");
        }
        let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        if !holds(node, "Ready") && !tolerates(spec, &taint) {
            return Some("node(s) were not ready");
        }
    }
    if items(node, "/spec/taints").any(|taint| text(taint, "/effect") != "PreferNoSchedule" && !tolerates(spec, taint)) {
        return Some("node(s) had untolerated taint(s)");
    }
    let wanted = Selector::of_map(spec.pointer("/nodeSelector").unwrap_or(&Value::Null));
    let affinity = spec.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution");
    let affine = affinity.is_none_or(|affinity| items(affinity, "/nodeSelectorTerms").any(|term| term_matches(node, term)));
    if !wanted.matches(node) || !affine {
        return Some("node(s) didn't match Pod's node affinity/selector");
    }
    None
}

fn tolerates(spec: &Value, taint: &Value) -> bool {
    items(spec, "/tolerations").any(|toleration| {
        let effect = text(toleration, "/effect");
        if !effect.is_empty() && effect != text(taint, "/effect") {
            return false;
        }
        let key = text(toleration, "/key");
        match text(toleration, "/operator") {
            "Exists" => key.is_empty() || key == text(taint, "/key"),
            _ => key == text(taint, "/key") && text(toleration, "/value") == text(taint, "/value"),
        }
    })
}

fn term_matches(node: &Value, term: &Value) -> bool {
    let (mut expressions, mut fields) = (items(term, "/matchExpressions"), items(term, "/matchFields"));
    if expressions.len() + fields.len() == 0 {
        return false; // an empty term selects nothing
    }
    let name = json!(object::name(node));
    expressions.all(|demand| demand_holds(demand, node.pointer("/metadata/labels").and_then(|all| all.get(text(demand, "/key")))))
        && fields.all(|demand| text(demand, "/key") == "metadata.name" && demand_holds(demand, Some(&name)))
}

fn demand_holds(demand: &Value, value: Option<&Value>) -> bool {
    let value = value.and_then(Value::as_str);
    let values: BTreeSet<&str> = items(demand, "/values").filter_map(Value::as_str).collect();
    let compare = |wanted: std::cmp::Ordering| {
        let bound = values.first().and_then(|bound| bound.parse::<i64>().ok());
        let number = value.and_then(|value| value.parse::<i64>().ok());
        matches!((number, bound), (Some(number), Some(bound)) if number.cmp(&bound) == wanted)
    };
    match text(demand, "/operator") {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Value {
        json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}},
            "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    }

    fn check(spec: &Value, expected: Option<&str>) {
        let mut spec = spec.clone();
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = json!([{"key": "gpu", "operator": "Exists"}]);
        }
        assert_eq!(refusal(&node(), &spec, Patience::Usual), expected, "{spec}");
    }

    #[test]
    fn what_a_pod_asks_of_a_node() {
        let mismatch = Some("node(s) didn't match Pod's node affinity/selector");
        let affinity = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
        let expression = |operator: &str, key: &str, value: &str| {
            affinity(json!({"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]}))
        };
        check(&json!({}), None);
        check(&json!({"nodeSelector": {"disk": "ssd"}}), None);
        check(&json!({"nodeSelector": {"disk": "hdd"}}), mismatch);
        check(&expression("In", "disk", "ssd"), None);
        check(&expression("NotIn", "disk", "ssd"), mismatch);
        check(&expression("Gt", "cores", "4"), None);
        check(&expression("Lt", "cores", "4"), mismatch);
        check(&affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})), None);
        check(&affinity(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})), mismatch);
        check(&affinity(json!({})), mismatch);
        check(&json!({"nodeName": "n2"}), Some("node(s) didn't match the requested node name"));
    }

    #[test]
    fn taints_and_readiness() {
        let tainted = Some("node(s) had untolerated taint(s)");
        check(&json!({"tolerations": []}), tainted);
        check(&json!({"tolerations": [{"key": "gpu", "value": "yes"}]}), None);
        check(&json!({"tolerations": [{"key": "gpu", "value": "no"}]}), tainted);
        check(&json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}), tainted);
        let mut unready = node();
        unready["status"] = json!({});
        let spec = json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]});
        assert_eq!(refusal(&unready, &spec, Patience::Usual), Some("node(s) were not ready"));
        assert_eq!(refusal(&unready, &spec, Patience::Daemon), None);
        assert_eq!(refusal(&unready, &json!({"tolerations": [{"operator": "Exists"}]}), Patience::Usual), None);
    }
}

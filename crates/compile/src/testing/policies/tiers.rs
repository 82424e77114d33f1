//! ClusterNetworkPolicies of tables, as the API has them.

use serde_json::{Map, Value, json};

/// A policy's name and spec of `NAME PRIORITY SPEC`.
pub(super) fn policy(tier: &str, line: &str, read: impl Fn(&str) -> Value) -> (String, Value) {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("name, priority and spec, not {line}"));
    let (name, priority, mut spec) = (word().to_owned(), word().parse::<i64>().unwrap(), read(word()));
    (spec["tier"], spec["priority"]) = (json!(tier), json!(priority));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for short in spec.get_mut(direction).and_then(Value::as_array_mut).into_iter().flatten() {
            *short = rule(short, peers);
        }
    }
    (name, spec)
}

/// `{Deny: [PEERS], protocols: [8080/tcp, 8080-8081/udp, web]}`.
fn rule(short: &Value, peers: &str) -> Value {
    let mut rule = Map::new();
    for (field, value) in short.as_object().unwrap_or_else(|| panic!("not a rule: {short}")) {
        match field.as_str() {
            "Accept" | "Deny" | "Pass" => {
                let other = rule.insert("action".to_owned(), json!(field));
                assert!(other.is_none(), "two actions: {short}");
                rule.insert(peers.to_owned(), value.clone());
            }
            "protocols" => {
                let all: Vec<Value> = value.as_array().unwrap().iter().map(|word| protocol(word.as_str().unwrap())).collect();
                rule.insert(field.clone(), json!(all));
            }
            other => panic!("not of a rule: {other}"),
        }
    }
    Value::Object(rule)
}

fn protocol(word: &str) -> Value {
    let Some((ports, protocol)) = word.split_once('/') else { return json!({"destinationNamedPort": word}) };
    let number = |text: &str| text.parse::<u16>().unwrap_or_else(|error| panic!("{word}: {error}"));
    let ports = match ports.split_once('-') {
        Some((first, last)) => json!({"range": {"start": number(first), "end": number(last)}}),
        None => json!({"number": number(ports)}),
    };
    json!({protocol: {"destinationPort": ports}})
}

//! Giving a table's names their addresses.

use bowline_model::Family;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// Who has which address.
pub trait Places {
    /// A network by its name: the one address of a pod (`x/a`), a node (`n1`) or the host outside (`out`), or a node's addresses for pods (`n1.pods`).
    fn network(&self, name: &str, family: Family) -> IpNet;
}

impl<F: Fn(&str, Family) -> IpNet> Places for F {
    fn network(&self, name: &str, family: Family) -> IpNet {
        self(name, family)
    }
}

/// Addresses of everyone where nothing is real: nodes 192.168.200.11 and upwards, their pods on 10.42.1.0/24 and upwards (`x/a` ends in 11, `y/a`
/// in 21), the host outside 203.0.113.10.
pub fn plain(node_of: impl Fn(&str) -> Option<String>) -> impl Fn(&str, Family) -> IpNet {
    let number = |node: &str| node[1..].parse::<u16>().unwrap();
    move |name, family| {
        let v4 = family == Family::V4;
        let text = match (name, name.split_once('/')) {
            (_, Some((space, short))) => {
                let node = number(&node_of(name).unwrap_or_else(|| panic!("on which node is {name}?")));
                let letter = |text: &str, first: u8| u16::from(text.as_bytes()[0] - first + 1);
                let host = letter(space, b'x') * 10 + letter(short, b'a');
                if v4 { format!("10.42.{node}.{host}/32") } else { format!("fd42:0:0:{node}::{host:x}/128") }
            }
            ("out", None) => if v4 { "203.0.113.10/32" } else { "2001:db8:113::10/128" }.to_owned(),
            (_, None) => match name.strip_suffix(".pods") {
                Some(node) if v4 => format!("10.42.{}.0/24", number(node)),
                Some(node) => format!("fd42:0:0:{}::/64", number(node)),
                None if v4 => format!("192.168.200.{}/32", number(name) + 10),
                None => format!("fd00:200::{:x}/128", number(name) + 10),
            },
        };
        text.parse().unwrap()
    }
}

/// A policy's spec with networks for names.
pub(super) fn with_addresses(spec: &Value, places: &dyn Places) -> Value {
    match spec {
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| match (key.as_str(), value) {
                ("networks", Value::Array(names)) => (key.clone(), networks(names, places)),
                _ => (key.clone(), with_addresses(value, places)),
            };
            Value::Object(fields.iter().map(field).collect())
        }
        Value::Array(items) => Value::Array(items.iter().flat_map(|item| peers(item, places)).collect()),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain.clone(),
    }
}

/// A name is its network in each family.
fn networks(names: &[Value], places: &dyn Places) -> Value {
    let of = |name: &Value| Family::BOTH.map(|family| named(name.as_str().unwrap(), places, family)).into_iter().flatten();
    names.iter().flat_map(of).collect()
}

/// A peer by a named block is one for each family of the name; everything else stays one.
fn peers(item: &Value, places: &dyn Places) -> Vec<Value> {
    let Some(block) = item.get("ipBlock").and_then(Value::as_object) else { return vec![with_addresses(item, places)] };
    let of = |family: &Family| {
        let text = |value: &Value| named(value.as_str().unwrap(), places, *family);
        let mut own = Map::from_iter([("cidr".to_owned(), json!(text(&block["cidr"])?))]);
        if let Some(holes) = block.get("except") {
            let holes: Vec<String> = holes.as_array().unwrap().iter().filter_map(text).collect();
            own.insert("except".to_owned(), json!(holes));
        }
        Some(json!({"ipBlock": own}))
    };
    Family::BOTH.iter().filter_map(of).collect()
}

/// The network of a text in a family, if it has one: `$name`, `4$name`, or the network itself.
fn named(text: &str, places: &dyn Places, family: Family) -> Option<String> {
    let Some((only, name)) = text.split_once('$') else {
        let net: IpNet = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        return (Family::of_prefix(&net) == family).then(|| text.to_owned());
    };
    let v4 = family == Family::V4;
    let wanted = only.is_empty() || only == if v4 { "4" } else { "6" };
    wanted.then(|| match name {
        "all" => if v4 { "0.0.0.0/0" } else { "::/0" }.to_owned(),
        "pods" => if v4 { "10.42.0.0/16" } else { "fd42::/56" }.to_owned(),
        _ => places.network(name, family).to_string(),
    })
}

//! Ethernet addresses in a lab.

use anyhow::{Context, Result};
use serde_json::Value;

use super::lab::{Lab, said};
use super::wire::Mac;

/// Of a pod's own end.
pub(crate) fn of_pod(lab: &Lab, pod: &str) -> Result<Mac> {
    mac(&in_pod(lab, pod, &["ip", "-j", "link", "show", "eth0"])?[0]["address"])
}

/// Of what a pod sends everything to.
pub(crate) fn gateway_of(lab: &Lab, pod: &str) -> Result<Mac> {
    mac(&in_pod(lab, pod, &["ip", "-j", "-4", "neigh", "show", "dev", "eth0"])?[0]["lladdr"])
}

/// Of a node's link.
pub(crate) fn on_node(lab: &Lab, node: &str, link: &str) -> Result<Mac> {
    let argv = ["ip", "-j", "link", "show", link];
    let text = said(&lab.node(node, &argv)?).with_context(|| format!("{} on {node}", argv.join(" ")))?;
    mac(&serde_json::from_str::<Value>(&text)?[0]["address"])
}

/// Of the host outside, and of the router that it sends everything to.
pub(crate) fn outside(lab: &Lab) -> Result<(Mac, Mac)> {
    let ask = |words: &[&str], field: &str| -> Result<Mac> {
        let text = said(&lab.client(&[&["ip", "-j"], words].concat())?).with_context(|| words.join(" "))?;
        mac(&serde_json::from_str::<Value>(&text)?[0][field])
    };
    Ok((ask(&["link", "show", "eth0"], "address")?, ask(&["-4", "neigh", "show", "dev", "eth0"], "lladdr")?))
}

fn in_pod(lab: &Lab, pod: &str, argv: &[&str]) -> Result<Value> {
    let text = said(&lab.pod(pod, argv)?).with_context(|| argv.join(" "))?;
    Ok(serde_json::from_str(&text)?)
}

fn mac(text: &Value) -> Result<Mac> {
    let text = text.as_str().with_context(|| format!("no Ethernet address: {text}"))?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("no Ethernet address: {text}"))
}

//! What is in a node's kernel, ours and others', as `nft` and `ip` tell it: for comparing before and after.
//!
//! Left out is what moves by itself: handles, counters, times that run down, numbers of links.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::lab::{Lab, said};

/// Route protocol of everything that the agent writes.
const OUR_PROTOCOL: &str = "proto 118";

/// Lines that say what there is, each with its kind before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// With our mark.
    pub(crate) ours: BTreeSet<String>,
    /// Without.
    pub(crate) theirs: BTreeSet<String>,
}

/// The records of attachments that are gone go by themselves once their addresses have rested, and are left out.
const DUMP: &str = "echo '#nft'; nft -j list ruleset || exit 1; \
    echo '#route'; ip -o -4 route show table all; ip -o -6 route show table all; \
    echo '#rule'; ip -o -4 rule; ip -o -6 rule; \
    echo '#link'; ip -o link; \
    echo '#file'; for f in /var/lib/bowline/attachments/* /var/lib/bowline/*/*.json /etc/cni/net.d/* /opt/cni/bin/* /run/bowline /var/lib/bowline \
        /sys/fs/bpf/bowline /sys/fs/bpf/bowline/*/*; do \
        case \"$f\" in *.released) continue;; esac; \
        if [ -L \"$f\" ]; then echo \"$f -> $(readlink \"$f\")\"; elif [ -e \"$f\" ]; then echo \"$f\"; fi; done";

/// Reads a node's kernel and our files there.
pub(crate) fn read(lab: &Lab, node: &str) -> Result<Kernel> {
    let output = lab.node(node, &["sh", "-c", DUMP])?;
    let text = said(&output).with_context(|| format!("{node}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let mut kernel = Kernel { ours: BTreeSet::new(), theirs: BTreeSet::new() };
    let mut kind = "";
    for line in text.lines() {
        if let Some(next) = line.strip_prefix('#') {
            kind = next;
        } else if kind == "nft" {
            nftables(line, &mut kernel).with_context(|| format!("{node}: nft -j list ruleset"))?;
        } else {
            let line = plain(kind, line);
            let ours = is_ours(kind, &line);
            if ours { &mut kernel.ours } else { &mut kernel.theirs }.insert(format!("{kind} {line}"));
        }
    }
    ensure!(kernel.theirs.iter().any(|line| line.starts_with("link ")), "{node}: no link at all was read");
    Ok(kernel)
}

fn plain(kind: &str, line: &str) -> String {
    let line = line.trim_end();
    match kind {
        // The number goes: a link made anew has another.
        "link" => line.split_once(": ").map_or(line, |(_, rest)| rest).split(" state ").next().unwrap_or(line).to_owned(),
        _ => line.to_owned(),
    }
}

fn is_ours(kind: &str, line: &str) -> bool {
    let of_our_link = |word: &str| word.starts_with("bwl") || word.starts_with("bowline");
    match kind {
        "link" => of_our_link(line),
        // The kernel's own routes of our links come and go with them.
        "route" => line.contains(OUR_PROTOCOL) || line.split_whitespace().any(of_our_link),
        // Among them `loopback`, which is ours where it is a link to our plugin.
        "file" => line.contains("bowline"),
        _ => line.contains(OUR_PROTOCOL),
    }
}

fn nftables(text: &str, kernel: &mut Kernel) -> Result<()> {
    let document: Value = serde_json::from_str(text)?;
    let mut positions: BTreeMap<String, usize> = BTreeMap::new();
    for object in document["nftables"].as_array().into_iter().flatten().filter(|object| object.get("metainfo").is_none()) {
        let mut object = object.clone();
        let inner = object.as_object().and_then(|fields| fields.values().next()).cloned().unwrap_or_default();
        let ours = (inner["family"] == "inet" || inner["family"] == "arp")
            && (inner["table"] == "bowline" || (inner["name"] == "bowline" && inner.get("table").is_none()));
        still(&mut object);
        // The order of rules in a chain is part of what they are; that of chains is not.
        let place = match object.get("rule") {
            Some(rule) => {
                let chain = format!("{} {} {}", rule["family"], rule["table"], rule["chain"]);
                let position = positions.entry(chain).or_default();
                *position += 1;
                *position
            }
            None => 0,
        };
        if ours { &mut kernel.ours } else { &mut kernel.theirs }.insert(format!("nft {place} {object}"));
    }
    Ok(())
}

/// Takes out what moves by itself, and orders what has no order.
fn still(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for moving in ["handle", "packets", "bytes", "expires"] {
                fields.remove(moving);
            }
            fields.values_mut().for_each(still);
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_key(Value::to_string);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(still),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Holds one state against another; says the first few differences.
pub(crate) fn same(what: &str, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let short = |line: &String| line.chars().take(300).collect::<String>();
    let gone: Vec<String> = before.difference(after).take(3).map(short).collect();
    let new: Vec<String> = after.difference(before).take(3).map(short).collect();
    ensure!(gone.is_empty() && new.is_empty(), "{what}: gone {gone:?}, new {new:?}");
    Ok(())
}

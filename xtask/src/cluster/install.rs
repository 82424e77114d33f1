//! Bowline onto a cluster, as an operator does it: the image into the nodes, `kubectl apply -f deploy/bowline.yaml`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;

use crate::cluster::images;
use crate::cluster::kubectl::{Kubectl, condition, items, number, text};
use crate::cluster::lab::Lab;
use crate::cluster::place::{self, Place};
use crate::cluster::plan::Plan;
use crate::cluster::screen::{Screen, until};
use crate::cluster::up::counted;
use crate::image::Profile;

/// How long a network may take until all nodes are Ready.
const LIMIT: Duration = Duration::from_secs(180);

/// The networks from which a service may claim external addresses.
const EXTERNAL: &str = r#"[203.0.113.0/24, "2001:db8:113::/64"]"#;

/// Imports the image, applies the manifest, in another mode than its own if one is given, and waits until nodes are Ready and every DaemonSet
/// stands.
pub(crate) fn run(lab: &Lab, place: &Place, plan: &Plan, (image, mode): (Option<&Path>, Option<&str>), screen: &Screen) -> Result<()> {
    let archive = match image {
        Some(path) => path.to_owned(),
        // Made from the tree as it is: nothing is compiled if nothing has changed.
        None => crate::image::product(Profile::Release, None)?,
    };
    images::import(lab, &plan.nodes, std::slice::from_ref(&archive))?;
    screen.good("image", &archive.display().to_string());
    let manifest = place::repository().join("deploy/bowline.yaml");
    let manifest = fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
    let kubectl = Kubectl::of(place);
    let begin = Instant::now();
    kubectl.apply(&fitted(&manifest, plan, mode)).context("deploy/bowline.yaml")?;
    let waited = until("the network", LIMIT, || Ok(standing(&kubectl)));
    let detail = waited.with_context(|| troubles(&kubectl))?;
    screen.good("network", &format!("{detail}, {:.1}s after apply", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// The manifest with what an operator puts in by hand: this cluster's API server, its networks, the address of its DNS, and the addresses
/// that services may claim as external. Those are the lab's outside (RFC 5737, RFC 3849), which the suites' ExternalIP case asks for too; nobody else is in there.
fn fitted(manifest: &str, plan: &Plan, mode: Option<&str>) -> String {
    let server = format!("https://{}:{}", plan.advertise, plan.ports.server);
    let list = |networks: &[IpNet]| format!("[{}]", networks.iter().map(|one| format!("\"{one}\"")).collect::<Vec<_>>().join(", "));
    let dns = plan.dns().map(|address| format!("\"{address}\"")).unwrap_or_default();
    let mode = mode.map(|mode| ("serviceMode:", mode.to_owned()));
    let set = [
        ("clusterCIDRs:", list(&plan.pod_cidrs)),
        ("serviceCIDRs:", list(&plan.service_cidrs)),
        ("clusterIP:", dns.clone()),
        ("clusterIPs:", format!("[{dns}]")),
    ];
    let set: Vec<(&str, String)> = set.into_iter().chain(mode).collect();
    let mut lines = Vec::new();
    for line in manifest.lines() {
        let indent = line.len() - line.trim_start().len();
        let bare = line.trim_start().trim_start_matches('#').trim_start();
        if bare.starts_with("apiServer:") {
            lines.push(format!("{:indent$}apiServer: {server}", ""));
            lines.push(format!("{:indent$}externalIPs: {EXTERNAL}", ""));
        } else if let Some((key, value)) = set.iter().find(|(key, _)| line.trim_start().starts_with(key)) {
            lines.push(format!("{:indent$}{key} {value}", ""));
        } else if !bare.starts_with("externalIPs:") {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

/// What stands, or what is waited for.
fn standing(kubectl: &Kubectl) -> Result<String, String> {
    let ask = |words: &[&str]| kubectl.json(words).map_err(|error| format!("{error:#}"));
    let nodes = ask(&["get", "nodes"])?;
    let sets = ask(&["get", "daemonsets", "--namespace", "kube-system"])?;
    let not_ready: Vec<&str> =
        items(&nodes).iter().filter(|node| !condition(node, "Ready")).map(|node| text(node, "/metadata/name")).collect();
    if !not_ready.is_empty() {
        return Err(format!("not Ready: {}", not_ready.join(", ")));
    }
    match items(&sets).iter().find(|set| !rolled_out(set)) {
        Some(set) => Err(format!("DaemonSet {} is not rolled out", text(set, "/metadata/name"))),
        None => Ok(format!("{} Ready, {}", counted(items(&nodes).len(), "node"), counted(items(&sets).len(), "DaemonSet"))),
    }
}

fn rolled_out(set: &Value) -> bool {
    let wanted = number(set, "/status/desiredNumberScheduled");
    wanted > 0
        && number(set, "/metadata/generation") == number(set, "/status/observedGeneration")
        && number(set, "/status/updatedNumberScheduled") == wanted
        && number(set, "/status/numberAvailable") == wanted
}

/// What the cluster says about pods that do not run.
fn troubles(kubectl: &Kubectl) -> String {
    let part = |words: &[&str]| kubectl.run(words).unwrap_or_else(|error| format!("{error:#}"));
    let pods = part(&["get", "pods", "--all-namespaces", "--output", "wide"]);
    let events = part(&["get", "events", "--all-namespaces", "--field-selector", "type=Warning", "--sort-by", ".lastTimestamp"]);
    let logs = part(&["logs", "--namespace", "kube-system", "daemonset/bowline", "--all-containers", "--tail", "8"]);
    let events: Vec<&str> = events.lines().collect();
    format!("{pods}\n{}\n{logs}", events.get(events.len().saturating_sub(8)..).unwrap_or_default().join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_manifest_gets_this_clusters_server() {
        let plan = Plan::of_nodes(1, &[], &[], "1-2").unwrap();
        let manifest = "data:\n  x: |\n    # apiServer: https://HOST:6443\n    # externalIPs: []\n    backend: vxlan\n";
        let server = "    apiServer: https://192.168.200.11:6443\n";
        let external = "    externalIPs: [203.0.113.0/24, \"2001:db8:113::/64\"]\n";
        assert_eq!(fitted(manifest, &plan, None), format!("data:\n  x: |\n{server}{external}    backend: vxlan\n"));
    }

    #[test]
    fn the_manifest_gets_this_clusters_networks() {
        let networks = |text: &str| vec![text.parse().unwrap()];
        let plan = Plan::of_nodes(1, &networks("10.1.0.0/16"), &networks("10.2.0.0/16"), "1-2").unwrap();
        let manifest = fs::read_to_string(place::repository().join("deploy/bowline.yaml")).unwrap();
        assert!(fitted(&manifest, &plan, Some("ebpf")).contains("\n    serviceMode: ebpf\n"));
        let made = fitted(&manifest, &plan, None);
        for line in [
            "    clusterCIDRs: [\"10.1.0.0/16\"]",
            "    serviceCIDRs: [\"10.2.0.0/16\"]",
            "  clusterIP: \"10.2.0.10\"",
            "  clusterIPs: [\"10.2.0.10\"]",
        ] {
            assert_eq!(made.lines().filter(|one| *one == line).count(), 1, "{line}");
        }
        assert!(
            !made.lines().any(|line| !line.trim_start().starts_with('#') && (line.contains("10.42.") || line.contains("10.43."))),
            "{made}"
        );
    }

    #[test]
    fn a_set_that_is_still_rolled_out_is_waited_for() {
        let set = |generation: u64, available: u64| {
            json!({"metadata": {"generation": 2}, "status": {"desiredNumberScheduled": 2, "observedGeneration": generation,
                "updatedNumberScheduled": 2, "numberAvailable": available}})
        };
        assert!(rolled_out(&set(2, 2)));
        assert!(!rolled_out(&set(1, 2)));
        assert!(!rolled_out(&set(2, 1)));
        assert!(!rolled_out(&json!({})));
    }
}

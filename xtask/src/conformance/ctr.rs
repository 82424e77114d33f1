//! `ctr run --cni`: containerd's own client, go-cni and our plugin, without a kubelet, on a node of a cluster that is up.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::outcome::Case;
use super::place::Cluster;

const NAME: &str = "ctr: a container with --cni has addresses of the node's networks and reaches another";

/// How long a container may take, on a machine with much else to do.
const LIMIT: Duration = Duration::from_secs(60);

/// One case; skipped where no cluster is up.
pub(crate) fn case(cluster: &str) -> Case {
    match Cluster::find(cluster) {
        Ok(cluster) => {
            let begun = Instant::now();
            let result = run(&cluster);
            Case::of(NAME, begun.elapsed(), &result)
        }
        Err(error) => Case::skipped(NAME, format!("it needs a cluster that is up (make cluster): {error:#}")),
    }
}

fn run(cluster: &Cluster) -> Result<()> {
    let image = image(cluster)?;
    let server = Container { cluster, id: "conf-ctr-server" };
    server.remove();
    let result = talk(cluster, &image, &server);
    server.remove();
    result
}

/// One serves, another asks it.
fn talk(cluster: &Cluster, image: &str, server: &Container<'_>) -> Result<()> {
    server.start(image, &["/agnhost", "netexec", "--http-port=8080"])?;
    for address in server.addresses()? {
        let target = match address {
            IpAddr::V4(v4) => format!("http://{v4}:8080/hostname"),
            IpAddr::V6(v6) => format!("http://[{v6}]:8080/hostname"),
        };
        let words = ["ctr", "-n", "k8s.io", "run", "--rm", "--cni", image, "conf-ctr-client"];
        let ask = ["curl", "-s", "-g", "--noproxy", "*", "--retry", "5", "--retry-connrefused", "--max-time", "10", &target];
        let said = cluster.node("n1", &[&words[..], &ask[..]].concat(), LIMIT).with_context(|| format!("a container asks {target}"))?;
        ensure!(!said.trim().is_empty(), "{target} answered nothing");
    }
    Ok(())
}

/// The image of agnhost, by the name that the node has it under.
fn image(cluster: &Cluster) -> Result<String> {
    let names = cluster.node("n1", &["ctr", "-n", "k8s.io", "images", "list", "-q"], LIMIT)?;
    let found = names.lines().find(|name| name.contains("/agnhost:")).context("the node has no image of agnhost")?;
    Ok(found.to_owned())
}

struct Container<'a> {
    cluster: &'a Cluster,
    id: &'static str,
}

impl Container<'_> {
    fn ctr(&self, words: &[&str]) -> Result<String> {
        self.cluster.node("n1", &[&["ctr", "-n", "k8s.io"], words].concat(), LIMIT)
    }

    fn start(&self, image: &str, command: &[&str]) -> Result<()> {
        self.ctr(&[&["run", "--detach", "--cni", image, self.id], command].concat()).map(drop)
    }

    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let text =
            self.ctr(&["task", "exec", "--exec-id", "look", self.id, "ip", "-j", "addr", "show", "dev", "eth0", "scope", "global"])?;
        let links: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let entries = links.as_array().into_iter().flatten().filter_map(|link| link.get("addr_info")?.as_array()).flatten();
        let addresses: Vec<IpAddr> = entries.filter_map(|entry| entry.get("local")?.as_str()?.parse().ok()).collect();
        ensure!(addresses.len() == 2, "eth0 has {addresses:?}, not an address of each family");
        Ok(addresses)
    }

    /// Ends and removes it; it may not be there.
    fn remove(&self) {
        let _ = self.ctr(&["task", "kill", "--signal", "SIGKILL", self.id]);
        let _ = self.ctr(&["task", "delete", "--force", self.id]);
        let _ = self.ctr(&["container", "delete", self.id]);
    }
}

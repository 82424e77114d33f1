//! Paths that take less than their ends believe: who sends too much by a service is told so in the service's name, and goes on.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::foreign::shell;
use crate::common::cluster::{cluster_ip, nodes, pods};
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::{PORT, idle, ingress_policy, server, service};
use crate::common::rows::Bench;

const SERVER: &str = "narrow";
const CLIENT: &str = "narrow-client";
/// The same by the rules in every mode.
const STICKY: &str = "narrow-sticky";
const NODE_PORT: u16 = 30_713;

/// What the narrow link takes.
const MTU: u64 = 1300;
/// More than that, and less than any other link takes.
const DATAGRAM: u64 = 1340;
const HAUL: u64 = 4_000_000;
/// A connection younger than a second is told nothing that counts: within this it has been handed over and has tried again.
const HAUL_WITHIN_MS: u64 = 8000;

/// Who sends.
#[derive(Clone, Copy)]
enum Place {
    Pod,
    Server,
    Node,
    Outside,
}

impl Place {
    fn generator(self, lab: &Lab, words: &[&str]) -> Result<Generator> {
        match self {
            Place::Pod => Generator::in_pod(lab, CLIENT, words),
            Place::Server => Generator::in_pod(lab, SERVER, words),
            Place::Node => Generator::on_node(lab, "n1", words),
            Place::Outside => Generator::outside(lab, words),
        }
    }

    fn shell(self, lab: &Lab, script: &str) -> Result<String> {
        let argv = ["sh", "-c", script];
        let output = match self {
            Place::Pod => lab.pod(CLIENT, &argv),
            Place::Server => lab.pod(SERVER, &argv),
            Place::Node => lab.node("n1", &argv),
            Place::Outside => lab.client(&argv),
        }?;
        said(&output).with_context(|| format!("{script}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Forgets what paths take.
    fn forget(self, lab: &Lab) -> Result<()> {
        self.shell(lab, "ip -4 route flush cache; ip -6 route flush cache").map(|_| ())
    }
}

/// A pod's link on its node, made narrow.
struct Narrow<'a> {
    lab: &'a Lab,
    node: &'a str,
    link: String,
    mtu: u64,
}

impl<'a> Narrow<'a> {
    fn link(lab: &'a Lab, node: &'a str, pod: IpAddr) -> Result<Narrow<'a>> {
        let route: Value = serde_json::from_str(&shell(lab, node, &format!("ip -j route get {pod}"))?)?;
        let link = route[0]["dev"].as_str().context("no link")?.to_owned();
        let shown: Value = serde_json::from_str(&shell(lab, node, &format!("ip -j link show {link}"))?)?;
        let narrow = Narrow { lab, node, link, mtu: shown[0]["mtu"].as_u64().context("no MTU")? };
        narrow.set(MTU)?;
        Ok(narrow)
    }

    fn set(&self, mtu: u64) -> Result<()> {
        shell(self.lab, self.node, &format!("ip link set {} mtu {mtu}", self.link))?;
        self.lab.settled()
    }

    fn restore(self) -> Result<()> {
        self.set(self.mtu)
    }
}

fn populated(lab: &Lab) -> Result<()> {
    let mut sticky = service(STICKY, SERVER, None);
    sticky["spec"]["sessionAffinity"] = json!("ClientIP");
    lab.apply_objects(&[server(SERVER, "n2", SERVER)?, idle(CLIENT, "n1", CLIENT)?, service(SERVER, SERVER, Some(NODE_PORT)), sticky])?;
    lab.settled()
}

fn unpopulated(lab: &Lab) -> Result<()> {
    lab.delete("pod", &[SERVER, CLIENT])?;
    lab.delete("service", &[SERVER, STICKY])
}

fn address_of(lab: &Lab, app: &str, v6: bool) -> Result<IpAddr> {
    pods(lab, &format!("app={app}"))?.first().with_context(|| format!("no pod of {app}"))?.ip(v6)
}

pub(crate) fn is_found_out(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    // The server itself knows what its link takes, and tells nobody when a connection begins.
    let script = "for f in -4 -6; do ip $f route change $(ip $f route show default) mtu 1300 advmss 1380 || exit 1; done";
    let output = lab.pod(SERVER, &["sh", "-c", script])?;
    ensure!(output.status.success(), "the server's routes: {}", String::from_utf8_lossy(&output.stderr));
    let narrow = Narrow::link(lab, "n2", address_of(lab, SERVER, false)?)?;
    let n1 = nodes(lab)?.into_iter().find(|node| node.name == "n1").context("no n1")?;
    let mut slowest = 0;
    for v6 in lab.families() {
        let (vip, sticky) = (cluster_ip(lab, SERVER, "default", v6)?, cluster_ip(lab, STICKY, "default", v6)?);
        // At the socket the endpoint is whom the client's kernel speaks to.
        let known_as = if lab.setup.is_ebpf() { address_of(lab, SERVER, v6)? } else { vip };
        for (who, from, address, port, told_of) in [
            ("a pod", Place::Pod, vip, PORT, known_as),
            ("a pod by the rules", Place::Pod, sticky, PORT, sticky),
            ("the node", Place::Node, vip, PORT, known_as),
            ("outside by a node port", Place::Outside, n1.ip(v6)?, NODE_PORT, n1.ip(v6)?),
        ] {
            let took = learns(lab, from, SocketAddr::new(address, port), told_of).with_context(|| format!("{who}, {address}"))?;
            slowest = slowest.max(took);
        }
    }
    narrow.restore()?;
    unpopulated(lab)?;
    Ok(format!(
        "a pod by two services, the node and outside, both families, learn {MTU} of the service; {HAUL} bytes in {slowest} ms at most"
    ))
}

/// Datagrams and a connection that begin with too much; how long the connection took.
fn learns(lab: &Lab, from: Place, target: SocketAddr, told_of: IpAddr) -> Result<u64> {
    let words = target.to_string();
    let mut parcels = from.generator(lab, &["parcels", &words])?;
    from.forget(lab)?;
    let whole = json!({"by": SERVER, "from": words, "whole": true});
    // By the rules the kernel cuts the node's own datagram for the service's address, turns it, and asks what the endpoint's takes: IPv6, of which
    // no router cuts anything, stays too large. A connection keeps to what was learnt.
    let comes = lab.setup.is_ebpf() || target.is_ipv4() || !matches!(from, Place::Node);
    eventually(|| {
        let back = parcels.ask(&format!("narrow {DATAGRAM}"))?;
        ensure!(!comes || back == whole, "a datagram of {DATAGRAM} bytes: {back}");
        learnt(lab, from, told_of).context("after datagrams")
    })?;
    let mut haul = from.generator(lab, &["haul", &words])?;
    // For a second or two what began meanwhile is carried by what the link took before.
    let took = eventually(|| {
        from.forget(lab)?;
        let took = haul.ask(&format!("up {HAUL}"))?.as_u64().context("no time")?;
        learnt(lab, from, told_of).context("after a connection")?;
        Ok(took)
    })?;
    ensure!(took < HAUL_WITHIN_MS, "{HAUL} bytes took {took} ms");
    Ok(took)
}

/// The sender's kernel knows what the path to this address takes.
fn learnt(lab: &Lab, from: Place, address: IpAddr) -> Result<()> {
    let route = from.shell(lab, &format!("ip route get {address}"))?;
    ensure!(route.contains(&format!("mtu {MTU}")), "nothing learnt of {address}: {route}");
    Ok(())
}

/// A connection that connection tracking does not know when it first sends too much, to or from a pod whose policy lets nothing in but answers.
pub(crate) fn is_found_out_by_the_young(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    lab.apply_objects(&[ingress_policy(CLIENT, CLIENT, None)])?;
    lab.settled()?;
    let mut told = Vec::new();
    for (way, node, app) in [("up", "n2", SERVER), ("down", "n1", CLIENT)] {
        let narrow = Narrow::link(lab, node, address_of(lab, app, false)?)?;
        for v6 in lab.families() {
            let target = SocketAddr::new(cluster_ip(lab, SERVER, "default", v6)?, PORT).to_string();
            let mut haul = Place::Pod.generator(lab, &["haul", &target])?;
            let (sender, receiver) = if way == "up" { (Place::Pod, SERVER) } else { (Place::Server, CLIENT) };
            let receiver = address_of(lab, receiver, v6)?;
            let took = eventually(|| {
                haul.ask("up 16")?;
                // By IPv6 who receives says when the connection begins what their own way back takes.
                Place::Pod.forget(lab)?;
                Place::Server.forget(lab)?;
                let before = lab.metric("n1", "bowline_fastpath_connections_total")?;
                let took = haul.ask(&format!("{way} {HAUL}"))?.as_u64().context("no time")?;
                let begun = lab.metric("n1", "bowline_fastpath_connections_total")? - before;
                ensure!(begun == 1, "{begun} connections began without the stack instead of one");
                learnt(lab, sender, receiver)?;
                Ok(took)
            })?;
            ensure!(took < HAUL_WITHIN_MS, "{way} {target}: {HAUL} bytes took {took} ms");
            told.push(format!("{way} {} {took} ms", if v6 { "IPv6" } else { "IPv4" }));
        }
        narrow.restore()?;
    }
    lab.delete("networkpolicy", &[CLIENT])?;
    unpopulated(lab)?;
    Ok(format!("{HAUL} bytes on a connection begun without the stack: {}", told.join(", ")))
}

//! Services at the socket: that connections go straight to an endpoint, what programs see of it, and that the hooks stay where they belong.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::foreign::{counted, repairs, shell};
use crate::common::cluster::{cluster_ip, pods};
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually, field, said};
use crate::common::objects::{PORT, idle, myself, server, service};
use crate::common::rows::Bench;

/// Where the hooks are pinned.
const HOME: &str = "/sys/fs/bpf/bowline";
/// How many there are.
const HOOKS: usize = 8;
/// Within which what someone detached is back.
const WITHIN: Duration = Duration::from_secs(2);

/// An HTTP server, a client on another node, and services in front of the one.
fn populated(lab: &Lab) -> Result<()> {
    let web = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sock-web", "labels": {"app": "sock-web"}},
        "spec": {"nodeName": "n2", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "web", "ports": [{"containerPort": 80}]}]},
    });
    let port = json!({"port": 80, "nodePort": 30_900});
    let service = |name: &str, kind: &str, app: &str, port: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": kind, "ipFamilyPolicy": "PreferDualStack", "selector": {"app": app}, "ports": [port]},
        })
    };
    lab.apply_objects(&[web, idle("sock-client", "n1", "sock-client")?])?;
    lab.apply_objects(&[
        service("sock-web", "NodePort", "sock-web", port),
        service("sock-none", "ClusterIP", "sock-none", json!({"port": 80})),
    ])?;
    lab.settled()
}

fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}/", std::net::SocketAddr::new(address, port))
}

/// The page, and whom curl thought it had it from.
fn fetched(output: &std::process::Output) -> Option<(String, String)> {
    let text = said(output)?;
    let (page, peer) = text.rsplit_once("peer ")?;
    Some((field(page, "pod")?.to_owned(), peer.trim().to_owned()))
}

fn request(url: &str) -> Vec<&str> {
    vec!["curl", "-s", "-g", "--noproxy", "*", "--max-time", "3", "-w", "peer %{remote_ip}\n", url]
}

/// How many of a node's tracked connections were sent to an address.
pub(crate) fn tracked(lab: &Lab, node: &str, to: IpAddr) -> Result<usize> {
    let family = if to.is_ipv6() { "ipv6" } else { "ipv4" };
    Ok(shell(lab, node, &format!("conntrack -L -f {family} --orig-dst {to} 2>/dev/null"))?.lines().count())
}

fn reached(lab: &Lab, address: IpAddr) -> Result<()> {
    eventually(|| {
        let (pod, peer) = fetched(&lab.pod("sock-client", &request(&url(address, 80)))?).context("no page")?;
        ensure!(pod == "sock-web" && peer == address.to_string(), "{pod} answered as {peer}");
        Ok(())
    })
}

/// No connection is tracked under the service's address, and the client's socket says that it speaks to it all the same.
pub(crate) fn straight(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    let web = pods(lab, "app=sock-web")?.into_iter().next().context("no pod")?;
    for v6 in lab.families() {
        let address = cluster_ip(lab, "sock-web", "default", v6)?;
        reached(lab, address)?;
        let host = fetched(&lab.node("n1", &request(&url(address, 80)))?).context("no page for the node")?;
        ensure!(host == ("sock-web".to_owned(), address.to_string()), "the node got {host:?}");
        let (by_service, straight) = (tracked(lab, "n1", address)?, tracked(lab, "n1", web.ip(v6)?)?);
        ensure!(by_service == 0 && straight >= 2, "{by_service} connections to {address} are tracked, {straight} to the pod itself");
    }
    Ok("a pod's and the node's connections, both families: none is tracked under the service's address, the peer's name is that".to_owned())
}

/// Pods of n1 with host ports: one at all addresses, and one at 127.0.0.1 alone.
fn with_host_ports(lab: &Lab) -> Result<()> {
    let pod = |name: &str, port: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "web", "ports": [port]}]},
        })
    };
    lab.apply_objects(&[
        pod("sock-host", json!({"containerPort": 80, "hostPort": 8080})),
        pod("sock-lo", json!({"containerPort": 80, "hostPort": 8081, "hostIP": "127.0.0.1"})),
    ])?;
    lab.settled()
}

/// The node's own programs reach node ports and host ports on loopback; a pod's loopback is its own; no link takes loopback addresses for that.
pub(crate) fn on_loopback(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    with_host_ports(lab)?;
    let ports = [("sock-web", 30_900), ("sock-host", 8080), ("sock-lo", 8081)];
    for address in ["127.0.0.1", "127.9.9.9", "::1"] {
        let address: IpAddr = address.parse()?;
        for (name, port) in ports {
            if name == "sock-lo" && address.to_string() != "127.0.0.1" {
                let elsewhere = lab.node("n1", &request(&url(address, port)))?;
                ensure!(elsewhere.status.code() == Some(7), "{address}:{port}: {}", elsewhere.status);
                continue;
            }
            eventually(|| {
                let (pod, peer) = fetched(&lab.node("n1", &request(&url(address, port)))?).context("no page")?;
                ensure!(pod == name && peer == address.to_string(), "{pod} answered as {peer} on {port}");
                Ok(())
            })?;
            let pods_own = lab.pod("sock-client", &request(&url(address, port)))?;
            ensure!(pods_own.status.code() == Some(7), "a pod's {address}:{port}: {}", pods_own.status);
        }
    }
    let routed = shell(lab, "n1", "cat /proc/sys/net/ipv4/conf/*/route_localnet")?;
    ensure!(routed.lines().all(|line| line == "0"), "route_localnet: {routed:?}");
    lab.delete("pod", &["sock-host", "sock-lo"])?;
    eventually(|| {
        let gone = lab.node("n1", &request(&url("::1".parse()?, 8080)))?;
        ensure!(gone.status.code() == Some(7), "a pod that is gone: {}", gone.status);
        Ok(())
    })?;
    Ok("node ports and host ports on 127.0.0.1, 127.9.9.9 and ::1 of the node; refused in a pod; route_localnet is 0 on every link"
        .to_owned())
}

/// A service without endpoints refuses in the connect call itself, before there is a packet.
pub(crate) fn refused(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    for v6 in lab.families() {
        let address = cluster_ip(lab, "sock-none", "default", v6)?;
        let page = url(address, 80);
        let ask = ["curl", "-sS", "-g", "--noproxy", "*", "--max-time", "3", page.as_str()];
        for output in [lab.pod("sock-client", &ask)?, lab.node("n1", &ask)?] {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(7), "{address}: {} {why}", output.status);
        }
        let seen = tracked(lab, "n1", address)?;
        ensure!(seen == 0, "{seen} packets went out to {address} all the same");
    }
    Ok("for a pod and the node, both families, and no packet is sent".to_owned())
}

/// A socket that is never connected sends to one endpoint, while it is there, and hears the service's address.
pub(crate) fn kept(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let names = ["kept-a", "kept-b", "kept-c"];
    let mut objects = names.iter().zip(["n1", "n2", "n3"]).map(|(name, node)| server(name, node, "kept")).collect::<Result<Vec<_>>>()?;
    objects.push(idle("kept-client", "n1", "kept-client")?);
    lab.apply_objects(&objects)?;
    lab.apply_objects(&[service("kept", "kept", None)])?;
    lab.settled()?;
    let program = myself()?;
    let mut used = std::collections::BTreeSet::new();
    for v6 in lab.families() {
        let target = std::net::SocketAddr::new(cluster_ip(lab, "kept", "default", v6)?, PORT).to_string();
        for _ in 0..12 {
            let output = lab.pod("kept-client", &[&program, "--generator", "letters", "kept", "40", &target])?;
            let text = said(&output).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
            let report: Value = serde_json::from_str(&text)?;
            let by: Vec<String> = report["by"].as_object().context("nobody")?.keys().cloned().collect();
            ensure!(by.len() == 1, "one socket, and {by:?} answered");
            ensure!(report["from"] == json!([target]), "answers came from {}", report["from"]);
            used.extend(by);
        }
    }
    // Twelve sockets of a family that all draw one of three: one chance in 177,147.
    ensure!(used.len() > 1, "24 sockets all went to {used:?}");
    lab.delete("pod", &["kept-a", "kept-b", "kept-c", "kept-client"])?;
    lab.delete("service", &["kept"])?;
    Ok(format!("24 sockets x 40 datagrams, each socket with one endpoint, {} endpoints in all", used.len()))
}

fn attached(lab: &Lab, node: &str) -> Result<Vec<String>> {
    Ok(shell(lab, node, &format!("ls -1i {HOME}/links-*/ 2>/dev/null; true"))?.lines().map(str::to_owned).collect())
}

/// Someone removes pins, which detaches the programs or would hide the maps from the next agent.
pub(crate) fn put_back(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    let mut told = Vec::new();
    let mut peers = Vec::new();
    for v6 in lab.families() {
        let service = std::net::SocketAddr::new(cluster_ip(lab, "sock-web", "default", v6)?, 80).to_string();
        peers.push((Generator::in_pod(lab, "sock-client", &["peer", &service])?, service));
    }
    let pinned = pins(lab, "n1")?;
    for (what, script) in [
        ("hooks", format!("rm -r {HOME}/links-*")),
        ("one hook", format!("rm {HOME}/links-*/connect4")),
        ("maps", format!("rm -r {HOME}/maps-*")),
        ("everything", format!("rm -r {HOME}")),
    ] {
        let before = repairs(lab, "n1", "sockets")?;
        shell(lab, "n1", &script)?;
        let begun = Instant::now();
        while pins(lab, "n1")? != pinned {
            ensure!(begun.elapsed() < 3 * WITHIN, "{what}: not back within {} s", (3 * WITHIN).as_secs());
        }
        let took = begun.elapsed();
        ensure!(took < WITHIN, "{what}: back only after {} ms", took.as_millis());
        told.push(format!("{what} {} ms", took.as_millis()));
        lab.settled()?;
        counted(lab, "n1", "sockets", before)?;
        for (peer, service) in &mut peers {
            let called = peer.ask("?")?;
            ensure!(called == json!(service), "{what}: a connection to {service} says that it is one to {called}");
        }
        for v6 in lab.families() {
            let address = cluster_ip(lab, "sock-web", "default", v6)?;
            // The maps may be filled a moment after the hooks are there; until then the rules serve.
            eventually(|| {
                shell(lab, "n1", "conntrack -F 2>/dev/null")?;
                reached(lab, address)?;
                let seen = tracked(lab, "n1", address)?;
                ensure!(seen == 0, "{what}: {seen} connections went by the rules");
                Ok(())
            })?;
        }
    }
    Ok(told.join(", "))
}

/// Everything that is pinned, by its path.
fn pins(lab: &Lab, node: &str) -> Result<Vec<String>> {
    let found: Vec<String> = shell(lab, node, &format!("find {HOME} -type f 2>/dev/null | sort"))?.lines().map(str::to_owned).collect();
    Ok(found)
}

/// The agent's end and its next start change nothing, and meanwhile sockets are translated.
pub(crate) fn over_a_restart(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    let before = attached(lab, "n1")?;
    ensure!(before.len() == HOOKS, "{before:?}");
    lab.agent("kill", "n1")?;
    for v6 in lab.families() {
        let address = cluster_ip(lab, "sock-web", "default", v6)?;
        reached(lab, address)?;
        let seen = tracked(lab, "n1", address)?;
        ensure!(seen == 0, "without an agent {seen} connections went by the rules");
    }
    lab.agent("start", "n1")?;
    lab.settled()?;
    let after = attached(lab, "n1")?;
    ensure!(before == after, "other hooks than before: {before:?}, {after:?}");
    let status = lab.status()?;
    let node = status["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n1").context("no n1")?;
    ensure!(node["writtenTotal"] == 0 && node["mode"] == "ebpf", "{node}");
    Ok("the same hooks, no object written; without an agent connections go straight".to_owned())
}

/// Starts the agent of n1 anew with other settings: lines of its file, by what they begin with.
pub(crate) fn switch(lab: &Lab, key: &str, value: &str) -> Result<()> {
    lab.agent("stop", "n1")?;
    shell(lab, "n1", &format!("sed -i -e '1i {key}: {value}' -e '/^{key}: /d' /etc/bowline/agent.yaml"))?;
    lab.agent("start", "n1")?;
    lab.settled()
}

/// An agent that is started in the other mode takes hooks and maps off, and the rules serve.
pub(crate) fn other_mode(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    populated(lab)?;
    switch(lab, "serviceMode", "nftables")?;
    let left = shell(lab, "n1", &format!("ls -d {HOME} 2>/dev/null; true"))?;
    ensure!(left.is_empty(), "left: {left}");
    let v6 = lab.families().first().copied().unwrap_or(false);
    let address = cluster_ip(lab, "sock-web", "default", v6)?;
    reached(lab, address)?;
    ensure!(tracked(lab, "n1", address)? > 0, "no connection went by the rules");
    switch(lab, "serviceMode", "ebpf")?;
    ensure!(attached(lab, "n1")?.len() == HOOKS, "the hooks are not back");
    reached(lab, address)?;
    Ok("nothing in the BPF file system, the rules serve; and back".to_owned())
}

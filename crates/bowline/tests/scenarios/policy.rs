//! Scenarios 5 to 8: a policy closes, opens by label, opens by block, and goes.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Pod, cluster_ip, nodes, pods};
use crate::lab::{Lab, curl, curl_within, eventually, example, said, words};

/// Who asks.
enum From<'a> {
    Pod(&'a str),
    Node(&'a str),
    Client,
}

/// What an attempt came to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Got {
    Page,
    Timeout,
    Other(Option<i32>),
}

fn attempt(lab: &Lab, from: &From<'_>, to: IpAddr, port: u16, want: Got) -> Result<Got> {
    // Nothing is waited for shorter than something: on a busy machine a page may take its time.
    let argv = if want == Got::Timeout { curl_within(to, port, 1) } else { curl(to, port) };
    let argv = words(&argv);
    let output = match from {
        From::Pod(pod) => lab.pod(pod, &argv)?,
        From::Node(node) => lab.node(node, &argv)?,
        From::Client => lab.client(&argv)?,
    };
    Ok(match output.status.code() {
        Some(0) => Got::Page,
        Some(28) => Got::Timeout,
        other => Got::Other(other),
    })
}

fn expect(lab: &Lab, what: &str, from: &From<'_>, to: IpAddr, port: u16, want: Got) -> Result<()> {
    let got = attempt(lab, from, to, port, want)?;
    ensure!(got == want, "{what} -> {to}:{port}: {got:?} where {want:?} is wanted");
    Ok(())
}

fn cannot_ping(lab: &Lab, pod: &str, to: IpAddr) -> Result<()> {
    let output = lab.pod(pod, &["ping", "-c", "1", "-W", "1", &to.to_string()])?;
    ensure!(!output.status.success(), "{pod} pings {to}, which must stay closed");
    Ok(())
}

/// `explain` says that the ping is dropped, because of the ports that the policy's rule names; whoever is asked, also the kernels.
fn ping_is_explained(lab: &Lab, pod: &str, server: &str, v6: bool) -> Result<()> {
    let family = if v6 { "ipv6" } else { "ipv4" };
    let question = [&format!("default/{pod}"), &format!("pod/default/{server}/icmp")];
    let output = lab.run(&["explain", question[0], question[1], "--family", family], &[])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let word = if v6 { "icmpv6" } else { "icmp" };
    let told = text.contains(&format!("ingress[0].ports wants 80/tcp; it is {word}, which has no port")) && text.contains(": agree\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && told, "explain {question:?}: {}: {text}{errors}", output.status);
    Ok(())
}

fn server(lab: &Lab) -> Result<Pod> {
    pods(lab, "name=networkpolicy-demo")?.into_iter().next().context("no replica of httpd")
}

fn asker(lab: &Lab, server: &Pod) -> Result<Pod> {
    pods(lab, "app=nginx-ds")?.into_iter().find(|p| p.node != server.node).context("no pod on another node")
}

/// Scenario 5.
pub(crate) fn closes(lab: &Lab) -> Result<String> {
    lab.apply("networkpolicy-label.yaml")?;
    let (server, nodes) = (server(lab)?, nodes(lab)?);
    let asker = asker(lab, &server)?;
    for v6 in lab.families() {
        let (pod, service) = (server.ip(v6)?, cluster_ip(lab, "httpd-svc", "default", v6)?);
        eventually(|| expect(lab, "an unlabelled pod", &From::Pod(&asker.name), pod, 80, Got::Timeout))?;
        expect(lab, "an unlabelled pod by the service", &From::Pod(&asker.name), service, 8080, Got::Timeout)?;
        cannot_ping(lab, &asker.name, pod)?;
        for node in &nodes {
            expect(lab, "the outside", &From::Client, node.ip(v6)?, 33000, Got::Timeout)?;
            let want = if node.name == server.node { Got::Page } else { Got::Timeout };
            expect(lab, &node.name, &From::Node(&node.name), pod, 80, want)?;
        }
    }
    Ok("pod and service time out, no ping, NodePort closed, other nodes closed out, the pod's own node gets in".to_owned())
}

/// Scenario 6.
pub(crate) fn opens_by_label(lab: &Lab) -> Result<String> {
    let server = server(lab)?;
    let asker = asker(lab, &server)?;
    for v6 in lab.families() {
        let (pod, service) = (server.ip(v6)?, cluster_ip(lab, "httpd-svc", "default", v6)?);
        lab.kubectl(&["label", "pod", &asker.name, "access=true", "--overwrite"])?;
        eventually(|| expect(lab, "a labelled pod", &From::Pod(&asker.name), pod, 80, Got::Page))?;
        expect(lab, "a labelled pod by the service", &From::Pod(&asker.name), service, 8080, Got::Page)?;
        cannot_ping(lab, &asker.name, pod)?;
        lab.kubectl(&["label", "pod", &asker.name, "access-"])?;
        eventually(|| expect(lab, "a pod without its label", &From::Pod(&asker.name), pod, 80, Got::Timeout))?;
    }
    Ok("the label on: the page on pod and service, still no ping; the label off: closed".to_owned())
}

/// Scenario 7: the block holds the nodes' own addresses.
pub(crate) fn opens_by_block(lab: &Lab) -> Result<String> {
    let manifest = std::fs::read_to_string(example("networkpolicy-ipblock.yaml"))?;
    let mut manifest = manifest;
    if lab.families().contains(&true) {
        // The same block for the nodes' IPv6 addresses.
        let v6_block = node_block(lab)?;
        let block = "        - ipBlock:\n            cidr: 192.168.200.0/24\n";
        manifest = manifest.replace(block, &format!("{block}        - ipBlock:\n            cidr: {v6_block}\n"));
        ensure!(manifest.contains(&v6_block), "the manifest's block is not where it was");
    }
    if lab.setup.is_routed() {
        manifest = manifest.replace("192.168.200.0/24", "192.168.192.0/18");
    }
    lab.apply_text(&manifest)?;
    let (server, nodes) = (server(lab)?, nodes(lab)?);
    let asker = asker(lab, &server)?;
    for v6 in lab.families() {
        let (pod, service) = (server.ip(v6)?, cluster_ip(lab, "httpd-svc", "default", v6)?);
        for node in &nodes {
            eventually(|| expect(lab, &node.name, &From::Node(&node.name), pod, 80, Got::Page))?;
            expect(lab, &node.name, &From::Node(&node.name), service, 8080, Got::Page)?;
            for entry in &nodes {
                // A node's own connections to its own NodePort and to the others'.
                expect(lab, &node.name, &From::Node(&node.name), entry.ip(v6)?, 33000, Got::Page)?;
            }
            expect(lab, "a client outside the block", &From::Client, node.ip(v6)?, 33000, Got::Timeout)?;
        }
        cannot_ping(lab, &asker.name, pod)?;
        ping_is_explained(lab, &asker.name, &server.name, v6)?;
    }
    Ok("nodes get in by pod, ClusterIP and every NodePort; a client outside the block is refused at every node".to_owned())
}

/// The /64 of the nodes' IPv6 addresses.
fn node_block(lab: &Lab) -> Result<String> {
    let first = nodes(lab)?.first().context("no node")?.ip(true)?;
    let IpAddr::V6(address) = first else { anyhow::bail!("{first} is no IPv6 address") };
    let [a, b, c, d, ..] = address.segments();
    let bits = if lab.setup.is_routed() { 48 } else { 64 };
    let network = std::net::Ipv6Addr::new(a, b, c, if bits == 64 { d } else { 0 }, 0, 0, 0, 0);
    Ok(format!("'{network}/{bits}'"))
}

/// Scenario 8.
pub(crate) fn deleted(lab: &Lab) -> Result<String> {
    lab.kubectl(&["delete", "networkpolicy", "access-httpd"])?;
    let server = server(lab)?;
    let asker = asker(lab, &server)?;
    for v6 in lab.families() {
        let pod = server.ip(v6)?;
        eventually(|| expect(lab, "a pod", &From::Pod(&asker.name), pod, 80, Got::Page))?;
        for node in nodes(lab)? {
            expect(lab, "the outside", &From::Client, node.ip(v6)?, 33000, Got::Page)?;
        }
        let pinged = lab.pod(&asker.name, &["ping", "-c", "1", "-W", "2", &pod.to_string()])?;
        said(&pinged).context("ping stays closed")?;
    }
    crate::services::shares_are_equal(lab)
}

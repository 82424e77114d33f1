//! Kubernetes by kubeadm on the machines: `kubeadm init` on the first, `kubeadm join` on the others.
//!
//! The commands are those of docs/guides/install.md, with what a machine of namespaces needs besides. The control plane is static pods
//! from images of the same programs that a cluster by hand runs (`cargo xtask image kubeadm`). Reference: kubeadm's v1beta4, and its
//! `--patches`.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

use crate::cluster::component::{self, Component};
use crate::cluster::kubectl::Kubectl;
use crate::cluster::plan::{Node, Plan};
use crate::cluster::up::{self, Found, counted};
use crate::cluster::{images, place, relay};

/// What is asked of `conformance/build` besides.
pub(crate) const BUILT: [&str; 2] = ["kubeadm", "etcd"];

/// Starts a kubelet when kubeadm has written its files.
const UNIT: &str = include_str!("kubelet-unit.sh");

/// Where a node keeps what is laid over the kubelet configuration that kubeadm writes.
const PATCHES: &str = "/etc/kubernetes-patches";

/// The kubelet's settings for a machine of namespaces, as in a cluster by hand.
const PATCH: &str = r#"cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
"#;

/// kubeadm sees to it that a node forwards, before there is a network that could have asked for it.
const FORWARDING: &str = "echo 1 >/proc/sys/net/ipv4/ip_forward\necho 1 >/proc/sys/net/ipv6/conf/default/forwarding\n";

/// kubeadm refuses cgroups v1 as kubelet does, and has no setting for them.
const IGNORED: &str = "--ignore-preflight-errors=SystemVerification";

/// Makes the cluster; its nodes are registered and have no network yet.
pub(crate) fn run(found: &Found<'_>, listener: OwnedFd, url: &str, step: &mut &'static str) -> Result<()> {
    let Found { lab, place, plan, screen } = found;
    let (first, others) = plan.nodes.split_first().context("a cluster of no nodes")?;
    *step = "images";
    let mut started = Vec::new();
    for one in &plan.nodes {
        let runtime = crate::cluster::node::containerd(place, one);
        started.push(runtime.name.clone());
        component::start_in_node(lab, place, &one.name, &runtime)?;
    }
    for one in &plan.nodes {
        up::wait_for_runtime(lab, place, &one.name, &started)?;
    }
    images::import(lab, &plan.nodes, &crate::image::suite()?)?;
    let count = images::import(lab, std::slice::from_ref(first), &[crate::image::kubeadm()?])?;
    screen.good("images", &format!("{count} on {}", first.name));

    *step = "control";
    for one in &plan.nodes {
        let script = prepare();
        lab.run(&one.name, &["sh", "-c", &script], None)?;
        let kubelet = unit(one);
        started.push(kubelet.name.clone());
        component::start_in_node(lab, place, &one.name, &kubelet)?;
    }
    on_node(found, first, &init(plan, first))?;
    let file = lab.run(&first.name, &["cat", "/etc/kubernetes/admin.conf"], None)?;
    write_kubeconfig(found, &file.replace(&format!("https://{}:{}", plan.advertise, plan.ports.server), url))?;
    relay::start(lab, place, &first.name, listener, plan.ports.server)?;
    let kubectl = Kubectl::of(place);
    up::wait_for_server(place, &kubectl, &started)?;
    screen.good("control", "kubeadm init: etcd, API server, controllers, scheduler in static pods");

    *step = "nodes";
    let command = lab.run(&first.name, &["kubeadm", "token", "create", "--print-join-command"], None)?;
    for one in others {
        on_node(found, one, &join(&command, one))?;
    }
    up::wait_for_nodes(place, &kubectl, &started, plan.nodes.len())?;
    screen.good("nodes", &format!("kubeadm join: {} registered", counted(plan.nodes.len(), "node")));
    Ok(())
}

/// Runs a command on a node and keeps what it said.
fn on_node(found: &Found<'_>, node: &Node, words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = found.lab.run(&node.name, &words, None)?;
    let file = found.place.node(&node.name).join("kubeadm.txt");
    fs::write(&file, said).with_context(|| format!("write {}", file.display()))
}

/// Shell that does to a node what an administrator has done before kubeadm: programs in the search path, forwarding.
fn prepare() -> String {
    let programs = place::programs();
    let links: Vec<String> =
        ["kubeadm", "kubelet", "kubectl"].iter().map(|name| format!("ln -s '{}/{name}' /usr/local/bin/", programs.display())).collect();
    format!(
        "set -e\n{}\n{FORWARDING}mkdir {PATCHES}\ncat >{PATCHES}/kubeletconfiguration+merge.yaml <<'END'\n{PATCH}END\n",
        links.join("\n")
    )
}

/// The kubelet of a node, as its package starts it.
fn unit(node: &Node) -> Component {
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    let arguments = ["-c".to_owned(), UNIT.to_owned(), "kubelet".to_owned(), format!("--node-ip={}", addresses.join(","))];
    Component::new(&format!("{}/kubelet", node.name), "/bin/sh", &arguments)
}

/// The guide's command, and what this machine needs.
fn init(plan: &Plan, node: &Node) -> Vec<String> {
    let mut words = vec![
        "kubeadm".to_owned(),
        "init".to_owned(),
        format!("--pod-network-cidr={}", plan.pods()),
        format!("--service-cidr={}", plan.services()),
        "--skip-phases=addon/kube-proxy,addon/coredns".to_owned(),
        // Otherwise asked for at an address outside.
        "--kubernetes-version=v1.35.4".to_owned(),
        format!("--apiserver-advertise-address={}", plan.advertise),
        // The relay's.
        "--apiserver-cert-extra-sans=127.0.0.1".to_owned(),
    ];
    words.extend(of_node(node));
    words
}

/// The command that kubeadm prints, and what this machine needs.
fn join(printed: &str, node: &Node) -> Vec<String> {
    printed.split_whitespace().map(str::to_owned).chain(of_node(node)).collect()
}

fn of_node(node: &Node) -> [String; 3] {
    [format!("--node-name={}", node.name), format!("--patches={PATCHES}"), IGNORED.to_owned()]
}

fn write_kubeconfig(found: &Found<'_>, text: &str) -> Result<()> {
    let path = found.place.kubeconfig();
    let mut options = fs::OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&path).with_context(|| path.display().to_string())?;
    std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn the_commands_are_the_guides() {
        let guide = fs::read_to_string(place::repository().join("docs/guides/install.md")).unwrap();
        let networks = |text: &str| vec![text.parse().unwrap()];
        let plan = Plan::of_nodes(2, &networks("10.42.0.0/16"), &networks("10.43.0.0/16"), "1-2").unwrap();
        let words = init(&plan, &plan.nodes[0]);
        assert!(guide.contains(&format!("    {}\n", words[..5].join(" "))), "{words:?}");
        let words = join("kubeadm join 192.168.200.11:6443 --token a.b \n", &plan.nodes[1]);
        assert_eq!(words[..5], ["kubeadm", "join", "192.168.200.11:6443", "--token", "a.b"]);
        assert!(words.contains(&"--node-name=n2".to_owned()));
    }
}

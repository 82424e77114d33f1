//! `cargo xtask cluster up`: from nothing to a cluster whose nodes are Ready, in steps.
//!
//! Invariant: an `up` that fails leaves nothing but its logs, and the next one begins by sweeping what an interrupted
//! one has left.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::cluster::component::{self, Component};
use crate::cluster::control::{self, Stand};
use crate::cluster::down::{self, Record};
use crate::cluster::kubectl::{Kubectl, items};
use crate::cluster::lab::{self, Lab};
use crate::cluster::place::{self, Place};
use crate::cluster::plan::{Plan, Ports};
use crate::cluster::screen::{Screen, until};
use crate::cluster::{UpArgs, images, inotify, install, kubeadm, node, pki, relay};

/// What `conformance/build` makes for a cluster: its own programs, and those that the images in it hold.
const BUILT: [&str; 7] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "agnhost", "coredns"];

/// The command.
pub(crate) fn run(args: &UpArgs) -> Result<bool> {
    let screen = Screen::new();
    let place = Place::of(&args.named.name())?;
    if let Some(record) = Record::read(&place).filter(|record| record.complete)
        && is_up(&place, &record)?
    {
        writeln!(std::io::stdout(), "Cluster {} is up already.", place.name)?;
        return next(&place, &record.plan).map(|()| true);
    }
    programs(&screen, args.kubeadm)?;
    down::sweep(&place, false).context("remove what an earlier cluster left")?;
    place.make()?;
    let mut step = if args.named.control_plane_only { "control" } else { "machines" };
    let result = if args.named.control_plane_only { alone(args, &place, &screen) } else { cluster(args, &place, &screen, &mut step) };
    match result {
        Ok(plan) => {
            writeln!(std::io::stdout(), "Ready in {}. Next:", screen.seconds())?;
            next(&place, &plan).map(|()| true)
        }
        Err(error) => {
            screen.bad(step);
            let error = error.context(format!("cluster {} did not come up; its logs are in {}", place.name, place.logs().display()));
            down::sweep(&place, true).context(format!("after: {error:#}"))?;
            Err(error)
        }
    }
}

/// Whether the cluster that is written down is there.
pub(crate) fn is_up(place: &Place, record: &Record) -> Result<bool> {
    if record.plan.nodes.is_empty() {
        return Ok(record.sessions.iter().all(|session| component::start_of(session.pid) == Some(session.started_ticks)));
    }
    match &record.binary {
        Some(binary) => Lab::of(&place.name, &lab::any_binary(binary)?).is_up(),
        None => Ok(false),
    }
}

/// What to do with a cluster that is up.
fn next(place: &Place, plan: &Plan) -> Result<()> {
    let option = match (plan.nodes.is_empty(), place.name.as_str()) {
        (true, "control-plane") => " --control-plane-only".to_owned(),
        (false, "cluster") => String::new(),
        (_, name) => format!(" --name {name}"),
    };
    let look = if plan.nodes.is_empty() { "kubectl get --raw '/readyz?verbose'" } else { "kubectl get pods -A" };
    let end = if option.is_empty() { "make cluster-down".to_owned() } else { format!("cargo xtask cluster down{option}") };
    let kubeconfig = place.kubeconfig();
    writeln!(std::io::stdout(), "  export KUBECONFIG={}\n  {look}\n  {end}", kubeconfig.display())?;
    Ok(())
}

/// Sees that every program is there; builds what is not.
fn programs(screen: &Screen, by_kubeadm: bool) -> Result<()> {
    let directory = place::programs();
    let (more, group): (&[&str], &[&str]) = if by_kubeadm { (&kubeadm::BUILT, &["kubeadm"]) } else { (&[], &[]) };
    if BUILT.iter().chain(more).any(|name| !directory.join(name).is_file()) {
        let mut build = Command::new(place::repository().join("conformance/build"));
        let status = build
            .args(["control-plane", "node", "client", "suite"])
            .args(group)
            .stdin(Stdio::null())
            .status()
            .context("run conformance/build")?;
        if !status.success() {
            bail!("conformance/build: {status}");
        }
    }
    let missing: Vec<String> =
        node::debian_programs().iter().filter(|path| !path.is_file()).map(|path| path.display().to_string()).collect();
    if !missing.is_empty() {
        bail!("not installed: {}; run: scripts/packages cluster", missing.join(", "));
    }
    let version = lab::succeed(Command::new(directory.join("kube-apiserver")).arg("--version"))?;
    screen.good("programs", version.trim());
    Ok(())
}

/// A cluster of machines.
fn cluster(args: &UpArgs, place: &Place, screen: &Screen, step: &mut &'static str) -> Result<Plan> {
    node::check_machine()?;
    inotify::check(usize::from(args.nodes))?;
    let binary = lab::binary()?;
    let plan = Plan::of_nodes(args.nodes, &args.pod_cidr, &args.service_cidr, &args.node_port_range)?;
    let (listener, url) = relay::door()?;
    // Everything that nodes read is written before there are any: their roots are overlays over this machine's.
    relay::copy_program(place)?;
    if !args.kubeadm {
        pki::make(place, &plan, &url)?;
    }
    for one in &plan.nodes {
        node::configure(place, &plan, one)?;
        node::make_cgroups(&place.name, &one.name)?;
    }
    let mut record = Record { plan: plan.clone(), binary: Some(binary.clone()), sessions: Vec::new(), complete: false };
    record.write(place)?;
    let lab = Lab::of(&place.name, &binary);
    lab.up(args.nodes)?;
    plan.nodes.iter().try_for_each(|one| node::prepare(&lab, one))?;
    screen.good("machines", &format!("{}, one LAN, both families", counted(plan.nodes.len(), "node")));

    let found = Found { lab: &lab, place, plan: &plan, screen };
    if args.kubeadm {
        kubeadm::run(&found, listener, &url, step)?;
    } else {
        by_hand(&found, listener, step)?;
    }

    *step = "network";
    if args.kubernetes_only {
        screen.skipped("network", "not asked for: the nodes are NotReady");
    } else {
        install::run(&lab, place, &plan, (args.image.as_deref(), args.service_mode.as_deref()), screen)?;
    }
    record.complete = true;
    record.write(place)?;
    Ok(plan)
}

/// Machines, and what is known about them.
pub(crate) struct Found<'a> {
    /// The machines.
    pub(crate) lab: &'a Lab,
    /// Where the cluster's files are.
    pub(crate) place: &'a Place,
    /// Who has which address.
    pub(crate) plan: &'a Plan,
    /// Where progress is shown.
    pub(crate) screen: &'a Screen,
}

/// Kubernetes on the machines, each program started by ourselves.
fn by_hand(found: &Found<'_>, listener: OwnedFd, step: &mut &'static str) -> Result<()> {
    *step = "control";
    let Found { lab, place, plan, screen } = found;
    let first = plan.nodes.first().context("a cluster of no nodes")?;
    let stand = Stand { bind: "::", data: "/var/lib/etcd/data".into() };
    let mut started = Vec::new();
    for component in control::api(place, plan, &stand) {
        started.push(component.name.clone());
        component::start_in_node(lab, place, &first.name, &component)?;
    }
    for one in &plan.nodes {
        let runtime = node::containerd(place, one);
        started.push(runtime.name.clone());
        component::start_in_node(lab, place, &one.name, &runtime)?;
    }
    relay::start(lab, place, &first.name, listener, plan.ports.server)?;
    let kubectl = Kubectl::of(place);
    wait_for_server(place, &kubectl, &started)?;
    for component in control::workers(place, plan) {
        started.push(component.name.clone());
        component::start_in_node(lab, place, &first.name, &component)?;
    }
    screen.good("control", "etcd, API server, controllers, scheduler");

    *step = "images";
    for one in &plan.nodes {
        wait_for_runtime(lab, place, &one.name, &started)?;
    }
    let archives = crate::image::suite()?;
    let count = images::import(lab, &plan.nodes, &archives)?;
    screen.good("images", &format!("{count} on each node"));

    *step = "nodes";
    for one in &plan.nodes {
        let kubelet = node::kubelet(place, one);
        started.push(kubelet.name.clone());
        component::start_in_node(lab, place, &one.name, &kubelet)?;
    }
    wait_for_nodes(place, &kubectl, &started, plan.nodes.len())?;
    kubectl.run(&["label", "node", &first.name, "node-role.kubernetes.io/control-plane="])?;
    screen.good("nodes", &format!("{0}/{0} registered", plan.nodes.len()));
    Ok(())
}

/// A number with its noun.
pub(crate) fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Waits until the server says that it is ready, and gives up at once if a component has ended.
pub(crate) fn wait_for_server(place: &Place, kubectl: &Kubectl, started: &[String]) -> Result<()> {
    let ready = || kubectl.run(&["get", "--raw", "/readyz"]).map(|_| ()).map_err(|error| format!("{error:#}"));
    alive_until(place, started, "the API server", Duration::from_secs(120), "kube-apiserver", ready)
}

/// Waits until a node's containerd answers.
pub(crate) fn wait_for_runtime(lab: &Lab, place: &Place, node: &str, started: &[String]) -> Result<()> {
    let ready = || lab.run(node, &["ctr", "version"], None).map(|_| ()).map_err(|error| format!("{error:#}"));
    alive_until(place, started, "containerd", Duration::from_secs(30), &format!("{node}/containerd"), ready)
}

/// Waits until so many nodes are registered and have pod networks.
pub(crate) fn wait_for_nodes(place: &Place, kubectl: &Kubectl, started: &[String], count: usize) -> Result<()> {
    let ready = || match kubectl.json(&["get", "nodes"]) {
        // A node can hold pods when the controllers have given it a network.
        Ok(list) if items(&list).iter().filter(|node| node.pointer("/spec/podCIDRs").is_some()).count() == count => Ok(()),
        Ok(list) => Err(format!("{} of {count} are registered and have a pod network", items(&list).len())),
        Err(error) => Err(format!("{error:#}")),
    };
    alive_until(place, started, "the nodes", Duration::from_secs(120), "n1/kubelet", ready)
}

/// Waits for something, and gives up at once if a component has ended.
fn alive_until(
    place: &Place,
    started: &[String],
    what: &str,
    limit: Duration,
    culprit: &str,
    mut ready: impl FnMut() -> Result<(), String>,
) -> Result<()> {
    let mut died = false;
    let waited = until(what, limit, || match component::ended(place, started) {
        Some(last_words) => {
            died = true;
            bail!("{last_words}")
        }
        None => Ok(ready()),
    });
    // Who has ended has said why; who only does not answer may have said it in its log.
    waited.map_err(|error| if died { error } else { anyhow!("{error:#}\n{}", component::last_lines(&place.log(culprit), 8)) })
}

/// A control plane alone, on this machine's loopback.
fn alone(args: &UpArgs, place: &Place, screen: &Screen) -> Result<Plan> {
    let ports = free_ports()?;
    let plan = Plan::alone(args.advertise_address, args.dual_stack, &args.pod_cidr, &args.service_cidr, &args.node_port_range, ports)?;
    let url = format!("https://127.0.0.1:{}", ports.server);
    pki::make(place, &plan, &url)?;
    let mut record = Record { plan: plan.clone(), binary: None, sessions: Vec::new(), complete: false };
    let stand = Stand { bind: "127.0.0.1", data: place.directory().join("etcd") };
    let start = |component: &Component, record: &mut Record| -> Result<()> {
        record.sessions.push(component::start_session(place, component)?);
        record.write(place)
    };
    let api = control::api(place, &plan, &stand);
    api.iter().try_for_each(|component| start(component, &mut record))?;
    wait_for_server(place, &Kubectl::of(place), &api.map(|component| component.name))?;
    control::workers(place, &plan).iter().try_for_each(|component| start(component, &mut record))?;
    record.complete = true;
    record.write(place)?;
    screen.good("control", &format!("etcd, API server, controllers, scheduler at {url}"));
    Ok(plan)
}

/// Ports that nobody has at the moment.
fn free_ports() -> Result<Ports> {
    let listeners: Vec<TcpListener> =
        (0..5).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<_>>().context("find free ports")?;
    let ports: Vec<u16> = listeners.iter().map(|one| one.local_addr().map(|address| address.port())).collect::<std::io::Result<_>>()?;
    let [etcd, etcd_peer, server, controllers, scheduler] = ports.as_slice() else { bail!("five ports were asked for") };
    Ok(Ports { etcd: *etcd, etcd_peer: *etcd_peer, server: *server, controllers: *controllers, scheduler: *scheduler })
}

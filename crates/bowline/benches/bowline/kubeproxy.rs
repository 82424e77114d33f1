//! kube-proxy on nodes of a lab that has an API and no agents, as a process that is given the lab's services.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bowline_kernel::netns::NetNs;
use bowline_lab::handle::{Lab, Options};

use crate::populate::Populate;
use crate::{BOWLINE, first, machine, peers};

/// How long it may take to serve.
const PATIENCE: Duration = Duration::from_secs(300);

/// How often it is looked whether it rests, and how often in a row it must.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const CALM: u32 = 4;

/// Services in front of a server that is there. kube-proxy with iptables looks at one service after the other in an order of its own: with many
/// of them what is measured is the middle.
const TARGETS: usize = 16;

/// How it writes services down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Iptables,
    Nftables,
}

impl Mode {
    /// As its flag calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Mode::Iptables => "iptables",
            Mode::Nftables => "nftables",
        }
    }
}

/// A process of it. Dropping it ends it; its rules stay.
pub(crate) struct KubeProxy {
    child: Child,
    pub(crate) pid: u32,
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl KubeProxy {
    /// Starts it on a node.
    pub(crate) fn start(lab: &Lab, node: &str, mode: Mode, log: &Path) -> Result<KubeProxy> {
        let program = peers::kube_proxy()?.display().to_string();
        let log = File::create(log)?;
        let (mode, host) = (format!("--proxy-mode={}", mode.word()), format!("--hostname-override={node}"));
        // The machine's own limits of connection tracking are not this bench's to set.
        let fixed = [
            "--kubeconfig=/etc/bowline/kubeconfig",
            "--cluster-cidr=10.42.0.0/16",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ];
        let mut command = lab.command(&["node-exec", node]);
        command.arg("--").arg(&program).args(fixed).args([&mode, &host]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("kube-proxy")?;
        let pid = loop {
            if let Some(pid) = of_program(child.id(), &program)? {
                break pid;
            }
        };
        Ok(KubeProxy { child, pid })
    }
}

impl KubeProxy {
    /// Waits until it has nothing to do: what it writes, it gives to a program piece by piece, and its end in the midst leaves half of it.
    fn rest(&self) -> Result<()> {
        let (begun, mut calm) = (Instant::now(), 0);
        while calm < CALM {
            let before = machine::cpu_seconds(self.pid)?;
            std::thread::sleep(LOOK_EVERY);
            let idle = children(self.pid)?.is_empty() && machine::cpu_seconds(self.pid)? - before < LOOK_EVERY.as_secs_f64() / 20.0;
            calm = if idle { calm + 1 } else { 0 };
            ensure!(begun.elapsed() < PATIENCE, "it does not come to rest within {} s", PATIENCE.as_secs());
        }
        Ok(())
    }
}

/// The processes that this one has started.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok()) == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The process that this one has started, once it is of that program.
fn of_program(parent: u32, program: &str) -> Result<Option<u32>> {
    let is = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(program.as_bytes()));
    if let Some(pid) = children(parent)?.into_iter().find(is) {
        return Ok(Some(pid));
    }
    ensure!(Path::new(&format!("/proc/{parent}")).exists(), "it ended at once");
    Ok(None)
}

/// Address of a lab's node, counted from 0.
pub(crate) fn node_address(place: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(192, 168, 200, 11 + u8::try_from(place)?))
}

/// A lab with a node for each size and mode.
pub(crate) struct Proxies {
    lab: Lab,
    populate: Populate,
    networks: Vec<(String, PathBuf)>,
    targets: Vec<IpAddr>,
    scratch: tempfile::TempDir,
    /// What is still to be measured, the last first: services, mode, node.
    todo: Vec<(u32, Mode, usize)>,
    made: u32,
}

/// The next node.
pub(crate) struct Next<'a> {
    pub(crate) mode: Mode,
    pub(crate) services: u32,
    pub(crate) network: PathBuf,
    /// The node's own address.
    pub(crate) address: Ipv4Addr,
    pub(crate) targets: Vec<IpAddr>,
    node: String,
    proxies: &'a Proxies,
}

impl Proxies {
    /// Brings the lab up, with services in front of the server and none beside.
    pub(crate) fn start(sizes: &[u32]) -> Result<Proxies> {
        peers::kube_proxy()?;
        let mut todo: Vec<(u32, Mode)> = Vec::new();
        for size in [0].iter().chain(sizes) {
            todo.extend([(*size, Mode::Iptables), (*size, Mode::Nftables)]);
        }
        let name = format!("bench-proxies-{}", std::process::id());
        let flags = format!("--agents none --no-wait --nodes {}", todo.len());
        let lab = Lab::up(Options { binary: Some(BOWLINE.into()), ..Options::new(&name, &flags) })?;
        let populate = Populate::connect(&lab.kubeconfig()?)?;
        let targets = (0..TARGETS).map(|n| populate.one(&format!("target-{n}"), first::endpoint(n))).collect::<Result<Vec<_>>>()?;
        let networks = bowline_lab::networks(&name)?;
        let todo = todo.into_iter().enumerate().map(|(node, (size, mode))| (size, mode, node)).rev().collect();
        Ok(Proxies { lab, populate, networks, targets, scratch: tempfile::tempdir()?, todo, made: 0 })
    }

    /// What it is that is measured.
    pub(crate) fn what(&self) -> String {
        let said = |program: &str| {
            let output = std::process::Command::new(program).arg("--version").output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
        };
        let program =
            peers::kube_proxy().map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned()).unwrap_or_default();
        format!("{program} with {} and {}, connections through {TARGETS} of the services in turn", said("iptables"), said("nft"))
    }

    /// The next node, with as many services in the API as it is to have.
    pub(crate) fn next(&mut self) -> Result<Option<Next<'_>>> {
        let Some((services, mode, node)) = self.todo.pop() else { return Ok(None) };
        let wanted = services.saturating_sub(u32::try_from(TARGETS)?);
        if wanted > self.made {
            self.populate.services(self.made..wanted, 2)?;
            self.made = wanted;
        }
        let address = node_address(node)?;
        let (node, network) = self.networks.get(node).cloned().context("no such node")?;
        Ok(Some(Next { mode, services, network, address, targets: self.targets.clone(), node, proxies: self }))
    }
}

impl Next<'_> {
    /// Runs kube-proxy until all targets answer the client and it has come to rest.
    pub(crate) fn serve(&self, client: &NetNs, targets: &[SocketAddr]) -> Result<KubeProxy> {
        let log = self.proxies.scratch.path().join(format!("{}.log", self.node));
        let proxy = KubeProxy::start(&self.proxies.lab, &self.node, self.mode, &log)?;
        let begun = Instant::now();
        for target in targets {
            while client.run(|| TcpStream::connect_timeout(target, Duration::from_millis(200)))?.is_err() {
                let said = || std::fs::read_to_string(&log).unwrap_or_default().lines().last().unwrap_or_default().to_owned();
                ensure!(begun.elapsed() < PATIENCE, "it does not serve after {} s: {}", PATIENCE.as_secs(), said());
            }
        }
        proxy.rest()?;
        Ok(proxy)
    }
}

//! `cargo xtask cluster`: a real Kubernetes cluster on one machine: etcd, the control plane, and kubelets with containerd in namespaces.
//!
//! The machines are the lab's (`bowline lab up --bare`); what is Kubernetes is Kubernetes' own programs, built by
//! `conformance/build`. Invariant: everything of a cluster lives in the lab's process namespace, in the lab's own
//! mounts, in one directory below the cache and in v1 cgroups named after the cluster, so `down` needs its name alone.

mod commands;
mod component;
mod control;
mod down;
mod images;
mod inotify;
mod install;
mod kubeadm;
mod kubectl;
mod lab;
mod node;
mod pki;
mod place;
mod plan;
mod relay;
mod screen;
mod up;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;

/// The chore's command line.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", about = "A real Kubernetes cluster on this machine, in namespaces")]
struct Cli {
    #[command(subcommand)]
    command: ClusterCommand,
}

/// Which cluster.
#[derive(Debug, Clone, Args)]
struct Named {
    /// Name of the cluster [default: cluster, or control-plane for a control plane alone]
    #[arg(long)]
    name: Option<String>,
    /// The control plane that stands alone on this machine's loopback
    #[arg(long)]
    control_plane_only: bool,
}

impl Named {
    fn name(&self) -> String {
        let default = if self.control_plane_only { "control-plane" } else { "cluster" };
        self.name.clone().unwrap_or_else(|| default.to_owned())
    }
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Bring a cluster up, with Bowline as its network
    Up(UpArgs),
    /// Take a cluster down; nothing of it is left
    Down {
        #[command(flatten)]
        named: Named,
    },
    /// Say what of a cluster works; status 1 if something does not
    Status {
        #[command(flatten)]
        named: Named,
    },
    /// Print the path of the file for kubectl
    Kubeconfig {
        #[command(flatten)]
        named: Named,
    },
    /// Run a command on a node, in all its namespaces
    Exec {
        #[command(flatten)]
        named: Named,
        /// The node: n1, n2, ...; or `client` for the host outside
        node: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Import an image archive into every node's containerd
    Load {
        #[command(flatten)]
        named: Named,
        /// Archives, as docker save or an OCI layout in a tar
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Apply deploy/bowline.yaml to a cluster that has no network yet
    Install {
        #[command(flatten)]
        named: Named,
        /// Bowline's image instead of target/image/bowline.tar
        #[arg(long, value_name = "TAR")]
        image: Option<PathBuf>,
    },
    /// Kill a component; what watches over it starts it again
    Restart {
        #[command(flatten)]
        named: Named,
        /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, or NODE/kubelet, NODE/containerd
        component: String,
    },
    /// Pass bytes from the socket that is standard input to a port on loopback
    #[command(hide = true)]
    Relay {
        /// The port
        port: u16,
    },
}

/// Flags of `up`.
#[derive(Debug, Clone, Args)]
struct UpArgs {
    #[command(flatten)]
    named: Named,
    /// How many nodes; the first runs the control plane too
    #[arg(long, default_value_t = 2)]
    nodes: u16,
    /// Stop before a network is installed: the nodes stay NotReady
    #[arg(long, conflicts_with = "control_plane_only")]
    kubernetes_only: bool,
    /// Let kubeadm make the cluster: control plane in static pods, the other nodes by a token
    #[arg(long, conflicts_with = "control_plane_only")]
    kubeadm: bool,
    /// Bowline's image instead of target/image/bowline.tar
    #[arg(long, value_name = "TAR")]
    image: Option<PathBuf>,
    /// The agents' serviceMode, nftables or ebpf, instead of the manifest's
    #[arg(long, value_name = "MODE", conflicts_with = "control_plane_only")]
    service_mode: Option<String>,
    /// The address that the server announces as its own (a control plane alone)
    #[arg(long, default_value = "192.168.200.1", requires = "control_plane_only")]
    advertise_address: IpAddr,
    /// Pod networks, one of each family [default: 10.42.0.0/16,fd42::/56; a control plane alone: 10.42.0.0/16]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pod_cidr: Vec<IpNet>,
    /// Service networks, one of each family [default: 10.43.0.0/16,fd43::/112; a control plane alone: 10.43.0.0/16]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    service_cidr: Vec<IpNet>,
    /// Both families (a control plane alone; a cluster has both anyway)
    #[arg(long, requires = "control_plane_only")]
    dual_stack: bool,
    /// Ports for services of type NodePort
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    node_port_range: String,
}

/// Runs the chore with the words that follow its name.
pub(crate) fn run(rest: &[String]) -> Result<bool> {
    let words = std::iter::once("cargo xtask cluster").chain(rest.iter().map(String::as_str));
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(refusal) => refusal.exit(),
    };
    match cli.command {
        ClusterCommand::Up(args) => {
            need_root()?;
            up::run(&args)
        }
        ClusterCommand::Down { named } => {
            need_root()?;
            down::run(&named.name())
        }
        ClusterCommand::Status { named } => commands::status(&named.name()),
        ClusterCommand::Kubeconfig { named } => commands::kubeconfig(&named.name()),
        ClusterCommand::Exec { named, node, command } => commands::exec(&named.name(), &node, &command),
        ClusterCommand::Load { named, archives } => commands::load(&named.name(), &archives),
        ClusterCommand::Install { named, image } => commands::install(&named.name(), image.as_deref()),
        ClusterCommand::Relay { port } => relay::run(port),
        ClusterCommand::Restart { named, component } => commands::restart(&named.name(), &component),
    }
}

fn need_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("a cluster needs root: it makes network, mount and cgroup namespaces (sudo make ...)")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_control_plane_alone_has_a_name_of_its_own() {
        let named = |words: &[&str]| {
            let all = ["cluster", "down"].iter().chain(words);
            let ClusterCommand::Down { named } = Cli::try_parse_from(all).unwrap().command else { unreachable!("it is down") };
            named.name()
        };
        assert_eq!(named(&[]), "cluster");
        assert_eq!(named(&["--control-plane-only"]), "control-plane");
        assert_eq!(named(&["--control-plane-only", "--name", "x"]), "x");
    }
}

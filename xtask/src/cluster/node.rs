//! What a machine of the cluster needs before Kubernetes: cgroups, mounts, and the configuration of containerd and kubelet.
//!
//! Every node has a cgroup of its own in each v1 hierarchy, `/bowline-cluster/NAME/NODE`, and shows it as the root. So
//! two kubelets, each of which believes the whole tree to be its own, do not meet. Reference: cgroups(7),
//! cgroup_namespaces(7); KubeletConfiguration v1beta1.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::component::Component;
use crate::cluster::lab::Lab;
use crate::cluster::place::{self, Place};
use crate::cluster::plan::{Node, Plan};

/// Where the machine's hierarchies are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The cgroup of all clusters, in each hierarchy.
const OURS: &str = "bowline-cluster";
/// What all clusters together weigh on the processor, where a process outside weighs 1024.
const WEIGHT: &str = "16384";
/// What a kubelet needs; freezer, blkio and devices are the container runtime's.
const NEEDED: [&str; 4] = ["cpu", "cpuacct", "cpuset", "memory"];
/// What is shown to a node if the machine has it.
const KNOWN: [&str; 9] = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];
/// What makes a lab's machine fit.
const MACHINE: &str = include_str!("machine.sh");

/// The image of the process that holds a pod's namespaces: the one that the Kubernetes release names.
pub(crate) const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

/// The machine's v1 controllers, each a hierarchy of its own.
fn controllers() -> Vec<&'static str> {
    KNOWN.into_iter().filter(|name| Path::new(CGROUPS).join(name).join("cgroup.procs").exists()).collect()
}

/// Sees that the machine's cgroups are of the kind that this has been made for.
pub(crate) fn check_machine() -> Result<()> {
    let found = controllers();
    if let Some(lacking) = NEEDED.iter().find(|name| !found.contains(name)) {
        bail!(
            "this machine has no cgroup v1 hierarchy at {CGROUPS}/{lacking}; a cluster of namespaces has been made for v1 hierarchies \
             side by side with v2 at {CGROUPS}/unified (boot with systemd.unified_cgroup_hierarchy=0)"
        );
    }
    if !Path::new(CGROUPS).join("unified/cgroup.procs").exists() {
        bail!("cgroup2 is not mounted at {CGROUPS}/unified: mount -t cgroup2 cgroup2 {CGROUPS}/unified");
    }
    Ok(())
}

/// Makes the node's cgroups.
pub(crate) fn make_cgroups(cluster: &str, node: &str) -> Result<()> {
    for controller in controllers() {
        let mut directory = Path::new(CGROUPS).join(controller);
        for part in [OURS, cluster, node] {
            let parent = directory.clone();
            directory.push(part);
            fs::create_dir_all(&directory).with_context(|| format!("make cgroup {}", directory.display()))?;
            if controller == "cpu" && part == OURS {
                // A group weighs as much as one process beside it. Ours holds whole machines.
                fs::write(directory.join("cpu.shares"), WEIGHT).with_context(|| format!("give {} its weight", directory.display()))?;
            }
            if controller == "cpuset" {
                // A new cpuset is empty, and nothing can be in it until it has been given some of its parent's.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let inherited = fs::read_to_string(parent.join(file))?;
                    fs::write(directory.join(file), inherited.trim())
                        .with_context(|| format!("give {} its {file}", directory.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Shell that joins the node's cgroups and becomes its arguments.
pub(crate) fn join_cgroups(cluster: &str, node: &str) -> String {
    let files = controllers().into_iter().map(|controller| format!("{CGROUPS}/{controller}/{OURS}/{cluster}/{node}/cgroup.procs"));
    format!("for file in {}; do echo 0 >\"$file\" || exit 125; done; exec \"$@\"", files.collect::<Vec<_>>().join(" "))
}

/// Removes the cluster's cgroups, which hold nothing any more; whether there were any.
pub(crate) fn remove_cgroups(cluster: &str) -> Result<bool> {
    let mut found = false;
    let deadline = Instant::now() + Duration::from_secs(20);
    for controller in controllers() {
        let directory = Path::new(CGROUPS).join(controller).join(OURS).join(cluster);
        while directory.exists() {
            found = true;
            match remove_tree(&directory) {
                Ok(()) => {}
                // What was killed is in its cgroup until it has been reaped: there is no event for that.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error).with_context(|| format!("remove cgroup {}", directory.display())),
            }
        }
        // Stays while another cluster is in it.
        directory.parent().map(fs::remove_dir);
    }
    Ok(found)
}

fn remove_tree(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Makes the lab's machine fit for containers.
pub(crate) fn prepare(lab: &Lab, node: &Node) -> Result<()> {
    let script = format!("CONTROLLERS='{}'\n{MACHINE}", controllers().join(" "));
    lab.run(&node.name, &["unshare", "--cgroup", "sh", "-c", &script], None).map(|_| ())
}

/// Writes the configuration of containerd and kubelet.
pub(crate) fn configure(place: &Place, plan: &Plan, node: &Node) -> Result<()> {
    let directory = place.node(&node.name);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("containerd.toml"), containerd_config())?;
    let config = kubelet_config(&directory, &place.pki().join("ca.crt"), plan);
    fs::write(directory.join("kubelet.json"), format!("{config:#}\n"))?;
    Ok(())
}

/// All defaults but these: the paths are the node's own anyway.
fn containerd_config() -> String {
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

fn kubelet_config(directory: &Path, authority: &Path, plan: &Plan) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": directory.join("kubelet.crt"), "tlsPrivateKeyFile": directory.join("kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs", "failCgroupV1": false,
        "clusterDomain": "cluster.local", "clusterDNS": plan.dns().into_iter().collect::<Vec<_>>(),
        "resolvConf": "/etc/resolv.conf",
        "failSwapOn": false, "maxPods": 110,
        // The images come from an archive once: nothing could bring them back.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
        // A node may be lost in a test, and pods are to follow soon.
        "nodeStatusUpdateFrequency": "5s",
        "logging": {"verbosity": 2},
    })
}

/// The container runtime of a node.
pub(crate) fn containerd(place: &Place, node: &Node) -> Component {
    let config = place.node(&node.name).join("containerd.toml");
    Component::new(&format!("{}/containerd", node.name), "/usr/bin/containerd", &["--config".to_owned(), config.display().to_string()])
}

/// The kubelet of a node. Each node is a zone of its own.
pub(crate) fn kubelet(place: &Place, node: &Node) -> Component {
    let directory = place.node(&node.name);
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    let file = |name: &str| directory.join(name).display().to_string();
    let arguments = [
        format!("--config={}", file("kubelet.json")),
        format!("--kubeconfig={}", file("kubelet.conf")),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={}", addresses.join(",")),
        format!("--node-labels=topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=zone-{}", node.name),
    ];
    Component::new(&format!("{}/kubelet", node.name), place::programs().join("kubelet"), &arguments)
}

/// The programs that Debian brings.
pub(crate) fn debian_programs() -> Vec<PathBuf> {
    ["/usr/bin/etcd", "/usr/bin/containerd", "/usr/bin/ctr", "/usr/sbin/runc", "/usr/lib/cni/loopback"].map(PathBuf::from).to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;

    #[test]
    fn a_kubelet_serves_only_those_it_knows() {
        let plan = Plan::of_nodes(1, &[], &[], "1-2").unwrap();
        let config = kubelet_config(Path::new("/n"), Path::new("/ca"), &plan);
        assert_eq!(config.pointer("/authentication/anonymous/enabled").unwrap(), false);
        assert_eq!(config.pointer("/authorization/mode").unwrap(), "Webhook");
        assert_eq!(config.pointer("/clusterDNS/0").unwrap(), "10.43.0.10");
    }

    #[test]
    fn the_shell_joins_before_it_becomes_the_command() {
        let shell = join_cgroups("c", "n1");
        assert!(shell.ends_with("exec \"$@\""), "{shell}");
        assert!(controllers().iter().all(|name| shell.contains(&format!("/{name}/bowline-cluster/c/n1/"))), "{shell}");
    }
}

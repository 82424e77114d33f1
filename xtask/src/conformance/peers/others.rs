//! kube-proxy, CoreDNS and flannel where Bowline would be, as processes of the nodes.
//!
//! flannel with VXLAN and the bridge, host-local and portmap plugins of Debian's containernetworking-plugins; kube-proxy with nftables; CoreDNS on
//! every node behind the service kube-dns, as Bowline's DNS is.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::place::{self, Cluster};

const LIMIT: Duration = Duration::from_secs(60);

/// The address of the cluster's names, as the kubelets give it to pods.
const DNS: &str = "10.43.0.10";

const COREFILE: &str = ".:53 {\n  errors\n  kubernetes cluster.local in-addr.arpa ip6.arpa {\n    kubeconfig /run/peers/kubeconfig\n  }\n  cache 30\n  loadbalance\n}\n";

/// The cluster's pod networks.
const NETWORKS: [&str; 2] = ["10.42.0.0/16", "fd42::/56"];

/// A node: its name and its addresses.
struct Machine {
    name: String,
    addresses: Vec<String>,
    subnets: Vec<String>,
}

/// Starts all three on every node.
pub(super) fn install(cluster: &Cluster, _image: &Path) -> Result<()> {
    let machines = machines(cluster)?;
    let server = machines.iter().find(|machine| machine.name == "n1").and_then(|machine| machine.addresses.first()).context("no n1")?;
    let programs = programs()?;
    for machine in &machines {
        start(cluster, machine, server, &programs).with_context(|| machine.name.clone())?;
    }
    names(cluster, &machines)
}

/// kube-proxy, coredns and flanneld, built if they are not there.
pub(super) fn programs() -> Result<Vec<PathBuf>> {
    ["kube-proxy", "coredns", "flanneld"].map(|name| place::program(name, "peers")).into_iter().collect()
}

fn machines(cluster: &Cluster) -> Result<Vec<Machine>> {
    let list: Value = serde_json::from_str(&place::kubectl_at(&cluster.kubeconfig, &["get", "nodes", "-o", "json"])?)?;
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let nodes = list.get("items").and_then(Value::as_array).context("no nodes")?;
    nodes
        .iter()
        .map(|node| {
            let addresses = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
            let internal = addresses.filter(|address| address.get("type").is_some_and(|kind| kind == "InternalIP"));
            Ok(Machine {
                name: node.pointer("/metadata/name").and_then(Value::as_str).context("a node without a name")?.to_owned(),
                addresses: internal.filter_map(|address| Some(address.get("address")?.as_str()?.to_owned())).collect(),
                subnets: texts(node.pointer("/spec/podCIDRs")),
            })
        })
        .collect()
}

fn start(cluster: &Cluster, machine: &Machine, server: &str, programs: &[PathBuf]) -> Result<()> {
    let [proxy, coredns, flanneld] = programs else { anyhow::bail!("three programs were asked for") };
    // The kubeconfig of this machine names a relay on its loopback; a node asks the server itself.
    let kubeconfig = std::fs::read_to_string(&cluster.kubeconfig).with_context(|| cluster.kubeconfig.display().to_string())?;
    let mut kubeconfig: Value = serde_json::from_str(&kubeconfig).context("the kubeconfig")?;
    *kubeconfig.pointer_mut("/clusters/0/cluster/server").context("the kubeconfig names no server")? =
        format!("https://{server}:6443").into();
    write(cluster, machine, "/run/peers/kubeconfig", &kubeconfig.to_string())?;
    write(cluster, machine, "/run/peers/Corefile", COREFILE)?;
    let [ipv4, ipv6] = NETWORKS;
    let network = json!({"Network": ipv4, "EnableIPv6": true, "IPv6Network": ipv6, "Backend": {"Type": "vxlan"}});
    write(cluster, machine, "/run/peers/net-conf.json", &network.to_string())?;
    let at = |path: &Path| path.display().to_string();
    let config = "--kubeconfig=/run/peers/kubeconfig";
    let arguments = format!(
        "--proxy-mode=nftables --cluster-cidr={ipv4},{ipv6} --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
         --conntrack-tcp-timeout-close-wait=0"
    );
    let interface = machine.addresses.first().context("no address")?;
    run(
        cluster,
        machine,
        "flanneld",
        &format!(
            "NODE_NAME={} {} --kube-subnet-mgr --kubeconfig-file=/run/peers/kubeconfig --net-config-path=/run/peers/net-conf.json --ip-masq --iface={interface}",
            machine.name,
            at(flanneld)
        ),
    )?;
    run(cluster, machine, "kube-proxy", &format!("{} {config} {arguments} --hostname-override={}", at(proxy), machine.name))?;
    // Bowline's DNS is a pod; this one takes the port of the node.
    run(cluster, machine, "coredns", &format!("{} -conf /run/peers/Corefile", at(coredns)))?;
    wait_for_file(cluster, machine, "/run/flannel/subnet.env")?;
    shell(cluster, machine, "mkdir -p /opt/cni/bin && cp /usr/lib/cni/* /opt/cni/bin/")?;
    write(cluster, machine, "/etc/cni/net.d/10-flannel.conflist", &conflist(machine).to_string())
}

/// What flannel's own plugin hands to the bridge plugin: the routes are those of the pod networks. The default routes come from
/// `isDefaultGateway`; the bridge plugin of Debian 12 fails where they are asked for twice.
fn conflist(machine: &Machine) -> Value {
    let ranges: Vec<Value> = machine.subnets.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    let routes: Vec<Value> = NETWORKS.iter().map(|network| json!({"dst": network})).collect();
    json!({
        "cniVersion": "1.0.0", "name": "cbr0", "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "mtu": 1450, "isDefaultGateway": true, "hairpinMode": true, "ipMasq": false,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The service that the kubelets tell pods of, in front of CoreDNS on every node.
fn names(cluster: &Cluster, machines: &[Machine]) -> Result<()> {
    let endpoints: Vec<Value> =
        machines.iter().filter_map(|machine| Some(json!({"addresses": [machine.addresses.first()?], "nodeName": machine.name}))).collect();
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53}, {"name": "dns-tcp", "protocol": "TCP", "port": 53}]);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
        },
    ]});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), list.to_string())?;
    place::kubectl_at(&cluster.kubeconfig, &["apply", "-f", &file.path().display().to_string()]).map(drop)
}

fn shell(cluster: &Cluster, machine: &Machine, script: &str) -> Result<String> {
    cluster.node(&machine.name, &["sh", "-c", script], LIMIT)
}

fn write(cluster: &Cluster, machine: &Machine, path: &str, text: &str) -> Result<()> {
    shell(cluster, machine, &format!("mkdir -p $(dirname {path}) && cat >{path} <<'END'\n{text}\nEND")).map(drop)
}

/// Starts a process that lives until its cluster is taken down.
fn run(cluster: &Cluster, machine: &Machine, name: &str, command: &str) -> Result<()> {
    shell(cluster, machine, &format!("setsid env {command} >/run/peers/{name}.log 2>&1 </dev/null &")).map(drop)
}

fn wait_for_file(cluster: &Cluster, machine: &Machine, path: &str) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while shell(cluster, machine, &format!("test -s {path}")).is_err() {
        ensure!(Instant::now() < end, "{path} is not there: {}", shell(cluster, machine, "tail -n 3 /run/peers/*.log")?);
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_asked_for_once() {
        let machine = Machine { name: "n1".into(), addresses: Vec::new(), subnets: vec!["10.42.0.0/24".into(), "fd42::/64".into()] };
        let list = conflist(&machine);
        let bridge = list.pointer("/plugins/0").cloned().unwrap_or_default();
        assert_eq!(bridge.pointer("/isDefaultGateway"), Some(&json!(true)));
        assert_eq!(bridge.pointer("/ipam/routes"), Some(&json!([{"dst": "10.42.0.0/16"}, {"dst": "fd42::/56"}])));
        assert_eq!(bridge.pointer("/ipam/ranges"), Some(&json!([[{"subnet": "10.42.0.0/24"}], [{"subnet": "fd42::/64"}]])));
    }
}

//! A node's agent is given a KubeProxyConfiguration file, and is to its surroundings what kube-proxy was: health, metrics, NodePorts, sysctls.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::foreign::shell;
use crate::common::cluster;
use crate::common::generator::Generator;
use crate::common::lab::{Lab, eventually, said};
use crate::common::objects::{server, service};
use crate::common::rows::Bench;

/// As a kubeadm cluster may have it, with some of it meaningless here and one key misspelt.
const FILE: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
nodePortAddresses: [primary]
healthzBindAddress: 0.0.0.0:10356
metricsBindAddress: 127.0.0.1:10349
conntrack:
  maxPerCore: 0
  tcpEstablishedTimeout: 1h10m
  tcpCloseWaitTimeout: 0s
ipvs:
  scheduler: lc
iptables:
  syncPeriod: 10s
portrange: 1-2
";

/// A second address of the node, on the link of its first.
const SECOND: &str = "192.168.200.141";
const NODE_PORT: u16 = 30_810;

/// The code and the body that a node's own address answers with.
fn ask(lab: &Lab, node: &str, url: &str) -> Result<(String, String)> {
    let answer = lab.node(node, &["curl", "-s", "--noproxy", "*", "--max-time", "3", "-w", "\n%{http_code}", url])?;
    let text = said(&answer).with_context(|| format!("{node}: curl {url}: {}", answer.status))?;
    let (body, code) = text.rsplit_once('\n').context("no code")?;
    Ok((code.to_owned(), body.to_owned()))
}

fn healthz(lab: &Lab, path: &str, wanted: &str) -> Result<Value> {
    eventually(|| {
        let (code, body) = ask(lab, "n1", &format!("http://127.0.0.1:10356{path}"))?;
        ensure!(code == wanted, "{path}: {code} {body}");
        serde_json::from_str(&body).with_context(|| body)
    })
}

fn metric(lab: &Lab, name: &str) -> Result<f64> {
    let (code, text) = ask(lab, "n1", "http://127.0.0.1:10349/metrics")?;
    ensure!(code == "200", "/metrics: {code}");
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.with_context(|| format!("no {name} in\n{text}"))?.parse().context("a number")
}

/// Whether the outside gets a connection to a NodePort at an address.
fn connects(lab: &Lab, address: &str) -> Result<bool> {
    let script = format!("exec 3<>/dev/tcp/{address}/{NODE_PORT}");
    Ok(lab.client(&["timeout", "3", "bash", "-c", &script])?.status.success())
}

fn node_ports(lab: &Lab, first: &str, second_too: bool) -> Result<()> {
    eventually(|| {
        ensure!(connects(lab, first)?, "the NodePort does not answer at {first}");
        ensure!(connects(lab, SECOND)? == second_too, "the NodePort at {SECOND} should answer: {second_too}");
        Ok(())
    })
}

fn restart(lab: &Lab) -> Result<()> {
    lab.agent("stop", "n1")?;
    lab.agent("start", "n1")?;
    lab.settled()
}

pub(crate) fn stands_in(bench: &Bench) -> Result<String> {
    let lab = bench.lab()?;
    let first = cluster::nodes(lab)?.iter().find(|node| node.name == "n1").context("no n1")?.ip(false)?.to_string();
    lab.apply_objects(&[server("kp-1", "n1", "kp")?, service("kp", "kp", Some(NODE_PORT))])?;
    shell(lab, "n1", &format!("ip address add {SECOND}/24 dev $(ip -o -4 address show to {first}/32 | awk '{{print $2}}')"))?;
    // Without a file: kube-proxy's own addresses, NodePorts everywhere.
    let (code, mode) = ask(lab, "n1", "http://127.0.0.1:10249/proxyMode")?;
    ensure!(code == "200" && mode == "nftables", "/proxyMode: {code} {mode}");
    ensure!(ask(lab, "n1", &format!("http://{first}:10256/healthz"))?.0 == "200", "/healthz on 10256");
    node_ports(lab, &first, true)?;

    let write = format!("cat > /etc/bowline/kube-proxy.yaml <<'END'\n{FILE}END\n");
    shell(lab, "n1", &format!("{write}cp /etc/bowline/agent.yaml /etc/bowline/agent.yaml.before"))?;
    shell(lab, "n1", "echo 'kubeProxyConfig: /etc/bowline/kube-proxy.yaml' >> /etc/bowline/agent.yaml")?;
    taken(lab)?;
    let seen = with_file(lab, &first);
    shell(lab, "n1", "mv /etc/bowline/agent.yaml.before /etc/bowline/agent.yaml")?;
    restart(lab)?;
    let seen = seen?;
    node_ports(lab, &first, true)?;
    shell(lab, "n1", &format!("ip address del {SECOND}/24 dev $(ip -o -4 address show to {SECOND}/32 | awk '{{print $2}}')"))?;
    Ok(seen)
}

/// Somebody has the address of `/healthz` when the agent starts: `bowline status` says so, and what of the file does nothing besides. Once it
/// is free, the agent has it.
fn taken(lab: &Lab) -> Result<()> {
    lab.agent("stop", "n1")?;
    let other = Generator::on_node(lab, "n1", &["listen", "0.0.0.0:10356"])?;
    lab.agent("start", "n1")?;
    let n1 = || -> Result<Value> {
        let status = lab.status()?;
        status["nodes"].as_array().into_iter().flatten().find(|node| node["node"] == "n1").cloned().context("n1 is silent")
    };
    eventually(|| {
        let node = n1()?;
        let taken = node["problems"].as_array().into_iter().flatten().find(|problem| problem["code"] == 1220);
        let problem = taken.with_context(|| format!("no BW1220: {}", node["problems"]))?;
        ensure!(problem["place"] == "healthzBindAddress 0.0.0.0:10356" && node["state"] == "degraded", "{problem}");
        Ok(())
    })?;
    drop(other);
    lab.settled()?;
    let node = n1()?;
    let codes: Vec<u64> = node["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning["code"].as_u64()).collect();
    ensure!(!codes.is_empty() && codes.iter().all(|code| *code == 1121) && node["state"] == "ok", "{}", node["warnings"]);
    let said = said(&lab.run(&["status"], &[])?).context("bowline status is not content")?;
    ensure!(said.contains("BW1121 n1: ") && said.contains("portrange"), "{said}");
    Ok(())
}

fn with_file(lab: &Lab, first: &str) -> Result<String> {
    let health = healthz(lab, "/healthz", "200")?;
    for field in ["lastUpdated", "currentTime"] {
        ensure!(health[field].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{field}: {health}");
    }
    ensure!(health["nodeEligible"] == true && health["status"]["IPv4"]["healthy"] == true, "{health}");
    node_ports(lab, first, false)?;
    let established = shell(lab, "n1", "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established")?;
    ensure!(established.trim() == "4200", "tcpEstablishedTimeout: {established}");

    // A node that is about to go is no place to send new traffic to, but its agent is alive.
    lab.kubectl(&["taint", "node", "n1", "ToBeDeletedByClusterAutoscaler=1:NoSchedule"])?;
    let leaving = healthz(lab, "/healthz", "503");
    let alive = healthz(lab, "/livez", "200");
    lab.kubectl(&["taint", "node", "n1", "ToBeDeletedByClusterAutoscaler:NoSchedule-"])?;
    ensure!(leaving?["nodeEligible"] == false, "a tainted node");
    ensure!(alive?.get("nodeEligible").is_none(), "/livez says nothing of the node");
    healthz(lab, "/healthz", "200")?;

    let counted = ["kubeproxy_sync_proxy_rules_service_changes_total", "kubeproxy_sync_proxy_rules_duration_seconds_count"];
    let before = counted.map(|name| metric(lab, name));
    lab.apply_objects(&[service("kp-other", "kp", None)])?;
    let moved = eventually(|| {
        for (name, before) in counted.iter().zip(&before) {
            let (Ok(before), now) = (before, metric(lab, name)?) else { bail!("{name} was not there before") };
            ensure!(now > *before, "{name} is still {now}");
        }
        for name in ["kubeproxy_sync_proxy_rules_service_changes_pending", "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"] {
            let value = metric(lab, name)?;
            ensure!(value == 0.0, "{name} is {value}");
        }
        metric(lab, "kubeproxy_sync_proxy_rules_last_timestamp_seconds")
    })?;
    ensure!(moved > 1.7e9, "last timestamp {moved}");
    ensure!(metric(lab, "kubeproxy_proxy_healthz_total{code=\"503\"}")? >= 1.0, "the 503 is not counted");
    lab.delete("service", &["kp-other"])?;
    Ok("health on 10356 (503 under the autoscaler's taint), metrics on 10349 move, NodePort at the primary address only".to_owned())
}

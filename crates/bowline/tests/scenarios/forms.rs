//! Forms of services, names and policies that the eight scenarios do not show, with real packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Pod, cluster_ip, nodes, pods};
use crate::lab::{Lab, address_of, curl, curl_within, eventually, field, said, words};

fn page(lab: &Lab, pod: &str, to: IpAddr, port: u16) -> Result<String> {
    said(&lab.pod(pod, &words(&curl(to, port)))?).with_context(|| format!("{pod} -> {to}:{port}: no page"))
}

fn closed(lab: &Lab, pod: &str, to: IpAddr, port: u16) -> Result<()> {
    let output = lab.pod(pod, &words(&curl_within(to, port, 1)))?;
    ensure!(output.status.code() == Some(28), "{pod} -> {to}:{port}: {} where a timeout (28) is wanted", output.status);
    Ok(())
}

fn service(lab: &Lab, name: &str, rest: &str) -> Result<()> {
    let families = if lab.families().len() == 2 { "RequireDualStack" } else { "SingleStack" };
    lab.apply_text(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ipFamilyPolicy: {families}\n  selector: {{name: networkpolicy-demo}}\n{rest}\n"
    ))
}

/// Affinity, traffic policies, UDP: after scenario 8, with its workloads.
pub(crate) fn services(lab: &Lab) -> Result<String> {
    service(lab, "sticky", "  sessionAffinity: ClientIP\n  ports: [{port: 80}]")?;
    service(lab, "near", "  internalTrafficPolicy: Local\n  ports: [{port: 80}]")?;
    service(lab, "edge", "  type: NodePort\n  externalTrafficPolicy: Local\n  ports: [{port: 80, nodePort: 32001}]")?;
    let servers = pods(lab, "name=networkpolicy-demo")?;
    let askers = pods(lab, "app=nginx-ds")?;
    for v6 in lab.families() {
        sticky(lab, &askers, v6)?;
        near(lab, &askers, &servers, v6)?;
        edge(lab, &servers, v6)?;
    }
    datagrams(lab, &askers)?;
    for name in ["sticky", "near", "edge"] {
        lab.kubectl(&["delete", "service", name])?;
    }
    Ok("ClientIP keeps its endpoint, internal and external Local stay on the node, UDP answers".to_owned())
}

/// One client, one endpoint, ten times over; not all clients the same one is chance and not asked.
fn sticky(lab: &Lab, askers: &[Pod], v6: bool) -> Result<()> {
    let to = cluster_ip(lab, "sticky", "default", v6)?;
    for asker in askers {
        eventually(|| page(lab, &asker.name, to, 80))?;
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            seen.insert(field(&page(lab, &asker.name, to, 80)?, "pod").unwrap_or_default().to_owned());
        }
        ensure!(seen.len() == 1, "{} was sent to {seen:?}", asker.name);
    }
    Ok(())
}

/// A node with endpoints uses its own; one without drops.
fn near(lab: &Lab, askers: &[Pod], servers: &[Pod], v6: bool) -> Result<()> {
    let to = cluster_ip(lab, "near", "default", v6)?;
    for asker in askers {
        if servers.iter().any(|s| s.node == asker.node) {
            for _ in 0..5 {
                let page = eventually(|| page(lab, &asker.name, to, 80))?;
                ensure!(field(&page, "node") == Some(&asker.node), "{} was sent to another node: {page}", asker.node);
            }
        } else {
            closed(lab, &asker.name, to, 80)?;
        }
    }
    Ok(())
}

/// From outside only nodes with endpoints answer, each with its own, and the client is seen.
fn edge(lab: &Lab, servers: &[Pod], v6: bool) -> Result<()> {
    let outside: IpAddr = if v6 { "2001:db8:113::10" } else { "203.0.113.10" }.parse()?;
    for node in nodes(lab)? {
        let has = servers.iter().any(|s| s.node == node.name);
        if !has {
            let output = lab.client(&words(&curl_within(node.ip(v6)?, 32001, 1)))?;
            ensure!(output.status.code() == Some(28), "{} has no endpoint and answers: {}", node.name, output.status);
            continue;
        }
        let page =
            eventually(|| said(&lab.client(&words(&curl(node.ip(v6)?, 32001)))?).with_context(|| format!("{}: no page", node.name)))?;
        ensure!(field(&page, "node") == Some(&node.name) && address_of(&page, "client")? == outside, "{}: {page}", node.name);
    }
    Ok(())
}

/// A service over UDP, asked by name.
fn datagrams(lab: &Lab, askers: &[Pod]) -> Result<()> {
    lab.apply_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: udp, labels: {app: udp}}\nspec: {containers: [{name: u, image: u, ports: [{containerPort: 7, protocol: UDP}]}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: udp}\nspec: {selector: {app: udp}, ports: [{port: 7, protocol: UDP}]}\n",
    )?;
    lab.kubectl(&["wait", "pod/udp", "--for=condition=Ready", "--timeout=30s"])?;
    let asker = askers.first().context("no pod")?;
    let v6 = lab.families().first().copied().unwrap_or(false);
    let to = std::net::SocketAddr::new(cluster_ip(lab, "udp", "default", v6)?, 7).to_string();
    let answer = eventually(|| {
        let output = lab.pod(&asker.name, &[crate::lab::BOWLINE, "probe", "udp", &to])?;
        said(&output).with_context(|| format!("no answer from {to}: {}", String::from_utf8_lossy(&output.stderr)))
    })?;
    ensure!(answer.starts_with("pod udp client") && answer.contains("bowline"), "{answer:?}");
    lab.kubectl(&["delete", "pod/udp", "service/udp"])?;
    Ok(())
}

/// Headless, SRV, ExternalName, PTR of endpoints: after scenario 3, with its workloads.
pub(crate) fn names(lab: &Lab) -> Result<String> {
    lab.apply_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: each}\nspec: {clusterIP: None, selector: {app: nginx-ds}, ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: afar}\nspec: {type: ExternalName, externalName: www.outside.test}\n",
    )?;
    let all = pods(lab, "app=nginx-ds")?;
    let asker = all.first().context("no pod")?;
    let v6 = lab.families().first().copied().unwrap_or(false);
    let server = format!("@{}", cluster_ip(lab, "kube-dns", "kube-system", v6)?);
    let kind = if v6 { "AAAA" } else { "A" };
    let dig = |argv: &[&str]| -> Result<Vec<String>> {
        let mut line = vec!["dig", "+short", "+time=2", "+tries=1", &server];
        line.extend(argv);
        let told = said(&lab.pod(&asker.name, &line)?).context("dig")?;
        Ok(told.lines().map(str::to_owned).collect())
    };
    let want: BTreeSet<String> = all.iter().map(|p| p.ip(v6).map(|ip| ip.to_string())).collect::<Result<_>>()?;
    eventually(|| {
        let got: BTreeSet<String> = dig(&["-t", kind, "each.default.svc.cluster.local"])?.into_iter().collect();
        ensure!(got == want, "headless: {got:?} where {want:?} is wanted");
        Ok(())
    })?;
    let srv = dig(&["-t", "SRV", "_http._tcp.each.default.svc.cluster.local"])?;
    ensure!(srv.len() == all.len() && srv.iter().all(|line| line.contains(" 80 ")), "SRV: {srv:?}");
    let alias = dig(&["-t", kind, "afar.default.svc.cluster.local"])?;
    ensure!(alias.first().map(String::as_str) == Some("www.outside.test.") && alias.len() >= 3, "ExternalName: {alias:?}");
    lab.kubectl(&["delete", "service", "each", "afar"])?;
    Ok(format!("headless gives {} addresses, SRV each port, ExternalName its CNAME chain", want.len()))
}

/// Egress, named ports, port ranges, namespaces: after the others, with their workloads.
pub(crate) fn policies(lab: &Lab) -> Result<String> {
    let server = pods(lab, "name=networkpolicy-demo")?.into_iter().next().context("no replica")?;
    let asker = pods(lab, "app=nginx-ds")?.into_iter().find(|p| p.node != server.node).context("no pod on another node")?;
    let policy = |name: &str, spec: &str| {
        lab.apply_text(&format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"))
    };
    let gone = |name: &str| lab.kubectl(&["delete", "networkpolicy", name]).map(drop);
    for v6 in lab.families() {
        let to = server.ip(v6)?;
        let (open, shut) = (|| page(lab, &asker.name, to, 80).map(drop), || closed(lab, &asker.name, to, 80));
        eventually(open)?;
        policy("out", "  podSelector: {matchLabels: {app: nginx-ds}}\n  policyTypes: [Egress]")?;
        eventually(shut).context("deny-all egress")?;
        policy(
            "out",
            "  podSelector: {matchLabels: {app: nginx-ds}}\n  policyTypes: [Egress]\n  egress: [{to: [{podSelector: {matchLabels: {name: networkpolicy-demo}}}], ports: [{port: 80}]}]",
        )?;
        eventually(open).context("egress to the selected pods")?;
        gone("out")?;
        policy("range", "  podSelector: {matchLabels: {name: networkpolicy-demo}}\n  ingress: [{ports: [{port: 81, endPort: 90}]}]")?;
        eventually(shut).context("a range beside the port")?;
        policy("range", "  podSelector: {matchLabels: {name: networkpolicy-demo}}\n  ingress: [{ports: [{port: 79, endPort: 90}]}]")?;
        eventually(open).context("a range around the port")?;
        gone("range")?;
        policy(
            "space",
            "  podSelector: {matchLabels: {name: networkpolicy-demo}}\n  ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}]",
        )?;
        eventually(shut).context("another namespace alone")?;
        policy(
            "space",
            "  podSelector: {matchLabels: {name: networkpolicy-demo}}\n  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: nginx-ds}}}]}]",
        )?;
        eventually(open).context("selected pods of every namespace")?;
        gone("space")?;
    }
    Ok("egress, port ranges and namespace selectors close and open".to_owned())
}

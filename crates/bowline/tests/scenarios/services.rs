//! Scenario 4: services from pods, nodes and the outside.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};

use crate::cluster::{cluster_ip, nodes, pods};
use crate::lab::{Lab, address_of, curl, eventually, field, said, words};

/// Requests from which shares are judged.
const REQUESTS: usize = 120;

/// Scenario 4.
pub(crate) fn shares_are_equal(lab: &Lab) -> Result<String> {
    lab.apply("nginx-ds.yaml")?;
    lab.apply("httpd-demo.yaml")?;
    both_families(lab, "httpd-svc")?;
    let from = pods(lab, "app=nginx-ds")?.into_iter().next().context("no pod")?;
    let mut told = String::new();
    for v6 in lab.families() {
        let service = cluster_ip(lab, "httpd-svc", "default", v6)?;
        eventually(|| said(&lab.pod(&from.name, &words(&curl(service, 8080)))?).context("httpd-svc does not answer"))?;
        told = equal_shares(lab, &from.name, service).with_context(|| format!("by {service}"))?;
        node_ports(lab, v6)?;
        hairpin(lab, service, v6)?;
    }
    not_ready_gets_nothing(lab, &from.name)?;
    no_endpoint_is_refused(lab, &from.name)?;
    Ok(format!("shares {told}; every node's 33000 answers the outside with the client's own address"))
}

/// In a lab of both families the service is asked for both.
fn both_families(lab: &Lab, service: &str) -> Result<()> {
    if lab.families().len() == 2 {
        lab.kubectl(&["patch", "service", service, "-p", r#"{"spec":{"ipFamilyPolicy":"RequireDualStack"}}"#])?;
    }
    Ok(())
}

/// Three replicas answer equally often, as far as chance allows.
///
/// Four deviations of the binomial let one good lab in four hundred runs down, so what lies outside them is asked again, four times as
/// often and within five. Chance passes that once in 10^10 runs; one replica drawn twice as often as each other lies at eight.
fn equal_shares(lab: &Lab, pod: &str, service: IpAddr) -> Result<String> {
    let first = shares(lab, pod, service, REQUESTS)?;
    let judged = if farthest(&first)? <= 4.0 { first.clone() } else { shares(lab, pod, service, 4 * REQUESTS)? };
    ensure!(farthest(&judged)? <= 5.0, "unequal shares: {first:?}, then {judged:?}");
    Ok(format!("{:?} of {}", judged.values().collect::<Vec<_>>(), judged.values().sum::<usize>()))
}

/// By how many deviations the farthest of three shares is off a third.
fn farthest(shares: &BTreeMap<String, usize>) -> Result<f64> {
    ensure!(shares.len() == 3, "{} of 3 replicas answered: {shares:?}", shares.len());
    let count = |n: usize| u32::try_from(n).map(f64::from);
    let asked = count(shares.values().sum())?;
    let (mean, deviation) = (asked / 3.0, (asked * 2.0 / 9.0).sqrt());
    shares.values().try_fold(0.0, |farthest: f64, &n| Ok(farthest.max((count(n)? - mean).abs() / deviation)))
}

/// How many of so many requests each replica answered.
fn shares(lab: &Lab, pod: &str, service: IpAddr, requests: usize) -> Result<BTreeMap<String, usize>> {
    // One shell, many connections: each curl of its own is a connection of its own.
    let one = curl(service, 8080).iter().map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
    let script = format!("for i in $(seq {requests}); do {one} || exit 1; done");
    let output = lab.pod(pod, &["sh", "-c", &script])?;
    let pages = said(&output).context("a request to the service failed")?;
    let mut shares = BTreeMap::new();
    for name in pages.lines().filter_map(|line| line.strip_prefix("pod: ")) {
        *shares.entry(name.to_owned()).or_default() += 1;
    }
    Ok(shares)
}

/// Any node's port answers from outside; the server sees the client itself, wherever it runs.
fn node_ports(lab: &Lab, v6: bool) -> Result<()> {
    let outside: IpAddr = if v6 { "2001:db8:113::10" } else { "203.0.113.10" }.parse()?;
    let replicas: Vec<String> = pods(lab, "name=networkpolicy-demo")?.into_iter().map(|p| p.name).collect();
    for node in nodes(lab)? {
        let mut seen = std::collections::BTreeSet::new();
        eventually(|| {
            let output = lab.client(&words(&curl(node.ip(v6)?, 33000)))?;
            let page = said(&output).with_context(|| format!("{}:33000 does not answer the outside", node.name))?;
            let client = address_of(&page, "client")?;
            ensure!(client == outside, "the server saw {client}, not the client {outside}");
            seen.insert(field(&page, "pod").unwrap_or_default().to_owned());
            ensure!(replicas.iter().all(|r| seen.contains(r)), "through {} only {seen:?} answered", node.name);
            Ok(())
        })?;
    }
    Ok(())
}

/// A pod that reaches itself by its service.
fn hairpin(lab: &Lab, service: IpAddr, _v6: bool) -> Result<()> {
    for pod in pods(lab, "name=networkpolicy-demo")? {
        let mut itself = false;
        eventually(|| {
            let page =
                said(&lab.pod(&pod.name, &words(&curl(service, 8080)))?).with_context(|| format!("{} by its own service", pod.name))?;
            itself |= field(&page, "pod") == Some(&pod.name);
            ensure!(itself, "{} was never sent to itself", pod.name);
            Ok(())
        })?;
    }
    Ok(())
}

/// A replica whose probe fails gets no request.
fn not_ready_gets_nothing(lab: &Lab, from: &str) -> Result<()> {
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: never-ready, labels: {name: networkpolicy-demo}}
spec:
  containers:
    - name: httpd
      image: httpd
      ports: [{containerPort: 80}]
      readinessProbe: {tcpSocket: {port: 81}, periodSeconds: 1}
"#;
    lab.apply_text(manifest)?;
    lab.kubectl(&["wait", "pod/never-ready", "--for=jsonpath={.status.phase}=Running", "--timeout=30s"])?;
    let v6 = lab.families().first().copied().unwrap_or(false);
    let shares = shares(lab, from, cluster_ip(lab, "httpd-svc", "default", v6)?, REQUESTS);
    lab.kubectl(&["delete", "pod", "never-ready"])?;
    let shares = shares?;
    ensure!(!shares.contains_key("never-ready"), "a pod that is not ready answered: {shares:?}");
    Ok(())
}

/// A service without endpoints refuses at once.
fn no_endpoint_is_refused(lab: &Lab, from: &str) -> Result<()> {
    lab.apply_text("apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {selector: {name: nobody}, ports: [{port: 80}]}\n")?;
    let v6 = lab.families().first().copied().unwrap_or(false);
    let address = cluster_ip(lab, "nobody", "default", v6)?;
    let refused = eventually(|| {
        let output = lab.pod(from, &words(&curl(address, 80)))?;
        // curl: 7 is "failed to connect", 28 a timeout.
        ensure!(output.status.code() == Some(7), "curl ended with {} where a refusal (7) is wanted", output.status);
        Ok(())
    });
    lab.kubectl(&["delete", "service", "nobody"])?;
    refused
}

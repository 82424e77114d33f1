//! What is deployed fits the program: the manifests in `deploy/` against settings, Corefile, command line, watches and version.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::BTreeSet;

use bowline_compile::world::Kind;
use bowline_dns::corefile::{NoSources, parse};
use clap::Parser;
use serde_json::Value;

use super::{AgentArgs, AgentConfig};
use crate::watch::{ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, ServiceCidr, Watchable};

const BOWLINE: &str = include_str!("../../../../deploy/bowline.yaml");
const UNINSTALL: &str = include_str!("../../../../deploy/uninstall.yaml");

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple::<Value>(text).unwrap().into_iter().filter(|object| !object.is_null()).collect()
}

fn object(kind: &str, name: &str) -> Value {
    let found = objects(BOWLINE).into_iter().filter(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    let [one] = <[Value; 1]>::try_from(found.collect::<Vec<_>>()).unwrap_or_else(|all| panic!("{kind} {name}: {} of them", all.len()));
    one
}

fn container(daemon_set: &Value) -> &Value {
    &daemon_set["spec"]["template"]["spec"]["containers"][0]
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The agent's settings, with the node's name from the environment as in the pod.
fn settings() -> AgentConfig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.yaml");
    std::fs::write(&path, object("ConfigMap", "bowline-config")["data"]["agent.yaml"].as_str().unwrap()).unwrap();
    AgentConfig::load(&AgentArgs { config: Some(path), node_name: Some("n1".into()), ..AgentArgs::default() }).unwrap()
}

/// Host paths by where they are mounted.
fn mounts(daemon_set: &Value) -> Vec<(String, Value)> {
    let volumes = daemon_set["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let mounts = container(daemon_set)["volumeMounts"].as_array().unwrap();
    let volume = |name: &Value| volumes.iter().find(|v| v["name"] == *name).unwrap_or_else(|| panic!("no volume {name}")).clone();
    mounts.iter().map(|m| (m["mountPath"].as_str().unwrap().to_owned(), volume(&m["name"]))).collect()
}

fn host_path(daemon_set: &Value, mounted_at: &std::path::Path) -> String {
    let mounts = mounts(daemon_set);
    let (_, volume) = mounts.iter().find(|(at, _)| std::path::Path::new(at) == mounted_at).unwrap_or_else(|| panic!("{mounted_at:?}"));
    volume["hostPath"]["path"].as_str().unwrap().to_owned()
}

#[test]
fn the_settings_are_taken_and_fit_the_mounts() {
    let (config, agent) = (settings(), object("DaemonSet", "bowline"));
    assert!(!config.api_servers.is_empty(), "the agent must not need the kubernetes service");
    assert_eq!((config.cluster_cidrs.len(), config.service_cidrs.len()), (2, 2));
    // The plugin runs on the node and is told the agent's paths.
    for same in [&config.run_dir, &config.state_dir] {
        assert_eq!(host_path(&agent, same), same.display().to_string());
    }
    for mounted in [&config.cni_conf_dir, &config.cni_bin_dir] {
        host_path(&agent, mounted);
    }
    assert_eq!(host_path(&agent, &config.proc_sys.unwrap().join("net")), "/proc/sys/net");
    assert_eq!(host_path(&agent, &config.cgroup_root.unwrap()), "/sys/fs/cgroup");
    assert_eq!(host_path(&agent, std::path::Path::new("/sys/fs/bpf")), "/sys/fs/bpf");
    let health = config.health_address.unwrap();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let asked = &container(&agent)[probe]["httpGet"];
        assert_eq!((&asked["host"], &asked["port"]), (&health.ip().to_string().into(), &health.port().into()), "{probe}");
    }
    assert_eq!(config.healthz_bind_address, Some(bowline_kubeproxy::Config::default_healthz()));
    assert_eq!(config.metrics_bind_address, Some(bowline_kubeproxy::Config::default_metrics()));
    let env = container(&agent)["env"].as_array().unwrap();
    let file = env.iter().find(|e| e["name"] == "BOWLINE_CONFIG").unwrap();
    assert_eq!(file["value"], "/etc/bowline/agent.yaml");
    assert!(env.iter().any(|e| e["name"] == "BOWLINE_NODE_NAME" && e["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"));
}

#[test]
fn dns_reads_its_corefile_and_finds_its_feed() {
    let (config, dns) = (settings(), object("DaemonSet", "bowline-dns"));
    let text = object("ConfigMap", "bowline-config")["data"]["Corefile"].as_str().unwrap().to_owned();
    let file = parse("Corefile", &text, &NoSources).unwrap();
    let metrics = bowline_dns::metrics::Metrics::default();
    let around = bowline_dns::config::Surroundings {
        default_port: 53,
        metrics: &metrics,
        read_file: &|_| Ok("nameserver 192.0.2.53\n".to_owned()),
        interface: &|_| Vec::new(),
    };
    let read = bowline_dns::config::Config::read(&file, around).unwrap();
    let socket = config.dns_socket.unwrap();
    let args = words(&container(&dns)["args"]);
    assert!(args.windows(2).any(|pair| pair[0] == "--feed" && pair[1] == socket.display().to_string()), "{args:?}");
    let directory = socket.parent().unwrap();
    assert_eq!(host_path(&dns, directory), directory.display().to_string());
    assert!(directory.starts_with(&config.run_dir) && directory != config.run_dir, "nothing else may be in the DNS pod's directory");
    let grace = dns["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > read.lameduck.as_secs(), "killed in its lameduck time");
}

#[test]
fn the_dns_service_leads_to_the_dns_pods() {
    let (config, dns, service) = (settings(), object("DaemonSet", "bowline-dns"), object("Service", "kube-dns"));
    let labels = dns["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels["k8s-app"], "kube-dns");
    for (label, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(labels.get(label), Some(value));
    }
    for address in words(&service["spec"]["clusterIPs"]) {
        let ip: std::net::IpAddr = address.parse().unwrap();
        assert!(config.service_cidrs.iter().any(|cidr| cidr.contains(&ip)), "{ip}");
    }
    let named: BTreeSet<&str> = container(&dns)["ports"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    for port in service["spec"]["ports"].as_array().unwrap() {
        assert!(named.contains(port["targetPort"].as_str().unwrap()), "{port}");
    }
}

#[test]
fn the_account_may_do_what_the_agent_does_and_nothing_else() {
    fn of<T: Watchable>() -> (Kind, String) {
        (T::KIND, format!("{}/{}", T::GROUP, T::PLURAL))
    }
    let watched = [
        of::<Node>(),
        of::<Namespace>(),
        of::<Pod>(),
        of::<Service>(),
        of::<EndpointSlice>(),
        of::<NetworkPolicy>(),
        of::<ClusterNetworkPolicy>(),
        of::<ServiceCidr>(),
    ];
    assert_eq!(watched.iter().map(|(kind, _)| *kind).collect::<BTreeSet<_>>(), Kind::ALL.into(), "a kind more is watched: add it here");
    let mut wanted: BTreeSet<String> =
        watched.iter().flat_map(|(_, resource)| ["get", "list", "watch"].map(|verb| format!("{verb} {resource}"))).collect();
    wanted.extend(["get /nodes/status".to_owned(), "patch /nodes/status".to_owned()]);

    let role = object("ClusterRole", "bowline");
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                granted.extend(words(&rule["verbs"]).iter().map(|verb| format!("{verb} {group}/{resource}")));
            }
        }
    }
    assert_eq!(granted, wanted);
}

#[test]
fn accounts_and_names_agree() {
    let agent = object("DaemonSet", "bowline");
    let account = agent["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
    assert_eq!(object("ClusterRoleBinding", "bowline")["subjects"][0]["name"], account.as_str());
    object("ServiceAccount", &account);
    let policy = object("ValidatingAdmissionPolicy", "bowline-own-node");
    let whom = policy["spec"]["matchConditions"][0]["expression"].as_str().unwrap();
    assert!(whom.contains(&format!("\"system:serviceaccount:kube-system:{account}\"")), "{whom}");
    assert_eq!(object("ValidatingAdmissionPolicyBinding", "bowline-own-node")["spec"]["policyName"], policy["metadata"]["name"]);
    let dns = object("DaemonSet", "bowline-dns");
    object("ServiceAccount", dns["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap());
    for daemon_set in [&agent, &dns] {
        let labels = &daemon_set["spec"]["template"]["metadata"]["labels"];
        for (label, value) in daemon_set["spec"]["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(labels.get(label), Some(value));
        }
    }
    for object in objects(BOWLINE).iter().chain(&objects(UNINSTALL)) {
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_null() || namespace == "kube-system", "{object}");
    }
}

#[test]
fn every_container_runs_this_version_with_arguments_that_exist() {
    let image = format!("localhost/bowline:{}", env!("CARGO_PKG_VERSION"));
    let mut containers = 0;
    for object in objects(BOWLINE).iter().chain(&objects(UNINSTALL)).filter(|o| o["kind"] == "DaemonSet") {
        let spec = &object["spec"]["template"]["spec"];
        for container in ["initContainers", "containers"].iter().filter_map(|list| spec[list].as_array()).flatten() {
            assert_eq!(container["image"], image.as_str());
            let args = words(&container["args"]);
            let parsed = crate::Cli::try_parse_from(std::iter::once("bowline".to_owned()).chain(args.clone()));
            assert!(parsed.is_ok(), "{args:?}: {}", parsed.unwrap_err());
            assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
            containers += 1;
        }
    }
    assert_eq!(containers, 4);
}

#[test]
fn the_uninstaller_looks_where_the_installer_wrote() {
    let installed = object("DaemonSet", "bowline");
    let removed = objects(UNINSTALL).into_iter().next().unwrap();
    assert_eq!(host_path(&removed, std::path::Path::new("/sys/fs/bpf")), "/sys/fs/bpf");
    let config = settings();
    let args = words(&container(&removed)["args"]);
    for (flag, directory) in [
        ("--run-dir", &config.run_dir),
        ("--state-dir", &config.state_dir),
        ("--cni-conf-dir", &config.cni_conf_dir),
        ("--cni-bin-dir", &config.cni_bin_dir),
    ] {
        let given = args.iter().find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('=')).unwrap_or_else(|| panic!("{flag}"));
        let given = std::path::Path::new(given);
        // Either the directory itself is mounted, or the one above it.
        let own = mounts(&removed).iter().find_map(|(at, volume)| {
            let rest = given.strip_prefix(at).ok()?;
            let path = std::path::Path::new(volume["hostPath"]["path"].as_str()?).join(rest);
            Some(path.components().as_path().to_owned())
        });
        assert_eq!(own.unwrap().display().to_string(), host_path(&installed, directory), "{flag}");
    }
}

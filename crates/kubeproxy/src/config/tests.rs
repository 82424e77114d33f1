//! Files as people have them, and what is said of them.

use std::path::Path;

use super::*;

const KUBEADM: &str = include_str!("../../tests/data/kubeadm.yaml");
const DEFAULTS: &str = include_str!("../../tests/data/defaults.yaml");
const IPVS: &str = include_str!("../../tests/data/ipvs.yaml");
const INIT: &str = include_str!("../../tests/data/kubeadm-init.yaml");
const JSON: &str = include_str!("../../tests/data/full.json");

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn good(text: &str) -> Checked<Config> {
    Config::read("f.yaml", text).unwrap_or_else(|problem| panic!("{problem}"))
}

fn bad(rest: &str) -> Problem {
    Config::read("f.yaml", &format!("{HEAD}{rest}")).unwrap_err()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_kubeadm_and_kube_proxy_write_says_nothing_odd() {
    let kubeadm = good(KUBEADM);
    assert_eq!(kubeadm.problems, []);
    let config = kubeadm.value;
    assert_eq!(config.mode, KubeProxyMode::Default);
    assert_eq!(config.cluster_cidrs, nets(&["10.244.0.0/16"]));
    assert_eq!(config.node_port_addresses, NodePortAddresses::Networks(Vec::new()));
    assert_eq!(config.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!((config.healthz, config.metrics), (Config::default_healthz(), Config::default_metrics()));
    assert_eq!((config.node_name, config.oom_score_adj, config.bind_hard_fail), (None, None, false));
    assert_eq!(config.conntrack, Conntrack::default());

    let defaults = good(DEFAULTS);
    let said: Vec<&str> = defaults.problems.iter().map(|problem| problem.place.as_str()).collect();
    assert_eq!(said, ["f.yaml, line 29: iptables.localhostNodePorts"], "the one default that is not so here");
    assert_eq!(defaults.value, Config { cluster_cidrs: Vec::new(), kubeconfig: None, oom_score_adj: Some(-999), ..good(KUBEADM).value });
}

#[test]
fn every_field_has_its_meaning() {
    let Checked { value: config, problems } = good(INIT);
    assert_eq!(problems, []);
    assert_eq!(config.mode, KubeProxyMode::Nftables);
    assert_eq!(config.cluster_cidrs, nets(&["10.42.0.0/16", "fd42::/56"]));
    assert_eq!(config.node_port_addresses, NodePortAddresses::Primary, "kube-proxy's default with nftables");
    assert_eq!(config.healthz, "192.0.2.7:9999".parse().unwrap());
    assert_eq!(config.metrics, "0.0.0.0:10249".parse().unwrap());
    assert_eq!(config.node_name.as_deref(), Some("node-7.example"));
    assert_eq!((config.oom_score_adj, config.bind_hard_fail), (Some(-998), true));
    let expected = [
        ("net/netfilter/nf_conntrack_max", "262144"),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "9000"),
        ("net/netfilter/nf_conntrack_udp_timeout", "90"),
        ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
    ];
    assert_eq!(config.conntrack.sysctls(4), expected.map(|(key, value)| (key, value.to_owned())));
    assert_eq!(Conntrack::default().sysctls(2)[0].1, "131072", "the least");

    let json = good(JSON);
    assert_eq!(json.problems, []);
    assert_eq!(json.value.mode, KubeProxyMode::Iptables);
    assert_eq!(json.value.node_port_addresses, NodePortAddresses::Networks(nets(&["192.168.0.0/16", "fd00::/8"])));

    let primary = good(&format!("{HEAD}nodePortAddresses: [primary]\n"));
    assert_eq!(primary.value.node_port_addresses, NodePortAddresses::Primary);
    let v6 = good(&format!("{HEAD}bindAddress: \"::\"\n")).value;
    assert_eq!((v6.healthz.to_string(), v6.metrics.to_string()), ("[::]:10256".to_owned(), "[::1]:10249".to_owned()));
}

#[test]
fn what_says_nothing_is_named_once_with_its_reason() {
    let said: Vec<(String, String)> = good(IPVS).problems.into_iter().map(|problem| (problem.place, problem.why)).collect();
    let places: Vec<&str> = said.iter().map(|(place, _)| place.as_str()).collect();
    let expected = [
        "f.yaml, line 6: ipvs.scheduler",
        "f.yaml, line 7: ipvs.strictARP",
        "f.yaml, line 8: ipvs.excludeCIDRs",
        "f.yaml, line 10: iptables.masqueradeAll",
        "f.yaml, line 11: detectLocalMode",
        "f.yaml, line 13: detectLocal.bridgeInterface",
        "f.yaml, line 14: featureGates",
        "f.yaml, line 16: resourceContainer",
        "f.yaml, line 18: logging.verbosity",
        "f.yaml, line 19: showHiddenMetricsForVersion",
    ];
    assert_eq!(places, expected);
    assert!(said.iter().all(|(_, why)| !why.is_empty()), "{said:?}");
    let cased = good(&format!("{HEAD}clusterCidr: 10.0.0.0/8\n")).problems;
    assert!(cased[0].why.contains("`clusterCIDR` may be meant"), "{}", cased[0]);
}

#[test]
fn what_is_wrong_is_told_with_line_key_and_remedy() {
    for (rest, place, word) in [
        ("mode: kernelspace\n", "line 3: mode", "nftables"),
        ("mode: [nftables]\n", "line 3: mode", "a text"),
        ("clusterCIDR: 10.0.0.0/33\n", "line 3: clusterCIDR", "10.244.0.0/16"),
        ("clusterCIDR: 10.0.0.0/8,11.0.0.0/8\n", "line 3: clusterCIDR", "one of each family"),
        ("conntrack:\n  min: many\n", "line 4: conntrack.min", "whole number"),
        ("conntrack:\n  min: -1\n", "line 4: conntrack.min", "0 to"),
        ("conntrack:\n  tcpEstablishedTimeout: 3600\n", "line 4: conntrack.tcpEstablishedTimeout", "1h0m0s"),
        ("conntrack:\n  udpTimeout: -1s\n", "line 4: conntrack.udpTimeout", "30s"),
        ("conntrack: 5\n", "line 3: conntrack", "KEY: VALUE"),
        ("nodePortAddresses: 10.0.0.0/8\n", "line 3: nodePortAddresses", "list"),
        ("nodePortAddresses:\n- 10.0.0.0/8\n- primary\n", "line 5: nodePortAddresses", "alone"),
        ("nodePortAddresses:\n- 10.0.0.1\n", "line 4: nodePortAddresses", "primary"),
        ("healthzBindAddress: somewhere\n", "line 3: healthzBindAddress", "0.0.0.0:10256"),
        ("metricsBindAddress: 127.0.0.1:0\n", "line 3: metricsBindAddress", "10249"),
        ("bindAddress: here\n", "line 3: bindAddress", "0.0.0.0"),
        ("bindAddressHardFail: \"true\"\n", "line 3: bindAddressHardFail", "true or false"),
        ("oomScoreAdj: 1001\n", "line 3: oomScoreAdj", "-1000 to 1000"),
        ("detectLocalMode: Guess\n", "line 3: detectLocalMode", "ClusterCIDR"),
        ("featureGates: {A: 1}\n", "line 3: featureGates", "true or false"),
        ("mode: 'nftables\n", "line", "YAML"),
        ("mode: a\nmode: b\n", "line 4", "YAML"),
    ] {
        let problem = bad(rest);
        assert!(problem.place.contains(place) && problem.fix.contains(word), "{rest}\n{problem}");
        assert_eq!(problem.code.0, 1120);
    }
    let several = bad("mode: x\noomScoreAdj: a\n");
    assert!(several.place.ends_with("mode") && several.why.contains("line 4: oomScoreAdj"), "{several}");
}

#[test]
fn another_kind_or_version_is_refused() {
    let refused = |text: &str| Config::read("f.yaml", text).unwrap_err();
    for (text, place, what) in [
        ("", "f.yaml", "empty"),
        ("apiVersion: v1\nkind: ConfigMap\n", "line 2: kind", "`ConfigMap`"),
        ("mode: nftables\n", "line 1: kind", "no kind"),
        ("kind: KubeProxyConfiguration\n", "line 1: apiVersion", "no apiVersion"),
        ("kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1beta1\n", "line 2: apiVersion", "v1beta1"),
        ("- 1\n", "line 1: kind", "no kind"),
    ] {
        let problem = refused(text);
        assert!(problem.place.contains(place) && problem.what.contains(what) && !problem.fix.is_empty(), "{text}\n{problem}");
    }
    let twice = refused(&format!("{HEAD}---\n{HEAD}"));
    assert!(twice.place.contains("line 4"), "{twice}");
    let long = refused(&"#".repeat(MAX_BYTES + 1));
    assert!(long.what.contains("too long"), "{long}");
    let deep = refused(&"[".repeat(1000));
    assert!(!deep.why.is_empty(), "{deep}");
}

#[test]
fn times_are_read_as_go_writes_them() {
    let seconds = |text| parts::duration(text).map(|time| time.as_secs_f64());
    for (text, expected) in [("0", 0.0), ("0s", 0.0), ("1h0m0s", 3600.0), ("1.5m", 90.0), ("250ms", 0.25), ("1m30s", 90.0), ("+2s", 2.0)] {
        assert_eq!(seconds(text), Some(expected), "{text}");
    }
    for text in ["", "1", "s", "-1s", "1d", "1h 2m", ".s", "1..5s", "300000h3000000h", "9999999999999999999999h"] {
        assert_eq!(seconds(text), None, "{text}");
    }
}

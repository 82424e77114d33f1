//! What comes in from outside: each error code, and what is made of good input.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeMap;

use bowline_cni::config::{decode, fuzz_config};
use bowline_cni::env::{Variables, check_container_id, check_ifname};
use bowline_cni::plugin::run;
use bowline_cni::{CniError, CniResult, Invocation, NetworkConfig, Verb, code, fuzz_result};
use bowline_model::Protocol;
use expect_test::{Expect, expect};
use serde_json::{Value, json};

fn parse(config: &Value) -> Result<NetworkConfig, CniError> {
    let (document, version) = decode(config.to_string().as_bytes())?;
    NetworkConfig::parse(&document, version, Verb::Add)
}

fn good() -> Value {
    json!({"cniVersion": "1.1.0", "name": "bowline", "type": "bowline-cni"})
}

fn with(key: &str, value: Value) -> Value {
    let mut config = good();
    config.as_object_mut().unwrap().insert(key.to_owned(), value);
    config
}

fn check_error(config: &Value, expected: Expect) {
    let error = parse(config).unwrap_err();
    expected.assert_eq(&format!("{} {}", error.code, error.msg));
}

#[test]
fn wrong_configurations_name_their_field() {
    check_error(&json!([1]), expect!["6 network configuration: not a JSON object"]);
    check_error(&json!({"cniVersion": 1}), expect!["6 cniVersion: want a string, got 1"]);
    check_error(
        &json!({"cniVersion": "2.0.0"}),
        expect![[r#"1 incompatible CNI version "2.0.0": supported are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"#]],
    );
    check_error(&json!({}), expect!["7 name: missing"]);
    check_error(
        &with("name", json!("../../etc")),
        expect![[r#"7 name: want a letter or digit, then letters, digits, '_', '.', '-', got "../../etc""#]],
    );
    check_error(&with("Socket", json!("/x")), expect![[r#"2 unsupported field Socket: "/x""#]]);
    check_error(&with("stateDirs", json!("/x")), expect![[r#"2 unsupported field stateDirs: "/x""#]]);
    check_error(&with("socket", json!("x")), expect![[r#"7 socket: want an absolute path, got "x""#]]);
    check_error(&with("ipam", json!({"type": "host-local"})), expect![[r#"2 unsupported field ipam: {"type":"host-local"}"#]]);
    check_error(
        &with("runtimeConfig", json!({"infinibandGUID": "x"})),
        expect![[r#"2 unsupported field runtimeConfig.infinibandGUID: "x""#]],
    );
    check_error(
        &with("runtimeConfig", json!({"portMappings": [{"containerPort": 80}, {"hostPort": 70000, "containerPort": 80}]})),
        expect!["7 runtimeConfig.portMappings[1].hostPort: want a whole number from 0 to 65535, got 70000"],
    );
    check_error(
        &with("runtimeConfig", json!({"portMappings": [{"containerPort": 80, "protocol": "icmp"}]})),
        expect![[r#"7 runtimeConfig.portMappings[0].protocol: want tcp, udp or sctp, got "icmp""#]],
    );
    check_error(
        &with("runtimeConfig", json!({"mac": "01:00:00:00:00:01"})),
        expect![[r#"7 runtimeConfig.mac: want a unicast address like 02:00:00:00:00:01, got "01:00:00:00:00:01""#]],
    );
    check_error(
        &with("runtimeConfig", json!({"bandwidth": {"ingressBurst": 5}})),
        expect![[r#"7 runtimeConfig.bandwidth: want a rate with each burst, got {"ingressBurst":5}"#]],
    );
    check_error(
        &with("runtimeConfig", json!({"ipRanges": [[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}]]})),
        expect![[r#"7 runtimeConfig.ipRanges[0][0].rangeStart: want an address in 10.0.0.0/24, got "10.0.1.1""#]],
    );
    let error = parse(&with("prevResult", json!({"ips": [{"address": "x"}]}))).unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
    assert!(error.msg.starts_with("prevResult: "), "{error}");
}

#[test]
fn unknown_fields_of_others_are_left_alone() {
    parse(&with("kubernetes", json!({"kubeconfig": "/x"}))).unwrap();
    parse(&with("cni.dev/anything", json!(1))).unwrap();
}

#[test]
fn a_missing_version_means_the_oldest() {
    let config = parse(&json!({"name": "n"})).unwrap();
    assert_eq!(config.version.as_str(), "0.1.0");
    assert_eq!(config.socket.to_str(), Some("/run/bowline/cni.sock"));
    assert_eq!(config.connect_timeout_ms, 3000);
}

#[test]
fn capabilities_are_read() {
    let config = parse(&with(
        "runtimeConfig",
        json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "hostIP": "127.0.0.1"},
                {"hostPort": 0, "containerPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"},
            ],
            "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000},
            "ips": ["10.1.0.9/24", "fd00::9"],
            "mac": "02:00:00:00:00:AA",
            "dns": {"servers": ["10.43.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]},
            "ipRanges": [[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.9"}]],
        }),
    ))
    .unwrap()
    .runtime;
    let [first, second] = config.port_mappings.as_slice() else { panic!("two mappings") };
    assert_eq!((first.host_port, first.container_port, first.protocol), (Some(8080), 80, Protocol::Tcp));
    assert_eq!(first.host_ip, Some("127.0.0.1".parse().unwrap()));
    assert_eq!((second.host_port, second.protocol, second.host_ip), (None, Protocol::Udp, None));
    assert_eq!(config.bandwidth.unwrap().ingress_burst_bits, 2000);
    assert_eq!(config.ips, ["10.1.0.9", "fd00::9"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(config.mac.unwrap().to_string(), "02:00:00:00:00:aa");
    assert_eq!(config.dns.search, ["svc.cluster.local"]);
    assert_eq!(config.ip_ranges.len(), 1);
}

/// What containerd 1.6 sends: its structures have no names for JSON, so that Go writes those of the fields.
#[test]
fn capabilities_are_read_in_capitals_too() {
    let config = parse(&with(
        "runtimeConfig",
        json!({
            "portMappings": [{"HostPort": 54323, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "127.0.0.1"}],
            "bandwidth": {"IngressRate": 1000, "IngressBurst": 2000, "EgressRate": 0, "EgressBurst": 0},
            "dns": {"Servers": ["10.43.0.10"], "Searches": ["svc.cluster.local"], "Options": null},
            "ipRanges": [[{"Subnet": "10.1.0.0/24", "RangeStart": "10.1.0.5", "RangeEnd": "", "Gateway": ""}]],
        }),
    ))
    .unwrap()
    .runtime;
    let [mapping] = config.port_mappings.as_slice() else { panic!("one mapping") };
    assert_eq!((mapping.host_port, mapping.container_port, mapping.protocol), (Some(54323), 8080, Protocol::Tcp));
    assert_eq!(mapping.host_ip, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(config.bandwidth.unwrap().ingress_rate_bits, 1000);
    assert_eq!((config.dns.nameservers.len(), config.dns.search.len()), (1, 1));
    assert_eq!(config.ip_ranges[0][0].start, Some("10.1.0.5".parse().unwrap()));
}

#[test]
fn the_runtime_goes_before_older_ways_of_asking() {
    let mut config = with("args", json!({"cni": {"ips": ["10.0.0.7"], "mac": "02:00:00:00:00:07"}}));
    assert_eq!(parse(&config).unwrap().runtime.ips, ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]);
    config["runtimeConfig"] = json!({"ips": ["10.0.0.8"]});
    let runtime = parse(&config).unwrap().runtime;
    assert_eq!(runtime.ips, ["10.0.0.8".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(runtime.mac.unwrap().to_string(), "02:00:00:00:00:07");
}

#[test]
fn valid_attachments_missing_is_not_empty() {
    let gc = |config: &Value| {
        let (document, version) = decode(config.to_string().as_bytes()).unwrap();
        NetworkConfig::parse(&document, version, Verb::Gc).map(|c| c.valid_attachments)
    };
    assert_eq!(gc(&good()).unwrap(), None);
    assert_eq!(gc(&with("cni.dev/valid-attachments", Value::Null)).unwrap(), Some(vec![]));
    let one = json!([{"containerID": "a", "ifname": "eth0"}]);
    assert_eq!(gc(&with("cni.dev/valid-attachments", one.clone())).unwrap().unwrap().len(), 1);
    assert_eq!(gc(&with("cni.dev/attachments", one)).unwrap().unwrap().len(), 1);
    let bad = json!([{"containerID": "../a", "ifname": "eth0"}]);
    let error = gc(&with("cni.dev/valid-attachments", bad)).unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
}

#[test]
fn del_needs_nothing_but_names() {
    let mut config = with("runtimeConfig", json!({"nonsense": 1}));
    config["prevResult"] = json!("broken");
    let (document, version) = decode(config.to_string().as_bytes()).unwrap();
    assert!(NetworkConfig::parse(&document, version, Verb::Add).is_err());
    NetworkConfig::parse(&document, version, Verb::Del).unwrap();
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

const ADD: [(&str, &str); 4] = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "abc"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/a")];

fn check_environment(change: (&str, &str), expected: Expect) {
    let mut vars = variables(&ADD);
    vars.insert(change.0.to_owned(), change.1.to_owned());
    let error = Invocation::parse(&vars).unwrap_err();
    assert_eq!(error.code, code::INVALID_ENVIRONMENT);
    expected.assert_eq(&error.msg);
}

#[test]
fn wrong_environments_name_their_variable() {
    check_environment(("CNI_COMMAND", "add"), expect![[r#"invalid CNI_COMMAND="add": want one of ADD, DEL, CHECK, GC, STATUS, VERSION"#]]);
    check_environment(("CNI_NETNS", ""), expect!["required environment variables missing: CNI_NETNS"]);
    check_environment(
        ("CNI_IFNAME", "a/b"),
        expect![[r#"invalid CNI_IFNAME="a/b": want 1 to 15 bytes, not . or .., without / : % and blanks"#]],
    );
    check_environment(
        ("CNI_CONTAINERID", "../x"),
        expect![[
            r#"invalid CNI_CONTAINERID="../x": want a letter or digit first, then letters, digits, '_', '.', '-', at most 190 in all"#
        ]],
    );
    check_environment(
        ("CNI_ARGS", "K8S_POD_NAME"),
        expect![[r#"invalid CNI_ARGS="K8S_POD_NAME": want KEY=VALUE pairs with ; between them"#]],
    );
    check_environment(
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=$(reboot)"),
        expect![[r#"invalid CNI_ARGS="$(reboot)": want K8S_POD_NAMESPACE and K8S_POD_NAME to be DNS names"#]],
    );
    check_environment(("CNI_ARGS", "IP=x"), expect![[r#"invalid CNI_ARGS="x": want IP to be an address"#]]);
}

#[test]
fn missing_variables_are_named_all() {
    let error = Invocation::parse(&variables(&[("CNI_COMMAND", "CHECK")])).unwrap_err();
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(error.msg.contains(name), "{error}");
    }
    Invocation::parse(&variables(&[("CNI_COMMAND", "STATUS")])).unwrap();
}

#[test]
fn the_pod_is_read_from_the_arguments() {
    let mut vars = variables(&ADD);
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=1-2;K8S_POD_INFRA_CONTAINER_ID=abc";
    vars.insert("CNI_ARGS".into(), args.into());
    let pod = Invocation::parse(&vars).unwrap().pod.unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()), ("shop", "web-1", Some("1-2")));
}

#[test]
fn names_are_strict() {
    for good in ["a", "0", "abc_def.ghi-jkl", &"a".repeat(190)] {
        check_container_id(good).unwrap();
    }
    for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "a\0b", "ä", "a@b", &"a".repeat(191)] {
        assert!(check_container_id(bad).is_err(), "{bad:?}");
    }
    for good in ["eth0", "a.b-c_d@e"] {
        check_ifname(good).unwrap();
    }
    for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a%d", "sixteen-letters-"] {
        assert!(check_ifname(bad).is_err(), "{bad:?}");
    }
}

fn call(vars: &[(&str, &str)], stdin: &str) -> (u8, Value) {
    let outcome = run(&variables(vars), &mut stdin.as_bytes());
    (outcome.status, serde_json::from_str(&outcome.stdout).unwrap_or(Value::Null))
}

#[test]
fn version_answers_whatever_it_is_given() {
    let (status, report) = call(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion": "0.4.0"}"#);
    assert_eq!((status, &report["cniVersion"]), (0, &json!("0.4.0")));
    assert_eq!(report["supportedVersions"], json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
    assert_eq!(call(&[("CNI_COMMAND", "VERSION")], "").0, 0);
}

#[test]
fn without_a_command_it_introduces_itself() {
    let outcome = run(&BTreeMap::new(), &mut "".as_bytes());
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, ""));
    assert!(outcome.stderr.contains("0.1.0, 0.2.0"), "{}", outcome.stderr);
}

#[test]
fn an_error_is_told_in_the_version_of_the_configuration() {
    let (status, error) = call(&[("CNI_COMMAND", "CHECK")], r#"{"cniVersion": "0.4.0", "name": "n"}"#);
    assert_eq!((status, &error["cniVersion"], &error["code"]), (1, &json!("0.4.0"), &json!(4)));
    let (_, error) = call(&ADD, "{");
    assert_eq!((&error["cniVersion"], &error["code"]), (&json!("1.1.0"), &json!(6)));
}

#[test]
fn verbs_that_a_version_does_not_have_are_refused() {
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        let mut vars = ADD.to_vec();
        vars.push(("CNI_COMMAND", verb));
        let config = json!({"cniVersion": version, "name": "n"}).to_string();
        let (status, error) = call(&vars, &config);
        assert_eq!((status, &error["code"]), (1, &json!(1)), "{verb} {version}");
    }
}

#[test]
fn a_path_that_is_no_namespace_is_refused() {
    for path in ["/etc/passwd", "/nonexistent", "/proc/self/ns/net"] {
        let mut vars = ADD.to_vec();
        vars.push(("CNI_NETNS", path));
        let (status, error) = call(&vars, &good().to_string());
        assert_eq!((status, &error["code"]), (1, &json!(4)), "{path}: {error}");
        assert!(error["msg"].as_str().unwrap().contains("CNI_NETNS"), "{error}");
    }
}

/// Xorshift: small, and the same cases on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// 100,000 times a seed with random damage, or random bytes.
fn damaged(seeds: &[String], case: impl Fn(&[u8])) {
    let pieces: [&[u8]; 14] = [
        b"null",
        b"{}",
        b"[]",
        b"\"\"",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"\"../..\"",
        b"\\u0000",
        b"\"",
        b"{",
        b"}",
        b"\"::/129\"",
        b"0.1.0",
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..100_000_usize {
        let mut bytes = match seeds.get(number % (seeds.len() + 1)) {
            Some(seed) => seed.clone().into_bytes(),
            None => (0..random.below(64)).map(|_| random.next().to_le_bytes()[0]).collect(),
        };
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            let end = (at + random.below(8)).min(bytes.len());
            let piece = pieces.get(random.below(pieces.len())).copied().unwrap_or_default();
            match random.below(3) {
                0 => drop(bytes.splice(at..end, piece.iter().copied())),
                1 => drop(bytes.drain(at..end)),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b = b.wrapping_add(1)),
            }
        }
        case(&bytes);
    }
}

#[test]
fn no_configuration_makes_it_panic() {
    let seeds = [
        good().to_string(),
        json!({"cniVersion": "0.2.0", "name": "n", "prevResult": {"ip4": {"ip": "10.0.0.1/24", "routes": null}}}).to_string(),
        json!({"cniVersion": "1.0.0", "name": "n", "runtimeConfig": {
            "portMappings": [{"hostPort": 1, "containerPort": 2, "protocol": "tcp", "hostIP": "::1"}],
            "bandwidth": {"ingressRate": 1, "ingressBurst": 1}, "ips": ["10.0.0.1/8"], "mac": "02:00:00:00:00:01",
            "dns": {"servers": ["1.1.1.1"]}, "ipRanges": [[{"subnet": "10.0.0.0/8", "rangeStart": "10.0.0.1"}]]},
            "args": {"cni": {"ips": ["::1"]}}, "prevResult": {"interfaces": [{"name": "a", "mtu": 5}],
            "ips": [{"address": "10.0.0.1/8", "interface": 0, "version": "4"}], "routes": [{"dst": "::/0", "mtu": 3}],
            "dns": {"nameservers": ["x"]}}, "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "b"}]})
        .to_string(),
    ];
    damaged(&seeds, fuzz_config);
}

/// The seeds of the fuzz target `cni_result`.
const RESULTS: [&str; 3] = [
    include_str!("../../../fuzz/seeds/cni_result/new"),
    include_str!("../../../fuzz/seeds/cni_result/old"),
    include_str!("../../../fuzz/seeds/cni_result/empty"),
];

#[test]
fn no_result_makes_it_panic() {
    damaged(&RESULTS.map(str::to_owned), fuzz_result);
}

#[test]
fn seeds_are_good_results() {
    for seed in RESULTS {
        let result = CniResult::parse(&serde_json::from_str(seed).unwrap()).unwrap();
        assert_eq!(result.ips.len(), if result.ips.is_empty() { 0 } else { 2 }, "{result:?}");
    }
}

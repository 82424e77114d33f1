//! The shape of a result in every version, chaining, and what CHECK takes for a difference.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use bowline_cni::{CniResult, Dns, Interface, IpConfig, Route, Version, code};
use expect_test::{Expect, expect};
use serde_json::{Value, json};

fn pod_result() -> CniResult {
    let interface = |name: &str, mac: &str, sandbox: Option<&str>| Interface {
        name: name.into(),
        mac: mac.into(),
        mtu: Some(1450),
        sandbox: sandbox.map(str::to_owned),
        ..Interface::default()
    };
    let ip = |address: &str, gateway: &str| IpConfig {
        interface: Some(1),
        address: address.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
    };
    CniResult {
        interfaces: vec![interface("bwl1", "02:00:00:00:00:01", None), interface("eth0", "02:00:00:00:00:02", Some("/run/netns/a"))],
        ips: vec![ip("10.1.0.5/32", "169.254.1.1"), ip("fd00:1::5/128", "fe80::1")],
        routes: vec![
            Route { mtu: Some(1450), ..Route::via("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap()) },
            Route::via("::/0".parse().unwrap(), "fe80::1".parse().unwrap()),
        ],
        dns: Dns { nameservers: vec!["10.43.0.10".into()], ..Dns::default() },
    }
}

fn check_shape(version: Version, expected: Expect) {
    expected.assert_eq(&pod_result().render(version).to_string());
}

#[test]
fn shapes_by_version() {
    let legacy = expect![[
        r#"{"cniVersion":"0.1.0","dns":{"nameservers":["10.43.0.10"]},"ip4":{"gateway":"169.254.1.1","ip":"10.1.0.5/32","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]},"ip6":{"gateway":"fe80::1","ip":"fd00:1::5/128","routes":[{"dst":"::/0","gw":"fe80::1"}]}}"#
    ]];
    check_shape(Version::V0_1_0, legacy);
    check_shape(
        Version::V0_2_0,
        expect![[
            r#"{"cniVersion":"0.2.0","dns":{"nameservers":["10.43.0.10"]},"ip4":{"gateway":"169.254.1.1","ip":"10.1.0.5/32","routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"}]},"ip6":{"gateway":"fe80::1","ip":"fd00:1::5/128","routes":[{"dst":"::/0","gw":"fe80::1"}]}}"#
        ]],
    );
    let middle = |version: &str| {
        let body = r#"{"cniVersion":"VERSION","dns":{"nameservers":["10.43.0.10"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"bwl1"},{"mac":"02:00:00:00:00:02","name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.1.0.5/32","gateway":"169.254.1.1","interface":1,"version":"4"},{"address":"fd00:1::5/128","gateway":"fe80::1","interface":1,"version":"6"}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#;
        body.replace("VERSION", version)
    };
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
        assert_eq!(pod_result().render(version).to_string(), middle(version.as_str()));
    }
    check_shape(
        Version::V1_0_0,
        expect![[
            r#"{"cniVersion":"1.0.0","dns":{"nameservers":["10.43.0.10"]},"interfaces":[{"mac":"02:00:00:00:00:01","name":"bwl1"},{"mac":"02:00:00:00:00:02","name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.1.0.5/32","gateway":"169.254.1.1","interface":1},{"address":"fd00:1::5/128","gateway":"fe80::1","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"},{"dst":"::/0","gw":"fe80::1"}]}"#
        ]],
    );
    check_shape(
        Version::V1_1_0,
        expect![[
            r#"{"cniVersion":"1.1.0","dns":{"nameservers":["10.43.0.10"]},"interfaces":[{"mac":"02:00:00:00:00:01","mtu":1450,"name":"bwl1"},{"mac":"02:00:00:00:00:02","mtu":1450,"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"address":"10.1.0.5/32","gateway":"169.254.1.1","interface":1},{"address":"fd00:1::5/128","gateway":"fe80::1","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1","mtu":1450},{"dst":"::/0","gw":"fe80::1"}]}"#
        ]],
    );
}

#[test]
fn a_rendered_result_is_read_back() {
    for version in Version::SUPPORTED {
        let read = CniResult::parse(&pod_result().render(version)).unwrap();
        let addresses = |result: &CniResult| -> Vec<String> { result.ips.iter().map(|ip| ip.address.to_string()).collect() };
        assert_eq!(addresses(&read), addresses(&pod_result()), "{version}");
        assert_eq!(read.routes.len(), 2, "{version}");
    }
    assert_eq!(CniResult::parse(&pod_result().render(Version::V1_1_0)).unwrap(), pod_result());
}

#[test]
fn go_writes_null_for_nothing() {
    let value = json!({"interfaces": null, "ips": null, "routes": null, "dns": {}});
    assert_eq!(CniResult::parse(&value).unwrap(), CniResult::default());
}

#[test]
fn a_result_that_points_outside_itself_is_refused() {
    let value = json!({"ips": [{"address": "10.0.0.1/24", "interface": 3}]});
    let error = CniResult::parse(&value).unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
    assert!(error.msg.contains("ips[0].interface"), "{error}");
}

#[test]
fn results_add_up_in_a_chain() {
    let before = CniResult::parse(&json!({
        "interfaces": [{"name": "br0"}],
        "ips": [{"address": "192.168.0.2/24", "interface": 0}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1450}],
        "dns": {"nameservers": ["1.1.1.1"]},
    }))
    .unwrap();
    let merged = pod_result().after(Some(before.clone())).render(Version::V1_0_0);
    let names: Vec<&Value> = merged["interfaces"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["br0", "bwl1", "eth0"]);
    let places: Vec<&Value> = merged["ips"].as_array().unwrap().iter().map(|i| &i["interface"]).collect();
    assert_eq!(places, [&json!(0), &json!(2), &json!(2)]);
    assert_eq!(merged["routes"].as_array().unwrap().len(), 2, "the same route is not listed twice");
    assert_eq!(merged["dns"]["nameservers"], json!(["10.43.0.10"]));
    assert_eq!(CniResult::default().after(Some(before.clone())), before, "adding nothing changes nothing");
}

fn check_check(change: impl Fn(&mut CniResult), expected: Option<&str>) {
    let mut found = pod_result();
    change(&mut found);
    let outcome = found.check_against(&pod_result(), "eth0");
    match expected {
        None => outcome.unwrap(),
        Some(part) => {
            let error = outcome.unwrap_err();
            assert_eq!(error.code, code::CHECK_FAILED);
            assert!(error.msg.contains(part), "{error}");
        }
    }
}

#[test]
fn check_names_the_difference() {
    check_check(|_| {}, None);
    check_check(|found| found.ips.truncate(1), Some("lost address fd00:1::5"));
    check_check(
        |found| found.interfaces.iter_mut().for_each(|i| i.mac = "02:00:00:00:00:ff".into()),
        Some("bwl1: MAC was 02:00:00:00:00:01"),
    );
    check_check(|found| found.interfaces.iter_mut().for_each(|i| i.name.push('x')), Some("bwl1x is not in prevResult"));
    check_check(
        |found| found.ips.iter_mut().for_each(|ip| ip.address = "10.9.9.9/32".parse().unwrap()),
        Some("10.9.9.9/32 is not in prevResult"),
    );
    // Chained under another plugin, the interface is that one's.
    check_check(|found| *found = CniResult::default(), None);
}

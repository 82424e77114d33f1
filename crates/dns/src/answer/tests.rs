//! Questions and their answers, in both families. The world is small and fixed; the tables follow the specification's
//! sections and the cases that CoreDNS holds itself to.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::sync::Arc;

use bowline_model::intent::dns::DnsIntent;
use bowline_model::{Protocol, ServiceName};

use super::*;

fn ports(text: &str) -> Vec<DnsPort> {
    let port = |word: &str| {
        let (name, number) = word.split_once('=').unwrap();
        let (name, protocol) = name.split_once('/').unwrap();
        let name = (!name.is_empty()).then(|| name.to_owned());
        DnsPort { name, protocol: protocol.parse::<Protocol>().unwrap(), port: number.parse().unwrap() }
    };
    text.split_whitespace().map(port).collect()
}

/// `ADDRESS[=HOSTNAME][@POD]`.
fn endpoint(word: &str, ports: &[DnsPort]) -> DnsEndpoint {
    let (word, pod) = word.split_once('@').map_or((word, None), |(word, pod)| (word, Some(pod.to_owned())));
    let (ip, hostname) = word.split_once('=').map_or((word, None), |(ip, name)| (ip, Some(name.to_owned())));
    DnsEndpoint { ip: ip.parse().unwrap(), hostname, pod, node: None, ports: ports.to_vec() }
}

fn world() -> DnsIntent {
    let mut intent = DnsIntent::default();
    let mut add = |name: &str, kind: DnsKind, service_ports: &str, endpoints: &str| {
        let ports = ports(service_ports);
        let endpoints = endpoints.split_whitespace().map(|word| endpoint(word, &ports)).collect();
        intent.services.insert(ServiceName::new("testns", name), Arc::new(DnsService { kind, ports, endpoints }));
    };
    let vip = |ips: &str| DnsKind::ClusterIp(ips.split_whitespace().map(|ip| ip.parse().unwrap()).collect());
    add("svc1", vip("10.0.0.1"), "http/tcp=80", "172.0.0.1=ep1a");
    add("svc6", vip("1234:abcd::1"), "http/tcp=80", "");
    add("dual", vip("10.0.0.3 10::3"), "http/tcp=80", "");
    add("empty", vip("10.0.0.4"), "http/tcp=80", "");
    add("portless", vip("10.0.0.5"), "", "");
    add("mixed", vip("10.0.0.6"), "dns/udp=53 dns-tcp/tcp=53 /sctp=99", "");
    add("hdls1", DnsKind::Headless, "http/tcp=80", "172.0.0.2 172.0.0.3 172.0.0.4=dup-name 172.0.0.5=dup-name 5678:abcd::1 5678:abcd::2");
    add("hdlsprtls", DnsKind::Headless, "", "172.0.0.20");
    add("hdlsnone", DnsKind::Headless, "http/tcp=80", "");
    add("sts", DnsKind::Headless, "web/tcp=8080", "172.0.0.30@web-0 fd00:1::@web-1");
    add("external", DnsKind::ExternalName("Ext.interwebs.test".to_owned()), "http/tcp=80", "");
    add("to-svc1", DnsKind::ExternalName("svc1.testns.svc.cluster.local.".to_owned()), "", "");
    add("external-ip", DnsKind::ExternalName("10.9.9.9".to_owned()), "", "");
    intent.namespaces.extend(["testns", "bare"].map(Arc::from));
    intent.pods.insert("10.240.0.1".parse().unwrap(), "testns".into());
    intent.pods.insert("fd00::7".parse().unwrap(), "testns".into());
    intent
}

fn options() -> KubernetesOptions {
    let zones = ["cluster.local", "0.10.in-addr.arpa", "0.0.172.in-addr.arpa", "ip6.arpa"];
    KubernetesOptions::new(zones.map(|zone| name::parse(zone).unwrap()).to_vec())
}

fn show(reply: &Reply) -> String {
    let soa = |record: &Record| matches!(record.data(), Data::Soa(_));
    let line = |section: &str, record: &Record| {
        if section == "authority" && soa(record) {
            return format!("SOA {}", name::display(record.owner()));
        }
        let text = format!("{} {} {} {}", name::display(record.owner()), record.ttl().as_secs(), record.rtype(), record.data());
        if section == "additional" { format!("+ {text}") } else { text }
    };
    let mut lines = vec![format!("{}{}", reply.rcode, if reply.aa { " aa" } else { "" })];
    lines.extend(reply.answer.iter().map(|record| line("answer", record)));
    lines.extend(reply.authority.iter().map(|record| line("authority", record)));
    lines.extend(reply.additional.iter().map(|record| line("additional", record)));
    lines.join("\n")
}

fn ask(options: &KubernetesOptions, intent: Option<DnsIntent>, question: &str) -> String {
    let (asked, rtype) = question.split_once(' ').unwrap();
    let index = intent.map(DnsIndex::new);
    let facts = Facts { index: index.as_ref(), serial: 7, local: Some("10.0.0.250".parse().unwrap()) };
    let query = Query::new(name::parse(asked).unwrap(), rtype.parse().unwrap());
    match answer(options, facts, &query) {
        Answer::NotOurs => "not ours".to_owned(),
        Answer::Reply(reply) => show(&reply),
        Answer::NoName(reply) => format!("? {}", show(&reply)),
        Answer::Alias(reply, target) => format!("{}\n-> {}", show(&reply), name::display(&target)),
    }
}

#[track_caller]
fn check(question: &str, expected: &[&str]) {
    check_with(&options(), question, expected);
}

#[track_caller]
fn check_with(options: &KubernetesOptions, question: &str, expected: &[&str]) {
    assert_eq!(ask(options, Some(world()), question), expected.join("\n"), "{question}");
}

const NODATA: &[&str] = &["NOERROR aa", "SOA cluster.local."];
const NXDOMAIN: &[&str] = &["? NXDOMAIN aa", "SOA cluster.local."];

#[test]
fn services_have_their_addresses() {
    check("svc1.testns.svc.cluster.local A", &["NOERROR aa", "svc1.testns.svc.cluster.local. 5 A 10.0.0.1"]);
    check("SVC1.TestNS.svc.Cluster.local A", &["NOERROR aa", "svc1.testns.svc.cluster.local. 5 A 10.0.0.1"]);
    check("svc6.testns.svc.cluster.local AAAA", &["NOERROR aa", "svc6.testns.svc.cluster.local. 5 AAAA 1234:abcd::1"]);
    check("dual.testns.svc.cluster.local A", &["NOERROR aa", "dual.testns.svc.cluster.local. 5 A 10.0.0.3"]);
    check("dual.testns.svc.cluster.local AAAA", &["NOERROR aa", "dual.testns.svc.cluster.local. 5 AAAA 10::3"]);
    check(
        "dual.testns.svc.cluster.local ANY",
        &["NOERROR aa", "dual.testns.svc.cluster.local. 5 A 10.0.0.3", "dual.testns.svc.cluster.local. 5 AAAA 10::3"],
    );
    check("portless.testns.svc.cluster.local A", &["NOERROR aa", "portless.testns.svc.cluster.local. 5 A 10.0.0.5"]);
    check("empty.testns.svc.cluster.local A", &["NOERROR aa", "empty.testns.svc.cluster.local. 5 A 10.0.0.4"]);
}

#[test]
fn what_is_not_there_is_denied() {
    for question in ["svc1.testns.svc.cluster.local AAAA", "svc6.testns.svc.cluster.local A", "svc1.testns.svc.cluster.local TXT"] {
        check(question, NODATA);
    }
    for question in ["svc1.testns.svc.cluster.local SOA", "svc1.testns.svc.cluster.local PTR", "portless.testns.svc.cluster.local SRV"] {
        check(question, NODATA);
    }
    for nothing in [
        "svc0.testns.svc.cluster.local A",
        "svc0.testns.svc.cluster.local TXT",
        "svc1.nons.svc.cluster.local AAAA",
        "nons.svc.cluster.local NS",
        "foo.cluster.local NS",
        "x.dns-version.cluster.local TXT",
        "bogus.hdls1.testns.svc.cluster.local A",
        "bogus.svc0.testns.svc.cluster.local A",
        "a.b.c.svc1.testns.svc.cluster.local A",
        "1.0.0.10.cluster.local PTR",
    ] {
        check(nothing, NXDOMAIN);
    }
    check("example.org A", &["not ours"]);
    check("svc1.testns.svc.cluster.local AXFR", &["REFUSED"]);
}

#[test]
fn names_between_exist() {
    for between in ["svc.cluster.local A", "pod.cluster.local A", "testns.svc.cluster.local A", "bare.svc.cluster.local NS"] {
        check(between, NODATA);
    }
    for between in ["_tcp.svc1.testns.svc.cluster.local SRV", "_udp.mixed.testns.svc.cluster.local A"] {
        check(between, NODATA);
    }
    check("_udp.svc1.testns.svc.cluster.local SRV", NXDOMAIN);
    check("_sctp.mixed.testns.svc.cluster.local SRV", NXDOMAIN);
}

#[test]
fn headless_services_are_their_endpoints() {
    check(
        "hdls1.testns.svc.cluster.local A",
        &[
            "NOERROR aa",
            "hdls1.testns.svc.cluster.local. 5 A 172.0.0.2",
            "hdls1.testns.svc.cluster.local. 5 A 172.0.0.3",
            "hdls1.testns.svc.cluster.local. 5 A 172.0.0.4",
            "hdls1.testns.svc.cluster.local. 5 A 172.0.0.5",
        ],
    );
    check(
        "hdls1.testns.svc.cluster.local AAAA",
        &["NOERROR aa", "hdls1.testns.svc.cluster.local. 5 AAAA 5678:abcd::1", "hdls1.testns.svc.cluster.local. 5 AAAA 5678:abcd::2"],
    );
    check("hdlsprtls.testns.svc.cluster.local A", &["NOERROR aa", "hdlsprtls.testns.svc.cluster.local. 5 A 172.0.0.20"]);
    check("hdlsnone.testns.svc.cluster.local A", NXDOMAIN);
    check("172-0-0-2.hdls1.testns.svc.cluster.local A", &["NOERROR aa", "172-0-0-2.hdls1.testns.svc.cluster.local. 5 A 172.0.0.2"]);
    check("172-0-0-2.hdls1.testns.svc.cluster.local AAAA", NODATA);
    check(
        "172-0-0-20.hdlsprtls.testns.svc.cluster.local A",
        &["NOERROR aa", "172-0-0-20.hdlsprtls.testns.svc.cluster.local. 5 A 172.0.0.20"],
    );
    check(
        "5678-abcd--1.hdls1.testns.svc.cluster.local AAAA",
        &["NOERROR aa", "5678-abcd--1.hdls1.testns.svc.cluster.local. 5 AAAA 5678:abcd::1"],
    );
    check("fd00-1--0.sts.testns.svc.cluster.local AAAA", &["NOERROR aa", "fd00-1--0.sts.testns.svc.cluster.local. 5 AAAA fd00:1::"]);
    check(
        "Dup-Name.hdls1.testns.svc.cluster.local A",
        &["NOERROR aa", "dup-name.hdls1.testns.svc.cluster.local. 5 A 172.0.0.4", "dup-name.hdls1.testns.svc.cluster.local. 5 A 172.0.0.5"],
    );
    check("ep1a.svc1.testns.svc.cluster.local A", &["NOERROR aa", "ep1a.svc1.testns.svc.cluster.local. 5 A 172.0.0.1"]);
}

#[test]
fn named_ports_have_srv_records() {
    let svc1 = ["NOERROR aa", "_http._tcp.svc1.testns.svc.cluster.local. 5 SRV 0 100 80 svc1.testns.svc.cluster.local"];
    check("_http._tcp.svc1.testns.svc.cluster.local SRV", &[svc1[0], svc1[1], "+ svc1.testns.svc.cluster.local. 5 A 10.0.0.1"]);
    check(
        "_HTTP._TCP.svc6.testns.svc.cluster.local SRV",
        &[
            "NOERROR aa",
            "_http._tcp.svc6.testns.svc.cluster.local. 5 SRV 0 100 80 svc6.testns.svc.cluster.local",
            "+ svc6.testns.svc.cluster.local. 5 AAAA 1234:abcd::1",
        ],
    );
    check(
        "dual.testns.svc.cluster.local SRV",
        &[
            "NOERROR aa",
            "dual.testns.svc.cluster.local. 5 SRV 0 50 80 dual.testns.svc.cluster.local",
            "+ dual.testns.svc.cluster.local. 5 A 10.0.0.3",
            "+ dual.testns.svc.cluster.local. 5 AAAA 10::3",
        ],
    );
    let srv = |host: &str| format!("_http._tcp.hdls1.testns.svc.cluster.local. 5 SRV 0 16 80 {host}.hdls1.testns.svc.cluster.local");
    let more = |host: &str, data: &str| format!("+ {host}.hdls1.testns.svc.cluster.local. 5 {data}");
    let lines = [
        "NOERROR aa".to_owned(),
        srv("172-0-0-2"),
        srv("172-0-0-3"),
        srv("dup-name"),
        srv("5678-abcd--1"),
        srv("5678-abcd--2"),
        more("172-0-0-2", "A 172.0.0.2"),
        more("172-0-0-3", "A 172.0.0.3"),
        more("dup-name", "A 172.0.0.4"),
        more("dup-name", "A 172.0.0.5"),
        more("5678-abcd--1", "AAAA 5678:abcd::1"),
        more("5678-abcd--2", "AAAA 5678:abcd::2"),
    ];
    check("_http._tcp.hdls1.testns.svc.cluster.local SRV", &lines.each_ref().map(String::as_str));
    check("_dns._udp.mixed.testns.svc.cluster.local A", &["NOERROR aa", "_dns._udp.mixed.testns.svc.cluster.local. 5 A 10.0.0.6"]);
    for wrong in ["_http._udp.svc1", "_https._tcp.svc1", "_dns._tcp.mixed", "_http._tcp.hdlsnone", "_http._tcp.external"] {
        check(&format!("{wrong}.testns.svc.cluster.local SRV"), NXDOMAIN);
    }
}

#[test]
fn external_names_are_aliases() {
    let cname = "external.testns.svc.cluster.local. 5 CNAME Ext.interwebs.test.";
    check("external.testns.svc.cluster.local CNAME", &["NOERROR aa", cname]);
    check("external.testns.svc.cluster.local AAAA", &["NOERROR aa", cname, "-> ext.interwebs.test."]);
    check(
        "to-svc1.testns.svc.cluster.local A",
        &["NOERROR aa", "to-svc1.testns.svc.cluster.local. 5 CNAME svc1.testns.svc.cluster.local.", "-> svc1.testns.svc.cluster.local."],
    );
    check("external-ip.testns.svc.cluster.local A", &["NOERROR aa", "external-ip.testns.svc.cluster.local. 5 A 10.9.9.9"]);
    check("x.external.testns.svc.cluster.local CNAME", NXDOMAIN);
}

#[test]
fn addresses_have_names() {
    let v6 = |ip: &str| name::display(&name::own(&domain::base::Name::<Vec<u8>>::reverse_from_addr(ip.parse().unwrap()).unwrap()));
    check("1.0.0.10.in-addr.arpa PTR", &["NOERROR aa", "1.0.0.10.in-addr.arpa. 5 PTR svc1.testns.svc.cluster.local."]);
    check(&format!("{} PTR", v6("10::3")), &["NOERROR aa", &format!("{} 5 PTR dual.testns.svc.cluster.local.", v6("10::3"))]);
    check("2.0.0.172.in-addr.arpa PTR", &["NOERROR aa", "2.0.0.172.in-addr.arpa. 5 PTR 172-0-0-2.hdls1.testns.svc.cluster.local."]);
    check("4.0.0.172.in-addr.arpa PTR", &["NOERROR aa", "4.0.0.172.in-addr.arpa. 5 PTR dup-name.hdls1.testns.svc.cluster.local."]);
    let endpoint = v6("5678:abcd::1");
    check(&format!("{endpoint} PTR"), &["NOERROR aa", &format!("{endpoint} 5 PTR 5678-abcd--1.hdls1.testns.svc.cluster.local.")]);
    let denied = ["? NXDOMAIN aa", "SOA 0.10.in-addr.arpa."];
    check("101.0.0.10.in-addr.arpa PTR", &denied);
    check("svc1.testns.svc.0.10.in-addr.arpa A", &denied);
    let exists = ["NOERROR aa", "SOA 0.10.in-addr.arpa."];
    check("1.0.0.10.in-addr.arpa A", &exists);
    check("0.0.10.in-addr.arpa PTR", &exists);
    check("1.0.1.10.in-addr.arpa PTR", &["not ours"]);
}

#[test]
fn the_apex_names_the_server() {
    check("cluster.local SOA", &["NOERROR aa", "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"]);
    check("cluster.local NS", &["NOERROR aa", "cluster.local. 5 NS ns.dns.cluster.local.", "+ ns.dns.cluster.local. 5 A 10.0.0.250"]);
    for other in ["cluster.local A", "cluster.local AAAA", "cluster.local SRV", "cluster.local HINFO", "dns.cluster.local A"] {
        check(other, NODATA);
    }
    check("ns.dns.cluster.local A", &["NOERROR aa", "ns.dns.cluster.local. 5 A 10.0.0.250"]);
    check("dns-version.cluster.local TXT", &["NOERROR aa", "dns-version.cluster.local. 28800 TXT \"1.1.0\""]);
    check("dns-version.cluster.local A", NODATA);
    let mut with_service = world();
    let service = DnsService { kind: DnsKind::ClusterIp(vec!["10.0.0.10".parse().unwrap()]), ports: vec![], endpoints: vec![] };
    with_service.services.insert(ServiceName::new("kube-system", "kube-dns"), Arc::new(service));
    let expected =
        "NOERROR aa\ncluster.local. 5 NS kube-dns.kube-system.svc.cluster.local.\n+ kube-dns.kube-system.svc.cluster.local. 5 A 10.0.0.10";
    assert_eq!(ask(&options(), Some(with_service), "cluster.local NS"), expected);
}

#[test]
fn pods_are_named_as_the_option_says() {
    let insecure = KubernetesOptions { pods: PodMode::Insecure, ..options() };
    let verified = KubernetesOptions { pods: PodMode::Verified, ..options() };
    let v4 = "10-240-0-1.testns.pod.cluster.local";
    let v6 = "fd00--7.testns.pod.cluster.local";
    check(&format!("{v4} A"), NXDOMAIN);
    check("testns.pod.cluster.local A", NXDOMAIN);
    for options in [&insecure, &verified] {
        check_with(options, &format!("{v4} A"), &["NOERROR aa", &format!("{v4}. 5 A 10.240.0.1")]);
        check_with(options, &format!("{v6} AAAA"), &["NOERROR aa", &format!("{v6}. 5 AAAA fd00::7")]);
        check_with(options, &format!("{v4} AAAA"), NODATA);
        check_with(options, "testns.pod.cluster.local A", NODATA);
        check_with(options, "nons.pod.cluster.local A", NXDOMAIN);
        check_with(options, "10-240-0-1.nons.pod.cluster.local A", NXDOMAIN);
        check_with(options, "podname.testns.pod.cluster.local A", NXDOMAIN);
        check_with(options, "x.10-240-0-1.testns.pod.cluster.local A", NXDOMAIN);
    }
    check_with(&insecure, "1-2-3-4.bare.pod.cluster.local A", &["NOERROR aa", "1-2-3-4.bare.pod.cluster.local. 5 A 1.2.3.4"]);
    check_with(&verified, "1-2-3-4.bare.pod.cluster.local A", NXDOMAIN);
    check_with(&verified, "10-240-0-1.bare.pod.cluster.local A", NXDOMAIN);
}

#[test]
fn options_change_answers() {
    let named = KubernetesOptions { endpoint_pod_names: true, ttl_secs: 30, ..options() };
    check_with(&named, "web-0.sts.testns.svc.cluster.local A", &["NOERROR aa", "web-0.sts.testns.svc.cluster.local. 30 A 172.0.0.30"]);
    check_with(&named, "172-0-0-30.sts.testns.svc.cluster.local A", NXDOMAIN);
    let without = KubernetesOptions { no_endpoints: true, ..options() };
    check_with(&without, "hdls1.testns.svc.cluster.local A", NXDOMAIN);
    check_with(&without, "2.0.0.172.in-addr.arpa PTR", &["? NXDOMAIN aa", "SOA 0.0.172.in-addr.arpa."]);
    let ignoring = KubernetesOptions { ignore_empty: true, ..options() };
    check_with(&ignoring, "empty.testns.svc.cluster.local A", NXDOMAIN);
    check_with(&ignoring, "svc1.testns.svc.cluster.local A", &["NOERROR aa", "svc1.testns.svc.cluster.local. 5 A 10.0.0.1"]);
    let limited = KubernetesOptions { namespaces: ["bare".to_owned()].into(), ..options() };
    check_with(&limited, "svc1.testns.svc.cluster.local A", NXDOMAIN);
    check_with(&limited, "bare.svc.cluster.local A", NODATA);
    check_with(&limited, "1.0.0.10.in-addr.arpa PTR", &["? NXDOMAIN aa", "SOA 0.10.in-addr.arpa."]);
}

#[test]
fn before_the_first_snapshot_nothing_is_denied() {
    assert_eq!(ask(&options(), None, "svc1.testns.svc.cluster.local A"), "SERVFAIL");
    assert_eq!(ask(&options(), None, "example.org A"), "not ours");
    assert_eq!(ask(&options(), Some(DnsIntent::default()), "svc1.testns.svc.cluster.local A"), NXDOMAIN.join("\n"));
}

//! Services case by case: objects in, frontends out. The oracle's opinion of each is held in `properties`.

use bowline_model::intent::services::{Frontend, FrontendAddress, WhenEmpty};

use crate::testing::notation::{settings, world};
use crate::world::Settings;
use crate::{Change, Compiler, World};

/// Two slices of shop/api: 10.42.1.2 and fd42:1::2 on n1, 10.42.2.2 on n2.
const SLICES: &str = "
    slice shop/api-4 of=api :http:8080/tcp 10.42.1.2@n1 10.42.2.2@n2
    slice shop/api-6 of=api :http:8080/tcp [fd42:1::2]@n1
";

fn show(frontend: &Frontend) -> String {
    let address = match frontend.address {
        FrontendAddress::Vip(ip) => ip.to_string(),
        FrontendAddress::NodePort(family) => format!("{family} node"),
    };
    let mut text = format!("{address} {}/{} ->", frontend.port, frontend.protocol);
    for endpoint in &frontend.endpoints {
        text.push_str(&format!(" {}:{}", endpoint.ip, endpoint.port));
    }
    if frontend.endpoints.is_empty() {
        text.push_str(if frontend.when_empty == WhenEmpty::Drop { " drop" } else { " reject" });
    }
    if let Some(own) = &frontend.own_endpoints {
        text.push_str(" own");
        own.iter().for_each(|endpoint| text.push_str(&format!(" {}:{}", endpoint.ip, endpoint.port)));
    }
    if let Some(sources) = &frontend.sources {
        text.push_str(&format!(" from {sources:?}"));
    }
    if let Some(seconds) = frontend.affinity_secs {
        text.push_str(&format!(" for {seconds}s"));
    }
    text
}

/// Checks the frontends of `shop/api`, one a line, in order.
fn check(objects: &str, expected: &str) {
    check_with(settings(), objects, expected, &[]);
}

fn check_with(settings: Settings, objects: &str, expected: &str, codes: &[u16]) {
    let mut world: World = world(&objects.replace(['[', ']'], ""));
    world.apply(Change::Settings(Box::new(settings)));
    let checked = Compiler::full(&world);
    let services = &checked.value.services.services;
    let api = services.iter().find(|(name, _)| name.to_string() == "shop/api");
    let got: Vec<String> = api.iter().flat_map(|(_, service)| &service.frontends).map(show).collect();
    let wanted: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(got, wanted, "of {objects}");
    let found: Vec<u16> = checked.problems.iter().map(|problem| problem.code.0).collect();
    assert_eq!(found, codes, "{:?} of {objects}", checked.problems);
}

#[test]
fn cluster_addresses() {
    check("svc shop/api 10.43.0.9 :http:80/tcp", "10.43.0.9 80/TCP -> reject");
    check(&format!("svc shop/api 10.43.0.9 :http:80/tcp {SLICES}"), "10.43.0.9 80/TCP -> 10.42.1.2:8080 10.42.2.2:8080");
    check(
        &format!("svc shop/api 10.43.0.9 fd43::9 :http:80/tcp {SLICES}"),
        "10.43.0.9 80/TCP -> 10.42.1.2:8080 10.42.2.2:8080
         fd43::9 80/TCP -> fd42:1::2:8080",
    );
    // Names and protocols of ports must agree.
    check(&format!("svc shop/api 10.43.0.9 :dns:80/tcp {SLICES}"), "10.43.0.9 80/TCP -> reject");
    check(&format!("svc shop/api 10.43.0.9 :http:80/udp {SLICES}"), "10.43.0.9 80/UDP -> reject");
    // Slices of another service or namespace are not its own.
    check(
        "svc shop/api 10.43.0.9 :http:80/tcp\nslice shop/b of=b :http:80/tcp 10.42.1.2\nslice other/api of=api :http:80/tcp 10.42.1.2",
        "10.43.0.9 80/TCP -> reject",
    );
    for none in [
        "None :http:80/tcp",
        ":http:80/tcp type=ExternalName name=a.example",
        ":http:80/tcp",
        "10.43.0.9 :http:80/tcp service.kubernetes.io/service-proxy-name=x",
        "10.43.0.9 :http:80/tcp service.kubernetes.io/headless=",
    ] {
        check(&format!("svc shop/api {none} {SLICES}"), "");
    }
}

#[test]
fn states_of_endpoints() {
    let check = |endpoints: &str, flags: &str, expected: &str| {
        let text = format!("svc shop/api 10.43.0.9 :http:80/tcp {flags}\nslice shop/api-4 of=api :http:80/tcp {endpoints}");
        check(&text, &format!("10.43.0.9 80/TCP -> {expected}"));
    };
    check("10.42.1.1 10.42.1.2!unready 10.42.1.3!draining 10.42.1.4!ready", "", "10.42.1.1:80 10.42.1.4:80");
    check("10.42.1.2!unready 10.42.1.3!draining 10.42.1.4!gone", "", "10.42.1.3:80");
    check("10.42.1.2!unready 10.42.1.4!gone", "", "reject");
    check("10.42.1.2!unready", "+unready", "10.42.1.2:80");
    check("10.42.1.2 10.42.1.2!unready 10.42.1.1", "", "10.42.1.1:80 10.42.1.2:80");
}

#[test]
fn traffic_policies() {
    let service = |flags: &str, endpoints: &str| {
        format!("svc shop/api 10.43.0.9 :http:80:30080/tcp type=NodePort {flags}\nslice shop/api-4 of=api :http:80/tcp {endpoints}")
    };
    let both = "10.42.1.2@n1 10.42.2.2@n2";
    check(&service("", both), "10.43.0.9 80/TCP -> 10.42.1.2:80 10.42.2.2:80\nIPv4 node 30080/TCP -> 10.42.1.2:80 10.42.2.2:80");
    check(&service("internal=Local", both), "10.43.0.9 80/TCP -> 10.42.1.2:80\nIPv4 node 30080/TCP -> 10.42.1.2:80 10.42.2.2:80");
    check(
        &service("external=Local", both),
        "10.43.0.9 80/TCP -> 10.42.1.2:80 10.42.2.2:80\nIPv4 node 30080/TCP -> 10.42.1.2:80 own 10.42.1.2:80 10.42.2.2:80",
    );
    // Others have endpoints, this node has none: drop. Nobody has: reject.
    check(
        &service("internal=Local external=Local", "10.42.2.2@n2"),
        "10.43.0.9 80/TCP -> drop\nIPv4 node 30080/TCP -> drop own 10.42.2.2:80",
    );
    check(&service("internal=Local external=Local", "10.42.2.2@n2!gone"), "10.43.0.9 80/TCP -> reject\nIPv4 node 30080/TCP -> reject");
    // A local endpoint that drains goes before ready ones elsewhere, where only local ones may be used.
    check(
        &service("external=Local", "10.42.1.2@n1!draining 10.42.2.2@n2"),
        "10.43.0.9 80/TCP -> 10.42.2.2:80\nIPv4 node 30080/TCP -> 10.42.1.2:80 own 10.42.2.2:80",
    );
    // Without a node name an endpoint is nobody's own.
    check(&service("external=Local", "10.42.1.2"), "10.43.0.9 80/TCP -> 10.42.1.2:80\nIPv4 node 30080/TCP -> drop own 10.42.1.2:80");
}

#[test]
fn hints_prefer_some_endpoints() {
    let check = |node: &str, flags: &str, endpoints: &str, expected: &str| {
        let text = format!(
            "node n1 192.168.0.1 cidr=10.42.1.0/24 {node}\nsvc shop/api 10.43.0.9 :http:80/tcp {flags}\nslice shop/api-4 of=api :http:80/tcp {endpoints}"
        );
        self::check(&text, &format!("10.43.0.9 80/TCP -> {expected}"));
    };
    let zones = "10.42.1.1@n1~za 10.42.2.2@n2~zb 10.42.3.3@n3~za.zb";
    check("zone=za", "", zones, "10.42.1.1:80 10.42.3.3:80");
    check("zone=zc", "", zones, "10.42.1.1:80 10.42.2.2:80 10.42.3.3:80");
    check("", "", zones, "10.42.1.1:80 10.42.2.2:80 10.42.3.3:80");
    // One ready endpoint without a hint is one that nobody would use: then all are used.
    check("zone=za", "", "10.42.1.1~za 10.42.2.2", "10.42.1.1:80 10.42.2.2:80");
    check("zone=za", "", "10.42.1.1~za 10.42.2.2!unready", "10.42.1.1:80");
    // The node goes before the zone; without an endpoint for the node the zone counts.
    check("zone=za", "", "10.42.1.1~za.n1 10.42.2.2~za.n2", "10.42.1.1:80");
    check("zone=za", "", "10.42.1.1~za.n3 10.42.2.2~zb.n2", "10.42.1.1:80");
    check("zone=za", "", "10.42.1.1~za.n1 10.42.2.2~za", "10.42.1.1:80 10.42.2.2:80");
    // Endpoints that only terminate are used wherever they are, and a local policy asks nobody.
    check("zone=za", "", "10.42.1.1!draining~za 10.42.2.2!draining~zb", "10.42.1.1:80 10.42.2.2:80");
    check("zone=za", "internal=Local", "10.42.1.1@n1~zb 10.42.2.2@n2~za", "10.42.1.1:80");
}

#[test]
fn load_balancers_are_told_of_ready_endpoints_here() {
    let told = |words: &str, endpoints: &str| {
        let text =
            format!("svc shop/api 10.43.0.9 :http:80/tcp type=LoadBalancer {words}\nslice shop/api-4 of=api :http:80/tcp {endpoints}");
        let services = Compiler::full(&world(&text)).value.services;
        services.health_checks.iter().map(|(port, check)| format!("{port} {} {}", check.service, check.local_endpoints)).collect::<Vec<_>>()
    };
    let endpoints = "10.42.1.1@n1 10.42.1.2@n1 10.42.1.3@n1!draining 10.42.1.4@n1!unready 10.42.2.2@n2";
    assert_eq!(told("external=Local health=31000", endpoints), ["31000 shop/api 2"]);
    assert_eq!(told("external=Local health=31000", "10.42.1.3@n1!draining 10.42.2.2@n2"), ["31000 shop/api 0"]);
    assert_eq!(told("external=Local health=31000 +unready", "10.42.1.4@n1!unready"), ["31000 shop/api 1"]);
    let dual = "10.42.1.1@n1\nslice shop/api-6 of=api :http:80/tcp fd42:1::1@n1 fd42:1::2@n1";
    assert_eq!(told("external=Local health=31000", dual), ["31000 shop/api 2"], "pods count, not addresses");
    assert_eq!(told("health=31000", endpoints), [""; 0], "all nodes answer alike");
    assert_eq!(told("external=Local", endpoints), [""; 0]);
}

#[test]
fn node_ports_and_affinity() {
    check(
        "svc shop/api 10.43.0.9 fd43::9 :http:80:30080/tcp type=NodePort affinity=60",
        "
        10.43.0.9 80/TCP -> reject for 60s
        fd43::9 80/TCP -> reject for 60s
        IPv4 node 30080/TCP -> reject for 60s
        IPv6 node 30080/TCP -> reject for 60s",
    );
    check("svc shop/api 10.43.0.9 :http:80:30080/tcp affinity=default", "10.43.0.9 80/TCP -> reject for 10800s");
    check(
        "svc shop/api 10.43.0.9 :http:80:30080/tcp type=LoadBalancer family=IPv4",
        "10.43.0.9 80/TCP -> reject\nIPv4 node 30080/TCP -> reject",
    );
    check_with(settings(), "svc shop/api 10.43.0.9 :http:80/tcp affinity=100000", "10.43.0.9 80/TCP -> reject for 10800s", &[3008]);
    check_with(settings(), "svc shop/api 10.43.0.9 :http:80/tcp :huge:70000/tcp", "10.43.0.9 80/TCP -> reject", &[3004]);
    check_with(settings(), "svc shop/api 10.43.0.9 nonsense 127.0.0.1 :http:80/tcp", "10.43.0.9 80/TCP -> reject", &[3003, 3003]);
}

#[test]
fn addresses_from_outside_need_leave() {
    let of = |words: &str| format!("node n1 192.168.0.1 cidr=10.42.1.0/24\nsvc shop/api 10.43.0.9 :http:80/tcp {words}");
    let own = "10.43.0.9 80/TCP -> reject";
    let with = |net: &str| {
        let mut settings = settings();
        settings.external_ips = vec![net.parse().unwrap()];
        settings.load_balancer_ips = settings.external_ips.clone();
        settings
    };
    check_with(settings(), &of("ext=203.0.113.1"), own, &[3002]);
    check_with(settings(), &of("type=LoadBalancer lb=203.0.113.1"), own, &[3002]);
    check_with(with("203.0.113.0/24"), &of("ext=203.0.113.1"), &format!("{own}\n203.0.113.1 80/TCP -> reject"), &[]);
    check_with(with("203.0.113.0/24"), &of("type=LoadBalancer lb=203.0.113.1"), &format!("{own}\n203.0.113.1 80/TCP -> reject"), &[]);
    // The status of a service that is no load balancer means nothing.
    check_with(with("203.0.113.0/24"), &of("lb=203.0.113.1"), own, &[]);
    let balanced = of("type=LoadBalancer lb=203.0.113.1 ranges=192.0.2.7/24 ranges=2001:db8::/32");
    check_with(with("203.0.113.0/24"), &balanced, &format!("{own}\n203.0.113.1 80/TCP -> reject from [192.0.2.0/24]"), &[]);
    // Nobody is let in by what cannot be read, and nobody by another family's ranges.
    for (range, code) in [("nonsense", &[3010][..]), ("2001:db8::/32", &[])] {
        let balanced = of(&format!("type=LoadBalancer lb=203.0.113.1 ext=203.0.113.2 ranges={range}"));
        let frontends = format!("{own}\n203.0.113.1 80/TCP -> reject from []\n203.0.113.2 80/TCP -> reject");
        check_with(with("203.0.113.0/24"), &balanced, &frontends, code);
    }
    // However wide the leave: not a node's address, not a pod's, not a service's.
    for address in ["192.168.0.1", "10.42.1.2", "10.43.0.10", "127.0.0.1"] {
        let code = if address == "127.0.0.1" { 3003 } else { 3002 };
        check_with(with("0.0.0.0/0"), &of(&format!("ext={address}")), own, &[code]);
    }
}

#[test]
fn the_older_service_keeps_what_two_want() {
    let api = "svc shop/api 10.43.0.9 :http:80:30080/tcp type=NodePort ^5";
    let all = "10.43.0.9 80/TCP -> reject\nIPv4 node 30080/TCP -> reject";
    check_with(settings(), &format!("{api}\nsvc a/younger 10.43.0.9 :x:80/tcp ^6"), all, &[3001]);
    check_with(settings(), &format!("{api}\nsvc z/older 10.43.0.9 :x:80/tcp ^4"), "IPv4 node 30080/TCP -> reject", &[3001]);
    check_with(settings(), &format!("{api}\nsvc a/same-age 10.43.0.9 :x:80/tcp ^5"), "IPv4 node 30080/TCP -> reject", &[3001]);
    check_with(
        settings(),
        &format!("{api}\nsvc z/older 10.43.0.8 :x:81:30080/tcp type=NodePort ^4"),
        "10.43.0.9 80/TCP -> reject",
        &[3001],
    );
    check_with(settings(), &format!("{api}\nsvc z/other 10.43.0.9 :x:80/udp ^4"), all, &[]);
    check_with(settings(), &format!("{api}\nsvc z/ageless 10.43.0.9 :x:80/tcp"), all, &[3001]);
    // An address that is claimed from outside gives way to one that was allocated, however young.
    let mut wide = settings();
    wide.service_cidrs.clear();
    wide.external_ips = vec!["0.0.0.0/0".parse().unwrap()];
    check_with(wide, &format!("{api}\nsvc z/older 10.99.0.1 :x:80/tcp ext=10.43.0.9 ^1"), all, &[3001]);
}

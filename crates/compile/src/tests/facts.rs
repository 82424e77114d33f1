//! The fabric, names, problems and what a change touches.

use std::sync::Arc;

use bowline_model::intent::dns::{DnsKind, DnsService};
use bowline_model::intent::policy::Action;
use serde_json::json;

use crate::testing::notation::{attach, changes, ifname, settings, upsert, world};
use crate::world::Object;
use crate::{Change, Compiler, Flow, Judge, Kind, Reason, World};

/// Checks the problems of a world, each as `CODE place: what`.
fn check_problems(objects: &str, expected: &[&str]) {
    let problems = Compiler::full(&world(objects)).problems;
    let got: Vec<String> = problems.iter().map(|p| format!("{} {}: {}", p.code, p.place, p.what)).collect();
    assert_eq!(got, expected, "of {objects}");
}

/// Checks the fabric: the local node, then the peers, each as `name id internal.. via subnets..`.
fn check_fabric(objects: &str, expected: &[&str]) {
    let routes = Compiler::full(&world(objects)).value.routes;
    let show = |node: &bowline_model::intent::routes::FabricNode| {
        let internal: Vec<String> = node.internal.values().map(ToString::to_string).collect();
        let subnets: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
        format!("{} {} {}", node.name, internal.join(" "), subnets.join(" "))
    };
    let got: Vec<String> = routes.local.iter().chain(routes.peers.values()).map(|node| show(node)).collect();
    assert_eq!(got, expected, "of {objects}");
}

#[test]
fn nodes_become_the_fabric() {
    check_fabric("", &[]);
    check_fabric(
        "node n1 192.168.0.1 fd00::1 192.168.9.9 cidr=10.42.1.0/24 cidr=fd42:1::/64\nnode n2 192.168.0.2 cidr=10.42.2.0/24",
        &["n1 192.168.0.1 fd00::1 10.42.1.0/24 fd42:1::/64", "n2 192.168.0.2 10.42.2.0/24"],
    );
    check_fabric("node n1 cidr=10.42.1.0/24\nnode n2 192.168.0.2\nnode n3 192.168.0.3 cidr=10.42.3.0/24", &["n3 192.168.0.3 10.42.3.0/24"]);
    // The older keeps what two claim; what else the other has stays its own.
    check_fabric(
        "node n1 192.168.0.1 cidr=10.42.0.0/16 cidr=fd42:1::/64 ^7\nnode n2 192.168.0.2 cidr=10.42.2.0/24 ^3",
        &["n1 192.168.0.1 fd42:1::/64", "n2 192.168.0.2 10.42.2.0/24"],
    );
    check_fabric("node n1 192.168.0.1 cidr=10.42.0.0/16 ^1\nnode n2 192.168.0.2 cidr=10.42.2.0/24 ^3", &["n1 192.168.0.1 10.42.0.0/16"]);
}

#[test]
fn node_ids_are_the_same_from_everywhere() {
    let names: Vec<String> = (0..600).map(|n| format!("node-{n}")).collect();
    let text = |local: &str| {
        let others = names
            .iter()
            .enumerate()
            .map(|(n, name)| format!("node {name} 192.168.{}.{} cidr=10.{}.{}.0/24\n", n / 200, 1 + n % 200, 100 + n / 200, n % 200));
        let mut world = world(&others.collect::<String>());
        world.apply(Change::Settings(Box::new(crate::Settings::new(local))));
        let routes = Compiler::full(&world).value.routes;
        let mut ids: Vec<_> =
            routes.local.iter().chain(routes.peers.values()).map(|node| (node.name.clone(), node.id, node.vtep_mac)).collect();
        ids.sort();
        ids
    };
    let (a, b) = (text("node-1"), text("node-7"));
    assert_eq!(a, b);
    let distinct: std::collections::BTreeSet<u16> = a.iter().map(|(_, id, _)| *id).collect();
    assert_eq!((distinct.len(), distinct.contains(&0)), (600, false));
}

#[test]
fn problems_say_what_and_where() {
    check_problems("node n2 cidr=10.42.2.0/24", &["BW2001 Node n2, status.addresses: node has no InternalIP and is left out"]);
    check_problems("node n2 192.168.0.2", &["BW2002 Node n2, spec.podCIDRs: node has no pod subnet and is left out"]);
    check_problems(
        "node n2 192.168.0.2 cidr=10.42.2.0/24 ^1\nnode n3 192.168.0.3 cidr=10.42.2.128/25 cidr=fd42::/64 ^2",
        &["BW2003 Node n3, spec.podCIDRs: pod subnet 10.42.2.128/25 overlaps 10.42.2.0/24 of the older node n2"],
    );
    check_problems(
        "policy shop/api-in {podSelector: {}, ingress: [{ports: [{port: 80}, {port: 80, endPort: 79}]}]}",
        &["BW4003 NetworkPolicy shop/api-in, spec.ingress[0].ports[1].endPort: endPort 79 is out of range or before port 80"],
    );
    check_problems(
        "policy shop/p {podSelector: {}, egress: [{to: [{podSelector: {matchExpressions: [{key: app, operator: Is}]}}]}]}",
        &["BW4001 NetworkPolicy shop/p, spec.egress[0].to[0].podSelector.matchExpressions[0].operator: operator `Is` is unknown"],
    );
    check_problems(
        "policy shop/p {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/8]}}]}]}",
        &[
            "BW4002 NetworkPolicy shop/p, spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/8 is not within 10.0.0.0/8, so the block matches nothing",
        ],
    );
    check_problems(
        "policy shop/p {podSelector: 7}",
        &["BW4006 NetworkPolicy shop/p: NetworkPolicy cannot be read: the pods that it selects are closed"],
    );
    check_problems("pod shop/a zzz", &["BW2006 Pod shop/a, status.podIPs: pod address `zzz` is not an IP address"]);
    check_problems("svc shop/a type=ExternalName name=$(x)", &["BW3009 Service shop/a, spec.externalName: `$(x)` is not a DNS name"]);
    // Text from outside is never printed raw.
    let bad = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"podSelector": {}, "policyTypes": ["\u{1b}[2J\n"]}});
    let mut world = world("");
    world.apply(upsert(Kind::NetworkPolicy, bad));
    let problems = Compiler::full(&world).problems;
    assert!(problems[0].what.contains("\\u{1b}[2J\\n"), "{problems:?}");
}

/// A field of another version of the API may limit what a rule allows: a policy with one closes whom it selects.
#[test]
fn a_policy_with_a_field_that_is_not_known_closes() {
    let base = "ns shop\npod shop/a 10.42.1.1 app=a +attached\npod shop/b 10.42.2.1 app=b @n2";
    let check = |policy: &str, field: Option<&str>| {
        let world = world(&format!("{base}\n{policy}"));
        let passes = match verdict(&world) {
            Reason::AllowedBy(..) => true,
            Reason::Ruled(_, _, action, _) => action == Action::Accept,
            Reason::DeniedBy(..) => false,
            other @ (Reason::NoPolicy | Reason::Itself | Reason::OwnNode | Reason::Closed(_)) => panic!("{other:?} under {policy}"),
        };
        assert_eq!(passes, field.is_none(), "{policy}");
        let why: Vec<String> = Compiler::full(&world).problems.iter().map(|problem| problem.why.clone()).collect();
        let wanted: Vec<String> = field.iter().map(|field| format!("{field}: this version knows no such field")).collect();
        assert_eq!(why, wanted, "{policy}");
    };
    check("policy shop/p {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: []}]}", None);
    check(
        "policy shop/p {podSelector: {}, ingress: [{from: [{podSelector: {matchLabel: {app: c}}}]}]}",
        Some("spec.ingress[0].from[0].podSelector.matchLabel"),
    );
    check("policy shop/p {podSelector: {}, ingress: [{form: [{podSelector: {}}]}]}", Some("spec.ingress[0].form"));
    check("policy shop/p {podSelector: {}, ingress: [{ports: [{port: 80}, {ports: 90}]}]}", Some("spec.ingress[0].ports[1].ports"));
    check("policy shop/p {podSelector: {matchLabel: {app: c}}, ingress: [{}]}", Some("spec.podSelector.matchLabel"));
    let rule = |peer: &str| {
        format!("cnp p {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{{action: Accept, from: [{peer}]}}]}}")
    };
    check(&rule("{namespaces: {}}"), None);
    check(&rule("{namespaces: {sameLabels: [team]}}"), Some("spec.ingress[0].from[0].namespaces.sameLabels"));
    check(&rule("{namespaces: {}, later: {}}"), Some("spec.ingress[0].from[0].later"));
    check(
        &rule("{pods: {podSelector: {}, namespaceSelector: {notSameLabels: [team]}}}"),
        Some("spec.ingress[0].from[0].pods.namespaceSelector.notSameLabels"),
    );
}

/// While a namespace ends, its policies may go before its pods, in the order of the server's choice.
#[test]
fn a_policy_stays_while_its_namespace_ends() {
    let mut world = world(
        "ns shop\nns other\npod shop/a 10.42.1.1 app=a +attached\npod shop/b 10.42.2.1 app=b @n2
        policy shop/p {podSelector: {}}\npolicy other/p {podSelector: {}}",
    );
    let mut compiler = Compiler::new();
    compiler.turn(&world, &crate::Touched::everything());
    let mut after = |world: &mut World, change: Change| {
        let touched = world.apply(change).value;
        let turned = compiler.turn(world, &touched).value.policy;
        assert_eq!(turned, Compiler::full(world).value.policy);
        verdict(world)
    };
    let gone = |namespace: &str| Change::Delete(crate::ObjectKey::new(Kind::NetworkPolicy, namespace, "p"));
    let denied = |reason: Reason| matches!(reason, Reason::DeniedBy(..));
    let ending = json!({"metadata": {"name": "shop", "uid": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    after(&mut world, upsert(Kind::Namespace, ending));
    assert!(denied(after(&mut world, gone("shop"))), "it went before the pod");
    assert!(denied(after(&mut world, Change::Replace(Kind::NetworkPolicy, Vec::new()))), "a list that lacks it");
    assert_eq!(world.policies().len(), 1, "that of the namespace that stays has gone");
    // The namespace is made anew before anybody heard that it was gone: it has no policy.
    let anew = json!({"metadata": {"name": "shop", "uid": "shop-2"}});
    assert_eq!(after(&mut world, upsert(Kind::Namespace, anew)), Reason::NoPolicy);
    assert!(denied(after(&mut world, changes("policy shop/p {podSelector: {}}").remove(0))));
    let ending = json!({"metadata": {"name": "shop", "uid": "shop-2", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    after(&mut world, upsert(Kind::Namespace, ending));
    assert!(denied(after(&mut world, gone("shop"))));
    after(&mut world, Change::Delete(crate::ObjectKey::new(Kind::Namespace, "", "shop")));
    assert!(world.policies().is_empty(), "it goes with the namespace");
}

#[test]
fn every_code_is_explained_once() {
    let mut codes: Vec<u16> = crate::codes::EXPLANATIONS.iter().map(|(code, _)| *code).collect();
    assert!(codes.is_sorted());
    codes.dedup();
    assert_eq!(codes.len(), crate::codes::EXPLANATIONS.len());
}

#[test]
fn an_object_that_cannot_be_read_leaves_the_others() {
    let mut world = world("svc shop/a 10.43.0.1 :http:80/tcp\nsvc shop/b 10.43.0.2 :http:80/tcp");
    let mut compiler = Compiler::new();
    compiler.turn(&world, &crate::Touched::everything());
    let change = upsert(Kind::Service, json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"ports": "eighty"}}));
    assert!(matches!(change, Change::Unreadable(_)));
    let touched = world.apply(change).value;
    let checked = compiler.turn(&world, &touched);
    let names: Vec<String> = checked.value.services.services.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/b"]);
    assert_eq!(checked.problems[0].place, "Service shop/a");
    assert!(checked.problems[0].why.contains("invalid type"), "{:?}", checked.problems[0]);
    // Mended, its problem is gone.
    let touched = world.apply(changes("svc shop/a 10.43.0.1 :http:80/tcp").remove(0)).value;
    let checked = compiler.turn(&world, &touched);
    assert_eq!((checked.value.services.services.len(), checked.problems.len()), (2, 0));
}

#[test]
fn lists_may_be_null_and_annotations_are_dropped() {
    let slice = json!({"metadata": {"name": "s", "namespace": "n", "labels": null, "annotations": {"a": "b", "bowline.dev/x": "y"}},
        "addressType": "IPv4", "endpoints": null, "ports": null});
    let object = Object::decode(Kind::EndpointSlice, slice).unwrap();
    let kept: Vec<&str> = object.metadata().annotations.keys().map(AsRef::as_ref).collect();
    assert_eq!(kept, ["bowline.dev/x"]);
    let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": null, "hostNetwork": null}, "status": {"podIPs": null, "podIP": "10.0.0.1"}});
    let Object::Pod(pod) = Object::decode(Kind::Pod, pod).unwrap() else { panic!() };
    assert_eq!(pod.claimed().collect::<Vec<_>>(), ["10.0.0.1"]);
}

#[test]
fn what_does_not_matter_touches_nothing() {
    let mut world = world(
        "ns shop team=red\npod shop/a 10.42.1.1 app=a\nnode n1 192.168.0.1 cidr=10.42.1.0/24\nsvc shop/s 10.43.0.1 :http:80/tcp\nslice shop/s-4 of=s :http:80/tcp 10.42.1.1\npolicy shop/p {podSelector: {}}\ncidrs more 10.44.0.0/16\ncnp c {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{name: x, action: Pass, to: [{networks: [10.0.0.0/8]}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]}]}",
    );
    for kind in Kind::ALL {
        let objects: Vec<Object> = match kind {
            Kind::Namespace => world.namespaces().values().cloned().map(Object::Namespace).collect(),
            Kind::Node => world.nodes().values().cloned().map(Object::Node).collect(),
            Kind::Pod => world.pods().values().cloned().map(Object::Pod).collect(),
            Kind::Service => world.services().values().cloned().map(Object::Service).collect(),
            Kind::EndpointSlice => world.slices().values().cloned().map(Object::EndpointSlice).collect(),
            Kind::NetworkPolicy => world.policies().values().cloned().map(Object::NetworkPolicy).collect(),
            Kind::ClusterNetworkPolicy => world.cluster_policies().values().cloned().map(Object::ClusterNetworkPolicy).collect(),
            Kind::ServiceCidr => world.service_cidrs().values().cloned().map(Object::ServiceCidr).collect(),
        };
        let newer = objects.iter().map(|object| {
            let mut json = match object {
                Object::Namespace(o) => serde_json::to_value(&**o),
                Object::Node(o) => serde_json::to_value(&**o),
                Object::Pod(o) => serde_json::to_value(&**o),
                Object::Service(o) => serde_json::to_value(&**o),
                Object::EndpointSlice(o) => serde_json::to_value(&**o),
                Object::NetworkPolicy(o) => serde_json::to_value(&**o),
                Object::ClusterNetworkPolicy(o) => serde_json::to_value(&**o),
                Object::ServiceCidr(o) => serde_json::to_value(&**o),
            }
            .unwrap();
            json["metadata"]["resourceVersion"] = json!("999");
            Object::decode(kind, json).unwrap()
        });
        let newer: Vec<Object> = newer.collect();
        assert_eq!(newer.len(), 1);
        assert!(world.apply(Change::Replace(kind, newer)).value.is_empty(), "{kind}");
    }
}

#[test]
fn names_follow_services() {
    let compiled = |objects: &str| Compiler::full(&world(objects)).value.dns;
    let service = |objects: &str| -> Option<DnsService> {
        let dns = compiled(objects);
        dns.services.values().next().map(|service| (**service).clone())
    };
    let slice = "slice shop/a-4 of=a :http:8080/tcp 10.42.1.1@n1 10.42.1.2@n2!unready 10.42.1.3!draining host=one host=two";
    let plain = service(&format!("svc shop/a 10.43.0.1 fd43::1 :http:80/tcp\n{slice}")).unwrap();
    assert_eq!(plain.kind, DnsKind::ClusterIp(vec!["10.43.0.1".parse().unwrap(), "fd43::1".parse().unwrap()]));
    assert_eq!((plain.ports[0].name.as_deref(), plain.ports[0].port), (Some("http"), 80));
    assert_eq!(plain.endpoints.len(), 1, "only those with a hostname");
    let headless = service(&format!("svc shop/a None :http:80/tcp\n{slice}")).unwrap();
    assert_eq!((headless.kind, headless.endpoints.len()), (DnsKind::Headless, 1));
    let endpoint = &headless.endpoints[0];
    assert_eq!((endpoint.hostname.as_deref(), endpoint.node.as_deref(), endpoint.ports[0].port), (Some("one"), Some("n1"), 8080));
    assert_eq!(service(&format!("svc shop/a None :http:80/tcp +unready\n{slice}")).unwrap().endpoints.len(), 3);
    let external = service("svc shop/a type=ExternalName name=db.example.com.").unwrap();
    assert_eq!(external.kind, DnsKind::ExternalName("db.example.com.".into()));
    assert_eq!(service("svc shop/a :http:80/tcp"), None, "no address yet");
    assert!(service("svc shop/a 10.43.0.1 :http:80/tcp service.kubernetes.io/service-proxy-name=x").is_some());
    let dns = compiled("ns shop\nns other");
    assert_eq!(dns.namespaces.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["other", "shop"]);
}

/// A world with one closed namespace, and judgements of packets from `10.42.2.1` to `10.42.1.1` port 80.
fn verdict(world: &World) -> Reason {
    let intent = Compiler::full(world).value;
    let judge = Judge::new(&intent.policy, &intent.pods);
    judge.verdict(&Flow::between("10.42.2.1".parse().unwrap(), "10.42.1.1".parse().unwrap(), 6, Some(80))).by
}

#[test]
fn an_attachment_is_closed_until_its_own_pod_is_known() {
    let mut world = world("ns shop");
    world.apply(attach("shop/a", &["10.42.1.1"], Some("1")));
    assert!(matches!(verdict(&world), Reason::Closed(_)));
    // Its predecessor of the same name is not it.
    world.apply(changes("pod shop/a uid=0").remove(0));
    assert!(matches!(verdict(&world), Reason::Closed(_)));
    world.apply(changes("pod shop/a uid=1").remove(0));
    assert_eq!(verdict(&world), Reason::NoPolicy);
    world.apply(Change::Delete(crate::ObjectKey::new(Kind::Pod, "shop", "a")));
    assert!(matches!(verdict(&world), Reason::Closed(_)));
    // A mirror pod has its static pod's uid in an annotation.
    let mirror =
        json!({"metadata": {"name": "a", "namespace": "shop", "uid": "other", "annotations": {"kubernetes.io/config.mirror": "1"}}});
    world.apply(upsert(Kind::Pod, mirror));
    assert_eq!(verdict(&world), Reason::NoPolicy);
}

#[test]
fn an_attachment_without_a_pod_is_open() {
    let mut world = world("ns shop\npolicy shop/p {podSelector: {}}");
    let Change::Attached(mut attached) = attach("shop/a", &["10.42.1.1"], None) else { panic!() };
    attached.intent.pod = None;
    world.apply(Change::Attached(attached));
    assert_eq!(verdict(&world), Reason::NoPolicy);
}

#[test]
fn an_address_is_known_from_its_attachment_and_follows_the_living() {
    let base = "ns shop\npod shop/a 10.42.1.1 app=a +attached
        policy shop/p {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}";
    let passes = |more: &str| matches!(verdict(&world(&format!("{base}\n{more}"))), Reason::AllowedBy(..));
    assert!(passes("pod shop/b 10.42.2.1 app=b @n2"));
    assert!(passes("pod shop/b 10.42.2.1 app=b @n1 +nostatus +attached"), "before the status says so");
    assert!(!passes("pod shop/b 10.42.2.1 app=b +done"));
    assert!(!passes("pod shop/b 10.42.2.1 app=b +hostnet"));
    // Two claim it: the newer counts, unless it has ended, and whoever is attached here before all.
    assert!(!passes("pod shop/b 10.42.2.1 app=b ^1\npod shop/c 10.42.2.1 app=c ^2"));
    assert!(passes("pod shop/b 10.42.2.1 app=b ^1\npod shop/c 10.42.2.1 app=c ^2 +done"));
    assert!(passes("pod shop/b 10.42.2.1 app=b ^1 +attached\npod shop/c 10.42.2.1 app=c ^2"));
    assert!(!passes("pod shop/b 10.42.2.1 app=b ^2\npod shop/c 10.42.2.1 app=c ^1 +attached"));
    // A stale status of a pod that is attached here with another address gives it nothing.
    assert!(!passes("pod shop/b 10.42.2.1 app=b\nattach shop/b 10.42.1.9"));
    // Nor does what was attached once and is not any more, where another has the address.
    assert!(!passes("pod shop/b 10.42.2.1 app=b ^9\nattach shop/x 10.42.2.1"));
}

#[test]
fn only_what_this_node_needs_is_kept() {
    let text = "ns shop\npod shop/a 10.42.1.1 app=a +attached\npod shop/b 10.42.2.1 app=b @n2
        policy shop/here {podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}
        policy shop/there {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}";
    let policy = Compiler::full(&world(text)).value.policy;
    assert_eq!(policy.rules.keys().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["shop/here"]);
    assert_eq!(policy.sets.len(), 1);
    let id = policy.sets.keys().next().unwrap();
    assert!(id.0.starts_with("pods-shop-") && id.0.len() == "pods-shop-".len() + 16, "{id:?}");
    assert!(policy.pods.contains_key(&ifname("shop/a")));
}

#[test]
fn the_same_selector_is_the_same_set_however_written() {
    let id = |spec: &str| {
        let text = format!(
            "ns shop\npod shop/a 10.42.1.1 app=a +attached\npolicy shop/p {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {spec}}}]}}]}}"
        );
        let sets = Compiler::full(&world(&text)).value.policy.sets.clone();
        sets.keys().next().unwrap().0.to_string()
    };
    let one = id("{matchLabels: {app: a, tier: b}}");
    assert_eq!(one, id("{matchExpressions: [{key: tier, operator: In, values: [b]}, {key: app, operator: In, values: [a]}]}"));
    assert_eq!(one, id("{matchLabels: {tier: b}, matchExpressions: [{key: app, operator: In, values: [a, a]}]}"));
    assert_ne!(one, id("{matchLabels: {app: a}}"));
    // One value that looks like two is not two.
    assert_ne!(
        id("{matchExpressions: [{key: app, operator: In, values: [a, b]}]}"),
        id("{matchExpressions: [{key: app, operator: In, values: ['a\", \"b']}]}")
    );
}

#[test]
fn settings_change_everything() {
    let mut world = world("node n1 192.168.0.1 cidr=10.42.1.0/24\nnode n2 192.168.0.2 cidr=10.42.2.0/24");
    let mut compiler = Compiler::new();
    let first = compiler.turn(&world, &crate::Touched::everything()).value;
    let mut settings = settings();
    assert!(world.apply(Change::Settings(Box::new(settings.clone()))).value.is_empty());
    settings.node_name = "n2".into();
    let touched = world.apply(Change::Settings(Box::new(settings))).value;
    let second = compiler.turn(&world, &touched).value;
    assert_eq!(second.routes.local.as_ref().map(|node| node.name.to_string()), Some("n2".to_owned()));
    assert_eq!((first.revision, second.revision), (1, 2));
}

/// What a diff of persistent maps costs follows from this: an unchanged part is the same object, not an equal one.
#[test]
fn what_a_change_does_not_touch_stays_the_same_object() {
    let services: String =
        (0..50).map(|n| format!("svc shop/s{n} 10.43.0.{n} :http:80/tcp\nslice shop/s{n}-4 of=s{n} :http:80/tcp 10.42.1.1\n")).collect();
    let nodes: String = (1..9).map(|n| format!("node n{n} 192.168.0.{n} cidr=10.42.{n}.0/24\n")).collect();
    let pods = "ns shop team=red\npod shop/a 10.42.1.1 app=a +attached\npod shop/b 10.42.2.1 app=b\npod shop/c 10.42.2.2 app=c
        policy shop/b {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}
        policy shop/c {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: c}}}]}]}";
    let mut world = world(&format!("{services}{nodes}{pods}"));
    let mut compiler = Compiler::new();
    let mut old = compiler.turn(&world, &crate::Touched::everything()).value;
    // Change; then how many objects of (services, names, peers, rules, sets) are others than before.
    for (change, expected) in [
        ("slice shop/s7-4 of=s7 :http:80/tcp 10.42.1.1 10.42.2.1", [1, 0, 0, 0, 0]),
        ("svc shop/s8 10.43.0.8 :http:81/tcp", [1, 1, 0, 0, 0]),
        ("node n4 192.168.0.44 cidr=10.42.4.0/24", [0, 0, 1, 0, 0]),
        ("pod shop/b 10.42.2.1 app=b tier=front", [0, 0, 0, 0, 0]),
        ("pod shop/d 10.42.2.3 app=b", [0, 0, 0, 0, 1]),
        ("policy shop/c {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}", [0, 0, 0, 1, 0]),
    ] {
        let mut touched = crate::Touched::default();
        for change in changes(change) {
            touched.merge(world.apply(change).value);
        }
        let new = compiler.turn(&world, &touched).value;
        let got = [
            others(&old.services.services, &new.services.services),
            others(&old.dns.services, &new.dns.services),
            others(&old.routes.peers, &new.routes.peers),
            others(&old.policy.rules, &new.policy.rules),
            others(&old.policy.sets, &new.policy.sets),
        ];
        assert_eq!(got, expected, "after {change}");
        old = new;
    }
}

/// How many values are other objects than before.
fn others<K: Ord, V>(old: &imbl::OrdMap<K, Arc<V>>, new: &imbl::OrdMap<K, Arc<V>>) -> usize {
    new.iter().filter(|(key, value)| !old.get(*key).is_some_and(|old| Arc::ptr_eq(old, value))).count()
}

#[test]
fn node_ports_may_be_those_of_the_nodes_first_addresses_only() {
    let mut primary = settings();
    primary.node_port_primary = true;
    primary.node_port_addresses = vec!["10.0.0.0/8".parse().unwrap()];
    let mut world = world("node n2 192.168.0.2 cidr=10.42.2.0/24");
    world.apply(Change::Settings(Box::new(primary)));
    let mut compiler = Compiler::new();
    let show = |intent: bowline_model::intent::Intent| {
        let all: Vec<String> = intent.services.node_port_addresses.iter().map(ToString::to_string).collect();
        all.join(" ")
    };
    let all = crate::world::Touched::everything();
    assert_eq!(show(compiler.turn(&world, &all).value), "0.0.0.0/32", "a node without addresses has none, rather than all");
    for (node, expected) in [
        ("node n1 192.168.0.1 192.168.9.9 fd00::1 cidr=10.42.1.0/24", "192.168.0.1/32 fd00::1/128"),
        ("node n1 192.168.0.7 cidr=10.42.1.0/24", "192.168.0.7/32"),
        ("del Node n1", "0.0.0.0/32"),
    ] {
        let touched = changes(node).into_iter().map(|change| world.apply(change).value).next().unwrap();
        assert_eq!(show(compiler.turn(&world, &touched).value), expected, "{node}");
        assert_eq!(show(Compiler::full(&world).value), expected, "{node}, anew");
    }
}

#[test]
fn a_node_stays_until_it_is_deleted_or_the_autoscaler_marks_it() {
    let mut world = world("");
    assert!(!world.node_stays(), "nobody knows it");
    let taint = |key: &str| json!({"taints": [{"key": key, "value": "1", "effect": "NoSchedule"}]});
    for (metadata, spec, stays) in [
        (json!({"name": "n1"}), json!({}), true),
        (json!({"name": "n1"}), taint("node.kubernetes.io/unreachable"), true),
        (json!({"name": "n1"}), taint("ToBeDeletedByClusterAutoscaler"), false),
        (json!({"name": "n1"}), json!({"taints": null}), true),
        (json!({"name": "n1", "deletionTimestamp": "2026-01-02T03:04:05Z"}), json!({}), false),
        (json!({"name": "n2", "deletionTimestamp": "2026-01-02T03:04:05Z"}), json!({}), false),
    ] {
        world.apply(upsert(Kind::Node, json!({"metadata": metadata, "spec": spec})));
        assert_eq!(world.node_stays(), stays, "{metadata} {spec}");
    }
}

#[test]
fn a_slice_tells_when_its_change_happened() {
    let at = |annotation: serde_json::Value| {
        let metadata =
            json!({"name": "s", "namespace": "d", "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": annotation}});
        let object = Object::decode(Kind::EndpointSlice, json!({"metadata": metadata, "addressType": "IPv4"})).unwrap();
        let Object::EndpointSlice(slice) = object else { panic!("{object:?}") };
        slice.triggered_at.map(|at| at.as_secs_f64())
    };
    assert_eq!(at(json!("2026-01-02T03:04:05.5Z")), Some(1_767_323_045.5));
    assert_eq!(at(json!("2026-01-02T04:04:05+01:00")), Some(1_767_323_045.0));
    for odd in [json!("yesterday"), json!(""), json!("1901-01-01T00:00:00Z"), json!(7), json!(null)] {
        assert_eq!(at(odd.clone()), None, "{odd}");
    }
}

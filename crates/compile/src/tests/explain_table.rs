//! Explanations, word by word: a world and a question in, what a person is told out.

use bowline_model::Family;
use expect_test::{Expect, expect};

use crate::explain::{Explainer, Outcome, Question};
use crate::testing::notation::world;

/// The world of the cases: three nodes, a shop with two tiers, and a service of each form. Node n1 is asked.
pub(super) const WORLD: &str = "
    node n1 192.168.0.1 fd00::1 cidr=10.42.1.0/24 cidr=fd42:1::/64
    node n2 192.168.0.2 fd00::2 cidr=10.42.2.0/24 cidr=fd42:2::/64
    node n3 192.168.0.3 fd00::3 cidr=10.42.3.0/24 cidr=fd42:3::/64
    ns shop team=red
    ns ops team=blue
    pod shop/web 10.42.1.7 fd42:1::7 @n1 app=web +attached
    pod shop/near 10.42.1.8 fd42:1::8 @n1 app=api :http:8080/tcp +attached
    pod shop/api-0 10.42.3.9 fd42:3::9 @n3 app=api :http:8080/tcp
    pod shop/api-1 10.42.2.9 fd42:2::9 @n2 app=api :http:8080/tcp :dns:53/udp
    pod ops/admin 10.42.2.5 fd42:2::5 @n2 app=admin
    pod ops/agent 192.168.0.2 @n2 app=agent +hostnet
    svc shop/api 10.43.0.9 fd43::9 :http:80/tcp type=NodePort
    svc shop/one 10.43.0.1 :http:80:30080/tcp type=NodePort
    svc shop/none 10.43.0.2 :http:80/tcp
    svc shop/each None :http:8080/tcp
    slice shop/api-4 of=api :http:8080/tcp 10.42.3.9@n3 10.42.2.9@n2
    slice shop/one-4 of=one :http:8080/tcp 10.42.3.9@n3
    slice shop/each-4 of=each :http:8080/tcp 10.42.2.9@n2
";

/// Asks, and holds the text against what is expected and every node's part against the oracle.
pub(super) fn check(policies: &str, question: &str, expected: Expect) {
    let mut explainer = Explainer::new(world(&format!("{WORLD}\n{policies}")), None);
    let (source, destination) = question.split_once(' ').unwrap();
    let answer = Question::parse(source, destination, "default").and_then(|question| explainer.explain(&question));
    let text = match answer {
        Ok(explanation) => {
            assert!(explanation.agrees(), "{question}: {explanation:#?}");
            let text = explanation.render(&|_, word| word.to_owned());
            // The oracle says what is in the step; that it agrees was seen.
            text.lines().filter(|line| !line.starts_with("seen: ")).fold(String::new(), |text, line| text + line + "\n")
        }
        Err(problem) => format!("{problem}\n"),
    };
    expected.assert_eq(&text);
}

#[test]
fn a_host_port_leads_to_its_pod_and_a_node_port_goes_before_it() {
    let mut explainer = Explainer::new(world(WORLD), None);
    let pod = serde_json::json!({
        "metadata": {"name": "lone", "namespace": "shop", "uid": "lone", "labels": {"app": "lone"}},
        "spec": {"nodeName": "n2", "containers": [{"ports": [
            {"containerPort": 80, "hostPort": 30080}, {"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 81, "hostIP": "192.168.0.2"},
            {"containerPort": 82, "hostPort": 82, "hostIP": "192.168.0.99"},
        ]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.42.2.77"}, {"ip": "fd42:2::77"}]},
    });
    let object = crate::Object::decode(crate::Kind::Pod, pod).unwrap();
    explainer.world.apply(crate::Change::Upsert(object));
    for (target, leads_to) in [
        ("n2:30080", Some("192.168.0.2:30080 -> 10.42.3.9:8080 (shop/one)")),
        ("n2:80", Some("192.168.0.2:80 -> 10.42.2.77:80 (host port of shop/lone)")),
        ("n2:81", Some("192.168.0.2:81 -> 10.42.2.77:81 (host port of shop/lone)")),
        ("n2:82", None),
        ("n3:30080", Some("192.168.0.3:30080 -> 10.42.3.9:8080 (shop/one)")),
    ] {
        let question = Question::parse("203.0.113.7", target, "default").unwrap();
        let explanation = explainer.explain(&question).unwrap();
        assert!(explanation.agrees(), "{target}: {explanation:#?}");
        let text = explanation.render(&|_, word| word.to_owned());
        match leads_to {
            Some(way) => assert!(text.contains(way), "{text}"),
            None => assert!(!text.contains("host port"), "{text}"),
        }
    }
}

#[test]
fn a_policy_that_denies_says_what_each_rule_wants() {
    let admins =
        "policy shop/api-in {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: admin}}}]}]}";
    check(
        admins,
        "shop/web shop/one:80",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/api-0 10.42.3.9:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  service               10.43.0.1:80 -> 10.42.3.9:8080 (shop/one)
        3 n1  egress policy   pass  no policy selects shop/web for egress
        4 n1  vxlan -> n3     pass  to 192.168.0.3
        5 n3  ingress policy  DROP  NetworkPolicy shop/api-in
              ingress[0].from wants pods of shop with app=admin; shop/web has app=web
        pass if: shop/web had app=admin, or NetworkPolicy shop/api-in had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        admins,
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
        3 n1  ingress policy  DROP  NetworkPolicy shop/api-in
              ingress[0].from wants pods of shop with app=admin; shop/web has app=web
        pass if: shop/web had app=admin, or NetworkPolicy shop/api-in had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        "policy shop/shut {podSelector: {}}",
        "ops/admin shop/web:80",
        expect![[r#"
        DROP  tcp  ops/admin 10.42.2.5 -> shop/web 10.42.1.7:80

        1 n2  source check    pass  10.42.2.5 is its own address
        2 n2  egress policy   pass  no policy selects ops/admin for egress
        3 n2  vxlan -> n1     pass  to 192.168.0.1
        4 n1  ingress policy  DROP  NetworkPolicy shop/shut
              has no ingress rule, so it lets nothing through
        pass if: NetworkPolicy shop/shut had an ingress rule that took app=admin (ops/admin) on 80/tcp
    "#]],
    );
    let ports = "policy shop/ports {podSelector: {}, ingress: [{ports: [{port: 443}, {port: 1000, endPort: 2000}, {protocol: UDP}, {port: dns, protocol: UDP}]}]}";
    check(
        ports,
        "ops/admin shop/api-1:8080",
        expect![[r#"
        DROP  tcp  ops/admin 10.42.2.5 -> shop/api-1 10.42.2.9:8080

        1 n2  source check    pass  10.42.2.5 is its own address
        2 n2  egress policy   pass  no policy selects ops/admin for egress
        3 n2  ingress policy  DROP  NetworkPolicy shop/ports
              ingress[0].ports wants 443/tcp, 1000-2000/tcp, any udp port, port `dns`/udp; it is 8080/tcp
        pass if: the port were 443/tcp, or NetworkPolicy shop/ports had an ingress rule that took app=admin (ops/admin) on 8080/tcp
    "#]],
    );
    let all = "policy shop/all {podSelector: {}, ingress: [
        {from: [{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: 10.42.0.0/16, except: [10.42.2.0/24]}}], ports: [{port: 8080}]},
        {from: [{namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: web}}}, {namespaceSelector: {}}], ports: [{port: 443}]},
        {from: [{}, {podSelector: {matchExpressions: [{key: app, operator: Is}]}}, {podSelector: {}}]}]}";
    check(
        &all.replace('\n', " "),
        "ops/admin shop/web:8080",
        expect![[r#"
        DROP  tcp  ops/admin 10.42.2.5 -> shop/web 10.42.1.7:8080

        1 n2  source check    pass  10.42.2.5 is its own address
        2 n2  egress policy   pass  no policy selects ops/admin for egress
        3 n2  vxlan -> n1     pass  to 192.168.0.1
        4 n1  ingress policy  DROP  NetworkPolicy shop/all
              ingress[0].from[0] wants an address in 192.0.2.0/24; it is 10.42.2.5
              ingress[0].from[1] leaves out 10.42.2.0/24 of 10.42.0.0/16, which 10.42.2.5 is in
              ingress[1].ports wants 443/tcp; it is 8080/tcp
              ingress[2].from[0] is empty, which matches nothing
              ingress[2].from[1] has a selector that cannot be understood
              ingress[2].from[2] wants pods of shop; ops/admin is in ops
        pass if: the port were 443/tcp, or ops/admin were in shop, or NetworkPolicy shop/all had an ingress rule that took app=admin (ops/admin) on 8080/tcp
    "#]],
    );
}

#[test]
fn icmp_is_taken_by_rules_without_ports_alone() {
    let policies = "policy shop/http {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 8080}, {protocol: UDP}, {port: http}]}]}
        policy shop/all {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {}}]}]}";
    check(
        policies,
        "shop/web shop/near/icmp",
        expect![[r#"
            DROP  icmp  shop/web 10.42.1.7 -> shop/near 10.42.1.8

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: NetworkPolicy shop/all
            3 n1  ingress policy  DROP  NetworkPolicy shop/http
                  ingress[0].ports wants 8080/tcp, any udp port, port `http`/tcp; it is icmp, which has no port
            pass if: NetworkPolicy shop/http, ingress[0] named no ports, or NetworkPolicy shop/http had an ingress rule that took app=web (shop/web) on any port, and so icmp
        "#]],
    );
    check(
        policies,
        "ops/admin shop/web/icmpv6",
        expect![[r#"
            PASS  icmpv6  ops/admin fd42:2::5 -> shop/web fd42:1::7

            1 n2  source check    pass  fd42:2::5 is its own address
            2 n2  egress policy   pass  no policy selects ops/admin for egress
            3 n2  vxlan -> n1     pass  to fd00::1
            4 n1  ingress policy  pass  NetworkPolicy shop/all, ingress[0]: ops/admin is among pods of any namespace; any port
        "#]],
    );
    // A service is of ports; its own address answers none, and a headless one is its pods.
    check(
        policies,
        "shop/web svc/shop/api/icmp",
        expect![[r#"
            REJECT  icmp  shop/web 10.42.1.7 -> 10.43.0.9

            1 n1  source check  pass    10.42.1.7 is its own address
            2 n1  service       REJECT  10.43.0.9 is of the services' network, which answers no ICMP
            pass if: a pod were asked, and not a service's address
        "#]],
    );
    check(
        policies,
        "ops/admin shop/each/icmp",
        expect![[r#"
            DROP  icmp  ops/admin 10.42.2.5 -> shop/api-1 10.42.2.9

            1 n2  source check    pass  10.42.2.5 is its own address
            2 n2  name                  shop/each is headless: its name leads to its pods
            3 n2  egress policy   pass  no policy selects ops/admin for egress
            4 n2  ingress policy  DROP  NetworkPolicy shop/http
                  ingress[0].from wants pods of shop; ops/admin is in ops
                  ingress[0].ports wants 8080/tcp, any udp port, port `http`/tcp; it is icmp, which has no port
            pass if: ops/admin were in shop and NetworkPolicy shop/http, ingress[0] named no ports, or NetworkPolicy shop/http had an ingress rule that took app=admin (ops/admin) on any port, and so icmp
        "#]],
    );
    check(
        policies,
        "shop/web 192.168.0.2/icmp",
        expect![[r#"
            PASS  icmp  shop/web 10.42.1.7 -> n2 192.168.0.2

            1 n1  source check   pass  10.42.1.7 is its own address
            2 n1  egress policy  pass  no policy selects shop/web for egress
                  says nothing of egress: NetworkPolicy shop/all
            3 n1  vxlan -> n2    pass  to 192.168.0.2
            4 n2  node           pass  to a process of the node: policies end here
        "#]],
    );
    let tiers = "cnp guard {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 65535}}}}]}, {action: Deny, from: [{namespaces: {}}]}]}";
    check(
        tiers,
        "ops/admin shop/web/icmp",
        expect![[r#"
            DROP  icmp  ops/admin 10.42.2.5 -> shop/web 10.42.1.7

            1 n2  source check    pass  10.42.2.5 is its own address
            2 n2  egress policy   pass  no policy selects ops/admin for egress
                  says nothing of egress: ClusterNetworkPolicy guard (Admin)
            3 n2  vxlan -> n1     pass  to 192.168.0.1
            4 n1  ingress policy  DROP  ClusterNetworkPolicy guard (Admin), ingress[1], denies it
                  ops/admin is among the pods of any namespace
                  any port
            pass if: an ingress rule that is asked before it accepted app=admin (ops/admin) on any port, and so icmp
        "#]],
    );
}

#[test]
fn a_policy_that_allows_is_named_with_its_rule() {
    let web = "policy shop/api-in {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}, {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]}
        policy shop/shut {podSelector: {}}";
    check(
        web,
        "shop/web shop/one:80",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/api-0 10.42.3.9:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  service               10.43.0.1:80 -> 10.42.3.9:8080 (shop/one)
            3 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: NetworkPolicy shop/shut
            4 n1  vxlan -> n3     pass  to 192.168.0.3
            5 n3  ingress policy  pass  NetworkPolicy shop/api-in, ingress[1]: shop/web is among pods of shop with app=web; 8080/tcp is port `http`/tcp
                  no rule takes it: NetworkPolicy shop/shut
        "#]],
    );
    check(
        web,
        "192.0.2.7 shop/api-0:1/udp",
        expect![[r#"
            PASS  udp  192.0.2.7 -> shop/api-0 10.42.3.9:1

            1 n3  source check    pass  from outside of the cluster
            2 n3  ingress policy  pass  NetworkPolicy shop/api-in, ingress[0]: 192.0.2.7 is in 192.0.2.0/24; any port
                  no rule takes it: NetworkPolicy shop/shut
        "#]],
    );
    check(
        "",
        "shop/web ops/admin:22",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> ops/admin 10.42.2.5:22

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
        3 n1  vxlan -> n2     pass  to 192.168.0.2
        4 n2  ingress policy  pass  no policy selects ops/admin for ingress
    "#]],
    );
    check(
        "policy shop/shut {podSelector: {}}",
        "node/n1 shop/web:22",
        expect![[r#"
            PASS  tcp  n1 192.168.0.1 -> shop/web 10.42.1.7:22

            1 n1  source                a process in the node's own network
            2 n1  ingress policy  pass  a pod's own node always reaches it
                  not asked, as a pod's own node always reaches it: NetworkPolicy shop/shut
        "#]],
    );
    check(
        "policy shop/shut {podSelector: {}}",
        "n2 shop/web:22",
        expect![[r#"
        DROP  tcp  n2 192.168.0.2 -> shop/web 10.42.1.7:22

        1 n2  source                a process in the node's own network
        2 n2  vxlan -> n1     pass  to 192.168.0.1
        3 n1  ingress policy  DROP  NetworkPolicy shop/shut
              has no ingress rule, so it lets nothing through
        pass if: NetworkPolicy shop/shut had an ingress rule that took 192.168.0.2 on 22/tcp
    "#]],
    );
    check(
        "policy shop/shut {podSelector: {}, policyTypes: [Ingress, Egress]}",
        "shop/web shop/web:22",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/web 10.42.1.7:22

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  a pod always reaches itself
                  not asked, as a pod always reaches itself: NetworkPolicy shop/shut
            3 n1  ingress policy  pass  a pod always reaches itself
                  not asked, as a pod always reaches itself: NetworkPolicy shop/shut
        "#]],
    );
}

#[test]
fn both_ends_are_asked_even_after_a_drop() {
    let both = "policy shop/out {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {team: blue}}}]}]}
        policy shop/in {podSelector: {matchLabels: {app: api}}}";
    check(
        both,
        "shop/web shop/one:80",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/api-0 10.42.3.9:8080

        1 n1  source check    pass    10.42.1.7 is its own address
        2 n1  service                 10.43.0.1:80 -> 10.42.3.9:8080 (shop/one)
        3 n1  egress policy   DROP    NetworkPolicy shop/out
              egress[0].to wants pods of namespaces with team=blue; Namespace shop has team=red
        4 n1  vxlan -> n3     (pass)  to 192.168.0.3
        5 n3  ingress policy  (DROP)  NetworkPolicy shop/in
              has no ingress rule, so it lets nothing through
        pass if: Namespace shop had team=blue, or NetworkPolicy shop/out had an egress rule that took app=api (shop/api-0) on 8080/tcp
            and: NetworkPolicy shop/in had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        both,
        "shop/web ops/admin:80",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> ops/admin 10.42.2.5:80

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  NetworkPolicy shop/out, egress[0]: ops/admin is among pods of namespaces with team=blue; any port
        3 n1  vxlan -> n2     pass  to 192.168.0.2
        4 n2  ingress policy  pass  no policy selects ops/admin for ingress
    "#]],
    );
    check(
        both,
        "shop/web 198.51.100.1:443",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> 198.51.100.1:443

        1 n1  source check   pass    10.42.1.7 is its own address
        2 n1  egress policy  DROP    NetworkPolicy shop/out
              egress[0].to wants pods of namespaces with team=blue; 198.51.100.1 is no pod
        3 n1  outside        (pass)  leaves the cluster as 192.168.0.1
        pass if: NetworkPolicy shop/out had an egress rule that took 198.51.100.1 on 443/tcp
    "#]],
    );
}

/// Only nodes may reach the first endpoint; the second is no api any more.
const SOME_CLOSED: &str = "policy shop/in {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{ipBlock: {cidr: 192.168.0.0/24}}]}]}
    pod shop/api-1 10.42.2.9 fd42:2::9 @n2 app=api-old";

#[test]
fn services_are_followed_to_their_endpoints() {
    check(
        SOME_CLOSED,
        "shop/web shop/api",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/api-1 10.42.2.9:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  service               10.43.0.9:80 -> 10.42.2.9:8080 (shop/api, one of 2)
        3 n1  egress policy   pass  no policy selects shop/web for egress
        4 n1  vxlan -> n2     pass  to 192.168.0.2
        5 n2  ingress policy  pass  no policy selects shop/api-1 for ingress

        DROP  tcp  shop/web 10.42.1.7 -> shop/api-0 10.42.3.9:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  service               10.43.0.9:80 -> 10.42.3.9:8080 (shop/api, one of 2)
        3 n1  egress policy   pass  no policy selects shop/web for egress
        4 n1  vxlan -> n3     pass  to 192.168.0.3
        5 n3  ingress policy  DROP  NetworkPolicy shop/in
              ingress[0].from wants an address in 192.168.0.0/24; it is 10.42.1.7
        pass if: NetworkPolicy shop/in had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        SOME_CLOSED,
        "shop/web shop/none",
        expect![[r#"
        REJECT  tcp  shop/web 10.42.1.7 -> 10.43.0.2:80

        1 n1  source check  pass    10.42.1.7 is its own address
        2 n1  service       REJECT  shop/none has no ready endpoint
        pass if: shop/none had a ready endpoint
    "#]],
    );
    check(
        SOME_CLOSED,
        "shop/web 10.43.0.77:80",
        expect![[r#"
        REJECT  tcp  shop/web 10.42.1.7 -> 10.43.0.77:80

        1 n1  source check  pass    10.42.1.7 is its own address
        2 n1  service       REJECT  no service has TCP 10.43.0.77:80
        pass if: a service had TCP 10.43.0.77:80
    "#]],
    );
    check(
        SOME_CLOSED,
        "shop/web shop/each:8080",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/api-1 10.42.2.9:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  name                  shop/each is headless: its name leads to its pods
        3 n1  egress policy   pass  no policy selects shop/web for egress
        4 n1  vxlan -> n2     pass  to 192.168.0.2
        5 n2  ingress policy  pass  no policy selects shop/api-1 for ingress
    "#]],
    );
}

#[test]
fn node_ports_and_sources_by_service_are_followed() {
    check(
        SOME_CLOSED,
        "203.0.113.9 192.168.0.2:30080",
        expect![[r#"
        DROP  tcp  203.0.113.9 -> shop/api-0 10.42.3.9:8080

        1 n2  source check    pass  from outside of the cluster
        2 n2  service               192.168.0.2:30080 -> 10.42.3.9:8080 (shop/one)
        3 n2  vxlan -> n3     pass  to 192.168.0.3
        4 n3  ingress policy  DROP  NetworkPolicy shop/in
              ingress[0].from wants an address in 192.168.0.0/24; it is 203.0.113.9
        pass if: NetworkPolicy shop/in had an ingress rule that took 203.0.113.9 on 8080/tcp
    "#]],
    );
    check(
        SOME_CLOSED,
        "shop/web n2:30080",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/api-0 10.42.3.9:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
            3 n1  vxlan -> n2     pass  to 192.168.0.2
            4 n2  service               192.168.0.2:30080 -> 10.42.3.9:8080 (shop/one)
            5 n2  source                10.42.1.7 -> 192.168.0.2, so that the answer comes back this way
            6 n2  vxlan -> n3     pass  to 192.168.0.3
            7 n3  ingress policy  pass  NetworkPolicy shop/in, ingress[0]: 192.168.0.2 is in 192.168.0.0/24; any port
        "#]],
    );
    check(
        SOME_CLOSED,
        "shop/web n2:22",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> n2 192.168.0.2:22

        1 n1  source check   pass  10.42.1.7 is its own address
        2 n1  egress policy  pass  no policy selects shop/web for egress
        3 n1  vxlan -> n2    pass  to 192.168.0.2
        4 n2  node           pass  to a process of the node: policies end here
    "#]],
    );
    check(
        "",
        "shop/web n1:8472/udp",
        expect![[r#"
            DROP  udp  shop/web 10.42.1.7 -> n1 192.168.0.1:8472

            1 n1  source check   pass    10.42.1.7 is its own address
            2 n1  tunnel         DROP    the node takes tunnel packets from other nodes alone
            3 n1  egress policy  (pass)  no policy selects shop/web for egress
            pass if: the backend's port were another than 8472
        "#]],
    );
    check(
        "",
        "shop/web n2:8472/udp",
        expect![[r#"
        DROP  udp  shop/web 10.42.1.7 -> n2 192.168.0.2:8472

        1 n1  source check   pass  10.42.1.7 is its own address
        2 n1  egress policy  pass  no policy selects shop/web for egress
        3 n1  vxlan -> n2    pass  to 192.168.0.2
        4 n2  tunnel         DROP  the node takes tunnel packets from other nodes alone
        pass if: the backend's port were another than 8472
    "#]],
    );
    check(
        SOME_CLOSED,
        "shop/api shop/web:80",
        expect![[r#"
        PASS  tcp  shop/api-1 10.42.2.9 -> shop/web 10.42.1.7:80

        1 n2  source check    pass  10.42.2.9 is its own address
        2 n2  egress policy   pass  no policy selects shop/api-1 for egress
        3 n2  vxlan -> n1     pass  to 192.168.0.1
        4 n1  ingress policy  pass  no policy selects shop/web for ingress

        also PASS: shop/api-0 10.42.3.9 -> shop/web 10.42.1.7:80
    "#]],
    );
}

#[test]
fn the_family_that_is_asked_for_is_the_one_explained() {
    let block = "policy shop/in {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::/0'}}]}]}";
    let mut explainer = Explainer::new(world(&format!("{WORLD}\n{block}")), Some(1450));
    let question = Question::parse("ops/admin", "shop/web:80", "default").unwrap();
    for (family, verdict) in [(None, Outcome::Drop), (Some(Family::V4), Outcome::Drop), (Some(Family::V6), Outcome::Pass)] {
        let explanation = explainer.explain(&Question { family, ..question.clone() }).unwrap();
        assert!(explanation.agrees());
        assert_eq!(explanation.verdict, verdict, "{family:?}");
    }
}

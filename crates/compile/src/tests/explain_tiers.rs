//! Explanations of what ClusterNetworkPolicies decide, word by word.

use expect_test::expect;

use super::explain_table::check;

/// A policy of a tier about all pods.
fn cnp(name: &str, tier: &str, priority: u16, rules: &str) -> String {
    format!("cnp {name} {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}, {rules}}}\n")
}

const ADMINS_ONLY: &str =
    "policy shop/api-in {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: admin}}}]}]}\n";

#[test]
fn a_rule_that_denies_is_named() {
    let red = "ingress: [{name: no red, action: Deny, from: [{namespaces: {matchLabels: {team: red}}}], protocols: [{destinationNamedPort: http}]}]";
    check(
        &cnp("guard", "Admin", 5, red),
        "shop/web shop/near:8080",
        expect![[r#"
            DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: ClusterNetworkPolicy guard (Admin)
            3 n1  ingress policy  DROP  ClusterNetworkPolicy guard (Admin), ingress[0] `no red`, denies it
                  shop/web is among the pods of namespaces with team=red
                  8080/tcp is port `http` of shop/near
            pass if: an ingress rule that is asked before it accepted app=web (shop/web) on 8080/tcp
        "#]],
    );
    check(
        &cnp("floor", "Baseline", 5, red),
        "shop/web shop/near:8080",
        expect![[r#"
            DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: ClusterNetworkPolicy floor (Baseline)
            3 n1  ingress policy  DROP  ClusterNetworkPolicy floor (Baseline), ingress[0] `no red`, denies it
                  shop/web is among the pods of namespaces with team=red
                  8080/tcp is port `http` of shop/near
            pass if: an ingress rule that is asked before it accepted app=web (shop/web) on 8080/tcp, or a NetworkPolicy of shop had an ingress rule that took app=web (shop/web) on 8080/tcp
        "#]],
    );
    let out = "egress: [{action: Deny, to: [{networks: [192.0.2.0/24]}, {nodes: {}}]}]";
    check(
        &cnp("guard", "Admin", 5, out),
        "shop/web 192.0.2.1:443",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> 192.0.2.1:443

        1 n1  source check   pass    10.42.1.7 is its own address
        2 n1  egress policy  DROP    ClusterNetworkPolicy guard (Admin), egress[0], denies it
              192.0.2.1 is in 192.0.2.0/24
              any port
        3 n1  outside        (pass)  leaves the cluster as 192.168.0.1
        pass if: an egress rule that is asked before it accepted 192.0.2.1 on 443/tcp
    "#]],
    );
    check(
        &cnp("guard", "Admin", 5, out),
        "shop/web n2:22",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> n2 192.168.0.2:22

        1 n1  source check   pass    10.42.1.7 is its own address
        2 n1  egress policy  DROP    ClusterNetworkPolicy guard (Admin), egress[0], denies it
              192.168.0.2 is node n2's, one of the nodes
              any port
        3 n1  vxlan -> n2    (pass)  to 192.168.0.2
        4 n2  node           (pass)  to a process of the node: policies end here
        pass if: an egress rule that is asked before it accepted 192.168.0.2 on 22/tcp
    "#]],
    );
}

#[test]
fn a_rule_that_may_mean_a_pod_that_is_not_known_is_named() {
    let red = "[{namespaces: {matchLabels: {team: red}}}]";
    let ports = "protocols: [{destinationNamedPort: http}]";
    let out = cnp("guard", "Admin", 5, &format!("egress: [{{action: Deny, to: {red}, {ports}}}]"));
    // No rule that names ports takes a ping, whoever it is to.
    check(
        &out,
        "shop/web 10.42.2.99/icmp",
        expect![[r#"
        REJECT  icmp  shop/web 10.42.1.7 -> 10.42.2.99

        1 n1  source check   pass    10.42.1.7 is its own address
        2 n1  egress policy  pass    no NetworkPolicy selects shop/web for egress, and no rule of ClusterNetworkPolicy guard takes it
        3 n1  route          REJECT  no pod has 10.42.2.99: unreachable
        pass if: a pod had 10.42.2.99
    "#]],
    );
    check(
        &out,
        "shop/web 10.42.2.99:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> 10.42.2.99:8080

        1 n1  source check   pass      10.42.1.7 is its own address
        2 n1  egress policy  DROP      ClusterNetworkPolicy guard (Admin), egress[0] (unknown pod), denies it
              10.42.2.99 is an address for pods, and no pod is known to have it, so the rule may mean it
              8080/tcp
        3 n1  route          (REJECT)  no pod has 10.42.2.99: unreachable
        pass if: an egress rule that is asked before it accepted 10.42.2.99 on 8080/tcp
            and: a pod had 10.42.2.99
    "#]],
    );
}

#[test]
fn a_rule_that_accepts_is_named_and_what_it_passed_before() {
    let first = cnp(
        "first",
        "Admin",
        1,
        "ingress: [{action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]}]",
    );
    let second = cnp("second", "Admin", 2, "ingress: [{action: Deny, from: [{namespaces: {}}]}]");
    let accept = cnp("yes", "Admin", 0, "ingress: [{name: let in, action: Accept, from: [{namespaces: {}}]}]");
    check(
        &format!("{ADMINS_ONLY}{accept}"),
        "shop/web shop/near:8080",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: ClusterNetworkPolicy yes (Admin)
            3 n1  ingress policy  pass  ClusterNetworkPolicy yes (Admin), ingress[0] `let in`, accepts it: shop/web is among the pods of any namespace; any port
                  not asked, as ClusterNetworkPolicy yes (Admin) decides: NetworkPolicy shop/api-in
        "#]],
    );
    check(
        &format!("{ADMINS_ONLY}{first}{second}"),
        "shop/web shop/near:8080",
        expect![[r#"
            DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: ClusterNetworkPolicy first (Admin), ClusterNetworkPolicy second (Admin)
            3 n1  ingress policy  DROP  NetworkPolicy shop/api-in
                  ClusterNetworkPolicy first (Admin), ingress[0], passes it on: shop/web is among pods with app=web of any namespace; any port
                  ingress[0].from wants pods of shop with app=admin; shop/web has app=web
                  not asked, as ClusterNetworkPolicy first (Admin) passes it on: ClusterNetworkPolicy second (Admin)
            pass if: shop/web had app=admin, or NetworkPolicy shop/api-in had an ingress rule that took app=web (shop/web) on 8080/tcp
        "#]],
    );
    check(
        &format!("{first}{second}"),
        "shop/web shop/near:8080",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: ClusterNetworkPolicy first (Admin), ClusterNetworkPolicy second (Admin)
            3 n1  ingress policy  pass  no NetworkPolicy selects shop/near for ingress
                  ClusterNetworkPolicy first (Admin), ingress[0], passes it on: shop/web is among pods with app=web of any namespace; any port
                  not asked, as ClusterNetworkPolicy first (Admin) passes it on: ClusterNetworkPolicy second (Admin)
        "#]],
    );
    check(
        &cnp("other", "Admin", 0, "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}]"),
        "shop/web shop/near:8080",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
                  says nothing of egress: ClusterNetworkPolicy other (Admin)
            3 n1  ingress policy  pass  no NetworkPolicy selects shop/near for ingress, and no rule of ClusterNetworkPolicy other takes it
        "#]],
    );
}

#[test]
fn what_cannot_be_understood_says_so() {
    check(
        &cnp("names", "Admin", 0, "egress: [{action: Pass, to: [{domainNames: [example.com]}]}]"),
        "shop/web 192.0.2.1:443",
        expect![[r#"
            DROP  tcp  shop/web 10.42.1.7 -> 192.0.2.1:443

            1 n1  source check   pass    10.42.1.7 is its own address
            2 n1  egress policy  DROP    ClusterNetworkPolicy names (Admin), egress[0], denies it
                  domainNames are not supported, so the rule denies everything
            3 n1  outside        (pass)  leaves the cluster as 192.168.0.1
            pass if: an egress rule that is asked before it accepted 192.0.2.1 on 443/tcp
        "#]],
    );
    check(
        &cnp("odd", "Later", 0, "egress: []"),
        "shop/web 192.0.2.1:443",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> 192.0.2.1:443

        1 n1  source check   pass    10.42.1.7 is its own address
        2 n1  egress policy  DROP    ClusterNetworkPolicy odd (Admin), as a whole, denies it
              it cannot be understood, so it denies everything
        3 n1  outside        (pass)  leaves the cluster as 192.168.0.1
        pass if: an egress rule that is asked before it accepted 192.0.2.1 on 443/tcp
    "#]],
    );
    check(
        "pod lost/x 10.42.1.20 @n1 app=x +attached\ncnp any {tier: Admin, priority: 0, subject: {namespaces: {}}}",
        "lost/x 192.0.2.1:443",
        expect![[r#"
            DROP  tcp  lost/x 10.42.1.20 -> 192.0.2.1:443

            1 n1  source check   pass    10.42.1.20 is its own address
            2 n1  egress policy  DROP    the pod's Namespace is not known (yet, or any more), so it is closed
            3 n1  outside        (pass)  leaves the cluster as 192.168.0.1
        "#]],
    );
}

/// A policy of each tier about all pods, and two NetworkPolicies for each end.
fn one_of_each(admin: &str) -> String {
    let admin = cnp("guard", "Admin", 1, admin);
    let second = cnp("late", "Admin", 2, "ingress: [{action: Deny, from: [{namespaces: {}}]}]");
    let floor = cnp(
        "floor",
        "Baseline",
        1,
        "ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]",
    );
    let policies = "policy shop/web-a {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}
        policy shop/web-b {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress]}
        policy shop/api-a {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: admin}}}]}]}
        policy shop/api-b {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}";
    format!("{admin}{second}{floor}{policies}")
}

#[test]
fn every_policy_that_selects_an_end_is_told_with_why_it_does_not_decide() {
    let nothing = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}]";
    check(
        &one_of_each(nothing),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  NetworkPolicy shop/web-a, egress[0]: shop/near is among pods of shop; any port
              no rule takes it: NetworkPolicy shop/web-b
              not asked, as NetworkPolicies select the pod: ClusterNetworkPolicy floor (Baseline)
              says nothing of egress: ClusterNetworkPolicy guard (Admin), ClusterNetworkPolicy late (Admin)
        3 n1  ingress policy  DROP  ClusterNetworkPolicy late (Admin), ingress[0], denies it
              shop/web is among the pods of any namespace
              any port
              no rule takes it: ClusterNetworkPolicy guard (Admin)
              not asked, as ClusterNetworkPolicy late (Admin) decides: NetworkPolicy shop/api-a, NetworkPolicy shop/api-b, ClusterNetworkPolicy floor (Baseline)
        pass if: an ingress rule that is asked before it accepted app=web (shop/web) on 8080/tcp
    "#]],
    );
    let deny_both = "ingress: [{action: Deny, from: [{namespaces: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]";
    check(
        &one_of_each(deny_both),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass    10.42.1.7 is its own address
        2 n1  egress policy   DROP    ClusterNetworkPolicy guard (Admin), egress[0], denies it
              shop/near is among the pods of any namespace
              any port
              not asked, as ClusterNetworkPolicy guard (Admin) decides: NetworkPolicy shop/web-a, NetworkPolicy shop/web-b, ClusterNetworkPolicy floor (Baseline)
              says nothing of egress: ClusterNetworkPolicy late (Admin)
        3 n1  ingress policy  (DROP)  ClusterNetworkPolicy guard (Admin), ingress[0], denies it
              shop/web is among the pods of any namespace
              any port
              not asked, as ClusterNetworkPolicy guard (Admin) decides: ClusterNetworkPolicy late (Admin), NetworkPolicy shop/api-a, NetworkPolicy shop/api-b, ClusterNetworkPolicy floor (Baseline)
        pass if: an egress rule that is asked before it accepted app=api (shop/near) on 8080/tcp
            and: an ingress rule that is asked before it accepted app=web (shop/web) on 8080/tcp
    "#]],
    );
    let pass = "ingress: [{action: Pass, from: [{namespaces: {}}]}]";
    check(
        &one_of_each(pass),
        "shop/web shop/near:8080",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  NetworkPolicy shop/web-a, egress[0]: shop/near is among pods of shop; any port
              no rule takes it: NetworkPolicy shop/web-b
              not asked, as NetworkPolicies select the pod: ClusterNetworkPolicy floor (Baseline)
              says nothing of egress: ClusterNetworkPolicy guard (Admin), ClusterNetworkPolicy late (Admin)
        3 n1  ingress policy  pass  NetworkPolicy shop/api-b, ingress[0]: shop/web is among pods of shop with app=web; any port
              ClusterNetworkPolicy guard (Admin), ingress[0], passes it on: shop/web is among the pods of any namespace; any port
              not asked, as ClusterNetworkPolicy guard (Admin) passes it on: ClusterNetworkPolicy late (Admin)
              no rule takes it: NetworkPolicy shop/api-a
              not asked, as NetworkPolicies select the pod: ClusterNetworkPolicy floor (Baseline)
    "#]],
    );
}

#[test]
fn policies_of_an_end_that_none_is_asked_about_are_told_as_well() {
    let nothing = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}]";
    check(
        &one_of_each(nothing),
        "n1 shop/near:8080",
        expect![[r#"
        PASS  tcp  n1 192.168.0.1 -> shop/near 10.42.1.8:8080

        1 n1  source                a process in the node's own network
        2 n1  ingress policy  pass  a pod's own node always reaches it
              not asked, as a pod's own node always reaches it: ClusterNetworkPolicy guard (Admin), ClusterNetworkPolicy late (Admin), NetworkPolicy shop/api-a, NetworkPolicy shop/api-b, ClusterNetworkPolicy floor (Baseline)
    "#]],
    );
    check(
        &one_of_each(nothing),
        "shop/web shop/web:8080",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/web 10.42.1.7:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  a pod always reaches itself
              not asked, as a pod always reaches itself: NetworkPolicy shop/web-a, NetworkPolicy shop/web-b, ClusterNetworkPolicy floor (Baseline)
              says nothing of egress: ClusterNetworkPolicy guard (Admin), ClusterNetworkPolicy late (Admin)
        3 n1  ingress policy  pass  a pod always reaches itself
              not asked, as a pod always reaches itself: ClusterNetworkPolicy guard (Admin), ClusterNetworkPolicy late (Admin), NetworkPolicy shop/web-b, ClusterNetworkPolicy floor (Baseline)
              says nothing of ingress: NetworkPolicy shop/web-a
    "#]],
    );
}

#[test]
fn programs_are_given_every_policy_with_its_part() {
    let told = |admin: &str, source: &str| {
        let world = crate::testing::notation::world(&format!("{}\n{}", super::explain_table::WORLD, one_of_each(admin)));
        let question = crate::explain::Question::parse(source, "shop/near:8080", "default").unwrap();
        let explanation = crate::explain::Explainer::new(world, None).explain(&question).unwrap();
        let json = serde_json::to_value(&explanation.paths[0].steps).unwrap();
        let steps = json.as_array().unwrap().iter().flat_map(|step| step["policies"].as_array().cloned().unwrap_or_default());
        let words = |value: &serde_json::Value| value.as_str().unwrap_or("decides").to_owned();
        steps.map(|told| format!("{}: {}\n", words(&told["name"]), words(&told["passedOver"]))).collect::<String>()
    };
    let nothing = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}]";
    expect![[r#"
        shop/web-a: decides
        shop/web-b: no rule takes it
        floor: not asked, as NetworkPolicies select the pod
        guard: says nothing of egress
        late: says nothing of egress
        guard: no rule takes it
        late: decides
        shop/api-a: not asked, as ClusterNetworkPolicy late (Admin) decides
        shop/api-b: not asked, as ClusterNetworkPolicy late (Admin) decides
        floor: not asked, as ClusterNetworkPolicy late (Admin) decides
    "#]]
    .assert_eq(&told(nothing, "shop/web"));
    let accept = "ingress: [{action: Accept, from: [{namespaces: {}}]}], egress: [{action: Pass, to: [{namespaces: {}}]}]";
    expect![[r#"
        guard: passes it on
        shop/web-a: decides
        shop/web-b: no rule takes it
        floor: not asked, as NetworkPolicies select the pod
        late: says nothing of egress
        guard: decides
        late: not asked, as ClusterNetworkPolicy guard (Admin) decides
        shop/api-a: not asked, as ClusterNetworkPolicy guard (Admin) decides
        shop/api-b: not asked, as ClusterNetworkPolicy guard (Admin) decides
        floor: not asked, as ClusterNetworkPolicy guard (Admin) decides
    "#]]
    .assert_eq(&told(accept, "shop/web"));
    expect![[r#"
        guard: not asked, as a pod's own node always reaches it
        late: not asked, as a pod's own node always reaches it
        shop/api-a: not asked, as a pod's own node always reaches it
        shop/api-b: not asked, as a pod's own node always reaches it
        floor: not asked, as a pod's own node always reaches it
    "#]]
    .assert_eq(&told(accept, "n1"));
}

/// What programs are given of the policies about a connection from shop/web to shop/near on port 8080.
fn given(policies: &str) -> Vec<serde_json::Value> {
    let world = crate::testing::notation::world(&format!("{}\n{policies}", super::explain_table::WORLD));
    let question = crate::explain::Question::parse("shop/web", "shop/near:8080", "default").unwrap();
    let explanation = crate::explain::Explainer::new(world, None).explain(&question).unwrap();
    let json = serde_json::to_value(&explanation.paths[0].steps).unwrap();
    json.as_array().unwrap().iter().flat_map(|step| step["policies"].as_array().cloned().unwrap_or_default()).collect()
}

#[test]
fn ports_of_tiers_are_told_as_they_are_written() {
    let why = |protocols: &str| {
        let deny = format!("ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{protocols}]}}]");
        let given = given(&cnp("guard", "Admin", 5, &deny));
        given.iter().filter_map(|told| Some(told["why"].as_array()?.get(1)?.as_str()?.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(why("{tcp: {destinationPort: {number: 8080}}}"), ["8080/tcp"]);
    assert_eq!(why("{tcp: {destinationPort: {range: {start: 8000, end: 9000}}}}"), ["8080/tcp is 8000-9000/tcp"]);
    assert_eq!(why("{udp: {destinationPort: {number: 8080}}}, {destinationNamedPort: http}"), ["8080/tcp is port `http` of shop/near"]);
}

#[test]
fn what_passes_on_in_the_last_tier_decides() {
    let told = |tier: &str, action: &str| {
        let given = given(&cnp("guard", tier, 5, &format!("ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]")));
        let told = given.into_iter().find(|told| told["rule"] == "ingress[0]").unwrap();
        (told["allows"].as_bool().unwrap(), told["passedOver"].as_str().map(str::to_owned))
    };
    let passes_on = Some("passes it on".to_owned());
    for (tier, action, expected) in [
        ("Admin", "Accept", (true, None)),
        ("Admin", "Deny", (false, None)),
        ("Admin", "Pass", (false, passes_on)),
        ("Baseline", "Accept", (true, None)),
        ("Baseline", "Deny", (false, None)),
        ("Baseline", "Pass", (false, None)),
    ] {
        assert_eq!(told(tier, action), expected, "{action} in {tier}");
    }
}

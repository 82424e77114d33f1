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
        3 n1  ingress policy  pass  ClusterNetworkPolicy yes (Admin), ingress[0] `let in`, accepts it: shop/web is among the pods of any namespace; any port
    "#]],
    );
    check(
        &format!("{ADMINS_ONLY}{first}{second}"),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
        3 n1  ingress policy  DROP  NetworkPolicy shop/api-in
              ClusterNetworkPolicy first (Admin), ingress[0], passes it on: shop/web is among pods with app=web of any namespace; any port
              ingress[0].from wants pods of shop with app=admin; shop/web has app=web
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
        3 n1  ingress policy  pass  no NetworkPolicy selects shop/near for ingress
              ClusterNetworkPolicy first (Admin), ingress[0], passes it on: shop/web is among pods with app=web of any namespace; any port
    "#]],
    );
    check(
        &cnp("other", "Admin", 0, "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: blue}}}]}]"),
        "shop/web shop/near:8080",
        expect![[r#"
            PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass  10.42.1.7 is its own address
            2 n1  egress policy   pass  no policy selects shop/web for egress
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

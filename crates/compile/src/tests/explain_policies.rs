//! Explanations of what NetworkPolicies want and what there is instead, word by word, and what programs are given of it.

use expect_test::expect;

use super::explain_table::{WORLD, check};
use crate::explain::{Explainer, Question};
use crate::testing::notation::world;

/// What is told of policies about a connection to shop/near on port 8080, one a line: name, whether it allows, by which rule, and why it does not decide.
fn told(policies: &str, source: &str) -> String {
    let question = Question::parse(source, "shop/near:8080", "default").unwrap();
    let explanation = Explainer::new(world(&format!("{WORLD}\n{policies}")), None).explain(&question).unwrap();
    let json = serde_json::to_value(&explanation.paths[0].steps).unwrap();
    let steps = json.as_array().unwrap().iter().flat_map(|step| step["policies"].as_array().cloned().unwrap_or_default());
    let line = |told: serde_json::Value| format!("{} {} {} {}\n", told["name"], told["allows"], told["rule"], told["passedOver"]);
    steps.map(line).collect()
}

const ONLY_ADMINS: &str =
    "policy shop/one {podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: admin}}}]}]}";

#[test]
fn what_several_policies_want_is_told_with_their_names() {
    let other = "policy shop/two {podSelector: {}, ingress: [{ports: [{port: 443}]}]}";
    check(
        &format!("{ONLY_ADMINS}\n{other}"),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
              says nothing of egress: NetworkPolicy shop/two
        3 n1  ingress policy  DROP  NetworkPolicy shop/one, shop/two
              shop/one: ingress[0].from wants pods of shop with app=admin; shop/web has app=web
              shop/two: ingress[0].ports wants 443/tcp; it is 8080/tcp
        pass if: shop/web had app=admin, or the port were 443/tcp, or one of these policies had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    expect![[r#"
        "shop/two" false null "says nothing of egress"
        "shop/one" false null null
        "shop/two" false null null
    "#]]
    .assert_eq(&told(&format!("{ONLY_ADMINS}\n{other}"), "shop/web"));
    let opens =
        "policy shop/three {podSelector: {}, ingress: [{}]}\npolicy shop/four {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}";
    expect![[r#"
        "shop/four" false null "says nothing of egress"
        "shop/three" false null "says nothing of egress"
        "shop/four" true "ingress[0]" null
        "shop/one" false null "no rule takes it"
        "shop/three" true "ingress[0]" "takes it as well"
    "#]]
    .assert_eq(&told(&format!("{ONLY_ADMINS}\n{opens}"), "shop/web"));
}

#[test]
fn a_policy_that_cannot_be_understood_says_so() {
    let policy = |selector: &str| format!("policy shop/odd {{podSelector: {selector}, ingress: [{{}}]}}");
    check(
        &policy("{matchExpressions: [{key: app, operator: Is}]}"),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass    10.42.1.7 is its own address
        2 n1  egress policy   DROP    NetworkPolicy shop/odd
              cannot be understood, so it lets nothing through
        3 n1  ingress policy  (DROP)  NetworkPolicy shop/odd
              cannot be understood, so it lets nothing through
        pass if: NetworkPolicy shop/odd were corrected, or NetworkPolicy shop/odd had an egress rule that took app=api (shop/near) on 8080/tcp
            and: NetworkPolicy shop/odd were corrected, or NetworkPolicy shop/odd had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        "policy shop/odd {podSelector: 7}",
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass    10.42.1.7 is its own address
        2 n1  egress policy   DROP    NetworkPolicy shop/odd
              cannot be understood, so it lets nothing through
        3 n1  ingress policy  (DROP)  NetworkPolicy shop/odd
              cannot be understood, so it lets nothing through
        pass if: NetworkPolicy shop/odd were corrected, or NetworkPolicy shop/odd had an egress rule that took app=api (shop/near) on 8080/tcp
            and: NetworkPolicy shop/odd were corrected, or NetworkPolicy shop/odd had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
}

#[test]
fn a_pod_is_told_by_labels_that_people_gave_it() {
    let pod = |labels: &str| format!("pod shop/new 10.42.2.20 @n2 {labels}\n{ONLY_ADMINS}");
    for (labels, expected) in [
        ("app=x pod-template-hash=1 tier=y", "app=x, tier=y (shop/new)"),
        ("controller-revision-hash=2 apps.kubernetes.io/pod-index=0", "shop/new"),
        ("a=1 b=2 c=3", "a=1, b=2 (shop/new)"),
    ] {
        let question = Question::parse("shop/new", "shop/near:8080", "default").unwrap();
        let explanation = Explainer::new(world(&format!("{WORLD}\n{}", pod(labels))), None).explain(&question).unwrap();
        let text = explanation.render(&|_, word| word.to_owned());
        assert!(text.contains(&format!("an ingress rule that took {expected} on 8080/tcp")), "{text}");
    }
}

#[test]
fn each_operator_has_its_words() {
    let wants = |expressions: &str| {
        format!("policy shop/odd {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchExpressions: [{expressions}]}}}}]}}]}}")
    };
    check(
        &wants("{key: app, operator: In, values: [a, b]}"),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
              says nothing of egress: NetworkPolicy shop/odd
        3 n1  ingress policy  DROP  NetworkPolicy shop/odd
              ingress[0].from wants pods of shop with app in (a, b); shop/web has app=web
        pass if: shop/web had app in (a, b), or NetworkPolicy shop/odd had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        &wants("{key: app, operator: NotIn, values: [web, api]}"),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
              says nothing of egress: NetworkPolicy shop/odd
        3 n1  ingress policy  DROP  NetworkPolicy shop/odd
              ingress[0].from wants pods of shop with app not in (api, web); shop/web has app=web
        pass if: shop/web had another app, or NetworkPolicy shop/odd had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    check(
        &wants("{key: tier, operator: Exists}, {key: app, operator: DoesNotExist}"),
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
              says nothing of egress: NetworkPolicy shop/odd
        3 n1  ingress policy  DROP  NetworkPolicy shop/odd
              ingress[0].from wants pods of shop with no app, any tier; shop/web has app=web, shop/web has no tier
        pass if: shop/web had no app and shop/web had any tier, or NetworkPolicy shop/odd had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    let spaces = "policy shop/odd {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}, podSelector: {matchLabels: {app: a}}}]}]}";
    check(
        spaces,
        "shop/web shop/near:8080",
        expect![[r#"
        DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  no policy selects shop/web for egress
              says nothing of egress: NetworkPolicy shop/odd
        3 n1  ingress policy  DROP  NetworkPolicy shop/odd
              ingress[0].from wants pods with app=a of namespaces with team=blue; Namespace shop has team=red, shop/web has app=web
        pass if: Namespace shop had team=blue and shop/web had app=a, or NetworkPolicy shop/odd had an ingress rule that took app=web (shop/web) on 8080/tcp
    "#]],
    );
    let unknown = format!("pod lost/p 10.42.2.30 @n2 app=a\n{spaces}");
    check(
        &unknown,
        "lost/p shop/near:8080",
        expect![[r#"
        DROP  tcp  lost/p 10.42.2.30 -> shop/near 10.42.1.8:8080

        1 n2  source check    pass  10.42.2.30 is its own address
        2 n2  egress policy   pass  no policy selects lost/p for egress
        3 n2  vxlan -> n1     pass  to 192.168.0.1
        4 n1  ingress policy  DROP  NetworkPolicy shop/odd
              ingress[0].from wants pods with app=a of namespaces with team=blue; Namespace lost is not known
        pass if: NetworkPolicy shop/odd had an ingress rule that took app=a (lost/p) on 8080/tcp
    "#]],
    );
}

#[test]
fn egress_and_its_ports_are_told_likewise() {
    let policy =
        |rules: &str| format!("policy shop/out {{podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{rules}]}}");
    check(
        &policy(
            "{to: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 9}]}, {ports: [{port: dns, protocol: UDP}]}",
        ),
        "shop/web shop/near:8080",
        expect![[r#"
            DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass    10.42.1.7 is its own address
            2 n1  egress policy   DROP    NetworkPolicy shop/out
                  egress[0].to[0] wants pods of shop with app=db; shop/near has app=api
                  egress[0].to[1] wants an address in 192.0.2.0/24; it is 10.42.1.8
                  egress[0].ports wants 9/tcp; it is 8080/tcp
                  egress[1].ports wants port `dns`/udp; it is 8080/tcp
            3 n1  ingress policy  (pass)  no policy selects shop/near for ingress
            pass if: shop/near had app=db and the port were 9/tcp, or the port were port `dns`/udp, or NetworkPolicy shop/out had an egress rule that took app=api (shop/near) on 8080/tcp
        "#]],
    );
    check(
        &policy("{ports: [{port: http}]}"),
        "shop/web shop/near:8080",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  NetworkPolicy shop/out, egress[0]: any peer; 8080/tcp is port `http`/tcp
        3 n1  ingress policy  pass  no policy selects shop/near for ingress
    "#]],
    );
    check(
        &policy("{ports: [{port: 8000, endPort: 9000}]}"),
        "shop/web shop/near:8080",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  NetworkPolicy shop/out, egress[0]: any peer; 8080/tcp is 8000-9000/tcp
        3 n1  ingress policy  pass  no policy selects shop/near for ingress
    "#]],
    );
    check(
        &policy("{ports: [{}]}"),
        "shop/web shop/near:8080",
        expect![[r#"
        PASS  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

        1 n1  source check    pass  10.42.1.7 is its own address
        2 n1  egress policy   pass  NetworkPolicy shop/out, egress[0]: any peer; 8080/tcp is any tcp port
        3 n1  ingress policy  pass  no policy selects shop/near for ingress
    "#]],
    );
    check(
        &policy("{ports: [{port: 8080}]}"),
        "shop/web shop/near/icmp",
        expect![[r#"
        DROP  icmp  shop/web 10.42.1.7 -> shop/near 10.42.1.8

        1 n1  source check    pass    10.42.1.7 is its own address
        2 n1  egress policy   DROP    NetworkPolicy shop/out
              egress[0].ports wants 8080/tcp; it is icmp, which has no port
        3 n1  ingress policy  (pass)  no policy selects shop/near for ingress
        pass if: NetworkPolicy shop/out, egress[0] named no ports, or NetworkPolicy shop/out had an egress rule that took app=api (shop/near) on any port, and so icmp
    "#]],
    );
    check(
        &policy("{to: [{podSelector: {}, ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: UPPER}]}"),
        "shop/web shop/near:8080",
        expect![[r#"
            DROP  tcp  shop/web 10.42.1.7 -> shop/near 10.42.1.8:8080

            1 n1  source check    pass    10.42.1.7 is its own address
            2 n1  egress policy   DROP    NetworkPolicy shop/out
                  egress[0].to has an ipBlock beside selectors, which matches nothing
                  egress[0].ports wants (a port that cannot be understood); it is 8080/tcp
            3 n1  ingress policy  (pass)  no policy selects shop/near for ingress
            pass if: NetworkPolicy shop/out had an egress rule that took app=api (shop/near) on 8080/tcp
        "#]],
    );
}

#[test]
fn of_many_policies_some_are_named_and_the_others_counted() {
    let silent = |count: usize| {
        let policies: String =
            (0..count).map(|number| format!("policy shop/p{number:02} {{podSelector: {{}}, ingress: [{{}}]}}\n")).collect();
        let question = Question::parse("shop/web", "ops/admin:80", "default").unwrap();
        let explanation = Explainer::new(world(&format!("{WORLD}\n{policies}")), None).explain(&question).unwrap();
        let text = explanation.render(&|_, word| word.to_owned());
        text.lines().find_map(|line| line.trim().strip_prefix("says nothing of egress: ").map(str::to_owned)).unwrap()
    };
    let named = |count: usize| (0..count).map(|number| format!("NetworkPolicy shop/p{number:02}")).collect::<Vec<_>>().join(", ");
    assert_eq!(silent(2), named(2));
    assert_eq!(silent(8), named(8));
    assert_eq!(silent(10), format!("{} and 2 more", named(8)));
}

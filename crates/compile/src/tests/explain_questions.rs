//! Questions that cannot be answered as they are asked, word by word: what there is not, what is missing, and what to ask in its place.

use expect_test::expect;

use super::explain_table::check;

/// Beside the world, a name of both kinds, a pod that waits and an alias.
const MORE: &str = "svc shop/web 10.43.0.5 :http:80/tcp :alt:81/tcp\npod shop/late @n1 app=x\nsvc shop/alias :http:80/tcp type=ExternalName name=www.example.com";

#[test]
fn names_and_ports_that_are_not_there_say_what_there_is() {
    for (question, expected) in [
        (
            "shop/nobody shop/api:80",
            expect![[r#"
            error[BW4102]: there is no pod and no service shop/nobody
             where: SRC
             fix:   look at kubectl get pods,services -A and kubectl get nodes
             more:  bowline help BW4102
        "#]],
        ),
        (
            "shop/near shop/web:80",
            expect![[r#"
            error[BW4103]: shop/web is a pod and a service
             where: DST
             fix:   write pod/shop/web or svc/shop/web
             more:  bowline help BW4103
        "#]],
        ),
        (
            "shop/near svc/shop/web",
            expect![[r#"
            error[BW4105]: service shop/web has several ports
             where: DST
             fix:   it has 80/tcp (http), 81/tcp (alt)
             more:  bowline help BW4105
        "#]],
        ),
        (
            "shop/near shop/api:8080",
            expect![[r#"
            error[BW4105]: service shop/api has no such port
             where: DST
             fix:   it has 80/tcp (http)
             more:  bowline help BW4105
        "#]],
        ),
        (
            "shop/near pod/shop/web",
            expect![[r#"
            error[BW4105]: pod shop/web names no port of its own
             where: DST
             fix:   write one after a colon, by its number
             more:  bowline help BW4105
        "#]],
        ),
    ] {
        check(MORE, question, expected);
    }
}

#[test]
fn ends_without_an_address_say_why() {
    for (question, expected) in [
        (
            "shop/near shop/late:80",
            expect![[r#"
            error[BW4104]: pod shop/late has no address (yet)
             where: DST
             fix:   look at kubectl get -o wide, and ask for an address instead
             more:  bowline help BW4104
        "#]],
        ),
        (
            "shop/near shop/alias:80",
            expect![[r#"
            error[BW4104]: service shop/alias is another name of `www.example.com`, and has no address of its own
             where: DST
             fix:   look at kubectl get -o wide, and ask for an address instead
             more:  bowline help BW4104
        "#]],
        ),
        (
            "10.42.9.9 shop/api:80",
            expect![[r#"
            error[BW4102]: 10.42.9.9 is an address of the pod network that no pod holds
             where: SRC
             fix:   look at kubectl get pods,services -A and kubectl get nodes
             more:  bowline help BW4102
        "#]],
        ),
        (
            "shop/near 10.42.9.9:80",
            expect![[r#"
            REJECT  tcp  shop/near 10.42.1.8 -> 10.42.9.9:80

            1 n1  source check   pass    10.42.1.8 is its own address
            2 n1  egress policy  pass    no policy selects shop/near for egress
            3 n1  route          REJECT  no pod has 10.42.9.9: unreachable
            pass if: a pod had 10.42.9.9
        "#]],
        ),
    ] {
        check(MORE, question, expected);
    }
}

#[test]
fn what_is_missing_in_a_question_is_asked_for() {
    for (question, expected) in [
        (
            "shop/near 10.42.9.9",
            expect![[r#"
                error[BW4105]: 10.42.9.9 needs a port by its number
                 where: DST
                 fix:   write it after a colon, e.g. 192.0.2.1:443, or ask for /icmp
                 more:  bowline help BW4105
            "#]],
        ),
        (
            "ops/agent fd42:1::8",
            expect![[r#"
                error[BW4105]: shop/near needs a port by its number
                 where: DST
                 fix:   write it after a colon, e.g. 192.0.2.1:443, or ask for /icmp
                 more:  bowline help BW4105
            "#]],
        ),
        (
            "ops/agent [fd42:1::8]:80",
            expect![[r#"
            PASS  tcp  ops/agent (in n2's own network) fd00::2 -> shop/near [fd42:1::8]:80

            1 n2  source                a process in the node's own network
            2 n2  vxlan -> n1     pass  to fd00::1
            3 n1  ingress policy  pass  no policy selects shop/near for ingress
        "#]],
        ),
        (
            "shop/none shop/near:80",
            expect![[r#"
            error[BW4104]: service shop/none has no ready endpoint that could begin
             where: SRC
             fix:   look at kubectl get -o wide, and ask for an address instead
             more:  bowline help BW4104
        "#]],
        ),
    ] {
        check(MORE, question, expected);
    }
}

//! Network policy, and what is closed before it is known.

use expect_test::expect;

use super::check;

#[test]
fn a_pod_without_policy_is_open_and_one_not_known_yet_is_closed() {
    check(
        "pods a b
         closed c
         svc v1:80/tcp -> c:80
         np 30080/tcp -> c:80",
        "a -> b:80/tcp
         a -> c:80/tcp
         c -> a:80/tcp
         c -> out:80/tcp
         c -> n1:10250/tcp
         c -> n1:10250/tcp icmp
         n1 -> c:80/tcp
         n1 -> v1:80/tcp
         x -> c:80/tcp
         out -> n1:30080/tcp
         c -> v1:80/tcp
         c -> out:80/tcp known
         c -> n1:80/tcp known
         out -> c:80/tcp known
         n1 -> c:80/tcp known
         out -> b:80/tcp known",
        expect![[r#"
            a -> b:80/tcp => bwlb: a -> b:80
            a -> c:80/tcp => drop: closed until its policy is in force
            c -> a:80/tcp => drop: closed until its policy is in force
            c -> out:80/tcp => drop: closed until its policy is in force
            c -> n1:10250/tcp => drop: closed until its policy is in force
            c -> n1:10250/tcp icmp => drop: closed until its policy is in force
            n1 -> c:80/tcp => drop: closed until its policy is in force
            n1 -> v1:80/tcp => drop: closed until its policy is in force
            x -> c:80/tcp => drop: closed until its policy is in force
            out -> n1:30080/tcp => drop: closed until its policy is in force
            c -> v1:80/tcp => drop: closed until its policy is in force
            c -> out:80/tcp known => drop: closed until its policy is in force
            c -> n1:80/tcp known => drop: closed until its policy is in force
            out -> c:80/tcp known => drop: closed until its policy is in force
            n1 -> c:80/tcp known => drop: closed until its policy is in force
            out -> b:80/tcp known => bwlb: out -> b:80
        "#]],
    );
}

#[test]
fn what_does_not_fit_its_connection_reaches_nobody() {
    check(
        "pods a b",
        "a -> b:80/tcp misfit
         x -> b:80/tcp misfit
         a -> x:80/tcp misfit
         a -> out:80/tcp misfit
         a -> n1:80/tcp misfit
         n1 -> a:80/tcp misfit
         a -> b:53/udp misfit
         a -> b:80/tcp icmp misfit
         x -> y:80/tcp misfit",
        expect![[r#"
            a -> b:80/tcp misfit => drop: TCP that does not fit its connection
            x -> b:80/tcp misfit => drop: TCP that does not fit its connection
            a -> x:80/tcp misfit => drop: TCP that does not fit its connection
            a -> out:80/tcp misfit => drop: TCP that does not fit its connection
            a -> n1:80/tcp misfit => drop: TCP that does not fit its connection
            n1 -> a:80/tcp misfit => bwla: n1 -> a:80
            a -> b:53/udp misfit => bwlb: a -> b:53
            a -> b:80/tcp icmp misfit => bwlb: a -> b:80
            x -> y:80/tcp misfit => bowline.1 by gw3: x -> y:80
        "#]],
    );
}

#[test]
fn ingress_lets_in_what_a_rule_says() {
    check(
        "pods a b c
         policy web b in: a tcp/80 | x,net!out * | * udp/53-60
         svc v1:80/tcp -> b:80
         svc v1:81/tcp -> b:81",
        "a -> b:80/tcp
         a -> b:81/tcp
         a -> v1:80/tcp
         a -> v1:81/tcp
         a -> b:80/tcp icmp
         c -> b:80/tcp
         c -> b:53/udp
         c -> b:60/udp
         c -> b:61/udp
         c -> b:53/tcp
         x -> b:81/tcp
         x -> b:81/tcp icmp
         y -> b:81/tcp
         out -> b:81/tcp
         b -> a:1/tcp
         b -> out:1/tcp
         n1 -> b:81/tcp
         b -> b:81/tcp
         b -> v1:81/tcp
         c -> b:80/tcp known
         a -> b:80/tcp ack
         b -> a:80/tcp ack",
        expect![[r#"
            a -> b:80/tcp => bwlb: a -> b:80
            a -> b:81/tcp => drop: ingress denied: shop/web
            a -> v1:80/tcp => bwlb: a -> b:80
            a -> v1:81/tcp => drop: ingress denied: shop/web
            a -> b:80/tcp icmp => drop: ingress denied: shop/web
            c -> b:80/tcp => drop: ingress denied: shop/web
            c -> b:53/udp => bwlb: c -> b:53
            c -> b:60/udp => bwlb: c -> b:60
            c -> b:61/udp => drop: ingress denied: shop/web
            c -> b:53/tcp => drop: ingress denied: shop/web
            x -> b:81/tcp => bwlb: x -> b:81
            x -> b:81/tcp icmp => bwlb: x -> b:81
            y -> b:81/tcp => drop: ingress denied: shop/web
            out -> b:81/tcp => drop: ingress denied: shop/web
            b -> a:1/tcp => bwla: b -> a:1
            b -> out:1/tcp => eth0: n1 -> out:1
            n1 -> b:81/tcp => bwlb: n1 -> b:81
            b -> b:81/tcp => bwlb: b -> b:81
            b -> v1:81/tcp => bwlb: n1 -> b:81
            c -> b:80/tcp known => bwlb: c -> b:80
            a -> b:80/tcp ack => drop: TCP of no connection
            b -> a:80/tcp ack => drop: TCP of no connection
        "#]],
    );
}

#[test]
fn each_packet_of_a_flow_that_is_held_is_judged_by_its_own_direction() {
    check(
        "pods a b c
         policy web b in: c udp/53
         policy mute c out:",
        "a -> b:53/udp known
         a -> b:53/udp held
         b -> a:4000/udp held
         x -> b:53/udp held
         b -> x:4000/udp held
         c -> b:53/udp known
         c -> b:53/udp held
         b -> c:4000/udp held
         n1 -> b:53/udp held
         c -> n1:53/udp held",
        expect![[r#"
            a -> b:53/udp known => bwlb: a -> b:53
            a -> b:53/udp held => drop: ingress denied: shop/web
            b -> a:4000/udp held => bwla: b -> a:4000
            x -> b:53/udp held => drop: ingress denied: shop/web
            b -> x:4000/udp held => bowline.1 by gw2: b -> x:4000
            c -> b:53/udp known => bwlb: c -> b:53
            c -> b:53/udp held => drop: egress denied: shop/mute
            b -> c:4000/udp held => bwlc: b -> c:4000
            n1 -> b:53/udp held => bwlb: n1 -> b:53
            c -> n1:53/udp held => drop: egress denied: shop/mute
        "#]],
    );
}

#[test]
fn a_service_opens_no_shut_pod_but_to_itself() {
    check(
        "pods a b c
         policy none-in b in:
         policy none-out b out:
         svc v1:80/tcp -> b:80
         svc v2:80/tcp -> c:80
         np 30080/tcp -> b:80",
        "a -> b:80/tcp
         a -> v1:80/tcp
         n1 -> v1:80/tcp
         out -> n1:30080/tcp
         a -> b:80/tcp icmp
         b -> v1:80/tcp
         b -> b:80/tcp
         b -> b:80/tcp icmp
         b -> v2:80/tcp
         b -> c:80/tcp icmp",
        expect![[r#"
            a -> b:80/tcp => drop: ingress denied: shop/none-in
            a -> v1:80/tcp => drop: ingress denied: shop/none-in
            n1 -> v1:80/tcp => bwlb: n1 -> b:80
            out -> n1:30080/tcp => drop: ingress denied: shop/none-in
            a -> b:80/tcp icmp => drop: ingress denied: shop/none-in
            b -> v1:80/tcp => bwlb: n1 -> b:80
            b -> b:80/tcp => bwlb: b -> b:80
            b -> b:80/tcp icmp => bwlb: b -> b:80
            b -> v2:80/tcp => drop: egress denied: shop/none-out
            b -> c:80/tcp icmp => drop: egress denied: shop/none-out
        "#]],
    );
}

#[test]
fn egress_lets_out_what_a_rule_says() {
    check(
        "pods a b c
         policy only-dns a out: * udp/53,tcp/53 | b named | net tcp/1000-2000,udp
         svc v1:53/udp -> c:53
         svc v1:80/tcp -> c:80
         svc v2:8080/tcp -> b:8080",
        "a -> c:53/udp
         a -> c:53/tcp
         a -> c:54/tcp
         a -> v1:53/udp
         a -> v1:80/tcp
         a -> v2:8080/tcp
         a -> b:8080/tcp
         a -> b:8081/tcp
         a -> c:8080/tcp
         a -> out:1000/tcp
         a -> out:2000/tcp
         a -> out:2001/tcp
         a -> out:9/udp
         a -> far:1000/tcp
         a -> n1:22/tcp
         a -> n1:53/udp
         a -> n2:22/tcp
         c -> a:80/tcp
         c -> a:80/tcp ack
         a -> c:80/tcp known",
        expect![[r#"
            a -> c:53/udp => bwlc: a -> c:53
            a -> c:53/tcp => bwlc: a -> c:53
            a -> c:54/tcp => drop: egress denied: shop/only-dns
            a -> v1:53/udp => bwlc: a -> c:53
            a -> v1:80/tcp => drop: egress denied: shop/only-dns
            a -> v2:8080/tcp => bwlb: a -> b:8080
            a -> b:8080/tcp => bwlb: a -> b:8080
            a -> b:8081/tcp => drop: egress denied: shop/only-dns
            a -> c:8080/tcp => drop: egress denied: shop/only-dns
            a -> out:1000/tcp => eth0: n1 -> out:1000
            a -> out:2000/tcp => eth0: n1 -> out:2000
            a -> out:2001/tcp => drop: egress denied: shop/only-dns
            a -> out:9/udp => eth0: n1 -> out:9
            a -> far:1000/tcp => drop: egress denied: shop/only-dns
            a -> n1:22/tcp => drop: egress denied: shop/only-dns
            a -> n1:53/udp => node: a -> n1:53
            a -> n2:22/tcp => drop: egress denied: shop/only-dns
            c -> a:80/tcp => bwla: c -> a:80
            c -> a:80/tcp ack => drop: TCP of no connection
            a -> c:80/tcp known => bwlc: a -> c:80
        "#]],
    );
}

#[test]
fn both_ends_must_agree_and_policies_add_up() {
    check(
        "pods a b c
         policy out-b a out: b *
         policy in-80 b in: * tcp/80
         policy in-81 b in: a tcp/81
         policy none c in:
         policy nothing-out c out:
         policy no-ports b in: a -",
        "a -> b:80/tcp
         a -> b:81/tcp
         a -> b:82/tcp
         c -> b:80/tcp
         x -> b:80/tcp
         x -> b:81/tcp
         a -> c:80/tcp
         a -> out:80/tcp
         n1 -> c:80/tcp
         c -> n1:80/tcp
         b -> c:1/udp",
        expect![[r#"
            a -> b:80/tcp => bwlb: a -> b:80
            a -> b:81/tcp => bwlb: a -> b:81
            a -> b:82/tcp => drop: ingress denied: shop/in-80 shop/in-81 shop/no-ports
            c -> b:80/tcp => drop: egress denied: shop/nothing-out
            x -> b:80/tcp => bwlb: x -> b:80
            x -> b:81/tcp => drop: ingress denied: shop/in-80 shop/in-81 shop/no-ports
            a -> c:80/tcp => drop: egress denied: shop/out-b
            a -> out:80/tcp => drop: egress denied: shop/out-b
            n1 -> c:80/tcp => bwlc: n1 -> c:80
            c -> n1:80/tcp => drop: egress denied: shop/nothing-out
            b -> c:1/udp => drop: ingress denied: shop/none
        "#]],
    );
}

#[test]
fn many_ports_and_peers_become_sets_and_a_chain() {
    check(
        "pods a b c
         policy wide b in: a,net tcp/1,tcp/3,tcp/5,tcp/7-9,tcp/8-20,udp/5,sctp",
        "a -> b:1/tcp
         a -> b:2/tcp
         a -> b:9/tcp
         a -> b:20/tcp
         a -> b:21/tcp
         a -> b:5/udp
         a -> b:7/udp
         a -> b:7/sctp
         out -> b:20/tcp
         c -> b:20/tcp",
        expect![[r#"
            a -> b:1/tcp => bwlb: a -> b:1
            a -> b:2/tcp => drop: ingress denied: shop/wide
            a -> b:9/tcp => bwlb: a -> b:9
            a -> b:20/tcp => bwlb: a -> b:20
            a -> b:21/tcp => drop: ingress denied: shop/wide
            a -> b:5/udp => bwlb: a -> b:5
            a -> b:7/udp => drop: ingress denied: shop/wide
            a -> b:7/sctp => bwlb: a -> b:7
            out -> b:20/tcp => bwlb: out -> b:20
            c -> b:20/tcp => drop: ingress denied: shop/wide
        "#]],
    );
}

#[test]
fn tiers_are_asked_around_the_policies() {
    check(
        "pods a b c
         cnp guard admin b in: accept a tcp/80 | pass a,x tcp/81,udp/53 | deny a * | pass net *
         cnp later admin b in: deny x,net tcp/82
         policy web b in: x,a tcp/81,tcp/82
         cnp floor baseline b in: accept * *
         cnp floor baseline b out: accept a * | pass x tcp/1 | deny * *
         cnp named admin c in: deny * named | pass * *
         cnp named baseline c in: deny a tcp/8080",
        "a -> b:80/tcp
         a -> b:81/tcp
         a -> b:82/tcp
         a -> b:80/tcp ack
         x -> b:81/tcp
         x -> b:82/tcp
         x -> b:83/tcp
         x -> b:53/udp
         out -> b:82/tcp
         n1 -> b:82/tcp
         b -> b:82/tcp
         b -> a:9/tcp
         b -> x:1/tcp
         b -> x:2/tcp
         b -> out:1/udp
         a -> b:82/tcp known
         a -> c:8080/tcp
         x -> c:8080/tcp",
        expect![[r#"
            a -> b:80/tcp => bwlb: a -> b:80
            a -> b:81/tcp => bwlb: a -> b:81
            a -> b:82/tcp => drop: ingress denied: guard ingress[2]
            a -> b:80/tcp ack => drop: TCP of no connection
            x -> b:81/tcp => bwlb: x -> b:81
            x -> b:82/tcp => drop: ingress denied: later ingress[0]
            x -> b:83/tcp => drop: ingress denied: shop/web
            x -> b:53/udp => drop: ingress denied: shop/web
            out -> b:82/tcp => drop: ingress denied: shop/web
            n1 -> b:82/tcp => bwlb: n1 -> b:82
            b -> b:82/tcp => bwlb: b -> b:82
            b -> a:9/tcp => bwla: b -> a:9
            b -> x:1/tcp => bowline.1 by gw2: b -> x:1
            b -> x:2/tcp => drop: egress denied: floor egress[2]
            b -> out:1/udp => drop: egress denied: floor egress[2]
            a -> b:82/tcp known => bwlb: a -> b:82
            a -> c:8080/tcp => drop: ingress denied: named ingress[0]
            x -> c:8080/tcp => bwlc: x -> c:8080
        "#]],
    );
}

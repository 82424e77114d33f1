//! NetworkPolicy case by case: policies in, who reaches whom out, held against both the compiled intent and the oracle.

use std::net::IpAddr;

use bowline_model::Family;

use crate::oracle::policy::{End, allowed};
use crate::testing::notation::world;
use crate::{Compiler, Flow, Judge, World};

/// The world of the cases. Node n1 is compiled for; z/c is on n2.
const WORLD: &str = "
    node n1 192.168.0.1 fd00::1 pool=p
    node n2 192.168.0.2 fd00::2 pool=q
    ns x ns=nx team=red
    ns y ns=ny team=blue
    ns z ns=nz team=blue
    pod x/a 10.42.1.1 fd42:1::1 @n1 app=a tier=front +attached
    pod x/b 10.42.1.2 fd42:1::2 @n1 app=b :http:80/tcp :dns:53/udp :web:8080/tcp +attached
    pod y/a 10.42.1.3 fd42:1::3 @n1 app=a +attached
    pod y/b 10.42.1.4 fd42:1::4 @n1 app=b :http:8080/tcp +attached
    pod z/c 10.42.2.1 fd42:2::1 @n2 app=c :http:80/tcp
    pod z/h 192.168.0.2 fd00::2 @n2 app=a +hostnet
    pod z/d 10.42.2.9 fd42:2::9 @n2 app=a +done
";

/// Checks that, under `policies`, the probes in `pass` pass and those in `drop` do not, in both families.
///
/// A probe is `source>destination:port/protocol`; ends are pods, `out` (outside), `out2`, `node` (n1 itself) or addresses
/// (then only of that family); no protocol means TCP, `icmp` stands for a port.
pub(super) fn check(policies: &str, pass: &str, drop: &str) {
    let world = world(&format!("{WORLD}\n{policies}"));
    let intent = Compiler::full(&world).value;
    let judge = Judge::new(&intent.policy, &intent.pods);
    for (probes, expected) in [(pass, true), (drop, false)] {
        for probe in probes.split_whitespace() {
            let mut families = 0;
            for family in Family::BOTH {
                let Some((src, dst, protocol, port)) = read(&world, probe, family) else { continue };
                families += 1;
                let flow = flow(src, dst, protocol, port);
                let verdict = judge.verdict(&flow);
                let oracle = allowed(&world, src, dst, protocol, port);
                assert_eq!(oracle, expected, "oracle: {probe} {family} under\n{policies}");
                assert_eq!(verdict.allowed, expected, "judge: {probe} {family} {verdict:?} under\n{policies}");
            }
            assert!(families > 0, "{probe}");
        }
    }
}

/// The flow between two ends.
pub(super) fn flow(src: End, dst: End, protocol: u8, port: Option<u16>) -> Flow {
    let ip = |end| match end {
        End::Address(ip) | End::OwnNode(ip) => ip,
    };
    let mut flow = Flow::between(ip(src), ip(dst), protocol, port);
    flow.from_own_node = matches!(src, End::OwnNode(_));
    flow
}

fn read(world: &World, probe: &str, family: Family) -> Option<(End, End, u8, Option<u16>)> {
    let (src, rest) = probe.split_once('>').unwrap();
    let (dst, port) = rest.rsplit_once(':').unwrap();
    let (port, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let protocol = match (port, protocol, family) {
        ("icmp", _, Family::V4) => 1,
        ("icmp", _, Family::V6) => 58,
        (_, "tcp", _) => 6,
        (_, "udp", _) => 17,
        (_, "sctp", _) => 132,
        other => panic!("{other:?}"),
    };
    Some((end(world, src, family)?, end(world, dst, family)?, protocol, port.parse().ok()))
}

fn end(world: &World, text: &str, family: Family) -> Option<End> {
    let pick = |v4: &str, v6: &str| -> IpAddr { if family == Family::V4 { v4.parse().unwrap() } else { v6.parse().unwrap() } };
    match text {
        "out" => Some(End::Address(pick("192.0.2.1", "2001:db8::1"))),
        "out2" => Some(End::Address(pick("198.51.100.7", "2001:db8:1::7"))),
        "node" => Some(End::OwnNode(pick("192.168.0.1", "fd00::1"))),
        pod if pod.contains('/') => {
            let mut pods = world.pods().iter().filter(|(name, _)| name.to_string() == pod);
            let texts = pods.next().unwrap().1.claimed().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
            texts.into_iter().find(|ip| Family::of(ip) == family).map(End::Address)
        }
        address => {
            let ip: IpAddr = address.trim_matches(['[', ']']).parse().unwrap();
            (Family::of(&ip) == family).then_some(End::Address(ip))
        }
    }
}

/// One policy `x/p` with the given spec.
fn p(spec: &str) -> String {
    format!("policy x/p {spec}")
}

#[test]
fn which_pods_and_which_directions() {
    // Nobody is selected: everything passes.
    check("", "x/a>x/b:80 out>x/b:80 x/b>out:80 x/a>x/b:icmp y/a>x/b:53/udp", "");
    // Missing and empty lists of rules both let nothing in; egress stays free.
    check(&p("{podSelector: {}}"), "x/b>out:80 x/a>y/a:80", "x/a>x/b:80 y/a>x/b:80 out>x/b:80 x/a>x/b:icmp");
    check(&p("{podSelector: {}, ingress: []}"), "x/b>out:80", "x/a>x/b:80 out>x/a:80");
    check(&p("{podSelector: {}, policyTypes: [Ingress]}"), "x/b>out:80", "x/a>x/b:80");
    check(&p("{podSelector: {}, policyTypes: [], ingress: []}"), "x/b>out:80", "x/a>x/b:80");
    // One empty rule lets everyone in.
    check(&p("{podSelector: {}, ingress: [{}]}"), "x/a>x/b:80 out>x/b:9/udp z/c>x/b:80 x/a>x/b:icmp", "");
    check(&p("{podSelector: {}, ingress: [{from: [], ports: []}]}"), "x/a>x/b:80 out>x/b:icmp", "");
    // Egress counts where it is named or has rules.
    check(&p("{podSelector: {}, policyTypes: [Egress]}"), "y/a>x/b:80 out>x/b:80", "x/a>x/b:80 x/a>out:80 x/a>y/b:icmp");
    check(&p("{podSelector: {}, policyTypes: [Egress], egress: []}"), "y/a>x/b:80", "x/a>out:80");
    check(&p("{podSelector: {}, egress: []}"), "x/a>out:80", "x/a>x/b:80");
    check(&p("{podSelector: {}, egress: [{}]}"), "x/a>out:80 x/a>y/b:80", "x/a>x/b:80 out>x/b:80");
    check(&p("{podSelector: {}, policyTypes: [Egress], egress: [{}]}"), "x/a>out:80 x/a>x/b:80 out>x/b:80", "");
    check(&p("{podSelector: {}, policyTypes: [Ingress, Egress]}"), "y/a>y/b:80", "x/a>x/b:80 x/a>out:80 out>x/b:80");
    // Rules of a direction that is not named do not count.
    check(&p("{podSelector: {}, policyTypes: [Egress], ingress: [], egress: [{}]}"), "x/a>x/b:80 out>x/a:80", "");
    check(&p("{podSelector: {}, policyTypes: [Ingress], egress: [], ingress: [{}]}"), "x/a>out:80 out>x/a:80", "");
    // The selector is about its own namespace only.
    check(&p("{podSelector: {matchLabels: {app: b}}}"), "x/b>x/a:80 out>x/a:80 x/a>y/b:80", "x/a>x/b:80 y/a>x/b:80");
    check(&p("{podSelector: {matchLabels: {app: zzz}}}"), "x/a>x/b:80", "");
    check(&p("{podSelector: {matchLabels: {app: a, tier: front}}}"), "out>x/b:80", "out>x/a:80");
    check(&p("{podSelector: {matchLabels: {app: b, tier: front}}}"), "out>x/b:80 out>x/a:80", "");
}

#[test]
fn expressions() {
    let of = |expression: &str| p(&format!("{{podSelector: {{matchExpressions: [{expression}]}}}}"));
    check(&of("{key: app, operator: In, values: [b, c]}"), "out>x/a:80", "out>x/b:80");
    check(&of("{key: app, operator: NotIn, values: [b]}"), "out>x/b:80", "out>x/a:80");
    check(&of("{key: tier, operator: NotIn, values: [back]}"), "", "out>x/b:80 out>x/a:80");
    check(&of("{key: tier, operator: Exists}"), "out>x/b:80", "out>x/a:80");
    check(&of("{key: tier, operator: DoesNotExist}"), "out>x/a:80", "out>x/b:80");
    check(&of("{key: app, operator: In, values: [a]}, {key: tier, operator: DoesNotExist}"), "out>x/a:80 out>x/b:80", "");
    check(&p("{podSelector: {matchLabels: {app: a}, matchExpressions: [{key: tier, operator: Exists}]}}"), "out>x/b:80", "out>x/a:80");
}

#[test]
fn peers_by_selector() {
    let from = |peers: &str| p(&format!("{{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}"));
    check(&from("{podSelector: {matchLabels: {app: a}}}"), "x/a>x/b:80 x/a>x/b:icmp", "y/a>x/b:80 out>x/b:80 z/c>x/b:80");
    check(&from("{podSelector: {}}"), "x/a>x/b:80 x/b>x/a:9/udp", "y/a>x/b:80 out>x/b:80");
    check(&from("{namespaceSelector: {}}"), "x/a>x/b:80 y/a>x/b:80 z/c>x/b:80", "out>x/b:80 out2>x/b:80");
    check(&from("{namespaceSelector: {matchLabels: {team: blue}}}"), "y/a>x/b:80 y/b>x/b:80 z/c>x/b:80", "x/a>x/b:80 out>x/b:80");
    check(
        &from("{namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [ny, nx]}]}}"),
        "z/c>x/b:80",
        "y/a>x/b:80 x/a>x/b:80",
    );
    // Both in one peer must hold; in two peers one is enough.
    check(
        &from("{namespaceSelector: {matchLabels: {ns: ny}}, podSelector: {matchLabels: {app: a}}}"),
        "y/a>x/b:80",
        "y/b>x/b:80 x/a>x/b:80 z/c>x/b:80",
    );
    check(
        &from("{namespaceSelector: {matchLabels: {ns: ny}}}, {podSelector: {matchLabels: {app: a}}}"),
        "y/a>x/b:80 y/b>x/b:80 x/a>x/b:80",
        "z/c>x/b:80 out>x/b:80",
    );
    check(&from("{namespaceSelector: {}, podSelector: {matchLabels: {app: c}}}"), "z/c>x/b:80", "y/a>x/b:80 x/a>x/b:80");
    // Pods in their node's network, and pods that have ended, are nobody's peers.
    check(&from("{namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}"), "x/a>x/b:80 y/a>x/b:80", "z/h>x/b:80 z/d>x/b:80");
    // The same towards others.
    let to = |peers: &str| p(&format!("{{podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Egress], egress: [{{to: [{peers}]}}]}}"));
    check(&to("{podSelector: {matchLabels: {app: b}}}"), "x/a>x/b:80 x/b>out:80", "x/a>y/b:80 x/a>out:80 x/a>z/c:80");
    check(&to("{namespaceSelector: {matchLabels: {team: blue}}}"), "x/a>y/b:80 x/a>z/c:80", "x/a>x/b:80 x/a>out:80");
    check(&to("{namespaceSelector: {}}"), "x/a>y/b:80 x/a>z/c:80 x/a>x/b:80", "x/a>out:80 x/a>z/h:80");
}

#[test]
fn blocks() {
    let from = |peers: &str| p(&format!("{{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}"));
    check(
        &from("{ipBlock: {cidr: 192.0.2.0/24}}"),
        "192.0.2.1>x/b:80 192.0.2.255>x/b:80",
        "198.51.100.7>x/b:80 x/a>x/b:80 [2001:db8::1]>x/b:80",
    );
    check(&from("{ipBlock: {cidr: '2001:db8::/48'}}"), "[2001:db8::1]>x/b:80", "[2001:db8:1::7]>x/b:80 192.0.2.1>x/b:80");
    check(
        &from("{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/25, 10.42.1.1/32]}}"),
        "192.0.2.129>x/b:80 y/a>x/b:80/tcp".replace("y/a>x/b:80/tcp", "10.42.1.3>x/b:80").as_str(),
        "192.0.2.1>x/b:80 10.42.1.1>x/b:80 [2001:db8::1]>x/b:80",
    );
    check(
        &from("{ipBlock: {cidr: '::/0', except: ['2001:db8:1::/48']}}"),
        "[2001:db8::1]>x/b:80",
        "[2001:db8:1::7]>x/b:80 192.0.2.1>x/b:80",
    );
    // Pods can be named by address, as members of a block; pods in the node's network too.
    check(&from("{ipBlock: {cidr: 10.42.1.1/32}}"), "10.42.1.1>x/b:80", "10.42.1.3>x/b:80");
    check(&from("{ipBlock: {cidr: 192.168.0.2/32}}"), "192.168.0.2>x/b:80", "192.168.0.3>x/b:80");
    // Host bits do not matter.
    check(&from("{ipBlock: {cidr: 192.0.2.77/24}}"), "192.0.2.1>x/b:80", "198.51.100.7>x/b:80");
    check(
        &from("{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.1/32]}}, {ipBlock: {cidr: 192.0.2.1/32}}"),
        "192.0.2.1>x/b:80 192.0.2.2>x/b:80",
        "192.0.3.1>x/b:80",
    );
    check(
        &from("{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8::/48'}}, {podSelector: {}}"),
        "out>x/b:80 x/a>x/b:80",
        "out2>x/b:80 y/a>x/b:80",
    );
    let to = p("{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 443}]}]}");
    check(&to, "x/a>192.0.2.9:443", "x/a>192.0.2.9:80 x/a>198.51.100.7:443 x/a>x/b:443");
}

#[test]
fn ports() {
    let ports = |ports: &str| p(&format!("{{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}"));
    check(&ports("{port: 80}"), "x/a>x/b:80 out>x/b:80", "x/a>x/b:81 x/a>x/b:80/udp x/a>x/b:80/sctp x/a>x/b:icmp");
    check(&ports("{port: 80, protocol: TCP}"), "out>x/b:80", "out>x/b:80/udp");
    check(&ports("{port: 53, protocol: UDP}"), "out>x/b:53/udp", "out>x/b:53 out>x/b:54/udp");
    check(&ports("{port: 38412, protocol: SCTP}"), "out>x/b:38412/sctp", "out>x/b:38412");
    check(&ports("{protocol: UDP}"), "out>x/b:1/udp out>x/b:65535/udp", "out>x/b:1 out>x/b:icmp");
    check(&ports("{}"), "out>x/b:1 out>x/b:65535", "out>x/b:1/udp");
    check(&ports("{port: 8000, endPort: 8080}"), "out>x/b:8000 out>x/b:8040 out>x/b:8080", "out>x/b:7999 out>x/b:8081 out>x/b:8040/udp");
    check(&ports("{port: 65535, endPort: 65535}"), "out>x/b:65535", "out>x/b:65534");
    check(&ports("{port: 80}, {port: 53, protocol: UDP}"), "out>x/b:80 out>x/b:53/udp", "out>x/b:53 out>x/b:80/udp");
    // A name means what the destination pod calls so.
    check(&ports("{port: http}"), "out>x/b:80", "out>x/b:8080 out>x/a:80 out>x/b:80/udp");
    check(&ports("{port: web}"), "out>x/b:8080", "out>x/b:80");
    check(&ports("{port: dns, protocol: UDP}"), "out>x/b:53/udp", "out>x/b:53");
    check(&ports("{port: dns}"), "", "out>x/b:53/udp out>x/b:53");
    check(&ports("{port: nothing}"), "", "out>x/b:80");
    let to = |rule: &str| p(&format!("{{podSelector: {{matchLabels: {{app: a}}}}, policyTypes: [Egress], egress: [{rule}]}}"));
    check(&to("{ports: [{port: http}]}"), "x/a>x/b:80 x/a>y/b:8080 x/a>z/c:80", "x/a>y/b:80 x/a>out:80 x/a>x/b:8080");
    check(&to("{to: [{podSelector: {}}], ports: [{port: http}]}"), "x/a>x/b:80", "x/a>y/b:8080 x/a>z/c:80");
    check(
        &to("{to: [{namespaceSelector: {matchLabels: {ns: ny}}}], ports: [{port: http}]}"),
        "x/a>y/b:8080",
        "x/a>x/b:80 x/a>z/c:80 x/a>y/b:80",
    );
    check(&to("{to: [{ipBlock: {cidr: 10.42.1.4/32}}], ports: [{port: http}]}"), "x/a>10.42.1.4:8080", "x/a>10.42.1.4:80 x/a>10.42.1.2:80");
    // A name means the destination pod's port, also where nothing is known of its namespace.
    check(&format!("pod w/e 10.42.2.3 fd42:2::3 @n2 :http:80/tcp\n{}", to("{ports: [{port: http}]}")), "x/a>w/e:80", "x/a>w/e:81");
    // Peers and ports must both match; of two rules one is enough.
    let both = "{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: ny}}}], ports: [{port: 81}]}]}";
    check(&p(both), "x/a>x/b:80 y/a>x/b:81", "x/a>x/b:81 y/a>x/b:80 out>x/b:80");
}

#[test]
fn ports_of_containers() {
    let of = |pods: &str, rule: &str| format!("{pods}\n{}", p(&format!("{{podSelector: {{}}, ingress: [{{ports: [{rule}]}}]}}")));
    // An init container has ended when the pod serves, and what it called its ports is nobody's; a sidecar runs on.
    let pod = "pod x/i 10.42.1.11 fd42:1::11 @n1 :http:80/tcp :setup:90/tcp!init :http:91/tcp!init :metrics:92/tcp!sidecar +attached";
    check(&of(pod, "{port: http}"), "out>x/i:80", "out>x/i:90 out>x/i:91 out>x/i:92");
    check(&of(pod, "{port: setup}"), "", "out>x/i:80 out>x/i:90 out>x/i:91 out>x/i:92");
    check(&of(pod, "{port: metrics}"), "out>x/i:92", "out>x/i:80 out>x/i:90 out>x/i:91");
    check(&of(pod, "{port: 90}"), "out>x/i:90", "out>x/i:80");
    // Two containers may call ports of two protocols alike.
    let pod = "pod x/t 10.42.1.12 fd42:1::12 @n1 :dns:53/udp :dns:54/tcp!second +attached";
    check(&of(pod, "{port: dns}"), "out>x/t:54", "out>x/t:53 out>x/t:53/udp out>x/t:54/udp");
    check(&of(pod, "{port: dns, protocol: UDP}"), "out>x/t:53/udp", "out>x/t:53 out>x/t:54 out>x/t:54/udp");
    check(&of(pod, "{port: dns}, {port: dns, protocol: UDP}"), "out>x/t:54 out>x/t:53/udp", "out>x/t:53 out>x/t:54/udp");
    check(&of(pod, "{port: dns, protocol: SCTP}"), "", "out>x/t:53/sctp out>x/t:54");
    // A ClusterNetworkPolicy's name is of whatever protocol.
    let cluster = "cnp a {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}]}";
    check(&format!("{pod}\n{cluster}"), "x/a>x/t:53 x/a>x/t:54/udp", "x/a>x/t:54 x/a>x/t:53/udp");
    // Of two pods under one policy, each by the number that it gave the name; that of the other is shut.
    let pod = "pod x/e 10.42.1.13 fd42:1::13 @n1 app=b :http:81/tcp +attached";
    check(&of(pod, "{port: http}"), "out>x/b:80 out>x/e:81 x/a>x/e:81", "out>x/b:81 out>x/e:80");
    let to = p(
        "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: http}]}]}",
    );
    check(&format!("{pod}\n{to}"), "x/a>x/b:80 x/a>x/e:81", "x/a>x/b:81 x/a>x/e:80 x/a>y/b:8080");
}

#[test]
fn policies_add_up() {
    let policies = "policy x/closed {podSelector: {}}
        policy x/web {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 80}]}]}
        policy x/from-y {podSelector: {matchLabels: {app: b}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: ny}}}]}]}";
    check(policies, "out>x/b:80 y/a>x/b:81 x/a>x/b:80", "out>x/b:81 x/a>x/b:81 out>x/a:80");
    // Both ends must agree.
    let policies = "policy x/out {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{ports: [{port: 80}, {port: 81}]}]}
        policy x/in {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 80}]}]}";
    check(policies, "x/a>x/b:80 x/a>out:81 out>x/b:80", "x/a>x/b:81 x/a>out:82 out>x/b:81");
    // A policy elsewhere changes nothing here.
    check("policy y/p {podSelector: {}}", "out>x/b:80 y/a>x/b:80", "x/a>y/a:80 y/b>y/a:80");
}

#[test]
fn paths_that_are_always_open() {
    let closed = p("{podSelector: {}, policyTypes: [Ingress, Egress]}");
    // A pod reaches itself, and its own node reaches it (probes), by path: the node's address from elsewhere does not.
    check(&closed, "x/b>x/b:80 x/b>x/b:icmp node>x/b:80 node>x/b:53/udp", "192.168.0.1>x/b:80 z/h>x/b:80 out>x/b:80");
    // What a pod sends to the node is not excepted.
    check(&closed, "y/a>192.168.0.1:80", "x/b>192.168.0.1:80");
}

#[test]
fn what_cannot_be_understood_closes() {
    let from = |peers: &str| p(&format!("{{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}"));
    let all = "x/a>x/b:80 y/a>x/b:80 out>x/b:80 z/c>x/b:80";
    for peer in [
        "{}",
        "{ipBlock: {cidr: nonsense}}",
        "{ipBlock: {cidr: 192.0.2.0/33}}",
        "{ipBlock: {cidr: 0.0.0.0/0, except: [zzz]}}",
        "{ipBlock: {cidr: 192.0.2.0/24, except: [10.0.0.0/8]}}",
        "{ipBlock: {cidr: '::ffff:192.0.2.0/120'}}",
        "{ipBlock: {cidr: 0.0.0.0/0}, podSelector: {}}",
        "{podSelector: {matchExpressions: [{key: app, operator: Is, values: [a]}]}}",
        "{podSelector: {matchExpressions: [{key: app, operator: In}]}}",
        "{namespaceSelector: {matchExpressions: [{key: ns, operator: Exists, values: [a]}]}}",
    ] {
        check(&from(peer), "x/b>out:80", all);
        // A good peer beside it still counts.
        check(&from(&format!("{peer}, {{podSelector: {{}}}}")), "x/a>x/b:80", "y/a>x/b:80 out>x/b:80");
    }
    for port in [
        "{port: 0}",
        "{port: 70000}",
        "{port: -1}",
        "{port: 80, endPort: 79}",
        "{port: 80, endPort: 70000}",
        "{endPort: 90}",
        "{port: http, endPort: 90}",
        "{port: '80'}",
        "{port: UPPER}",
        "{port: 80, protocol: TCPP}",
        "{port: a-name-much-too-long}",
    ] {
        check(&p(&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}")), "x/b>out:80", all);
        check(&p(&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}, {{port: 443}}]}}]}}")), "out>x/b:443", all);
    }
    // A bad pod selector may mean any pod that its other requirements mean: those are closed, whatever the rules say.
    let bad = "{podSelector: {matchLabels: {app: b}, matchExpressions: [{key: app, operator: Is}]}, ingress: [{}]}";
    check(&p(bad), "out>x/a:80", "out>x/b:80 x/b>out:80");
    check(&p("{podSelector: {}, policyTypes: [Ingres], ingress: [{}]}"), "out>x/b:80", "x/b>out:80");
    // A policy whose JSON has another shape altogether.
    check(&p("{podSelector: {matchLabels: {app: b}}, ingress: 7}"), "out>x/a:80", "out>x/b:80 x/b>out:80");
    check(&p("{podSelector: 7, ingress: [{}]}"), "out>y/a:80", "out>x/b:80 out>x/a:80 x/a>out:80");
}

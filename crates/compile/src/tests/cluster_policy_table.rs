//! ClusterNetworkPolicy case by case, alone and around NetworkPolicies: held against both the compiled intent and the oracle.

use std::sync::Arc;

use bowline_model::ClusterPolicyName;
use bowline_model::intent::policy::{Direction, Peers, TierRule};

use super::policy_table::check;
use crate::testing::notation::{changes, world};
use crate::{Compiler, Flow, Judge, Touched};

/// A policy of the Admin tier about all pods.
fn admin(rules: &str) -> String {
    format!("cnp a {{tier: Admin, priority: 10, subject: {{namespaces: {{}}}}, {rules}}}")
}

/// A policy of the Baseline tier about all pods.
fn baseline(rules: &str) -> String {
    format!("cnp b {{tier: Baseline, priority: 10, subject: {{namespaces: {{}}}}, {rules}}}")
}

const EVERYONE: &str = "{namespaces: {}}";
const ANYWHERE: &str = "{networks: [0.0.0.0/0, '::/0']}";

#[test]
fn rules_are_read_as_they_stand() {
    // Nothing is isolated by being selected.
    check(&admin("ingress: []"), "x/a>x/b:80 out>x/b:80 x/b>out:80", "");
    let deny = admin("ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: ny}}}]}]");
    check(&deny, "x/a>x/b:80 z/c>x/b:80 out>x/b:80 x/a>y/a:80", "y/a>x/b:80 y/a>x/b:icmp y/a>y/b:80");
    let deny = admin("egress: [{action: Deny, to: [{namespaces: {matchLabels: {ns: ny}}}]}]");
    check(&deny, "x/a>x/b:80 y/a>x/b:80 y/a>out:80", "x/a>y/a:80 y/a>y/b:80 x/b>y/b:53/udp");
    // The first rule that takes a connection decides.
    let order = "ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}}]},
        {action: Deny, from: [{namespaces: {}}]}]"
        .replace('\n', " ");
    check(&admin(&order), "x/a>x/b:80 y/a>x/b:80 out>x/b:80", "x/b>x/a:80 y/b>x/b:80 z/c>x/b:80");
    let reversed = format!("ingress: [{{action: Deny, from: [{EVERYONE}]}}, {{action: Accept, from: [{EVERYONE}]}}]");
    check(&admin(&reversed), "out>x/b:80", "x/a>x/b:80");
    // A pod's own node, and the pod itself, are not asked about.
    check(&admin(&reversed), "node>x/b:80 x/b>x/b:80", "");
    let none_out = admin(&format!("egress: [{{action: Deny, to: [{ANYWHERE}]}}]"));
    check(&none_out, "node>x/b:80 out>x/b:80 x/b>x/b:80", "x/a>x/b:80 x/a>out:80 x/b>192.168.0.1:80");
}

#[test]
fn subjects_and_peers() {
    let subject =
        |subject: &str| format!("cnp a {{tier: Admin, priority: 0, subject: {subject}, ingress: [{{action: Deny, from: [{EVERYONE}]}}]}}");
    check(&subject("{namespaces: {matchLabels: {team: red}}}"), "x/a>y/a:80", "y/a>x/b:80 x/a>x/b:80");
    let pods = "{pods: {namespaceSelector: {matchLabels: {team: red}}, podSelector: {matchLabels: {app: b}}}}";
    check(&subject(pods), "x/b>x/a:80 x/a>y/b:80", "x/a>x/b:80 y/a>x/b:80");
    // Pods without namespaces are those of all of them, in a subject and in a peer.
    let everywhere = "{pods: {podSelector: {matchLabels: {app: b}}}}";
    check(&subject(everywhere), "x/b>x/a:80 x/b>y/a:80", "x/a>x/b:80 x/a>y/b:80");
    let accept = format!("ingress: [{{action: Accept, from: [{everywhere}]}}, {{action: Deny, from: [{EVERYONE}]}}]");
    check(&admin(&accept), "x/b>x/a:80 y/b>x/a:80", "y/a>x/b:80 x/a>y/b:80");
    // Pods in their node's network are nobody's peers and nobody's subjects.
    check(&subject("{namespaces: {}}"), "z/h>x/b:80 x/a>z/h:80", "z/c>x/b:80");
    // Neither of a namespace that is not known: it cannot be said which rules are about its pods, so they are closed.
    let unknown = format!("pod w/e 10.42.1.9 fd42:1::9 @n1 app=a +attached\n{}", subject("{namespaces: {matchLabels: {team: red}}}"));
    check(&unknown, "out>y/a:80", "out>w/e:80 w/e>out:80 node>w/e:80");
    check(&format!("ns w ns=nw\n{unknown}"), "out>w/e:80 w/e>out:80 w/e>y/a:80", "");
    let to = |peer: &str| admin(&format!("egress: [{{action: Deny, to: [{peer}]}}]"));
    check(&to("{nodes: {}}"), "x/a>x/b:80 x/a>out:80", "x/a>192.168.0.1:80 x/a>192.168.0.2:80 x/a>[fd00::2]:80 x/a>z/h:80");
    check(&to("{nodes: {matchLabels: {pool: q}}}"), "x/a>192.168.0.1:80", "x/a>192.168.0.2:80 x/a>[fd00::2]:80");
    check(&to("{networks: [192.0.2.0/24]}"), "x/a>out2:80 x/a>[2001:db8::1]:80", "x/a>192.0.2.1:80 x/a>192.0.2.1:icmp");
    check(&to("{networks: [10.42.1.4/32, 'fd42:1::4/128']}"), "x/a>y/a:80", "x/a>y/b:80");
}

/// 10.42.2.7 is nobody's that is known; so is the address of z/d, which has ended. Who is new may be of any namespace.
#[test]
fn what_closes_closes_to_pods_that_are_not_known_yet() {
    const Y: &str = "{namespaces: {matchLabels: {ns: ny}}}";
    let unknown = "10.42.2.7>x/b:80 10.42.2.7>x/b:icmp [fd42:2::7]>x/b:80 10.42.2.9>x/b:80";
    let known = "x/a>x/b:80 z/c>x/b:80 z/h>x/b:80 out>x/b:80 192.168.0.2>x/b:80 node>x/b:80";
    let rule = |action: &str, peer: &str| format!("{{action: {action}, from: [{peer}]}}");
    check(&admin(&format!("ingress: [{}]", rule("Deny", Y))), known, unknown);
    check(&admin(&format!("ingress: [{}]", rule("Pass", Y))), known, unknown);
    check(&baseline(&format!("ingress: [{}]", rule("Deny", Y))), known, unknown);
    // What only lets through, or leaves it to nobody, does not close; what closes to everybody does so by itself.
    check(&admin(&format!("ingress: [{}]", rule("Accept", Y))), &format!("{known} {unknown}"), "");
    check(&baseline(&format!("ingress: [{}]", rule("Pass", Y))), &format!("{known} {unknown}"), "");
    // What a rule of before accepts for certain is accepted, and what one of after accepts comes too late.
    let by_port = "protocols: [{tcp: {destinationPort: {number: 80}}}]";
    check(
        &admin(&format!("ingress: [{{action: Deny, from: [{Y}], {by_port}}}]")),
        "10.42.2.7>x/b:81 10.42.2.7>x/b:icmp",
        "10.42.2.7>x/b:80",
    );
    let then = format!("ingress: [{{action: Deny, from: [{Y}], {by_port}}}, {{action: Deny, from: [{Y}]}}]");
    check(&admin(&then), known, unknown);
    let to = |action: &str, peers: &str| format!("{{action: {action}, to: [{peers}]}}");
    let pods = "{networks: [10.42.0.0/16, 'fd42::/16']}";
    let [accept, deny] = [to("Accept", pods), to("Deny", Y)];
    let out = "x/a>10.42.2.7:80 x/a>[fd42:2::7]:80 x/a>10.42.2.9:80";
    check(&admin(&format!("egress: [{accept}, {deny}]")), &format!("{out} x/a>y/a:80"), "");
    check(&admin(&format!("egress: [{deny}, {accept}]")), "x/a>x/b:80 x/a>z/c:80 x/a>out:80 x/a>192.168.0.2:80 x/a>z/h:80", out);
    // A network says for certain whom it means, beside pods too.
    check(&admin(&format!("egress: [{}]", to("Pass", &format!("{Y}, {pods}")))), out, "");
    // The name of a port may be that of any, at an address of which nothing is known; at a pod that is known it is not.
    let named = format!("{{action: Deny, to: [{Y}], protocols: [{{destinationNamedPort: http}}]}}");
    check(&admin(&format!("egress: [{named}]")), "x/a>10.42.2.7:icmp x/a>y/a:80 x/a>z/c:80", "x/a>10.42.2.7:80 x/a>10.42.2.7:9/udp");
    let named = format!("{{action: Deny, from: [{Y}], protocols: [{{destinationNamedPort: http}}]}}");
    check(&admin(&format!("ingress: [{named}]")), "10.42.2.7>x/b:81 10.42.2.7>x/a:80", "10.42.2.7>x/b:80 10.42.2.7>y/b:8080");
    // A node may speak from the addresses of its pod subnets that no pod gets.
    let of_node = format!("{}\nnode n3 192.168.0.3 cidr=10.42.3.0/24 cidr=fd42:3::/64", admin(&format!("ingress: [{}]", rule("Deny", Y))));
    check(&of_node, "10.42.3.0>x/b:80 10.42.3.1>x/b:80 [fd42:3::1]>x/b:80", "10.42.3.2>x/b:80 [fd42:3::2]>x/b:80");
    // Nor can it be said whom a pod belongs to whose namespace is not known.
    let homeless = format!("{}\npod w/e 10.42.2.8 fd42:2::8 @n2 app=a", admin(&format!("ingress: [{}]", rule("Deny", Y))));
    check(&homeless, "z/c>x/b:80", "w/e>x/b:80");
    check(&format!("{homeless}\nns w ns=nw"), "z/c>x/b:80 w/e>x/b:80", "");
}

#[test]
fn protocols_and_ports() {
    let ports = |protocols: &str| admin(&format!("ingress: [{{action: Deny, from: [{EVERYONE}], protocols: [{protocols}]}}]"));
    check(&ports("{tcp: {destinationPort: {number: 80}}}"), "x/a>x/b:81 x/a>x/b:80/udp x/a>x/b:icmp", "x/a>x/b:80");
    check(
        &ports("{udp: {destinationPort: {range: {start: 53, end: 60}}}}"),
        "x/a>x/b:52/udp x/a>x/b:61/udp x/a>x/b:53",
        "x/a>x/b:53/udp x/a>x/b:60/udp",
    );
    check(&ports("{sctp: {destinationPort: {number: 80}}}"), "x/a>x/b:80", "x/a>x/b:80/sctp");
    // A name means the destination's port, of whatever protocol it is.
    check(&ports("{destinationNamedPort: http}"), "x/a>x/b:8080 x/a>y/b:80 x/a>x/b:80/udp", "x/a>x/b:80 x/a>y/b:8080");
    check(&ports("{destinationNamedPort: dns}, {tcp: {destinationPort: {number: 9}}}"), "x/a>x/b:53", "x/a>x/b:53/udp x/a>y/b:9");
    let out = admin(&format!("egress: [{{action: Deny, to: [{EVERYONE}], protocols: [{{destinationNamedPort: http}}]}}]"));
    check(&out, "x/a>z/c:81 x/a>y/b:80", "x/a>z/c:80 x/a>y/b:8080");
    check(&admin(&format!("ingress: [{{action: Deny, from: [{EVERYONE}], protocols: []}}]")), "out>x/b:80", "x/a>x/b:80 x/a>x/b:icmp");
}

#[test]
fn the_tiers_are_asked_in_turn() {
    let closed = "policy x/p {podSelector: {}}";
    let open = "policy x/p {podSelector: {}, ingress: [{}]}";
    let rule = |action: &str| format!("ingress: [{{action: {action}, from: [{{namespaces: {{matchLabels: {{ns: ny}}}}}}]}}]");
    // Admin goes before NetworkPolicy, whichever way.
    check(&format!("{}\n{open}", admin(&rule("Deny"))), "x/a>x/b:80 out>x/b:80", "y/a>x/b:80");
    check(&format!("{}\n{closed}", admin(&rule("Accept"))), "y/a>x/b:80", "x/a>x/b:80 out>x/b:80");
    // What is passed on is NetworkPolicy's to decide.
    check(&format!("{}\n{closed}", admin(&rule("Pass"))), "y/a>y/b:80", "y/a>x/b:80 x/a>x/b:80");
    let but_y = "ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: ny}}}]}, {action: Deny, from: [{namespaces: {}}]}]";
    check(&format!("{}\n{open}", admin(but_y)), "y/a>x/b:80 out>x/b:80", "x/a>x/b:80 z/c>x/b:80");
    // Baseline decides where no NetworkPolicy selects the pod, and only there.
    let floor = baseline(&format!("ingress: [{{action: Deny, from: [{EVERYONE}]}}]"));
    check(&floor, "out>x/b:80 node>x/b:80", "x/a>x/b:80 x/a>y/b:80");
    check(&format!("{floor}\n{open}"), "x/a>x/b:80 y/a>x/b:80", "x/a>y/b:80");
    check(&format!("{floor}\n{closed}"), "", "x/a>x/b:80 out>x/b:80 x/a>y/b:80");
    // Selected for the other direction only, it is still Baseline's.
    check(&format!("{floor}\npolicy x/p {{podSelector: {{}}, policyTypes: [Egress], egress: [{{}}]}}"), "out>x/b:80", "x/a>x/b:80");
    // What Admin accepts Baseline does not see; what it passes on, Baseline does.
    check(&format!("{}\n{floor}", admin(&rule("Accept"))), "y/a>x/b:80", "x/a>x/b:80");
    check(&format!("{}\n{floor}", admin(&rule("Pass"))), "", "y/a>x/b:80 x/a>x/b:80");
    // After Baseline nothing is asked.
    let pass = "ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: ny}}}]}, {action: Deny, from: [{namespaces: {}}]}]";
    check(&baseline(pass), "y/a>x/b:80", "x/a>x/b:80");
    // Both directions are decided for themselves.
    let accept_in = admin(&format!("ingress: [{{action: Accept, from: [{EVERYONE}]}}]"));
    check(&format!("{accept_in}\npolicy x/p {{podSelector: {{}}, policyTypes: [Egress]}}"), "y/a>x/b:80", "x/a>x/b:80 x/a>y/b:80");
}

#[test]
fn the_lower_priority_goes_first() {
    let policy = |name: &str, tier: &str, priority: i64, action: &str| {
        format!(
            "cnp {name} {{tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}, ingress: [{{action: {action}, from: [{EVERYONE}]}}]}}\n"
        )
    };
    for tier in ["Admin", "Baseline"] {
        for (low, high) in [(0, 1000), (0, 1), (999, 1000), (9, 10)] {
            // Whatever their names, and whichever came first.
            for (first, second) in [("a", "b"), ("b", "a")] {
                check(&(policy(first, tier, low, "Deny") + &policy(second, tier, high, "Accept")), "", "x/a>x/b:80");
                check(&(policy(second, tier, high, "Deny") + &policy(first, tier, low, "Accept")), "x/a>x/b:80", "");
            }
        }
        // Of equal ones the name decides, so that all nodes do the same.
        check(&(policy("b", tier, 5, "Accept") + &policy("a", tier, 5, "Deny")), "", "x/a>x/b:80");
        check(&(policy("a", tier, 5, "Accept") + &policy("b", tier, 5, "Deny")), "x/a>x/b:80", "");
        // Out of range, it counts as the number that it is.
        check(&(policy("a", tier, 1001, "Accept") + &policy("b", tier, 1000, "Deny")), "", "x/a>x/b:80");
        check(&(policy("a", tier, 0, "Accept") + &policy("b", tier, -1, "Deny")), "", "x/a>x/b:80");
    }
    check(&(policy("a", "Baseline", 0, "Accept") + &policy("b", "Admin", 1000, "Deny")), "", "x/a>x/b:80");
}

#[test]
fn a_rule_that_cannot_be_understood_closes() {
    let faults = [
        "to: []",
        "to: [{}]",
        "to: [{later: {}}]",
        "to: [{domainNames: [example.com]}]",
        "to: [{namespaces: {}, networks: [0.0.0.0/0]}]",
        "to: [{pods: {namespaceSelector: {}}}]",
        "to: [{namespaces: {matchExpressions: [{key: ns, operator: Is}]}}]",
        "to: [{nodes: {matchExpressions: [{key: pool, operator: In}]}}]",
        "to: [{networks: [nonsense]}]",
        "to: [{networks: ['::ffff:192.0.2.0/120']}]",
        "to: [{networks: []}]",
        "to: [{namespaces: {}}], protocols: [{}]",
        "to: [{namespaces: {}}], protocols: [{icmp: {}}]",
        "to: [{namespaces: {}}], protocols: [{tcp: {}}]",
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 0}}}]",
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80, range: {start: 1, end: 2}}}}]",
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 80}}}}]",
        "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}, udp: {destinationPort: {number: 80}}}]",
        "to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]",
    ];
    let closed = baseline(&format!("egress: [{{action: Deny, to: [{ANYWHERE}]}}]"));
    for fault in faults {
        // "For Accept rules: treat the rule as matching no traffic. For Deny and Pass rules: treat the rule as a Deny all rule."
        let rule = |action: &str| admin(&format!("egress: [{{action: {action}, {fault}}}]"));
        check(&rule("Accept"), "x/a>x/b:80 x/a>out:80", "");
        check(&format!("{}\n{closed}", rule("Accept")), "out>x/b:80", "x/a>x/b:80 x/a>out:80");
        for action in ["Deny", "Pass", "Log"] {
            check(&rule(action), "out>x/b:80", "x/a>x/b:80 x/a>y/a:80 x/a>out:80 x/a>out:icmp");
        }
        let problems = Compiler::full(&world(&rule("Deny"))).problems;
        assert_eq!(problems.len(), 1, "{fault}: {problems:?}");
        assert!(problems[0].place.starts_with("ClusterNetworkPolicy a, spec.egress[0]"), "{problems:?}");
        assert!(problems[0].what.ends_with("so the rule denies everything"), "{problems:?}");
    }
    // A good peer beside a bad one does not save the rule.
    check(&format!("{}\n{closed}", admin("egress: [{action: Accept, to: [{namespaces: {}}, {}]}]")), "", "x/a>x/b:80");
    // Ingress knows pods only.
    for peer in ["{nodes: {}}", ANYWHERE] {
        check(&admin(&format!("ingress: [{{action: Pass, from: [{peer}]}}]")), "x/b>out:80 node>x/b:80", "x/a>x/b:80 out>x/b:80");
        check(&admin(&format!("ingress: [{{action: Accept, from: [{peer}]}}]")), "x/a>x/b:80 out>x/b:80", "");
    }
    // An action that is not known denies what the rule takes, and nothing else.
    check(&admin("egress: [{action: Log, to: [{namespaces: {matchLabels: {ns: ny}}}]}]"), "x/a>x/b:80", "x/a>y/a:80");
}

#[test]
fn a_policy_that_cannot_be_understood_closes_whom_it_may_mean() {
    let of = |head: &str, action: &str| format!("cnp a {{{head}, ingress: [{{action: {action}, from: [{EVERYONE}]}}]}}");
    for subject in ["{}", "{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}", "{later: {}}"] {
        let head = format!("tier: Admin, priority: 1, subject: {subject}");
        check(&of(&head, "Deny"), "x/b>out:80", "x/a>x/b:80 out>y/a:80");
        check(&of(&head, "Pass"), "x/b>out:80", "x/a>x/b:80 out>y/a:80");
        check(&of(&head, "Accept"), "x/a>x/b:80 out>y/a:80", "");
    }
    let partly = "tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {ns: nx}, matchExpressions: [{key: a, operator: Is}]}}";
    check(&of(partly, "Deny"), "x/a>y/b:80 out>y/b:80 x/b>out:80", "x/a>x/b:80 out>x/b:80");
    // Of two that contradict each other either may be what is meant.
    let both = "tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {ns: nx}}, pods: {podSelector: {matchLabels: {app: b}}}}";
    check(&of(both, "Deny"), "x/b>out:80", "x/a>x/b:80 y/b>x/a:80 x/a>y/b:80 x/a>y/a:80");
    let partly = "tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {ns: nx}}}}";
    check(&of(partly, "Pass"), "x/a>y/b:80 out>y/b:80", "x/a>x/b:80 out>x/b:80");
    // An unknown tier, or another form altogether: both directions.
    let head = "priority: 1, subject: {namespaces: {matchLabels: {ns: nx}}}";
    for (tier, rest) in
        [("tier: Later", "egress: []"), ("tier: Admin", "egress: 7"), ("tier: 7", "egress: []"), ("tier: Baseline", "egress: [7]")]
    {
        check(&format!("cnp a {{{tier}, {head}, {rest}}}"), "out>y/a:80 y/a>out:80", "out>x/b:80 x/a>x/b:80 x/b>out:80");
    }
    // Of the Baseline tier, it closes where that tier is asked.
    check(
        &format!("cnp a {{tier: Baseline, {head}, egress: 7}}\npolicy x/p {{podSelector: {{}}, ingress: [{{}}]}}"),
        "out>x/b:80",
        "x/b>out:80",
    );
    check(
        &format!("cnp a {{tier: Admin, {head}, egress: 7}}\npolicy x/p {{podSelector: {{}}, ingress: [{{}}]}}"),
        "",
        "out>x/b:80 x/b>out:80",
    );
}

/// Priorities end at 1000 and policies do not: 2,800 of them with 25 rules each, all about one pod.
pub(super) fn many(policies: usize, rules: usize) -> String {
    let mut text = String::from("ns x ns=nx\npod x/a 10.42.1.1 @n1 app=a +attached\npod x/b 10.42.1.2 @n1 app=b +attached\n");
    for number in 0..policies {
        let rule = |index: usize| {
            let port = 1 + (number * rules + index) % 65_535;
            let action = ["Deny", "Accept"][index % 2];
            format!("{{action: {action}, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{number: {port}}}}}}}]}}")
        };
        let rules: Vec<String> = (0..rules).map(rule).collect();
        let (tier, priority) = (["Admin", "Baseline"][number % 2], number % 1001);
        let head = format!("tier: {tier}, priority: {priority}, subject: {{namespaces: {{}}}}");
        text.push_str(&format!("cnp c{number:05} {{{head}, ingress: [{}]}}\n", rules.join(", ")));
    }
    text
}

#[test]
fn seventy_thousand_rules_are_asked_in_their_order() {
    let (policies, rules) = (2800, 25);
    let mut world = world("");
    let mut touched = Touched::default();
    for change in changes(&many(policies, rules)) {
        touched.merge(world.apply(change).value);
    }
    let mut compiler = Compiler::new();
    let intent = compiler.turn(&world, &touched).value;
    let written = |rule: &&TierRule| !matches!(rule.peers, Peers::Unknown { .. });
    assert_eq!(intent.policy.tiers.values().map(|rules| rules.rules.iter().filter(written).count()).sum::<usize>(), policies * rules);
    let side = &intent.policy.pods["bwl-x-b"].ingress;
    assert_eq!((side.admin.len(), side.baseline.len()), (policies / 2, policies / 2));
    for list in [&side.admin, &side.baseline] {
        let rank = |name: &ClusterPolicyName| (name.as_str()[1..].parse::<usize>().unwrap() % 1001, name.clone());
        assert!(list.is_sorted_by_key(rank));
        let last = list.last().unwrap();
        assert!(intent.policy.tiers.contains_key(&(last.clone(), Direction::Ingress)));
    }
    let judge = Judge::new(&intent.policy, &intent.pods);
    let verdict = |port: u16| judge.verdict(&Flow::between("10.42.1.1".parse().unwrap(), "10.42.1.2".parse().unwrap(), 6, Some(port)));
    assert!(!verdict(1).allowed && verdict(2).allowed, "{:?} {:?}", verdict(1), verdict(2));
    // One policy more costs one policy, not all of them.
    let mut touched = Touched::default();
    for change in changes(&admin("ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: none}}}]}]")) {
        touched.merge(world.apply(change).value);
    }
    let next = compiler.turn(&world, &touched).value;
    assert_eq!(next.policy.tiers.len(), policies + 1);
    let kept = next.policy.tiers.iter().filter(|(key, rules)| intent.policy.tiers.get(*key).is_some_and(|old| Arc::ptr_eq(old, rules)));
    assert_eq!(kept.count(), policies);
}

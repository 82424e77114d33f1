//! Policies followed turn by turn: what comes out is what comes out of the whole, and what is not touched stays the same object.

use std::sync::Arc;

use bowline_model::intent::Intent;
use bowline_model::intent::policy::{Direction, SetId};
use bowline_model::{ClusterPolicyName, PolicyName};
use expect_test::expect;

use crate::testing::notation::{changes, world};
use crate::{Compiler, Touched, World};

const WORLD: &str = "
    node n1 192.168.0.1 cidr=10.42.1.0/24 pool=p
    node n2 192.168.0.2 cidr=10.42.2.0/24 pool=q
    ns x ns=nx team=red
    ns team-1 ns=nt team=blue
    pod x/a 10.42.1.2 @n1 app=a +attached
    pod x/b 10.42.1.3 @n1 app=b :http:80/tcp +attached
    pod team-1/c 10.42.2.2 @n2 app=c :http:8080/tcp
    pod team-1/d 10.42.2.3 @n2 app=d
";

struct Following {
    world: World,
    compiler: Compiler,
    intent: Intent,
}

impl Following {
    fn of(more: &str) -> Following {
        let world = world(&format!("{WORLD}\n{more}"));
        let mut compiler = Compiler::new();
        let intent = compiler.turn(&world, &Touched::everything()).value;
        Following { world, compiler, intent }
    }

    /// All changes in one turn; gives the intent before it, and holds the one after it against the whole compiled anew.
    fn then(&mut self, lines: &str) -> Intent {
        let mut touched = Touched::default();
        for change in changes(lines) {
            touched.merge(self.world.apply(change).value);
        }
        let after = self.compiler.turn(&self.world, &touched).value;
        assert_eq!(after.policy, Compiler::full(&self.world).value.policy, "after {lines}");
        std::mem::replace(&mut self.intent, after)
    }

    /// Whether policy was not even made anew.
    fn keeps(&mut self, lines: &str) -> bool {
        let before = self.then(lines);
        Arc::ptr_eq(&before.policy, &self.intent.policy)
    }

    /// The members of the only set whose id begins so.
    fn set(&self, start: &str) -> Vec<String> {
        let sets = &self.intent.policy.sets;
        let mut found = sets.iter().filter(|(SetId(id), _)| id.starts_with(start));
        let (_, set) = found.next().unwrap_or_else(|| panic!("{start} in {:?}", sets.keys().collect::<Vec<_>>()));
        assert!(found.next().is_none());
        set.iter().map(ToString::to_string).collect()
    }

    fn named(&self) -> Vec<String> {
        let members = self.intent.policy.named_ports.values().flat_map(|set| set.iter());
        members.map(|(ip, protocol, port)| format!("{ip}:{port}/{protocol:?}")).collect()
    }
}

fn from(app: &str) -> String {
    format!("{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: {app}}}}}}}]}}")
}

#[test]
fn changes_of_one_turn_do_not_make_up_for_each_other() {
    let nodes =
        "cnp n {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {matchLabels: {pool: p}}}]}]}";
    let policy = format!("policy x/p {{podSelector: {{}}, ingress: [{}, {}]}}", from("c"), from("d"));
    let mut following = Following::of(&format!("{nodes}\n{policy}"));
    // A pod and a node.
    following.then("pod team-1/c 10.42.2.9 @n2 app=c\nnode n2 192.168.0.2 cidr=10.42.2.0/24 pool=p");
    assert_eq!(following.set("nodes-any-"), ["192.168.0.1", "192.168.0.2"]);
    // Two sets of pods.
    following.then("pod team-1/c 10.42.2.2 @n2 app=c\npod team-1/d 10.42.2.8 @n2 app=d");
    following.then("pod team-1/c 10.42.2.2 @n2 app=d\npod team-1/d 10.42.2.8 @n2 app=c");
    // Two policies' rules, and two pods' lists.
    following.then(&format!(
        "policy x/p {{podSelector: {{}}, ingress: [{}]}}\npolicy x/q {{podSelector: {{}}, ingress: [{}]}}",
        from("c"),
        from("d")
    ));
    following.then(&format!(
        "policy x/p {{podSelector: {{}}, ingress: [{}]}}\npolicy x/q {{podSelector: {{}}, ingress: [{}]}}",
        from("d"),
        from("c")
    ));
    following.then("del NetworkPolicy x/p\ndel NetworkPolicy x/q");
    assert!(following.intent.policy.rules.is_empty());
    // A NetworkPolicy and a ClusterNetworkPolicy.
    following.then(&format!("{policy}\ndel ClusterNetworkPolicy n"));
    following.then(&format!("del NetworkPolicy x/p\n{nodes}"));
}

#[test]
fn rules_and_sets_are_there_as_long_as_a_pod_of_this_node_is_under_them() {
    let policy = format!("policy x/p {{podSelector: {{matchLabels: {{sel: ected}}}}, ingress: [{}]}}", from("c"));
    let key = (PolicyName::new("x", "p"), Direction::Ingress);
    let mut following = Following::of(&policy);
    let held = |following: &Following| (following.intent.policy.rules.contains_key(&key), following.intent.policy.sets.len());
    assert_eq!(held(&following), (false, 0));
    let with = "pod x/a 10.42.1.2 @n1 app=a sel=ected +attached";
    let without = "pod x/a 10.42.1.2 @n1 app=a +attached";
    following.then(with);
    assert_eq!(held(&following), (true, 1));
    following.then("pod x/b 10.42.1.3 @n1 app=b sel=ected :http:80/tcp +attached");
    following.then(without);
    assert_eq!(held(&following), (true, 1), "one is still under it");
    following.then(with);
    following.then(without);
    following.then("pod x/b 10.42.1.3 @n1 app=b :http:80/tcp +attached");
    assert_eq!(held(&following), (false, 0));
    // A second user of a set keeps it, whichever goes first.
    let all = |name: &str| format!("policy x/{name} {{podSelector: {{}}, ingress: [{}]}}", from("c"));
    following.then(&all("q"));
    following.then(&all("r"));
    following.then("del NetworkPolicy x/q");
    assert_eq!(following.set("pods-any-"), ["10.42.2.2"]);
    following.then(&all("q"));
    following.then("del NetworkPolicy x/r");
    assert_eq!(following.set("pods-any-"), ["10.42.2.2"]);
    following.then("del NetworkPolicy x/q");
    assert_eq!(following.intent.policy.sets.len(), 0);
}

#[test]
fn what_is_not_touched_stays_the_same_object() {
    let nodes =
        "cnp n {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Accept, to: [{nodes: {matchLabels: {pool: p}}}]}]}";
    let policy = |port: u16| {
        let peer = "{namespaceSelector: {}, podSelector: {matchLabels: {app: c}}}";
        format!("policy x/p {{podSelector: {{}}, ingress: [{{from: [{peer}], ports: [{{port: {port}}}]}}]}}")
    };
    let mut following = Following::of(&format!("{nodes}\n{}", policy(80)));
    assert!(following.keeps(""));
    assert!(following.keeps("node n2 192.168.0.2 cidr=10.42.2.0/24 pool=z"), "of no set");
    assert!(following.keeps("node n2 192.168.0.9 cidr=10.42.2.0/24 pool=z"), "of no set");
    assert!(!following.keeps("node n2 192.168.0.9 cidr=10.42.2.0/24 pool=p"));
    assert!(following.keeps("pod team-1/d 10.42.2.3 @n2 app=d other=label"), "of no set");
    assert!(following.keeps("svc x/s 10.43.0.9 :http:80/tcp"));
    assert!(following.keeps("ns team-1 ns=nt team=blue more=labels"));
    assert!(following.keeps(&policy(80)), "the policy says what it said");
    // A set that is named before and after is not made anew.
    let before = following.then(&policy(81));
    let sets = |intent: &Intent| intent.policy.sets.values().cloned().collect::<Vec<_>>();
    let (before, after) = (sets(&before), sets(&following.intent));
    assert_eq!((before.len(), after.len()), (2, 2));
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
    // A policy that goes takes nobody else's rules with it.
    let key = (ClusterPolicyName::from("n"), Direction::Egress);
    let before = following.then("del NetworkPolicy x/p");
    assert!(Arc::ptr_eq(&before.policy.tiers[&key], &following.intent.policy.tiers[&key]));
}

#[test]
fn labels_of_namespaces_and_tiers_move_their_pods() {
    let red = "{namespaceSelector: {matchLabels: {team: red}}}";
    let mut following = Following::of(&format!("policy x/p {{podSelector: {{}}, ingress: [{{from: [{red}]}}]}}"));
    assert_eq!(following.set("pods-any-"), ["10.42.1.2", "10.42.1.3"]);
    following.then("ns team-1 ns=nt team=red");
    assert_eq!(following.set("pods-any-"), ["10.42.1.2", "10.42.1.3", "10.42.2.2", "10.42.2.3"]);
    following.then("ns x ns=nx team=blue");
    assert_eq!(following.set("pods-any-"), ["10.42.2.2", "10.42.2.3"]);
    let tier = |namespace: &str| {
        let rule = "{action: Deny, from: [{namespaces: {}}]}";
        format!("cnp t {{tier: Admin, priority: 1, subject: {{namespaces: {{matchLabels: {{ns: {namespace}}}}}}}, ingress: [{rule}]}}")
    };
    let admin = |following: &Following| following.intent.policy.pods["bwl-x-a"].ingress.admin.len();
    following.then(&tier("nx"));
    assert_eq!(admin(&following), 1);
    following.then(&tier("nobody"));
    assert_eq!(admin(&following), 0);
    following.then(&tier("nx"));
    following.then("del ClusterNetworkPolicy t");
    assert_eq!(admin(&following), 0);
}

#[test]
fn names_of_ports_are_looked_up_where_the_peers_can_be() {
    let named = |peers: &str| {
        Following::of(&format!("policy x/p {{podSelector: {{}}, policyTypes: [Egress], egress: [{{{peers}ports: [{{port: http}}]}}]}}"))
            .named()
    };
    let (own, all) = (vec!["10.42.1.3:80/Tcp"], vec!["10.42.1.3:80/Tcp", "10.42.2.2:8080/Tcp"]);
    assert_eq!(named("to: [{podSelector: {}}], "), own);
    assert_eq!(named("to: [{podSelector: {}}, {podSelector: {matchLabels: {app: b}}}], "), own);
    assert_eq!(named("to: [{podSelector: {}}, {namespaceSelector: {}}], "), all);
    assert_eq!(named("to: [], "), all);
    assert_eq!(named(""), all);
}

#[test]
fn sets_bear_names_that_can_be_read() {
    let ids = |rule: &str| {
        let of =
            Following::of(&format!("pod team-1/e 10.42.1.9 @n1 app=e +attached\npolicy team-1/p {{podSelector: {{}}, ingress: [{rule}]}}"));
        let policy = &of.intent.policy;
        policy.sets.keys().chain(policy.named_ports.keys()).map(|SetId(id)| id.rsplit_once('-').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("{from: [{podSelector: {}}]}"), ["pods-team-1"]);
    assert_eq!(ids("{from: [{namespaceSelector: {}}]}"), ["pods-any"]);
    assert_eq!(ids("{ports: [{port: http}]}"), ["port-team-1"]);
}

#[test]
fn a_rule_that_can_take_nothing_is_left_out() {
    let rules = |rule: &str| {
        let of = Following::of(&format!("policy x/p {{podSelector: {{}}, ingress: [{rule}]}}"));
        of.intent.policy.rules[&(PolicyName::new("x", "p"), Direction::Ingress)].rules.len()
    };
    assert_eq!(rules("{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}"), 1);
    assert_eq!(rules("{from: [{podSelector: {}}], ports: [{port: 80}]}"), 1);
    assert_eq!(rules("{from: [{ipBlock: {cidr: nonsense}}]}"), 0, "no peer is left");
    assert_eq!(rules("{from: [{podSelector: {}}], ports: [{port: 70000}]}"), 0, "no port is left");
}

#[test]
fn what_is_wrong_with_a_policy_is_said_by_what_it_is() {
    let problems = |spec: &str| {
        let policy = format!("policy x/p {{podSelector: {{}}, {spec}}}");
        let problems = Compiler::full(&world(&format!("{WORLD}\n{policy}"))).problems;
        problems.iter().map(|problem| format!("{}: {}\n", problem.place, problem.what)).collect::<String>()
    };
    let selector = |requirement: &str| problems(&format!("ingress: [{{from: [{{podSelector: {{matchExpressions: [{requirement}]}}}}]}}]"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].from[0].podSelector.matchExpressions[0].values: operator In has no values
    "#]]
    .assert_eq(&selector("{key: app, operator: In}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].from[0].podSelector.matchExpressions[0].values: operator NotIn has no values
    "#]]
    .assert_eq(&selector("{key: app, operator: NotIn, values: []}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].from[0].podSelector.matchExpressions[0].values: operator Exists has values
    "#]]
    .assert_eq(&selector("{key: app, operator: Exists, values: [a]}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: operator `Is` is unknown
    "#]]
    .assert_eq(&selector("{key: app, operator: Is}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].from[0].podSelector.matchExpressions[0].key: a label requirement has no key
    "#]]
    .assert_eq(&selector("{key: '', operator: Exists}"));
    let port = |port: &str| problems(&format!("ingress: [{{ports: [{port}]}}]"));
    for good in ["a", "http2", "my-port", "fifteen-letters", "8080", "1", "65535"] {
        assert_eq!(port(&format!("{{port: {good}}}")), "", "{good}");
    }
    for bad in ["'80'", "'8-0'", "HTTP", "my_port", "sixteen-letters-", "0", "65536", "-1"] {
        assert_ne!(port(&format!("{{port: {bad}}}")), "", "{bad}");
    }
    for (first, last, good) in [(80, 80, true), (80, 81, true), (80, 79, false), (80, 65_535, true), (80, 65_536, false)] {
        assert_eq!(port(&format!("{{port: {first}, endPort: {last}}}")).is_empty(), good, "{first} to {last}");
    }
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].ports[0].port: `HTTP` is not a port name
    "#]]
    .assert_eq(&port("{port: HTTP}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].ports[0].endPort: endPort with a named port
    "#]]
    .assert_eq(&port("{port: http, endPort: 80}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].ports[0].endPort: endPort without port
    "#]]
    .assert_eq(&port("{endPort: 80}"));
    expect![[r#"
        NetworkPolicy x/p, spec.ingress[0].ports[0].protocol: protocol `ICMP` is unknown
    "#]]
    .assert_eq(&port("{port: 80, protocol: ICMP}"));
}

#[test]
fn what_is_wrong_with_a_cluster_policy_is_said_by_what_it_is() {
    let problems = |spec: &str| {
        let problems = Compiler::full(&world(&format!("{WORLD}\ncnp c {{tier: Admin, priority: 1, {spec}}}"))).problems;
        problems.iter().map(|problem| format!("{}: {}\n", problem.place, problem.what)).collect::<String>()
    };
    let all = "subject: {namespaces: {}}";
    let egress = |rule: &str| problems(&format!("{all}, egress: [{{action: Deny, {rule}}}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.subject: the subject is empty, so its rules are taken to close the pods that it may mean
    "#]]
    .assert_eq(&problems("subject: {}, ingress: [{action: Deny, from: [{namespaces: {}}]}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.subject: the subject has both namespaces and pods, so its rules are taken to close the pods that it may mean
    "#]]
        .assert_eq(&problems("subject: {namespaces: {}, pods: {podSelector: {}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]"));
    let odd = "{matchExpressions: [{key: a, operator: Is}]}";
    expect![[r#"
        ClusterNetworkPolicy c, spec.subject.namespaces.matchExpressions[0].operator: operator `Is` is unknown, so its rules are taken to close the pods that it may mean
    "#]]
        .assert_eq(&problems(&format!("subject: {{namespaces: {odd}}}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]")));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to: there is no peer, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: []"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to[0]: a peer has no field that is known, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to[0]: a peer has several fields, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{namespaces: {}, nodes: {}}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to[0].networks: a peer names no network, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{networks: []}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to[0].networks[0]: `nonsense` is not a network, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{networks: [nonsense]}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to[0].pods.podSelector.matchExpressions[0].operator: operator `Is` is unknown, so the rule denies everything
    "#]].assert_eq(&egress(&format!("to: [{{pods: {{podSelector: {odd}}}}}]")));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].to[0].pods: pods lacks its podSelector, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{pods: {namespaceSelector: {}}}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].protocols[0]: an entry of protocols has no field that is known, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{namespaces: {}}], protocols: [{}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].protocols[0]: an entry of protocols has several fields, so the rule denies everything
    "#]]
    .assert_eq(&egress("to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].protocols[0].tcp.destinationPort: a protocol without destinationPort, so the rule denies everything
    "#]].assert_eq(&egress("to: [{namespaces: {}}], protocols: [{tcp: {}}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.egress[0].protocols[0].destinationNamedPort: a named port stands beside a peer that is no pod, so the rule denies everything
    "#]].assert_eq(&egress("to: [{nodes: {}}], protocols: [{destinationNamedPort: http}]"));
    expect![[r#"
        ClusterNetworkPolicy c, spec.ingress[0].from[0]: an ingress peer is neither namespaces nor pods, so the rule denies everything
    "#]]
    .assert_eq(&problems(&format!("{all}, ingress: [{{action: Deny, from: [{{nodes: {{}}}}]}}]")));
}

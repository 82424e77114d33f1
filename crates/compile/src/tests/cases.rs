//! Files of policy cases: what is read, what is refused and how, and what manifests are made into.

use crate::cases::{Cluster, Manifest, Suite, objects, run};
use crate::explain::Outcome;

/// What is wrong with a file: its place and what is said of it.
fn refused(text: &str) -> (String, String) {
    let problem = Suite::read(text, "f.yaml").unwrap_err();
    assert!(!problem.fix.is_empty(), "{problem}");
    (problem.place, problem.what)
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_place() {
    let good = "{from: a/b, to: c/d, port: 80, expect: pass}";
    let case = |text: &str| format!("cases: [{good}, {text}]");
    for (text, place, what) in [
        (String::new(), "f.yaml", "the file is not one document with manifests and cases"),
        ("[]".into(), "f.yaml", "the file is not one document with manifests and cases"),
        ("cases: []\n---\ncases: []".into(), "f.yaml", "the file is not one document with manifests and cases"),
        ("cases: [".into(), "f.yaml", "the file is no YAML"),
        ("cases: []".into(), "f.yaml, cases", "there is no case"),
        ("cases: 7".into(), "f.yaml, cases", "cases is a number, and must be a list"),
        (format!("manifests: x\ncases: [{good}]"), "f.yaml, manifests", "manifests is a text, and must be a list"),
        (format!("manifests: [a.yaml, 7]\ncases: [{good}]"), "f.yaml, manifests[1]", "a manifest is a number"),
        (format!("manifests: ['']\ncases: [{good}]"), "f.yaml, manifests[0]", "a manifest is a text"),
        (format!("manifests: [{{metadata: {{}}}}]\ncases: [{good}]"), "f.yaml, manifests[0]", "a document has no kind"),
        (format!("kind: Pod\ncases: [{good}]"), "f.yaml, kind", "kind is not PolicyTest"),
        (format!("apiVersion: v1\ncases: [{good}]"), "f.yaml, apiVersion", "apiVersion is not bowline.io/v1"),
        (format!("case: []\ncases: [{good}]"), "f.yaml", "there is no field `case`"),
        (case("7"), "f.yaml, cases[1]", "a case is a number, and must be a section"),
        (case("{from: a/b, to: c/d}"), "f.yaml, cases[1].expect", "expect is missing"),
        (case("{from: a/b, expect: pass}"), "f.yaml, cases[1].to", "to is missing"),
        (case("{to: a/b, expect: pass}"), "f.yaml, cases[1].from", "from is missing"),
        (case("{from: 7, to: c/d, expect: pass}"), "f.yaml, cases[1].from", "from is a number, and must be a text"),
        (case("{from: A/b, to: c/d, expect: pass}"), "f.yaml, cases[1].from", "`A` is no name and no address"),
        (case("{from: a/b, to: c/d/e/f, expect: pass}"), "f.yaml, cases[1].to", "`c/d/e/f` has too many parts"),
        (case("{from: a/b, to: 'c/d:80', expect: pass}"), "f.yaml, cases[1].to", "`d:80` is no name and no address"),
        (case("{from: a/b, to: c/d, port: 0, expect: pass}"), "f.yaml, cases[1].port", "port `0` is not one of 1 to 65535"),
        (case("{from: a/b, to: c/d, port: [80], expect: pass}"), "f.yaml, cases[1].port", "port is a list"),
        (
            case("{from: a/b, to: c/d, port: 80/igmp, expect: pass}"),
            "f.yaml, cases[1].port",
            "unknown protocol `igmp`: use TCP, UDP or SCTP",
        ),
        (case("{from: a/b, to: c/d, port: 80/icmp, expect: pass}"), "f.yaml, cases[1].port", "ICMP has no ports"),
        (case("{from: a/b, to: c/d, port: 80, protocol: icmp, expect: pass}"), "f.yaml, cases[1].protocol", "ICMP has no ports"),
        (
            case("{from: a/b, to: c/d, port: 80/udp, protocol: tcp, expect: pass}"),
            "f.yaml, cases[1].protocol",
            "port says UDP, and protocol says TCP",
        ),
        (
            case("{from: a/b, to: c/d, port: 80, protocol: igmp, expect: pass}"),
            "f.yaml, cases[1].protocol",
            "unknown protocol `igmp`: use TCP, UDP or SCTP",
        ),
        (case("{from: a/b, to: c/d, protocol: udp, expect: pass}"), "f.yaml, cases[1].protocol", "there is no port for protocol `udp`"),
        (case("{from: a/b, to: c/d, port: 80, family: 6, expect: pass}"), "f.yaml, cases[1].family", "that is no family"),
        (case("{from: a/b, to: c/d, protocol: icmpv6, family: ipv4, expect: pass}"), "f.yaml, cases[1].family", "ICMPv6 is not of ipv4"),
        (format!("family: both\ncases: [{good}]"), "f.yaml, family", "that is no family"),
        (case("{from: a/b, to: c/d, port: 1.5, expect: pass}"), "f.yaml, cases[1].port", "`1.5` is no port"),
        (case("{from: a/b, to: c/d, expect: allow}"), "f.yaml, cases[1].expect", "`allow` is no verdict"),
        (case("{from: a/b, to: c/d, expect: pass, prot: udp}"), "f.yaml, cases[1]", "there is no field `prot`"),
        (case("{from: a/b, to: c/d, expect: pass, name: 7}"), "f.yaml, cases[1].name", "name is a number, and must be a text"),
    ] {
        assert_eq!(refused(&text), (place.to_owned(), what.to_owned()), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_manifest_is_said_with_its_place() {
    let pod = |name: &str| format!("{{kind: Pod, metadata: {{name: {name}}}}}");
    for (text, place, what) in [
        ("a: [".to_owned(), "m.yaml", "the manifest is no YAML"),
        ("7".into(), "m.yaml", "a document has no kind"),
        (format!("{}\n---\n{{}}", pod("a")), "m.yaml, document 2", "a document has no kind"),
        ("{kind: Pod}".into(), "m.yaml", "a Pod has no metadata.name"),
        (format!("{}\n---\n{}", pod("a"), pod("a")), "m.yaml, document 2", "Pod a is there twice, first in m.yaml, document 1"),
        (
            format!("{{kind: List, items: [{}, {}]}}", pod("a"), pod("a")),
            "m.yaml, items[1]",
            "Pod a is there twice, first in m.yaml, items[0]",
        ),
        ("{kind: Service, metadata: {name: a}, spec: 7}".into(), "m.yaml", "Service a cannot be read"),
        ("{kind: NetworkPolicy, metadata: {name: a}, spec: {ingress: 7}}".into(), "m.yaml", "NetworkPolicy a cannot be read"),
    ] {
        let problem = objects(&text, "m.yaml").and_then(Cluster::of).map(|_| ()).unwrap_err();
        assert_eq!((problem.place.as_str(), problem.what.as_str()), (place, what), "{text}");
        assert!(!problem.fix.is_empty(), "{problem}");
    }
}

/// Judges cases, `FROM > TO[ at PORT][ by PROTOCOL][ in FAMILY] = VERDICT` a line, by manifests.
fn check(manifests: &str, cases: &str) {
    let cluster = Cluster::of(objects(manifests, "m").unwrap()).unwrap();
    let mut file = "cases:\n".to_owned();
    for line in cases.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (from, rest) = line.split_once(" > ").unwrap();
        let (to, expect) = rest.split_once(" = ").unwrap();
        let (to, family) = to.split_once(" in ").unwrap_or((to, "null"));
        let (to, protocol) = to.split_once(" by ").unwrap_or((to, "null"));
        let (to, port) = to.split_once(" at ").unwrap_or((to, "null"));
        file.push_str(&format!(
            "- {{from: '{from}', to: '{to}', port: {port}, protocol: {protocol}, family: {family}, expect: {expect}}}\n"
        ));
    }
    let suite = Suite::read(&file, "f").unwrap();
    for judged in run(&cluster, &suite.cases) {
        assert!(judged.passed(), "{:?} is {:?}\n{:#?}", judged.case, judged.got(), judged.explained);
    }
}

const SHOP: &str = "
apiVersion: v1
kind: List
items:
- {kind: Namespace, metadata: {name: ops, labels: {team: blue}}}
- kind: Deployment
  metadata: {name: web, namespace: shop}
  spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}
- kind: StatefulSet
  metadata: {name: api, namespace: shop}
  spec: {template: {metadata: {labels: {app: api}}, spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}}}
- kind: CronJob
  metadata: {name: backup, namespace: ops}
  spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: backup}}, spec: {}}}}}
- {kind: Pod, metadata: {name: agent, namespace: ops}, spec: {hostNetwork: true, nodeName: far}}
- {kind: Service, metadata: {name: front, namespace: shop}, spec: {selector: {app: api}, ports: [{port: 80, targetPort: http}]}}
- {kind: Service, metadata: {name: lost, namespace: shop}, spec: {selector: {app: nobody}, ports: [{port: 80}]}}
- {kind: Service, metadata: {name: heads, namespace: shop}, spec: {clusterIP: None, selector: {app: api}, ports: [{port: 8080}]}}
- {kind: ConfigMap, metadata: {name: ignored}, data: {}}
";

#[test]
fn manifests_are_made_into_what_a_cluster_would_hold() {
    check(
        SHOP,
        "
        shop/web > shop/front = pass
        shop/web > shop/front at 80 = pass
        shop/web > shop/heads = pass
        shop/web > shop/api at http = pass
        shop/web > shop/lost = reject
        198.51.100.1 > shop/api at 8080 = pass
        shop/web > 198.51.100.1 at 443/udp = pass
        ops/agent > shop/api at 22 = pass
        shop/web > shop/api at 53 by udp = pass
        shop/web > shop/api by icmp = pass
        shop/web > shop/front by icmp = reject
        shop/web > 2001:db8::1 by icmpv6 = pass
        node-1 > shop/api at 22 = pass",
    );
    let policy = "
---
{kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {matchLabels: {app: api}}, ingress: [
  {from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}, podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]},
  {from: [{namespaceSelector: {matchLabels: {team: blue}}}], ports: [{port: 22}]}]}}";
    check(
        &format!("{SHOP}{policy}"),
        "
        shop/web > shop/front = pass
        shop/web > shop/api at 8081 = drop
        ops/backup > shop/front = drop
        ops/backup > shop/api at 22 = pass
        ops/backup > shop/api by icmp = drop
        ops/backup > shop/api by icmpv6 = drop
        shop/web > shop/heads by icmp = drop
        shop/api > shop/web by icmp = pass
        ops/agent > shop/api at 22 = drop
        198.51.100.1 > shop/api at 8080 = drop
        shop/api > shop/web at 80 = pass
        shop/api > svc/shop/front = pass",
    );
}

#[test]
fn pods_of_the_nodes_network_have_their_nodes_addresses() {
    let edge = "
---
{kind: Node, metadata: {name: edge}, status: {addresses: [{type: Hostname, address: edge}, {type: InternalIP, address: 172.16.0.7}]}}
---
{kind: DaemonSet, metadata: {name: ingress, namespace: shop}, spec: {template: {metadata: {labels: {app: edge}}, spec: {hostNetwork: true, nodeName: edge}}}}
---
{kind: DaemonSet, metadata: {name: agent, namespace: shop}, spec: {template: {metadata: {labels: {app: agent}}, spec: {hostNetwork: true, nodeName: far}}}}
---
{kind: Service, metadata: {name: edge, namespace: shop}, spec: {selector: {app: edge}, ports: [{port: 80}]}}
---
{kind: Service, metadata: {name: agents, namespace: shop}, spec: {selector: {app: agent}, ports: [{port: 80}]}}
---
{kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress],
  egress: [{to: [{ipBlock: {cidr: 172.16.0.0/24}}]}]}}";
    check(
        &format!("{SHOP}{edge}"),
        "
        shop/web > shop/edge = pass
        shop/api > shop/edge = pass
        shop/api > shop/agents = pass
        shop/web > shop/agents = drop
        shop/ingress > shop/api at 8080 = pass",
    );
}

#[test]
fn labels_that_controllers_give_are_there() {
    let policies = "
---
{kind: Job, metadata: {name: load, namespace: shop}, spec: {completionMode: Indexed, template: {metadata: {labels: {app: load}}}}}
---
{kind: NetworkPolicy, metadata: {name: first, namespace: shop}, spec: {podSelector: {matchLabels: {statefulset.kubernetes.io/pod-name: api-0, apps.kubernetes.io/pod-index: '0'}},
  ingress: [{from: [{podSelector: {matchLabels: {batch.kubernetes.io/job-name: load, batch.kubernetes.io/job-completion-index: '0'}}}]},
    {from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: job-name, operator: In, values: [backup]}]}}]}]}}";
    check(
        &format!("{SHOP}{policies}"),
        "
        shop/load > shop/api at 8080 = pass
        ops/backup > shop/api at 8080 = pass
        shop/web > shop/api at 8080 = drop",
    );
}

#[test]
fn a_named_port_is_of_the_services_protocol_and_may_be_a_sidecars() {
    let pods = "
kind: Pod
metadata: {name: dns, namespace: shop, labels: {app: dns}}
spec:
  containers: [{name: c, ports: [{name: dns, containerPort: 5353, protocol: TCP}, {name: dns, containerPort: 5354, protocol: UDP}]}]
  initContainers:
  - {name: once, ports: [{name: metrics, containerPort: 9000}]}
  - {name: beside, restartPolicy: Always, ports: [{name: metrics, containerPort: 9001}]}
---
{kind: Pod, metadata: {name: web, namespace: shop}}
---
{kind: Service, metadata: {name: dns, namespace: shop}, spec: {selector: {app: dns}, ports: [
  {name: udp, port: 53, protocol: UDP, targetPort: dns}, {name: tcp, port: 53, targetPort: dns}, {name: metrics, port: 9, targetPort: metrics},
  {name: sctp, port: 53, protocol: SCTP, targetPort: dns}]}}
---
{kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {matchLabels: {app: dns}},
  ingress: [{ports: [{port: 5354, protocol: UDP}, {port: 9001}]}]}}";
    check(
        pods,
        "
        shop/web > svc/shop/dns at 53/udp = pass
        shop/web > svc/shop/dns at 53 = drop
        shop/web > svc/shop/dns at metrics = pass
        shop/web > svc/shop/dns at 53 by sctp = reject",
    );
}

#[test]
fn both_families_are_judged_unless_one_is_named() {
    let block = "
---
{kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {matchLabels: {app: api}},
  ingress: [{from: [{ipBlock: {cidr: 10.42.0.0/16}}]}]}}";
    let cluster = Cluster::of(objects(&format!("{SHOP}{block}"), "m").unwrap()).unwrap();
    let judged = |of_file: &str, of_case: &str, expect: &str| {
        let text = format!("{of_file}\ncases: [{{from: shop/web, to: shop/api, port: 80, {of_case} expect: {expect}}}]");
        let suite = Suite::read(&text, "f").unwrap();
        let judged = run(&cluster, &suite.cases).remove(0);
        (judged.passed(), judged.got().unwrap())
    };
    assert_eq!(judged("", "", "pass"), (false, Outcome::Drop));
    assert_eq!(judged("", "", "drop"), (false, Outcome::Pass));
    assert_eq!(judged("", "family: ipv4,", "pass"), (true, Outcome::Pass));
    assert_eq!(judged("", "family: ipv6,", "drop"), (true, Outcome::Drop));
    assert_eq!(judged("family: ipv4", "", "pass"), (true, Outcome::Pass));
    assert_eq!(judged("family: ipv4", "family: ipv6,", "drop"), (true, Outcome::Drop));
    // A service of one family has addresses of that one.
    let single = "\n---\n{kind: Service, metadata: {name: single, namespace: shop}, spec: {ipFamilies: [IPv4], selector: {app: api}, ports: [{port: 80}]}}";
    check(&format!("{SHOP}{block}{single}"), "shop/web > shop/single = pass");
}

#[test]
fn a_field_that_policies_do_not_have_is_an_error_with_its_path() {
    let policy = |spec: &str| format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: a}}, spec: {spec}}}");
    let cluster = |spec: &str| {
        format!("{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: a}}, spec: {spec}}}")
    };
    for (text, path) in [
        (policy("{podselector: {}}"), "spec.podselector"),
        (policy("{podSelector: {matchLabel: {a: b}}}"), "spec.podSelector.matchLabel"),
        (policy("{ingress: [{}, {form: []}]}"), "spec.ingress[1].form"),
        (policy("{egress: [{to: [{podSelector: {}}, {namespaceselector: {}}]}]}"), "spec.egress[0].to[1].namespaceselector"),
        (policy("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, exept: []}}]}]}"), "spec.ingress[0].from[0].ipBlock.exept"),
        (policy("{ingress: [{ports: [{port: 80, proto: UDP}]}]}"), "spec.ingress[0].ports[0].proto"),
        (policy("{podSelector: {matchExpressions: [{key: a, operator: In, value: [b]}]}}"), "spec.podSelector.matchExpressions[0].value"),
        ("{kind: NetworkPolicy, metadata: {name: a, namspace: b}}".to_owned(), "metadata.namspace"),
        ("{kind: NetworkPolicy, metadata: {name: a}, sepc: {}}".to_owned(), "sepc"),
        (cluster("{tier: Admin, prio: 1}"), "spec.prio"),
        (cluster("{subject: {pods: {podSelectors: {}}}}"), "spec.subject.pods.podSelectors"),
        (cluster("{egress: [{action: Deny, to: [{network: [10.0.0.0/8]}]}]}"), "spec.egress[0].to[0].network"),
        (
            cluster("{ingress: [{protocols: [{tcp: {destinationPort: {numbers: 1}}}]}]}"),
            "spec.ingress[0].protocols[0].tcp.destinationPort.numbers",
        ),
    ] {
        let problem = objects(&text, "m.yaml").and_then(Cluster::of).map(|_| ()).unwrap_err();
        assert_eq!(problem.place, format!("m.yaml, {path}"), "{problem}");
        assert!(problem.what.contains("has a field that there is not") && problem.fix.starts_with("the fields there are "), "{problem}");
    }
    // What a cluster gives back is known, whatever is in its labels.
    let given = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: b, uid: u, resourceVersion: '1', generation: 1,
        creationTimestamp: null, labels: {some: thing}, annotations: {kubectl.kubernetes.io/last-applied-configuration: x}, managedFields: []},
        spec: {podSelector: {matchLabels: {podselector: x}}, policyTypes: [Ingress], ingress: null}, status: {}}";
    assert!(objects(given, "m").and_then(Cluster::of).is_ok());
}

#[test]
fn a_service_whose_endpoints_differ_is_neither() {
    let other = "
---
{kind: Pod, metadata: {name: old, namespace: shop, labels: {app: api, gen: old}}, spec: {containers: [{ports: [{name: http, containerPort: 8080}]}]}}
---
{kind: NetworkPolicy, metadata: {name: in, namespace: shop}, spec: {podSelector: {matchLabels: {gen: old}}}}";
    let cluster = Cluster::of(objects(&format!("{SHOP}{other}"), "m").unwrap()).unwrap();
    for (expect, got) in [("pass", Outcome::Drop), ("drop", Outcome::Pass)] {
        let text = format!("cases: [{{from: shop/web, to: shop/front, expect: {expect}}}]");
        let suite = Suite::read(&text, "f").unwrap();
        let judged = run(&cluster, &suite.cases).remove(0);
        assert_eq!((judged.passed(), judged.got()), (false, Some(got)), "{expect}");
    }
}

#[test]
fn who_is_not_there_is_named_by_case_and_field() {
    let cluster = Cluster::of(objects(SHOP, "m").unwrap()).unwrap();
    let suite =
        Suite::read("cases: [{from: shop/nobody, to: shop/front, expect: pass}, {from: shop/web, to: nobody, port: 1, expect: pass}]", "f")
            .unwrap();
    let places: Vec<String> = run(&cluster, &suite.cases).into_iter().map(|judged| judged.explained.unwrap_err().place).collect();
    assert_eq!(places, ["f, cases[0].from", "f, cases[1].to"]);
}

#[test]
fn manifests_in_the_file_and_beside_it_are_kept_in_order() {
    let text = "manifests: [a.yaml, {kind: Pod, metadata: {name: x}}, b]\ncases: [{from: x, to: x, port: 1, expect: pass}]";
    let suite = Suite::read(text, "f").unwrap();
    let words: Vec<String> = suite
        .manifests
        .iter()
        .map(|manifest| match manifest {
            Manifest::Path(path) => path.clone(),
            Manifest::Inline(objects) => objects[0].place.clone(),
        })
        .collect();
    assert_eq!(words, ["a.yaml", "f, manifests[1]", "b"]);
}

#[test]
fn cluster_policies_are_judged_with_the_others() {
    let suite = |api_version: &str, action: &str| {
        format!(
            "manifests:
  - {{kind: Pod, metadata: {{name: web, namespace: shop, labels: {{app: web}}}}}}
  - {{kind: Pod, metadata: {{name: api, namespace: shop}}, spec: {{containers: [{{ports: [{{containerPort: 80}}]}}]}}}}
  - {{kind: NetworkPolicy, metadata: {{name: open, namespace: shop}}, spec: {{podSelector: {{}}, ingress: [{{}}]}}}}
  - {{apiVersion: {api_version}, kind: ClusterNetworkPolicy, metadata: {{name: guard}}, spec: {{tier: Admin, priority: 1,
      subject: {{namespaces: {{matchLabels: {{kubernetes.io/metadata.name: shop}}}}}},
      ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]}}}}
cases: [{{from: shop/web, to: shop/api, port: 80, expect: drop}}]"
        )
    };
    let cluster = |api_version: &str, action: &str| {
        let suite = Suite::read(&suite(api_version, action), "f").unwrap();
        let inline = suite.manifests.into_iter().filter_map(|manifest| match manifest {
            Manifest::Inline(objects) => Some(objects),
            Manifest::Path(_) => None,
        });
        (Cluster::of(inline.flatten().collect()), suite.cases)
    };
    let verdict = |api_version: &str, action: &str| {
        let (cluster, cases) = cluster(api_version, action);
        run(&cluster.unwrap(), &cases)[0].explained.as_ref().unwrap().verdict
    };
    assert_eq!(verdict("policy.networking.k8s.io/v1alpha2", "Deny"), Outcome::Drop);
    assert_eq!(verdict("policy.networking.k8s.io/v1alpha2", "Pass"), Outcome::Pass);
    assert_eq!(verdict("policy.networking.k8s.io/v1beta1", "Deny"), Outcome::Drop);
    // Somebody else's kind of that name says nothing here; another version of this one cannot be read.
    assert_eq!(verdict("crd.antrea.io/v1beta1", "Deny"), Outcome::Pass);
    let problem = cluster("policy.networking.k8s.io/v1", "Deny").0.unwrap_err();
    assert!(problem.what.contains("policy.networking.k8s.io/v1") && problem.fix.contains("v1alpha2"), "{problem}");
    // What is not understood is told, as it is in the cluster.
    let told = cluster("policy.networking.k8s.io/v1alpha2", "Log").0.unwrap().problems;
    assert_eq!(told.len(), 1, "{told:?}");
}

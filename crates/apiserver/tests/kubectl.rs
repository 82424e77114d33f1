//! The server as kubectl sees it. Skipped, with a printed reason, where no kubectl is installed.
#![allow(clippy::disallowed_methods, reason = "it drives processes and keeps time")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bowline_apiserver::store::DeleteOptions;
use bowline_apiserver::{ApiError, Config, GroupResource, LogRequest, LogStream, Store};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use common::Running;

struct Kubectl {
    running: Running,
}

/// A server and kubectl, or nothing where there is no kubectl.
async fn kubectl(config: Config) -> Option<Kubectl> {
    let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no kubectl on this machine");
        return None;
    }
    Some(Kubectl { running: Running::start(Store::new(), config) })
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(arguments).env("KUBECONFIG", self.running.kubeconfig()).env("HOME", self.running.directory()).kill_on_drop(true);
        command
    }

    /// Runs it with this standard input; gives success, and everything it printed.
    async fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut command = self.command(arguments);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {arguments:?} does not end")).unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    }

    /// Runs one line that must succeed.
    async fn ok(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').collect();
        let (success, text) = self.run(&arguments, "").await;
        assert!(success, "kubectl {line}: {text}");
        text
    }

    /// Runs one line that must fail.
    async fn fails(&self, line: &str) -> String {
        let arguments: Vec<&str> = line.split(' ').collect();
        let (success, text) = self.run(&arguments, "").await;
        assert!(!success, "kubectl {line} should fail: {text}");
        text
    }

    async fn apply(&self, manifest: &str) -> String {
        let (success, text) = self.run(&["apply", "-f", "-"], manifest).await;
        assert!(success, "{text}\n{manifest}");
        text
    }

    fn get(&self, group: &str, plural: &str, name: &str) -> Value {
        Value::clone(&*self.running.store.get(&GroupResource::new(group, plural), Some("default"), name).unwrap())
    }
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: httpd
spec:
  replicas: 3
  selector:
    matchLabels:
      name: networkpolicy-demo
  template:
    metadata:
      labels:
        name: networkpolicy-demo
    spec:
      containers:
        - name: httpd
          image: httpd:latest
          ports:
            - containerPort: 80
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata:
  name: dns
spec:
  type: NodePort
  selector:
    name: networkpolicy-demo
  ports:
    - name: udp
      protocol: UDP
      port: 53
    - name: tcp
      protocol: TCP
      port: 53
      targetPort: 5353
";

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: access-httpd
spec:
  podSelector:
    matchLabels:
      name: networkpolicy-demo
  ingress:
    - from:
        - podSelector:
            matchLabels:
              access: \"true\"
        - ipBlock:
            cidr: 192.168.200.0/24
      ports:
        - protocol: TCP
          port: 80
";

const REST: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: nginx-ds, namespace: default}
spec:
  selector: {matchLabels: {app: nginx-ds}}
  template:
    metadata: {labels: {app: nginx-ds}}
    spec:
      containers:
        - {name: nginx, image: 'nginx:1.17', ports: [{containerPort: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  rules:
    - host: shop.example.test
      http:
        paths:
          - {path: /cart, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: dns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: 'system:dns'}
rules: [{apiGroups: [''], resources: [pods], verbs: [list, watch]}]
---
apiVersion: v1
kind: Secret
metadata: {name: plain}
stringData: {password: secret}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db, image: 'db:1'}]}}
";

#[tokio::test(flavor = "multi_thread")]
async fn apply_creates_and_then_changes_what_has_changed() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    for manifest in [DEPLOYMENT, SERVICE, POLICY, REST] {
        let text = kubectl.apply(manifest).await;
        assert!(text.lines().all(|line| line.ends_with(" created")), "{text}");
        let text = kubectl.apply(manifest).await;
        let again = |line: &str| line.ends_with(" unchanged") || line == "secret/plain configured";
        assert!(text.lines().all(again), "{text}");
    }
    assert_eq!(kubectl.get("", "secrets", "plain")["data"]["password"], "c2VjcmV0");
    kubectl.apply(&DEPLOYMENT.replace("httpd:latest", "httpd:2").replace("replicas: 3", "replicas: 2")).await;
    let deployment = kubectl.get("apps", "deployments", "httpd");
    assert_eq!((&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]), (&json!(2), &json!(2)));
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "httpd:2");
    kubectl.apply(&format!("{}    - name: metrics\n      port: 9153\n", SERVICE)).await;
    let ports = kubectl.get("", "services", "dns")["spec"]["ports"].clone();
    let seen: Vec<_> =
        ports.as_array().unwrap().iter().map(|port| (port["port"].as_i64().unwrap(), port["protocol"].as_str().unwrap())).collect();
    assert_eq!(seen, [(53, "UDP"), (53, "TCP"), (9153, "TCP")]);
    assert_eq!((&ports[0]["targetPort"], &ports[1]["targetPort"]), (&json!(53), &json!(5353)));
    kubectl.apply(&POLICY.replace("        - ipBlock:\n            cidr: 192.168.200.0/24\n", "")).await;
    let policy = kubectl.get("networking.k8s.io", "networkpolicies", "access-httpd");
    assert_eq!((policy["spec"]["ingress"][0]["from"].as_array().unwrap().len(), &policy["spec"]["policyTypes"]), (1, &json!(["Ingress"])));
    let (success, text) = kubectl.run(&["apply", "--server-side", "--force-conflicts", "-f", "-"], DEPLOYMENT).await;
    assert!(success && text.contains("serverside-applied"), "{text}");
    assert_eq!(kubectl.get("apps", "deployments", "httpd")["spec"]["replicas"], 3);
    let (success, text) = kubectl.run(&["diff", "-f", "-"], DEPLOYMENT).await;
    assert!(success, "nothing differs: {text}");
    let (success, text) = kubectl.run(&["delete", "-f", "-"], POLICY).await;
    assert!(success && text.contains("deleted"), "{text}");
    kubectl.fails("get netpol access-httpd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_accepted_as_they_are() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files = std::fs::read_dir(&examples).unwrap().map(|entry| entry.unwrap().path());
    let manifests: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert!(manifests.len() > 4, "{manifests:?}");
    // Controllers bring it where they run.
    kubectl.apply(&bowline_apiserver::controllers::cluster_network_policies().to_string()).await;
    kubectl.ok("wait --for=condition=Established crd/clusternetworkpolicies.policy.networking.k8s.io --timeout=30s").await;
    for path in manifests {
        kubectl.ok(&format!("apply -f {}", path.display())).await;
        let again = kubectl.ok(&format!("apply -f {}", path.display())).await;
        assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    }
    let table = kubectl.ok("get cnp").await;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    assert_eq!(rows, [["NAME", "TIER", "PRIORITY"], ["guardrails", "Admin", "10"], ["isolated-unless-told", "Baseline", "10"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn create_sends_protobuf_that_is_understood() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    kubectl.ok("create namespace blue").await;
    kubectl.ok("create configmap settings --from-literal=a=1").await;
    kubectl.ok("create secret generic login --from-literal=password=x").await;
    kubectl.ok("create serviceaccount robot").await;
    kubectl.ok("create deployment web --image=nginx:1 --replicas=0 --port=80").await;
    kubectl.ok("create service nodeport front --tcp=80:8080 --node-port=30080").await;
    kubectl.ok("create service clusterip quiet --clusterip=None").await;
    kubectl.ok("create service externalname away --external-name=example.com").await;
    kubectl.ok("create job once --image=x:1").await;
    kubectl.ok("create ingress edge --rule=example.com/a=front:80").await;
    kubectl.ok("create role reader --verb=get --resource=pods").await;
    assert_eq!(kubectl.get("", "configmaps", "settings")["data"], json!({"a": "1"}));
    let web = kubectl.get("apps", "deployments", "web");
    assert_eq!(web["spec"]["replicas"], 0);
    assert_eq!(web["spec"]["selector"], json!({"matchLabels": {"app": "web"}}));
    assert_eq!(web["spec"]["template"]["spec"]["containers"][0]["ports"][0], json!({"containerPort": 80, "protocol": "TCP"}));
    let front = kubectl.get("", "services", "front");
    assert_eq!(front["spec"]["ports"][0], json!({"name": "80-8080", "nodePort": 30080, "port": 80, "protocol": "TCP", "targetPort": 8080}));
    let rule = &kubectl.get("networking.k8s.io", "ingresses", "edge")["spec"]["rules"][0];
    assert_eq!(rule["http"]["paths"][0]["backend"]["service"], json!({"name": "front", "port": {"number": 80}}));
    assert!(kubectl.fails("create namespace blue").await.contains("AlreadyExists"));
    assert_eq!(kubectl.ok("auth can-i delete pods").await, "yes\n");
    assert!(kubectl.ok("auth whoami").await.contains("tester"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_descriptions() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    kubectl.apply(DEPLOYMENT).await;
    kubectl.apply(SERVICE).await;
    kubectl.apply(POLICY).await;
    kubectl.ok("run lonely --image=x:1 --port=80 --labels=a=b").await;
    let status =
        json!({"phase": "Running", "podIP": "10.1.2.3", "containerStatuses": [{"name": "lonely", "ready": true, "restartCount": 0}]});
    let change = |pod: &mut Value| {
        pod["spec"]["nodeName"] = json!("n1");
        pod["status"] = status;
    };
    kubectl.running.store.modify(&GroupResource::core("pods"), Some("default"), "lonely", change).unwrap();
    let table = kubectl.ok("get pods -o wide").await;
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..7], ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"]);
    assert_eq!((&words[1][..4], &words[1][5..7]), (&["lonely", "1/1", "Running", "0"][..], &["10.1.2.3", "n1"][..]));
    assert!(kubectl.ok("get all,netpol -A -o wide").await.contains("53/UDP,53/TCP"));
    assert!(kubectl.ok("get deploy httpd -o jsonpath={.spec.strategy.type}").await == "RollingUpdate");
    assert!(kubectl.ok("get pods --field-selector=spec.nodeName=n1 -l a=b -o name").await == "pod/lonely\n");
    assert!(kubectl.ok("get pods -l a=c").await.contains("No resources found"));
    assert!(kubectl.ok("get ns -o custom-columns=N:.metadata.name --no-headers").await.contains("kube-system\n"));
    for (line, wanted) in [
        ("describe deploy httpd", "RollingUpdateStrategy:  25% max unavailable, 25% max surge"),
        ("describe svc dns", "5353/TCP"),
        ("describe pod lonely", "10.1.2.3"),
        ("describe netpol access-httpd", "CIDR: 192.168.200.0/24"),
        ("describe ns default", "Status:       Active"),
        ("api-resources", "endpointslices"),
        ("api-versions", "discovery.k8s.io/v1"),
        ("explain deployments", "KIND:       Deployment"),
        ("get --raw /readyz", "ok"),
        ("version", "Server Version: v1.32"),
    ] {
        let text = kubectl.ok(line).await;
        assert!(text.contains(wanted), "{line}: {text}");
    }
    assert!(kubectl.fails("get pod nobody").await.contains("pods \"nobody\" not found"));
    assert!(kubectl.fails("get gizmos").await.contains("doesn't have a resource type"));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_flags_and_patches() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    kubectl.apply(DEPLOYMENT).await;
    kubectl.ok("label deploy httpd tier=front").await;
    assert!(kubectl.fails("label deploy httpd tier=back").await.contains("--overwrite"));
    kubectl.ok("label deploy httpd tier=back --overwrite").await;
    kubectl.ok("annotate deploy httpd note=one").await;
    kubectl.ok("scale deploy httpd --replicas=5").await;
    kubectl.ok("scale deploy httpd --current-replicas=5 --replicas=6").await;
    kubectl.fails("scale deploy httpd --current-replicas=1 --replicas=9").await;
    kubectl.ok("set image deploy/httpd httpd=httpd:3").await;
    kubectl
        .ok(r#"patch deploy httpd -p {"spec":{"template":{"spec":{"containers":[{"name":"httpd","env":[{"name":"A","value":"1"}]}]}}}}"#)
        .await;
    kubectl.ok(r#"patch deploy httpd --type=merge -p {"spec":{"paused":true}}"#).await;
    kubectl.ok(r#"patch deploy httpd --type=json -p [{"op":"add","path":"/metadata/labels/x","value":"y"}]"#).await;
    kubectl.ok(r#"patch deploy httpd --subresource=status --type=merge -p {"spec":{"replicas":1},"status":{"replicas":6}}"#).await;
    let deployment = kubectl.get("apps", "deployments", "httpd");
    assert_eq!(deployment["metadata"]["labels"], json!({"tier": "back", "x": "y"}));
    assert_eq!(deployment["metadata"]["annotations"]["note"], "one");
    assert_eq!((&deployment["spec"]["replicas"], &deployment["spec"]["paused"]), (&json!(6), &json!(true)));
    assert_eq!(deployment["status"], json!({"replicas": 6}));
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["image"], &container["env"][0]["name"]), (&json!("httpd:3"), &json!("A")));
    kubectl.ok("rollout resume deploy/httpd").await;
    kubectl.ok("rollout restart deploy/httpd").await;
    kubectl.ok("expose deploy httpd --port=80").await;
    assert_eq!(kubectl.get("", "services", "httpd")["spec"]["selector"], json!({"name": "networkpolicy-demo"}));
    let before = kubectl.running.store.revision();
    kubectl.ok("delete svc httpd --dry-run=server").await;
    kubectl.ok("label deploy httpd dry=run --dry-run=server").await;
    assert_eq!(kubectl.running.store.revision(), before, "dry runs write nothing");
    kubectl.ok("delete deploy,svc --all").await;
    assert!(kubectl.ok("get deploy,svc").await.contains("No resources found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_objects_are_refused_with_their_fields() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    for (manifest, wanted) in [
        (
            DEPLOYMENT.replace("      labels:\n        name: networkpolicy-demo", "      labels:\n        name: other"),
            "`selector` does not match template `labels`",
        ),
        (DEPLOYMENT.replace("name: httpd\nspec", "name: Httpd_1\nspec"), "metadata.name: Invalid value: \"Httpd_1\""),
        (DEPLOYMENT.replace("containerPort: 80", "containerPort: 80000"), "spec.template.spec.containers[0].ports[0].containerPort"),
        (SERVICE.replace("protocol: UDP", "protocol: QUIC"), "spec.ports[0].protocol: Unsupported value: \"QUIC\""),
        (SERVICE.replace("    - name: udp\n      protocol: UDP", "    - protocol: UDP"), "spec.ports[0].name: Required value"),
        (POLICY.replace("192.168.200.0/24", "192.168.200.0/33"), "spec.ingress[0].from[1].ipBlock.cidr: Invalid value"),
        (POLICY.replace("name: access-httpd", "name: access-httpd\n  namespace: nowhere"), "namespaces \"nowhere\" not found"),
        (POLICY.replace("kind: NetworkPolicy", "kind: NetworkWish"), "no matches for kind"),
    ] {
        let (success, text) = kubectl.run(&["apply", "-f", "-"], &manifest).await;
        assert!(!success && text.contains(wanted), "wanted {wanted:?}, got {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_and_wait() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    kubectl.apply(DEPLOYMENT).await;
    let deployments = GroupResource::new("apps", "deployments");
    let mut watching = kubectl.command(&["get", "deploy", "-w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = async || tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(next().await.starts_with("NAME"));
    assert!(next().await.contains("0/3"));
    let available = json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
        "conditions": [{"type": "Available", "status": "True"}, {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]});
    let rollout = kubectl.ok("rollout status deploy/httpd --timeout=30s");
    let wait = kubectl.ok("wait --for=condition=Available deploy/httpd --timeout=30s");
    let change = async {
        kubectl.running.store.modify(&deployments, Some("default"), "httpd", |one| one["status"] = available).unwrap();
    };
    let (rollout, wait, ()) = tokio::join!(rollout, wait, change);
    assert!(rollout.contains("successfully rolled out"), "{rollout}");
    assert!(wait.contains("condition met"), "{wait}");
    let line = next().await;
    assert!(line.starts_with("httpd") && line.contains("3/3"), "{line}");
    let gone = kubectl.ok("wait --for=delete deploy/httpd --timeout=30s");
    let (deleted, gone) = tokio::join!(kubectl.ok("delete deploy httpd"), gone);
    assert!(deleted.contains("deleted") && !gone.contains("error"), "{deleted}{gone}");
    kubectl.ok("create namespace blue").await;
    kubectl.ok("delete ns blue --wait=false").await;
    assert!(kubectl.ok("get ns blue").await.contains("Terminating"));
    watching.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_served_once_they_are_defined() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "description": "What is wanted.", "properties": {"size": {"type": "integer"}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]},
    });
    kubectl.apply(&definition.to_string()).await;
    kubectl.ok("wait --for=condition=Established crd/widgets.example.com --timeout=30s").await;
    let widget = |size: Value| {
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": size}}).to_string()
    };
    assert!(kubectl.apply(&widget(json!(3))).await.contains("widget.example.com/w created"));
    assert!(kubectl.apply(&widget(json!(4))).await.contains("configured"));
    let table = kubectl.ok("get wd").await;
    assert_eq!(table.split_whitespace().collect::<Vec<_>>(), ["NAME", "SIZE", "w", "4"]);
    let (success, text) = kubectl.run(&["apply", "-f", "-"], &widget(json!("big"))).await;
    assert!(!success && text.contains("spec.size"), "{text}");
    assert!(kubectl.ok("explain widgets.spec").await.contains("What is wanted."));
    kubectl.ok("delete crd widgets.example.com").await;
    kubectl.fails("get widgets.example.com w").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained() {
    let Some(kubectl) = kubectl(Config::default()).await else { return };
    let (nodes, pods) = (GroupResource::core("nodes"), GroupResource::core("pods"));
    let store = kubectl.running.store.clone();
    store
        .create(&nodes, None, json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}});
    store.create(&pods, Some("default"), pod).unwrap();
    let kubelet = async {
        let mut watch = store.watch(&pods, None, None).unwrap();
        while !bowline_apiserver::object::is_terminating(&watch.next().await.object) {}
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        store.delete(&pods, Some("default"), "p", &now).unwrap();
    };
    let (text, ()) = tokio::join!(kubectl.ok("drain n1 --force --timeout=30s"), kubelet);
    assert!(text.contains("drained"), "{text}");
    assert!(kubectl.ok("get nodes").await.contains("Ready,SchedulingDisabled"));
    kubectl.ok("uncordon n1").await;
    kubectl.ok("taint node n1 key=value:NoSchedule").await;
    assert!(kubectl.ok("describe node n1").await.contains("key=value:NoSchedule"));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_their_source() {
    let source = |request: LogRequest| -> Result<LogStream, ApiError> {
        let text = format!(
            "{}/{}/{} tail {:?} follow {}\n",
            request.namespace, request.pod, request.container, request.tail_lines, request.follow
        );
        Ok(Box::pin(futures::stream::iter([Bytes::from(text), Bytes::from("second line\n")])))
    };
    let Some(kubectl) = kubectl(Config { pod_logs: Some(Arc::new(source)), ..Config::default() }).await else { return };
    kubectl.ok("run web --image=x:1").await;
    assert_eq!(kubectl.ok("logs web --tail=7").await, "default/web/web tail Some(7) follow false\nsecond line\n");
    assert!(kubectl.ok("logs -f web").await.contains("follow true"));
    assert!(kubectl.fails("logs web -c other").await.contains("other"));
}

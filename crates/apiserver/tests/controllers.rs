//! The controllers over a store, without HTTP: a stand-in for the nodes runs the pods.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::collections::BTreeSet;
use std::time::Duration;

use bowline_apiserver::controllers::{self, Config};
use bowline_apiserver::object::{is_terminating, items, name, text};
use bowline_apiserver::store::{DeleteOptions, EventKind, Propagation};
use bowline_apiserver::{ApiError, GroupResource, Store};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Cluster {
    store: Store,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn pods() -> GroupResource {
    GroupResource::core("pods")
}

fn services() -> GroupResource {
    GroupResource::core("services")
}

fn deployments() -> GroupResource {
    GroupResource::new("apps", "deployments")
}

fn slices() -> GroupResource {
    GroupResource::new("discovery.k8s.io", "endpointslices")
}

fn config(service_cidrs: &[&str]) -> Config {
    let parse = |cidr: &&str| cidr.parse().unwrap();
    Config {
        node_port_range: 30_000..=33_000,
        dns_ip: Some("10.43.0.10".parse().unwrap()),
        api_addresses: vec!["172.18.0.1:6443".parse().unwrap()],
        ..Config::new(service_cidrs.iter().map(parse).collect(), vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/48".parse().unwrap()])
    }
}

impl Cluster {
    fn empty(service_cidrs: &[&str]) -> Cluster {
        let (store, stop) = (Store::new(), CancellationToken::new());
        controllers::start(&store, config(service_cidrs), &stop);
        Cluster { store, stop }
    }

    /// A cluster with this many nodes that run pods.
    async fn with_nodes(count: usize) -> Cluster {
        let cluster = Cluster::empty(&["10.43.0.0/16", "fd00:43::/112"]);
        for n in 1..=count {
            let node = json!({"metadata": {"name": format!("n{n}"), "labels": {"topology.kubernetes.io/zone": format!("z{n}")}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            cluster.store.create(&GroupResource::core("nodes"), None, node).unwrap();
        }
        tokio::spawn(run_pods(cluster.store.clone(), cluster.stop.clone()));
        cluster
            .until("nodes have prefixes", |store| {
                store.list(&GroupResource::core("nodes"), None).items.iter().all(|node| items(node, "/spec/podCIDRs").len() == 2)
            })
            .await;
        cluster
    }

    /// Waits for writes until the condition holds.
    async fn until(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let mut revisions = self.store.revisions();
        let wait = async {
            while !holds(&self.store) {
                revisions.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), wait).await.is_err() {
            for gr in [pods(), deployments(), slices(), GroupResource::new("apps", "replicasets"), GroupResource::core("namespaces")] {
                for object in self.store.list(&gr, None).items {
                    eprintln!("{gr} {object}");
                }
            }
            panic!("never happened: {what}");
        }
    }

    fn create(&self, gr: &GroupResource, object: Value) -> Value {
        self.try_create(gr, object).unwrap()
    }

    fn try_create(&self, gr: &GroupResource, object: Value) -> Result<Value, ApiError> {
        self.store.create(gr, Some("default"), object).map(|object| Value::clone(&object))
    }

    fn live_pods(&self) -> Vec<Value> {
        live_pods(&self.store)
    }

    fn delete(&self, gr: &GroupResource, name: &str) {
        self.store.delete(gr, Some("default"), name, &DeleteOptions::default()).unwrap();
    }

    fn modify(&self, gr: &GroupResource, name: &str, change: impl FnOnce(&mut Value)) -> Value {
        Value::clone(&self.store.modify(gr, Some("default"), name, change).unwrap())
    }
}

fn live_pods(store: &Store) -> Vec<Value> {
    let pods = store.list(&pods(), None).items;
    pods.iter().filter(|pod| !is_terminating(pod)).map(|pod| Value::clone(pod)).collect()
}

fn is_ready(pod: &Value) -> bool {
    items(pod, "/status/conditions").any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn set_ready(pod: &mut Value, ready: bool) {
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": if ready { "True" } else { "False" },
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
}

/// Runs each pod that is bound to a node, unless its image is `broken`, and ends those that are deleted, unless annotated `linger`.
async fn run_pods(store: Store, stop: CancellationToken) {
    let mut watch = store.watch(&pods(), None, None).unwrap();
    let mut count = 0_u32;
    loop {
        let event = tokio::select! { event = watch.next() => event, () = stop.cancelled() => return };
        if !matches!(event.kind, EventKind::Added | EventKind::Modified) {
            continue;
        }
        let pod = &event.object;
        let ns = Some(text(pod, "/metadata/namespace"));
        if is_terminating(pod) {
            if pod.pointer("/metadata/annotations/linger").is_none() {
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                let _ = store.delete(&pods(), ns, name(pod), &options);
            }
        } else if !text(pod, "/spec/nodeName").is_empty() && pod.pointer("/status/podIP").is_none() {
            count += 1;
            let (v4, v6) = (format!("10.244.{}.{}", count / 250, count % 250), format!("fd00:244::{count:x}"));
            let broken = text(pod, "/spec/containers/0/image") == "broken";
            let _ = store.modify(&pods(), ns, name(pod), |pod| {
                pod["status"]["phase"] = json!("Running");
                pod["status"]["podIP"] = json!(v4);
                pod["status"]["podIPs"] = json!([{"ip": v4}, {"ip": v6}]);
                set_ready(pod, !broken);
            });
        }
    }
}

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image,
        "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
        "template": template(name, "one")}})
}

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

fn rolled_out(store: &Store, name: &str, replicas: i64) -> bool {
    let Ok(deployment) = store.get(&deployments(), Some("default"), name) else { return false };
    let (status, metadata) = (&deployment["status"], &deployment["metadata"]);
    status["observedGeneration"] == metadata["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"].iter().all(|field| status[*field] == replicas)
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    items(object, "/status/conditions").find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn a_deployment_becomes_pods_and_follows_its_scale() {
    let cluster = Cluster::with_nodes(3).await;
    cluster.create(&deployments(), deployment("web", 6));
    cluster.until("six pods", |store| rolled_out(store, "web", 6)).await;
    let per_node = |n: &str| cluster.live_pods().iter().filter(|pod| text(pod, "/spec/nodeName") == n).count();
    assert_eq!(["n1", "n2", "n3"].map(per_node), [2, 2, 2], "spread over the nodes");
    let now = cluster.store.get(&deployments(), Some("default"), "web").unwrap();
    assert_eq!(condition(&now, "Available")["status"], "True");
    assert_eq!(condition(&now, "Progressing")["reason"], "NewReplicaSetAvailable");
    assert_eq!(now["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");

    cluster.modify(&deployments(), "web", |d| d["spec"]["replicas"] = json!(2));
    cluster.until("two pods", |store| rolled_out(store, "web", 2) && live_pods(store).len() == 2).await;
    let gone = cluster.live_pods().remove(0);
    cluster.delete(&pods(), name(&gone));
    cluster
        .until("replaced", |store| {
            let pods = live_pods(store);
            pods.len() == 2
                && pods.iter().all(|pod| pod["metadata"]["uid"] != gone["metadata"]["uid"] && is_ready(pod) || name(pod) != name(&gone))
                && rolled_out(store, "web", 2)
        })
        .await;
}

#[tokio::test]
async fn a_new_template_rolls_out_within_its_bounds_and_back() {
    let cluster = Cluster::with_nodes(2).await;
    let mut object = deployment("web", 4);
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    cluster.create(&deployments(), object);
    cluster.until("first", |store| rolled_out(store, "web", 4)).await;

    let mut watch = cluster.store.watch(&pods(), None, Some(cluster.store.revision())).unwrap();
    let (mut ready, mut all): (BTreeSet<String>, BTreeSet<String>) = (BTreeSet::new(), BTreeSet::new());
    for pod in cluster.live_pods() {
        ready.insert(name(&pod).to_owned());
        all.insert(name(&pod).to_owned());
    }
    cluster.modify(&deployments(), "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("two"));
    cluster
        .until("second", |store| {
            rolled_out(store, "web", 4) && live_pods(store).iter().all(|pod| text(pod, "/spec/containers/0/image") == "two")
        })
        .await;
    while let Some(event) = watch.next_ready() {
        let (pod, gone) = (name(&event.object).to_owned(), event.kind == EventKind::Deleted || is_terminating(&event.object));
        if gone {
            all.remove(&pod)
        } else {
            all.insert(pod.clone())
        };
        if !gone && is_ready(&event.object) {
            ready.insert(pod)
        } else {
            ready.remove(&pod)
        };
        assert!(ready.len() >= 4 && all.len() <= 5, "{} ready of {}", ready.len(), all.len());
    }
    let revision = |expected: &'static str| {
        move |store: &Store| {
            let now = store.get(&deployments(), Some("default"), "web").unwrap();
            now["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == expected && rolled_out(store, "web", 4)
        }
    };
    cluster.until("revision 2", revision("2")).await;
    cluster.modify(&deployments(), "web", |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("one");
        d["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null; // as `kubectl rollout undo` writes it
    });
    cluster.until("rolled back", revision("3")).await;
    assert_eq!(cluster.store.list(&GroupResource::new("apps", "replicasets"), None).items.len(), 2, "the old set serves again");
}

#[tokio::test]
async fn a_rollout_that_cannot_succeed_keeps_the_old_pods() {
    let cluster = Cluster::with_nodes(2).await;
    let mut object = deployment("web", 4);
    object["spec"]["progressDeadlineSeconds"] = json!(1);
    cluster.create(&deployments(), object);
    cluster.until("first", |store| rolled_out(store, "web", 4)).await;
    cluster.modify(&deployments(), "web", |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("broken"));
    cluster
        .until("deadline", |store| {
            let now = store.get(&deployments(), Some("default"), "web").unwrap();
            condition(&now, "Progressing")["reason"] == "ProgressDeadlineExceeded"
        })
        .await;
    assert!(cluster.live_pods().iter().filter(|pod| is_ready(pod)).count() >= 3);
    let now = cluster.store.get(&deployments(), Some("default"), "web").unwrap();
    assert_eq!(condition(&now, "Available")["status"], "True");
}

#[tokio::test]
async fn deletion_takes_the_dependents_along_unless_orphaned() {
    let cluster = Cluster::with_nodes(1).await;
    for one in ["gone", "kept"] {
        cluster.create(&deployments(), deployment(one, 2));
        cluster.until("up", |store| rolled_out(store, one, 2)).await;
    }
    cluster.delete(&deployments(), "gone");
    let options = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
    cluster.store.delete(&deployments(), Some("default"), "kept", &options).unwrap();
    let sets = |store: &Store| store.list(&GroupResource::new("apps", "replicasets"), None).items.len();
    cluster.until("pods gone", |store| store.list(&pods(), None).items.len() == 2 && sets(store) == 1).await;
    // A Deployment of the same selector takes the orphans over instead of starting its own.
    let before: BTreeSet<String> = cluster.live_pods().iter().map(|pod| name(pod).to_owned()).collect();
    cluster.create(&deployments(), deployment("kept", 2));
    cluster.until("adopted", |store| rolled_out(store, "kept", 2)).await;
    assert_eq!(cluster.live_pods().iter().map(|pod| name(pod).to_owned()).collect::<BTreeSet<_>>(), before);
}

#[tokio::test]
async fn a_daemon_set_covers_the_nodes_that_take_it() {
    let cluster = Cluster::with_nodes(3).await;
    let gr = GroupResource::new("apps", "daemonsets");
    let object = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template("d", "one")}});
    cluster.create(&gr, object);
    let up = |count: i64| {
        move |store: &Store| {
            let set = store.get(&GroupResource::new("apps", "daemonsets"), Some("default"), "d").unwrap();
            let fields = ["desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberReady", "numberAvailable"];
            set["status"]["observedGeneration"] == set["metadata"]["generation"]
                && fields.iter().all(|field| set["status"][*field] == count)
                && live_pods(store).len() == usize::try_from(count).unwrap()
        }
    };
    cluster.until("three", up(3)).await;
    // A node that is not ready gets its pod all the same.
    cluster.store.create(&GroupResource::core("nodes"), None, json!({"metadata": {"name": "n4"}})).unwrap();
    cluster.until("four", up(4)).await;
    cluster
        .store
        .modify(&GroupResource::core("nodes"), None, "n4", |node| {
            node["spec"]["taints"] = json!([{"key": "x", "effect": "NoSchedule"}]);
        })
        .unwrap();
    cluster.until("three again", up(3)).await;
    cluster.modify(&gr, "d", |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("two"));
    cluster
        .until("updated", |store| up(3)(store) && live_pods(store).iter().all(|pod| text(pod, "/spec/containers/0/image") == "two"))
        .await;
}

#[tokio::test]
async fn a_stateful_set_has_names_in_order_and_a_job_ends() {
    let cluster = Cluster::with_nodes(2).await;
    let sets = GroupResource::new("apps", "statefulsets");
    let object = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "db", "replicas": 3,
        "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "one")}});
    cluster.create(&sets, object);
    let names = |store: &Store| live_pods(store).iter().map(|pod| name(pod).to_owned()).collect::<Vec<_>>();
    cluster.until("three", |store| names(store) == ["db-0", "db-1", "db-2"] && live_pods(store).iter().all(is_ready)).await;
    cluster.create(&services(), service("db", json!({"clusterIP": "None", "selector": {"app": "db"}})));
    cluster
        .until("hostnames", |store| {
            let all = store.list(&slices(), Some("default")).items;
            all.iter().any(|slice| items(slice, "/endpoints").filter_map(|e| e["hostname"].as_str()).eq(["db-0", "db-1", "db-2"]))
        })
        .await;
    cluster.modify(&sets, "db", |set| set["spec"]["replicas"] = json!(1));
    cluster.until("one", |store| names(store) == ["db-0"]).await;

    let jobs = GroupResource::new("batch", "jobs");
    let mut spec = template("j", "one");
    spec["spec"]["restartPolicy"] = json!("Never");
    cluster.create(&jobs, json!({"metadata": {"name": "j"}, "spec": {"completions": 2, "template": spec}}));
    for done in 1..=2 {
        let job_pod = |store: &Store| {
            live_pods(store).into_iter().find(|pod| pod["metadata"]["labels"]["job-name"] == "j" && pod["status"]["phase"] == "Running")
        };
        cluster.until("a pod of the job", |store| job_pod(store).is_some()).await;
        let pod = job_pod(&cluster.store).unwrap();
        cluster.modify(&pods(), name(&pod), |pod| pod["status"]["phase"] = json!("Succeeded"));
        cluster
            .until("counted", |store| {
                store.get(&GroupResource::new("batch", "jobs"), Some("default"), "j").unwrap()["status"]["succeeded"] == done
            })
            .await;
    }
    let job = cluster.store.get(&jobs, Some("default"), "j").unwrap();
    assert_eq!(condition(&job, "Complete")["status"], "True");
}

#[tokio::test]
async fn slices_follow_readiness_and_termination() {
    let cluster = Cluster::with_nodes(2).await;
    cluster.create(&deployments(), deployment("web", 2));
    let selector = json!({"selector": {"app": "web"}, "ipFamilyPolicy": "PreferDualStack", "trafficDistribution": "PreferClose"});
    cluster.create(&services(), service("web", selector));
    let conditions = |store: &Store, family: &str| -> Vec<[bool; 3]> {
        let all = store.list(&slices(), Some("default")).items;
        let slice =
            all.iter().find(|slice| slice["addressType"] == family && slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        let fields = ["ready", "serving", "terminating"];
        slice.map(|slice| items(slice, "/endpoints").map(|e| fields.map(|f| e["conditions"][f] == true)).collect()).unwrap_or_default()
    };
    let (up, down) = ([true, true, false], [false, false, false]);
    for family in ["IPv4", "IPv6"] {
        cluster.until("both ready", |store| conditions(store, family) == [up, up]).await;
    }
    let all = cluster.store.list(&slices(), Some("default")).items;
    let slice = all.iter().find(|slice| slice["addressType"] == "IPv6" && name(slice).starts_with("web-")).unwrap();
    assert_eq!(slice["ports"], json!([{"name": "", "protocol": "TCP", "port": 8080}]), "the named port as a number");
    let endpoint = &slice["endpoints"][0];
    assert!(text(endpoint, "/addresses/0").starts_with("fd00:244::"), "{endpoint}");
    assert_eq!(endpoint["hints"]["forZones"][0]["name"], endpoint["zone"]);
    assert_eq!((&endpoint["targetRef"]["kind"], text(endpoint, "/nodeName").is_empty()), (&json!("Pod"), false));

    let first = name(&cluster.live_pods()[0]).to_owned();
    cluster.modify(&pods(), &first, |pod| set_ready(pod, false));
    cluster.until("one not ready", |store| conditions(store, "IPv4") == [down, up]).await;
    let addresses = |store: &Store, field: &str| {
        let endpoints = store.get(&GroupResource::core("endpoints"), Some("default"), "web");
        endpoints.map(|e| items(&e, &format!("/subsets/0/{field}")).len()).unwrap_or_default()
    };
    cluster.until("Endpoints too", |store| addresses(store, "addresses") == 1 && addresses(store, "notReadyAddresses") == 1).await;
    cluster.modify(&services(), "web", |service| service["spec"]["publishNotReadyAddresses"] = json!(true));
    cluster.until("published", |store| conditions(store, "IPv4") == [up, up]).await;
    cluster.modify(&services(), "web", |service| service["spec"]["publishNotReadyAddresses"] = json!(false));
    cluster.modify(&pods(), &first, |pod| set_ready(pod, true));

    // A pod that ends still serves for a while.
    cluster.modify(&pods(), &first, |pod| pod["metadata"]["annotations"] = json!({"linger": "yes"}));
    cluster.delete(&pods(), &first);
    cluster.until("terminating", |store| conditions(store, "IPv4").contains(&[false, true, true])).await;
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    cluster.store.delete(&pods(), Some("default"), &first, &options).unwrap();
    cluster.until("replaced", |store| conditions(store, "IPv4") == [up, up]).await;

    cluster.delete(&services(), "web");
    cluster.until("slices gone", |store| conditions(store, "IPv4").is_empty() && addresses(store, "addresses") == 0).await;
}

#[tokio::test]
async fn large_services_have_several_slices_and_foreign_ones_are_left_alone() {
    let cluster = Cluster::with_nodes(1).await;
    cluster.create(&services(), service("big", json!({"selector": {"app": "big"}})));
    let foreign = json!({"metadata": {"name": "big-mine", "labels": {"kubernetes.io/service-name": "big"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.1"]}], "ports": []});
    cluster.create(&slices(), foreign);
    cluster.create(&services(), service("manual", json!({})));
    cluster.create(&deployments(), deployment("big", 230));
    let sizes = |store: &Store| -> Vec<usize> {
        let all = store.list(&slices(), Some("default")).items;
        let ours = all.iter().filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "big" && name(s) != "big-mine");
        let mut sizes: Vec<usize> = ours.map(|s| items(s, "/endpoints").len()).collect();
        sizes.sort_unstable();
        sizes
    };
    cluster.until("three slices", |store| sizes(store) == [30, 100, 100]).await;
    cluster.modify(&deployments(), "big", |d| d["spec"]["replicas"] = json!(0));
    cluster.until("one empty slice", |store| sizes(store) == [0]).await;
    let all = cluster.store.list(&slices(), Some("default")).items;
    assert!(all.iter().any(|s| name(s) == "big-mine" && items(s, "/endpoints").len() == 1));
    assert!(all.iter().all(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] != "manual"));
}

fn causes(error: &ApiError) -> String {
    assert_eq!(error.code(), 422, "{error}");
    error.to_string()
}

#[tokio::test]
async fn cluster_ips_have_one_owner() {
    let cluster = Cluster::empty(&["10.43.0.0/16", "fd00:43::/112"]);
    let kubernetes = cluster.store.get(&services(), Some("default"), "kubernetes").unwrap();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
    assert_eq!(kubernetes["spec"]["ports"][0]["targetPort"], 6443);
    let slice = cluster.store.get(&slices(), Some("default"), "kubernetes").unwrap();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["172.18.0.1"]));

    let one = cluster.create(&services(), service("one", json!({})));
    assert_eq!((&one["spec"]["ipFamilyPolicy"], &one["spec"]["ipFamilies"]), (&json!("SingleStack"), &json!(["IPv4"])));
    let ip = one["spec"]["clusterIP"].clone();
    assert!(text(&one, "/spec/clusterIP").starts_with("10.43."), "{ip}");
    let error = cluster.try_create(&services(), service("two", json!({"clusterIP": ip}))).unwrap_err();
    assert!(causes(&error).contains("already allocated (by service default/one)"), "{error}");
    let error = cluster.try_create(&services(), service("two", json!({"clusterIP": "10.99.0.1"}))).unwrap_err();
    assert!(causes(&error).contains("not in the valid range 10.43.0.0/16"), "{error}");
    cluster.delete(&services(), "one");
    let two = cluster.create(&services(), service("two", json!({"clusterIP": ip})));
    assert_eq!(two["spec"]["clusterIP"], ip);

    let dual = cluster.create(&services(), service("dual", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})));
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    assert!(text(&dual, "/spec/clusterIP").starts_with("fd00:43::"), "{dual}");
    assert_eq!(items(&dual, "/spec/clusterIPs").len(), 2);
    let headless = cluster.create(&services(), service("headless", json!({"clusterIP": "None", "selector": {"a": "b"}})));
    assert_eq!((&headless["spec"]["clusterIPs"], &headless["spec"]["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let name = json!({"metadata": {"name": "elsewhere"}, "spec": {"type": "ExternalName", "externalName": "example.org"}});
    assert!(cluster.create(&services(), name)["spec"].get("clusterIP").is_none());
    let dns = cluster.create(&services(), service("dns", json!({"clusterIP": "10.43.0.10"})));
    assert_eq!(dns["spec"]["clusterIP"], "10.43.0.10");

    // An address stays with its service, whatever a writer leaves out; it is not changed either.
    let mut again = service("two", json!({}));
    again["metadata"]["labels"] = json!({"a": "b"});
    let updated = cluster.store.update(&services(), Some("default"), "two", again).unwrap();
    assert_eq!(updated["spec"]["clusterIP"], ip);
    let error = cluster.store.update(&services(), Some("default"), "two", service("two", json!({"clusterIP": "10.43.7.7"}))).unwrap_err();
    assert!(causes(&error).contains("may not change once set"), "{error}");
    let wider = cluster.modify(&services(), "two", |service| service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack"));
    assert_eq!((items(&wider, "/spec/clusterIPs").len(), &wider["spec"]["clusterIP"]), (2, &ip));
    let narrower = cluster.modify(&services(), "two", |service| service["spec"]["ipFamilyPolicy"] = json!("SingleStack"));
    assert_eq!(narrower["spec"]["clusterIPs"], json!([ip]));
}

#[tokio::test]
async fn a_small_service_range_is_used_up_to_the_end() {
    let cluster = Cluster::empty(&["10.43.0.0/28"]);
    let mut ips = BTreeSet::new();
    // 16 addresses without the network's, the broadcast, kubernetes' and the one kept for DNS.
    for n in 0..12 {
        let one = cluster.create(&services(), service(&format!("s{n}"), json!({})));
        assert!(ips.insert(text(&one, "/spec/clusterIP").to_owned()));
    }
    let error = cluster.try_create(&services(), service("more", json!({}))).unwrap_err();
    assert!(causes(&error).contains("range is full"), "{error}");
    let error = cluster.try_create(&services(), service("dual", json!({"ipFamilyPolicy": "RequireDualStack"}))).unwrap_err();
    assert!(causes(&error).contains("not configured for dual-stack"), "{error}");
    cluster.delete(&services(), "s3");
    cluster.create(&services(), service("more", json!({})));
}

#[tokio::test]
async fn node_ports_have_one_owner() {
    let cluster = Cluster::empty(&["10.43.0.0/16"]);
    let ports =
        |protocol: &str, node_port: u16| json!({"type": "NodePort", "ports": [{"port": 53, "protocol": protocol, "nodePort": node_port}]});
    cluster.create(&services(), service("one", ports("TCP", 33_000)));
    cluster.create(&services(), service("udp", ports("UDP", 33_000)));
    let error = cluster.try_create(&services(), service("two", ports("TCP", 33_000))).unwrap_err();
    assert!(causes(&error).contains("spec.ports[0].nodePort") && error.to_string().contains("(by service default/one)"), "{error}");
    let error = cluster.try_create(&services(), service("two", ports("TCP", 80))).unwrap_err();
    assert!(causes(&error).contains("The range of valid ports is 30000-33000"), "{error}");

    let auto = cluster.create(&services(), service("auto", json!({"type": "NodePort"})));
    let number = auto["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..33_000).contains(&number), "{number}");
    let updated = cluster.store.update(&services(), Some("default"), "auto", service("auto", json!({"type": "NodePort"}))).unwrap();
    assert_eq!(updated["spec"]["ports"][0]["nodePort"], number, "kept though the writer left it out");
    let plain = cluster.modify(&services(), "auto", |service| service["spec"]["type"] = json!("ClusterIP"));
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());

    let balanced = cluster.create(&services(), service("lb", json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})));
    let health = balanced["spec"]["healthCheckNodePort"].as_i64().unwrap();
    assert!((30_000..=33_000).contains(&health) && balanced["spec"]["ports"][0]["nodePort"] != health, "{balanced}");
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    assert!(cluster.create(&services(), service("lb2", none))["spec"]["ports"][0].get("nodePort").is_none());
}

#[tokio::test]
async fn a_namespace_goes_pods_first() {
    let cluster = Cluster::with_nodes(1).await;
    let namespaces = GroupResource::core("namespaces");
    let policies = GroupResource::new("networking.k8s.io", "networkpolicies");
    cluster.store.create(&namespaces, None, json!({"metadata": {"name": "shop"}})).unwrap();
    cluster.until("its service account", |store| store.get(&GroupResource::core("serviceaccounts"), Some("shop"), "default").is_ok()).await;
    let mut object = deployment("web", 1);
    object["spec"]["template"]["metadata"]["annotations"] = json!({"linger": "yes"});
    cluster.store.create(&deployments(), Some("shop"), object).unwrap();
    let policy = json!({"metadata": {"name": "deny"}, "spec": {"podSelector": {}}});
    cluster.store.create(&policies, Some("shop"), policy).unwrap();
    cluster.until("running", |store| store.list(&pods(), Some("shop")).items.iter().any(|pod| is_ready(pod))).await;

    cluster.store.delete(&namespaces, None, "shop", &DeleteOptions::default()).unwrap();
    cluster.until("terminating", |store| store.list(&pods(), Some("shop")).items.iter().any(|pod| is_terminating(pod))).await;
    assert!(cluster.store.get(&policies, Some("shop"), "deny").is_ok(), "the policy outlives the pod");
    let mut watch = cluster.store.watch(&policies, Some("shop"), Some(cluster.store.revision())).unwrap();
    for pod in cluster.store.list(&pods(), Some("shop")).items {
        assert!(watch.next_ready().is_none(), "the policy is there as long as any pod is");
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        cluster.store.delete(&pods(), Some("shop"), name(&pod), &options).unwrap();
    }
    cluster.until("gone", |store| store.get(&GroupResource::core("namespaces"), None, "shop").is_err()).await;
    assert!(cluster.store.list(&pods(), Some("shop")).items.is_empty() && cluster.store.list(&policies, Some("shop")).items.is_empty());
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_waits_for_a_node() {
    let cluster = Cluster::with_nodes(1).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": {"gpu": "yes"}, "containers": [{"name": "c", "image": "x"}]}});
    cluster.create(&pods(), pod);
    cluster
        .until("refused", |store| {
            let pod = store.get(&pods(), Some("default"), "p").unwrap();
            text(condition(&pod, "PodScheduled"), "/message").starts_with("0/1 nodes are available: 1 node(s) didn't match")
        })
        .await;
    cluster.store.modify(&GroupResource::core("nodes"), None, "n1", |node| node["metadata"]["labels"]["gpu"] = json!("yes")).unwrap();
    cluster.until("running", |store| is_ready(&store.get(&pods(), Some("default"), "p").unwrap())).await;
}

#[tokio::test]
async fn nodes_keep_their_prefixes_and_get_different_ones() {
    let cluster = Cluster::with_nodes(0).await;
    let nodes = GroupResource::core("nodes");
    let own = json!({"metadata": {"name": "own"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}});
    cluster.store.create(&nodes, None, own).unwrap();
    for n in ["a", "b"] {
        cluster.store.create(&nodes, None, json!({"metadata": {"name": n}})).unwrap();
    }
    let cidr = |store: &Store, n: &str| text(&store.get(&GroupResource::core("nodes"), None, n).unwrap(), "/spec/podCIDR").to_owned();
    cluster.until("all", |store| !cidr(store, "a").is_empty() && !cidr(store, "b").is_empty()).await;
    assert_eq!(cidr(&cluster.store, "own"), "10.244.1.0/24");
    let both = BTreeSet::from([cidr(&cluster.store, "a"), cidr(&cluster.store, "b")]);
    assert_eq!(both, BTreeSet::from(["10.244.0.0/24".to_owned(), "10.244.2.0/24".to_owned()]));
    let a = cluster.store.get(&nodes, None, "a").unwrap();
    assert!(text(&a, "/spec/podCIDRs/1").starts_with("fd00:244:"), "{a}");
}

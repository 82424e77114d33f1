//! The server as kube-rs sees it, the client library of the node agent.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, reason = "a test may fail loudly")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod common;

use std::time::Duration;

use bowline_apiserver::{Config, GroupResource, Store};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::ObjectMeta;
use kube::runtime::watcher;
use serde_json::json;

use common::Running;

async fn client(running: &Running) -> kube::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(running.kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    ConfigMap { metadata, data: Some([("key".to_owned(), value.to_owned())].into()), ..ConfigMap::default() }
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("not an answer of the server: {other}"),
    }
}

#[tokio::test]
async fn objects_are_written_and_read() {
    let running = Running::start(Store::new(), Config::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&running).await);
    let made = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    assert_eq!(code(maps.create(&PostParams::default(), &map("a", "1")).await.unwrap_err()), 409);
    let mut changed = made.clone();
    changed.data = Some([("key".to_owned(), "2".to_owned())].into());
    maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(code(maps.replace("a", &PostParams::default(), &changed).await.unwrap_err()), 409, "an old version");
    let patch = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    let labelled = maps.list(&ListParams::default().labels("x=y")).await.unwrap();
    assert_eq!(labelled.items.len(), 1);
    assert!(maps.delete("a", &DeleteParams::default()).await.unwrap().is_right(), "gone at once");
    assert!(maps.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn apply_and_status_are_kept_apart() {
    let running = Running::start(Store::new(), Config::default());
    let client = client(&running).await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let spec = |image: &str| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
    };
    let parameters = PatchParams::apply("tester");
    let made = deployments.patch("web", &parameters, &Patch::Apply(spec("x:1"))).await.unwrap();
    assert_eq!(made.spec.unwrap().replicas, Some(1));
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "status": {"observedGeneration": 1, "replicas": 1}});
    deployments.patch_status("web", &PatchParams::apply("controller"), &Patch::Apply(status)).await.unwrap();
    let after = deployments.patch("web", &parameters, &Patch::Apply(spec("x:2"))).await.unwrap();
    assert_eq!(after.status.unwrap().replicas, Some(1));
    assert_eq!(after.metadata.generation, Some(2));
    let other = deployments.patch("web", &PatchParams::apply("other"), &Patch::Apply(spec("x:3"))).await.unwrap_err();
    assert_eq!(code(other), 409);
    let forced = deployments.patch("web", &PatchParams::apply("other").force(), &Patch::Apply(spec("x:3"))).await.unwrap();
    assert_eq!(forced.spec.unwrap().template.spec.unwrap().containers[0].image.as_deref(), Some("x:3"));
    let scale = deployments.patch_scale("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 4}}))).await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(4));
    let nodes: Api<Node> = Api::all(client);
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    let node = nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    assert_eq!(node.status.unwrap().addresses.unwrap().len(), 1, "nodes bring their status along");
}

#[tokio::test]
async fn a_paged_list_is_of_one_moment() {
    let running = Running::start(Store::new(), Config::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&running).await);
    for number in 0..5 {
        maps.create(&PostParams::default(), &map(&format!("m{number}"), "1")).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    maps.create(&PostParams::default(), &map("m9", "1")).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = maps.list(&ListParams::default().limit(10).continue_token(&token)).await.unwrap();
    let names = |list: &kube::core::ObjectList<ConfigMap>| list.iter().map(|one| one.metadata.name.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!((names(&first), names(&rest)), (vec!["m0".into(), "m1".into()], vec!["m2".into(), "m3".into(), "m4".into()]));
    assert_eq!(first.metadata.resource_version, rest.metadata.resource_version);
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    assert!(rest.metadata.continue_.is_none_or(|token| token.is_empty()));
}

#[tokio::test]
async fn a_watch_resumes_sees_through_selectors_and_says_when_it_is_too_late() {
    let running = Running::start(Store::with_history(20), Config::default());
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&running).await);
    let start = running.store.revision().to_string();
    let parameters = WatchParams::default().labels("on=yes").timeout(20);
    let mut events = maps.watch(&parameters, &start).await.unwrap().boxed();
    maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    for value in [json!("yes"), json!("no")] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"on": value}}}));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut bookmarks = 0;
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            WatchEvent::Added(_) => seen.push("added"),
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => seen.push("deleted"),
            WatchEvent::Bookmark(bookmark) => {
                bookmarks += 1;
                if seen.len() == 2 {
                    assert_eq!(bookmark.metadata.resource_version, running.store.revision().to_string());
                    break;
                }
            }
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(seen, ["added", "deleted"], "came into view, and left it");
    assert!(bookmarks > 0);
    for number in 0..25 {
        maps.create(&PostParams::default(), &map(&format!("m{number}"), "1")).await.unwrap();
    }
    let mut late = maps.watch(&WatchParams::default(), &start).await.unwrap().boxed();
    match late.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_kinds_of_watcher_start_over_and_follow() {
    for streaming in [false, true] {
        let running = Running::start(Store::new(), Config::default());
        let namespaces: Api<Namespace> = Api::all(client(&running).await);
        let config = watcher::Config::default().page_size(3);
        let config = if streaming { config.streaming_lists() } else { config };
        let mut events = watcher(namespaces, config).boxed();
        let (mut initial, mut done) = (0, false);
        while !done {
            match events.try_next().await.unwrap().unwrap() {
                watcher::Event::Init => {}
                watcher::Event::InitApply(_) => initial += 1,
                watcher::Event::InitDone => done = true,
                other => panic!("streaming {streaming}: {other:?}"),
            }
        }
        assert_eq!(initial, 4, "streaming {streaming}");
        running.store.create(&GroupResource::core("namespaces"), None, json!({"metadata": {"name": "late"}})).unwrap();
        match events.try_next().await.unwrap().unwrap() {
            watcher::Event::Apply(namespace) => assert_eq!(namespace.metadata.name.as_deref(), Some("late")),
            other => panic!("streaming {streaming}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_pod_is_followed_to_its_end() {
    let running = Running::start(Store::new(), Config::default());
    let pods: Api<Pod> = Api::default_namespaced(client(&running).await);
    let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}});
    let pod = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let name = pod.metadata.name.unwrap();
    assert!(name.starts_with("p-") && name.len() == 7, "{name}");
    let on_node = pods.list(&ListParams::default().fields("spec.nodeName=n,status.phase!=Running")).await.unwrap();
    assert_eq!(on_node.items.len(), 1);
    let marked = pods.delete(&name, &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(marked.metadata.deletion_grace_period_seconds, Some(30));
    let gone = pods.delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
    assert!(gone.is_right());
}

#[tokio::test]
async fn strangers_are_refused_and_a_stopped_server_drops_its_watches() {
    let running = Running::start(Store::new(), Config::default());
    let client = client(&running).await;
    let mut config = Kubeconfig::read_from(running.kubeconfig()).unwrap();
    config.auth_infos[0].auth_info.as_mut().unwrap().token = Some("wrong".to_owned().into());
    let stranger = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    let stranger: Api<Node> = Api::all(kube::Client::try_from(stranger).unwrap());
    assert_eq!(code(stranger.list(&ListParams::default()).await.unwrap_err()), 401);
    let nodes: Api<Node> = Api::all(client);
    let mut events = nodes.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    drop(running);
    let ended = tokio::time::timeout(Duration::from_secs(10), async { while let Some(Ok(_)) = events.next().await {} });
    assert!(ended.await.is_ok(), "the watch ends with the server");
}

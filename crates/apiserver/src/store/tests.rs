#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use serde_json::{Value, json};

use super::*;
use crate::object;

fn pods() -> GroupResource {
    GroupResource::core("pods")
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn config(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"key": value}})
}

#[test]
fn create_fills_in_and_refuses_twins() {
    let store = Store::new();
    let made = store.create(&pods(), Some("default"), pod("a")).unwrap();
    assert_eq!(made["apiVersion"], "v1");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(object::resource_version(&made), Some(store.revision()));
    let twin = store.create(&pods(), Some("default"), pod("a")).unwrap_err();
    assert_eq!((twin.code(), twin.to_string().as_str()), (409, "pods \"a\" already exists"));
    let nowhere = store.create(&pods(), Some("nowhere"), pod("a")).unwrap_err();
    assert_eq!(nowhere.to_string(), "namespaces \"nowhere\" not found");
    let bad = store.create(&pods(), Some("default"), pod("A_b")).unwrap_err();
    assert_eq!((bad.code(), bad.to_status()["details"]["causes"][0]["field"].as_str()), (422, Some("metadata.name")));
}

#[test]
fn an_update_of_an_old_version_conflicts_and_a_null_one_is_no_event() {
    let (store, maps) = (Store::new(), GroupResource::core("configmaps"));
    let first = store.create(&maps, Some("default"), config("a", "1")).unwrap();
    let mut second = Value::clone(&first);
    second["data"]["key"] = json!("2");
    let second = store.update(&maps, Some("default"), "a", second).unwrap();
    let conflict = store.update(&maps, Some("default"), "a", Value::clone(&first)).unwrap_err();
    assert_eq!((conflict.code(), conflict.reason()), (409, "Conflict"));
    let before = store.revision();
    store.update(&maps, Some("default"), "a", Value::clone(&second)).unwrap();
    assert_eq!(store.revision(), before);
    assert_eq!(store.get(&maps, Some("default"), "a").unwrap(), second);
}

#[test]
fn status_and_spec_are_written_apart() {
    let (store, pods) = (Store::new(), pods());
    store.create(&pods, Some("default"), pod("a")).unwrap();
    let changed = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
    let after = store.update_status(&pods, Some("default"), "a", changed).unwrap();
    assert_eq!((after["status"]["phase"].as_str(), after["spec"].get("nodeName")), (Some("Running"), None));
    let mut changed = Value::clone(&after);
    changed["spec"]["nodeName"] = json!("n");
    changed["status"] = json!({"phase": "Failed"});
    let after = store.update(&pods, Some("default"), "a", changed).unwrap();
    assert_eq!((after["status"]["phase"].as_str(), after["spec"]["nodeName"].as_str()), (Some("Running"), Some("n")));
    assert_eq!(after["metadata"]["generation"], 2);
}

#[test]
fn a_finalizer_holds_an_object() {
    let (store, maps) = (Store::new(), GroupResource::core("configmaps"));
    let mut held = config("a", "1");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    store.create(&maps, Some("default"), held).unwrap();
    let marked = store.delete(&maps, Some("default"), "a", &DeleteOptions::default()).unwrap();
    assert!(matches!(marked, Deletion::Marked(_)));
    assert!(object::is_terminating(&store.get(&maps, Some("default"), "a").unwrap()));
    store.modify(&maps, Some("default"), "a", |map| map["metadata"]["finalizers"] = json!([])).unwrap();
    assert_eq!(store.get(&maps, Some("default"), "a").unwrap_err().code(), 404);
}

#[test]
fn a_pod_on_a_node_gets_its_grace() {
    let (store, pods) = (Store::new(), pods());
    for name in ["placed", "free"] {
        store.create(&pods, Some("default"), pod(name)).unwrap();
    }
    store.modify(&pods, Some("default"), "placed", |pod| pod["spec"]["nodeName"] = json!("n")).unwrap();
    let free = store.delete(&pods, Some("default"), "free", &DeleteOptions::default()).unwrap();
    assert!(matches!(free, Deletion::Removed(_)));
    let placed = store.delete(&pods, Some("default"), "placed", &DeleteOptions::default()).unwrap();
    assert_eq!(placed.object()["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    let gone = store.delete(&pods, Some("default"), "placed", &now).unwrap();
    assert!(matches!(gone, Deletion::Removed(_)));
}

#[test]
fn a_namespace_goes_when_its_content_has() {
    let (store, namespaces) = (Store::new(), GroupResource::core("namespaces"));
    store.create(&namespaces, None, json!({"metadata": {"name": "x"}})).unwrap();
    store.delete(&namespaces, None, "x", &DeleteOptions::default()).unwrap();
    let refused = store.create(&pods(), Some("x"), pod("a")).unwrap_err();
    assert_eq!(refused.code(), 403);
    store.modify(&namespaces, None, "x", |one| one["spec"]["finalizers"] = json!([])).unwrap();
    assert_eq!(store.get(&namespaces, None, "x").unwrap_err().code(), 404);
    assert_eq!(store.delete(&namespaces, None, "default", &DeleteOptions::default()).unwrap_err().code(), 403);
}

#[test]
fn orphans_lose_their_owner() {
    let (store, maps) = (Store::new(), GroupResource::core("configmaps"));
    let owner = store.create(&maps, Some("default"), config("owner", "1")).unwrap();
    let mut owned = config("owned", "1");
    owned["metadata"]["ownerReferences"] = json!([{"uid": owner["metadata"]["uid"], "name": "owner"}]);
    store.create(&maps, Some("default"), owned).unwrap();
    let orphan = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
    store.delete(&maps, Some("default"), "owner", &orphan).unwrap();
    let owned = store.get(&maps, Some("default"), "owned").unwrap();
    assert_eq!(owned["metadata"]["ownerReferences"], json!([]));
}

#[test]
fn hooks_fill_in_and_refuse() {
    let store = Store::new();
    store.add_admission(Box::new(|gr, op, object| {
        if gr.is("", "services") && matches!(op, AdmissionOp::Create) {
            object["spec"]["clusterIP"] = json!("10.0.0.1");
        }
        if object::name(object) == "evil" {
            return Err(ApiError::bad_request("no"));
        }
        Ok(())
    }));
    let services = GroupResource::core("services");
    let service = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
    let made = store.create(&services, Some("default"), service.clone()).unwrap();
    assert_eq!(made["spec"]["clusterIP"], "10.0.0.1");
    assert_eq!(made["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
    let mut evil = service;
    evil["metadata"]["name"] = json!("evil");
    assert_eq!(store.create(&services, Some("default"), evil).unwrap_err().code(), 400);
}

#[tokio::test]
async fn a_watch_shows_what_was_there_a_bookmark_and_each_change() {
    let (store, maps) = (Store::new(), GroupResource::core("configmaps"));
    store.create(&maps, Some("default"), config("a", "1")).unwrap();
    let mut watch = store.watch(&maps, Some("default"), None).unwrap();
    assert_eq!(watch.next().await.kind, EventKind::Added);
    let bookmark = watch.next().await;
    assert_eq!(bookmark.kind, EventKind::Bookmark);
    assert!(watch.next_ready().is_none());
    store.create(&maps, Some("kube-system"), config("elsewhere", "1")).unwrap();
    store.modify(&maps, Some("default"), "a", |map| map["data"]["key"] = json!("2")).unwrap();
    store.delete(&maps, Some("default"), "a", &DeleteOptions::default()).unwrap();
    let changed = watch.next().await;
    assert_eq!((changed.kind, changed.object["data"]["key"].as_str()), (EventKind::Modified, Some("2")));
    assert_eq!(changed.previous.unwrap()["data"]["key"], "1");
    assert_eq!(watch.next().await.kind, EventKind::Deleted);
    let mut again = store.watch(&maps, None, Some(bookmark.revision)).unwrap();
    let kinds = [again.next().await.kind, again.next().await.kind, again.next().await.kind];
    assert_eq!(kinds, [EventKind::Added, EventKind::Modified, EventKind::Deleted]);
    assert!(again.next_ready().is_none());
    assert_eq!(again.revision(), store.revision());
}

#[tokio::test]
async fn a_watch_that_comes_too_late_is_told() {
    let (store, maps) = (Store::with_history(10), GroupResource::core("configmaps"));
    let start = store.revision();
    let mut slow = store.watch(&maps, None, Some(start)).unwrap();
    for number in 0..10 {
        store.create(&maps, Some("default"), config(&format!("c{number}"), "1")).unwrap();
    }
    assert!(store.watch(&maps, None, Some(start)).is_ok(), "ten events back is still there");
    store.create(&maps, Some("default"), config("one-more", "1")).unwrap();
    assert_eq!(store.watch(&maps, None, Some(start)).err().unwrap().code(), 410);
    assert_eq!(store.watch(&maps, None, Some(store.revision() + 1)).err().unwrap().code(), 410);
    let event = slow.next().await;
    assert_eq!((event.kind, event.object["code"].as_i64()), (EventKind::Error, Some(410)));
}

#[test]
fn a_definition_adds_a_kind_with_defaults_and_rules() {
    let store = Store::new();
    let widgets = GroupResource::new("example.com", "widgets");
    let widget = json!({"metadata": {"name": "w"}, "spec": {"size": 3}});
    assert_eq!(store.create(&widgets, Some("default"), widget.clone()).unwrap_err().code(), 404);
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1}, "colour": {"type": "string", "default": "blue"}}}}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = GroupResource::new("apiextensions.k8s.io", "customresourcedefinitions");
    store.create(&definitions, None, definition).unwrap();
    let made = store.create(&widgets, Some("default"), widget).unwrap();
    assert_eq!((made["kind"].as_str(), made["spec"]["colour"].as_str()), (Some("Widget"), Some("blue")));
    let bad = json!({"metadata": {"name": "v"}, "spec": {"size": 0}});
    let fault = store.create(&widgets, Some("default"), bad).unwrap_err().to_string();
    assert!(fault.contains("spec.size") && fault.contains("greater than or equal to 1"), "{fault}");
    store.delete(&definitions, None, "widgets.example.com", &DeleteOptions::default()).unwrap();
    assert!(store.catalog().find(&widgets).is_none());
    assert!(store.list(&widgets, None).items.is_empty(), "instances go with their definition");
}

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use serde_json::{Value, json as j};

use super::managed::Writer;
use super::*;

fn check_strategic(object: Value, patch: Value, wanted: Value) {
    assert_eq!(strategic(&object, &patch).unwrap(), wanted, "patch {patch}");
}

fn containers(list: Value) -> Value {
    j!({"spec": {"template": {"spec": {"containers": list}}}})
}

#[test]
fn json_patch_adds_replaces_tests_and_removes() {
    let object = j!({"a": {"b": [1, 2]}, "c/d": 1});
    let patch =
        j!([{"op": "test", "path": "/c~1d", "value": 1}, {"op": "add", "path": "/a/b/-", "value": 3}, {"op": "remove", "path": "/a/b/0"}]);
    assert_eq!(json(&object, &patch).unwrap(), j!({"a": {"b": [2, 3]}, "c/d": 1}));
    let unfit = json(&object, &j!([{"op": "test", "path": "/a", "value": 9}])).unwrap_err();
    assert_eq!(unfit.code(), 422);
    assert_eq!(json(&object, &j!({"op": "add"})).unwrap_err().code(), 400);
}

#[test]
fn merge_patch_merges_objects_and_replaces_the_rest() {
    let mut object = j!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
    merge(&mut object, &j!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]}));
    assert_eq!(object, j!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]}));
}

#[test]
fn strategic_merges_containers_by_name() {
    check_strategic(
        containers(j!([{"name": "a", "image": "x:1", "env": [{"name": "K", "value": "1"}]}, {"name": "b", "image": "y:1"}])),
        containers(j!([{"name": "a", "image": "x:2", "env": [{"name": "L", "value": "2"}]}, {"name": "c", "image": "z:1"}])),
        containers(j!([
            {"name": "a", "image": "x:2", "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}]},
            {"name": "b", "image": "y:1"}, {"name": "c", "image": "z:1"}
        ])),
    );
}

#[test]
fn strategic_tells_service_ports_by_port_and_protocol() {
    check_strategic(
        j!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "dns"}]}}),
        j!({"spec": {"ports": [{"port": 53, "protocol": "TCP", "name": "dns-tcp"}, {"port": 53, "protocol": "UDP", "targetPort": 5353}]}}),
        j!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "name": "dns", "targetPort": 5353}, {"port": 53, "protocol": "TCP", "name": "dns-tcp"}]}}),
    );
}

#[test]
fn strategic_directives() {
    check_strategic(
        containers(j!([{"name": "a"}, {"name": "b"}])),
        containers(j!([{"name": "a", "$patch": "delete"}])),
        containers(j!([{"name": "b"}])),
    );
    check_strategic(
        containers(j!([{"name": "a"}, {"name": "b"}])),
        containers(j!([{"name": "c"}, {"$patch": "replace"}])),
        containers(j!([{"name": "c"}])),
    );
    check_strategic(
        j!({"spec": {"template": {"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "extra"}]}}}}),
        j!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}}}),
        j!({"spec": {"template": {"spec": {"containers": [{"name": "b"}, {"name": "extra"}, {"name": "a"}]}}}}),
    );
    check_strategic(
        j!({"metadata": {"finalizers": ["x", "y"]}}),
        j!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]}}),
        j!({"metadata": {"finalizers": ["y", "z"]}}),
    );
    check_strategic(
        j!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        j!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        j!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    check_strategic(j!({"spec": {"a": {"x": 1}}}), j!({"spec": {"a": {"$patch": "replace", "y": 2}}}), j!({"spec": {"a": {"y": 2}}}));
    check_strategic(j!({"spec": {"a": {"x": 1}, "b": 1}}), j!({"spec": {"a": {"$patch": "delete"}, "b": null}}), j!({"spec": {}}));
}

#[test]
fn strategic_replaces_lists_without_a_key_and_refuses_elements_without_theirs() {
    check_strategic(j!({"spec": {"args": [1, 2]}}), j!({"spec": {"args": [3]}}), j!({"spec": {"args": [3]}}));
    assert_eq!(strategic(&containers(j!([])), &containers(j!([{"image": "x"}]))).unwrap_err().code(), 400);
    assert_eq!(strategic(&j!({}), &j!({"a": {"$patch": "explode"}})).unwrap_err().code(), 400);
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, api_version: "v1", subresource: "" }
}

fn without_managers(mut object: Value) -> Value {
    object.as_object_mut().unwrap().remove("metadata");
    object
}

#[test]
fn apply_owns_what_it_sends_and_takes_back_what_it_drops() {
    let first = apply(None, &j!({"data": {"a": "1", "b": "1"}}), writer("m"), false).unwrap();
    let entry = &first["metadata"]["managedFields"][0];
    assert_eq!(entry["fieldsV1"], j!({"f:data": {"f:a": {}, "f:b": {}}}));
    assert_eq!((&entry["operation"], &entry["manager"]), (&j!("Apply"), &j!("m")));
    let mut by_hand = first.clone();
    by_hand["data"]["c"] = j!("1");
    track_update(Some(&first), &mut by_hand, writer("kubectl-edit"));
    let second = apply(Some(&by_hand), &j!({"data": {"a": "2"}}), writer("m"), false).unwrap();
    assert_eq!(without_managers(second), j!({"data": {"a": "2", "c": "1"}}));
}

#[test]
fn apply_conflicts_unless_values_agree_or_force() {
    let live = apply(None, &j!({"spec": {"replicas": 1, "paused": true}}), writer("one"), false).unwrap();
    assert!(apply(Some(&live), &j!({"spec": {"replicas": 1}}), writer("two"), false).is_ok(), "agreed values are shared");
    let refused = apply(Some(&live), &j!({"spec": {"replicas": 2}}), writer("two"), false).unwrap_err();
    let status = refused.to_status();
    assert_eq!((refused.code(), &status["details"]["causes"][0]["field"]), (409, &j!(".spec.replicas")));
    let forced = apply(Some(&live), &j!({"spec": {"replicas": 2}}), writer("two"), true).unwrap();
    let again = apply(Some(&forced), &j!({"spec": {"paused": true}}), writer("one"), false).unwrap();
    assert_eq!(without_managers(again), j!({"spec": {"replicas": 2, "paused": true}}), "replicas stay with the new owner");
}

#[test]
fn apply_merges_and_prunes_elements_of_lists() {
    let one = containers(j!([{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}, {"name": "b", "image": "y"}]));
    let live = apply(None, &one, writer("m"), false).unwrap();
    let mut live = live;
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = j!("Always");
    let two = containers(j!([{"name": "a", "image": "x2", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]));
    let after = apply(Some(&live), &two, writer("m"), false).unwrap();
    let wanted =
        containers(j!([{"name": "a", "image": "x2", "imagePullPolicy": "Always", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]));
    assert_eq!(without_managers(after), wanted);
}

#[test]
fn an_update_takes_the_changed_fields_over() {
    let live = apply(None, &j!({"data": {"a": "1", "b": "1"}}), writer("m"), false).unwrap();
    let mut changed = live.clone();
    changed["data"]["a"] = j!("2");
    track_update(Some(&live), &mut changed, writer("other"));
    let refused = apply(Some(&changed), &j!({"data": {"a": "1", "b": "1"}}), writer("m"), false).unwrap_err();
    assert!(refused.to_string().contains("conflict with \"other\" using v1: .data.a"), "{refused}");
}

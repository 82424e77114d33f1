#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use serde_json::{Value, json};

use super::*;
use crate::kinds::Catalog;
use crate::store::GroupResource;

fn cells(group: &str, plural: &str, object: Value) -> Vec<String> {
    let catalog = Catalog::built_in();
    let resource = catalog.find(&GroupResource::new(group, plural)).unwrap();
    let table = table(resource, "v1", &[&object], "", json!({}));
    let row = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(row.len(), table["columnDefinitions"].as_array().unwrap().len(), "{plural}");
    row.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

#[test]
fn every_kind_has_as_many_cells_as_columns_even_when_empty() {
    for resource in Catalog::built_in().iter() {
        cells(&resource.id.group, &resource.id.resource, json!({}));
    }
}

#[test]
fn ages_have_at_most_two_units() {
    for (seconds, wanted) in [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (3600, "60m"),
        (3 * 3600 + 60, "3h1m"),
        (30 * 3600, "30h"),
        (50 * 3600, "2d2h"),
        (9 * 86_400, "9d"),
        (800 * 86_400, "2y70d"),
    ] {
        assert_eq!(age::span(seconds), wanted);
    }
}

#[test]
fn a_pod_says_what_ails_it() {
    let pod = |status: Value| {
        cells("", "pods", json!({"metadata": {"name": "p"}, "spec": {"containers": [{}, {}], "nodeName": "n"}, "status": status}))[1..4]
            .to_vec()
    };
    assert_eq!(pod(json!({"phase": "Pending"})), ["0/2", "Pending", "0"]);
    let waiting = json!({"phase": "Pending", "containerStatuses": [{"ready": true, "restartCount": 2}, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(pod(waiting), ["1/2", "CrashLoopBackOff", "2"]);
    let ended = json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]});
    assert_eq!(pod(ended), ["0/2", "ExitCode:3", "0"]);
    let leaving = cells("", "pods", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}));
    assert_eq!(leaving[2], "Terminating");
}

#[test]
fn a_service_shows_node_ports_and_addresses() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "selector": {"a": "b"},
        "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
    let row = cells("", "services", service);
    assert_eq!(row[1..5], ["NodePort", "10.0.0.1", "<none>", "80:30000/TCP,53/UDP"]);
    assert_eq!(row[6], "a=b");
    let balanced = json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    assert_eq!(cells("", "services", balanced)[3], "192.0.2.1");
}

#[test]
fn paths_of_printer_columns() {
    let object = json!({"a": {"b.c": 1}, "l": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]});
    let find = |path| custom::find(&object, path).into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(find(".l[?(@.type==\"Ready\")].status"), [json!("True")]);
    assert_eq!(find(".l[*].type"), [json!("Ready"), json!("Other")]);
    assert_eq!(find(".l[1].status"), [json!("False")]);
    assert_eq!(find(".a.b\\.c"), [json!(1)]);
    assert_eq!(find(".a['b.c']"), [json!(1)]);
    assert!(find(".nothing[0]").is_empty());
}

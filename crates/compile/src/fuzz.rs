//! Entry for fuzzing: whatever the API server says, the world goes on.

use bowline_model::intent::Intent;
use bowline_model::intent::pods::PodIntent;
use bowline_model::{Checked, Dual, MacAddr, PodName};
use serde_json::Value;

use crate::world::{Attached, Change, Kind, Object, Settings, Touched, World};
use crate::{Compiler, Judge};

fn settings() -> Settings {
    let nets = |texts: &[&str]| texts.iter().filter_map(|text| text.parse().ok()).collect();
    let mut settings = Settings::new("n1");
    settings.cluster_cidrs = nets(&["10.42.0.0/16", "fd42::/16"]);
    settings.service_cidrs = nets(&["10.43.0.0/16", "fd43::/112"]);
    settings.external_ips = nets(&["0.0.0.0/0", "::/0"]);
    settings.load_balancer_ips = nets(&["0.0.0.0/0", "::/0"]);
    settings.dns_pods = true;
    settings
}

/// The pod `na/p` has this, so that policies have somebody to select.
fn attached() -> Attached {
    let ips = ["10.42.1.1", "fd42:1::1"].iter().filter_map(|text| text.parse().ok());
    Attached {
        container_id: "sandbox".into(),
        ifname: "eth0".into(),
        pod_uid: None,
        intent: PodIntent {
            pod: Some(PodName::new("na", "p")),
            host_ifname: "bwl1".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            host_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            ips: Dual::first_of(ips),
            host_ports: Vec::new(),
        },
    }
}

/// Reads each line as an object in JSON, of the kind that its `kind` names or else of every kind in turn, follows it, and gives what came of
/// all of them.
///
/// # Panics
/// If following the changes led elsewhere than compiling the world anew: that is what fuzzers are to look for.
pub fn fuzz_objects(bytes: &[u8]) -> Intent {
    let mut world = World::new(settings());
    let mut touched = world.apply(Change::Attached(Box::new(attached()))).value;
    let mut compiler = Compiler::new();
    for json in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let named = json.get("kind").and_then(Value::as_str);
        let is_known = Kind::ALL.iter().any(|kind| Some(kind.as_str()) == named);
        for kind in Kind::ALL.into_iter().filter(|kind| !is_known || Some(kind.as_str()) == named) {
            let change = match Object::decode(kind, json.clone()) {
                Ok(object) => Change::Upsert(object),
                Err(unreadable) => Change::Unreadable(unreadable),
            };
            touched.merge(world.apply(change).value);
        }
        compiler.turn(&world, &std::mem::take(&mut touched));
    }
    let without_revision = |checked: Checked<Intent>| checked.map(|intent| Intent { revision: 0, ..intent });
    let followed = without_revision(compiler.turn(&world, &Touched::default()));
    assert_eq!(followed, without_revision(Compiler::full(&world)), "following changes and compiling anew differ");
    let intent = followed.value;
    let judge = Judge::new(&intent.policy, &intent.pods);
    for ip in world.attached().values().flat_map(|attached| attached.intent.ips.values()) {
        // Any verdict is right.
        judge.verdict(&crate::Flow::between(*ip, *ip, 6, Some(80)));
    }
    intent
}

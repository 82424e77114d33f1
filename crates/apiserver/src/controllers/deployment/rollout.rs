//! How many pods each ReplicaSet of a Deployment should have next: pure.
//!
//! One step is small; the change of a set's status asks for the next one.

use std::sync::Arc;

use serde_json::Value;

use super::{Picture, available, wanted};
use crate::object::{integer, text};

/// The sets to resize now.
pub(super) fn step(picture: &Picture, old_pods_live: bool) -> Vec<(Arc<Value>, i64)> {
    let Some(new) = &picture.new else {
        return scale_only(picture);
    };
    if picture.is_paused() {
        return scale_only(picture);
    }
    if text(&picture.deployment, "/spec/strategy/type") == "Recreate" {
        return recreate(picture, new, old_pods_live);
    }
    let size = new_size(picture, wanted(new));
    if size != wanted(new) {
        return vec![(Arc::clone(new), size)];
    }
    shrink_old(picture, new)
}

/// The size of a set that is about to be made.
pub(super) fn first_size(picture: &Picture) -> i64 {
    if text(&picture.deployment, "/spec/strategy/type") == "Recreate" {
        // The old pods go first.
        return if picture.old.iter().any(|set| wanted(set) > 0) { 0 } else { picture.replicas };
    }
    new_size(picture, 0)
}

/// The new set grows as far as the surge allows.
fn new_size(picture: &Picture, now: i64) -> i64 {
    if now >= picture.replicas {
        return picture.replicas;
    }
    // A set that was told to shrink has its pods until it says otherwise.
    let has = |set: &Arc<Value>| wanted(set).max(integer(set, "/status/replicas").unwrap_or(0));
    let old: i64 = picture.old.iter().map(has).sum();
    let room = (picture.replicas + picture.max_surge - old - now).max(0);
    (now + room).min(picture.replicas)
}

fn recreate(picture: &Picture, new: &Arc<Value>, old_pods_live: bool) -> Vec<(Arc<Value>, i64)> {
    let busy: Vec<_> = picture.old.iter().filter(|set| wanted(set) > 0).map(|set| (Arc::clone(set), 0)).collect();
    if !busy.is_empty() {
        return busy;
    }
    let old_gone = !old_pods_live && picture.old.iter().all(|set| integer(set, "/status/replicas").unwrap_or(0) == 0);
    if old_gone && wanted(new) != picture.replicas { vec![(Arc::clone(new), picture.replicas)] } else { Vec::new() }
}

/// The old sets shrink as far as enough pods stay available; pods that are not available go first, as they serve nobody.
fn shrink_old(picture: &Picture, new: &Value) -> Vec<(Arc<Value>, i64)> {
    let least = picture.replicas - picture.max_unavailable;
    let total: i64 = picture.sets().map(|set| wanted(set)).sum();
    let new_unavailable = (wanted(new) - available(new)).max(0);
    let mut may_go = total - least - new_unavailable;
    let mut sizes: Vec<i64> = picture.old.iter().map(|set| wanted(set)).collect();
    for (set, size) in picture.old.iter().zip(&mut sizes) {
        let idle = (*size - available(set)).max(0).min(may_go.max(0));
        *size -= idle;
        may_go -= idle;
    }
    let mut spare = (picture.sets().map(|set| available(set)).sum::<i64>() - least).min(may_go).max(0);
    for size in &mut sizes {
        let go = spare.min(*size);
        *size -= go;
        spare -= go;
    }
    let changed = picture.old.iter().zip(sizes).filter(|(set, size)| wanted(set) != *size);
    changed.map(|(set, size)| (Arc::clone(set), size)).collect()
}

/// While paused, only a change of `replicas` is followed, by the set that has the most pods.
fn scale_only(picture: &Picture) -> Vec<(Arc<Value>, i64)> {
    let total: i64 = picture.sets().map(|set| wanted(set)).sum();
    let Some(largest) = picture.sets().max_by_key(|set| wanted(set)) else { return Vec::new() };
    let size = (wanted(largest) + picture.replicas - total).max(0);
    let moving = picture.old.iter().any(|set| wanted(set) > 0) && picture.new.as_ref().is_some_and(|set| wanted(set) > 0);
    if size == wanted(largest) || moving { Vec::new() } else { vec![(Arc::clone(largest), size)] }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
    use super::*;
    use serde_json::json;

    fn set(revision: i64, template: &str, wanted: i64, available: i64) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": format!("s{revision}"), "annotations": {super::super::REVISION: revision.to_string()}},
            "spec": {"replicas": wanted, "template": {"spec": template}},
            "status": {"replicas": wanted, "availableReplicas": available}}))
    }

    /// Plays a rollout in which every wanted pod becomes available at once, and returns what it looked like at each step.
    fn play(strategy: &Value, replicas: i64) -> Vec<String> {
        let deployment = Arc::new(json!({"spec": {"replicas": replicas, "strategy": strategy, "template": {"spec": "b"}}}));
        let mut sizes = [replicas, 0];
        let mut seen = Vec::new();
        for _ in 0..40 {
            let sets = vec![set(1, "a", sizes[0], sizes[0]), set(2, "b", sizes[1], sizes[1])];
            let picture = Picture::new(Arc::clone(&deployment), sets);
            let total = sizes.iter().sum::<i64>();
            assert!(total <= replicas + picture.max_surge, "{sizes:?}");
            assert!(total >= replicas - picture.max_unavailable, "{sizes:?}");
            let steps = step(&picture, false);
            seen.push(format!("{}+{}", sizes[0], sizes[1]));
            if steps.is_empty() {
                assert_eq!(sizes, [0, replicas]);
                return seen;
            }
            for (set, size) in steps {
                sizes[usize::from(set["metadata"]["name"] == "s2")] = size;
            }
        }
        panic!("never ends: {seen:?}");
    }

    #[test]
    fn rolling_updates_keep_their_bounds() {
        let rolling = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        assert_eq!(play(&rolling(json!(1), json!(0)), 2), ["2+0", "2+1", "1+1", "1+2", "0+2"]);
        assert_eq!(play(&rolling(json!(0), json!(1)), 2), ["2+0", "1+0", "1+1", "0+1", "0+2"]);
        for (surge, unavailable) in
            [(json!("25%"), json!("25%")), (json!("100%"), json!(0)), (json!(0), json!(0)), (json!(3), json!("50%"))]
        {
            for replicas in [1, 2, 3, 7, 10] {
                play(&rolling(surge.clone(), unavailable.clone()), replicas);
            }
        }
        assert_eq!(play(&json!({"type": "Recreate"}), 3), ["3+0", "0+0", "0+3"]);
    }

    #[test]
    fn nothing_available_is_given_up_while_the_new_pods_do_not_come_up() {
        let deployment = json!({"spec": {"replicas": 4, "template": {"spec": "b"},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}});
        let picture = Picture::new(Arc::new(deployment), vec![set(1, "a", 3, 3), set(2, "b", 2, 0)]);
        assert!(step(&picture, false).is_empty());
    }

    #[test]
    fn unavailable_old_pods_go_first() {
        let deployment = json!({"spec": {"replicas": 2, "template": {"spec": "b"},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}}});
        let picture = Picture::new(Arc::new(deployment), vec![set(1, "a", 2, 0), set(2, "b", 1, 1)]);
        let steps = step(&picture, false);
        assert_eq!(steps.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [0]);
    }
}

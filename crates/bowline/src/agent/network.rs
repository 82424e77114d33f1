//! Whether this node's network works, and the Node's condition that says so.
//!
//! Invariant: `NetworkUnavailable` is False when, and only when, every input has been listed, the node has a pod subnet, and rules and
//! tunnels are in the kernel as they should be; it is True when one of these is known to be wrong, and stays so for [`SETTLES`]. While
//! nothing is known, nothing is said: an agent that restarts or cannot reach the API server leaves the condition as it was, as it leaves the
//! network. The controller manager taints a node whose condition is True, so no pod comes where it could not be connected.

use std::time::Duration;

use bowline_model::Problem;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply::Applied;
use super::status::{Teller, Topic};
use super::turn::Published;

/// The condition's name in the API.
const CONDITION: &str = "NetworkUnavailable";

/// Trouble that passes within this time is not told.
const SETTLES: Duration = Duration::from_secs(10);

/// The condition is looked at this often even when nothing has changed: a Node may have been made anew.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Pauses after a refusal: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is known of this node's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// Not everything has been listed once, or nothing has been written to the kernel yet.
    Unknown,
    /// Pods can be attached and reached.
    Works,
    /// Something that all pods need is not there.
    Fails(Fault),
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The Node has no pod subnet, or no address.
    NoSubnet,
    /// The kernel does not hold the rules.
    Rules,
    /// The kernel does not hold the tunnel, or does not forward.
    Fabric,
}

impl Network {
    /// What follows from the turn's and the kernel thread's last words.
    pub(crate) fn of(published: &Published, applied: &Applied) -> Network {
        if !published.synced || applied.intent.revision == 0 {
            return Network::Unknown;
        }
        match &applied.intent.routes.local {
            Some(local) if !local.pod_cidrs.is_empty() => {}
            // What was just published is not applied yet.
            _ if published.intent.routes.local.is_some() => return Network::Unknown,
            _ => return Network::Fails(Fault::NoSubnet),
        }
        match (applied.rules_failed, applied.fabric_failed) {
            (true, _) => Network::Fails(Fault::Rules),
            (false, true) => Network::Fails(Fault::Fabric),
            (false, false) => Network::Works,
        }
    }

    /// In a few words, for /readyz.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Network::Unknown => "waiting for the first lists of the API server, or for the kernel",
            Network::Works => "pod network, services and policy are in the kernel",
            Network::Fails(Fault::NoSubnet) => {
                "the Node has no spec.podCIDRs or no InternalIP: let the controller manager allocate node CIDRs (--allocate-node-cidrs)"
            }
            Network::Fails(Fault::Rules) => "the kernel does not hold the rules; see `bowline status` on the node",
            Network::Fails(Fault::Fabric) => "the kernel does not hold the tunnel or does not forward; see `bowline status` on the node",
        }
    }

    /// The condition's status and reason; none while nothing is known.
    fn claim(self) -> Option<(&'static str, &'static str)> {
        match self {
            Network::Unknown => None,
            Network::Works => Some(("False", "BowlineIsUp")),
            Network::Fails(Fault::NoSubnet) => Some(("True", "NoPodSubnet")),
            Network::Fails(Fault::Rules) => Some(("True", "RulesNotInKernel")),
            Network::Fails(Fault::Fabric) => Some(("True", "FabricNotInKernel")),
        }
    }
}

/// Keeps the Node's condition true to the network's state, for ever.
pub(crate) async fn tell_node(client: Client, teller: Teller) {
    let nodes: Api<Node> = Api::all(client);
    let (mut published, mut applied) = (teller.published.clone(), teller.applied.clone());
    let (mut told, mut look_at) = (Network::Unknown, Instant::now() + LOOK_EVERY);
    let (mut seen, mut since) = (Network::Unknown, Instant::now());
    let mut pause = PAUSES.0;
    loop {
        let now = Network::of(&published.borrow_and_update(), &applied.borrow_and_update());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        let due = if matches!(now, Network::Fails(_)) { since + SETTLES } else { since };
        let mut wake_at = look_at;
        if now != told || look_at <= Instant::now() {
            wake_at = due;
            if due <= Instant::now() {
                match tell(&nodes, &teller.node, now).await {
                    Ok(()) => {
                        teller.house.clear(Topic::Node);
                        (told, look_at, pause) = (now, Instant::now() + LOOK_EVERY, PAUSES.0);
                        continue;
                    }
                    Err(error) => {
                        teller.house.set(Topic::Node, refused(&teller.node, &error));
                        tokio::time::sleep(pause.mul_f64(jitter())).await;
                        pause = (pause * 2).min(PAUSES.1);
                        continue;
                    }
                }
            }
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            changed = applied.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
}

/// Between a half and one, so that agents that were refused together do not come back together.
fn jitter() -> f64 {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    0.5 + f64::from(nanos % 1000) / 2000.0
}

fn refused(node: &str, error: &kube::Error) -> Problem {
    let fix = "the account of the agent must be allowed to get nodes and to patch nodes/status, as deploy/bowline.yaml has it";
    let what = format!("the condition {CONDITION} cannot be written");
    Problem::new(1207, what, format!("Node {node}"), fix).because(error.to_string())
}

/// Writes the condition, unless it says so already.
async fn tell(nodes: &Api<Node>, node: &str, network: Network) -> kube::Result<()> {
    let Some((status, reason)) = network.claim() else { return Ok(()) };
    let conditions = nodes.get_status(node).await?.status.and_then(|s| s.conditions).unwrap_or_default();
    let found = conditions.into_iter().find(|c| c.type_ == CONDITION);
    if found.as_ref().is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
        return Ok(());
    }
    let since = found.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let patch = patch((status, reason, network.words()), &now, since.as_ref().unwrap_or(&now));
    let params = PatchParams { field_manager: Some("bowline-agent".to_owned()), ..PatchParams::default() };
    nodes.patch_status(node, &params, &Patch::Strategic(patch)).await?;
    tracing::info!(node, condition = CONDITION, status, reason, "Node condition written");
    Ok(())
}

fn patch((status, reason, message): (&str, &str, &str), now: &Time, since: &Time) -> Value {
    json!({"status": {"conditions": [{
        "type": CONDITION,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
    }]}})
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bowline_model::intent::Intent;
    use bowline_model::intent::routes::FabricNode;
    use bowline_model::{Dual, MacAddr};

    use super::*;

    fn intent(revision: u64, subnet: Option<&str>) -> Arc<Intent> {
        let mut intent = Intent { revision, ..Intent::default() };
        let mut routes = (*intent.routes).clone();
        routes.local = subnet.map(|cidr| {
            let internal = Dual::first_of(["192.0.2.1".parse().unwrap()]);
            Arc::new(FabricNode {
                name: "n1".into(),
                internal,
                pod_cidrs: vec![cidr.parse().unwrap()],
                id: 1,
                vtep_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            })
        });
        intent.routes = routes.into();
        Arc::new(intent)
    }

    fn state(synced: bool, published: Arc<Intent>, applied: Applied) -> Network {
        Network::of(&Published { synced, intent: published, ..Published::default() }, &applied)
    }

    #[test]
    fn nothing_is_claimed_before_everything_is_known_and_written() {
        let ready = intent(1, Some("10.42.0.0/24"));
        assert_eq!(state(false, intent(0, None), Applied::default()), Network::Unknown);
        assert_eq!(state(true, ready.clone(), Applied::default()), Network::Unknown);
        let before_its_subnet = Applied { intent: intent(1, None), ..Applied::default() };
        assert_eq!(state(true, intent(2, Some("10.42.0.0/24")), before_its_subnet), Network::Unknown);
        assert_eq!(Network::Unknown.claim(), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_reason() {
        let ready = intent(1, Some("10.42.0.0/24"));
        let applied = |rules_failed, fabric_failed| Applied { intent: ready.clone(), rules_failed, fabric_failed, ..Applied::default() };
        assert_eq!(state(true, ready.clone(), applied(false, false)), Network::Works);
        assert_eq!(state(true, ready.clone(), applied(true, true)), Network::Fails(Fault::Rules));
        assert_eq!(state(true, ready.clone(), applied(false, true)), Network::Fails(Fault::Fabric));
        let homeless = Applied { intent: intent(3, None), ..Applied::default() };
        let state = state(true, intent(3, None), homeless);
        assert_eq!(state.claim(), Some(("True", "NoPodSubnet")));
        assert!(state.words().contains("--allocate-node-cidrs"));
        assert_eq!(Network::Works.claim(), Some(("False", "BowlineIsUp")));
    }
}

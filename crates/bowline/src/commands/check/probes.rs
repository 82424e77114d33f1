//! The checks themselves: who asks whom, and what must come.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use serde_json::json;

use super::stage::{Got, NAMESPACE, Place, Pod, Stage};

/// Probes under way at once.
const AT_ONCE: usize = 8;

/// How long a policy may take from the API to the kernels.
const POLICY_WITHIN: Duration = Duration::from_secs(5);

/// A check.
pub(crate) struct Check {
    /// The word that it is called by.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// Runs it.
    pub(crate) run: for<'a> fn(&'a Stage) -> BoxFuture<'a, Outcome>,
}

/// What a check came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Probes made.
    pub(crate) probes: usize,
    /// What went wrong, one line a probe.
    pub(crate) failures: Vec<String>,
    /// Why it was not run.
    pub(crate) skipped: Option<String>,
}

/// All checks, in order.
pub(crate) const CHECKS: &[Check] = &[
    Check {
        name: "pod-pod.same-node",
        title: "pods of a node reach each other with their own addresses",
        run: |s| Box::pin(pod_pod(s, true)),
    },
    Check {
        name: "pod-pod.other-node",
        title: "pods of different nodes reach each other with their own addresses",
        run: |s| Box::pin(pod_pod(s, false)),
    },
    Check { name: "node-pod", title: "nodes reach every pod", run: |s| Box::pin(node_pod(s)) },
    Check { name: "service.clusterip", title: "a service answers pods, over TCP and UDP", run: |s| Box::pin(cluster_ip(s)) },
    Check { name: "service.nodeport", title: "every node's port answers every node", run: |s| Box::pin(node_port(s)) },
    Check { name: "dns", title: "pods resolve the service by its short name", run: |s| Box::pin(dns(s)) },
    Check { name: "outside", title: "a host outside reaches the node ports, and pods reach it", run: |s| Box::pin(outside(s)) },
    Check {
        name: "policy.deny-all",
        title: "a policy that allows nothing lets nothing in, and its end lets all in",
        run: |s| Box::pin(deny_all(s)),
    },
];

/// A probe to be made: where from, what, and what the answer must hold.
struct Ask<'a> {
    from: Place<'a>,
    who: String,
    words: [String; 2],
    want: Want,
}

enum Want {
    Page { client: Option<IpAddr> },
    Contains(String),
    Nothing,
}

async fn run_all(stage: &Stage, asks: Vec<Ask<'_>>) -> Outcome {
    let probes = asks.len();
    let mut waiting: Vec<BoxFuture<'_, Option<String>>> = Vec::new();
    for ask in &asks {
        waiting.push(Box::pin(run_one(stage, ask)));
    }
    let answers: Vec<Option<String>> = stream::iter(waiting).buffered(AT_ONCE).collect().await;
    Outcome { probes, failures: answers.into_iter().flatten().collect(), skipped: None }
}

async fn run_one(stage: &Stage, ask: &Ask<'_>) -> Option<String> {
    let [how, to] = &ask.words;
    let got = stage.probe(ask.from, &[how, to]).await;
    judge(ask, &got).map(|what| format!("{} -> {to}/{how}: {what}", ask.who))
}

/// What is wrong with an answer, if anything.
fn judge(ask: &Ask<'_>, got: &Got) -> Option<String> {
    match (&ask.want, got) {
        (Want::Nothing, Got::Nothing(_)) => None,
        (Want::Nothing, Got::Answer(_)) => Some("expected drop, got reply".to_owned()),
        (Want::Nothing, Got::Refused) => Some("expected drop, got refusal".to_owned()),
        (Want::Contains(_) | Want::Page { .. }, Got::Refused) => Some("refused".to_owned()),
        (Want::Contains(_) | Want::Page { .. }, Got::Nothing(why)) => Some(format!("no answer ({why})")),
        (Want::Contains(text), Got::Answer(answer)) => (!answer.contains(text)).then(|| format!("expected {text}, got {}", answer.trim())),
        (Want::Page { client: None }, Got::Answer(_)) => None,
        (Want::Page { client: Some(client) }, Got::Answer(answer)) => {
            let seen = client_of(answer);
            (seen != Some(*client))
                .then(|| format!("the server saw {} instead of {client}", seen.map_or("nobody".to_owned(), |s| s.to_string())))
        }
    }
}

/// The client's address as an echo answer tells it: `client: A:P` over HTTP, `... client A:P` over UDP.
fn client_of(answer: &str) -> Option<IpAddr> {
    let http = answer.lines().find_map(|line| line.strip_prefix("client: "));
    let udp = || answer.split_once(" client ").map(|(_, rest)| rest);
    http.or_else(udp)?.split_whitespace().next()?.parse::<SocketAddr>().ok().map(|a| a.ip().to_canonical())
}

fn tcp(from: Place<'_>, who: impl Into<String>, to: IpAddr, port: u16, want: Want) -> Ask<'_> {
    Ask { from, who: who.into(), words: ["tcp".into(), SocketAddr::new(to, port).to_string()], want }
}

fn who(pod: &Pod) -> String {
    format!("{}@{}", pod.name, pod.node)
}

async fn pod_pod(stage: &Stage, same_node: bool) -> Outcome {
    let mut asks = Vec::new();
    for from in stage.askers() {
        for to in stage.pods.iter().filter(|to| (to.node == from.node) == same_node && to.name != from.name) {
            for (own, ip) in from.ips.iter().zip(&to.ips) {
                asks.push(tcp(Place::Pod(from), who(from), *ip, 80, Want::Page { client: Some(*own) }));
            }
        }
    }
    if asks.is_empty() {
        return Outcome { skipped: Some("the cluster has only one node".to_owned()), ..Outcome::default() };
    }
    run_all(stage, asks).await
}

async fn node_pod(stage: &Stage) -> Outcome {
    let mut asks = Vec::new();
    for node in &stage.nodes {
        for pod in &stage.pods {
            for (own, ip) in node.ips.iter().zip(&pod.ips) {
                asks.push(tcp(Place::Node(node), node.name.clone(), *ip, 80, Want::Page { client: Some(*own) }));
            }
        }
    }
    run_all(stage, asks).await
}

async fn cluster_ip(stage: &Stage) -> Outcome {
    let mut asks = Vec::new();
    for from in stage.askers() {
        for ip in &stage.service {
            asks.push(tcp(Place::Pod(from), who(from), *ip, 80, Want::Page { client: None }));
            let words = ["udp".to_owned(), SocketAddr::new(*ip, 80).to_string()];
            asks.push(Ask { from: Place::Pod(from), who: who(from), words, want: Want::Contains("bowline".to_owned()) });
        }
    }
    run_all(stage, asks).await
}

async fn node_port(stage: &Stage) -> Outcome {
    let mut asks = Vec::new();
    for from in &stage.nodes {
        for to in &stage.nodes {
            for ip in &to.ips {
                asks.push(tcp(Place::Node(from), from.name.clone(), *ip, stage.node_port, Want::Page { client: None }));
            }
        }
    }
    run_all(stage, asks).await
}

async fn dns(stage: &Stage) -> Outcome {
    let want = stage.service.first().map(ToString::to_string).unwrap_or_default();
    let asks = stage
        .askers()
        .flat_map(|from| {
            ["echo".to_owned(), format!("echo.{NAMESPACE}.svc.cluster.local")].map(|name| Ask {
                from: Place::Pod(from),
                who: who(from),
                words: ["name".to_owned(), name],
                want: Want::Contains(want.clone()),
            })
        })
        .collect();
    run_all(stage, asks).await
}

async fn outside(stage: &Stage) -> Outcome {
    let mut asks = Vec::new();
    for node in &stage.nodes {
        for ip in &node.ips {
            asks.push(tcp(Place::Outside, "outside", *ip, stage.node_port, Want::Page { client: None }));
        }
    }
    for from in stage.askers() {
        let node = stage.nodes.iter().find(|n| n.name == from.node);
        for own in node.into_iter().flat_map(|n| &n.ips) {
            let to: IpAddr = if own.is_ipv4() { [203, 0, 113, 10].into() } else { [0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10].into() };
            asks.push(tcp(Place::Pod(from), who(from), to, 80, Want::Page { client: Some(*own) }));
        }
    }
    run_all(stage, asks).await
}

async fn deny_all(stage: &Stage) -> Outcome {
    let closed: Vec<&Pod> = stage.pods.iter().filter(|p| p.name.starts_with("b-")).collect();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny-all", "namespace": NAMESPACE},
        "spec": {"podSelector": {"matchLabels": {"letter": "b"}}, "policyTypes": ["Ingress"]},
    });
    if let Err(error) = stage.apply("networking.k8s.io", "NetworkPolicy", "deny-all", &policy).await {
        return Outcome { probes: 1, failures: vec![format!("the policy is not taken: {error:#}")], skipped: None };
    }
    let first = within(stage, &closed, || Want::Nothing).await;
    let deleted = stage.delete("networking.k8s.io", "NetworkPolicy", "deny-all").await;
    let mut second = within(stage, &closed, || Want::Page { client: None }).await;
    second.probes += first.probes;
    second.failures.extend(first.failures);
    if let Err(error) = deleted {
        second.failures.push(format!("the policy cannot be deleted: {error:#}"));
    }
    second
}

/// Asks all of `to` until they answer as wanted; what is still wrong when the time is over is the outcome.
async fn within(stage: &Stage, to: &[&Pod], want: fn() -> Want) -> Outcome {
    let end = Instant::now() + POLICY_WITHIN;
    loop {
        let mut asks = Vec::new();
        for from in stage.askers().filter(|p| p.name.starts_with("a-")) {
            for pod in to {
                asks.extend(pod.ips.iter().map(|ip| tcp(Place::Pod(from), who(from), *ip, 80, want())));
            }
        }
        let outcome = run_all(stage, asks).await;
        if outcome.failures.is_empty() || Instant::now() > end {
            return outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_read_from_both_forms_of_answer() {
        assert_eq!(client_of("pod: a\nclient: 10.0.0.1:4242\n"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(client_of("pod a client [fd00::1]:9\nbowline"), Some("fd00::1".parse().unwrap()));
        assert_eq!(client_of("client: [::ffff:10.0.0.1]:9"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(client_of("pod: client\nclient: 10.0.0.2:80"), Some("10.0.0.2".parse().unwrap()));
        assert_eq!(client_of("nothing"), None);
    }
}

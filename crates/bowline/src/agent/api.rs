//! Which API server the agent speaks to, with which credentials, and what is wrong while it does not answer.
//!
//! Invariant: nothing here depends on the cluster's own services: with `apiServer` set, the agent reaches the server where the node does,
//! so that it can serve the `kubernetes` service and the cluster's names to everyone else. Token and CA of a service account are read anew
//! as kubelet renews them, a kubeconfig when it has changed.

use std::time::Duration;

use bowline_model::Problem;
use kube::{Client, Config};
use tokio::sync::watch;

use super::config::AgentConfig;
use super::status::{House, Teller, Topic};
use crate::watch::{Access, Outage};

/// How long the first lists may take before anyone is told why.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the server must have been away for anyone to be told: a restart is over by then.
const AWAY_FOR: Duration = Duration::from_secs(10);

/// How often the server is asked again while it does not answer.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The servers and the credentials that the settings name.
///
/// # Errors
/// BW1201 if the kubeconfig or the pod's service account cannot be used.
pub(crate) async fn access(agent: &AgentConfig) -> anyhow::Result<Access> {
    let found = match &agent.kubeconfig {
        Some(path) => Access::of_kubeconfig(path).await.map_err(|error| (path.display().to_string(), "check the kubeconfig", error)),
        None => in_cluster(!agent.api_servers.is_empty()).map(Access::new).map_err(|error| {
            let fix = "run the agent in a pod with a service account, or give it a kubeconfig";
            ("the pod's service account".to_owned(), fix, error)
        }),
    };
    let wrong = |place: String, fix: &str, why: String| {
        let problem = Problem::new(1201, "the API server's address or credentials are not usable", place, fix);
        anyhow::Error::msg(problem.because(why))
    };
    let access = found.map_err(|(place, fix, error)| wrong(place, fix, format!("{error:#}")))?;
    let servers = agent.api_servers.iter().map(|url| url.parse()).collect::<Result<Vec<_>, _>>();
    let servers = servers.map_err(|error| wrong("apiServer".to_owned(), "write it as https://HOST:PORT", format!("{error}")))?;
    Ok(access.at(servers))
}

/// The servers' addresses, for people.
pub(crate) fn named(access: &Access) -> String {
    access.servers().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The pod's service account. Its environment names the `kubernetes` service, which is not needed where another address is given.
fn in_cluster(has_address: bool) -> anyhow::Result<Config> {
    Ok(if has_address { Config::incluster_dns()? } else { Config::incluster_env()? })
}

/// Says in the status, and once in the log, what is wrong with the API server: at first why not everything could be listed, and from then
/// on that it is away.
pub(crate) async fn tell_of_trouble(client: Client, outage: watch::Receiver<Outage>, url: String, teller: Teller) {
    explain_silence(client, &url, &teller).await;
    tell_of_outages(outage, &url, &teller.house, AWAY_FOR).await;
}

/// Until everything has been listed once: finds out why it has not, and says so in the status and once in the log.
async fn explain_silence(client: Client, url: &str, teller: &Teller) {
    let mut published = teller.published.clone();
    let synced = async move {
        // When the turn is gone there is nothing left to explain either.
        let _ = published.wait_for(|published| published.synced).await;
    };
    tokio::select! {
        () = synced => {}
        () = ask(&client, url, teller) => {}
    }
    teller.house.clear(Topic::Api);
}

async fn ask(client: &Client, url: &str, teller: &Teller) {
    tokio::time::sleep(PATIENCE).await;
    loop {
        let answer = tokio::time::timeout(ASK_EVERY, client.apiserver_version()).await;
        let problem = match answer {
            Ok(Ok(_)) => Problem::new(
                1201,
                "the API server answers, but not everything could be listed",
                url,
                "look for `watch interrupted` in the agent's log; its account needs the rights that deploy/bowline.yaml gives it",
            ),
            Ok(Err(error)) => unreachable(url, &causes(&error)),
            Err(_) => unreachable(url, "no answer within 10 s"),
        };
        teller.house.set(Topic::Api, problem);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// For as long as anyone watches: tells of a server that has been away for longer than `patience`, until it is back.
async fn tell_of_outages(mut outage: watch::Receiver<Outage>, url: &str, house: &House, patience: Duration) {
    while outage.wait_for(Option::is_some).await.is_ok() {
        let since = k8s_openapi::jiff::Timestamp::now();
        match tokio::time::timeout(patience, outage.wait_for(Option::is_none)).await {
            Ok(Ok(_)) => continue,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        let why = outage.borrow_and_update().clone();
        if let Some(why) = why {
            house.set(Topic::Api, away(url, since, &why));
        }
        while outage.changed().await.is_ok() {
            let why = outage.borrow_and_update().clone();
            match why {
                Some(why) => house.reword(Topic::Api, away(url, since, &why)),
                None => break,
            }
        }
        house.clear(Topic::Api);
    }
}

fn away(url: &str, since: k8s_openapi::jiff::Timestamp, why: &str) -> Problem {
    let what = format!("the API server has not served since {since:.0}; what was in force then stays, and changes are not heard of");
    let fix = "see that the server runs and that this node reaches it; the agent goes on by itself when it serves again";
    Problem::new(1209, what, url, fix).because(why)
}

fn unreachable(url: &str, why: &str) -> Problem {
    let fix = "set apiServer (BOWLINE_API_SERVER) to an address at which the nodes reach it before any service is served, \
               e.g. https://192.0.2.1:6443";
    Problem::new(1201, "the API server cannot be reached", url, fix).because(why)
}

/// An error with what caused it: the last of them is what helps.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::AgentArgs;

    fn agent(args: AgentArgs) -> AgentConfig {
        let cluster_cidrs = vec!["10.42.0.0/16".parse().unwrap()];
        AgentConfig::load(&AgentArgs { node_name: Some("n1".into()), cluster_cidrs, ..args }).unwrap()
    }

    #[tokio::test]
    async fn an_address_of_its_own_wins_over_the_kubeconfigs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\n\
                    users: [{name: u, user: {token: secret}}]\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n";
        std::fs::write(&path, text).unwrap();
        let plain = access(&agent(AgentArgs { kubeconfig: Some(path.clone()), ..AgentArgs::default() })).await.unwrap();
        assert_eq!(named(&plain), "https://192.0.2.1:6443/");
        let api_servers = vec!["https://[2001:db8::7]:6443".into(), "https://192.0.2.8:6443".into()];
        let own = AgentArgs { kubeconfig: Some(path), api_servers, ..AgentArgs::default() };
        let access = access(&agent(own)).await.unwrap();
        assert_eq!(named(&access), "https://[2001:db8::7]:6443/, https://192.0.2.8:6443/");
    }

    #[tokio::test]
    async fn an_outage_is_told_of_with_its_beginning_until_it_is_over() {
        let (to, outage) = watch::channel(None);
        let house = std::sync::Arc::new(House::default());
        let telling = house.clone();
        let task =
            tokio::spawn(async move { tell_of_outages(outage, "https://192.0.2.1:6443", &telling, Duration::from_millis(20)).await });
        let until = async |wanted: &[&str]| {
            while house.problems().iter().map(|p| p.why.clone()).collect::<Vec<_>>() != wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            house.problems()
        };
        for _ in 0..2 {
            to.send_replace(Some("refused".into()));
            assert_eq!(house.problems(), [], "it may be over in a moment");
            let first = until(&["refused"]).await;
            assert_eq!((first[0].code.0, first[0].place.as_str()), (1209, "https://192.0.2.1:6443"));
            to.send_replace(Some("no way".into()));
            let second = until(&["no way"]).await;
            assert_eq!(first[0].what, second[0].what, "it began when it began");
            to.send_replace(None);
            until(&[]).await;
        }
        drop(to);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn outside_of_a_pod_the_error_says_what_to_do() {
        if std::path::Path::new("/var/run/secrets/kubernetes.io").exists() {
            return;
        }
        let own = AgentArgs { api_servers: vec!["https://192.0.2.1:6443".into()], ..AgentArgs::default() };
        let error = access(&agent(own)).await.unwrap_err().to_string();
        assert!(error.contains("BW1201") && error.contains("kubeconfig") && error.contains("service account"), "{error}");
    }
}

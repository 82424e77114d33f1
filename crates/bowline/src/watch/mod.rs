//! The API server's events as [`Change`]s, in one bounded channel; and what becomes of them when the server is in trouble.
//!
//! | trouble | what is done |
//! |---|---|
//! | stopped, refused, no way there, 401, 429, 5xx | one question at a time for all kinds, every 2 to 3.5 s, later if the server says so (`line`) |
//! | connection dead without a word | found by pings within 13 s, by TCP's probes within 20 s (`transport`) |
//! | silent though connected | the watch is taken up anew after 150 s (`events`) |
//! | an answer cut off, too slow, or no list at all | dropped as a whole and asked for again (`list`) |
//! | 410, in a watch or a list | listed anew: first from memory, not older than what was seen; then the newest |
//! | 403 or 404 for a kind that a server may lack (ServiceCIDR before Kubernetes 1.33, ClusterNetworkPolicy without its CustomResourceDefinition) | none of it, until it is answered; if it was there, that is believed after a minute of 404 |
//! | the same for a kind that guards (ClusterNetworkPolicy) and had objects here, after a restart, too | 404 is believed after a minute, 403 never; 403 where it had none, after ten seconds (`guard`) |
//! | 401 | tokens are read from their file for every question, a kubeconfig when it has changed, keys and certificates when they are refused |
//! | one of several servers does not answer or answers with 5xx | the next address is asked with the next question (`transport`) |
//! | a list that is older, or is empty or lacks things and comes from a cluster without this node | asked for again, believed after a minute (`doubt`) |
//!
//! A server's return costs it one resumed watch for each of the eight kinds and node; if it has forgotten where the watches were, a list
//! for each as well, answered from memory, and a look at the node's own object for each list that is empty or takes something away.
//!
//! Invariant: what leaves here is only what the API said; nothing is ever deleted because of trouble. A list that is read anew arrives as
//! one `Replace`, so that what is missing from it is gone at once and what stays never blinks.

mod access;
mod doubt;
mod events;
mod follow;
mod guard;
mod line;
mod list;
#[cfg(test)]
mod tests;
mod time;
mod transport;
mod trouble;
mod version;
mod watched;

use std::sync::Arc;

use bowline_compile::world::Change;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use access::Access;
pub(crate) use guard::{Guards, Unheard};
pub(crate) use line::Outage;
pub(crate) use watched::{ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, ServiceCidr, Watchable};

use follow::Follower;
use line::Line;

/// Starts a watch of every kind that the world is made of, for the agent of the node of that name, and tells of changes and of what is
/// heard. What is returned tells of the server when it does not serve.
pub(crate) fn start(
    client: &Client,
    node: &str,
    told: (&mpsc::Sender<Change>, &Guards),
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> watch::Receiver<Outage> {
    let source = Source { line: Arc::new(Line::new(client.clone())), node: node.into(), told, tasks, stop };
    source.follow::<Node>();
    source.follow::<Namespace>();
    source.follow::<Pod>();
    source.follow::<Service>();
    source.follow::<EndpointSlice>();
    source.follow::<NetworkPolicy>();
    source.follow::<ClusterNetworkPolicy>();
    source.follow::<ServiceCidr>();
    source.line.outage()
}

/// What the watches have in common.
struct Source<'a> {
    line: Arc<Line>,
    node: Arc<str>,
    told: (&'a mpsc::Sender<Change>, &'a Guards),
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

impl Source<'_> {
    fn follow<T: Watchable>(&self) {
        let (changes, guards) = self.told;
        let follower = Follower::<T>::new(self.line.clone(), self.node.clone(), changes.clone(), guards.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _over = follower.run() => {}
            }
        });
    }
}

/// A client for the API server.
///
/// # Errors
/// When its certificates or credentials cannot be used.
pub(crate) fn client(access: Access) -> anyhow::Result<Client> {
    Ok(transport::connect(access)?)
}

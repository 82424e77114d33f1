//! The API server's events as [`Change`]s, in one bounded channel.
//!
//! Invariant: what leaves here is only what the API said; nothing is ever deleted because a connection broke. A list that is read anew
//! arrives as one `Replace`, so that what is missing from it is gone at once and what stays never blinks.

mod watched;

use std::time::Duration;

use bowline_compile::world::Change;
use futures::{StreamExt, pin_mut};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use watched::{EndpointSlice, Namespace, NetworkPolicy, Node, Pod, Service, Watchable, Watched};

/// Seconds after which the API server is asked to end a watch; it is then taken up again where it stopped.
const WATCH_SECONDS: u32 = 240;

/// Starts a watch of every kind that the world is made of.
pub(crate) fn start(client: &Client, changes: &mpsc::Sender<Change>, tasks: &TaskTracker, stop: &CancellationToken) {
    watch::<Node>(client, changes, tasks, stop);
    watch::<Namespace>(client, changes, tasks, stop);
    watch::<Pod>(client, changes, tasks, stop);
    watch::<Service>(client, changes, tasks, stop);
    watch::<EndpointSlice>(client, changes, tasks, stop);
    watch::<NetworkPolicy>(client, changes, tasks, stop);
}

fn watch<T: Watchable>(client: &Client, changes: &mpsc::Sender<Change>, tasks: &TaskTracker, stop: &CancellationToken) {
    let (api, changes, stop) = (Api::<Watched<T>>::all(client.clone()), changes.clone(), stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow(api, changes) => {}
        }
    });
}

async fn follow<T: Watchable>(api: Api<Watched<T>>, changes: mpsc::Sender<Change>) {
    let config = watcher::Config::default().timeout(WATCH_SECONDS).any_semantic();
    let events = watcher::watcher(api, config).default_backoff();
    pin_mut!(events);
    let (mut listing, mut away) = (Vec::new(), false);
    while let Some(event) = events.next().await {
        match &event {
            Ok(_) if std::mem::take(&mut away) => tracing::info!(kind = T::PLURAL, "watch resumed"),
            Err(error) if !std::mem::replace(&mut away, true) => {
                tracing::warn!(kind = T::PLURAL, %error, "watch interrupted; what is in force stays");
            }
            Ok(_) | Err(_) => {}
        }
        let Ok(event) = event else { continue };
        for change in changes_of(event, &mut listing) {
            if changes.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// What an event says; a list is gathered until it is complete.
fn changes_of<T: Watchable>(event: Event<Watched<T>>, listing: &mut Vec<Watched<T>>) -> Vec<Change> {
    match event {
        Event::Init => {
            listing.clear();
            Vec::new()
        }
        Event::InitApply(object) => {
            listing.push(object);
            Vec::new()
        }
        Event::InitDone => {
            let (mut good, mut bad) = (Vec::new(), Vec::new());
            for object in listing.drain(..) {
                match object.into_decoded() {
                    Ok(object) => good.push(object),
                    Err(unreadable) => bad.push(Change::Unreadable(unreadable)),
                }
            }
            // The list first: it clears what was wrong before, and what is wrong now comes after it.
            std::iter::once(Change::Replace(T::KIND, good)).chain(bad).collect()
        }
        Event::Apply(object) => vec![object.into_change()],
        Event::Delete(object) => vec![Change::Delete(object.key())],
    }
}

/// A client for the API server, by kubeconfig or by the pod's service account.
///
/// # Errors
/// When neither can be read.
pub(crate) async fn client(kubeconfig: Option<&std::path::Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?
        }
        None => kube::Config::incluster()?,
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(30));
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 30));
    Ok(Client::try_from(config)?)
}

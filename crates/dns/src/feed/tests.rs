//! Both ends of the feed, over a real socket.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bowline_model::ServiceName;
use bowline_model::intent::dns::{DnsIntent, DnsKind, DnsService};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::chain::Known;

fn intent(names: &[&str]) -> Arc<DnsIntent> {
    let mut intent = DnsIntent::default();
    for name in names {
        let service = DnsService { kind: DnsKind::Headless, ports: vec![], endpoints: vec![] };
        intent.services.insert(ServiceName::new("a", *name), Arc::new(service));
    }
    Arc::new(intent)
}

async fn until(known: &mut watch::Receiver<Known>, expected: &DnsIntent) {
    let is_it = |known: &Known| known.index.as_ref().is_some_and(|index| index.intent() == expected);
    tokio::time::timeout(Duration::from_secs(20), known.wait_for(is_it)).await.unwrap().unwrap();
}

#[tokio::test]
async fn followers_follow_and_remember() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/dns.sock");
    let (known_sender, mut known) = watch::channel(Known::default());
    let following = tokio::spawn({
        let path = path.clone();
        async move { follow(&path, known_sender).await }
    });

    let (intents, receiver) = watch::channel(intent(&["x"]));
    let stop = CancellationToken::new();
    let server = FeedServer::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let serving = tokio::spawn(server.serve(receiver.clone(), stop.clone()));
    until(&mut known, &intent(&["x"])).await;
    let serial = known.borrow().serial;
    intents.send(intent(&["x", "y"])).unwrap();
    until(&mut known, &intent(&["x", "y"])).await;
    assert!(known.borrow().serial > serial);
    intents.send(intent(&["y"])).unwrap();
    until(&mut known, &intent(&["y"])).await;

    // The agent goes: what was known stays; it comes back with other news.
    stop.cancel();
    serving.await.unwrap();
    assert!(!path.exists());
    assert_eq!(known.borrow().index.as_ref().unwrap().intent(), &*intent(&["y"]));
    intents.send(intent(&["z"])).unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(FeedServer::bind(&path).unwrap().serve(receiver, stop.clone()));
    until(&mut known, &intent(&["z"])).await;
    stop.cancel();
    serving.await.unwrap();
    following.abort();
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dns.sock");
    drop(FeedServer::bind(&path).unwrap());
    assert!(path.exists());
    FeedServer::bind(&path).unwrap();
}

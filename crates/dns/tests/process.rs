//! The process from its start to its end: feed, reload, an agent that goes, signals. Alone in its file, since signals
//! reach the whole process.
#![allow(clippy::disallowed_methods, reason = "it drives processes and keeps time")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod bench;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{ask, intent, query, show};
use bowline_dns::{Args, FeedServer};
use bowline_model::intent::dns::DnsIntent;
use domain::base::iana::Rtype;
use rustix::process::{Signal, getpid, kill_process};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const WEB: &str = "nginx-web.default.svc.cluster.local";

/// Asks until the reply is the one expected; a reload or a message of the feed takes its time.
async fn until(at: SocketAddr, asked: &str, expected: &str) {
    let begun = Instant::now();
    loop {
        let got = ask(at, &query(asked, Rtype::A)).await.map(|reply| show(&reply));
        if got.as_deref() == Some(expected) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{asked}: {got:?} is not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An address that is free for UDP and TCP.
async fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap();
        if TcpListener::bind(address).await.is_ok() {
            return address;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life() {
    let directory = tempfile::tempdir().unwrap();
    let at = free_address().await;
    let (conf, feed) = (directory.path().join("Corefile"), directory.path().join("dns.sock"));
    let corefile = |more: &str| format!(". {{\nbind 127.0.0.1\nkubernetes cluster.local\nreload 2s 1s\n{more}\n}}");
    std::fs::write(&conf, corefile("")).unwrap();
    let args = Args { conf: conf.clone(), feed: feed.clone(), port: at.port() };
    let running = tokio::spawn(bowline_dns::run(args));

    // Nothing is known: nothing is denied.
    until(at, WEB, "SERVFAIL").await;
    let (intents, receiver) = watch::channel(Arc::new(intent()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(FeedServer::bind(&feed).unwrap().serve(receiver, stop.clone()));
    until(at, WEB, "NOERROR 192.168.0.7").await;
    let without_web =
        DnsIntent { services: intent().services.into_iter().filter(|(name, _)| &*name.name != "nginx-web").collect(), ..intent() };
    intents.send(Arc::new(without_web)).unwrap();
    until(at, WEB, "NXDOMAIN").await;
    intents.send(Arc::new(intent())).unwrap();
    until(at, WEB, "NOERROR 192.168.0.7").await;

    // The agent goes: the last that was known is answered.
    stop.cancel();
    serving.await.unwrap();
    until(at, WEB, "NOERROR 192.168.0.7").await;

    // A wrong Corefile changes nothing, a right one is taken, by itself or when told to.
    std::fs::write(&conf, corefile("nonsense")).unwrap();
    kill_process(getpid(), Signal::HUP).unwrap();
    until(at, WEB, "NOERROR 192.168.0.7").await;
    std::fs::write(&conf, corefile("hosts {\n10.1.1.1 a.test\nfallthrough\n}")).unwrap();
    until(at, "a.test", "NOERROR 10.1.1.1").await;
    std::fs::write(&conf, corefile("hosts {\n10.1.1.2 a.test\nfallthrough\n}")).unwrap();
    kill_process(getpid(), Signal::USR1).unwrap();
    until(at, "a.test", "NOERROR 10.1.1.2").await;
    until(at, WEB, "NOERROR 192.168.0.7").await;

    kill_process(getpid(), Signal::TERM).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap().unwrap();
    TcpListener::bind(at).await.unwrap();
}

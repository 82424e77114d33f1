//! A door to an API server outside of the lab: what comes in is carried there byte by byte, TLS untouched.
//!
//! Invariant: a connection lives as long as both of its ends and the door; closing the door resets every connection, as
//! the crash of a server would.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_apiserver::accept;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Carries the connections of a listener to `host` and `port` until `stop`; when this returns, none is left.
pub(super) async fn serve(listener: std::net::TcpListener, host: Arc<str>, port: u16, stop: CancellationToken) -> Result<()> {
    let take = |stream, connections: &TaskTracker| {
        let (host, stop) = (Arc::clone(&host), stop.clone());
        connections.spawn(async move {
            if let Err(error) = carry(stream, &host, port, &stop).await {
                tracing::debug!(error = format!("{error:#}"), "connection to the API server ended");
            }
        });
    };
    accept(listener, &stop, take).await.context("register the door with the runtime")
}

/// Carries one connection until one end is done with it or the door closes.
async fn carry(mut near: TcpStream, host: &str, port: u16, stop: &CancellationToken) -> Result<()> {
    near.set_nodelay(true)?;
    let carried = tokio::select! {
        () = stop.cancelled() => Ok(Ended::Cut),
        carried = both_ways(&mut near, host, port) => carried,
    };
    if !matches!(carried, Ok(Ended::Orderly)) {
        // A reset: the client must not take a cut for the server's last word.
        near.set_zero_linger()?;
    }
    carried.map(|_| ())
}

/// How a connection ended.
enum Ended {
    /// By its own ends.
    Orderly,
    /// By the door.
    Cut,
}

async fn both_ways(near: &mut TcpStream, host: &str, port: u16) -> Result<Ended> {
    let connected = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await;
    let mut far =
        connected.context("no answer in time").and_then(|result| Ok(result?)).with_context(|| format!("connect to {host}:{port}"))?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(near, &mut far).await?;
    Ok(Ended::Orderly)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that says again what it hears, and a door before it.
    async fn door() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<Result<()>>) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, "127.0.0.1".into(), behind.port(), stop.clone()));
        (address, stop, served)
    }

    #[tokio::test]
    async fn bytes_come_back_and_an_end_is_passed_on() {
        let (address, _stop, _served) = door().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let much = vec![7; 1 << 20];
        let (mut read, mut write) = stream.split();
        let mut back = Vec::new();
        let (_, sent) = tokio::join!(read.read_to_end(&mut back), async {
            write.write_all(&much).await?;
            write.shutdown().await
        });
        sent.unwrap();
        assert!(back == much, "{} bytes came back", back.len());
    }

    #[tokio::test]
    async fn closing_the_door_cuts_every_connection() {
        let (address, stop, served) = door().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        stop.cancel();
        served.await.unwrap().unwrap();
        let cut = stream.read_u8().await.unwrap_err();
        assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn an_absent_server_is_a_reset() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, "127.0.0.1".into(), nobody.port(), CancellationToken::new()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
}

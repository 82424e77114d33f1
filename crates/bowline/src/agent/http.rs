//! The agent's small HTTP answers: one request a connection, a whole answer, and the end.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A client that takes longer is cut off.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request line and headers that are read.
const HEAD_MAX_BYTES: u64 = 8192;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Code and word.
    pub(crate) status: &'static str,
    /// Headers beside the length, each with its line end.
    pub(crate) headers: String,
    /// The page.
    pub(crate) body: String,
}

impl Answer {
    /// An answer of one kind of content.
    pub(crate) fn new(status: &'static str, content_type: &str, body: impl Into<String>) -> Answer {
        Answer { status, headers: format!("Content-Type: {content_type}\r\nX-Content-Type-Options: nosniff\r\n"), body: body.into() }
    }

    /// A page of text.
    pub(crate) fn text(status: &'static str, body: impl Into<String>) -> Answer {
        Answer::new(status, "text/plain; charset=utf-8", body)
    }

    fn into_bytes(self) -> Vec<u8> {
        let Answer { status, headers, body } = self;
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
    }
}

/// 200 or 503.
pub(crate) fn status(good: bool) -> &'static str {
    if good { "200 OK" } else { "503 Service Unavailable" }
}

/// Opens an address. The unspecified address of IPv4 means all of both families, or of the one that the machine has, as it does in Go.
///
/// # Errors
/// When the address is taken, or not this machine's.
pub(crate) async fn open(address: SocketAddr) -> std::io::Result<Vec<TcpListener>> {
    let first = match address {
        SocketAddr::V4(_) => TcpListener::bind(address).await,
        SocketAddr::V6(_) => only_v6(address),
    };
    if !address.ip().is_unspecified() || address.is_ipv6() {
        return Ok(vec![first?]);
    }
    match (first, only_v6(SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port())))) {
        (Ok(v4), Ok(v6)) => Ok(vec![v4, v6]),
        (Ok(one), Err(error)) | (Err(error), Ok(one)) if error.kind() != std::io::ErrorKind::AddrInUse => Ok(vec![one]),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn only_v6(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Answers clients by the path that they ask for; those that are being answered end with it.
pub(crate) async fn accept(listener: TcpListener, clients: Arc<Semaphore>, page: impl Fn(&str) -> Answer + Clone + Send + 'static) {
    let mut answering = JoinSet::new();
    loop {
        while answering.try_join_next().is_some() {}
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others close some.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let page = page.clone();
        answering.spawn(async move {
            let _place = place;
            let _ = tokio::time::timeout(PATIENCE, answer(stream, page)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, page: impl Fn(&str) -> Answer) -> std::io::Result<()> {
    let (from, mut to) = stream.split();
    let mut lines = BufReader::new(from.take(HEAD_MAX_BYTES)).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    let target = request.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    // Read to the end of the request's head: closing with unread bytes would reset the connection under the answer.
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    to.write_all(&page(path).into_bytes()).await?;
    to.shutdown().await
}

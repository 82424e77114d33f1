//! `health`, `ready` and `prometheus`: pages for probes and scrapers.
//!
//! Only what they need of HTTP/1.1 is here: one GET a connection, its head bounded in length and time.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A page: status and text.
pub(super) struct Page {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Page {
    pub(super) fn ok(text: impl Into<String>) -> Page {
        Page { status: 200, text: text.into() }
    }

    pub(super) fn unavailable(text: impl Into<String>) -> Page {
        Page { status: 503, text: text.into() }
    }
}

/// Makes the page of a path; none where there is none.
pub(super) type Pages = Arc<dyn Fn(&str) -> Option<Page> + Send + Sync>;

/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 8192;
/// Time for a whole request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once.
const MAX_CONNECTIONS: usize = 64;

/// Answers until it is told to stop.
pub(super) async fn serve(listener: TcpListener, pages: Pages, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, answer(stream, &pages)).await;
            drop(slot);
        });
    }
}

async fn answer(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut chunk).await?;
        head.extend_from_slice(chunk.get(..length).unwrap_or_default());
        if length == 0 || head.len() > MAX_HEAD_BYTES {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let page = match method {
        "GET" | "HEAD" => pages(path).unwrap_or(Page { status: 404, text: "404 page not found\n".to_owned() }),
        _ => Page { status: 405, text: "405 only GET is answered\n".to_owned() },
    };
    let reason = match page.status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let mut response = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.status,
        page.text.len(),
    );
    if method != "HEAD" {
        response.push_str(&page.text);
    }
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

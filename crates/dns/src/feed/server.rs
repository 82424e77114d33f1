//! The agent's end.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_model::intent::dns::{DnsFeed, DnsIntent};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::DnsError;

/// Listens on a socket and tells whoever connects what there is to answer.
pub struct FeedServer {
    listener: UnixListener,
    path: PathBuf,
}

/// A follower that takes nothing for so long is left.
const STUCK: Duration = Duration::from_secs(30);

impl FeedServer {
    /// Makes the socket, for the owner alone (mode 0600); one left by an earlier process is replaced.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(path: &Path) -> Result<FeedServer, DnsError> {
        FeedServer::bind_with(path, 0o600)
    }

    /// As [`FeedServer::bind`], for whoever can reach the socket's directory (mode 0666): a DNS server that is not root.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind_for_all(path: &Path) -> Result<FeedServer, DnsError> {
        FeedServer::bind_with(path, 0o666)
    }

    fn bind_with(path: &Path, mode: u32) -> Result<FeedServer, DnsError> {
        let error = |source| DnsError::Feed { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(error)?;
        }
        // It takes its name only once nobody else may open it.
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        remove(&temporary).map_err(error)?;
        let listener = UnixListener::bind(&temporary).map_err(error)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(mode)).map_err(error)?;
        std::fs::rename(&temporary, path).map_err(error)?;
        Ok(FeedServer { listener, path: path.to_owned() })
    }

    /// Serves until it is told to stop, then removes the socket.
    ///
    /// The first value of `intents` is sent as it is: call this when everything has been listed once.
    pub async fn serve(self, intents: watch::Receiver<Arc<DnsIntent>>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (intents, stop) = (intents.clone(), stop.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            told = tell(stream, intents) => if let Err(error) = told {
                                tracing::debug!(%error, "a DNS server left");
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, path = %self.path.display(), "DNS feed: connection not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
        let _ = remove(&self.path);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn tell(mut stream: UnixStream, mut intents: watch::Receiver<Arc<DnsIntent>>) -> io::Result<()> {
    let mut told = Arc::clone(&intents.borrow_and_update());
    let mut revision = 1;
    send(&mut stream, &DnsFeed::Snapshot(told.snapshot(revision))).await?;
    loop {
        let changed = tokio::select! {
            changed = intents.changed() => changed,
            // The follower never speaks: what can be read is its end.
            () = left(&stream) => return Ok(()),
        };
        if changed.is_err() {
            return Ok(());
        }
        let now = Arc::clone(&intents.borrow_and_update());
        let change = told.change_to(&now, revision + 1);
        if !change.is_empty() {
            revision += 1;
            send(&mut stream, &DnsFeed::Change(change)).await?;
        }
        told = now;
    }
}

async fn left(stream: &UnixStream) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut [0; 64]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

async fn send(stream: &mut UnixStream, message: &DnsFeed) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    tokio::time::timeout(STUCK, stream.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

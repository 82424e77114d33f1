//! The loop that takes connections in, for whoever serves a listener: this server, and the door to another one.
//!
//! Invariant: when it returns, nobody listens any more and no connection that it took in is left.

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after a connection could not be accepted: out of descriptors, or a peer that left at once.
const BREATH: Duration = Duration::from_millis(50);

/// Gives each connection of the listener to `take`, until `stop`; then waits for the tasks that `take` put in the tracker it was given, which
/// must end by themselves once `stop` is called. Needs a tokio runtime.
///
/// # Errors
/// When the listener cannot be registered with the runtime.
pub async fn accept(
    listener: std::net::TcpListener,
    stop: &CancellationToken,
    mut take: impl FnMut(TcpStream, &TaskTracker),
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => take(stream, &connections),
            Err(error) => {
                tracing::warn!(%error, "connection to the API server not accepted");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}
